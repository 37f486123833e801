"""What was done in the account outside of any run's own life: strays ended, thresholds reached. Each is written down once,
with its news, before it is done; the list is what a person is shown.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.codec import Skip, each, moment, strict, to_item
from chalicelib.core.model import Run
from chalicelib.core.news import News
from chalicelib.ledger import Ledger
from chalicelib.outbox import outbox_item

KEPT = timedelta(days=90)


class Acts:
    def __init__(self, client: Any, table: str, ledger: Ledger, skip: Skip = strict) -> None:
        """`skip` is told of each act that can't be read."""
        self._client, self._table, self._ledger, self._skip = client, table, ledger, skip

    def record(self, what: str, news: News, now: datetime, run: Run | None = None, *, kept: timedelta = KEPT) -> bool:
        """Write it down under the name `what`, on the run's timeline too, with its news. False: it was written before.

        After `kept` it is forgotten, and would be written anew.
        """
        puts = self.writes(what, news, now, run, kept=kept)
        puts[0]["Put"]["ConditionExpression"] = "attribute_not_exists(pk)"
        try:
            self._client.transact_write_items(TransactItems=puts)
        except ClientError as error:
            if error.response["Error"]["Code"] != "TransactionCanceledException" or "ConditionalCheck" not in str(
                error
            ):
                raise
            return False
        return True

    def writes(
        self, what: str, news: News, now: datetime, run: Run | None = None, *, kept: timedelta = KEPT
    ) -> list[dict[str, Any]]:
        """What `record` writes, as items of a transaction; the same again is the same items."""
        act = {"pk": "ACTS", "sk": what, "at": now.isoformat(), "kind": news.kind.value, "message": news.message}
        expires = {"expires": int((now + kept).timestamp())}
        items = [act | expires | ({"run": news.run} if news.run else {}), outbox_item(news, what, now)]
        if run is not None:
            items.append(
                {
                    "pk": f"RUN#{run.name}",
                    "sk": f"EVENT#{run.version:08d}#{_number(what)}",
                    "at": now.isoformat(),
                    "status": run.status.value,
                    "reason": "stray",
                    "message": news.message,
                }
            )
        return [{"Put": {"TableName": self._table, "Item": to_item(item)}} for item in items]

    def recent(self, most: int = 20) -> list[dict[str, Any]]:
        """The newest first: at, kind, message, run."""
        found = sorted(each(self._ledger.query("ACTS"), _act, self._skip), key=lambda act: str(act["at"]), reverse=True)
        return found[:most]


def _act(item: dict[str, Any]) -> dict[str, Any]:
    run = item.get("run")
    at = moment(item["at"]).isoformat()
    return {"at": at, "kind": str(item["kind"]), "message": str(item["message"]), "run": str(run) if run else None}


def _number(what: str) -> str:
    """Digits for a place on the timeline, where cursors are digits; the same for the same act."""
    return f"{int.from_bytes(what.encode()[-8:], 'big') % 10**12:012d}"
