"""Whom EventBridge Scheduler in ministack acts as, and who may tell it what to do: roles, trust, authorization."""

import functools
import json
import re
import time
from typing import Any

from spotrelay.rehearsal.ministack_checks import Asked, authorize_each, load, require_function, require_text

SERVICE = "scheduler.amazonaws.com"
SESSION_S = 900

_PATH = re.compile(r"/schedules/([^/]+)")


def require_shapes() -> None:
    """Check, when the emulator starts, what sessions and trust are made of later; raises PatchMismatch."""
    evaluator, sts = load("core.iam_evaluator"), load("services.sts")
    require_function(evaluator, "_service_principal_matches", "principal service")
    require_function(evaluator, "evaluate_trust_policy", "trust_doc caller_arn ctx")
    require_function(sts, "register_session", "access_key session")
    require_text(
        sts,
        "handle_request",
        '"SecretAccessKey": secret_key',
        '"PrincipalType": "AssumedRole"',
        "access_key = _gen_session_access_key()",
        "secret_key = _gen_secret()",
        "session_token = _gen_session_token()",
        "role_id = _role_id(role_arn)",
        "role = iam_svc._roles.get(role_name)",
        'role.get("AssumeRolePolicyDocument"',
        "service_context={",
    )


def session_keys(role_arn: str, schedule_arn: str) -> dict[str, str] | None:
    """A session's keys for boto3, as the scheduler gets them; None when the role's trust policy doesn't let it."""
    if not trusted(role_arn, schedule_arn):
        return None
    sts = load("services.sts")
    account, role = role_arn.split(":")[4], role_arn.rsplit("/", 1)[-1]
    key, secret, token = sts._gen_session_access_key(), sts._gen_secret(), sts._gen_session_token()
    session = {
        "Arn": f"arn:aws:sts::{account}:assumed-role/{role}/scheduler",
        "UserId": f"{sts._role_id(role_arn)}:scheduler",
        "SecretAccessKey": secret,
        "SessionToken": token,
        "Expiration": time.time() + SESSION_S,
        "AccountId": account,
        "PrincipalType": "AssumedRole",
    }
    sts.register_session(key, session)
    return {
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_session_token": token,
        "region_name": schedule_arn.split(":")[3],
    }


def trusted(role_arn: str, schedule_arn: str) -> bool:
    """Whether the role's trust policy lets the scheduler assume it for this schedule.

    ministack's own evaluation never tells one service from another.
    """
    evaluator = load("core.iam_evaluator")
    role = load("services.iam")._roles.get(role_arn.rsplit("/", 1)[-1])
    if role is None or role["Arn"] != role_arn:
        return False
    document = json.loads(role["AssumeRolePolicyDocument"])
    statements = document.get("Statement") or []
    statements = statements if isinstance(statements, list) else [statements]
    ours = [
        {**each, "Principal": "*"}
        for each in statements
        if evaluator._service_principal_matches(each.get("Principal"), SERVICE)
        or (each["Effect"] == "Deny" and each.get("Principal") == "*")
    ]
    account, region = schedule_arn.split(":")[4], schedule_arn.split(":")[3]
    group = schedule_arn.replace(":schedule/", ":schedule-group/").rsplit("/", 1)[0]
    context = evaluator.EvalContext(
        principal_arn=SERVICE,
        principal_type="Service",
        principal_account="",
        action="sts:AssumeRole",
        resource_arn=role_arn,
        region=region,
        # AWS names the group here, not the schedule.
        service_context={"aws:sourcearn": group, "aws:sourceaccount": account},
    )
    return bool(evaluator.evaluate_trust_policy({"Statement": ours}, SERVICE, context))


class ScheduleArn(str):
    """The ARN of the schedule that a call names, with the role that the call hands to the scheduler."""

    role: str = ""


def patch_authorization() -> None:
    """Authorize a call on its schedule in its group, and the handing over of the role (`iam:PassRole`).

    ministack takes every schedule for one of the group `default`, so that no narrow policy would do, and lets anybody
    pass any role.
    """
    actions = load("core.iam_actions")
    extract = require_function(
        actions, "extract_resource_arn", "service method path headers body query_params region account_id"
    )
    require_text(load("app"), "_dispatch_service_request", "extract_resource_arn(", "resource_arn=checked_arn")
    logger = load("services.scheduler").logger

    @functools.wraps(extract)
    def patched_extract(
        service: str, method: str, path: str, headers: Any, body: bytes, query_params: Any, region: str, account_id: str
    ) -> str:
        named = _PATH.fullmatch(path) if service == "scheduler" else None
        if not named:
            arn: str = extract(service, method, path, headers, body, query_params, region, account_id)
            return arn
        request = _json(body)
        group = request.get("GroupName") or query_params.get("groupName") or "default"
        group = group[0] if isinstance(group, list) else group
        schedule = ScheduleArn(f"arn:aws:scheduler:{region}:{account_id}:schedule/{group}/{named[1]}")
        schedule.role = (request.get("Target") or {}).get("RoleArn") or ""
        return schedule

    def with_role(asked: Asked) -> list[Asked]:
        role = getattr(asked.resource_arn, "role", "")
        if not role:
            return [asked]
        handed = {"iam:PassedToService": SERVICE}
        passing = Asked(asked.access_key_id, "iam:PassRole", "iam", asked.region, role, handed)
        return [asked, passing]

    def refused(asked: Asked, part: Asked) -> None:
        if part is not asked:
            logger.error("%s: the caller may not pass %s to %s", asked.resource_arn, part.resource_arn, SERVICE)

    actions.extract_resource_arn = patched_extract
    authorize_each(with_role, refused)


def _json(body: bytes) -> dict[str, Any]:
    """A request's body; an unreadable one, which the service refuses itself, is empty."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}
