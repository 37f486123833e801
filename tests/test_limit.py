"""I3 when the limit is set: never below what is held, and never past a reservation that comes at the same moment."""

from __future__ import annotations

from decimal import Decimal

import pytest
from botocore.exceptions import ClientError

from chalicelib.core.model import Run
from chalicelib.core.money import ZERO
from chalicelib.ledger import LimitTooLow
from chalicelib.store import OverLimit, Store
from tests.conftest import TABLE
from tests.core_world import START
from tests.hooks import answers, cancelled
from tests.test_ledger import MONTH, NEXT, leased, run, save, sums

__all__ = ["run"]  # the fixture


@pytest.mark.parametrize("usd", ["30", "20", "0.5"])
def test_a_limit_is_set_for_these_months_and_all_to_come(store: Store, run: Run, usd: str) -> None:
    held = save(store, run, leased(run)).attempts[0].reserved
    store.ledger.open([MONTH, NEXT])
    store.ledger.set_limit(Decimal(usd), [MONTH, NEXT], START)
    for month, reserved in ((MONTH, held), (NEXT, ZERO), ("2027-01", ZERO)):
        account = Store(store._client, TABLE, Decimal(20)).ledger.month(month)
        assert (account["limit"], account["free"]) == (Decimal(usd), Decimal(usd) - reserved)
    store.ledger.open(["2027-01"])
    assert store.ledger.month("2027-01")["free"] == Decimal(usd)


def test_a_limit_is_set_down_to_what_is_held_and_no_further(store: Store, run: Run) -> None:
    held = save(store, run, leased(run)).attempts[0].reserved
    store.ledger.open([MONTH, NEXT])
    with pytest.raises(LimitTooLow) as low:
        store.ledger.set_limit(held - Decimal("0.000001"), [MONTH, NEXT], START)
    assert (low.value.month, low.value.account["reserved"]) == (MONTH, held)
    assert store.ledger.limit() == 20
    store.ledger.set_limit(held, [MONTH, NEXT], START)
    assert sums(store)[2] == 0


def test_a_reservation_that_comes_first_is_seen_by_the_limit(store: Store, run: Run) -> None:
    """Between the look at the account and the write, the money is reserved: the lower limit is refused, not broken."""
    store.ledger.open([MONTH])
    other = Store(store._client, TABLE, Decimal(20))
    raced: list[int] = []

    def reserve() -> None:
        if not raced:
            raced.append(1)
            save(other, run, leased(run))

    answers(store._client, "TransactWriteItems", reserve)
    with pytest.raises(LimitTooLow):
        store.ledger.set_limit(Decimal("0.1"), [MONTH], START)
    assert sums(store)[0] > 0


def test_a_limit_that_comes_first_is_seen_by_the_reservation(store: Store, run: Run) -> None:
    store.ledger.open([MONTH])
    lowered = Store(store._client, TABLE, Decimal(20)).ledger
    done: list[int] = []

    def lower() -> None:
        if not done:
            done.append(1)
            lowered.set_limit(Decimal("0.1"), [MONTH], START)

    answers(store._client, "TransactWriteItems", lower)
    with pytest.raises(OverLimit, match="month"):
        save(store, run, leased(run))
    assert sums(store) == (0, 0, Decimal("0.1"))


def test_a_limit_that_meets_a_change_each_time_says_so(store: Store) -> None:
    store.ledger.open([MONTH])
    answers(store._client, "TransactWriteItems", cancelled("None", "ConditionalCheckFailed"), always=True)
    with pytest.raises(TimeoutError, match="Try again"):
        store.ledger.set_limit(Decimal(30), [MONTH], START)


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalServerError"])
def test_a_throttled_limit_rises(store: Store, code: str) -> None:
    store.ledger.open([MONTH])
    answers(store._client, "TransactWriteItems", code)
    with pytest.raises(ClientError, match=code):
        store.ledger.set_limit(Decimal(30), [MONTH], START)
