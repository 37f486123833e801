"""The agents' routes: an instance asks for its work, says how it goes, and reports its end.

Who calls is read from the caller's ARN: the session name of an instance's role is its instance id. A caller that is not
the attempt's own instance is refused, and one that the run does not know yet is adopted when EC2's tags name the attempt.
"""

from __future__ import annotations

import re
from typing import Any

from chalicelib.bucket import checkpoint_prefix, run_prefix
from chalicelib.contracts.api import ClaimRequest, ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from chalicelib.contracts.names import is_run_name
from chalicelib.controller import Controller
from chalicelib.core import answers, leases
from chalicelib.core import events as ev
from chalicelib.core.answers import Action
from chalicelib.core.apply import may_take
from chalicelib.core.figures import Name, steps_lost
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Counted, Reason, Run
from chalicelib.records import Beat
from chalicelib.scoped import command_policy, credentials, policy, secret_path
from chalicelib.store import OverLimit
from chalicelib.telemetry import about

_CALLER = re.compile(r"arn:aws[\w-]*:sts::\d{12}:assumed-role/(?P<role>[\w+=,.@-]+)/(?P<instance>i-[0-9a-f]{8,17})")
_ASK_AGAIN_S = 2.0  # how often a waiting successor asks for the baton: it is part of every training pause


@dataclass(frozen=True)
class Caller:
    """The attempt that calls, after it was made sure that it is the one."""

    run: Run
    attempt: Attempt
    instance_id: str


def identify(c: Controller, arn: str, name: str, number: int) -> Caller:
    """The caller as the run's own attempt. Raises ApiError 403, 404, or 409 `retry` while EC2 is not sure yet."""
    found = _CALLER.fullmatch(arn)
    if not found or found["role"] != c.settings.instance_role:
        raise ApiError(403, "not_an_instance", "Only an instance that Spot Relay launched may call this route.")
    instance_id = found["instance"]
    run = c.store.load(name) if is_run_name(name) else None
    if run is None:
        raise ApiError(404, "not_found", f"There is no run {name!r}.")
    attempt = run.attempt(number)
    if attempt is None:
        raise ApiError(404, "not_found", f"The run {name!r} has no attempt {number}.")
    if attempt.instance_id is None and attempt.live and attempt.launch:
        launched = c.fleet.find(name, attempt)
        if launched is None or launched.instance_id != instance_id:
            raise ApiError(409, "retry", "This instance is not recorded yet.", retry_in_s=2)
        run = c.shell.tell(name, launched) or run
        attempt = run.attempts[number - 1]
    if attempt.instance_id != instance_id:
        raise ApiError(403, "not_your_attempt", f"Attempt {number} of {name!r} belongs to another instance.")
    return Caller(run, attempt, instance_id)


def claim(c: Controller, caller: Caller, body: ClaimRequest) -> dict[str, Any]:
    name, number = caller.run.name, caller.attempt.number

    def claimed(run: Run) -> ev.Claimed:
        # Listed only after the version of the run was read that this claim is written onto, never before.
        takes = body.ready and may_take(run, number, c.clock(), c.policy)
        published = c.bucket.published(run, number) if takes else None
        return ev.Claimed(number, caller.instance_id, body.ready, published)

    run = c.shell.tell(name, claimed)
    assert run is not None
    answer = answers.claim(run, number, body.ready)
    told = {"action": answer.action.value, "reason": str(answer.reason), "message": answer.message}
    match answer.action:
        case Action.PREPARE:
            spec = _spec(c, name)
            return {
                **told,
                **_work(c, run, number, spec),
                **_lease(c, run, number),
                **_all_credentials(c, run, number, spec),
            }
        case Action.WAIT:
            return {**told, "retry_in_s": _ASK_AGAIN_S * c.settings.time_scale, **_lease(c, run, number)}
        case Action.RESTORE:
            torn = {(t.attempt, t.step) for t in body.torn}
            offered = [_offered(run, f) for f in c.bucket.restorable(run) if (f.attempt, f.step) not in torn]
            if caller.run.baton != number:
                _count_lost(c, run, number, offered[0]["step"] if offered else None)
            return {
                **told,
                "checkpoint": offered[0] if offered else None,
                "older": offered[1:],
                **_lease(c, run, number),
            }
        case _:
            return told


def _count_lost(c: Controller, run: Run, number: int, restored: int | None) -> None:
    """What earlier attempts had trained, as their last heartbeats said, and this one trains again."""
    if number > 1:
        steps = [b.step for b in c.records.beats(run.name).values() if b.attempt < number and b.step is not None]
        lost = steps_lost(max(steps, default=None), restored)
        c.telemetry.count(Name.STEPS_LOST, lost, **about(run, run.attempt(number)))


def heartbeat(c: Controller, caller: Caller, body: HeartbeatRequest) -> dict[str, Any]:
    name, number = caller.run.name, caller.attempt.number
    told = body.checkpoint
    now = c.clock()
    beat = ev.Beat(
        number,
        caller.instance_id,
        step=told.step if told else None,
        final=bool(told and told.final),
        notice_ends_at=body.notice_at,
    )
    run = c.shell.tell(name, beat)
    assert run is not None
    published = told is not None and told.step != caller.attempt.step
    c.records.heard(
        name,
        Beat(
            attempt=number,
            at=now,
            phase=body.phase,
            step=body.step,
            metrics=body.metrics,
            commit=body.commit,
            checkpoint=told.model_dump() if told else None,
            checkpoint_at=now if published else None,
        ),
    )
    run = _renewed(c, run, number)
    answer = answers.heartbeat(run, number)
    lease = _lease(c, run, number)
    # An agent that does not know the lease that stands has missed an answer, and with it the credentials that came along.
    stale = answer.action is not Action.SUPERSEDED and body.lease_end != lease.get("lease_end")
    return {
        "action": answer.action.value,
        "reason": str(answer.reason),
        "message": answer.message,
        **lease,
        **(
            _all_credentials(c, run, number, _spec(c, name))
            if stale
            else {"credentials": None, "command_credentials": None}
        ),
    }


def leave(c: Controller, caller: Caller, body: ExitRequest) -> dict[str, Any]:
    """The agent's last word. A success is believed when the metrics in the bucket have the keys that the spec requires."""
    name, number = caller.run.name, caller.attempt.number
    reason, message = Reason(body.reason), body.message
    results = body.results.model_dump() if body.results else None
    if reason is Reason.DONE:
        missing = _missing_metrics(c, caller.run, number)
        if missing:
            reason = Reason.METRICS_MISSING
            message = f"The results in the bucket lack {', '.join(missing)}."
    if results:
        c.records.left(name, number, results, c.clock())
    exited = ev.Exited(
        number, caller.instance_id, reason, message, code=body.code, step=body.step, drained=body.drained
    )
    run = c.shell.tell(name, exited)
    assert run is not None
    linger = answers.linger(run, number, c.clock(), c.policy)
    return {"linger_s": linger.total_seconds()}


def _missing_metrics(c: Controller, run: Run, number: int) -> list[str]:
    spec = _spec(c, run.name)
    required = list(spec["results"]["require"])
    name = spec["results"]["metrics"]
    if not required or not name:
        return []
    found = c.bucket.metrics(run.name, number, name)
    if found is None:
        return [f"{name} with {', '.join(required)}"]
    return [key for key in required if _at(found, key) is None]


def _at(document: Any, key: str) -> Any:
    """A value by its key; a dot reaches into an object (`eval.reward`), unless the key itself has it."""
    if isinstance(document, dict) and key in document:
        return document[key]
    for part in key.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _renewed(c: Controller, run: Run, number: int) -> Run:
    """The run with the attempt's next lease, when one is due and paid for; drained when it is not."""
    attempt = run.attempt(number)
    if attempt is None or run.status.ended or not answers.renewal_due(attempt, c.clock(), c.policy):
        return run
    try:
        return c.shell.tell(run.name, lambda current: _renewal(c, current, number)) or run
    except OverLimit as refusal:
        if len(run.live) > 1:
            return run  # two leases of the run stand during a handoff; one is about to come back, and it is asked again
        reason = Reason.RUN_BUDGET if refusal.which == "run" else Reason.BUDGET
        return c.shell.tell(run.name, ev.SuspendAsked("spot-relay", reason)) or run


def _renewal(c: Controller, run: Run, number: int) -> ev.Renewed | None:
    """What was used so far is settled with it, at what EC2 says it cost; None when another heartbeat was first."""
    attempt, now = run.attempts[number - 1], c.clock()
    if attempt.lease is None or not answers.renewal_due(attempt, now, c.policy):
        return None
    found = c.meter.evidence(run, attempt, now)
    used = leases.usage(run, attempt, now, found, c.policy)
    # Prices are kept fresh in a write that is made anyway: of ten thousand runs the sweep need not write one.
    return ev.Renewed(number, attempt.lease.seq, used, c.offers_for_later(run))


def _work(c: Controller, run: Run, number: int, spec: dict[str, Any]) -> dict[str, Any]:
    source = c.bucket.source(run.name)
    stage = c.settings.stage
    token = spec["source"].get("token")
    return {
        "run": run.name,
        "attempt": number,
        "spec": spec,
        "bucket": c.settings.bucket,
        "prefix": run_prefix(run.name),
        "commit": source.commit if source else None,
        "source": source.key if source else None,
        "secrets": {
            "token": secret_path(stage, token) if token else None,
            "env": {name: secret_path(stage, secret) for name, secret in spec["secrets"].items()},
        },
        "log_group": c.settings.log_group,
    }


def _all_credentials(c: Controller, run: Run, number: int, spec: dict[str, Any]) -> dict[str, dict[str, str] | None]:
    """The agent's, and those that the spec asks for its command."""
    lent = None
    if spec.get("aws_credentials"):
        narrower = command_policy(c.settings, run.name, number, [each["from"] for each in spec["inputs"]])
        lent = credentials(c.sts, c.settings, run.name, number, narrower)
    return {"credentials": _credentials(c, run, number, spec), "command_credentials": lent}


def _credentials(c: Controller, run: Run, number: int, spec: dict[str, Any]) -> dict[str, str]:
    inputs = [each["from"] for each in spec["inputs"]]
    named = [*spec["secrets"].values(), *([spec["source"]["token"]] if spec["source"].get("token") else [])]
    document = policy(c.settings, c.region, run.name, number, inputs, named)
    return credentials(c.sts, c.settings, run.name, number, document)


def _spec(c: Controller, name: str) -> dict[str, Any]:
    found = c.store.spec(name)
    assert found is not None
    return found[0]


def _offered(run: Run, found: Counted) -> dict[str, Any]:
    prefix = checkpoint_prefix(run.name, found.attempt, found.step)
    return {"attempt": found.attempt, "step": found.step, "prefix": prefix}


def _lease(c: Controller, run: Run, number: int) -> dict[str, Any]:
    attempt = run.attempt(number)
    if attempt is None or attempt.lease is None:
        return {}
    return {
        "lease_end": attempt.lease.end.isoformat(),
        "lease_s": max(0.0, (attempt.lease.end - c.clock()).total_seconds()),
        "heartbeat_s": answers.beat_every(run, number, c.policy).total_seconds(),
    }
