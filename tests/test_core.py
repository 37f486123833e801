"""What the core decides, told as stories of one run."""

from __future__ import annotations

from datetime import timedelta

import pytest

from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import Phase, Reason, Status
from tests.core_world import POLICY, World


def submitted() -> World:
    world = World()
    world.tell(ev.Submitted())
    return world


def training() -> World:
    world = submitted()
    world.train(1)
    return world


def test_a_submitted_run_launches_and_trains_and_succeeds() -> None:
    world = submitted()
    assert world.run.status is Status.LAUNCHING
    world.train(1)
    assert (world.run.status, world.run.baton) == (Status.RUNNING, 1)
    world.exit(1, Reason.DONE)
    assert world.run.status is Status.SUCCEEDED
    world.lose(1)
    assert world.run.deadline is None


def test_a_warning_launches_at_once_in_another_pool_while_the_old_attempt_trains_on() -> None:
    world = training()
    world.warn(1)
    old, new = world.run.attempts
    assert world.run.status is Status.RECOVERING
    assert (old.phase, old.drain) == (Phase.TRAINING, None)
    assert old.pool not in [o.pool for o in new.launch.offers] if new.launch else False
    assert world.run.baton == 1


def test_the_successor_pulls_the_baton_when_it_is_ready() -> None:
    world = training()
    world.warn(1)
    world.claim(2, ready=False)
    world.claim(2, ready=True)
    assert world.run.baton == 1
    assert world.run.attempts[0].drain is Reason.HANDOFF
    world.tell(ev.Beat(1, world.instance(1), step=700, final=True))
    world.claim(2, published=((1, 700),))
    assert (world.run.baton, world.run.attempts[1].from_step, world.run.status) == (2, 700, Status.RUNNING)


def test_the_successor_does_not_wait_for_a_holder_beyond_its_notice() -> None:
    world = training()
    world.warn(1)
    world.train(2)
    assert world.run.baton == 1
    world.pass_time(149)
    world.claim(2)
    assert world.run.baton == 1
    world.pass_time(1)
    world.claim(2)
    assert world.run.baton == 2


def test_without_a_warning_the_end_of_the_instance_relaunches() -> None:
    world = training()
    world.lose(1)
    assert world.launches == 2
    world.train(2)
    assert (world.run.baton, world.run.status) == (2, Status.RUNNING)


def test_what_an_old_attempt_publishes_after_the_baton_moved_does_not_count() -> None:
    world = training()
    world.lose(1)
    world.claim(2, ready=False)
    world.claim(2, published=((1, 400),))
    world.tell(ev.Beat(1, world.instance(1), step=900))
    world.lose(2)
    world.claim(3, ready=False)
    world.claim(3, published=((1, 900), (2, -1)))
    assert world.run.attempts[2].from_step == 400


def test_a_second_interruption_in_the_middle_of_a_handoff_supersedes_the_successor() -> None:
    world = training()
    world.warn(1)
    world.claim(2, ready=False)
    world.warn(2)
    assert world.launches == 3
    assert world.run.attempts[1].superseded
    world.claim(2)
    assert world.run.baton == 1
    world.train(3)
    world.lose(1)
    world.claim(3, published=((1, 300),))
    assert (world.run.baton, world.run.attempts[2].from_step) == (3, 300)


def test_a_silent_instance_is_ended_before_another_is_launched() -> None:
    world = training()
    world.pass_time(200)
    world.tell(ev.Silent(1))
    assert world.instances[world.instance(1)] == "terminated"
    assert world.run.attempts[0].ended_by is Reason.LOST_CONTACT
    assert world.launches == 2


def test_a_refused_overlap_launches_when_the_predecessor_is_gone() -> None:
    world = training()
    world.refuse = ev.LaunchRefused(2, "", ev.Refusal.QUOTA, "The Spot quota of 5 vCPU is used up.")
    world.warn(1)
    assert (world.run.reason, world.run.status, world.launches) == (Reason.QUOTA, Status.RECOVERING, 1)
    world.refuse = None
    world.lose(1)
    assert world.launches == 2
    assert len(world.run.attempts) == 2


def test_no_capacity_waits_longer_each_time_and_keeps_the_attempts_number() -> None:
    world = World()
    world.refuse = ev.LaunchRefused(1, "", ev.Refusal.CAPACITY, "No Spot capacity.")
    world.tell(ev.Submitted())
    waits = []
    for _ in range(8):
        assert world.run.status is Status.QUEUED
        assert world.run.deadline
        waits.append((world.run.deadline - world.now).total_seconds())
        world.now = world.run.deadline
        world.tell(ev.Tick())
    assert waits[0] == 30
    assert max(waits) <= POLICY.retry_most.total_seconds()
    assert len(world.run.attempts) == 1
    world.refuse = None
    for _ in range(3):
        assert world.run.deadline
        world.now = max(world.now, world.run.deadline)
        world.tell(ev.Tick())
    assert world.run.status is Status.LAUNCHING
    assert world.run.attempts[0].number == 1


def test_a_fatal_refusal_fails_the_run_with_what_ec2_said() -> None:
    world = World()
    world.refuse = ev.LaunchRefused(1, "", ev.Refusal.FATAL, "UnauthorizedOperation: you may not launch.")
    world.tell(ev.Submitted())
    assert (world.run.status, world.run.reason) == (Status.FAILED, Reason.LAUNCH_REFUSED)
    assert "UnauthorizedOperation" in world.run.message
    assert world.run.deadline is None


def test_a_launch_without_an_answer_is_replayed_with_the_same_token() -> None:
    world = World()
    world.answer_launches = False
    world.tell(ev.Submitted())
    launch = world.run.attempts[0].launch
    world.pass_time(60)
    world.tell(ev.Tick())
    assert world.run.attempts[0].launch == launch
    assert len(world.unanswered) == 2


def test_an_instance_that_never_claims_is_ended_and_three_of_them_fail_the_run() -> None:
    world = submitted()
    for _ in range(3):
        world.now += POLICY.claim_within
        world.tell(ev.Tick())
    assert [a.ended_by for a in world.run.attempts] == [Reason.BOOT_FAILED] * 3
    assert (world.run.status, world.run.reason) == (Status.FAILED, Reason.NO_PROGRESS)


def test_cancel_drains_the_trainer_and_ends_with_no_instance() -> None:
    world = training()
    world.tell(ev.CancelAsked("me"))
    assert (world.run.status, world.run.attempts[0].drain) == (Status.STOPPING, Reason.USER)
    world.exit(1, Reason.USER, drained=True)
    world.lose(1)
    assert (world.run.status, world.launches) == (Status.CANCELLED, 1)


def test_cancel_while_booting_ends_the_instance_at_once() -> None:
    world = submitted()
    world.tell(ev.CancelAsked("me"))
    assert world.run.status is Status.CANCELLED


def test_a_suspended_run_resumes_from_its_checkpoint() -> None:
    world = training()
    world.tell(ev.SuspendAsked("ledger", Reason.BUDGET))
    world.exit(1, Reason.USER, drained=True, step=500)
    world.lose(1)
    assert (world.run.status, world.run.reason) == (Status.SUSPENDED, Reason.BUDGET)
    assert world.run.deadline
    assert world.run.deadline.day == 1
    world.tell(ev.ResumeAsked("me"))
    world.claim(2, ready=False)
    world.claim(2, published=((1, 500),))
    assert world.run.attempts[1].from_step == 500


def test_a_failing_trainer_fails_the_run_once() -> None:
    world = training()
    world.exit(1, Reason.EXIT_CODE)
    world.lose(1)
    assert (world.run.status, world.launches) == (Status.FAILED, 1)


def test_an_instance_that_does_not_power_off_after_its_exit_is_ended() -> None:
    world = training()
    world.exit(1, Reason.DONE)
    world.now += POLICY.leave_within
    world.tell(ev.Tick())
    assert world.instances[world.instance(1)] == "terminated"
    assert world.run.deadline is None


@pytest.mark.parametrize("reason", [Reason.SPOT_INTERRUPTION, Reason.LEASE_END])
def test_an_attempt_that_left_before_anything_else_was_heard_is_said_to_have_left(reason: Reason) -> None:
    world = training()
    world.exit(1, reason, drained=True, step=700)
    old, new = world.run.attempts
    assert (world.run.status, world.run.reason) == (Status.RECOVERING, reason)
    assert "attempt 1" in world.run.message.lower()
    assert new.launch
    same_pool = old.pool in [o.pool for o in new.launch.offers]
    assert same_pool is (reason is Reason.LEASE_END)  # what EC2 takes back is not asked for again at once


def test_an_instance_that_is_ended_with_its_lease_is_not_said_to_train() -> None:
    world = training()
    world.pass_time((POLICY.lease + POLICY.grace).total_seconds())
    ended = decide(world.run, ev.Tick(), world.now, POLICY).run
    assert (ended.status, ended.reason) == (Status.RECOVERING, Reason.LEASE_END)
    assert ended.message == "The instance of attempt 1 is being ended: its lease is over."


def test_running_time_beyond_the_limit_stops_the_run() -> None:
    world = training()
    world.pass_time(timedelta(hours=30).total_seconds())
    world.tell(ev.Tick())
    assert world.run.reason is Reason.MAX_DURATION


@pytest.mark.parametrize("state", ["pending", "running"])
def test_a_state_that_is_not_an_end_changes_nothing(state: str) -> None:
    world = training()
    before = world.run
    world.tell(ev.InstanceState(world.instance(1), state))
    assert world.run == before
