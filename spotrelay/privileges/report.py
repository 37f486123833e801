"""The results as a page of documentation. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spotrelay.privileges.results import Broken
from spotrelay.privileges.statements import Attachment
from spotrelay.rehearsal.stage import STAGE

# Actions that no walk needs, each with its reason. An action that is neither used nor here is idle, and fails the proof.
RARE: dict[str, str] = {}
HEAD = """# Least privilege, proven

Made by `make prove-least-privilege`; don't edit. The deployed system walks through a short life once with everything allowed.
Then each statement of each role's policies is taken out of its policy, in place, and it walks again until a call is refused that
the statement had allowed. A statement without which nothing is refused would make the proof fail; so would one with an
action that the walk does not use. The same is done with each managed policy on each role that has it.

"""


def page(results: Sequence[Broken]) -> str:
    lines = ["| without | first refused | of role | after |", "|---|---|---|---|"]
    statements = [each for each in results if not isinstance(each.part, Attachment)]
    attachments = [each for each in results if isinstance(each.part, Attachment)]
    for each in (*statements, *attachments):
        lines.append(f"| {_short(each.part.name)} | {_first(each)} | {_role(each)} | {each.seconds:.0f} s |")
    wrongs = [f"- {each.part.name}: {wrong(each)}" for each in results if wrong(each)]
    minutes = sum(each.seconds for each in results) / 60
    said = f"{len(statements)} statements and {len(attachments)} attachments in {minutes:.0f} minutes of walking; "
    said += "each is needed." if not wrongs else "not needed, or not shown to be:\n\n" + "\n".join(wrongs)
    rare = "".join(f"- `{action}`: {why}\n" for action, why in RARE.items())
    rest = f"\n\nActions that the walk does not use:\n\n{rare}" if rare else "\n"
    return HEAD + "\n".join(lines) + f"\n\n{said}{rest}"


def sids(text: str) -> list[str]:
    """The names of the statements that a page tells of."""
    found = re.findall(r"^\| [\w-]+: (\w+) \|", text, re.MULTILINE)
    return [str(each) for each in found]


def wrong(result: Broken) -> str | None:
    """What is to be said against a part of the permissions; None for one that is needed."""
    if result.idle:
        return "nothing broke without it"
    idle = [action for action in result.unused if action not in RARE]
    if idle and not isinstance(result.part, Attachment):
        return f"nobody called {', '.join(idle)}"
    return None


def _first(result: Broken) -> str:
    if result.refused:
        return f"`{result.refused.action}`"
    return f"the run: {result.status or 'no end'}" if not result.idle else "**nothing**"


def _role(result: Broken) -> str:
    return _short(result.refused.role) if result.refused else ""


def _short(name: str) -> str:
    return name.replace(f"spot-relay-{STAGE}-", "")
