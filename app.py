"""The Lambda's handlers: route or event in, call, answer out. What they do is in `chalicelib`.

Imports that only the routes need are made there, so that an interruption's handler starts without them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

from chalice.app import Chalice, CloudWatchEvent, ConvertToMiddleware, IAMAuthorizer, Rate, Response

from chalicelib.codec import Unreadable
from chalicelib.contracts.names import is_run_name
from chalicelib.controller import Controller, controller
from chalicelib.parse import Malformed, parse
from chalicelib.telemetry import about, logger

_OF_EC2 = {"source": ["aws.ec2"]}
_GONE = ["shutting-down", "terminated", "stopping", "stopped"]
_MOST_BODY = 64 * 1024
_JSON = {"Content-Type": "application/json"}
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")

app = Chalice(app_name="spot-relay", configure_logs=False)
app.register_middleware(ConvertToMiddleware(logger.inject_lambda_context(clear_state=True)), "all")
signed = IAMAuthorizer()


# -- events ----------------------------------------------------------------------------------------------------------


@app.on_cw_event({**_OF_EC2, "detail-type": ["EC2 Spot Instance Interruption Warning"]})
def on_warning(event: CloudWatchEvent) -> None:
    """EC2 takes an instance back in two minutes."""
    _on_instance(event)


@app.on_cw_event({**_OF_EC2, "detail-type": ["EC2 Instance State-change Notification"], "detail": {"state": _GONE}})
def on_state_change(event: CloudWatchEvent) -> None:
    """An instance of the account ends."""
    _on_instance(event)


def _on_instance(event: CloudWatchEvent) -> None:
    c = controller()
    counted = len(c.counter.calls)
    try:
        ours = parse(event.to_dict(), c.policy.notice)
    except Malformed as error:
        # Permanent: raising would only have Lambda deliver it twice more.
        c.saw(Unreadable(f"EVENT / {event.detail_type}", str(error)))
        return
    if ours is None:
        return
    logger.append_keys(instance_id=ours.instance_id)
    try:
        run = c.shell.on_instance(ours)
    except Unreadable as error:
        c.saw(error)  # as permanent; when it has been mended, the sweep finds out what the event would have told
        return
    except Exception:
        logger.exception("instance event failed")
        raise
    if run is not None:
        attempt = next((a for a in run.attempts if a.instance_id == ours.instance_id), None)
        keys = {"kind": type(ours).__name__, **about(run, attempt), **_counted(c, counted)}
        logger.info("instance event", extra=keys)


def _counted(c: Controller, since: int) -> dict[str, Any]:
    """The AWS calls made since then, and how many of them it took until a launch was answered."""
    calls = c.counter.calls[since:]
    launch = next((n for n, call in enumerate(calls, 1) if call.endswith("CreateFleet")), None)
    return {"calls": calls, "calls_to_launch": launch}


@app.schedule(Rate(1, unit=Rate.MINUTES))
def sweep(event: CloudWatchEvent) -> dict[str, Any]:
    """Do whatever an event should have done and did not."""
    from chalicelib.slices import Others, slice_in
    from chalicelib.upkeep import one_slice, whole_pass

    c = controller()
    context: Any = event.context
    others = Others(lambda: c.functions, c.settings.sweep, lambda: context.get_remaining_time_in_millis() / 1000)
    part = slice_in(event.to_dict())
    report = one_slice(c, part, others) if part else whole_pass(c, others)
    c.telemetry.swept(report)
    if report.handed_over or report.late:
        logger.warning("more than one pass", extra={"handed_over": report.handed_over, "late": report.late})
    report.check()
    return {"runs": report.runs, "instances": report.instances, "strays": report.strays}


# -- people's routes ---------------------------------------------------------------------------------------------------


@app.route("/runs", methods=["POST"], authorizer=signed)
def submit_run() -> Response:
    def act() -> Response:
        from chalicelib import people

        if _flag("plan"):
            return _answer(people.plan(controller(), _body()))
        status, run = people.submit(controller(), _body(), _caller())
        logger.append_keys(run=run["name"])
        return _answer(run, status, {"Location": f"/runs/{run['name']}"})

    return _guarded(act)


@app.route("/runs", methods=["GET"], authorizer=signed)
def list_runs() -> Response:
    return _people(lambda people, c: people.list_runs(c, _query()))


@app.route("/runs/{run}", methods=["GET"], authorizer=signed)
def get_run(run: str) -> Response:
    return _people(lambda people, c: people.get(c, run), run)


@app.route("/runs/{run}/cancel", methods=["POST"], authorizer=signed)
def cancel_run(run: str) -> Response:
    return _people(lambda people, c: people.ask(c, run, "cancel", _caller()), run)


@app.route("/runs/{run}/suspend", methods=["POST"], authorizer=signed)
def suspend_run(run: str) -> Response:
    return _people(lambda people, c: people.ask(c, run, "suspend", _caller()), run)


@app.route("/runs/{run}/resume", methods=["POST"], authorizer=signed)
def resume_run(run: str) -> Response:
    def ask(people: Any, c: Controller) -> dict[str, Any]:
        from chalicelib.contracts import api

        body = api.validate_request(api.ResumeRequest, _body() or {})
        return dict(people.ask(c, run, "resume", _caller(), body.cost_usd))

    return _people(ask, run)


@app.route("/runs/{run}/events", methods=["GET"], authorizer=signed)
def run_events(run: str) -> Response:
    return _people(lambda people, c: people.events(c, run, _query()), run)


@app.route("/runs/{run}/checkpoints", methods=["GET"], authorizer=signed)
def run_checkpoints(run: str) -> Response:
    return _people(lambda people, c: people.checkpoints(c, run, _query()), run)


@app.route("/runs/{run}/ledger", methods=["GET"], authorizer=signed)
def run_ledger(run: str) -> Response:
    return _people(lambda people, c: people.ledger(c, run, _query()), run)


@app.route("/runs/{run}/results", methods=["GET"], authorizer=signed)
def run_results(run: str) -> Response:
    return _people(lambda files, c: files.results(c, run, _query()), run, "files")


@app.route("/runs/{run}/logs", methods=["GET"], authorizer=signed)
def run_logs(run: str) -> Response:
    return _people(lambda files, c: files.logs(c, run, _query()), run, "files")


@app.route("/budget", methods=["GET", "PUT"], authorizer=signed)
def budget() -> Response:
    def act() -> Response:
        from chalicelib import money
        from chalicelib.contracts import api
        from chalicelib.contracts.money import BudgetChange

        request = app.current_request
        if request is not None and request.method == "PUT":
            return _answer(money.set_limit(controller(), api.validate_request(BudgetChange, _body()), _caller()))
        return _answer(money.budget(controller()))

    return _guarded(act)


@app.route("/openapi.json", methods=["GET"], authorizer=signed)
def openapi() -> Response:
    def act() -> Response:
        from chalicelib.contracts import openapi as described

        return _answer(described.document())

    return _guarded(act)


def _people(
    ask: Callable[[Any, Controller], dict[str, Any]], run: str | None = None, module: str = "people"
) -> Response:
    """What a module of `chalicelib` answers; it is given to `ask`, since only these routes need it."""
    return _guarded(lambda: _answer(ask(import_module(f"chalicelib.{module}"), controller())), run)


# -- agents' routes ------------------------------------------------------------------------------------------------------


@app.route("/attempts/{run}/{attempt}/claim", methods=["POST"], authorizer=signed)
def claim(run: str, attempt: str) -> Response:
    return _agent(run, attempt, "claim")


@app.route("/attempts/{run}/{attempt}/heartbeat", methods=["POST"], authorizer=signed)
def heartbeat(run: str, attempt: str) -> Response:
    return _agent(run, attempt, "heartbeat")


@app.route("/attempts/{run}/{attempt}/exit", methods=["POST"], authorizer=signed)
def leave(run: str, attempt: str) -> Response:
    return _agent(run, attempt, "exit")


def _agent(run: str, attempt: str, what: str) -> Response:
    def act() -> Response:
        from chalicelib import agents
        from chalicelib.contracts import api

        c = controller()
        since = len(c.counter.calls)
        number = int(attempt) if _NUMBER.fullmatch(attempt) else 0
        logger.append_keys(attempt=number)
        caller = agents.identify(c, _caller(), run, number)
        logger.append_keys(instance_id=caller.instance_id)
        if what == "claim":
            return _answer(agents.claim(c, caller, api.validate_request(api.ClaimRequest, _body())))
        if what == "heartbeat":
            told = agents.heartbeat(c, caller, api.validate_request(api.HeartbeatRequest, _body()))
            counted = _counted(c, since)
            if counted["calls_to_launch"]:
                # A notice that the instance saw before EC2's event came.
                logger.info("launched on a heartbeat", extra=counted)
            return _answer(told)
        return _answer(agents.leave(c, caller, api.validate_request(api.ExitRequest, _body())))

    # An agent takes 503 for a controller that is away: it trains on, and saves before its lease ends.
    return _guarded(act, run, unreadable=503)


# -- requests and answers --------------------------------------------------------------------------------------------------


def _guarded(act: Callable[[], Response], run: str | None = None, unreadable: int = 409) -> Response:
    """Every error in the one shape; what was not foreseen says nothing of its inside."""
    from chalicelib.contracts.errors import ApiError

    try:
        if run is not None:
            if not is_run_name(run):
                raise ApiError(404, "not_found", f"There is no run {run[:100]!r}.")
            logger.append_keys(run=run)
        return act()
    except ApiError as error:
        return _answer(error.body(), error.status)
    except Unreadable as error:
        controller().saw(error)
        return _answer(ApiError.unreadable(error.what, unreadable).body(), unreadable)
    except Exception:
        logger.exception("request failed")
        broke = ApiError(500, "internal", "Something broke here; it was logged. Try again.")
        return _answer(broke.body(), broke.status)


def _answer(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status_code=status, headers={**_JSON, **(headers or {})})


def _body() -> Any:
    from chalicelib.contracts.errors import ApiError

    request = app.current_request
    raw = request.raw_body if request is not None else b""
    if len(raw) > _MOST_BODY:
        raise ApiError(413, "too_large", f"The body has {len(raw)} bytes; at most {_MOST_BODY} are taken.")
    try:
        body = json.loads(raw or b"null", parse_constant=_no_number, object_pairs_hook=_once)
        json.dumps(body, ensure_ascii=False).encode()  # half of a surrogate pair is no text that could be kept
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "bad_request", f"The body is no JSON: {str(error)[:300]}.") from error
    return body


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON's")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that names each key once: of two, nobody could say which was meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return found


def _query() -> dict[str, str]:
    request = app.current_request
    return dict(request.query_params or {}) if request is not None else {}


def _flag(name: str) -> bool:
    """Raises ApiError 400 for what is neither true nor false."""
    from chalicelib.contracts.errors import ApiError

    given = _query().get(name, "false").lower()
    if given not in ("true", "false"):
        raise ApiError.wrong_field(name, given, "must be true or false")
    return given == "true"


def _caller() -> str:
    """The caller's ARN, as API Gateway's IAM authorizer established it."""
    request = app.current_request
    identity = request.context.get("identity", {}) if request is not None else {}
    return str(identity.get("userArn") or "unknown")
