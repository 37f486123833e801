"""The machine's own switch, `shutdown -P +n`: it fires whatever becomes of the agent, unless it fails itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.sim.ec2 import BY_ITSELF, Instance

if TYPE_CHECKING:
    from tests.sim.world import World

BOOT_SWITCH = timedelta(minutes=50)  # armed by the boot script's first act


class Switch:
    def __init__(self, world: World, instance: Instance) -> None:
        self.world, self.instance = world, instance
        self.fails = False
        self._off_at: datetime | None = None
        self.arm(BOOT_SWITCH)

    def arm(self, span: timedelta) -> None:
        """In whole minutes, rounded down, one at least: only the last call counts."""
        self._off_at = at = self.world.now + timedelta(minutes=max(1, int(span.total_seconds() // 60)))
        self.world.at(at, lambda: self.off() if self._off_at == at and not self.fails else None)

    def off(self) -> None:
        self.world.ec2.stop(self.instance.instance_id, BY_ITSELF)
