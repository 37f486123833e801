"""Lives one after another on the same clients: recorded once without a fault, and lived again with one at a call of a site.

A site is an operation with the controller's lines that asked for it. Moto is made to answer in half the time.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
from botocore import xform_name
from moto.core.serialize import ResponseSerializer

from tests.calls import Calls
from tests.conftest import TRIED
from tests.real_life import Life, Scenario
from tests.sim.faults import Kind

SERVICES = {"functions": "lambda", "service_quotas": "service-quotas"} | {
    name: name for name in ("dynamodb", "s3", "ec2", "sts", "scheduler", "sns", "pricing")
}


class Lives:
    def __init__(self, scenarios: tuple[Scenario, ...]) -> None:
        session = boto3.Session(region_name="us-east-1")
        self.scenarios, self.calls = scenarios, Calls(session)
        self.services: dict[str, Any] = {
            name: session.client(service)  # type: ignore[call-overload]
            for name, service in SERVICES.items()
        }
        self._clients = {**self.services, "session": session}
        self._recorded: dict[str, list[str]] = {}

    def recorded(self, scenario: Scenario) -> list[str]:
        """The site of each call of a life without a fault, in which everything is as it should be."""
        if scenario.name not in self._recorded:
            life, problems = self._lived(scenario)
            assert problems == []
            assert life.truth.exact(), "the ledger has not what EC2 charges"
            self._recorded[scenario.name] = self.calls.sites
        return self._recorded[scenario.name]

    def own(self, scenario: Scenario) -> dict[str, tuple[int, int]]:
        """The sites that no scenario before this one has, with the numbers of their first and their last call."""
        before = itertools.takewhile(lambda earlier: earlier is not scenario, self.scenarios)
        known = {site for earlier in before for site in self.recorded(earlier)}
        found: dict[str, tuple[int, int]] = {}
        for n, site in enumerate(self.recorded(scenario), 1):
            if site not in known:
                found[site] = found.get(site, (n, n))[0], n
        return found

    def met(self, scenario: Scenario, n: int, kind: Kind) -> list[str]:
        """What went wrong with this fault at the n-th call. Counted."""
        site = self.recorded(scenario)[n - 1]
        TRIED["real faults"] = TRIED.get("real faults", 0) + 1
        TRIED["real sites"] = TRIED.get("real sites", set()) | {site}
        try:
            _, problems = self._lived(scenario, n, kind)
        except AssertionError as error:
            problems = [str(error)]
        if self.calls.fired != site:
            problems.append(f"the fault was met at {self.calls.fired or 'no call'} instead")
        return [f"{scenario.name}, call {n}, {site}, {kind}: {problem}" for problem in problems]

    def problems(self, scenario: Scenario) -> list[str]:
        """What is not as it should be in a life without a fault."""
        return self._lived(scenario)[1]

    def _lived(self, scenario: Scenario, n: int = 0, kind: Kind | None = None) -> tuple[Life, list[str]]:
        with quick(), listing(scenario.keys), Life(scenario, self._clients, self.calls) as life:
            self.calls.begin(n, kind)
            with self.calls.doubled():
                run = life.live()
            return life, life.problems(run)


@contextmanager
def listing(keys: int) -> Iterator[None]:
    """S3 answers a list with so many keys; fewer than its thousand make the sweep measure the bucket over several passes."""
    with (
        patch.dict("os.environ", {"MOTO_S3_DEFAULT_MAX_KEYS": str(keys)}),
        patch("chalicelib.storage._PAGES", 1 if keys < 1000 else 100),
    ):
        yield


@contextmanager
def quick() -> Iterator[None]:
    """An item's values pass as they are: moto looks each of their fields up under six names, half of the time of a life."""
    whole = ResponseSerializer._serialize_type_structure

    def passed(self: ResponseSerializer, serialized: Any, value: Any, shape: Any, key: str) -> None:
        if shape.name == "AttributeValue" and type(value) is dict:
            self._default_serialize(serialized, value, shape, key)
        else:
            whole(self, serialized, value, shape, key)

    with patch.object(ResponseSerializer, "_serialize_type_structure", passed):
        yield


def operations_in(folder: Path, clients: dict[str, Any]) -> set[str]:
    """Every operation of these clients that code here may call: whatever has its name as a method, or as a paginator's."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    models = [client.meta.service_model for client in clients.values()]
    return {
        f"{model.service_name}.{operation}"
        for model in models
        for operation in model.operation_names
        if xform_name(operation) in names
    }
