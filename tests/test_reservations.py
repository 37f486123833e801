"""I3 under a crowd: a thousand runs reserve at once against a limit that covers a hundred, in a table that really contends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import Run
from chalicelib.store import OverLimit, Store
from spotrelay.rehearsal.emulator import Emulator
from tests.conftest import TABLE, make_table
from tests.core_world import POLICY, START, new_run

CROWD, COVERED = 1000, 100
MONTH = "2026-11"


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Store]:
    with Emulator().start(tmp_path, "http://127.0.0.1:9") as emulator:
        session: boto3.Session = emulator.session()
        config = Config(max_pool_connections=16)
        client = session.client("dynamodb", endpoint_url=emulator.endpoint, config=config)
        make_table(client)
        lease = _launched(new_run()).attempts[0].reserved
        yield Store(client, TABLE, lease * COVERED + lease / 2)


def test_a_thousand_at_once_against_money_for_a_hundred(table: Store) -> None:
    def prepare(number: int) -> Run:
        return table.create(new_run(name=f"run-{number}"), {}, "hash")

    def reserve(run: Run) -> str:
        try:
            table.save(run, _launched(run), START, POLICY)
        except OverLimit as refusal:
            return f"refused by the {refusal.which}"
        return "reserved"

    with ThreadPoolExecutor(16) as crowd:
        runs = list(crowd.map(prepare, range(CROWD)))
        answers = Counter(crowd.map(reserve, runs))
    assert answers == {"reserved": COVERED, "refused by the month": CROWD - COVERED}
    month = table.ledger.month(MONTH)
    held = table.ledger.runs(MONTH)
    assert len(held) == COVERED
    assert month["reserved"] == sum(each["reserved"] for each in held)
    assert month["free"] == month["limit"] - month["reserved"] >= 0


def _launched(run: Run) -> Run:
    return decide(run, ev.Submitted(), START, POLICY).run
