"""What the handlers say: each line that concerns a run, an attempt or an instance names it; no metric is there for a zero."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from chalice.test import Client

import app
from chalicelib import people
from chalicelib.core import events as ev
from chalicelib.core.figures import Name
from chalicelib.store import Store
from chalicelib.telemetry import NAMESPACE, logger
from tests.controlled import ME, SPEC, Deployed
from tests.fakes import FakeEc2
from tests.test_poison import spoil

# Chalice's test client says so of every route; that they are signed, and refused when not, is tested in the emulator.
pytestmark = pytest.mark.filterwarnings("ignore:IAMAuthorizer is not a supported in local mode:UserWarning")

RUN = SPEC["name"]
# CloudWatch's own (EMF specification, PutMetricData API reference).
UNITS = {"Seconds", "Count", "Milliseconds", "Bytes", "Percent", "None"}


class Handlers(Deployed):
    """A stage whose handlers are called as Lambda calls them."""

    def __init__(self, store: Store, lines: Callable[[], list[dict[str, Any]]]) -> None:
        super().__init__(store)
        self._lines, self.arn = lines, ME
        self.seen: list[dict[str, Any]] = []

    def call(self, ask: Callable[[Client], Any]) -> Any:
        """What it answers; `seen` then has what was logged meanwhile."""
        self._lines()
        with Client(app.app) as client:
            answer = ask(client)
        self.seen = self._lines()
        return answer

    def event(self, handler: str, kind: str, **detail: Any) -> None:
        def ask(client: Client) -> None:
            event = client.events.generate_cw_event("aws.ec2", kind, detail, [], "us-east-1")
            event["time"] = f"{self.clock.now:%Y-%m-%dT%H:%M:%SZ}"
            client.lambda_.invoke(handler, event)

        self.call(ask)

    def warn(self, instance: str = "i-00000001") -> None:
        kind = "EC2 Spot Instance Interruption Warning"
        self.event("on_warning", kind, **{"instance-id": instance, "instance-action": "terminate"})

    def swept(self) -> None:
        def ask(client: Client) -> None:
            event = client.events.generate_cw_event("aws.events", "Scheduled Event", {}, [], "us-east-1")
            client.lambda_.invoke("sweep", event)

        self.call(ask)

    def post(self, path: str, body: Any, instance: str | None = None) -> Any:
        if instance:
            self.arn = f"arn:aws:sts::123456789012:assumed-role/spot-relay-test-instance/{instance}"
        headers = {"Content-Type": "application/json"}
        return self.call(lambda client: client.http.post(path, headers=headers, body=json.dumps(body).encode()))

    def get(self, path: str) -> Any:
        return self.call(lambda client: client.http.get(path))

    def said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.seen if line.get("message") == message]

    @property
    def metrics(self) -> dict[str, float]:
        return {name: value for line in self.seen if "_aws" in line for name, value in emf(line).items()}


def emf(line: dict[str, Any]) -> dict[str, float]:
    """The metrics of a line, after making sure that CloudWatch would read it (its Embedded Metric Format)."""
    assert isinstance(line["_aws"]["Timestamp"], int)
    found = {}
    for directive in line["_aws"]["CloudWatchMetrics"]:
        assert directive["Namespace"] == NAMESPACE
        assert directive["Dimensions"] == [["stage"]]
        assert line["stage"] == "test"
        for metric in directive["Metrics"]:
            assert metric["Unit"] in UNITS
            [value] = line[metric["Name"]]
            assert value > 0
            found[metric["Name"]] = value
    return found


@pytest.fixture
def handlers(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Handlers:
    log = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", log)

    def lines() -> list[dict[str, Any]]:
        written = log.getvalue() + capsys.readouterr().out  # metrics are printed
        log.seek(0)
        log.truncate()
        return [json.loads(line) for line in written.splitlines()]

    stage = Handlers(store, lines)
    monkeypatch.setattr(app, "controller", lambda: stage.c)
    monkeypatch.setattr(app, "_caller", lambda: stage.arn)
    return stage


def has(line: dict[str, Any], **keys: Any) -> None:
    assert line["service"] == "spot-relay"
    assert line["level"] in ("INFO", "WARNING", "ERROR")
    assert {name: line.get(name) for name in keys} == keys


def test_a_warning_names_run_attempt_and_instance_and_times_the_relaunch(handlers: Handlers) -> None:
    handlers.training()
    launch = handlers.ec2.launch

    def slow(*given: Any) -> Any:
        handlers.clock.now += timedelta(seconds=4)
        return launch(*given)

    handlers.ec2.launch = slow  # type: ignore[method-assign]
    handlers.warn()
    [line] = handlers.said("instance event")
    has(line, run=RUN, attempt=1, instance_id="i-00000001", kind="Warned", phase="TRAINING")
    assert {"function_request_id", "cold_start", "calls"} <= set(line)
    moved = [(each["attempt"], each["phase"], each.get("instance_id")) for each in handlers.said("attempt")]
    assert moved == [(2, "LAUNCHING", None), (2, "BOOTING", "i-00000002")]
    assert handlers.metrics == {"RelaunchTime": 4}
    [counted] = [each for each in handlers.seen if "_aws" in each]
    assert (counted["run"], counted["attempt"], counted["instance_id"]) == (RUN, 2, "i-00000002")


def test_the_same_warning_again_counts_nothing(handlers: Handlers) -> None:
    handlers.training()
    handlers.clock.now += timedelta(seconds=1)
    handlers.warn()
    handlers.warn()
    assert handlers.metrics == {}
    assert handlers.said("attempt") == []


def test_a_state_change_names_run_attempt_and_instance(handlers: Handlers) -> None:
    handlers.training()
    kind = "EC2 Instance State-change Notification"
    handlers.event("on_state_change", kind, **{"instance-id": "i-00000001", "state": "terminated"})
    [line] = handlers.said("instance event")
    has(line, run=RUN, attempt=1, instance_id="i-00000001", kind="InstanceState", phase="ENDED")


def test_an_instance_of_another_stage_or_of_nobody_is_nothing_to_us(handlers: Handlers) -> None:
    handlers.warn("i-0123456789abcdef0")
    assert handlers.seen == []


def test_an_event_that_fails_says_whose_it_was_and_is_tried_again(handlers: Handlers) -> None:
    handlers.training()

    def broken(*_: Any) -> Any:
        raise ConnectionError("EC2 is away")

    handlers.ec2.launch = broken  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        handlers.warn()
    handlers.seen = handlers._lines()
    [line] = handlers.said("instance event failed")
    has(line, run=RUN, instance_id="i-00000001", level="ERROR")


@pytest.mark.parametrize("detail", [{"instance-id": 7}, {}, {"instance-id": "i-?"}])
def test_a_malformed_event_is_counted_and_told_once_and_never_retried(
    handlers: Handlers, detail: dict[str, Any]
) -> None:
    kind = "EC2 Spot Instance Interruption Warning"
    handlers.event("on_warning", kind, **detail)
    [line] = handlers.said("unreadable")
    has(line, record=f"EVENT / {kind}", level="ERROR")
    assert handlers.metrics == {"PoisonSeen": 1}
    handlers.event("on_warning", kind, **detail)
    assert handlers.seen == []


def test_an_event_for_a_run_that_cannot_be_read_is_told_and_not_retried(handlers: Handlers) -> None:
    handlers.training()
    spoil(handlers, f"RUN#{RUN}", "RUN", run="broken")  # type: ignore[arg-type]
    handlers.warn()
    [line] = handlers.said("unreadable")
    has(line, run=RUN, instance_id="i-00000001", record=f"RUN#{RUN} / RUN")


def test_people_are_answered_409_for_what_cannot_be_read_and_agents_503(handlers: Handlers) -> None:
    handlers.training()
    spoil(handlers, f"RUN#{RUN}", "RUN", run="broken")  # type: ignore[arg-type]
    answer = handlers.get(f"/runs/{RUN}")
    assert (answer.status_code, answer.json_body["error"]["code"]) == (409, "unreadable")
    assert "broken" not in json.dumps(answer.json_body)
    answer = handlers.post(f"/attempts/{RUN}/1/heartbeat", {"phase": "train"}, "i-00000001")
    assert (answer.status_code, answer.json_body["error"]["code"]) == (503, "unreadable")


def test_an_agents_lines_name_run_attempt_and_instance(handlers: Handlers) -> None:
    handlers.submit()
    handlers.post(f"/attempts/{RUN}/1/claim", {"ready": False}, "i-00000001")
    [line] = handlers.said("attempt")
    has(line, run=RUN, attempt=1, instance_id="i-00000001", phase="PREPARING")
    handlers.post(f"/attempts/{RUN}/1/claim", {"ready": True}, "i-00000001")
    has(handlers.said("attempt")[0], run=RUN, attempt=1, instance_id="i-00000001", phase="TRAINING")
    handlers.post(f"/attempts/{RUN}/1/heartbeat", {"phase": "train", "step": 5}, "i-00000001")
    assert handlers.seen == [], "a heartbeat that changes nothing costs no line"
    exited = {"reason": "exit_code", "code": 1, "message": "Broken."}
    handlers.post(f"/attempts/{RUN}/1/exit", exited, "i-00000001")
    has(handlers.said("attempt")[0], run=RUN, attempt=1, instance_id="i-00000001", ended_by="exit_code")


def test_steps_that_are_trained_again_are_counted_when_the_baton_moves(handlers: Handlers) -> None:
    handlers.training()
    handlers.publish(1, 100)
    handlers.beat(step=140, checkpoint={"step": 100, "bytes": 1})
    handlers.c.shell.on_instance(app.parse(_state("i-00000001"), handlers.c.policy.notice))  # type: ignore[arg-type]
    handlers.claim(False, attempt=2)
    handlers.post(f"/attempts/{RUN}/2/claim", {"ready": True}, "i-00000002")
    assert handlers.metrics == {"StepsLost": 40}
    handlers.post(f"/attempts/{RUN}/2/claim", {"ready": True}, "i-00000002")
    assert handlers.metrics == {}


def _state(instance: str) -> dict[str, Any]:
    kind = "EC2 Instance State-change Notification"
    detail = {"instance-id": instance, "state": "terminated"}
    return {"source": "aws.ec2", "detail-type": kind, "time": "2026-11-20T10:00:00Z", "detail": detail}


def test_a_lease_that_the_money_does_not_cover_is_counted(handlers: Handlers) -> None:
    handlers.training()
    handlers.c.store.ledger.set_limit(Decimal("0.5"), ["2026-11"], handlers.clock.now)
    handlers.clock.now += timedelta(minutes=40)
    account = handlers.c.store.ledger.month("2026-11")
    moved = handlers.c.store.ledger.moved("2026-11", Decimal(0), account["free"])
    handlers.c.dynamodb.transact_write_items(TransactItems=[moved])
    answer = handlers.post(f"/attempts/{RUN}/1/heartbeat", {"phase": "train"}, "i-00000001")
    assert answer.json_body["action"] == "drain"
    [line] = handlers.said("lease refused")
    has(line, run=RUN, attempt=1, instance_id="i-00000001", limit="month", level="WARNING")
    assert handlers.metrics["LeasesRefused"] == 1


def test_the_sweep_counts_the_strays_it_ended(handlers: Handlers) -> None:
    image = handlers.c.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    tags = [{"Key": "spot-relay:stage", "Value": "test"}, {"Key": "spot-relay:run", "Value": "nobodys"}]
    made = handlers.c.ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        InstanceType="c6i.xlarge",
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    [stray] = [i["InstanceId"] for i in made["Instances"]]
    handlers.clock.now = made["Instances"][0]["LaunchTime"] + timedelta(hours=1)
    handlers.swept()
    [line] = handlers.said("strays ended")
    has(line, instances=[stray], level="WARNING")
    assert handlers.metrics == {"StraysEnded": 1}


def test_an_idle_sweep_says_nothing(handlers: Handlers) -> None:
    handlers.swept()
    handlers.clock.now += timedelta(minutes=1)
    handlers.swept()
    assert handlers.seen == []


def test_how_late_a_deadline_was_acted_upon_is_timed_once(handlers: Handlers) -> None:
    handlers.submit()
    handlers._lines()
    handlers.clock.now += handlers.c.policy.claim_within + timedelta(seconds=90)
    for found in ({"DeadlineLag": 90}, {}):
        handlers.c.shell.tell(RUN, ev.Tick())
        handlers.seen = handlers._lines()
        assert handlers.metrics == found
    assert handlers.ec2.ended[0] == FakeEc2.instance_id(1)


def test_how_late_a_launch_was_tried_again_is_timed(handlers: Handlers) -> None:
    handlers.ec2.refusal = (ev.Refusal.CAPACITY, "InsufficientInstanceCapacity")
    handlers.submit()
    handlers._lines()
    run = handlers.c.store.load(RUN)
    assert run is not None
    assert run.retry_at is not None
    handlers.clock.now = run.retry_at + timedelta(seconds=50)
    handlers.c.shell.tell(RUN, ev.Tick())
    handlers.seen = handlers._lines()
    assert handlers.metrics == {"DeadlineLag": 50}


def test_a_part_of_the_sweep_that_fails_is_named_with_its_run_and_raises_the_alarms_count(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers.submit()

    def away(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    handlers.clock.now += handlers.c.policy.claim_within  # what is not due is not read
    monkeypatch.setattr(handlers.c.store, "load", away)
    with pytest.raises(Exception, match="no route"):
        handlers.swept()
    handlers.seen = handlers._lines()
    [line] = [each for each in handlers.said("a part of the sweep failed") if each["part"] == RUN]
    has(line, run=RUN, error="ConnectionError: no route", level="ERROR")


@pytest.mark.parametrize("path", ["", "/events", "/ledger", "/checkpoints", "/results", "/logs"])
def test_peoples_lines_name_the_run(handlers: Handlers, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    handlers.submit()

    def broken(*_: Any) -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(people, "load", broken)
    answer = handlers.get(f"/runs/{RUN}{path}")
    assert answer.status_code == 500
    assert answer.json_body["error"]["fields"] == []
    [line] = handlers.said("request failed")
    has(line, run=RUN, level="ERROR")


def test_one_invocations_keys_are_not_anothers(handlers: Handlers) -> None:
    handlers.training()
    handlers.warn()
    handlers.event("on_warning", "EC2 Spot Instance Interruption Warning")
    [line] = handlers.said("unreadable")
    assert "run" not in line
    assert "instance_id" not in line


def test_nothing_is_said_of_a_zero(handlers: Handlers) -> None:
    handlers._lines()
    for name in Name:
        handlers.c.telemetry.count(name, 0)
    assert handlers._lines() == []
    for name in Name:
        handlers.c.telemetry.count(name, 1.5, run=RUN, attempt=None)
    assert [emf(line) for line in handlers._lines()] == [{name.value: 1.5} for name in Name]
