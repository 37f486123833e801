"""`python -m spotrelay.privileges [WORD…]`: prove, print, and write docs/least-privilege.md (not when WORDs choose some).

A proof that was broken off goes on where it was, unless the policies have changed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from spotrelay.privileges import report
from spotrelay.privileges.kept import Kept
from spotrelay.privileges.prove import NotWholeError, prove
from spotrelay.rehearsal import job
from spotrelay.rehearsal.rehearse import HOME
from spotrelay.rehearsal.stage import Stage

TIME_SCALE = 0.02  # a lease takes a minute: it is renewed within a walk
PAGE = Path(__file__).resolve().parents[2] / "docs/least-privilege.md"


def main(only: list[str]) -> int:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    HOME.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="privileges-", dir=HOME))
    decisions = folder / "decisions.jsonl"
    kept = Kept(HOME / "privileges.jsonl")
    prepared = job.prepare(folder, None, None)
    guarded = {"Guard": "account"}  # the one statement that is only there with it
    try:
        with Stage(folder, HOME / "cache", TIME_SCALE, say, parameters=guarded, decisions=decisions) as stage:
            results = prove(stage, prepared, decisions, kept, say, only)
    except NotWholeError as error:
        say(str(error))
        return 2
    text = report.page(results)
    print(text)
    if not only:
        PAGE.write_text(text, "utf-8")
        kept.forget()
    if any(report.wrong(each) for each in results):
        say(f"what was written is kept in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
