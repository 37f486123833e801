"""Our CloudFormation template, read: which resources it would make with these parameters, and what they are called.

Only for showing: what a resource is called is worked out where the template says it with parameters, stage, account and region.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from spotrelay.deploying.stack import TEMPLATE

_NAME_KEYS = re.compile(r"\w*Name$")


class _Loader(yaml.SafeLoader):
    """Short forms (!Ref, !Sub…) as their long forms ({"Ref": …}, {"Fn::Sub": …})."""


def _short(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _short)


@dataclass(frozen=True)
class Resource:
    """`name` is None where AWS gives one. `retained` means that it outlives the stack."""

    logical_id: str
    kind: str
    name: str | None
    retained: bool


def load(text: str | None = None) -> dict[str, Any]:
    """The template as data, ours unless another's text is given."""
    loaded = yaml.load(text or TEMPLATE.read_text("utf-8"), Loader=_Loader)
    assert isinstance(loaded, dict)
    return loaded


def defaults(template: Mapping[str, Any]) -> dict[str, str]:
    """Parameters that need not be given, with their values."""
    return {name: str(p["Default"]) for name, p in template["Parameters"].items() if "Default" in p}


def resources(template: Mapping[str, Any], values: Mapping[str, str]) -> list[Resource]:
    """What would be made. `values` are the parameters and CloudFormation's own (`AWS::Region`…)."""
    found = []
    for logical_id, resource in template["Resources"].items():
        if "Condition" in resource and not _holds(template, values, {"Condition": resource["Condition"]}):
            continue
        properties = resource.get("Properties", {})
        found.append(
            Resource(
                logical_id=logical_id,
                kind=resource["Type"],
                name=_name(template, values, properties),
                retained=str(resource.get("DeletionPolicy", "")).startswith("Retain"),
            )
        )
    return found


def output(template: Mapping[str, Any], values: Mapping[str, str], name: str) -> str:
    """What an output will say; in words, where only AWS knows."""
    value = template["Outputs"][name]["Value"]
    while isinstance(value, dict) and "Fn::If" in value:
        condition, yes, no = value["Fn::If"]
        value = yes if _holds(template, values, {"Condition": condition}) else no
    if isinstance(value, dict):
        target = str(value.get("Ref") or value.get("Fn::GetAtt") or "").partition(".")[0]
        if target in template["Resources"]:
            called = _name(template, values, template["Resources"][target]["Properties"]) or target
            return called if "Ref" in value else f"(ARN of {called})"
    return _text(template, values, value) or f"({name})"


def _name(template: Mapping[str, Any], values: Mapping[str, str], properties: Mapping[str, Any]) -> str | None:
    # A budget has its name one level down.
    for given in (properties, *(v for v in properties.values() if isinstance(v, dict))):
        for key, value in given.items():
            if _NAME_KEYS.fullmatch(key) and key not in ("MetricName",):
                return _text(template, values, value)
    return None


def _text(template: Mapping[str, Any], values: Mapping[str, str], value: Any) -> str | None:
    """The text an expression gives, or None where only AWS knows."""
    if not isinstance(value, dict):
        return str(value)
    if "Ref" in value:
        return values.get(value["Ref"])
    if "Fn::If" in value:
        condition, yes, no = value["Fn::If"]
        return _text(template, values, yes if _holds(template, values, {"Condition": condition}) else no)
    if "Fn::Sub" in value and isinstance(value["Fn::Sub"], str):
        return re.sub(r"\$\{([^}]+)\}", lambda found: values.get(found[1], f"<{found[1]}>"), value["Fn::Sub"])
    return None


def _holds(template: Mapping[str, Any], values: Mapping[str, str], condition: Any) -> bool:
    """Whether a condition holds. Raises ValueError on a function that this template did not use before."""
    if "Condition" in condition:
        return _holds(template, values, template["Conditions"][condition["Condition"]])
    ((function, given),) = condition.items()
    if function == "Fn::Equals":
        return _text(template, values, given[0]) == _text(template, values, given[1])
    if function == "Fn::Not":
        return not _holds(template, values, given[0])
    if function == "Fn::And":
        return all(_holds(template, values, each) for each in given)
    if function == "Fn::Or":
        return any(_holds(template, values, each) for each in given)
    raise ValueError(f"The condition {function} isn't understood here.")
