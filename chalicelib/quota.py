"""How many vCPU the account may run at once, from the Service Quotas API, and how many an instance type has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib import asking

# Running Spot and on-demand instances of the standard families (A, C, D, H, I, M, R, T, Z), in vCPU.
CODES = {"spot": "L-34B43A08", "on_demand": "L-1216C47A"}


class Quotas:
    def __init__(self, ec2: Callable[[], Any], service_quotas: Callable[[], Any]) -> None:
        self._ec2, self._service_quotas = ec2, service_quotas
        self._vcpus: dict[str, int] = {}

    def limit(self, market: str) -> int | None:
        """vCPU the account may run at once in this market; None when AWS does not say."""
        try:
            answer = self._service_quotas().get_service_quota(ServiceCode="ec2", QuotaCode=CODES[market])
        except (ClientError, BotoCoreError):
            return None
        return int(answer["Quota"]["Value"])

    def vcpus(self, types: Iterable[str]) -> dict[str, int]:
        """vCPU of each type that EC2 knows; empty when EC2 does not say."""
        asked = [kind for kind in types if kind not in self._vcpus]
        if asked:
            try:
                for answer in asking.known(self._ask_vcpus, asked):
                    self._vcpus |= answer
            except (ClientError, BotoCoreError):
                return {}
        return {kind: self._vcpus[kind] for kind in types if kind in self._vcpus}

    def _ask_vcpus(self, types: list[str]) -> dict[str, int]:
        pages = self._ec2().get_paginator("describe_instance_types").paginate(InstanceTypes=types)
        found = [kind for page in pages for kind in page["InstanceTypes"]]
        return {kind["InstanceType"]: int(kind["VCpuInfo"]["DefaultVCpus"]) for kind in found}


def increase(market: str, wanted: int) -> str:
    """The command that asks AWS for more."""
    return (
        f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {CODES[market]} "
        f"--desired-value {wanted}"
    )
