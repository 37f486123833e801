"""The commands about runs and money, against the deployed API, as a person types them."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from spotrelay import fetch
from spotrelay.cli import main
from spotrelay.client import ApiRefused, ApiUnreachable
from spotrelay.commands import left as left_commands
from spotrelay.commands import watch
from spotrelay.rehearsal.stage import STAGE
from tests.deployed import SPEC, Deployed
from tests.test_show import RUN

Type = Callable[..., Result]
ROOT = Path(__file__).parents[1]
NUMBERS = itertools.count(1)


@pytest.fixture
def type_(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Types a command at a terminal that is set up for the stage."""
    aws = deployed.stage.emulator
    for name, value in {
        "AWS_ENDPOINT_URL": aws.endpoint,
        "AWS_ACCESS_KEY_ID": aws.access_key_id,
        "AWS_SECRET_ACCESS_KEY": aws.secret_access_key,
        "AWS_DEFAULT_REGION": aws.region,
        "SPOT_RELAY_STAGE": STAGE,
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(watch, "EVERY_S", 0.1)
    return lambda *arguments, says=None: CliRunner().invoke(main, arguments, input=says)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A file with the spec of a run that there is not yet."""
    path = tmp_path / "run.yaml"
    document = {**SPEC, "name": f"typed-{next(NUMBERS)}", "source": {"repo": "/nowhere", "ref": "main"}}
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def run(type_: Type, spec: Path, deployed: Deployed) -> Iterator[str]:
    """A submitted run, whose first attempt has trained to step 600 and told of a checkpoint."""
    name = str(json.loads(type_("submit", str(spec), "--json").stdout)["name"])
    agent, prefix = deployed.agent(deployed.instance(name, 1)), f"runs/{name}/checkpoints/0001/{500:012d}/"
    for ready in (False, True):
        agent.post("attempts", name, "1", "claim", body={"ready": ready})
    s3 = deployed.stage.client("s3")
    for key in ("state", "MANIFEST.json"):
        s3.put_object(Bucket=deployed.bucket, Key=prefix + key, Body=b"{}")
    beat = {"phase": "train", "step": 600, "metrics": {"loss": 0.25}, "checkpoint": {"step": 500, "bytes": 2}}
    agent.post("attempts", name, "1", "heartbeat", body=beat)
    yield name
    type_("cancel", name)


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_plan_says_what_it_would_do_and_cost_and_does_nothing(type_: Type, spec: Path) -> None:
    done = type_("submit", str(spec), "--plan")
    assert done.exit_code == 0
    assert "would launch" in words(done.stdout)
    assert "an hour, at most $" in done.stdout
    name = yaml.safe_load(spec.read_text())["name"]
    missing = type_("show", name)
    assert (missing.exit_code, missing.stderr) == (1, f"Error: There is no run '{name}'. (404)\n")


def test_the_same_file_again_is_the_same_run_and_another_of_its_name_is_refused(type_: Type, spec: Path) -> None:
    first, again = type_("submit", str(spec)), type_("submit", str(spec))
    assert first.exit_code == again.exit_code == 0
    assert first.stderr.startswith("Submitted. ")
    assert again.stderr.startswith("There already (")
    spec.write_text(spec.read_text().replace("ref: main", "ref: other"))
    other = type_("submit", str(spec))
    assert other.exit_code == 1
    assert "another spec: choose another name" in words(other.stderr)
    assert type_("submit", str(spec), "--name", f"typed-{next(NUMBERS)}").exit_code == 0


def test_a_name_may_be_given_with_the_command_alone(type_: Type, spec: Path) -> None:
    spec.write_text(spec.read_text().replace("name: typed", "# typed"))
    assert "name" in type_("submit", str(spec), "--plan").stderr
    assert type_("submit", str(spec), "--plan", "--name", "named").exit_code == 0


def test_a_spec_comes_from_standard_input_too(type_: Type, spec: Path) -> None:
    assert type_("submit", "-", "--plan", says=spec.read_text()).exit_code == 0


def test_every_mistake_in_a_file_is_told_at_once_before_anything_is_asked(type_: Type, spec: Path) -> None:
    wrong = {**yaml.safe_load(spec.read_text()), "limits": {"duration": "soon"}, "chekpoint": {}}
    spec.write_text(yaml.safe_dump(wrong))
    done = type_("submit", str(spec), "--api", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "chekpoint" in done.stderr
    assert "limits.duration" in done.stderr
    missing = type_("submit", "nowhere.yaml")
    assert (missing.exit_code, missing.stderr) == (1, "Error: nowhere.yaml can't be read: No such file or directory.\n")


def test_a_run_is_seen_at_a_glance(type_: Type, run: str) -> None:
    shown = words(type_("show", run).stdout)
    assert f"run {run} RUNNING started" in shown
    assert "600 of" in shown
    assert "loss 0.25" in shown
    assert "● 1 i-" in shown
    assert "steps a second" in shown
    answered = json.loads(type_("show", run, "--json").stdout)
    assert (answered["name"], answered["step"]) == (run, 600)


def test_runs_are_listed_and_filtered(type_: Type, run: str) -> None:
    assert f"{run} RUNNING 500 $" in words(type_("runs").stdout)
    assert [each["name"] for each in json.loads(type_("runs", "--limit", "1", "--json").stdout)] == [run]
    assert run in type_("runs", "--status", "running").stdout
    none = type_("runs", "--status", "failed")
    assert (none.stdout, none.stderr) == ("", "No run is FAILED.\n")


def test_checkpoints_and_the_ledger_are_shown(type_: Type, run: str) -> None:
    assert f"1 500 yes runs/{run}/checkpoints/0001/" in words(type_("checkpoints", run).stdout)
    account = json.loads(type_("ledger", run, "--json").stdout)
    assert [line["entry"] for line in account["lines"]] == ["reserved"]
    shown = words(type_("ledger", run).stdout)
    assert "1 1 reserved" in shown
    assert "the cap" in shown


def test_a_run_is_suspended_resumed_and_cancelled(type_: Type, run: str) -> None:
    for command, status in (("suspend", "STOPPING"), ("resume", "RECOVERING"), ("cancel", "STOPPING")):
        done = type_(command, run)
        assert (done.exit_code, done.stderr.startswith(f"{run} is {status}. ")) == (0, True), done.stderr
    cheap = type_("resume", run, "--cost-usd", "0.01")
    assert cheap.exit_code == 1
    assert "must be at least limits.cost_usd" in cheap.stderr


def test_a_run_is_watched_to_its_end(type_: Type, run: str, deployed: Deployed) -> None:
    type_("cancel", run)
    agent = deployed.agent(deployed.instance(run, 1))
    left = {"code": 0, "reason": "user", "message": "Over.", "step": 600, "drained": True}
    agent.post("attempts", run, "1", "exit", body=left)
    deployed.stage.control.kill(deployed.instance(run, 1))
    done = type_("watch", run)
    assert done.exit_code == 1
    assert f"run {run} CANCELLED user" in words(done.stdout)
    told = [json.loads(line) for line in type_("events", run, "--follow", "--json").stdout.splitlines()]
    assert [event["message"] for event in told] == [
        line for event in told for line in [event["message"]] if line in done.stderr
    ]
    assert told[-1]["status"] == "CANCELLED"


def test_results_are_fetched_whole_and_never_outside_of_the_folder(
    type_: Type, run: str, deployed: Deployed, tmp_path: Path
) -> None:
    none = type_("results", run)
    assert (none.exit_code, none.stdout, none.stderr) == (0, "", f"{run} has left no results yet.\n")
    s3, prefix = deployed.stage.client("s3"), f"runs/{run}/results/0001/"
    given = {"metrics.json": b"{}", "plots/a b+c.png": b"p" * 3_000_000, "empty": b""}
    for path, body in given.items():
        s3.put_object(Bucket=deployed.bucket, Key=prefix + path, Body=body)
    assert "1 3.0 MB plots/a b+c.png" in words(type_("results", run).stdout)
    done = type_("results", run, "--to", str(tmp_path / "here"))
    assert done.exit_code == 0, done.output
    found = {
        str(p.relative_to(tmp_path / "here")): p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()
    }
    assert found == given
    s3.put_object(Bucket=deployed.bucket, Key=f"{prefix}../../escaped", Body=b"x")
    escaped = type_("results", run, "--to", str(tmp_path / "there"))
    assert escaped.exit_code == 1
    assert "it is not fetched" in escaped.stderr
    assert not (tmp_path / "escaped").exists()


def test_a_url_that_is_too_old_is_asked_for_anew(run: str, deployed: Deployed, tmp_path: Path) -> None:
    api = deployed.stage.api
    for path in ("a", "b"):
        key = f"runs/{run}/results/0001/{path}"
        deployed.stage.client("s3").put_object(Bucket=deployed.bucket, Key=key, Body=path.encode())

    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for file in fetch.found(api, run, None):
            old = replace(file, url=f"http://127.0.0.1:{server.server_address[1]}/")
            assert fetch.fetch(api, run, old, tmp_path, lambda _: None).read_text() == file.path
        server.shutdown()


def test_the_log_is_shown_and_followed_into_the_next_attempt(
    type_: Type, run: str, deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(attempt: int, *parts: bytes) -> None:
        for offset, part in enumerate(parts):
            key = f"runs/{run}/logs/{attempt:04d}/{offset:012d}.log"
            deployed.stage.client("s3").put_object(Bucket=deployed.bucket, Key=key, Body=part)

    def is_taken_back() -> None:
        deployed.stage.control.kill(deployed.instance(run, 1))
        until = time.monotonic() + 60
        while time.monotonic() < until:
            attempts = deployed.stage.api.get("runs", run)["attempts"]
            if len(attempts) == 2 and attempts[0]["ended_at"]:
                break
            time.sleep(0.1)
        write(2, b"of two\n")

    def ends() -> None:
        type_("cancel", run)
        deployed.stage.control.kill(deployed.instance(run, 2))
        assert type_("watch", run).exit_code == 1

    assert type_("logs", run).stderr == f"{run} has no log yet.\n"
    write(1, b"first\n" * 20_000, b"last of one\n")
    tail, whole = type_("logs", run).stdout, type_("logs", run, "--all").stdout
    assert whole == "first\n" * 20_000 + "last of one\n"
    assert whole.endswith(tail)
    assert 60_000 < len(tail) <= 64 * 1024
    happens = iter([is_taken_back, ends])
    monkeypatch.setattr(left_commands, "pause", lambda: next(happens, lambda: None)())
    followed = type_("logs", run, "--follow")
    assert followed.exit_code == 0, followed.output
    assert followed.stdout == tail + "of two\n"
    assert followed.stderr == "attempt 1\nattempt 2\n"
    assert type_("logs", run, "--attempt", "1", "--all").stdout == whole


def test_the_month_is_shown_and_its_limit_changed(type_: Type, run: str) -> None:
    shown = words(type_("budget").stdout)
    assert "reserved of $20.00" in shown
    assert f"{run} $0.00 $" in shown
    raised = json.loads(type_("budget", "--limit", "25.50", "--json").stdout)
    assert raised["limit_usd"] == "25.500000"
    low = type_("budget", "--limit", "0.01")
    assert low.exit_code == 1
    assert "settled and reserved already" in words(low.stderr)
    assert type_("budget", "--limit", "20").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("runs", "--api", "abc"), 2, "must be a URL"),
        (("runs", "--api", "http://127.0.0.1:9"), 1, "http://127.0.0.1:9 gives no answer"),
        (("runs", "--status", "asleep"), 2, "'queued'"),
        (("show", "../../etc"), 2, "'../../etc' must be 1 to 63 of a-z"),
        (("runs", "--stage", "elsewhere"), 1, "Nothing is deployed as stage elsewhere in us-east-1"),
    ],
)
def test_what_goes_wrong_is_one_sentence(type_: Type, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = type_(*arguments)
    assert (done.exit_code, said in words(done.stderr)) == (code, True), done.stderr
    assert "Traceback" not in done.output


def test_the_commands_of_the_documentation_do_what_they_say(type_: Type, deployed: Deployed, tmp_path: Path) -> None:
    name = f"documented-{next(NUMBERS)}"
    document = {**SPEC, "name": name, "source": {"repo": "/nowhere", "ref": "main"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    page = "".join((ROOT / path).read_text() for path in ("docs/commands.md", "README.md"))
    typed = [line.partition("#")[0].split()[1:] for line in page.splitlines() if line.startswith("spotrelay ")]
    assert {line[0] for line in typed} == set(main.commands) - {"deploy", "destroy", "doctor", "rehearse", "secret"}
    left: dict[str, Any] = {}
    for line in typed:
        given = {
            "run.yaml": str(tmp_path / "run.yaml"),
            "quickstart": name,
            "again": f"{name}-again",
            "here": str(tmp_path),
        }
        if line[0] == "watch" and not left:
            left = {"code": 0, "reason": "user", "message": "Over.", "drained": True}
            deployed.agent(deployed.instance(name, 1)).post("attempts", name, "1", "exit", body=left)
        done = type_(*(given.get(word, word) for word in line))
        assert done.exit_code == (1 if line[0] == "watch" else 0), done.output
    type_("cancel", f"{name}-again")
    type_("budget", "--limit", "20")


def test_who_watches_waits_for_an_api_that_is_away(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0)
    away, busy = ApiUnreachable("It gives no answer"), ApiRefused(503, {"message": "Busy"})
    answers = iter([RUN, away, busy, RUN, {**RUN, "status": "SUCCEEDED"}])

    class Api:
        def get(self, *path: str, **_: Any) -> Any:
            if path[-1] == "events":
                return {"events": [], "cursor": None}
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    api: Any = Api()
    with pytest.raises(SystemExit) as left:
        watch.follow(api, RUN["name"], as_json=False)
    assert left.value.code == 0
    said = words(capsys.readouterr().err)
    assert "It gives no answer; trying again" in said
    assert "Busy (503); trying again" in said


class Pages:
    """Events by number, as the API pages them: a cursor where there are more."""

    def __init__(self, most: int) -> None:
        self.events, self._most = 0, most

    def get(self, *_: str, limit: int, cursor: str | None) -> dict[str, Any]:
        first = int(cursor or 0)
        last = min(self.events, first + min(limit, self._most))
        return {"events": list(range(first, last)), "cursor": str(last) if last < self.events else None}


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_each_event_is_told_once_however_they_come(most: int) -> None:
    pages: Any = Pages(most)
    timeline, told = watch.Timeline(pages, "run"), list[Any]()
    for more in (0, 3, 0, 1, 6, 4):
        pages.events += more
        told += timeline.new()
        assert told == list(range(pages.events))
