"""The agent's process is killed right before and right after each of its requests, as they were recorded from a calm life.

Whatever the bucket has then, every manifest in it is whole (I4), and the next attempt, told what the controller would tell it,
goes on from the newest: no step is lost that was published (I5). `make test` tries some of them, `make faults` all.
"""

import itertools
import signal

import pytest

from tests.agent_place import CHECKPOINTS, EVERY, SHARES
from tests.conftest import TRIED
from tests.flaky import Moment


def test_the_calm_life_has_all_that_an_agent_asks_for(place):
    kinds = {kind for kind, _ in place.recorded}
    before, own = (f"/{CHECKPOINTS}{attempt}/000000…/" for attempt in ("0001", "0002"))
    assert {f"GET {before}step_…/large", f"GET {before}MANIFEST.json"} <= kinds
    assert {f"PUT {own}MANIFEST.json", f"PUT {own}step_…/large partNumber=2", f"PUT {own}step_…/frozen"} <= kinds
    assert {f"POST /api/attempts/quick/2/{route}" for route in ("claim", "heartbeat", "exit")} <= kinds
    assert {"POST / AmazonSSM.GetParameter", "POST / Logs_20140328.PutLogEvents"} <= kinds
    assert [found["step"] for found in place.calm.manifests()] == [15, 10, 5]


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_at_any_request_the_next_attempt_goes_on_from_the_newest_whole_checkpoint(place, share):
    deaths = list(itertools.product(place.recorded, Moment))
    tried = deaths[share::SHARES] if EVERY else deaths[1::9]  # an odd stride: before and after in turn
    met = 0
    for request, moment in tried:
        life = place.new_life()
        code = life.attempt(2, 15, request, moment)
        if code == 0:
            continue  # this life had fewer heartbeats, or fewer parts of its log
        where = f"killed {moment} {request}"
        assert code == -signal.SIGKILL, f"{where}: {life.said}"
        met += 1
        TRIED["agent faults"] = TRIED.get("agent faults", 0) + 1
        TRIED["agent requests"] = TRIED.get("agent requests", set()) | {f"death {moment} {request[0]}"}
        assert life.torn() == [], where
        told = [beat["checkpoint"]["step"] for beat in life.controller.beats if beat["checkpoint"]]
        newest = life.manifests()[0]["step"]
        assert newest >= max(told, default=5), f"{where}: told of step {told}, and it is not there"
        assert life.attempt(3, upto=0) == 0, f"{where}: {life.said}"
        assert [body.get("torn") for body in life.controller.ready[-1:]] == [None], where
        assert f"training from {newest}\n" in life.log.read_text(), f"{where}: {life.said}"
        assert life.controller.exits[-1]["reason"] == "done", f"{where}: {life.said}"
        assert life.torn() == [], where
    assert met >= len(tried) * 0.8, "the lives differ too much from the recorded one"
