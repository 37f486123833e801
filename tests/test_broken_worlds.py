"""A controller that breaks a rule is found out: by the invariant's name, with the run's story, few runs left of many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from chalicelib import agents, sweep
from chalicelib.contracts.api import ClaimRequest
from chalicelib.core import apply, leases, reconcile
from chalicelib.core import events as ev
from chalicelib.core.model import Counted, Policy, Run
from tests.sim.bucket import SimBucket
from tests.sim.month import live
from tests.sim.shrink import fewest
from tests.sim.story import InvariantBroken
from tests.sim.world import World

Patch = pytest.MonkeyPatch


def the_baton_is_taken_from_one_that_trains(patch: Patch) -> None:
    patch.setattr(apply, "blocked", lambda *_: False)


def what_a_superseded_attempt_published_counts(patch: Patch) -> None:
    def everything(self: SimBucket, run: Run, most: int = 10) -> list[Counted]:
        found = [
            Counted(n, step) for n in self.attempts(run.name) if n != run.baton for step in self.whole(run.name, n)
        ]
        return sorted(found, key=lambda c: (-c.attempt, -c.step))[:most]

    patch.setattr(SimBucket, "restorable", everything)


def strays_are_let_be(patch: Patch) -> None:
    patch.setattr(sweep, "_account_for_all", lambda *_: None)


def what_is_not_recorded_is_killed(patch: Patch) -> None:
    def kill(shell: Any, instance: Any, *_: Any) -> None:
        shell.ec2.end(instance.instance_id)

    patch.setattr(sweep, "_account_for", kill)


def half_of_the_time_is_settled(patch: Patch) -> None:
    whole = leases.usage

    def half(*given: Any) -> Any:
        used = whole(*given)
        return replace(used, end=used.start + (used.end - used.start) / 2)

    patch.setattr(leases, "usage", half)


def a_torn_checkpoint_is_offered_again(patch: Patch) -> None:
    claim = agents.claim
    patch.setattr(agents, "claim", lambda c, caller, body: claim(c, caller, ClaimRequest(ready=body.ready)))


def the_oldest_checkpoint_is_restored(patch: Patch) -> None:
    restorable = SimBucket.restorable
    patch.setattr(SimBucket, "restorable", lambda *given: restorable(*given)[::-1])


def the_newest_checkpoint_is_pruned(patch: Patch) -> None:
    prune = SimBucket.prune
    patch.setattr(SimBucket, "prune", lambda self, run, keep: prune(self, run, 0))


def a_run_says_nothing(patch: Patch) -> None:
    say = apply.say
    patch.setattr(apply, "say", lambda run, reason, message: say(run, reason, ""))


def a_second_warning_counts_anew(patch: Patch) -> None:
    warned = apply.warned

    def anew(run: Run, event: ev.Warned, now: datetime, policy: Policy) -> Run:
        attempt = run.on(event.instance_id)
        forgotten = run.put(replace(attempt, notice_ends_at=None)) if attempt and attempt.live else run
        return warned(forgotten, event, now, policy)

    patch.setattr(apply, "warned", anew)


def old_prices_are_believed(patch: Patch) -> None:
    launch = reconcile._launch_if_needed

    def blind(run: Run, now: Any, policy: Any, commands: Any) -> Run:
        return launch(run, now, replace(policy, price_stale=timedelta(days=99)), commands)

    patch.setattr(reconcile, "_launch_if_needed", blind)


def credentials_are_kept(patch: Patch) -> None:
    given = agents._all_credentials

    def kept(c: Any, run: Run, *more: Any) -> Any:
        lent = given(c, run, *more)
        c.store.specs[run.name][0]["lent"] = lent
        return lent

    patch.setattr(agents, "_all_credentials", kept)


def nothing_is_reserved_for_a_launch(patch: Patch) -> None:
    first = leases.first
    patch.setattr(leases, "first", lambda *given: replace(first(*given), reserved=first(*given).reserved * 0))


# What is wrong, the invariants that may find it, what the message says of it, and how many runs the month needs.
WRONGS: list[tuple[Callable[[Patch], None], str, str, int]] = [
    (the_baton_is_taken_from_one_that_trains, "I5", "took the baton while attempt 1 could still save", 200),
    (what_a_superseded_attempt_published_counts, "I1", "is offered, and was published after it counted", 400),
    (strays_are_let_be, "I2", "outlives two passes of the sweep", 60),
    (what_is_not_recorded_is_killed, "I2", "of a live attempt is ended", 400),
    (half_of_the_time_is_settled, "I3", "EC2 charges", 20),
    (nothing_is_reserved_for_a_launch, "I3", "is asked for that nothing is reserved for", 20),
    (a_torn_checkpoint_is_offered_again, "I5", "are torn", 400),
    (the_oldest_checkpoint_is_restored, "I5", "are offered where", 60),
    (the_newest_checkpoint_is_pruned, "I5", "is deleted, one of the newest", 20),
    (a_run_says_nothing, "I6", "says no sentence", 20),
    (a_second_warning_counts_anew, "I7", "again changes something", 100),
    (credentials_are_kept, "I8", "a secret is kept among the specs", 20),
    (old_prices_are_believed, "I9", "prices that EC2 has not named lately", 100),
]


@pytest.mark.parametrize(("wrong", "rule", "said", "runs"), WRONGS, ids=[wrong.__name__ for wrong, *_ in WRONGS])
def test_a_broken_rule_is_found_and_its_story_told(
    wrong: Callable[[Patch], None], rule: str, said: str, runs: int, monkeypatch: Patch
) -> None:
    wrong(monkeypatch)
    with pytest.raises(InvariantBroken) as found:
        live(1, runs)
    text = str(found.value)
    print(text)
    assert text.startswith(f"{rule} is broken: seed 1: ")
    assert said in text
    assert f"The story of {found.value.run or 'the world'}:" in text
    assert f"Of {runs} runs and " in text
    assert text.count(" is submitted: ") <= 1


def test_a_story_is_of_one_run_and_of_what_concerns_everything_since_it_began() -> None:
    world = World()
    world.down = True
    world.down = False
    world.submit("run-0", Decimal(5), 1)
    world.run_for(timedelta(minutes=5))
    world.submit("run-1", Decimal(5), 1)
    world.down = True
    world.run_for(timedelta(minutes=40))
    told = world.story.of("run-1")
    assert "run-1: LAUNCHING (submitted): Accepted." in told
    assert "-: the controller is away" in told
    assert "run-0" not in told
    assert "the controller is back" not in told
    assert world.story.of("run-0").count("publishes") == 1  # of saves in a row the last is enough


@pytest.mark.parametrize("needed", [[], [3], [0, 9], [2, 5, 7]])
def test_the_fewest_are_those_without_which_it_does_not_fail(needed: list[int]) -> None:
    assert list(fewest(range(10), lambda some: set(needed) <= set(some))) == needed
