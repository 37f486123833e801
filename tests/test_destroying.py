"""Taking a stage out again: nothing is removed while a run lives, and draining waits until none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spotrelay.client import ApiRefused
from spotrelay.deploying import destroy
from spotrelay.deploying.destroy import LiveRun
from spotrelay.deploying.errors import DeployError

RUNNING, SUSPENDED = LiveRun("a", "RUNNING"), LiveRun("b", "SUSPENDED")


@pytest.mark.parametrize(
    ("runs", "instances", "draining", "said"),
    [
        ([], [], False, None),
        ([RUNNING], [], False, "a (RUNNING)"),
        ([SUSPENDED], [], False, "b (SUSPENDED)"),
        ([SUSPENDED], [], True, None),
        ([RUNNING], [], True, "a (RUNNING)"),
        ([LiveRun("c", destroy.UNKNOWN_STATUS)], [], True, "the API does not answer"),
        ([], ["i-2", "i-1"], True, "--instance-ids i-1 i-2"),
    ],
)
def test_nothing_is_removed_while_a_run_lives(
    runs: list[LiveRun], instances: list[str], draining: bool, said: str | None
) -> None:
    reason = destroy.refusal(runs, instances, draining)
    assert (said in reason) if said and reason else reason is said


class Api:
    """The API of a stage whose runs take two looks to be suspended."""

    def __init__(self, *names: str, slow: int = 2) -> None:
        self.left = dict.fromkeys(names, slow)
        self.asked: list[str] = []

    def get(self, *path: str) -> dict[str, str]:
        name = path[1]
        if name not in self.asked:
            return {"status": "RUNNING"}
        self.left[name] -= 1
        return {"status": "STOPPING" if self.left[name] > 0 else "SUSPENDED"}

    def post(self, *path: str) -> None:
        if path[1] == "ended":
            raise ApiRefused(409, {"message": "it ended"})
        self.asked.append(path[1])


@pytest.fixture
def stage_with_runs(aws: Callable[[str], Any]) -> Callable[[str], Any]:
    keys = [{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk", "live")]
    aws("dynamodb").create_table(
        TableName="spot-relay-dev",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=keys,
        GlobalSecondaryIndexes=[
            {
                "IndexName": "live",
                "KeySchema": [{"AttributeName": "live", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    )
    for name in ("a", "b"):
        item = {"pk": {"S": f"RUN#{name}"}, "sk": {"S": "RUN"}, "live": {"S": name}}
        aws("dynamodb").put_item(TableName="spot-relay-dev", Item=item)
    aws("dynamodb").put_item(TableName="spot-relay-dev", Item={"pk": {"S": "RUN#old"}, "sk": {"S": "RUN"}})
    return aws


def test_draining_suspends_every_run_and_waits_until_none_runs(stage_with_runs: Callable[[str], Any]) -> None:
    api: Any = Api("a", "b")
    seen: list[list[str]] = []
    destroy.drain(
        stage_with_runs,
        "dev",
        api,
        60,
        lambda runs, up: seen.append([str(r) for r in runs]),
        lambda: 0.0,
        lambda s: None,
    )
    assert api.asked == ["a", "b"]
    assert seen == [["a (STOPPING)", "b (STOPPING)"], []]


def test_draining_ends_with_what_still_runs_when_patience_does(stage_with_runs: Callable[[str], Any]) -> None:
    times = iter([0.0, 30.0, 61.0])
    api: Any = Api("a", "b", slow=100)
    with pytest.raises(DeployError, match=r"still running: a \(STOPPING\), b"):
        destroy.drain(stage_with_runs, "dev", api, 60, clock=lambda: next(times), sleep=lambda s: None)


def test_without_an_api_runs_are_named_and_nothing_can_be_drained(stage_with_runs: Callable[[str], Any]) -> None:
    assert [r.name for r in destroy.live_runs(stage_with_runs, "dev", None)] == ["a", "b"]
    with pytest.raises(DeployError, match="make doctor"):
        destroy.drain(stage_with_runs, "dev", None, 60)


def test_a_stage_without_a_table_has_no_runs(aws: Callable[[str], Any]) -> None:
    assert destroy.live_runs(aws, "nowhere", None) == []
