"""What each pass of the sweep does around the runs: months and storage before them; after them money for those that wait,
volumes left behind, instances of others, thresholds, and the mail. Each part fails by itself; the pass raises at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain, takewhile
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from chalicelib.core import calendar
from chalicelib.core import events as ev
from chalicelib.core.model import Reason, Run
from chalicelib.core.money import ZERO
from chalicelib.core.news import Kind, News
from chalicelib.core.resuming import to_resume, waiting
from chalicelib.core.storage import Stored
from chalicelib.instances import Instance, Volume, list_left_volumes
from chalicelib.shell import Shell
from chalicelib.sweep import Report

if TYPE_CHECKING:
    from chalicelib.controller import Controller

_THRESHOLDS = (50, 80, 100)
_LEFT_FOR = timedelta(minutes=1)  # a volume is between creation and attachment for seconds
_FOREIGN_FOR = timedelta(minutes=10)


def before_runs(c: Controller, live: int, report: Report, now: datetime) -> None:
    """What is stored is paid for before anything is launched."""
    with report.kept("months"):
        c.store.ledger.open([calendar.month(now, c.policy), calendar.month(calendar.turn(now, c.policy), c.policy)])
    with report.kept("storage"):
        stored = c.storage.keep(now, live, c.policy)
        if stored is not None and stored.gap:
            _storage_short(c, stored, now)


def _storage_short(c: Controller, stored: Stored, now: datetime) -> None:
    """Once a month: nothing else gets money before storage does, so runs drain and wait; what is stored goes on costing."""
    message = (
        f"What is stored ({stored.most / 10**9:.1f} GB) costs {stored.gap:.2f} USD more in {stored.month} than is left of its "
        "limit. Runs wait meanwhile. Delete results or checkpoints that are not needed, or raise the limit (PUT /budget)."
    )
    news = News(Kind.THRESHOLD, f"Spot Relay: {stored.month} has too little money for what is stored", message)
    c.acts.record(f"{stored.month}#storage", news, now)


def after_runs(
    c: Controller, others: list[Instance], report: Report, now: datetime, in_time: Callable[[], bool] = lambda: True
) -> None:
    with report.kept("waiting runs"):
        resume_waiting(c, takewhile(lambda _: in_time(), waiting_runs(c.shell, report.waiting)), now)
    left_volumes(c, report, now)
    with report.kept("other instances"):
        c.unmanaged.keep(others, now, c.policy)
    if c.settings.guard == "account":
        _guard(c, others, report, now)
    with report.kept("thresholds"):
        _thresholds(c, bool(report.waiting), now)
    with report.kept("mail"):
        c.outbox.deliver(now)


def resume_waiting(c: Controller, runs: Iterator[Run], now: datetime) -> None:
    def free() -> Decimal:
        return c.store.ledger.month(calendar.month(now, c.policy))["free"]

    resume(c.shell, runs, free, c.store.ledger.raised_at, c.fresh_offers, now)


def waiting_runs(shell: Shell, created: Mapping[str, datetime]) -> Iterator[Run]:
    """Of the runs of these names those that do wait, oldest first; each is read when its turn comes.

    So the money ends before ten thousand are read.
    """
    runs = (shell.store.load(name) for name in sorted(created, key=lambda name: (created[name], name)))
    return (run for run in runs if run is not None and waiting(run))


def resume(
    shell: Shell,
    runs: Iterator[Run],
    free: Callable[[], Decimal],
    raised_at: Callable[[], datetime | None],
    priced: Callable[[Run], ev.Priced | None],
    now: datetime,
) -> list[str]:
    """Let waiting runs go on, in this order, as far as the money goes. Gives their names.

    `free` is the month's money, `raised_at` when its limit was last raised; both are asked only when a run waits.
    One that fails keeps no other from going on; its error rises at the end.
    """
    names: list[str] = []
    failed: Exception | None = None
    first = next(runs, None)
    if first is None:
        return names
    for run in to_resume(chain([first], runs), free(), now, shell.policy, raised_at=raised_at()):
        try:
            offers = priced(run)
            if offers:
                shell.tell(run.name, offers)
            shell.tell(run.name, ev.ResumeAsked("spot-relay", Reason.BUDGET))
            names.append(run.name)
        except Exception as error:
            failed = failed or error
    if failed:
        raise failed
    return names


def left_volumes(c: Controller, report: Report, now: datetime) -> None:
    """Delete volumes of ours that no instance has (I2)."""
    with report.kept("volumes"):
        for volume in list_left_volumes(c.ec2, c.settings.stage):
            with report.kept(volume.volume_id):
                _delete(c, volume, report, now)


def _delete(c: Controller, volume: Volume, report: Report, now: datetime) -> None:
    if volume.protected or now - volume.created_at < _LEFT_FOR * c.settings.time_scale:
        return
    message = f"The volume {volume.volume_id} is deleted: no instance has it any more."
    c.acts.record(volume.volume_id, News(Kind.ENDED, "Spot Relay: a volume left behind is deleted", message), now)
    report.strays.append(volume.volume_id)
    try:
        c.ec2.delete_volume(VolumeId=volume.volume_id)
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidVolume.NotFound":
            raise


def _guard(c: Controller, others: list[Instance], report: Report, now: datetime) -> None:
    """End what is not ours, each by itself; it does not wait for the figures of what that costs."""
    for instance in others:
        if instance.protected or now - instance.launched_at < _FOREIGN_FOR * c.settings.time_scale:
            continue
        with report.kept(instance.instance_id, instance_id=instance.instance_id):
            _end(c, instance, report, now)


def _end(c: Controller, instance: Instance, report: Report, now: datetime) -> None:
    message = (
        f"The instance {instance.instance_id} ({instance.instance_type}) is ended: it is not Spot Relay's, and the "
        "account is guarded. Tag an instance spot-relay:protect to keep it."
    )
    c.acts.record(instance.instance_id, News(Kind.ENDED, "Spot Relay: an instance is ended", message), now)
    report.strays.append(instance.instance_id)
    c.fleet.end(instance.instance_id)


def _thresholds(c: Controller, waiting: bool, now: datetime) -> None:
    month = calendar.month(now, c.policy)
    account = c.store.ledger.month(month)
    limit, settled = account["limit"], account["settled"]
    for percent in _THRESHOLDS:
        key = f"{month}#{percent}"
        reached = settled * 100 >= limit * percent or (percent == 100 and waiting)
        if not reached or limit <= ZERO or key in c.told:
            continue
        message = f"{settled:.2f} USD of the {limit:.2f} USD for {month} are spent, and {account['reserved']:.2f} are reserved."
        if percent == 100:
            message += " Runs wait until the month turns or the limit is raised (PUT /budget); nothing is lost."
        c.acts.record(key, News(Kind.THRESHOLD, f"Spot Relay: {percent} % of {month} is used", message), now)
        c.told.add(key)
