"""One attempt's training: start the command, carry its checkpoints, and end it, by itself or because it must hand over.

A superseded attempt publishes nothing; every other publishes its last checkpoint with `final: true` and uploads its results.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import checkpoints
import matching
import patterns
import results
import trainer as training
from checkpoints import Manifest, Publisher, Ref
from clock import Clock
from courier import Courier
from ending import Ending, of_trainer
from failures import Failure
from logs import Log
from plan import Plan
from progress import Progress
from pulse import Pulse
from store import Bucket
from watcher import LOOK_S, Watcher

NO_DIRECTORY_AFTER_S = 1800
SAVE_S, LEAST_SAVE_S = 180, 20
AT_ONCE_S = 1.0
_SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}


class Leg:
    """The part of the race that this attempt runs. `prefix` is the run's own in the bucket."""

    def __init__(
        self,
        plan: Plan,
        bucket: Bucket,
        prefix: str,
        pulse: Pulse,
        courier: Courier,
        progress: Progress,
        log: Log,
        clock: Clock,
    ) -> None:
        self.plan, self.bucket, self.prefix = plan, bucket, prefix
        self.pulse, self.courier, self.progress = pulse, courier, progress
        self.log, self.clock = log, clock
        self._say: Callable[[str], None] = log.say
        self.trained_since = clock.monotonic()
        compiled = patterns.compile_pattern(plan.get("checkpoint", "pattern"))
        self.publisher = Publisher(bucket, plan.run, plan.attempt, plan.checkpoints)
        self.watcher = Watcher(
            self.publisher,
            matching.BoundedPattern(compiled, log.say) if compiled else None,
            clock,
            lambda: progress.step,
            self._published,
            log.say,
        )

    @property
    def step(self) -> int | None:
        """The furthest step known: the trainer's own word, or its last published checkpoint."""
        return max((s for s in (self.progress.step, self.watcher.last_step) if s is not None), default=None)

    def run(self, secrets: dict[str, str], restored: tuple[Manifest, Path] | None, lent: Mapping[str, str]) -> Ending:
        """`lent` are the variables through which the command finds its own AWS credentials, if the spec asks for some."""
        plan = self.plan
        manifest, path = restored or (None, None)
        if manifest is not None:
            self.publisher.parent = Ref(manifest.attempt, manifest.step)
            self.publisher.remember(manifest, checkpoints.prefix_of(plan.run, manifest.attempt, manifest.step))
        self.watcher.begin(manifest.step if manifest else None)
        plan.no_links()
        training.own(plan.work)
        user = training.training_user()
        home = Path(user.pw_dir) if user else Path(os.environ.get("HOME") or "/root")
        metrics_before = _stamp(plan.metrics)
        argv = plan.argv(path)
        env = training.environment({**lent, **plan.env(secrets, path)}.items(), home)
        self.pulse.check()
        self._say(f"starting {argv[0]}" + (f" from step {manifest.step}" if manifest else ""))
        self.pulse.tell(urgent=True, phase="train", step=manifest.step if manifest else None)
        job = training.Trainer.start(
            argv, plan.cwd, env, self.log.stream, self.clock, plan.docker, plan.state / "trainer"
        )
        self.trained_since = self.clock.monotonic()
        self.courier.watch(self.watcher)
        try:
            while not self.pulse.wish and not job.ended():
                self.clock.sleep(0.25)
                self._require_directory()
            if not self.pulse.wish and (job.exit_code or 0) > 128:
                self.clock.sleep(1)  # a machine that shuts down signals everybody: we may hear of it a moment later
            if job.ended() and not self.pulse.wish:
                return self._finish(plan, job, metrics_before)
            return self._hand_over(plan, job)
        finally:
            self.courier.unwatch()
            job.kill()

    def _require_directory(self) -> None:
        """A run that means to resume and never saves would lose everything at its first interruption: end it early."""
        trained = self.clock.monotonic() - self.trained_since
        if not self.plan.get("checkpoint", "resume") or trained < self.clock.scaled(NO_DIRECTORY_AFTER_S):
            return
        if not self.watcher.appeared():
            name = self.plan.get("checkpoint", "dir")
            raise Failure(
                "checkpoint_dir",
                f"After {trained / 60:.0f} min of training there is no folder {name!r}: correct checkpoint.dir to where "
                "the command saves (relative to the repository's root).",
            )

    def _finish(self, plan: Plan, job: training.Trainer, metrics_before: object) -> Ending:
        """The trainer has ended by itself: last checkpoint, results, verdict."""
        code = job.exit_code
        self._say(f"the command ended with code {code}")
        self.pulse.tell(urgent=True, phase="upload")
        self._publish_last(self._half_written_since(job, self.clock.now().timestamp()))
        verdict = results.verify(plan.metrics, plan.required)
        if _stamp(plan.metrics) == metrics_before and verdict.found:
            verdict = results.Verdict(None, (), plan.required, f"{plan.metrics.name} was not written by this attempt")
        prefix = self._upload_results(plan)
        self.progress.look()
        ending = of_trainer(code or 0, verdict, self.log.tail(), self.watcher.appeared(), plan.get("checkpoint", "dir"))
        if ending.reason != "done" and self.pulse.noticed:
            ending.drained, ending.reason = True, "spot_interruption"
        ending.results = {
            "prefix": prefix,
            "metrics": verdict.metrics,
            "found": list(verdict.found),
            "missing": list(verdict.missing),
        }
        return ending

    def _hand_over(self, plan: Plan, job: training.Trainer) -> Ending:
        """Told to go: signal, wait for the save, publish it as final. A superseded attempt publishes nothing."""
        wish, reason = self.pulse.wish, self.pulse.reason
        if wish == "superseded":
            self.courier.unwatch()
            job.kill()
            return Ending(None, "superseded", "Another attempt holds the baton.", drained=True, silent=True)
        self.pulse.tell(urgent=True, phase="save")
        asked, asked_at = self.clock.monotonic(), self.clock.now().timestamp()
        number = _SIGNALS.get(str(plan.get("checkpoint", "on_notice") or "none"))
        bound = self._time_to_save()
        step = self.watcher.last_step
        if number is signal.SIGTERM:
            # What it saves now is its last word: looked at once when it has ended, so that it is published as final.
            self.courier.unwatch()
        if number is not None:
            job.signal(number)
        if number is signal.SIGUSR1:
            # Some trainers save on SIGUSR1 and train on: once the save is in the bucket they are told to end.
            while not job.ended() and self.clock.monotonic() - asked < bound and self.watcher.last_step == step:
                self.clock.sleep(0.2)
            job.signal(signal.SIGTERM)
        elif number is None:
            job.signal(signal.SIGTERM)
            bound = min(bound, 5.0)
        at_once = False
        if not job.wait(max(0.0, bound - (self.clock.monotonic() - asked))):
            self._say(
                f"the command has not ended within {bound:.0f} s of {number.name if number else 'SIGTERM'}: killing it"
            )
            asked_at = self.clock.now().timestamp()
            job.kill()
            at_once = True
        elif self.clock.monotonic() - asked < AT_ONCE_S:
            at_once = True
        if self.pulse.wish == "superseded":
            return Ending(None, "superseded", "Another attempt holds the baton.", drained=True, silent=True)
        self.pulse.tell(urgent=True, phase="upload")
        manifest = self._publish_last(self._half_written_since(job, asked_at) if at_once else None)
        took = self.clock.monotonic() - asked
        step = self.watcher.last_step
        self._say(f"handed over at step {step} after {took:.1f} s" + ("" if manifest else " (nothing new to publish)"))
        with contextlib.suppress(Exception):
            self._upload_results(plan)
        return Ending(job.exit_code, reason, f"Handed over at step {step}.", drained=True)

    def _time_to_save(self) -> float:
        """Seconds the trainer may take to save: what is left, less what the upload will take."""
        left = self.pulse.seconds_left()
        most = max(self.clock.scaled(SAVE_S), LEAST_SAVE_S)
        if left is None:
            return most
        return max(2.0, min(most, left - max(self.clock.scaled(10, 2.0), self.pulse.handover_s)))

    def _half_written_since(self, job: training.Trainer, at: float) -> int | None:
        """From when on (Unix time, ns) a file may be half written: a command that a signal ended at once saved nothing more.

        A wrapper without a trap dies of the signal as well, but then what it started goes on saving for a while.
        """
        return int((at - max(self.clock.scaled(LOOK_S), 0.2)) * 1e9) if job.died_of_signal else None

    def _publish_last(self, half_written_since: int | None = None) -> Manifest | None:
        self.courier.unwatch()
        manifest = None
        for pause in (1, 2, 4, None):
            try:
                manifest = self.watcher.look(settled=True, final=True, before_ns=half_written_since)
                break
            except Exception as error:
                self._say(f"publishing failed: {error!r}")
                if pause is None:
                    break
                self.clock.sleep(self.clock.scaled(pause, 0.1))
        size = sum(file.bytes for file in manifest.files) if manifest else 0
        if self.watcher.last_step is not None:
            last = {"step": self.watcher.last_step, "bytes": size, "final": True}
            self.pulse.tell(urgent=True, step=self.step, checkpoint=last)
        return manifest

    def _published(self, manifest: Manifest, seconds: float) -> None:
        size = sum(file.bytes for file in manifest.files)
        self.pulse.handover_s = seconds
        self._say(f"published step {manifest.step}: {size} bytes, {seconds:.1f} s after it was first seen")
        seen = {"step": manifest.step, "bytes": size, "final": manifest.final}
        self.pulse.tell(urgent=manifest.final, checkpoint=seen)

    def _upload_results(self, plan: Plan) -> str:
        prefix = f"{self.prefix}results/{plan.attempt:04d}/"
        results.upload(self.bucket, prefix, plan.results)
        return prefix


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
