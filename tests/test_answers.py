"""What agents are told."""

from __future__ import annotations

from datetime import timedelta

from chalicelib.core import answers
from chalicelib.core import events as ev
from chalicelib.core.answers import Action
from chalicelib.core.model import Counted, Reason
from tests.core_world import POLICY, World


def training() -> World:
    world = World()
    world.tell(ev.Submitted())
    world.train(1)
    return world


def test_an_agent_prepares_waits_and_restores() -> None:
    world = training()
    assert answers.claim(world.run, 1, True) == answers.Answer(Action.RESTORE)
    world.warn(1)
    world.claim(2, ready=False)
    assert answers.claim(world.run, 2, False).action is Action.PREPARE
    world.claim(2)
    assert answers.claim(world.run, 2, True).action is Action.WAIT
    told = answers.heartbeat(world.run, 1)
    assert (told.action, told.reason) == (Action.DRAIN, Reason.HANDOFF)
    world.exit(1, Reason.HANDOFF, drained=True)
    world.claim(2, published=((1, 70),))
    assert answers.claim(world.run, 2, True).checkpoint == Counted(1, 70)


def test_after_the_baton_moved_the_old_attempt_is_superseded() -> None:
    world = training()
    world.warn(1)
    world.train(2)
    world.pass_time(150)
    world.claim(2)
    assert answers.heartbeat(world.run, 1).action is Action.SUPERSEDED
    assert answers.claim(world.run, 1, True).action is Action.SUPERSEDED


def test_a_warning_alone_lets_the_holder_train_on_and_speak_more_often() -> None:
    world = training()
    assert answers.beat_every(world.run, 1, POLICY) == POLICY.heartbeat
    world.warn(1)
    assert answers.heartbeat(world.run, 1).action is Action.CONTINUE
    assert answers.beat_every(world.run, 1, POLICY) == POLICY.heartbeat_urgent


def test_a_cancelled_run_stops_and_a_suspended_one_drains() -> None:
    world = training()
    world.tell(ev.SuspendAsked("me"))
    assert answers.heartbeat(world.run, 1).action is Action.DRAIN
    world = training()
    world.tell(ev.CancelAsked("me"))
    assert answers.heartbeat(world.run, 1).action is Action.STOP


def test_a_warned_instance_waits_for_ec2_only_within_its_free_first_hour() -> None:
    world = training()
    world.warn(1)
    assert answers.linger(world.run, 1, world.now, POLICY) == POLICY.notice + 2 * POLICY.after_notice
    late = World()
    late.tell(ev.Submitted())
    late.train(1)
    late.now += timedelta(hours=1)
    late.warn(1)
    assert answers.linger(late.run, 1, late.now, POLICY) == timedelta()


def test_nobody_waits_while_its_quota_is_needed() -> None:
    world = training()
    world.refuse = ev.LaunchRefused(2, "", ev.Refusal.QUOTA, "Quota.")
    world.warn(1)
    assert answers.linger(world.run, 1, world.now, POLICY) == timedelta()


def test_a_lease_is_renewed_when_less_than_half_is_left() -> None:
    world = training()
    attempt = world.run.attempts[0]
    assert not answers.renewal_due(attempt, world.now, POLICY)
    assert answers.renewal_due(attempt, world.now + timedelta(minutes=26), POLICY)


def test_an_unknown_attempt_is_superseded() -> None:
    world = training()
    assert answers.claim(world.run, 9, True).action is Action.SUPERSEDED
