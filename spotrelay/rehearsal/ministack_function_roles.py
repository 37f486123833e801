"""What Lambda does in a function's name, with the function's own role: write its log, keep the event that it failed at.

ministack does both without asking, so that a role which forgot them would only be found out on AWS.
"""

import functools
from typing import Any

from spotrelay.rehearsal.ministack_checks import load, require_function, require_text


def patch_function_roles(region: str, account: str) -> None:
    """Leave out the log, or drop the failed event, where the function's role does not allow it."""
    functions, evaluator = load("services.lambda_svc"), load("core.iam_evaluator")
    emit = require_function(functions, "_emit_lambda_logs", "func request_id log_text error duration_ms log_source")
    route = require_function(functions, "_route_async_failure", "target_arn func_name event result")
    require_function(evaluator, "_gather_role_policies", "role_name account_id")
    require_text(functions, "_emit_lambda_logs", 'f"/aws/lambda/{fn_name}"')
    require_text(
        functions, "invoke_async_with_retry", "_route_async_failure(on_failure_arn, fn_name, event, last_result)"
    )

    def allowed(config: dict[str, Any], action: str, resource: str) -> bool:
        role, name = str(config.get("Role", "")).rsplit("/", 1)[-1], str(config.get("FunctionName"))
        context = evaluator.EvalContext(
            principal_arn=f"arn:aws:sts::{account}:assumed-role/{role}/{name}",
            principal_type="AssumedRole",
            principal_account=account,
            action=action,
            resource_arn=resource,
            region=region,
        )
        decision = evaluator.evaluate(context, evaluator._gather_role_policies(role, account)).decision
        if decision != "Allow":
            functions.logger.error("%s: %s may not %s on %s", name, role, action, resource)
        return bool(decision == "Allow")

    @functools.wraps(emit)
    def patched_emit(func: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        config = func.get("config") or func
        group = f"arn:aws:logs:{region}:{account}:log-group:/aws/lambda/{config.get('FunctionName')}"
        stream = f"{group}:log-stream:{config.get('Version', '$LATEST')}"
        if all(allowed(config, action, stream) for action in ("logs:CreateLogStream", "logs:PutLogEvents")):
            emit(func, *args, **kwargs)

    @functools.wraps(route)
    def patched_route(target_arn: str, func_name: str, event: Any, result: Any) -> None:
        config = (functions._functions.get(func_name) or {}).get("config") or {}
        if ":sqs:" not in target_arn or allowed(config, "sqs:SendMessage", target_arn):
            route(target_arn, func_name, event, result)

    functions._emit_lambda_logs = patched_emit
    functions._route_async_failure = patched_route
