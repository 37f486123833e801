"""Which AWS events mean something to us."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chalicelib.core.events import InstanceState, Warned
from chalicelib.parse import Malformed, parse

NOTICE = timedelta(minutes=2)
WARNING = "EC2 Spot Instance Interruption Warning"
STATE = "EC2 Instance State-change Notification"


def event(kind: str, detail: Any, **changes: Any) -> dict[str, Any]:
    return {"source": "aws.ec2", "detail-type": kind, "time": "2026-11-20T10:11:12Z", "detail": detail, **changes}


def test_a_warning_says_when_the_instance_goes() -> None:
    found = parse(event(WARNING, {"instance-id": "i-0b66", "instance-action": "terminate"}), NOTICE)
    assert found == Warned("i-0b66", datetime(2026, 11, 20, 10, 13, 12, tzinfo=UTC))


def test_a_state_change_carries_ec2s_own_word() -> None:
    assert parse(event(STATE, {"instance-id": "i-0b66", "state": "terminated"}), NOTICE) == InstanceState(
        "i-0b66", "terminated"
    )


@pytest.mark.parametrize(
    "unknown",
    [
        {},
        event("EC2 Instance Rebalance Recommendation", {"instance-id": "i-0b66"}),
        event(WARNING, {"instance-id": "i-0b66"}, source="my.app"),
    ],
)
def test_what_we_do_not_know_is_nothing(unknown: dict[str, Any]) -> None:
    assert parse(unknown, NOTICE) is None


@pytest.mark.parametrize(
    "broken",
    [
        event(WARNING, {}),
        event(WARNING, None),
        event(WARNING, {"instance-id": 7}),
        event(WARNING, {"instance-id": "i-1"}, time="yesterday"),
        event(STATE, {"instance-id": "i-1"}),
        event(STATE, {"instance-id": "i-1", "state": None}),
    ],
)
def test_a_known_kind_without_its_fields_is_malformed(broken: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        parse(broken, NOTICE)
