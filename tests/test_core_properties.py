"""I1, I5, I6 and I7 over random lives of one run: random order, repeats, late events, warnings, losses, refusals."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import Counted, Phase, Reason, Run, Status
from tests.core_world import POLICY, World


class Lives(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.tell(ev.Submitted())
        self.history: list[ev.Event] = []
        self.published: dict[int, int] = {}  # newest checkpoint in "S3" by attempt
        self.seen_baton: int | None = None

    def tell(self, event: ev.Event) -> None:
        self.history.append(event)
        before = self.world.run
        self.world.tell(event)
        self.check_baton_moved_rightly(before)
        if not isinstance(event, ev.Claimed | ev.Tick | ev.ResumeAsked):
            again = decide(self.world.run, event, self.world.now, POLICY)
            calm = decide(self.world.run, ev.Tick(), self.world.now, POLICY)
            assert again == calm, "I7: the same event again did more than a sweep would"

    def check_baton_moved_rightly(self, before: Run) -> None:
        """I1: the baton left its holder only when the holder could publish no more, or was past its time."""
        run, holder = self.world.run, before.holder
        if run.baton is None or run.baton == before.baton:
            return
        assert not run.attempts[run.baton - 1].superseded
        if holder is None:
            return
        over = holder.notice_ends_at and self.world.now >= holder.notice_ends_at + POLICY.after_notice
        assert not holder.live or holder.handed_over or over

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.integers(1, len(self.world.run.attempts)), label="attempt")

    @rule(seconds=st.integers(1, 900))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)
        self.tell(ev.Tick())

    @precondition(lambda self: self.world.instances)
    @rule(data=st.data(), ready=st.booleans())
    def an_agent_claims(self, data: st.DataObject, ready: bool) -> None:
        instance = data.draw(st.sampled_from(sorted(self.world.instances)), label="instance")
        number = self.world.attempt_of[instance]
        listed = tuple(Counted(a, s) for a, s in sorted(self.published.items()) if a < number)
        self.tell(ev.Claimed(number, instance, ready, listed))

    @precondition(lambda self: any(a.instance_id and a.live for a in self.world.run.attempts))
    @rule()
    def the_newest_agent_comes_all_the_way(self) -> None:
        newest = [a for a in self.world.run.live if a.instance_id][-1]
        assert newest.instance_id
        for ready in (False, True):
            listed = tuple(Counted(a, s) for a, s in sorted(self.published.items()) if a < newest.number)
            self.tell(ev.Claimed(newest.number, newest.instance_id, ready, listed))

    @precondition(lambda self: self.world.run.holder and self.world.run.holder.live)
    @rule(how=st.sampled_from(["warned", "lost", "final"]))
    def the_holder_is_taken(self, how: str) -> None:
        holder = self.world.run.holder
        assert holder
        assert holder.instance_id
        if how == "warned":
            self.tell(ev.Warned(holder.instance_id, self.world.now + POLICY.notice))
        elif how == "lost":
            self.world.lose(holder.number)
        else:
            self.published[holder.number] = self.published.get(holder.number, holder.from_step or 0) + 1
            self.tell(ev.Beat(holder.number, holder.instance_id, self.published[holder.number], final=True))

    @precondition(lambda self: self.world.run.baton)
    @rule(data=st.data(), steps=st.integers(1, 100), final=st.booleans())
    def a_checkpoint_is_published(self, data: st.DataObject, steps: int, final: bool) -> None:
        number = self.pick(data)
        attempt = self.world.run.attempts[number - 1]
        if attempt.from_step is None or attempt.instance_id is None:
            return  # it never held the baton, so its agent publishes nothing
        step = self.published.get(number, attempt.from_step) + steps
        self.published[number] = step  # an attempt that lost the baton may still write: it must not count
        self.tell(ev.Beat(number, attempt.instance_id, step, final))

    @precondition(lambda self: self.world.instances)
    @rule(data=st.data())
    def ec2_warns(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(sorted(self.world.instances)), label="instance")
        self.tell(ev.Warned(instance, self.world.now + POLICY.notice))

    @precondition(lambda self: self.world.instances)
    @rule(data=st.data())
    def an_instance_is_lost(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(sorted(self.world.instances)), label="instance")
        self.world.instances[instance] = "terminated"
        self.tell(ev.InstanceState(instance, "terminated"))

    @precondition(lambda self: self.world.instances)
    @rule(data=st.data(), reason=st.sampled_from([Reason.DONE, Reason.EXIT_CODE, Reason.HANDOFF]))
    def an_agent_exits(self, data: st.DataObject, reason: Reason) -> None:
        instance = data.draw(st.sampled_from(sorted(self.world.instances)), label="instance")
        number = self.world.attempt_of[instance]
        self.tell(ev.Exited(number, instance, reason, "The trainer ended.", 0, None, reason is Reason.HANDOFF))

    @rule(data=st.data())
    def it_goes_silent(self, data: st.DataObject) -> None:
        self.tell(ev.Silent(self.pick(data)))

    @rule(kind=st.sampled_from([*ev.Refusal, None]))
    def ec2_changes_its_mind(self, kind: ev.Refusal | None) -> None:
        self.world.refuse = ev.LaunchRefused(0, "", kind, "Refused.") if kind else None

    @rule(event=st.sampled_from([ev.CancelAsked("me"), ev.SuspendAsked("me"), ev.ResumeAsked("me")]))
    def a_person_asks(self, event: ev.Event) -> None:
        self.tell(event)

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def an_old_event_comes_again(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.history), label="again")
        if isinstance(event, ev.SuspendAsked | ev.ResumeAsked):
            return  # a person may ask the same twice and mean it
        self.world.tell(event)

    @invariant()
    def i1_the_baton_only_moves_forward(self) -> None:
        baton = self.world.run.baton
        assert self.seen_baton is None or (baton is not None and baton >= self.seen_baton)
        self.seen_baton = baton

    @invariant()
    def i1_what_counts_never_changes_once_it_is_fixed(self) -> None:
        run = self.world.run
        fixed = {c.attempt: c.step for c in run.counted}
        assert set(fixed) == set(range(1, (run.baton or 1)))
        for number, step in getattr(self, "fixed", {}).items():
            assert fixed[number] == step
        self.fixed = fixed

    @invariant()
    def i5_an_attempt_starts_from_the_newest_that_counts(self) -> None:
        run = self.world.run
        if run.baton:
            counting = [c for c in run.counted if c.step >= 0]
            newest = max(counting, key=lambda c: (c.attempt, c.step)).step if counting else 0
            assert run.attempts[run.baton - 1].from_step == newest

    @invariant()
    def i6_every_status_has_a_way_out(self) -> None:
        run = self.world.run
        assert run.message
        assert run.deadline is not None or (run.status.ended and not run.live)

    @invariant()
    def i7_the_sweep_changes_nothing_more_at_the_same_moment(self) -> None:
        once = decide(self.world.run, ev.Tick(), self.world.now, POLICY)
        twice = decide(once.run, ev.Tick(), self.world.now, POLICY)
        assert twice.run == once.run

    @invariant()
    def no_instance_runs_for_an_ended_attempt(self) -> None:
        for instance, state in self.world.instances.items():
            attempt = self.world.run.attempts[self.world.attempt_of[instance] - 1]
            assert state != "running" or attempt.live

    def teardown(self) -> None:
        """I6: left alone, with capacity and no agent answering, a run reaches an end or says why not."""
        self.world.refuse = None
        for _ in range(400):
            run: Run = self.world.run
            if run.deadline is None or run.status is Status.SUSPENDED:
                return
            if run.untidy:
                self.world.tell(ev.Tidied())
                continue
            for attempt in run.live:
                if attempt.phase in (Phase.PREPARING, Phase.READY, Phase.TRAINING):
                    self.world.tell(ev.Silent(attempt.number))
            self.world.now = max(self.world.now + timedelta(seconds=1), run.deadline)
            self.world.tell(ev.Tick())
        raise AssertionError(f"stuck in {self.world.run}")


Lives.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestLives = Lives.TestCase
