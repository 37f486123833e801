"""Walk once with everything allowed, then once without each part of it, until something that it needs is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from spotrelay.privileges import walk
from spotrelay.privileges.decisions import Decision, Reader, refusal, used
from spotrelay.privileges.kept import Kept
from spotrelay.privileges.removal import removed
from spotrelay.privileges.report import NOT_WALKED
from spotrelay.privileges.results import Broken
from spotrelay.privileges.statements import Attachment, Part, parts
from spotrelay.rehearsal.job import Job
from spotrelay.rehearsal.stage import STAGE, Stage

Say = Callable[[str], None]
SETTLE_S = 0.5


class NotWholeError(Exception):
    """The walk with everything allowed did not succeed, so that nothing can be concluded from one with less."""


class _Refused(Exception):
    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.action)
        self.decision = decision


def prove(stage: Stage, job: Job, decisions: Path, kept: Kept, say: Say, only: Iterable[str] = ()) -> list[Broken]:
    """One result for each statement and attachment; what is kept is taken as it is. Raises NotWholeError.

    `only` chooses some by a word in their names.
    """
    iam, reader = stage.client("iam"), Reader(decisions)
    every = parts(iam, f"spot-relay-{STAGE}-")
    walk.prepare(stage)
    reader.new()
    whole = _whole(stage, job, reader, say)
    results = []
    walked = [p for p in every if isinstance(p, Attachment) or p.sid not in NOT_WALKED]
    chosen = [p for p in walked if not list(only) or any(word in p.name for word in only)]
    for number, part in enumerate(chosen, 1):
        unused = tuple(sorted(set(part.actions) - used(part, whole)))
        before = kept.of(part)
        if before is not None and not before.idle and used(part, whole):
            say(f"{number}/{len(chosen)} {part.name}: known")
            results.append(replace(before, unused=unused))
            continue
        began = time.monotonic()
        refused, status = _without(stage, job, reader, part, f"walk-{number}")
        results.append(Broken(part, refused, status, unused, time.monotonic() - began))
        kept.add(results[-1])
        what = f"{refused.role} was refused {refused.action}" if refused else f"the run ended as {status or 'nothing'}"
        say(f"{number}/{len(chosen)} {part.name}: {what} ({results[-1].seconds:.0f} s)")
    return results


def _whole(stage: Stage, job: Job, reader: Reader, say: Say) -> list[Decision]:
    made: list[Decision] = []
    began = time.monotonic()
    try:
        status = walk.walk(stage, job, "walk-whole", lambda: made.extend(reader.new()))
    finally:
        walk.clean(stage, "walk-whole")
    refusals = sorted({f"{d.role} {d.action} on {d.resource}" for d in made if not d.allowed})
    say(f"with everything allowed: {status}, {len(made)} decisions, {time.monotonic() - began:.0f} s")
    if status != "SUCCEEDED" or refusals:
        raise NotWholeError(f"The whole walk ended as {status}; refused: {', '.join(refusals) or 'nothing'}.")
    return made


def _without(stage: Stage, job: Job, reader: Reader, part: Part, name: str) -> tuple[Decision | None, str]:
    def look() -> None:
        refused = refusal(part, reader.new())
        if refused:
            raise _Refused(refused)

    reader.new()
    try:
        with removed(stage.client("iam"), part):
            return None, walk.walk(stage, job, name, look)
    except _Refused as found:
        return found.decision, ""
    finally:
        walk.clean(stage, name)
        time.sleep(SETTLE_S)
