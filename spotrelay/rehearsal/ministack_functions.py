"""Lambda in ministack during an outage: an event for a function that may not run waits, an API call is a 500."""

import contextvars
import functools
import time
from typing import Any

from spotrelay.rehearsal.ministack_checks import load, require_function, require_text

RETRY_S = 0.5
# How long Lambda keeps a throttled event, unless the function's settings say otherwise.
EVENT_AGE_S = 6 * 3600


def patch_throttled_events() -> None:
    """Keep an asynchronous invocation that meets a concurrency limit, and try it again until it runs or is too old.

    ministack counts a throttle as one of three attempts and drops the event after three seconds. AWS tries for six
    hours, at first after a second and in the end every five minutes; here it is twice a second throughout.
    """
    functions = load("services.lambda_svc")
    invoke = require_function(functions, "invoke_async_with_retry", "func event")
    execute = require_function(functions, "_execute_function", "func event")
    find = require_function(functions, "_get_func_record_for_ref", "function_ref")
    record = require_function(functions, "_execution_record_for_config", "func config")
    require_text(
        functions,
        "invoke_async_with_retry",
        "last_result = _execute_function(func, event)",
        "ctx_snapshot = contextvars.copy_context()",
    )
    require_text(functions, "_throttle_response", '"throttle": True')
    waits: contextvars.ContextVar[bool] = contextvars.ContextVar("waits", default=False)

    @functools.wraps(invoke)
    def patched_invoke(func: dict[str, Any], event: Any) -> None:
        token = waits.set(True)  # the invoking thread runs in a copy of this context
        try:
            invoke(func, event)
        finally:
            waits.reset(token)

    @functools.wraps(execute)
    def patched_execute(func: dict[str, Any], event: Any) -> Any:
        if not waits.get():
            return execute(func, event)
        config, settings = func.get("config") or func, func.get("event_invoke_config") or {}
        too_old = time.monotonic() + int(settings.get("MaximumEventAgeInSeconds", EVENT_AGE_S))
        while True:
            # Anew each time: the limit is in the record, which may be another than when the event came.
            function, now, _ = find(config["FunctionArn"])
            result = execute(record(function, now) if function and now else func, event)
            if not result.get("throttle") or time.monotonic() > too_old:
                return result
            time.sleep(RETRY_S)

    functions.invoke_async_with_retry = patched_invoke
    functions._execute_function = patched_execute


def patch_throttled_calls() -> None:
    """Answer an API call whose function is at its limit as API Gateway does: 500, without a word of the reason.

    ministack passes Lambda's 429 on, which clients take for a limit of their own and may treat otherwise.
    """
    gateway = load("services.apigateway_v1")
    shape = require_function(gateway, "_lambda_proxy_response", "result")
    require_text(gateway, "_lambda_proxy_response", "return lambda_response, None")

    @functools.wraps(shape)
    def patched(result: dict[str, Any]) -> Any:
        if not result.get("throttle"):
            return shape(result)
        headers = {"Content-Type": "application/json", "x-amzn-ErrorType": "InternalServerErrorException"}
        return {"statusCode": 500, "headers": headers, "body": '{"message": "Internal server error"}'}, None

    gateway._lambda_proxy_response = patched
