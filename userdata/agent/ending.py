"""How an attempt ended, as the controller is told, and the sentence for each way a trainer can end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from results import Verdict

_MOST_MESSAGE = 2000  # of the report's own bound


@dataclass
class Ending:
    """`drained`: the run goes on elsewhere or later. `silent`: a superseded attempt has nothing to report."""

    code: int | None
    reason: str
    message: str
    drained: bool = False
    silent: bool = False
    results: dict[str, Any] | None = None

    def body(self, step: int | None) -> dict[str, Any]:
        return {
            "code": self.code,
            "reason": self.reason,
            "message": self.message.encode("utf-8", "replace").decode()[:_MOST_MESSAGE],
            "step": step,
            "drained": self.drained,
            "results": self.results,
        }


def of_trainer(code: int, verdict: Verdict, last_line: str, has_directory: bool, directory: str) -> Ending:
    """A trainer that ended by itself. Success needs code 0 and every required key."""
    said = f" Its last line: {last_line}" if last_line else ""
    if code == 0 and not verdict.missing:
        return Ending(0, "done", "The command ended and left the results asked for.")
    if code == 0:
        missing = ", ".join(verdict.missing)
        if verdict.problem:
            return Ending(
                0, "metrics_missing", f"The command ended with code 0, but {verdict.problem}; wanted: {missing}."
            )
        found = ", ".join(verdict.found) or "nothing"
        return Ending(0, "metrics_missing", f"The metrics lack {missing}; found: {found}.")
    if code in (126, 127):
        return Ending(
            code, "command", f"Something in the command was not found or may not be executed (code {code}).{said}"
        )
    if code == 137:
        return Ending(
            code, "exit_code", f"The command was killed, most likely for lack of memory: choose a larger type.{said}"
        )
    hint = "" if has_directory else f" It never made the folder {directory!r} (checkpoint.dir)."
    return Ending(code, "exit_code", f"The command ended with code {code}.{hint}{said}")
