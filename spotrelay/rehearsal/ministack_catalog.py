"""Two services that ministack has not: the Pricing API and Service Quotas, as far as Spot Relay asks them.

On-demand prices are the market's (`ec2_market`); the Spot quota is the EC2 host's, which also says whether a service
is to fail. Other products and quotas do not exist, other operations are refused.
"""

import asyncio
import json
import urllib.request
from collections.abc import Callable
from typing import Any

from spotrelay.rehearsal.ec2_market import ON_DEMAND_PRICES
from spotrelay.rehearsal.ministack_checks import PatchMismatch, load, require_text

LARGE_QUOTA_VCPUS = 256
QUOTAS = {
    "L-34B43A08": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
    "L-1216C47A": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
}
SPOT_QUOTA = "L-34B43A08"

Answer = tuple[int, dict[str, str], bytes]
Market = dict[str, Any]


class RefusedError(Exception):
    """A service's error: its HTTP status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def patch_catalog(control: str | None, region: str, account: str) -> None:
    """Add both services behind ministack's own authentication and authorization.

    `control` is the address of the EC2 host's control API; without one nothing fails and quotas are large.
    """
    app, router, actions = load("app"), load("core.router"), load("core.iam_actions")
    require_text(router, "detect_service", 'patterns.get("target_prefixes", [])')
    require_text(app, "_dispatch_service_request", "handler = SERVICE_HANDLERS.get(service)")

    def quota(request: dict[str, Any], market: Market) -> dict[str, Any]:
        return {"Quota": get_quota(request, market.get("spot_vcpus"), f"{region}:{account}")}

    services: tuple[tuple[str, str, str, Callable[[dict[str, Any], Market], dict[str, Any]]], ...] = (
        ("pricing", "AWSPriceListService", "GetProducts", lambda request, _: get_products(request)),
        ("servicequotas", "ServiceQuotasV20190624", "GetServiceQuota", quota),
    )
    for name, prefix, operation, answer in services:
        if name in app.SERVICE_HANDLERS or name in router.SERVICE_PATTERNS:
            raise PatchMismatch(f"no service {name} of its own")
        router.SERVICE_PATTERNS[name] = {"target_prefixes": [f"{prefix}."], "credential_scope": name}
        actions.SERVICE_TO_IAM_NAMESPACE[name] = name
        app.SERVICE_HANDLERS[name] = _handler(name, f"{prefix}.{operation}", answer, control)


def _handler(
    name: str, target: str, answer: Callable[[dict[str, Any], Market], dict[str, Any]], control: str | None
) -> Any:
    async def handle(method: str, path: str, headers: Any, body: Any, query_params: Any) -> Answer:
        try:
            market = await asyncio.to_thread(_market, control) if control else {}
            if name in market.get("failing", ()):
                raise RefusedError(500, "InternalErrorException", f"{name} is told to fail (rehearsal)")
            if headers.get("x-amz-target") != target:
                raise RefusedError(400, "UnknownOperationException", f"A rehearsal knows {target} only")
            return _json(200, answer(json.loads(body or b"{}"), market))
        except RefusedError as refusal:
            return _json(refusal.status, {"__type": refusal.code, "message": str(refusal)})
        except OSError as error:
            return _json(503, {"__type": "ServiceUnavailable", "message": f"no answer from the EC2 host: {error}"})

    return handle


def get_products(request: dict[str, Any]) -> dict[str, Any]:
    """GetProducts: every product whose attributes have each filter's value."""
    if request.get("ServiceCode") != "AmazonEC2":
        raise RefusedError(400, "NotFoundException", f"A rehearsal has no products of {request.get('ServiceCode')}")
    found = []
    for instance_type, usd in ON_DEMAND_PRICES.items():
        attributes = {
            "instanceType": instance_type,
            "regionCode": "us-east-1",
            "location": "US East (N. Virginia)",
            "operatingSystem": "Linux",
            "preInstalledSw": "NA",
            "tenancy": "Shared",
            "capacitystatus": "Used",
            "licenseModel": "No License required",
            "marketoption": "OnDemand",
        }
        wanted = [(each["Field"], each["Value"]) for each in request.get("Filters") or []]
        if all(attributes.get(field, "").lower() == value.lower() for field, value in wanted):
            found.append(json.dumps(_product(attributes, usd)))
    return {"FormatVersion": "aws_v1", "PriceList": found}


def _product(attributes: dict[str, str], usd: float) -> dict[str, Any]:
    sku = "".join(c for c in attributes["instanceType"].upper() if c.isalnum()).ljust(16, "0")
    term, rate = f"{sku}.JRTCKXETXF", f"{sku}.JRTCKXETXF.6YS6EN2CT7"
    return {
        "product": {"productFamily": "Compute Instance", "sku": sku, "attributes": attributes},
        "serviceCode": "AmazonEC2",
        "terms": {
            "OnDemand": {
                term: {
                    "sku": sku,
                    "offerTermCode": "JRTCKXETXF",
                    "priceDimensions": {
                        rate: {
                            "rateCode": rate,
                            "unit": "Hrs",
                            "description": f"${usd} per On Demand Linux {attributes['instanceType']} Instance Hour",
                            "beginRange": "0",
                            "endRange": "Inf",
                            "pricePerUnit": {"USD": f"{usd:.10f}"},
                        }
                    },
                }
            }
        },
    }


def get_quota(request: dict[str, Any], spot_vcpus: int | None, place: str) -> dict[str, Any]:
    """GetServiceQuota's `Quota`; `spot_vcpus` is the market's, None where it has no limit."""
    service, code = request.get("ServiceCode"), request.get("QuotaCode")
    if service != "ec2" or code not in QUOTAS:
        raise RefusedError(400, "NoSuchResourceException", f"The request failed because {service}/{code} is unknown.")
    value = spot_vcpus if code == SPOT_QUOTA and spot_vcpus is not None else LARGE_QUOTA_VCPUS
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{place}:ec2/{code}",
        "QuotaCode": code,
        "QuotaName": QUOTAS[code],
        "Value": float(value),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }


def _market(control: str) -> Market:
    # No proxy from the environment: the host is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{control}/market", timeout=5) as answer:
        market: Market = json.load(answer)
        return market


def _json(status: int, body: dict[str, Any]) -> Answer:
    return status, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(body).encode()
