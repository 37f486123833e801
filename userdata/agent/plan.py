"""From the spec and the instance to folders, environment and argv: everything an attempt's work depends on, worked out once.

All paths of a spec are relative to the repository's root. Values reach the command as data (argv and environment), never
as shell text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import beneath
import patterns
import results
from failures import Failure

from chalicelib.contracts import templates


@dataclass(frozen=True, slots=True)
class Plan:
    """Where things are on this instance and what the run asks for. Folders are absolute."""

    run: str
    attempt: int
    spec: Mapping[str, Any]
    work: Path
    state: Path
    log: Path
    checkpoints: Path
    results: Path

    @classmethod
    def make(cls, run: str, attempt: int, spec: Mapping[str, Any]) -> Plan:
        """Raises Failure when the spec can't be carried out here."""
        root = Path(os.environ.get("SPOT_RELAY_ROOT") or "/")
        # Real from the root on: from here every link that is met was put there by the job.
        work = Path(os.path.realpath(root / "home/ubuntu")) / "work"
        values = {"run": run, "attempt": str(attempt)}
        try:
            checkpoint_dir = templates.render(_at(spec, "checkpoint", "dir") or "checkpoints", values)
            results_dir = templates.render(_at(spec, "results", "dir") or "results", values)
            plan = cls(
                run,
                attempt,
                spec,
                work,
                root / "opt/spot-relay",
                root / f"var/log/spot-relay/{run}-{attempt:04d}.log",
                results.within(work, checkpoint_dir),
                results.within(work, results_dir),
            )
            patterns.compile_pattern(plan.get("checkpoint", "pattern"))
        except (ValueError, KeyError) as error:
            raise Failure("command", f"The spec can't be carried out: {error}") from error
        return plan

    def get(self, *path: str) -> Any:
        return _at(self.spec, *path)

    def no_links(self) -> None:
        """Where the job writes what the agent reads, no link may lead elsewhere (later ones are not followed). Raises Failure."""
        for field, path in (("checkpoint.dir", self.checkpoints), ("results.dir", self.results)):
            link = beneath.link_on_the_way(path, self.work)
            if link is not None:
                raise Failure(
                    "command", f"{field} leads through a link, {self.relative(link)!r}: name the folder itself."
                )

    @property
    def docker(self) -> bool:
        return bool(self.get("docker"))

    @property
    def cwd(self) -> Path:
        return results.within(self.work, self.get("workdir") or ".")

    @property
    def metrics(self) -> Path:
        return results.within(self.results, self.get("results", "metrics") or "metrics.json")

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(self.get("results", "require") or ())

    @property
    def progress(self) -> tuple[Path, ...]:
        name = self.get("progress", "metrics") or "progress.jsonl"
        return tuple(dict.fromkeys((results.within(self.results, name), results.within(self.work, name))))

    def relative(self, path: Path) -> str:
        return path.relative_to(self.work).as_posix()

    def values(self, checkpoint: Path | None) -> dict[str, str]:
        """What the command may name in braces."""
        values = {
            "run": self.run,
            "attempt": str(self.attempt),
            "results": str(self.results),
            "results.rel": self.relative(self.results),
        }
        if checkpoint is not None:
            values.update({"checkpoint": str(checkpoint), "checkpoint.rel": self.relative(checkpoint)})
        return values

    def argv(self, checkpoint: Path | None) -> list[str]:
        """The command, with the resume arguments when there is a checkpoint."""
        try:
            resume = self.get("checkpoint", "resume") if checkpoint is not None else None
            return list(templates.render_argv(str(self.get("command")), resume, self.values(checkpoint)))
        except (ValueError, KeyError) as error:
            raise Failure("command", f"The command can't be made from the spec: {error}") from error

    def env(self, secrets: Mapping[str, str], checkpoint: Path | None) -> dict[str, str]:
        """The run's own variables: what the spec sets, its secrets, and where things are."""
        given = {str(name): str(value) for name, value in (self.get("env") or {}).items()}
        return {
            **given,
            **secrets,
            "SPOT_RELAY_RUN": self.run,
            "SPOT_RELAY_ATTEMPT": str(self.attempt),
            "SPOT_RELAY_CHECKPOINT": str(checkpoint) if checkpoint else "",
            "SPOT_RELAY_CHECKPOINT_DIR": str(self.checkpoints),
            "SPOT_RELAY_RESULTS_DIR": str(self.results),
        }


def lent_folder() -> Path:
    """Where the command's own AWS credentials are, when it has some."""
    return Path(os.environ.get("SPOT_RELAY_ROOT") or "/") / "opt/spot-relay/aws"


def _at(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document
