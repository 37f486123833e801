"""Measures the bucket and keeps its part of the ledger. What old versions weigh counts as well: AWS charges them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from dacite import from_dict

from chalicelib.codec import CONFIG, Skip, Unreadable, plain, reading, strict, to_item
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Policy
from chalicelib.core.money import ZERO
from chalicelib.core.storage import Stored, due, measured, within
from chalicelib.ledger import Ledger

_PAGES = 100  # of 1,000 versions each, in one pass; a larger bucket is measured over several
_UPLOADS = 1000  # unfinished ones whose parts are looked at; the bucket's lifecycle ends each after a day


@dataclass(frozen=True)
class _Scan:
    """A measurement under way: where to go on, and what was counted until there."""

    key: str = ""
    version: str = ""
    size: int = 0
    seq: int = 0


class Storage:
    def __init__(
        self, ledger: Ledger, client: Any, table: str, s3: Callable[[], Any], bucket: str, skip: Skip = strict
    ) -> None:
        """`skip` is told of a measurement under way that can't be read."""
        self._skip = skip
        self._ledger, self._client, self._table = ledger, client, table
        self._s3, self._bucket = s3, bucket

    def stored(self) -> Stored | None:
        """The newest account there is. Raises Unreadable: what it holds of the month's money stays as it is."""
        item = self._ledger.get("STORAGE", "NEWEST")
        with reading("STORAGE", "NEWEST"):
            return from_dict(Stored, item["stored"], CONFIG) if item else None

    def keep(self, now: datetime, live: int, policy: Policy) -> Stored | None:
        """Measure when it is time and write what it costs. Gives the account when it was written, else None."""
        before = self.stored()
        if before is not None and not due(before, now, live, policy):
            return None
        size = self._measure()
        if size is None:
            return None  # the next pass goes on
        wanted = measured(before, size, live, now, policy)
        self._ledger.open([account.month for account in wanted])
        accounts = [within(before, account, self._ledger.month(account.month)["free"]) for account in wanted]
        try:
            self._save(before, accounts)
        except self._client.exceptions.TransactionCanceledException:
            return None  # the money went elsewhere meanwhile, or another pass was first: measured again in a minute
        return accounts[-1]

    def _measure(self) -> int | None:
        item = self._ledger.get("STORAGE", "SCAN")
        scan = self._scan(item)
        markers: dict[str, str] = {}
        if scan.key:
            markers = {"KeyMarker": scan.key, "VersionIdMarker": scan.version}
        size = scan.size
        for _ in range(_PAGES):
            page = self._s3().list_object_versions(Bucket=self._bucket, **{k: v for k, v in markers.items() if v})
            size += sum(int(each["Size"]) for each in page.get("Versions", []))
            if not page.get("IsTruncated"):
                if item:
                    self._client.delete_item(TableName=self._table, Key=to_item({"pk": "STORAGE", "sk": "SCAN"}))
                return size + self._unfinished()
            markers = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}
        reached = _Scan(markers["KeyMarker"], markers["VersionIdMarker"], size, scan.seq + 1)
        put = {"pk": "STORAGE", "sk": "SCAN", "scan": plain(reached)}
        self._client.put_item(TableName=self._table, Item=to_item(put))
        return None

    def _scan(self, item: dict[str, Any] | None) -> _Scan:
        """Where the measurement under way is; one that can't be read begins anew."""
        try:
            with reading("STORAGE", "SCAN"):
                return from_dict(_Scan, item["scan"], CONFIG) if item else _Scan()
        except Unreadable as error:
            self._skip(error)
            return _Scan()

    def _unfinished(self) -> int:
        """Bytes of uploads that were begun and not completed: they are charged, and no list of objects has them."""
        s3, size = self._s3(), 0
        uploads = s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, PaginationConfig={"MaxItems": _UPLOADS}
        )
        for upload in (each for page in uploads for each in page.get("Uploads", [])):
            named = {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            try:
                pages = list(s3.get_paginator("list_parts").paginate(**named))
            except s3.exceptions.NoSuchUpload:
                continue  # completed meanwhile
            size += sum(int(part["Size"]) for page in pages for part in page.get("Parts", []))
        return size

    def _save(self, before: Stored | None, accounts: list[Stored]) -> None:
        """Each account's month moves with it, on condition that nobody else has measured since."""
        newest = {"pk": "STORAGE", "sk": "NEWEST", "stored": plain(accounts[-1])}
        put: dict[str, Any] = {"TableName": self._table, "Item": to_item(newest)}
        if before is None:
            put["ConditionExpression"] = "attribute_not_exists(pk)"
        else:
            put["ConditionExpression"] = "#stored.seq = :seq AND #stored.#month = :month"
            put["ExpressionAttributeNames"] = {"#stored": "stored", "#month": "month"}  # both are reserved words
            put["ExpressionAttributeValues"] = to_item({":seq": before.seq, ":month": before.month})
        moves = []
        for account in accounts:
            same = before is not None and before.month == account.month
            reserved = account.reserved - (before.reserved if same and before else ZERO)
            settled = account.settled - (before.settled if same and before else ZERO)
            moves.append(self._ledger.moved(account.month, reserved, settled))
        self._client.transact_write_items(TransactItems=[{"Put": put}, *moves])
