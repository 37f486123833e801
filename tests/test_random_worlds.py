"""I1 to I9 in random worlds: launches, interruptions, renewals, prices that jump past the cap, faults and crashes at every AWS
call, events that are lost, late, doubled or overtaken, agents that crash, hang or lose the network, torn checkpoints, outages of
days, months that turn, limits that change. At everything that happens the invariants hold, and after every step what EC2 really
charges is covered by the ledger. `make fuzz` tries many more steps; how many is printed at the end.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta
from decimal import Decimal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chalicelib.core import calendar
from chalicelib.core import events as ev
from chalicelib.core.model import Reason, Wanted
from chalicelib.ledger import LimitTooLow
from tests.conftest import TRIED
from tests.sim.ec2 import Instance
from tests.sim.faults import Kind
from tests.sim.world import World

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
LATE = st.sampled_from([timedelta(), 3 * SECOND, 30 * SECOND, 3 * MINUTE, 20 * MINUTE, 3 * HOUR])
CENTS = st.integers(1, 3000).map(lambda c: Decimal(c) / 100)


class Worlds(RuleBasedStateMachine):
    @initialize(limit=CENTS)
    def begin(self, limit: Decimal) -> None:
        self.world = World(limit)

    def running(self) -> list[Instance]:
        return list(self.world.ec2.running.values())

    def one_of(self, data: st.DataObject) -> Instance:
        return data.draw(st.sampled_from(self.running()), label="instance")

    @rule(cost=CENTS, hours=st.integers(1, 30), wait=st.booleans())
    def a_run_is_submitted(self, cost: Decimal, hours: int, wait: bool) -> None:
        if len(self.world.store.saved) < 6:
            self.world.submit(f"run-{len(self.world.store.saved)}", cost, hours, wait=wait)

    @rule(minutes=st.integers(1, 300))
    def time_passes(self, minutes: int) -> None:
        self.world.run_for(timedelta(minutes=minutes))

    @rule(hours=st.integers(12, 120))
    def days_pass(self, hours: int) -> None:
        self.world.run_for(timedelta(hours=hours))

    @rule(before=st.integers(1, 60))
    def the_month_is_about_to_turn(self, before: int) -> None:
        left = calendar.turn(self.world.now, self.world.policy) - self.world.now
        if left < timedelta(days=6):
            self.world.run_for(max(timedelta(), left - timedelta(minutes=before)))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), warned=st.booleans(), late=st.sampled_from([0, 20, 90]))
    def ec2_takes_an_instance_back(self, data: st.DataObject, warned: bool, late: int) -> None:
        self.world.interrupt(self.one_of(data), warned, late * SECOND)

    @rule(pool=st.integers(0, 2), mills=st.integers(20, 400))
    def a_price_moves(self, pool: int, mills: int) -> None:
        self.world.price(self.world.ec2.pools[pool], Decimal(mills) / 1000)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_price_jumps_to_the_cap(self, data: st.DataObject) -> None:
        instance = self.one_of(data)
        self.world.price(instance.pool, instance.max_price)

    @rule(pool=st.integers(0, 2), there=st.booleans())
    def capacity_comes_and_goes(self, pool: int, there: bool) -> None:
        self.world.ec2.pools[pool].capacity = there

    @rule(vcpus=st.sampled_from([None, 5, 9]), silent=st.booleans())
    def the_account_changes(self, vcpus: int | None, silent: bool) -> None:
        self.world.ec2.vcpus, self.world.ec2.silent = vcpus, silent

    @rule(down=st.booleans(), events=st.sampled_from(["deliver", "lose", "duplicate"]))
    def the_controller_comes_and_goes(self, down: bool, events: str) -> None:
        self.world.down, self.world.events = down, events

    @rule(delays=st.lists(LATE, min_size=1, max_size=5))
    def events_come_late_and_overtake_each_other(self, delays: list[timedelta]) -> None:
        self.world.post.delays = delays

    @rule(seconds=st.sampled_from([0, 5, 40, 150, 280]))
    def ec2_describes_late_what_it_has_launched(self, seconds: int) -> None:
        self.world.lag = seconds * SECOND

    @precondition(lambda self: self.running())
    @rule(data=st.data(), seconds=st.sampled_from([20, 100, 240, 1200, 7200]))
    def an_agent_loses_the_network(self, data: st.DataObject, seconds: int) -> None:
        self.world.agents[self.one_of(data).instance_id].cut(seconds * SECOND)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_machine_goes_down(self, data: st.DataObject) -> None:
        self.world.agents[self.one_of(data).instance_id].crash()

    @precondition(lambda self: self.world.store.saved)
    @rule(data=st.data(), known=st.booleans())
    def a_stray_appears(self, data: st.DataObject, known: bool) -> None:
        run = self.world.store.saved[data.draw(st.sampled_from(sorted(self.world.store.saved)), label="run")]
        ended = [a.number for a in run.attempts if not a.live and a.instance_id]
        self.world.stray(run.name if known and ended else "nobody", ended[-1] if ended else 1)

    @rule(torn=st.lists(st.booleans(), min_size=1, max_size=4))
    def checkpoints_are_torn(self, torn: list[bool]) -> None:
        """Of those that come each in its turn; none where the last is reached."""
        left = iter(torn)
        self.world.routes.tears = lambda agent, step: next(left, False)

    @rule(n=st.integers(1, 25), kind=st.sampled_from(Kind))
    def a_fault_waits_at_a_call(self, n: int, kind: Kind) -> None:
        self.world.faults.arm(n, kind)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), switch_fails=st.booleans())
    def an_agent_dies_and_its_instance_runs_on(self, data: st.DataObject, switch_fails: bool) -> None:
        instance = self.one_of(data)
        # Until Scheduler has its entry, made in the invocation that launched, the machine's own switch is what holds.
        self.world.agents[instance.instance_id].hang(switch_fails and instance.instance_id in self.world.ec2.entries)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), hours=st.sampled_from([2, 30]))
    def everything_fails_at_once(self, data: st.DataObject, hours: int) -> None:
        """Only Scheduler's entry is left to end the instance, at the highest price it may have."""
        self.a_price_jumps_to_the_cap(data)
        self.an_agent_dies_and_its_instance_runs_on(data, switch_fails=True)
        self.world.down = True
        self.world.run_for(timedelta(hours=hours))
        self.world.check_bill()
        self.world.down = False

    @rule(limit=CENTS)
    def the_limit_is_set(self, limit: Decimal) -> None:
        world = self.world
        months = [world.month(world.now), world.month(calendar.turn(world.now, world.policy))]

        def act() -> None:
            world.store.ledger.open(months)
            world.store.ledger.set_limit(limit, months, world.now)

        with contextlib.suppress(LimitTooLow):
            world.ask(act)

    @precondition(lambda self: self.world.store.saved)
    @rule(data=st.data(), what=st.sampled_from(["suspend", "resume", "raise", "cancel"]), more=CENTS)
    def a_person_asks(self, data: st.DataObject, what: str, more: Decimal) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.store.saved)), label="run")
        limit = self.world.store.saved[name].limits.cost_usd
        asked: dict[str, ev.Event] = {
            "suspend": ev.SuspendAsked("me"),
            "resume": ev.ResumeAsked("me"),
            "raise": ev.ResumeAsked("me", cost_usd=limit + more),
            "cancel": ev.CancelAsked("me"),
        }
        self.world.ask(lambda: self.world.shell.tell(name, asked[what]))
        run = self.world.store.saved[name]
        carried_out = run.wanted is {"suspend": Wanted.SUSPEND, "cancel": Wanted.CANCEL}.get(what)
        if carried_out and run.wanted_reason is Reason.USER:
            self.world.invariants.asked_again(name, asked[what])

    @invariant()
    def i1_to_i9_hold_and_the_ledger_covers_the_bill(self) -> None:
        TRIED["steps"] += 1
        self.world.check_bill()

    def teardown(self) -> None:
        """When everything works again, each run ends or says what it waits for; cancelled, nothing of it is left behind."""
        world = getattr(self, "world", None)
        if world is None:
            return
        world.faults.disarm()
        world.settle_down(timedelta(days=1))
        for each in world.store.saved.values():
            world.invariants.check_end(each)
        for run in list(world.store.saved):
            world.down = False
            world.faults.disarm()
            world.ask(lambda run=run: world.shell.tell(run, ev.CancelAsked("me")))  # type: ignore[misc]
        world.settle_down()
        world.check_bill()
        world.invariants.check_secrets()
        TRIED["events"] += world.happened
        TRIED["calls"] += world.faults.calls
        TRIED["sites"] |= world.faults.hit
        assert not self.running()
        assert not world.ec2.entries, "a watchdog's entry is left"
        assert all(run.status.ended for run in world.store.saved.values())
        assert all(account.reserved == 0 for account in world.store.ledger.months.values())


TestWorlds = Worlds.TestCase
