"""What is to be told by mail: written in the same transaction as what it tells of, published by the sweep, then deleted.

A crash between publishing and deleting tells it twice; nothing is ever told of what did not happen, or forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from chalicelib.codec import from_item, to_item
from chalicelib.core.news import Kind, News

DIGEST_AFTER = timedelta(hours=1)
_BOX = "OUTBOX"
_MOST = 100  # a pass; what is left waits for the next
_SUBJECT = 99  # less than 100 characters (SNS API reference, Publish)


def outbox_item(news: News, key: str, now: datetime) -> dict[str, Any]:
    """The item; `key` makes the same news the same item."""
    item = {"kind": news.kind.value, "subject": news.subject, "message": news.message, "at": now.isoformat()}
    return {
        "pk": _BOX,
        "sk": f"{now.isoformat()}#{key}#{news.kind.value}",
        **item,
        **({"run": news.run} if news.run else {}),
    }


class Outbox:
    def __init__(self, client: Any, table: str, sns: Any, topic_arn: str) -> None:
        """`sns` is called to get the client, when there is something to publish. Without a topic nobody is told."""
        self._client, self._table = client, table
        self._sns, self._topic = sns, topic_arn

    def deliver(self, now: datetime, digest_after: timedelta = DIGEST_AFTER) -> int:
        """Publish what is due: news that can wait goes with the next that can't, or after an hour; one mail a run then.

        Gives how many news were told.
        """
        waiting = self._waiting()
        if not waiting:
            return 0
        urgent = [item for item in waiting if not Kind(item["kind"]).digest]
        digest = [item for item in waiting if Kind(item["kind"]).digest]
        for item in urgent:
            self._publish(item["subject"], item["message"], [item])
        # Behind a full page there may be urgent news: what can wait makes room.
        full = len(waiting) == _MOST
        if not digest or not (urgent or full or datetime.fromisoformat(digest[0]["at"]) <= now - digest_after):
            return len(urgent)
        for run in dict.fromkeys(item.get("run") for item in digest):
            items = [item for item in digest if item.get("run") == run]
            subject = items[0]["subject"] if len(items) == 1 else f"Spot Relay: {run} relaunched {len(items)} times"
            self._publish(subject, "\n".join(f"{i['at'][:19]}Z  {i['message']}" for i in items), items)
        return len(waiting)

    def _waiting(self) -> list[dict[str, Any]]:
        answer = self._client.query(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues=to_item({":pk": _BOX}),
            Limit=_MOST,
        )
        return [from_item(item) for item in answer["Items"]]

    def _publish(self, subject: str, message: str, items: Sequence[dict[str, Any]]) -> None:
        if self._topic:
            told = {"kind": items[0]["kind"], "run": items[0].get("run")}
            attributes = {name: {"DataType": "String", "StringValue": v} for name, v in told.items() if v}
            self._sns().publish(
                TopicArn=self._topic, Subject=subject[:_SUBJECT], Message=message, MessageAttributes=attributes
            )
        for item in items:
            self._client.delete_item(TableName=self._table, Key=to_item({"pk": item["pk"], "sk": item["sk"]}))
