"""One attempt from claim to power-off: the sequence, in the main thread.

Two threads run beside it: the pulse (heartbeats, notice, lease) and the courier (progress, logs and checkpoints to the
bucket). Nothing here ever deletes from the bucket, and whatever happens, `main` ends with the instance powered off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import checkpoints
import power
import prepare
import source
import store
import trainer
from api import Api, Gone, Refused, Unreachable, instance_role
from checkpoints import Manifest
from clock import Clock
from courier import Courier
from ending import Ending
from failures import Failure, Leave, TornCheckpoint
from imds import Imds, ImdsError, patiently
from leg import Leg
from lent import Lent
from logs import Log, Shipper
from plan import Plan, lent_folder
from progress import Progress
from pulse import Pulse
from redact import Redactor

REPORT_PATIENCE_S, POWER_OFF_S = 120, 60  # of the lease's last four minutes
CLAIM_PATIENCE_S = 540  # the controller counts ten minutes without a claim as a failed boot


def main() -> int:
    """Run the attempt that the instance's tags name. The exit code is 0 unless the agent itself broke."""
    clock = Clock.from_environment()
    trainer.become_subreaper()
    code = 0
    attempt = Attempt(clock)
    try:
        attempt.run()
    except (ImdsError, Refused, Unreachable) as error:
        print(f"spot-relay: the attempt can't begin: {error}", file=sys.stderr, flush=True)
        code = 1
    except Exception:
        # The boot script reports what an agent that breaks can't. The console can be read with EC2's API.
        print(attempt.redact(traceback.format_exc()), file=sys.stderr, flush=True)
        code = 1
    finally:
        if code == 0:
            power.off()
    return code


class Attempt:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.redact = Redactor()
        self.imds = Imds(clock)
        self.log: Log | None = None
        self.courier: Courier | None = None
        self.leg: Leg | None = None

    # -- the sequence ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        me = patiently(self.imds.identity, self.clock)
        self.me, self.region = me, patiently(self.imds.region, self.clock)
        self.role = instance_role(self.clock)
        self.api = Api(me.api, me.run, me.attempt, self.role, self.region, self.clock, redact=self.redact.document)
        asked_at = self.clock.monotonic()
        claim = self.api.claim({"ready": False}, self.clock.scaled(CLAIM_PATIENCE_S, 30))
        if claim["action"] != "prepare":
            print(f"spot-relay: {claim['action']}: {claim.get('message', '')}", flush=True)
            return
        self.claim = claim
        self.scoped = store.ScopedCredentials(claim["credentials"])
        path_style = bool(os.environ.get("AWS_ENDPOINT_URL"))
        self.bucket = store.Bucket(store.s3_client(self.region, self.scoped, path_style), claim["bucket"])
        self.lent = Lent(lent_folder(), self.region, trainer.uid())
        self.pulse = Pulse(
            self.api.heartbeat, self.imds, self.clock, self._arm, self.scoped.replace, self._say, self.lent.take
        )
        self.scoped.expired = self.pulse.ask_for_credentials
        signal.signal(signal.SIGTERM, lambda *_: self.pulse.want("drain", "instance_ended", "the machine shuts down"))
        self.pulse.take(claim, asked_at)
        self.pulse.start()
        ending = Ending(None, "boot_failed", "The agent broke.")
        try:
            ending = self._work()
        except Leave as leave:
            ending = Ending(None, leave.reason or leave.wish, leave.message or "Ended before training.", drained=True)
            ending.silent = leave.wish == "superseded"
        except Gone:
            ending = Ending(None, self.pulse.reason, "Ended before training.", drained=True)
        except Failure as failure:
            ending = Ending(failure.code, failure.reason, failure.message)
        except Exception as error:
            self._say(traceback.format_exc())
            ending = Ending(None, "boot_failed", f"The agent met {type(error).__name__}: {error}")
        finally:
            self._leave(ending)

    def _work(self) -> Ending:
        plan = self.plan = Plan.make(self.me.run, self.me.attempt, self.claim["spec"])
        self.log = Log(plan.log, self.clock, self.redact)
        prefix = f"{self.claim['prefix']}logs/{plan.attempt:04d}/"
        shipper = Shipper(plan.log, self.bucket, prefix, self.redact)
        self.progress = Progress(*plan.progress)
        self.courier = Courier(shipper, self.progress, self.pulse, self.clock, self._say)
        self.courier.start()
        with contextlib.suppress(Exception):
            logs_client = store.client("logs", self.region, self.scoped)
            group = str(self.claim.get("log_group") or f"/spot-relay/{self.me.stage}")
            shipper.watch(logs_client, group, f"{plan.run}/{plan.attempt:04d}")
        self._say(f"attempt {plan.attempt} of {plan.run}")
        secrets = self._prepare(plan)
        restored = self._restore(plan)
        self.leg = Leg(
            plan, self.bucket, self.claim["prefix"], self.pulse, self.courier, self.progress, self.log, self.clock
        )
        lent = self.lent.environment if plan.get("aws_credentials") else {}
        return self.leg.run(secrets, restored, lent)

    def _prepare(self, plan: Plan) -> dict[str, str]:
        self.pulse.tell(phase="source")
        given = self.claim.get("secrets") or {}
        ssm: Any = None

        def secret(parameter: str, name: str) -> str:
            nonlocal ssm
            ssm = ssm or store.client("ssm", self.region, self.scoped)
            return prepare.read_secret(ssm, parameter, name, self.redact)

        token_name = plan.get("source", "token")
        token = given.get("token")
        commit = source.fetch(
            self.bucket,
            self.claim.get("source") or f"{self.claim['prefix']}source.tar.gz",
            bool(self.claim.get("source")),
            plan.work,
            str(plan.get("source", "repo")),
            str(plan.get("source", "ref") or "HEAD"),
            lambda: secret(token, token_name or "token") if token else None,
            token_name,
            self.redact,
        )
        commit = commit or self.claim.get("commit")
        self._say(f"source: commit {commit}")
        self.pulse.tell(urgent=True, phase="setup", commit=commit)
        self.pulse.check()
        prepare.fetch_inputs(self.bucket, plan, self.pulse.check)
        if plan.docker:
            prepare.install_docker(self._log(), self.clock, self.pulse.check)
        names = plan.get("secrets") or {}
        secrets = {name: secret(where, names.get(name, name)) for name, where in (given.get("env") or {}).items()}
        prepare.setup(plan, secrets, self._log(), self.clock, self.pulse.check)
        plan.no_links()
        plan.results.mkdir(parents=True, exist_ok=True)
        return secrets

    def _restore(self, plan: Plan) -> tuple[Manifest, Path] | None:
        """Ask for the baton until it is ours, then restore the newest whole checkpoint that counts."""
        self.pulse.tell(urgent=True, phase="wait")
        torn: list[dict[str, int]] = []
        while True:
            self.pulse.check()
            body: dict[str, Any] = {"ready": True, **({"torn": torn} if torn else {})}
            patience = self.clock.scaled(CLAIM_PATIENCE_S, 30)
            asked_at = self.clock.monotonic()
            answer = self.api.claim(body, patience, lambda: bool(self.pulse.wish))
            self.pulse.take(answer, asked_at)
            if answer["action"] == "wait":
                self.clock.sleep(max(float(answer.get("retry_in_s") or 5), 0.1))
                continue
            if answer["action"] != "restore":
                self.pulse.want(
                    str(answer["action"]), str(answer.get("reason") or ""), str(answer.get("message") or "")
                )
                self.pulse.check()
                raise Leave("stop", "user", f"The controller answered {answer['action']!r} to a claim.")
            newest = answer.get("checkpoint")
            offered = [*([newest] if newest else []), *(answer.get("older") or [])]
            offered = [c for c in offered if {"attempt": int(c["attempt"]), "step": int(c["step"])} not in torn]
            if not offered:
                self._say("nothing to restore: training begins at the beginning")
                return None
            plan.no_links()
            self.pulse.tell(urgent=True, phase="restore")
            for each in offered:
                try:
                    return self._restore_one(plan, each)
                except TornCheckpoint as error:
                    torn.append({"attempt": int(each["attempt"]), "step": int(each["step"])})
                    self._say(
                        f"step {each['step']} of attempt {each['attempt']} is not whole, trying an older one: {error}"
                    )

    def _restore_one(self, plan: Plan, offered: dict[str, Any]) -> tuple[Manifest, Path]:
        manifest, path = checkpoints.restore(self.bucket, str(offered["prefix"]), plan.checkpoints)
        self._say(f"restored step {manifest.step} of attempt {manifest.attempt}")
        return manifest, path

    # -- the end -----------------------------------------------------------------------------------------------------

    def _leave(self, ending: Ending) -> None:
        if self.courier:
            self.courier.stop()
        self.pulse.stop()
        linger = 0.0
        if not ending.silent:
            self._say(f"ending: {ending.reason}: {ending.message}")
            body = ending.body(self.leg.step if self.leg else None)
            try:
                answer = self.api.exit(body, self._patience())
                linger = float(answer.get("linger_s") or 0) if isinstance(answer, dict) else 0.0
            except (Refused, Unreachable) as error:
                self._say(f"the controller did not take the report: {error}")
        if self.log:
            with contextlib.suppress(Exception):
                if self.courier and not ending.silent:
                    self.courier.ship(everything=True)
        self.clock.sleep(linger)

    def _patience(self) -> float:
        """How long to try to report, in seconds: never beyond the lease, which a controller that is away can't renew."""
        left = self.pulse.seconds_left()
        most = self.clock.scaled(REPORT_PATIENCE_S, 15)
        return most if left is None else max(0.0, min(most, left - self.clock.scaled(POWER_OFF_S)))

    # -- small things ------------------------------------------------------------------------------------------------

    def _arm(self, lease_s: float) -> None:
        # A rehearsal's `shutdown` shortens the minutes it is given, as all waits: it is given unshortened ones.
        power.arm(lease_s / self.clock.scale)

    def _say(self, text: str) -> None:
        if self.log:
            self.log.say(text)
        else:
            print(self.redact(f"spot-relay: {text}"), flush=True)

    def _log(self) -> Log:
        assert self.log is not None
        return self.log
