"""Who else is told of a run: the addresses in its spec, subscribed to the topic for that run's news only.

SNS asks each address once for its consent. Asked again for the same run, nothing changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from botocore.exceptions import ClientError

_MOST_RUNS = 100  # in one filter; SNS takes 150 values


def subscribe(sns: Any, topic_arn: str, run: str, addresses: Iterable[str]) -> None:
    """Have each address told of the run. One that is subscribed to everything stays so."""
    known = _subscribed(sns, topic_arn)
    for address in addresses:
        if address not in known:
            _ask(sns, topic_arn, run, address)
        elif known[address].startswith("arn:"):
            _add(sns, known[address], run)


def _subscribed(sns: Any, topic_arn: str) -> dict[str, str]:
    """ARN by address; an address that has not consented yet has none, only a word."""
    pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic_arn)
    return {s["Endpoint"]: s["SubscriptionArn"] for page in pages for s in page["Subscriptions"]}


def _ask(sns: Any, topic_arn: str, run: str, address: str) -> None:
    try:
        sns.subscribe(
            TopicArn=topic_arn, Protocol="email", Endpoint=address, Attributes={"FilterPolicy": _filter([run])}
        )
    except ClientError as error:
        # "Subscription already exists with different attributes" (SNS API reference): somebody was first.
        if error.response["Error"]["Code"] not in ("InvalidParameter", "InvalidParameterException"):
            raise


def _add(sns: Any, arn: str, run: str) -> None:
    held = sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"].get("FilterPolicy")
    runs = json.loads(held).get("run", []) if held else None
    if runs is None or run in runs:
        return
    policy = _filter([*runs, run][-_MOST_RUNS:])
    sns.set_subscription_attributes(SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=policy)


def _filter(runs: list[str]) -> str:
    return json.dumps({"run": runs})
