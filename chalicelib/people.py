"""The people's routes: submit a run, look at it, cancel, suspend and resume it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from chalicelib import admission, money, scoped, views
from chalicelib.bucket import checkpoint_prefix, run_prefix
from chalicelib.codec import Unreadable
from chalicelib.contracts import spec as specs
from chalicelib.contracts.errors import ApiError
from chalicelib.contracts.names import is_run_name
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Limits, Reason, Run, Status
from chalicelib.pools import named_at
from chalicelib.records import BadCursor
from chalicelib.store import Exists
from chalicelib.subscribers import subscribe

_PAGE, _MOST = 20, 100
_LINES = 1000
_NO_CURSOR = "is none that was answered; begin without one"
_EVENT = re.compile(r"[0-9]{8,12}#[0-9]{2,12}")
_NUMBERS = re.compile(r"([0-9]{1,4})-([0-9]{1,12})")


def submit(c: Controller, body: object, by: str) -> tuple[int, dict[str, Any]]:
    """201 and the new run, or 200 and the one of that name with the same spec. Raises ApiError 400, 402, 409, 503."""
    spec = _spec(c, body)
    document, digest = specs.dump(spec), specs.canonical_hash(spec)
    existing = _same_run(c, spec.name, digest)
    if existing is None:
        _must_be_unused(c, spec.name)
        try:
            c.store.create(_new_run(c, spec, by), document, digest)
        except Exists:
            # Somebody submitted it between our look and our write: theirs is the run. Or it is ours, written twice.
            existing = _same_run(c, spec.name, digest) or {}
    # Whoever asks again may not have been answered: what comes after the run's own write is done once more.
    c.bucket.put_spec(spec.name, document)
    if existing is None:
        c.shell.tell(spec.name, ev.Submitted())
    _subscribe(c, spec)
    return (201, get(c, spec.name)) if existing is None else (200, existing)


def _subscribe(c: Controller, spec: specs.RunSpec) -> None:
    if spec.notify and c.settings.topic_arn:
        subscribe(c.sns, c.settings.topic_arn, spec.name, spec.notify)


def _same_run(c: Controller, name: str, digest: str) -> dict[str, Any] | None:
    known = c.store.spec(name)
    if known is None:
        return None
    if known[1] != digest:
        raise ApiError(409, "conflict", f"There is a run {name!r} with another spec: choose another name.")
    return get(c, name)


def _must_be_unused(c: Controller, name: str) -> None:
    """The bucket outlives a deployment: what a run of an earlier one left there must not be taken for this one's (I4)."""
    if c.bucket.holds(name):
        where = f"s3://{c.bucket.name}/{run_prefix(name)}"
        raise ApiError(
            409,
            "name_used",
            f"The bucket holds what a run {name!r} of an earlier deployment left: choose another name, or move {where} away.",
            [{"field": "name", "value": name, "message": "must not be that of a run whose results are in the bucket"}],
        )


def plan(c: Controller, body: object) -> dict[str, Any]:
    """What a submission would do and cost now; nothing is done. Raises ApiError 400, 409, 503."""
    spec = _spec(c, body)
    known = _same_run(c, spec.name, specs.canonical_hash(spec))
    if known is None:
        _fits(c, spec)
        _must_be_unused(c, spec.name)
    facts = admission.gather(c, spec)
    judged = admission.judge(spec, facts, c.clock(), c.policy)
    if known is not None:
        judged = replace(judged, would="nothing", message=f"The run is there already: {known['status']}.")
    return admission.plan(spec, facts, judged)


def _spec(c: Controller, body: object) -> specs.RunSpec:
    try:
        return specs.parse(body, allow_local=c.settings.allow_local)
    except specs.SpecError as error:
        raise ApiError.bad_spec(error) from error


def _fits(c: Controller, spec: specs.RunSpec) -> None:
    """Raises ApiError 400 when what the run may reach can't be written into one session policy: it could never start."""
    inputs = [each.from_ for each in spec.inputs]
    named = [*spec.secrets.values(), *([spec.source.token] if spec.source.token else [])]
    size = len(scoped.text(scoped.policy(c.settings, c.region, spec.name, 9999, inputs, named)))
    if size > scoped.MOST_CHARACTERS:
        field = "inputs" if sum(map(len, inputs)) > sum(map(len, named)) else "secrets"
        raise ApiError.wrong_field(
            field,
            f"{len(getattr(spec, field))} of them",
            f"makes the policy of the run's credentials {size} characters long, and AWS takes {scoped.MOST_CHARACTERS}: "
            "use fewer or shorter names",
        )


def _new_run(c: Controller, spec: specs.RunSpec, by: str) -> Run:
    now = c.clock()
    _fits(c, spec)
    facts = admission.gather(c, spec)
    admission.judge(spec, facts, now, c.policy).refuse()
    limits = Limits(
        cost_usd=spec.limits.cost_usd,
        duration=spec.limits.duration,
        attempts=spec.limits.attempts,
        attempts_without_progress=spec.limits.attempts_without_progress,
        disk_gb=spec.resources.disk_gb,
        wait_for_budget=spec.limits.wait_for_budget,
    )
    return Run(
        name=spec.name,
        uid=c.new_id(),
        status=Status.QUEUED,
        reason=Reason.SUBMITTED,
        message="Accepted.",
        created_at=now,
        created_by=by,
        limits=limits,
        deadline=now,
        offers=tuple(p.offer for p in facts.pools),
        offered_at=named_at(facts.pools, now),
    )


def get(c: Controller, name: str) -> dict[str, Any]:
    run = load(c, name)
    return views.run_view(run, _document(c, name), c.records.beats(name), c.records.results(name))


def _document(c: Controller, name: str) -> dict[str, Any] | None:
    """The spec, to be shown; None when it can't be read."""
    try:
        found = c.store.spec(name)
    except Unreadable as error:
        c.saw(error)
        return None
    return found[0] if found else None


def list_runs(c: Controller, query: Mapping[str, str]) -> dict[str, Any]:
    """Newest first. `status` filters, `limit` bounds, `cursor` goes on. `unreadable` names those that can't be shown."""
    limit = page_size(query)
    wanted = query.get("status")
    if wanted is not None and wanted not in Status.__members__:
        raise ApiError.wrong_field("status", wanted, f"is no status; there are {', '.join(Status)}")
    cursor: str | None = query.get("cursor") or None
    found: list[dict[str, Any]] = []
    unreadable: list[str] = []
    while True:
        try:
            names, cursor = c.records.runs(limit - len(found), cursor)
        except BadCursor as error:
            raise ApiError.wrong_field("cursor", str(error), _NO_CURSOR) from error
        for name in names:
            try:
                run = c.store.load(name)
            except Unreadable as error:
                c.saw(error)
                unreadable.append(name)
                continue
            if run is not None and wanted in (None, run.status.value):
                found.append(views.run_view(run))
        if cursor is None or len(found) >= limit:
            return {"runs": found, "unreadable": unreadable, "cursor": cursor}


def ask(c: Controller, name: str, what: str, by: str, cost_usd: Decimal | None = None) -> dict[str, Any]:
    """Cancel, suspend or resume; asking again for what is so already changes nothing. Raises ApiError 404, 409.

    `cost_usd` comes with a resume: a new limits.cost_usd, not below the old one.
    """
    run = load(c, name)
    if run.status.ended and not (what == "cancel" and run.status is Status.CANCELLED):
        raise ApiError(409, "ended", f"The run {name!r} has ended ({run.status.value}); it can't {what} any more.")
    if cost_usd is not None and cost_usd < run.limits.cost_usd:
        raise ApiError.wrong_field(
            "cost_usd", str(cost_usd), f"must be at least limits.cost_usd, {run.limits.cost_usd}"
        )
    asked: ev.Event
    match what:
        case "cancel":
            asked = ev.CancelAsked(by)
        case "suspend":
            asked = ev.SuspendAsked(by)
        case _:
            asked = ev.ResumeAsked(by, cost_usd=cost_usd)
            offers = c.offers_if_old(run)
            if offers:
                c.shell.tell(name, offers)
    c.shell.tell(name, asked)
    return get(c, name)


def events(c: Controller, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    load(c, name)
    cursor = query.get("cursor") or ""
    if cursor and not _EVENT.fullmatch(cursor):
        raise ApiError.wrong_field("cursor", cursor, _NO_CURSOR)
    items, more = c.store.timeline(name, page_size(query), cursor)
    return {"events": [views.event_view(item) for item in items], "cursor": more}


def checkpoints(c: Controller, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Whole checkpoints, newest first, and whether each counts for a resume. `limit` bounds, `cursor` goes on."""
    run, limit, after = load(c, name), page_size(query, _MOST), _after(query)
    fixed = {f.attempt: f.step for f in run.counted}
    found: list[dict[str, Any]] = []
    for attempt in reversed(c.bucket.attempts(name)):
        if after and attempt > after[0]:
            continue
        at_most = after[1] - 1 if after and attempt == after[0] else None
        for step in c.bucket.whole(name, attempt, at_most):
            if len(found) == limit:
                return {"checkpoints": found, "cursor": f"{found[-1]['attempt']}-{found[-1]['step']}"}
            prefix, counts = checkpoint_prefix(name, attempt, step), step <= fixed.get(attempt, step)
            found.append({"attempt": attempt, "step": step, "prefix": prefix, "counts": counts})
    return {"checkpoints": found, "cursor": None}


def ledger(c: Controller, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """The run's account, and its lines, oldest first. `limit` bounds them, `cursor` goes on."""
    load(c, name)
    limit, after = page_size(query, _LINES, _LINES), _after(query)
    answer = money.lines(c, name)
    left = [line for line in answer["lines"] if not after or (line["attempt"], line["seq"]) > after]
    more = f"{left[limit - 1]['attempt']}-{left[limit - 1]['seq']}" if len(left) > limit else None
    return {**answer, "lines": left[:limit], "cursor": more}


def load(c: Controller, name: str) -> Run:
    """Raises ApiError 404."""
    # Nothing else was ever a run's name; a long one would be no key of the table.
    run = c.store.load(name) if is_run_name(name) else None
    if run is None:
        raise ApiError(404, "not_found", f"There is no run {name[:100]!r}.")
    return run


def page_size(query: Mapping[str, str], usual: int = _PAGE, most: int = _MOST) -> int:
    """How many of a list are asked for. Raises ApiError 400."""
    given = query.get("limit")
    if not given:
        return usual
    if not re.fullmatch(r"[0-9]{1,6}", given) or not 1 <= int(given) <= most:
        raise ApiError.wrong_field("limit", given, f"must be a whole number from 1 to {most}")
    return int(given)


def _after(query: Mapping[str, str]) -> tuple[int, int] | None:
    """Where to go on: attempt, and step or number of the line."""
    given = query.get("cursor")
    if not given:
        return None
    found = _NUMBERS.fullmatch(given)
    if not found:
        raise ApiError.wrong_field("cursor", given, _NO_CURSOR)
    return int(found[1]), int(found[2])
