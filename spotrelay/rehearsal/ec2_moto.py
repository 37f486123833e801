"""moto's EC2 in this process, patched: launches (`ec2_fleet`), states, prices, profiles, consoles.

`install(market, hooks)` patches moto's classes, once. Raises `ec2_fleet.MotoShapeError` where moto isn't as it was
when the patches were written.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Protocol

import moto.ec2.models.iam_instance_profile
import moto.ec2.responses.instances
import moto.ec2.utils
from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.models.instances import Instance, InstanceBackend, InstanceState
from moto.ec2.responses.general import General
from moto.ec2.responses.spot_instances import SpotInstances

from spotrelay.rehearsal.ec2_fleet import (
    GONE,
    MotoShapeError,
    expect,
    patch_fleets,
    patch_tokens,
    replace,
    vcpus,
)
from spotrelay.rehearsal.ec2_market import Market

PENDING, SHUTTING_DOWN = ("pending", 0), ("shutting-down", 32)
_installed: list[Market] = []


class Hooks(Protocol):
    """What the host does when moto's instances change, and what it knows that moto doesn't."""

    def launched(self, instance: Any) -> None: ...
    def ending(self, instance: Any) -> None: ...
    def stopped(self, instance: Any) -> None: ...
    def console(self, instance_id: str) -> str: ...
    def profile(self, name: str) -> dict[str, str] | None: ...


def install(market: Market, hooks: Hooks) -> None:
    """Patch moto in this process. Raises MotoShapeError when it is not the moto these patches know."""
    if _installed:
        raise MotoShapeError("moto is patched already: one host per process")
    patch_fleets(market)
    patch_tokens(market)
    _patch_states(market, hooks)
    _patch_prices(market)
    _patch_profiles(hooks)
    _patch_console(hooks)
    _installed.append(market)


def _patch_states(market: Market, hooks: Hooks) -> None:
    """moto's instances run and end at once and nobody is told; here the host walks them through their states."""
    expect(Instance.terminate, "self")
    expect(Instance.stop, "self")
    run, terminate, stop = InstanceBackend.run_instances, Instance.terminate, Instance.stop

    def run_instances(self: Any, *args: Any, **kwargs: Any) -> Any:
        with market.lock:
            reservation = run(self, *args, **kwargs)
            for instance in reservation.instances:
                instance._state = InstanceState(*PENDING)
                hooks.launched(instance)
            return reservation

    def terminate_instance(self: Any) -> Any:
        with market.lock:
            if self.state in GONE:
                return InstanceState(self.state, self.state_code)
            previous = terminate(self)
            self._state = InstanceState(*SHUTTING_DOWN)
            hooks.ending(self)
            return previous

    def stop_instance(self: Any) -> Any:
        previous = stop(self)
        hooks.stopped(self)
        return previous

    replace(InstanceBackend, "run_instances", run_instances)
    replace(Instance, "terminate", terminate_instance)
    replace(Instance, "stop", stop_instance)


def _patch_prices(market: Market) -> None:
    """moto's DescribeSpotPriceHistory is always 0.00001, in 2006."""
    expect(SpotInstances.describe_spot_price_history, "self")

    def moment(value: Any) -> datetime | None:
        if value is None or value == "":
            return None
        parsed = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)

    def describe_spot_price_history(self: Any) -> Any:
        filters: dict[str, list[str]] = self._filters_from_querystring()
        types = self._get_param("InstanceTypes", []) or filters.get("instance-type") or ["c6i.xlarge"]
        zone = self._get_param("AvailabilityZone")
        zones = [zone] if zone else filters.get("availability-zone")
        products = self._get_param("ProductDescriptions", []) or filters.get("product-description") or ["Linux/UNIX"]
        end = moment(self._get_param("EndTime")) or datetime.now(UTC)
        history = []
        for offer in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(self.region, []):
            pool = (offer["InstanceType"], offer["Location"])
            if pool[0] not in types or (zones and pool[1] not in zones) or not any("Linux" in p for p in products):
                continue
            for at, price in market.history(pool, vcpus(pool[0]), moment(self._get_param("StartTime")), end):
                history.append(
                    {
                        "InstanceType": pool[0], "AvailabilityZone": pool[1], "ProductDescription": "Linux/UNIX",
                        "SpotPrice": f"{price:.6f}", "Timestamp": at,
                    }
                )  # fmt: skip
        return ActionResult({"SpotPriceHistory": sorted(history, key=lambda entry: entry["Timestamp"], reverse=True)})

    replace(SpotInstances, "describe_spot_price_history", describe_spot_price_history)


def _patch_profiles(hooks: Hooks) -> None:
    """moto looks for instance profiles in its own IAM, which is empty: they live in the emulator."""
    expect(moto.ec2.utils.filter_iam_instance_profiles, "iam_instance_profile_arn", "iam_instance_profile_name")

    def filter_iam_instance_profiles(
        account_id: str,
        partition: str,
        iam_instance_profile_arn: str | None = None,
        iam_instance_profile_name: str | None = None,
    ) -> Any:
        name = iam_instance_profile_name or str(iam_instance_profile_arn).rsplit("/", 1)[-1]
        found = hooks.profile(name)
        if not found:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
            )
        return SimpleNamespace(arn=found["arn"], id=found["id"], name=name)

    for module in (moto.ec2.models.iam_instance_profile, moto.ec2.responses.instances):  # each has its own name for it
        replace(module, "filter_iam_instance_profiles", filter_iam_instance_profiles)


def _patch_console(hooks: Hooks) -> None:
    """moto's GetConsoleOutput is the same kernel log for everyone; a failed boot is told by the instance's own."""
    expect(General.get_console_output, "self")

    def get_console_output(self: Any) -> Any:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        output = Base64EncodedString.from_raw_string(hooks.console(instance.id))
        return ActionResult({"InstanceId": instance.id, "Timestamp": datetime.now(UTC), "Output": output})

    replace(General, "get_console_output", get_console_output)
