"""AWS's events to ours. What is not in the table is nothing to us; what is malformed is permanent and never retried.

In: an EventBridge event as a dict. Out: one of our events, or None. Identify by `detail`: the ARN of a warning
carries a zone where the region should be, and no account.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from chalicelib.core.events import InstanceState, Warned

_INSTANCE = re.compile(r"i-[0-9a-f]{1,64}")


class Malformed(Exception):
    """An event of a kind we know without the fields it must have."""


def _warned(event: dict[str, Any], notice: timedelta) -> Warned:
    return Warned(_instance(event), _time(event) + notice)


def _state(event: dict[str, Any], notice: timedelta) -> InstanceState:
    state = event["detail"]["state"]
    if not isinstance(state, str):
        raise TypeError(f"detail.state is {state!r}")
    return InstanceState(_instance(event), state)


def _instance(event: dict[str, Any]) -> str:
    instance = event["detail"]["instance-id"]
    if not isinstance(instance, str) or not _INSTANCE.fullmatch(instance):
        raise ValueError(f"detail.instance-id is {instance!r}")
    return instance


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).astimezone(UTC)


_PARSERS: dict[tuple[str, str], Callable[[dict[str, Any], timedelta], Warned | InstanceState]] = {
    ("aws.ec2", "EC2 Spot Instance Interruption Warning"): _warned,
    ("aws.ec2", "EC2 Instance State-change Notification"): _state,
}


def parse(event: dict[str, Any], notice: timedelta) -> Warned | InstanceState | None:
    """Our event for this one, None when it is of a kind we do not know. Raises Malformed."""
    parser = _PARSERS.get((str(event.get("source")), str(event.get("detail-type"))))
    if parser is None:
        return None
    try:
        return parser(event, notice)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"{event.get('detail-type')}: {error}") from error
