"""The agent's calls to the controller, each with each fault: the answer comes all the same, or a sentence says that none did."""

import sys
from pathlib import Path

import pytest
from botocore.credentials import Credentials

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

from api import Api, Unreachable
from clock import Clock

from tests.agent_controller import Controller
from tests.conftest import TRIED
from tests.flaky import PASSING, Flaky, Kind, Odd

CALLS = {
    "claim": lambda api: api.claim({"ready": True}, 20),
    "heartbeat": lambda api: api.heartbeat({"phase": "train"}, 20),
    "exit": lambda api: api.exit({"reason": "done", "message": "Over."}, 20),
}

# The client's own limit on an answer is 35 s, after which it is one more connection that was lost.


@pytest.fixture
def between():
    controller = Controller()
    flaky = Flaky(controller.url)
    yield controller, flaky
    flaky.close()
    controller.close()


@pytest.mark.parametrize("kind", [kind for kind in PASSING if kind != Odd.HANGS])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_with_a_fault_is_answered_all_the_same(between, call, kind):
    controller, flaky = between
    api = Api(f"{flaky.url}/api", "quick", 1, Credentials("a", "b", "c"), "us-east-1", Clock(0.05), lambda: 0.5)
    calm = CALLS[call](api)
    flaky.arm(1, kind)
    assert CALLS[call](api) == calm
    TRIED["agent faults"] = TRIED.get("agent faults", 0) + 1
    TRIED["agent requests"] = TRIED.get("agent requests", set()) | {f"POST {call}"}
    asked = {"claim": controller.ready, "heartbeat": controller.beats, "exit": controller.exits}[call]
    carried_out_twice = kind in (Kind.ANSWER_LOST, Kind.TWICE, Kind.CUT, Odd.GARBAGE)
    assert len(asked) == 1 + (2 if carried_out_twice else 1)


def test_a_controller_that_stays_away_is_said_to_be(between):
    _, flaky = between
    api = Api(f"{flaky.url}/api", "quick", 1, Credentials("a", "b", "c"), "us-east-1", Clock(0.05), lambda: 0.5)
    flaky.arm(1, Kind.LONG_BURST)
    with pytest.raises(Unreachable, match="gave no answer to heartbeat: 503"):
        api.heartbeat({"phase": "train"}, 0.5)
