"""EventBridge Scheduler ends an instance at the end of its lease and grace, should everything else have failed.

One schedule an instance, one time only, calling EC2's TerminateInstances directly; it deletes itself when it has fired.
Scheduler fires within 60 seconds after its time (EventBridge Scheduler user guide), which `Policy.end_margin` pays for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

_TARGET = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"


class Watchdog:
    def __init__(self, scheduler: Callable[[], Any], group: str, role_arn: str) -> None:
        """`scheduler` gives the client; `role_arn` is what Scheduler acts as."""
        self._scheduler, self._group, self._role_arn = scheduler, group, role_arn

    def set(self, instance_id: str, at: datetime, moves: bool) -> None:
        """Have the instance ended at this time, and at no other set before. The same again changes nothing.

        `moves`: there should be a schedule already. When there is none all the same, one is made, and the other way round.
        """
        scheduler, request = self._scheduler(), self._request(instance_id, at)
        make, change = scheduler.create_schedule, scheduler.update_schedule
        first, second = (change, make) if moves else (make, change)
        try:
            first(**request)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("ResourceNotFoundException", "ConflictException"):
                raise
            second(**request)

    def clear(self, instance_id: str) -> None:
        """Take it back. None there is what was wanted."""
        try:
            self._scheduler().delete_schedule(GroupName=self._group, Name=instance_id)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise

    def _request(self, instance_id: str, at: datetime) -> dict[str, Any]:
        return {
            "GroupName": self._group,
            "Name": instance_id,
            "ScheduleExpression": f"at({at.astimezone(UTC):%Y-%m-%dT%H:%M:%S})",
            "ScheduleExpressionTimezone": "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "Target": {
                "Arn": _TARGET,
                "RoleArn": self._role_arn,
                "Input": json.dumps({"InstanceIds": [instance_id]}),
                # A time that could not be kept is kept late, not never.
                "RetryPolicy": {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 60},
            },
        }
