"""Who may do what, read off the template: one row for each statement of each role, as docs/security.md shows them.

    python -m spotrelay.deploying.who_can          # print the table
    python -m spotrelay.deploying.who_can --write  # put it into docs/security.md

Only reads the template; conditions of the template that leave a statement out are shown beside it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spotrelay.deploying import template

PAGE = Path(__file__).resolve().parents[2] / "docs/security.md"
BEGIN, END = "<!-- who can: made by `make docs-tables` -->", "<!-- end -->"
_WIDE = re.compile(r"arn:\$\{AWS::Partition\}:")
_WORDS = {
    "StringEquals": "is",
    "StringLike": "is like",
    "ArnEquals": "is",
    "ArnLike": "is like",
    "Bool": "is",
    "Null": "is absent:",
    "NumericGreaterThanEquals": "≥",
    "NumericLessThanEquals": "≤",
}
_PLACE = re.compile(r":\$\{AWS::Region\}:\$\{AWS::AccountId\}:")


@dataclass(frozen=True)
class Row:
    """`who` is the role or, for what several share, the policy's roles; `only_if` the statement's condition."""

    who: str
    may: str
    on: str
    only_if: str

    def __str__(self) -> str:
        return f"| {self.who} | {self.may} | {self.on} | {self.only_if} |"


def rows(ours: Mapping[str, Any]) -> list[Row]:
    """In the order of the template. Raises ValueError on a policy of a shape that is not understood."""
    found = []
    for who, statement, unless in _statements(ours["Resources"]):
        if statement["Effect"] != "Allow":
            raise ValueError(f"{who} has a statement that is no Allow: {statement.get('Sid')}")
        condition = "; ".join(filter(None, [unless, _condition(statement.get("Condition", {}))]))
        may = ", ".join(f"`{each}`" for each in _listed(statement["Action"]))
        on = ", ".join(f"`{_short(_text(each))}`" for each in _listed(statement["Resource"]))
        found.append(Row(who, may, on, condition))
    return found


def table(ours: Mapping[str, Any]) -> str:
    lines = ["| who | may | on | only if |", "|---|---|---|---|", *map(str, rows(ours))]
    return "\n".join(lines)


def inserted(page: str, made: str) -> str:
    """The page with the table between its marks. Raises ValueError when they are not there."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN!r} … {END!r}")
    return f"{head}{BEGIN}\n{made}\n{END}{tail}"


def _statements(resources: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(who, statement, condition of the template) of every role's own policies and of the managed ones they share."""
    roles = {name: r for name, r in resources.items() if r["Type"] == "AWS::IAM::Role"}
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::ManagedPolicy":
            sharing = [_named(role) for role in roles if {"Ref": name} in _arns(roles[role])]
            sharing += [_named(each["Ref"]) for each in properties.get("Roles", [])]
            yield from _of(", ".join(sharing) or _named(name), properties["PolicyDocument"])
        elif resource["Type"] == "AWS::IAM::Role":
            for policy in properties.get("Policies", []):
                yield from _of(_named(name), policy["PolicyDocument"])


def _of(who: str, document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    for statement in document["Statement"]:
        if "Fn::If" in statement:
            condition, yes, no = statement["Fn::If"]
            for each, said in ((yes, condition), (no, f"not {condition}")):
                if each != {"Ref": "AWS::NoValue"}:
                    yield who, each, f"deployed with {said}"
        else:
            yield who, statement, ""


def _arns(role: Mapping[str, Any]) -> list[Any]:
    return list(role["Properties"].get("ManagedPolicyArns", []))


def _named(logical_id: str) -> str:
    """`StateChangeRole` → state change."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", logical_id.removesuffix("Role").removesuffix("Policy")).lower()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    ((function, given),) = value.items()
    if function in ("Ref", "Fn::GetAtt"):
        return str(given).removesuffix(".Arn")
    if function == "Fn::Sub":
        text, names = given if isinstance(given, list) else (given, {})
        for name in names:
            text = text.replace(f"${{{name}}}", "<bucket>" if name == "Name" else f"<{name}>")
        return str(text)
    if function == "Fn::If":
        return f"{_text(given[1])} or {_text(given[2])}"
    return json.dumps(value)


def _short(text: str) -> str:
    """Without what is the same everywhere: partition, region and account are always the deployment's own."""
    text = _PLACE.sub(":", _WIDE.sub("", text))
    named = re.sub(r"\$\{(?:AWS::)?([\w.]+)\}", lambda found: f"<{found[1].removesuffix('.Arn').lower()}>", text)
    return re.sub(r":{2,}", ":", named)


def _condition(given: Mapping[str, Any]) -> str:
    said = []
    for operator, tests in given.items():
        for key, value in tests.items():
            wanted = " or ".join(f"`{_short(_text(each))}`" for each in _listed(value))
            said.append(f"`{key}` {_word(operator)} {wanted}")
    return " and ".join(said)


def _word(operator: str) -> str:
    return _WORDS.get(operator, operator)


def main(arguments: list[str]) -> None:
    made = table(template.load())
    if arguments == ["--write"]:
        PAGE.write_text(inserted(PAGE.read_text("utf-8"), made), "utf-8")
    else:
        print(made)


if __name__ == "__main__":
    main(sys.argv[1:])
