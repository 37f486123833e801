"""`--limit` of a repeated deploy reaches the ledger: LIMIT_USD counts only until a limit was set once."""

from __future__ import annotations

from typing import Any

import pytest

from spotrelay.client import ApiRefused
from spotrelay.deploying import limit, plan

LOW = {
    "code": "limit_too_low",
    "message": "limit_usd is 5, and 2026-11 has 7.250000 USD settled and reserved already.",
    "month": "2026-11",
    "account": {"limit_usd": "20.000000", "settled_usd": "7.000000", "reserved_usd": "0.250000"},
}


class Api:
    """The two routes about the budget, with what they are to refuse."""

    def __init__(self, limit_usd: str = "20.000000", refusal: ApiRefused | None = None) -> None:
        self.limit_usd, self.refusal = limit_usd, refusal
        self.put_bodies: list[Any] = []

    def get(self, *path: str) -> Any:
        assert path == ("budget",)
        return {"limit_usd": self.limit_usd}

    def put(self, *path: str, body: object) -> Any:
        assert path == ("budget",)
        self.put_bodies.append(body)
        if self.refusal:
            raise self.refusal
        assert isinstance(body, dict)
        return {"limit_usd": f"{float(body['limit_usd']):.6f}"}


def test_a_limit_that_holds_already_is_not_set_again() -> None:
    api = Api("20.000000")
    applied = limit.apply(api, "20")
    assert (applied.limit_usd, applied.refusal, api.put_bodies) == ("20.00", None, [])
    assert applied.sentence == "The limit is 20.00 USD a month, as before."


def test_another_limit_is_set_by_the_api() -> None:
    api = Api("20.000000")
    applied = limit.apply(api, "12.5")
    assert api.put_bodies == [{"limit_usd": "12.5"}]
    assert applied.sentence == "The limit is 12.50 USD a month now, was 20.00."


def test_a_refusal_is_told_with_its_numbers() -> None:
    applied = limit.apply(Api(refusal=ApiRefused(409, LOW)), "5")
    assert applied.limit_usd == "20.00"
    assert "stays at 20.00 USD" in applied.sentence
    assert "7.250000 USD settled and reserved" in applied.sentence
    assert "(2026-11: limit 20.00, settled 7.00, reserved 0.25 USD)" in applied.sentence


def test_what_is_no_refusal_of_the_limit_rises() -> None:
    with pytest.raises(ApiRefused):
        limit.apply(Api(refusal=ApiRefused(403, {"message": "no"})), "5")


@pytest.mark.parametrize(("given", "shown"), [("12.5", True), (None, False)])
def test_a_dry_run_says_that_the_limit_will_be_set(given: str | None, shown: bool) -> None:
    made = plan.make("dev", "us-east-1", None, ("bucket", {"NewBucketName": ""}), given, {})
    assert made.environment["LIMIT_USD"] == (given or "20")
    assert any("PUT /budget: 12.5 USD" in each for each in made.after) is shown
