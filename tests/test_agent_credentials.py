"""Credentials that lapse in the middle: those for the bucket, which heartbeats bring, and the instance role's own.

From each request of a calm life on, what is signed with the first ones is refused, until the controller has given others.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

import store
from api import Api, Unreachable, instance_role
from clock import Clock
from imds import Imds
from pulse import Pulse

from tests.agent_place import EVERY, SHARES, kind_of
from tests.conftest import TRIED
from tests.flaky import Odd

GIVEN = {"access_key_id": "given", "secret_access_key": "s", "session_token": "t"}
OTHERS = {"access_key_id": "others", "secret_access_key": "s", "session_token": "t"}
CLOCK = Clock(0.01)


def renewed(beat):
    """As the controller does: who does not know the lease that stands is told it, and given credentials with it."""
    return {"credentials": OTHERS} if beat["lease_end"] is None else {}


@pytest.mark.parametrize("share", range(SHARES))
def test_keys_that_lapse_at_any_request_are_replaced_and_nothing_is_lost(place, share):
    place.controller.on_beat = renewed
    requests = list(enumerate(place.requests, 1))
    for n, request in requests[share::SHARES] if EVERY else requests[3 :: len(requests) // 3]:
        life = place.new_life()
        assert life.attempt(2, 15, arm=(n, Odd.LAPSED)) == 0, life.said
        where = f"lapsed from {request} on: {life.said}"
        assert life.controller.exits[-1]["reason"] == "done", where
        assert (life.controller.exits[-1]["step"], life.manifests()[0]["step"], life.torn()) == (15, 15, []), where
        assert "training from 5\n" in life.log.read_text(), where
        if n < len(requests) * 0.7:  # later ones may have been the last that AWS was asked
            assert any(beat["lease_end"] is None for beat in life.controller.beats), where
        TRIED["agent faults"] = TRIED.get("agent faults", 0) + 1
        TRIED["agent requests"] = TRIED.get("agent requests", set()) | {f"keys lapsed {kind_of(request)}"}


@pytest.mark.parametrize("call", ["get_object", "head_object", "put_object"])
def test_keys_that_stay_lapsed_are_asked_for_and_then_it_is_an_error(place, monkeypatch, call):
    monkeypatch.setenv("AWS_ENDPOINT_URL", place.between.url)
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    asked = []
    s3 = store.s3_client("us-east-1", store.ScopedCredentials(GIVEN, lambda: asked.append(1)), path_style=True)
    place.between.arm(1, Odd.LAPSED)
    with pytest.raises(ClientError, match=r"ExpiredToken|400"):
        getattr(s3, call)(Bucket=place.begun, Key="nothing")
    s3.close()
    assert len(asked) == len(place.between.seen) > 3


@pytest.fixture
def role(place, monkeypatch):
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", place.between.url)
    place.between.arm()
    place.controller.on_beat = lambda beat: {}
    return instance_role(CLOCK, 0.2)


def pulse_of(place, role):
    api = Api(f"{place.between.url}/api", "quick", 2, role, "us-east-1", CLOCK)
    return api, Pulse(api.heartbeat, Imds(CLOCK, place.between.url), CLOCK, lambda _: None, lambda _: None)


@pytest.mark.parametrize("kind", [Odd.EXPIRED, Odd.ABSENT, Odd.GARBAGE])
def test_a_heartbeat_that_something_in_front_of_the_controller_refuses_supersedes_nobody(place, role, kind):
    api, pulse = pulse_of(place, role)
    place.between.arm(1, kind, times=10_000)
    with pytest.raises(Unreachable, match="gave no answer to heartbeat"):
        api.heartbeat({}, 0.1)
    pulse.once()
    assert pulse.wish == ""
    beats = len(place.controller.beats)
    place.between.arm()
    pulse.tell(urgent=True)
    pulse.once()
    assert len(place.controller.beats) > beats


def test_a_role_that_can_not_be_renewed_is_asked_for_again_with_each_try(place, role):
    api, pulse = pulse_of(place, role)
    role._expiry_time = datetime.now(UTC)
    place.between.arm(1, Odd.AWAY)
    with pytest.raises(Unreachable, match="role's credentials can't be renewed"):
        api.exit({}, 0.1)
    pulse.once()
    assert pulse.wish == ""
    place.between.arm()
    assert api.exit({}, 1) == {"linger_s": 0}
