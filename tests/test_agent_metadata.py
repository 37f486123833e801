"""The metadata service under attack: each request that the agent makes of it, recorded, meets each kind of fault.

The attempt begins all the same, and what EC2 announces is seen by the next poll; a service that stays away is told of in a
sentence, and ends nothing.
"""

import itertools
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

from api import Api, instance_role
from clock import Clock
from imds import Imds, ImdsError, patiently
from pulse import BLIND_AFTER, Pulse

from tests import agent_shims
from tests.agent_controller import Controller
from tests.agent_place import EVERY
from tests.conftest import TRIED
from tests.flaky import PASSING, Flaky, Odd

AGENT = Path(__file__).parent.parent / "userdata/agent"
CLOCK = Clock(0.01)
TIMEOUT_S = 0.2


@pytest.fixture(scope="module")
def servers():
    controller = Controller()
    flaky = Flaky(controller.url)
    yield controller, flaky
    flaky.close()
    controller.close()


@pytest.fixture
def between(servers, monkeypatch):
    """The controller, and what stands between the agent and its metadata service (never between it and the API)."""
    controller, flaky = servers
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", flaky.url)
    controller.prepare = {"action": "prepare", "attempt": 1}
    controller.notice_at, controller.rebalance = None, False
    flaky.arm()
    return controller, flaky


def pulse_of(controller, imds, said):
    api = Api(f"{controller.url}/api", "quick", 1, instance_role(CLOCK, TIMEOUT_S), "us-east-1", CLOCK)
    return Pulse(api.heartbeat, imds, CLOCK, lambda _: None, lambda _: None, said.append)


def life(controller, flaky):
    """From boot to the notice; gives what the agent learned, and how many polls it took to see what was announced."""
    controller.notice_at, controller.rebalance = None, False
    said = []
    imds = Imds(CLOCK, timeout=TIMEOUT_S)
    me = patiently(imds.identity, CLOCK)
    region = patiently(imds.region, CLOCK)
    role = instance_role(CLOCK, TIMEOUT_S)
    api = Api(me.api, me.run, me.attempt, role, region, CLOCK)
    action = api.claim({"ready": False}, 5)["action"]
    pulse = Pulse(api.heartbeat, imds, CLOCK, lambda _: None, lambda _: None, said.append)
    beats = len(controller.beats)
    pulse.once()
    assert len(controller.beats) == beats + 1, "whatever the metadata service does, the controller hears the heartbeat"
    controller.rebalance = True
    until(pulse, lambda: any("rebalancing" in text for text in said))
    controller.notice_at = datetime.now(UTC) + timedelta(seconds=100)
    until(pulse, lambda: pulse.noticed)
    assert controller.beats[-1]["notice_at"], "and of the notice at once"
    return me, region, role.access_key, action


def until(pulse, seen):
    """Within the next polls: the one that a fault met, and those after it."""
    for _ in range(1 + 3):
        pulse.once()
        if seen():
            return
    raise AssertionError("what EC2 announced was never seen")


def test_a_fault_at_any_request_to_the_metadata_service_ends_nothing(between):
    controller, flaky = between
    expected = life(controller, flaky)
    recorded = list(flaky.seen)
    asked = {name.rsplit("/", 1)[-1] for name in recorded}
    assert {"token", "region", "role", "instance-action", "rebalance", "spot-relay%3Aattempt"} <= {
        name.replace(":", "%3A") for name in asked
    }, recorded
    tried = list(itertools.product(range(1, len(recorded) + 1), PASSING))
    for n, kind in tried if EVERY else tried[::3]:
        flaky.arm(n, kind)
        assert life(controller, flaky) == expected, f"{kind} at {recorded[n - 1]}"
        TRIED["agent faults"] = TRIED.get("agent faults", 0) + 1
        TRIED["agent requests"] = TRIED.get("agent requests", set()) | {f"metadata {recorded[n - 1]}"}


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: patiently(Imds(CLOCK, timeout=TIMEOUT_S).identity, CLOCK), "gave no token: 503"),
        (lambda: patiently(Imds(CLOCK, timeout=TIMEOUT_S).region, CLOCK), "gave no token: 503"),
        (lambda: instance_role(CLOCK, TIMEOUT_S), "gives no credentials: has the instance a profile"),
    ],
)
def test_a_metadata_service_that_stays_away_is_said_to_be(between, ask, sentence):
    _, flaky = between
    flaky.arm(1, Odd.AWAY)
    with pytest.raises(ImdsError, match=sentence):
        ask()


def test_while_the_metadata_service_is_away_heartbeats_go_on_and_it_is_said_once(between):
    controller, flaky = between
    said = []
    pulse = pulse_of(controller, Imds(CLOCK, timeout=TIMEOUT_S), said)
    beats = len(controller.beats)
    flaky.arm(1, Odd.AWAY)
    for _ in range(BLIND_AFTER + 3):
        pulse.tell(urgent=True)
        pulse.once()
    assert len(controller.beats) == beats + BLIND_AFTER + 3
    (sentence,) = said
    assert re.match(r"EC2's notice could not be seen at present, training goes on: .*503", sentence)
    controller.notice_at = datetime.now(UTC) + timedelta(seconds=100)
    flaky.arm()
    pulse.once()
    assert pulse.noticed
    assert said[1] == "the metadata service answers again"


def test_a_token_that_no_header_can_carry_is_asked_for_again(between):
    controller, flaky = between
    said = []
    pulse = pulse_of(controller, Imds(CLOCK, timeout=TIMEOUT_S), said)
    controller.notice_at = datetime.now(UTC) + timedelta(seconds=100)
    beats = len(controller.beats)
    flaky.arm(1, Odd.GARBAGE)
    pulse.once()
    assert not pulse.noticed
    assert len(controller.beats) == beats + 1
    pulse.once()
    assert pulse.noticed


def test_a_notice_is_seen_though_the_recommendation_before_it_can_not_be_read(between):
    controller, flaky = between
    pulse = pulse_of(controller, Imds(CLOCK, timeout=TIMEOUT_S), [])
    controller.notice_at = datetime.now(UTC) + timedelta(seconds=100)
    flaky.arm(3, Odd.AWAY)  # the third request would be for the recommendation
    pulse.once()
    assert pulse.noticed
    assert len(flaky.seen) == 2


@pytest.mark.parametrize(("away", "sentence"), [(True, "gave no token: 503"), (False, "can't be '-1'")])
def test_an_agent_that_can_not_learn_who_it_is_says_so_in_one_line(between, tmp_path, away, sentence):
    """The process itself: no traceback, and a code that the boot script reports and powers off after."""
    controller, flaky = between
    env, calls = agent_shims.make(tmp_path)
    env.update(AWS_EC2_METADATA_SERVICE_ENDPOINT=flaky.url, SPOT_RELAY_TIME_SCALE="0.01")
    if away:
        flaky.arm(1, Odd.AWAY)
    else:
        controller.prepare = {"attempt": -1}
    done = subprocess.run([sys.executable, str(AGENT)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("spot-relay: the attempt can't begin: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert calls.read_text() == "", "powering off is left to the boot script, which reports first"
