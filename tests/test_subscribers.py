"""The addresses of a spec hear of their run, once, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.subscribers import subscribe

ME = "me@example.com"


@pytest.fixture
def sns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        yield boto3.client("sns", region_name="us-east-1")


def filters(sns: Any, topic: str) -> list[Any]:
    found = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    held = (sns.get_subscription_attributes(SubscriptionArn=s["SubscriptionArn"])["Attributes"] for s in found)
    return [json.loads(each["FilterPolicy"]) if "FilterPolicy" in each else None for each in held]


def test_an_address_hears_of_its_runs_only_and_asking_again_changes_nothing(sns: Any) -> None:
    topic = sns.create_topic(Name="t")["TopicArn"]
    for run in ("a", "b", "b"):
        subscribe(sns, topic, run, [ME])
    assert filters(sns, topic) == [{"run": ["a", "b"]}]


def test_who_hears_everything_goes_on_hearing_everything(sns: Any) -> None:
    topic = sns.create_topic(Name="t")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="email", Endpoint=ME)
    subscribe(sns, topic, "a", [ME])
    assert filters(sns, topic) == [None]
