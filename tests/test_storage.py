"""I3 for the bucket: what is stored is reserved until the month ends, settled by the day, and never beyond it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib import storage as adapter
from chalicelib.core.money import ZERO, up
from chalicelib.core.storage import Stored, due, measured, within
from chalicelib.storage import Storage
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.core_world import POLICY, START
from tests.hooks import answers, aws, cancelled

GB = 10**9
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
FIRST = datetime(2026, 11, 1, 12, tzinfo=UTC)
RATE = POLICY.storage_usd_gb_month
BUCKET = "relay-test"


def look(before: Stored | None, gb: int, now: datetime, live: int = 0) -> Stored:
    return measured(before, gb * GB, live, now, POLICY)[-1]


# -- pure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("day", "share"), [(1, 30), (16, 15), (30, 1)])
def test_what_is_found_is_reserved_until_the_month_ends(day: int, share: int) -> None:
    found = look(None, 30, FIRST.replace(day=day))
    assert (found.reserved, found.settled, found.days) == (RATE * share, 0, 30)


def test_each_day_is_settled_at_the_most_that_was_seen_in_it() -> None:
    one = look(None, 30, FIRST)
    one = look(one, 60, FIRST + HOUR)
    one = look(one, 10, FIRST + 2 * HOUR)
    assert (one.settled, one.reserved) == (0, 60 * RATE)
    two = look(one, 10, FIRST + DAY)
    assert two.settled == 2 * RATE
    assert two.reserved == pytest.approx(10 * RATE * 29 / 30, abs=Decimal("0.000001"))


def test_days_that_nobody_saw_are_settled_at_the_most_that_can_have_been_there() -> None:
    """What was found after an outage may have been there since its first hour."""
    one = look(None, 30, FIRST)
    assert look(one, 60, FIRST + 4 * DAY).settled == 60 * RATE * 4 / 30
    assert look(one, 10, FIRST + 4 * DAY).settled == 30 * RATE * 4 / 30


def test_headroom_is_reserved_and_not_settled() -> None:
    one = look(None, 30, FIRST, live=30)
    assert one.reserved == 60 * RATE
    two = look(one, 30, FIRST + DAY)
    assert (two.settled, two.reserved) == (RATE, 30 * RATE * 29 / 30)


def test_a_month_that_turned_is_closed_and_the_next_begins() -> None:
    last = look(None, 30, FIRST.replace(day=29))
    closed, fresh = measured(last, 30 * GB, 0, datetime(2026, 12, 3, tzinfo=UTC), POLICY)
    assert (closed.month, closed.reserved, closed.settled) == ("2026-11", 0, 2 * RATE)
    assert (fresh.month, fresh.day, fresh.seq) == ("2026-12", 3, 1)
    assert fresh.settled == pytest.approx(30 * RATE * 2 / 31, abs=Decimal("0.000001"))
    assert fresh.reserved == pytest.approx(30 * RATE * 29 / 31, abs=Decimal("0.000001"))


def test_months_in_which_nobody_looked_are_paid_for_each() -> None:
    last = look(None, 30, FIRST.replace(day=29))
    accounts = measured(last, 60 * GB, 0, datetime(2027, 2, 1, tzinfo=UTC), POLICY)
    assert [(a.month, a.settled, a.day) for a in accounts] == [
        ("2026-11", 2 * 60 * RATE / 30, 31),
        ("2026-12", 60 * RATE, 32),
        ("2027-01", 60 * RATE, 32),
        ("2027-02", 0, 1),
    ]
    assert accounts[-1].reserved == 60 * RATE


def test_a_calendar_that_went_back_gives_back_what_the_later_month_had_reserved() -> None:
    later = look(None, 30, datetime(2026, 12, 1, tzinfo=UTC))
    closed, fresh = measured(later, 30 * GB, 0, FIRST.replace(day=16), POLICY)
    assert (closed.month, closed.reserved, closed.settled) == ("2026-12", 0, 0)
    assert (fresh.month, fresh.seq, fresh.reserved) == ("2026-11", 1, 15 * RATE)


def test_what_the_month_has_no_money_for_is_owed_and_settled_before_anything_else() -> None:
    one = within(None, look(None, 300, FIRST), Decimal(1))
    assert (one.reserved, one.short, one.owed) == (1, 300 * RATE - 1, 0)
    late = FIRST + 9 * DAY
    two = within(one, look(one, 300, late), ZERO)
    assert (two.settled, two.reserved, two.owed) == (1, 0, 90 * RATE - 1)
    three = within(two, look(two, 300, late + HOUR), Decimal(20))
    assert (three.settled, three.reserved, three.gap) == (90 * RATE, 210 * RATE, 0)


def test_what_runs_add_quickly_is_reserved_ahead_and_measured_more_often() -> None:
    one = look(None, 30, FIRST, live=1)
    assert (one.headroom, due(one, FIRST + 59 * MINUTE, 1, POLICY)) == (GB, False)
    two = look(one, 40, FIRST + HOUR, live=1)
    assert two.headroom == 20 * GB
    assert due(two, FIRST + HOUR + 10 * MINUTE, 1, POLICY)
    three = look(two, 40, FIRST + HOUR + 10 * MINUTE, live=1)
    assert not due(three, FIRST + HOUR + 20 * MINUTE, 1, POLICY)


def test_without_money_what_fits_is_reserved_and_it_goes_to_what_is_stored_first() -> None:
    one = within(None, look(None, 300, FIRST), Decimal("0.5"))
    assert one.reserved == Decimal("0.5")
    two = within(one, look(one, 300, FIRST + DAY), ZERO)
    assert (two.settled, two.reserved) == (10 * RATE, Decimal("0.5") - 10 * RATE)
    assert two.gap == 300 * RATE - Decimal("0.5")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 400 * GB),
            st.integers(0, 3),
            st.timedeltas(MINUTE, timedelta(days=9)),
            st.decimals("0", "3", places=6),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 400),
)
def test_no_month_ever_holds_more_than_was_free_for_it(
    looks: list[tuple[int, int, timedelta, Decimal]], begins: int
) -> None:
    """Every measurement moves at most what is free in its month; one that closes a month only gives back."""
    now, before = FIRST.replace(month=2) + timedelta(days=begins), None
    for size, live, gap, free in looks:
        now += gap
        for wanted in measured(before, size, live, now, POLICY):
            after = within(before, wanted, free)
            same = before is not None and before.month == after.month
            held = before.reserved + before.settled if same and before else ZERO
            assert after.reserved >= 0
            assert after.reserved + after.settled - held <= free
            assert not same or after.settled >= (before.settled if before else ZERO)
            assert after.settled + after.reserved + after.gap == wanted.settled + wanted.reserved
            last = after
        before = last


# -- the bucket and the table ----------------------------------------------------------------------------------------


class Kept:
    def __init__(self, store: Store) -> None:
        self.store, self.s3 = store, aws("s3")
        self.s3.create_bucket(Bucket=BUCKET)
        self.storage = Storage(store.ledger, store._client, TABLE, lambda: self.s3, BUCKET)
        store.ledger.open(["2026-11", "2026-12"])

    def keep(self, now: datetime = START, live: int = 0) -> bool:
        """Whether it was measured and written."""
        return self.storage.keep(now, live, POLICY) is not None

    def sized(self, size: int) -> list[dict[str, Any]]:
        """The bucket says it holds so many bytes."""
        page = {"Versions": [{"Key": "a", "Size": size}], "IsTruncated": False}
        return answers(self.s3, "ListObjectVersions", page, always=True)

    @property
    def stored(self) -> Stored:
        found = self.storage.stored()
        assert found
        return found

    def account(self, month: str = "2026-11") -> tuple[Decimal, Decimal]:
        account = self.store.ledger.month(month)
        assert account["free"] == account["limit"] - account["reserved"] - account["settled"] >= 0
        return account["reserved"], account["settled"]


@pytest.fixture
def kept(store: Store) -> Kept:
    return Kept(store)


def test_old_versions_weigh_and_delete_markers_do_not(kept: Kept) -> None:
    kept.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    for size in (100, 30):
        kept.s3.put_object(Bucket=BUCKET, Key="a", Body=b"x" * size)
    kept.s3.put_object(Bucket=BUCKET, Key="b", Body=b"x" * 7)
    kept.s3.delete_object(Bucket=BUCKET, Key="b")
    assert kept.keep()
    assert kept.stored.most == 137


def test_uploads_that_were_begun_and_not_completed_weigh_as_well(kept: Kept) -> None:
    kept.s3.put_object(Bucket=BUCKET, Key="a", Body=b"x" * 100)
    begun = kept.s3.create_multipart_upload(Bucket=BUCKET, Key="b")
    for number in (1, 2):
        kept.s3.upload_part(Bucket=BUCKET, Key="b", UploadId=begun["UploadId"], PartNumber=number, Body=b"x" * 10)
    assert kept.keep()
    assert kept.stored.most == 120


def test_a_month_that_was_never_opened_is_paid_for_after_an_outage(kept: Kept) -> None:
    kept.sized(300 * GB)
    kept.keep(START)
    kept.keep(START + 75 * DAY)
    assert kept.account("2026-12") == kept.account("2027-01") == (0, 300 * RATE)
    assert kept.account("2027-02")[1] > 0


def test_a_bucket_too_large_for_one_pass_is_measured_over_several(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_PAGES", 2)
    for n in range(10):
        kept.s3.put_object(Bucket=BUCKET, Key=f"{n}", Body=b"x" * (n + 1))
    small = answers(kept.s3, "ListObjectVersions", None, always=True)
    kept.s3.meta.events.register("provide-client-params.s3.ListObjectVersions", _three_a_page)
    assert [kept.keep(START + n * MINUTE) for n in range(3)] == [False, True, False]
    assert (kept.stored.most, len(small)) == (55, 4)
    assert kept.store.ledger.get("STORAGE", "SCAN") is None


def _three_a_page(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    return {**params, "MaxKeys": 3}


DUE = [
    ("nothing lives: each day", 0, [(HOUR, False), (5 * HOUR, False), (13 * HOUR, True)]),  # over midnight
    ("a run lives: each hour", 1, [(59 * MINUTE, False), (2 * MINUTE, True), (59 * MINUTE, False), (MINUTE, True)]),
]


@pytest.mark.parametrize(("live", "steps"), [d[1:] for d in DUE], ids=[d[0] for d in DUE])
def test_it_is_measured_when_it_is_time(kept: Kept, live: int, steps: list[tuple[timedelta, bool]]) -> None:
    kept.sized(GB)
    now = START
    assert kept.keep(now, live)
    for gap, looks in steps:
        now += gap
        assert kept.keep(now, live) is looks


def test_the_months_account_moves_with_it(kept: Kept) -> None:
    kept.sized(300 * GB)
    kept.keep(START, live=2)
    assert kept.account() == (kept.stored.reserved, 0)
    kept.keep(START + DAY)
    assert kept.account() == (kept.stored.reserved, kept.stored.settled)
    kept.keep(START + 12 * DAY)
    assert kept.account() == (0, 11 * 10 * RATE)
    assert kept.account("2026-12") == (kept.stored.reserved, up(300 * RATE / 31))


def test_headroom_is_free_again_when_nothing_lives_any_more(kept: Kept) -> None:
    kept.sized(0)
    kept.keep(START, live=2)
    assert kept.account()[0] > 0
    assert kept.keep(START + MINUTE, live=0)
    assert kept.account() == (0, 0)


def test_without_money_what_fits_is_reserved(kept: Kept) -> None:
    kept.store.ledger.set_limit(Decimal("0.25"), ["2026-11", "2026-12"], START)
    kept.sized(900 * GB)
    assert kept.keep()
    assert kept.account() == (Decimal("0.25"), 0)
    kept.keep(START + DAY)
    assert kept.account() == (0, Decimal("0.25"))


@pytest.mark.parametrize("first", [True, False])
def test_of_two_passes_one_writes_and_money_that_went_elsewhere_is_not_spent_twice(kept: Kept, first: bool) -> None:
    kept.sized(300 * GB)
    if not first:
        kept.keep(START)
    now = START if first else START + DAY
    before, other = kept.storage.stored(), Storage(kept.store.ledger, aws("dynamodb"), TABLE, lambda: kept.s3, BUCKET)
    accounts = list(measured(before, 300 * GB, 0, now, POLICY))
    other._save(before, accounts)
    held = kept.account()
    with pytest.raises(kept.store._client.exceptions.TransactionCanceledException):
        kept.storage._save(before, [*accounts[:-1], replace(accounts[-1], reserved=ZERO)])
    assert kept.account() == held


def test_a_cancelled_write_is_measured_again_and_a_throttle_rises(kept: Kept) -> None:
    kept.sized(GB)
    answers(
        kept.store._client, "TransactWriteItems", cancelled("None", "ConditionalCheckFailed"), "ThrottlingException"
    )
    assert not kept.keep()
    with pytest.raises(Exception, match="ThrottlingException"):
        kept.keep(START + MINUTE)
    assert kept.account() == (0, 0)
    assert kept.keep(START + 2 * MINUTE)
