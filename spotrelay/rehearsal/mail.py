"""What the stage's topic is told, as a subscriber gets it: a queue that stands for the mailbox of whoever is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mail:
    """One notification. `kind` and `run` are its attributes, "" where it has none."""

    subject: str
    message: str
    kind: str
    run: str


class Mailbox:
    """Everything that came since it was opened is in `mails`, in the order of its coming."""

    def __init__(self, client: Callable[[str], Any], topic: str) -> None:
        """`client` makes boto3 clients; `topic` is the topic's ARN. Opens a queue of the topic's own name."""
        self._sqs = client("sqs")
        name = topic.rsplit(":", 1)[-1] + "-mail"
        queue = topic.replace(":sns:", ":sqs:").rsplit(":", 1)[0] + f":{name}"
        allowed = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue,
            "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        self._url = self._sqs.create_queue(QueueName=name, Attributes={"Policy": policy})["QueueUrl"]
        client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
        self.mails: list[Mail] = []

    def read(self) -> list[Mail]:
        """Fetch what has come, and give all there is."""
        while messages := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                self.mails.append(_mail(json.loads(message["Body"])))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return self.mails

    def wait(self, enough: Callable[[list[Mail]], bool], patience_s: float) -> list[Mail]:
        """Read until it is enough, or patience has ended."""
        until = time.monotonic() + patience_s
        while not enough(self.read()) and time.monotonic() < until:
            time.sleep(0.1)
        return self.mails


def _mail(note: dict[str, Any]) -> Mail:
    attributes = {name: each["Value"] for name, each in note.get("MessageAttributes", {}).items()}
    return Mail(
        note.get("Subject") or "", note.get("Message") or "", attributes.get("kind", ""), attributes.get("run", "")
    )
