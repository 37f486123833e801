"""A line of the doctor's answer, and the words that several judges share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spotrelay.doctor.facts import Facts, Unknown

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the answer. `mend` is a command, or empty when nothing is to be done."""

    name: str
    verdict: Verdict
    sentence: str
    mend: str = ""


def unknown(name: str, fact: Unknown) -> Check:
    return Check(name, "warn", f"Could not be asked: {fact.why.rstrip('.')}.")


def where(f: Facts) -> str:
    return f"--stage {f.stage} --region {f.region}"


def deploy(f: Facts) -> str:
    return f"spotrelay deploy {where(f)}"
