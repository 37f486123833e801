"""What several tests stand on: a table as the template makes it, in moto; all of it, deployed into the emulator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import Phase, settings
from moto import mock_aws

from chalicelib.store import Store
from spotrelay.rehearsal.stage import Stage
from tests.agent_place import Place
from tests.deployed import FOREVER_S, Deployed
from tests.hooks import SESSION, aws

TABLE = "spot-relay-test"
# What the random worlds tried, summed over the session and printed at its end.
TRIED: dict[str, Any] = {"steps": 0, "events": 0, "calls": 0, "sites": set()}

settings.register_profile("default", max_examples=60, stateful_step_count=40, deadline=None)
settings.register_profile("fuzz", max_examples=2500, stateful_step_count=50, deadline=None)
# Finds that something is wrong as fast as can be, and not what the shortest story of it is.
settings.register_profile("hunt", settings.get_profile("default"), phases=[Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several hands on what it tried; sets go as text, which is all that is printed of them."""
    if hasattr(session.config, "workeroutput"):
        told = {name: found if isinstance(found, int) else sorted(map(str, found)) for name, found in TRIED.items()}
        session.config.workeroutput["tried"] = told


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for name, found in getattr(node, "workeroutput", {}).get("tried", {}).items():
        if isinstance(found, int):
            TRIED[name] = TRIED.get(name, 0) + found
        else:
            TRIED[name] = TRIED.get(name, set()) | set(found)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if "faults" in TRIED:
        terminalreporter.write_line(
            f"faults: {TRIED['faults']:,} lives with a fault, at {len(TRIED['fault sites'])} lines that call AWS"
        )
    if "real faults" in TRIED:
        terminalreporter.write_line(
            f"real calls: {TRIED['real faults']:,} lives with a fault, at {len(TRIED['real sites'])} sites that call AWS"
        )
    if "agent faults" in TRIED:
        terminalreporter.write_line(
            f"agent: {TRIED['agent faults']:,} calls with a fault at a request, at "
            f"{len(TRIED['agent requests'])} kinds of request"
        )
    for line in [*sorted(TRIED.get("months", ())), *sorted(TRIED.get("storms", ()))]:
        terminalreporter.write_line(line)
    if TRIED["steps"]:
        terminalreporter.write_line(
            f"random worlds: {TRIED['steps']:,} steps, {TRIED['events']:,} events, {TRIED['calls']:,} AWS calls, "
            f"{len(TRIED['sites'])} kinds of (call, fault) met"
        )


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        client = aws("dynamodb")
        make_table(client)
        yield Store(client, TABLE, Decimal(20))


def make_table(client: Any, name: str = TABLE) -> None:
    """The table as the template makes it."""
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk", "live")],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "live",
                "KeySchema": [{"AttributeName": "live", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["glance"]},
            }
        ],
    )


@pytest.fixture(name="aws")
def clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Makes clients of moto's account, as the laptop's commands are given them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield SESSION.client


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """One for all tests that ask for it: bringing it up takes ten seconds."""
    folder = tmp_path_factory.mktemp("deployed")
    with Stage(folder, folder / "cache", time_scale=1) as stage:
        stage.control.boot(delay_s=FOREVER_S)
        yield Deployed(stage)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where the agent's own process lives, and every request of it is seen."""
    made = Place(tmp_path_factory.mktemp("place"))
    yield made
    made.close()
