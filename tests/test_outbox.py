"""Mail: what is urgent is told at once, relaunches in a digest, nothing is forgotten and nothing told of what was not."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from chalicelib.codec import to_item
from chalicelib.core.news import Kind, News
from chalicelib.outbox import Outbox, outbox_item
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.core_world import START
from tests.hooks import answers, aws, lose_answer

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Post:
    """A topic whose mail ends up in a queue, and the box before it."""

    def __init__(self, store: Store) -> None:
        self.db, self.sns, self.sqs = store._client, aws("sns"), aws("sqs")
        topic = self.sns.create_topic(Name="relay")["TopicArn"]
        self.queue = self.sqs.create_queue(QueueName="mail")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        self.box = Outbox(self.db, TABLE, lambda: self.sns, topic)

    def put(self, kind: Kind, message: str, at: datetime = START, run: str | None = "run-a", subject: str = "") -> None:
        item = outbox_item(News(kind, subject or f"Spot Relay: {message}", message, run), message, at)
        self.db.put_item(TableName=TABLE, Item=to_item(item))

    def mail(self) -> list[dict[str, Any]]:
        """What has arrived since the last look, in order."""
        found = []
        while more := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for each in more:
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=each["ReceiptHandle"])
                found.append(json.loads(each["Body"]))
        return found

    def messages(self) -> list[str]:
        return [each["Message"] for each in self.mail()]

    def waiting(self) -> int:
        return len(list(self.box._waiting()))


@pytest.fixture
def post(store: Store) -> Post:
    return Post(store)


def test_an_empty_box_publishes_nothing(post: Post) -> None:
    seen = answers(post.sns, "Publish")
    assert (post.box.deliver(START), seen) == (0, [])


@pytest.mark.parametrize("kind", [kind for kind in Kind if not kind.digest])
def test_what_is_urgent_is_told_at_once_and_once(post: Post, kind: Kind) -> None:
    post.put(kind, "It happened.")
    assert post.box.deliver(START) == 1
    [mail] = post.mail()
    assert (mail["Subject"], mail["Message"]) == ("Spot Relay: It happened.", "It happened.")
    assert {name: a["Value"] for name, a in mail["MessageAttributes"].items()} == {"kind": kind.value, "run": "run-a"}
    assert (post.box.deliver(START + HOUR), post.mail()) == (0, [])


def test_news_is_told_in_the_order_it_happened(post: Post) -> None:
    for minutes in (3, 1, 2):
        post.put(Kind.FAILED, str(minutes), START + minutes * MINUTE)
    post.box.deliver(START + HOUR)
    assert post.messages() == ["1", "2", "3"]


def test_relaunches_of_a_run_wait_an_hour_and_come_together(post: Post) -> None:
    for minutes in (0, 30):
        post.put(Kind.RELAUNCHED, f"at {minutes}", START + minutes * MINUTE, run="run-a")
    assert post.box.deliver(START + 59 * MINUTE) == 0
    assert post.box.deliver(START + HOUR) == 2
    [mail] = post.mail()
    assert mail["Subject"] == "Spot Relay: run-a relaunched 2 times"
    assert mail["Message"] == "2026-11-20T10:00:00Z  at 0\n2026-11-20T10:30:00Z  at 30"
    assert set(mail["MessageAttributes"]) == {"kind", "run"}
    assert post.waiting() == 0


def test_relaunches_go_with_the_next_urgent_news(post: Post) -> None:
    post.put(Kind.RELAUNCHED, "again")
    post.put(Kind.SUCCEEDED, "done", START + MINUTE)
    assert post.box.deliver(START + MINUTE) == 2
    assert post.messages() == ["done", "2026-11-20T10:00:00Z  again"]


def test_a_flood_of_relaunches_keeps_urgent_news_waiting_one_pass_at_most(post: Post) -> None:
    for n in range(105):
        post.put(Kind.RELAUNCHED, f"{n:03d}", START + timedelta(seconds=n))
    post.put(Kind.FAILED, "failed", START + timedelta(seconds=200))
    now = START + timedelta(seconds=240)
    post.box.deliver(now)
    post.box.deliver(now + MINUTE)
    assert "failed" in post.messages()
    assert post.waiting() == 0


def test_news_is_not_lost_when_its_publication_fails(post: Post) -> None:
    post.put(Kind.FAILED, "failed")
    answers(post.sns, "Publish", "InternalErrorException")
    with pytest.raises(ClientError):
        post.box.deliver(START)
    assert post.box.deliver(START + MINUTE) == 1
    assert post.messages() == ["failed"]


def test_a_crash_between_publishing_and_deleting_tells_it_twice_not_never(post: Post) -> None:
    post.put(Kind.FAILED, "one")
    post.put(Kind.FAILED, "two", START + MINUTE)
    answers(post.db, "DeleteItem", "InternalServerError")
    with pytest.raises(ClientError):
        post.box.deliver(START + MINUTE)
    post.box.deliver(START + 2 * MINUTE)
    assert sorted(post.messages()) == ["one", "one", "two"]


def test_a_lost_answer_of_the_deletion_tells_it_once(post: Post) -> None:
    post.put(Kind.FAILED, "one")
    lose_answer(post.db, "DeleteItem")
    with pytest.raises(ReadTimeoutError):
        post.box.deliver(START)
    assert post.box.deliver(START + MINUTE) == 0
    assert post.messages() == ["one"]


def test_without_a_topic_nobody_is_told_and_the_box_is_emptied(post: Post, store: Store) -> None:
    post.put(Kind.FAILED, "one")

    def none() -> Any:
        raise AssertionError("SNS must not be asked")

    assert Outbox(post.db, TABLE, none, "").deliver(START) == 1
    assert post.waiting() == 0


def test_a_subject_is_cut_to_what_sns_takes(post: Post) -> None:
    post.put(Kind.FAILED, "long", subject="x" * 300)
    post.box.deliver(START)
    [mail] = post.mail()
    assert len(mail["Subject"]) == 99  # "less than 100 characters" (SNS API reference, Publish)
