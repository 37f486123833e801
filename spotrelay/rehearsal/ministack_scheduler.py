"""EventBridge Scheduler in ministack: one-time schedules that fire on time, as their role, and are guarded as on AWS.

A schedule whose target is `arn:aws:scheduler:::aws-sdk:SERVICE:ACTION` makes that call, signed with a session of the
schedule's role: what the role may not do is not done, and ministack's log says so. Times are UTC. A time that is past
when the schedule is made fires at once. AWS is up to a minute late; here it is a quarter of a second.
"""

import asyncio
import functools
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from spotrelay.rehearsal import ministack_scheduler_roles
from spotrelay.rehearsal.ministack_checks import PatchMismatch, load, require_function, require_text
from spotrelay.rehearsal.ministack_scheduler_roles import SERVICE, require_shapes, session_keys, trusted

TICK_S = 0.25
PAGE = 100

_AT = re.compile(r"at\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\)")
_API_CALL = re.compile(r"arn:aws:scheduler:::aws-sdk:([a-z0-9-]+):([A-Za-z0-9]+)")

Refuse = Callable[[int, str, str], Any]


def patch_scheduler(port: int) -> None:
    """Apply every patch of this module; `port` is the emulator's own, which a fired call goes to."""
    patch_firing()
    patch_api_calls(f"http://127.0.0.1:{port}")
    patch_requests()
    patch_lists()
    ministack_scheduler_roles.patch_authorization()


def patch_firing() -> None:
    """Look for due schedules four times a second, and let a schedule that is moved or made anew fire again.

    ministack looks every ten seconds, from a thread of its own: an update that it overtakes would be removed after the
    old time had fired. On the event loop no request comes between. It also remembers a one-time schedule as fired for
    ever, whatever becomes of it.
    """
    scheduler = load("services.scheduler")
    if scheduler.__dict__.get("_SCHEDULE_TICK_INTERVAL") != 10:
        raise PatchMismatch("services.scheduler._SCHEDULE_TICK_INTERVAL = 10")
    require_function(scheduler, "start_scheduler", "")
    require_text(
        scheduler,
        "_tick_schedules",
        "account_id, region, key = state_key",
        "state_key in _schedule_last_fired",
        "_eb._invoke_target(target, event, sched)",
    )
    require_text(load("app"), "_handle_lifespan", "_sched_mod.start_scheduler()")
    beats: list[asyncio.Task[None]] = []  # the loop itself holds tasks weakly

    async def beat() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            _forget_changed(scheduler._schedule_last_fired, scheduler._schedules._data)
            try:
                scheduler._tick_schedules()
            except Exception:
                scheduler.logger.exception("Schedules could not be looked at")

    scheduler.start_scheduler = lambda: beats.append(asyncio.get_running_loop().create_task(beat()))


def _forget_changed(fired: dict[Any, float], schedules: dict[Any, dict[str, Any]]) -> None:
    """Drop from `fired` what is gone, and the one-time schedules that were changed after they had fired."""
    for key, at in list(fired.items()):
        schedule = schedules.get(key)
        one_time = schedule is not None and schedule["ScheduleExpression"].startswith("at(")
        if schedule is None or (one_time and schedule["LastModificationDate"] > at):
            del fired[key]


def patch_api_calls(endpoint: str) -> None:
    """Make the API call that a universal target names, with the role's permissions.

    ministack knows targets such as Lambda and SQS only, and asks no role.
    """
    events = load("services.eventbridge")
    scheduler = load("services.scheduler")
    require_shapes()
    invoke = require_function(events, "_invoke_target", "target event rule view")

    def call(service: str, action: str, target: dict[str, Any], keys: dict[str, str], arn: str) -> None:
        try:
            session: Any = boto3.session.Session
            client = session(**keys).client(
                service,
                endpoint_url=endpoint,
                config=Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 5}, proxies={}),
            )
            getattr(client, xform_name(action))(**json.loads(target.get("Input") or "{}"))
        except (BotoCoreError, ClientError, AttributeError, TypeError, ValueError) as error:
            scheduler.logger.error("%s: %s:%s as %s failed: %s", arn, service, action, target["RoleArn"], error)
        else:
            scheduler.logger.info("%s: %s:%s as %s done", arn, service, action, target["RoleArn"])

    @functools.wraps(invoke)
    def patched(target: dict[str, Any], event: Any, rule: dict[str, Any], view: Any = None) -> Any:
        named = _API_CALL.fullmatch(target.get("Arn", ""))
        if not named:
            return invoke(target, event, rule, view)
        arn = rule["Arn"]
        keys = session_keys(target["RoleArn"], arn)
        if keys is None:
            scheduler.logger.error("%s: %s does not let %s assume it", arn, target["RoleArn"], SERVICE)
            return None
        # Off the event loop, which has to answer the call.
        threading.Thread(target=call, args=(named[1], named[2], target, keys, arn), daemon=True).start()
        return None

    events._invoke_target = patched


def patch_requests() -> None:
    """Refuse what AWS refuses: an unreadable expression, and a role that the scheduler may not assume.

    ministack takes both; such a schedule would never fire, without a word. What the rehearsal can't do is refused too.
    """
    scheduler = load("services.scheduler")
    refuse: Refuse = require_function(scheduler, "_error", "status code message")
    require_text(scheduler, "handle_request", "_create_schedule(name, body)", "_update_schedule(name, body)")

    def checked(name: str, parameters: str) -> None:
        original = require_function(scheduler, name, parameters)

        @functools.wraps(original)
        def patched(schedule: str, body: dict[str, Any]) -> Any:
            arn = scheduler._schedule_arn(body.get("GroupName", "default"), schedule)
            problem = _problem(body, arn)
            return refuse(400, "ValidationException", problem) if problem else original(schedule, body)

        setattr(scheduler, name, patched)

    checked("_create_schedule", "name body")
    checked("_update_schedule", "name body")


def _problem(body: dict[str, Any], arn: str) -> str | None:
    expression = str(body.get("ScheduleExpression"))
    target = body.get("Target") or {}
    if expression.startswith("at") and not _AT.fullmatch(expression):
        return f"Invalid Schedule Expression {expression}."
    if body.get("ScheduleExpressionTimezone", "UTC") != "UTC":
        return f"A rehearsal knows UTC, not {body['ScheduleExpressionTimezone']}."
    if (body.get("FlexibleTimeWindow") or {"Mode": "OFF"}).get("Mode") != "OFF":
        return "A rehearsal knows FlexibleTimeWindow OFF only."
    if target.get("RoleArn") and not trusted(target["RoleArn"], arn):
        return "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
    return None


def patch_lists() -> None:
    """List schedules by the page; ministack drops what is beyond the first hundred, and says nothing of it."""
    scheduler = load("services.scheduler")
    list_schedules = require_function(scheduler, "_list_schedules", "query")
    require_text(scheduler, "_list_schedules", 'int(query.get("MaxResults", 100))', '{"Schedules": results}')

    @functools.wraps(list_schedules)
    def patched(query: dict[str, str]) -> Any:
        size, start = min(int(query.get("MaxResults") or PAGE), PAGE), int(query.get("NextToken") or 0)
        _, _, found = list_schedules({**query, "MaxResults": str(10**9)})
        schedules = json.loads(found)["Schedules"]
        page: dict[str, Any] = {"Schedules": schedules[start : start + size]}
        if len(schedules) > start + size:
            page["NextToken"] = str(start + size)
        return scheduler._json_resp(200, page)

    scheduler._list_schedules = patched
