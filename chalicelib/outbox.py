"""What is to be told by mail: written in the same transaction as what it tells of, published by the sweep, then deleted.

A crash between publishing and deleting tells it twice; nothing is ever told of what did not happen, or forgotten. One
that can't be read or told keeps no other back: it stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.codec import Skip, Unreadable, each, from_item, moment, strict, to_item
from chalicelib.core.news import Kind, News

DIGEST_AFTER = timedelta(hours=1)
_BOX = "OUTBOX"
_NEVER = ("InvalidParameter", "InvalidParameterValue")  # the message itself is wrong (SNS API reference, Publish)
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
    def __init__(self, client: Any, table: str, sns: Any, topic_arn: str, skip: Skip = strict) -> None:
        """`sns` is called to get the client, when there is something to publish. Without a topic nobody is told. `skip` is
        told of each that can't be read, or that SNS will never take.
        """
        self._client, self._table = client, table
        self._sns, self._topic, self._skip = sns, topic_arn, skip

    def deliver(self, now: datetime, digest_after: timedelta = DIGEST_AFTER) -> int:
        """Publish what is due: news that can wait goes with the next that can't, or after an hour; one mail a run then.

        Gives how many news were told. One that fails keeps no other from being told; its error rises at the end.
        """
        waiting = list(islice(each(self._waiting(), _news, self._skip), _MOST))
        urgent = [item for item in waiting if not Kind(item["kind"]).digest]
        digest = [item for item in waiting if Kind(item["kind"]).digest]
        mails = [(item["subject"], item["message"], [item]) for item in urgent]
        # Behind a full page there may be urgent news: what can wait makes room.
        full = len(waiting) == _MOST
        if digest and (urgent or full or moment(digest[0]["at"]) <= now - digest_after):
            for run in dict.fromkeys(item.get("run") for item in digest):
                items = [item for item in digest if item.get("run") == run]
                subject = items[0]["subject"] if len(items) == 1 else f"Spot Relay: {run} relaunched {len(items)} times"
                mails.append((subject, "\n".join(f"{i['at'][:19]}Z  {i['message']}" for i in items), items))
        told = 0
        failed: Exception | None = None
        for subject, message, items in mails:
            try:
                told += self._publish(subject, message, items)
            except Exception as error:
                failed = failed or error
        if failed:
            raise failed
        return told

    def _waiting(self) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues=to_item({":pk": _BOX}),
            PaginationConfig={"PageSize": _MOST},
        )
        return (from_item(item) for page in pages for item in page["Items"])

    def _publish(self, subject: str, message: str, items: Sequence[dict[str, Any]]) -> int:
        """How many were told: all of these, or none when SNS will never take them."""
        if self._topic:
            told = {"kind": items[0]["kind"], "run": items[0].get("run")}
            attributes = {name: {"DataType": "String", "StringValue": v} for name, v in told.items() if v}
            try:
                self._sns().publish(
                    TopicArn=self._topic, Subject=subject[:_SUBJECT], Message=message, MessageAttributes=attributes
                )
            except ClientError as error:
                if error.response["Error"]["Code"] not in _NEVER:
                    raise
                for item in items:
                    self._skip(Unreadable(f"{item['pk']} / {item['sk']}", f"SNS refuses it: {error}"))
                return 0
        for item in items:
            self._client.delete_item(TableName=self._table, Key=to_item({"pk": item["pk"], "sk": item["sk"]}))
        return len(items)


def _news(item: dict[str, Any]) -> dict[str, Any]:
    """Raises for what is no news: a kind that nobody knows, text that is none."""
    Kind(item["kind"])
    moment(item["at"])
    for name in ("subject", "message"):
        if not isinstance(item[name], str):
            raise TypeError(f"{name} is {item[name]!r}, and must be text")
    if not isinstance(item.get("run", ""), str):
        raise TypeError(f"run is {item['run']!r}, and must be text")
    return item
