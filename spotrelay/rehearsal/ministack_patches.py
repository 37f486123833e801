"""What must change in ministack before Spot Relay can be deployed into it and rehearsed there.

Each patch is a function: its docstring says why, and it raises `PatchMismatch` where ministack isn't as it was when
the patch was written. Those for IAM are in `ministack_iam`, others in
modules named for what they patch.
"""

import asyncio
import contextvars
import functools
import hmac
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from spotrelay.rehearsal import (
    ministack_catalog,
    ministack_cloudformation,
    ministack_decisions,
    ministack_function_roles,
    ministack_functions,
    ministack_iam,
    ministack_launches,
    ministack_scheduler,
)
from spotrelay.rehearsal.ministack_checks import (
    PatchMismatch,
    load,
    require_function,
    require_pinned_version,
    require_text,
)

__all__ = ["EC2_HOST_HEADER", "PatchMismatch", "apply_all"]

# The EC2 host sends its key in this header, to be allowed events from `aws.ec2`.
EC2_HOST_HEADER = "x-spot-relay-ec2-host"

_REQUEST = "method path headers body query_params"

Answer = tuple[int, dict[str, str], bytes]


def apply_all(
    ec2_endpoint: str, host_key: str, port: int, control: str | None = None, decisions: Path | None = None
) -> None:
    """Apply every patch to the ministack in this process, before it serves on `port`.

    `control` is the address of the EC2 host's control API; `decisions` keeps what was allowed, and by which statement.
    """
    require_pinned_version()
    patch_api_import()
    patch_api_compression()
    patch_lambda_delay()
    patch_event_sources(host_key)
    ministack_functions.patch_throttled_events()
    ministack_functions.patch_throttled_calls()
    ministack_function_roles.patch_function_roles(os.environ["AWS_REGION"], os.environ["MINISTACK_ACCOUNT_ID"])
    if decisions is not None:
        ministack_decisions.patch_decisions(decisions)
    patch_event_retries()
    patch_ec2(ec2_endpoint)
    patch_resource_tags(ec2_endpoint)
    ministack_cloudformation.patch_ec2_resources(ec2_endpoint)
    ministack_iam.patch_policy_variables()
    ministack_iam.patch_leading_keys()
    ministack_scheduler.patch_scheduler(port)
    ministack_catalog.patch_catalog(control, os.environ["AWS_REGION"], os.environ["MINISTACK_ACCOUNT_ID"])
    ministack_launches.patch_launches(functools.partial(_ec2_client, ec2_endpoint))
    ministack_iam.patch_resource_arns()


def patch_api_import() -> None:
    """Add ImportRestApi and PutRestApi, which is how `chalice deploy` creates and updates its API.

    ministack takes the first for CreateRestApi (an API without routes, where every call is refused while the deploy
    reports success) and doesn't know the second.
    """
    gateway = load("services.apigateway_v1")
    handle = require_function(gateway, "handle_request", _REQUEST)
    import_api = require_function(gateway, "_import_rest_api", "spec base_data")
    import_schemes = require_function(gateway, "_import_security_schemes", "api_id spec")
    import_path = require_function(gateway, "_import_path_item", "api_id path path_item scheme_map default_security")
    require_text(gateway, "_create_rest_api", '"parentId": None', '"resourceMethods": {}')

    def settings(spec: dict[str, Any]) -> dict[str, Any]:
        return {"binaryMediaTypes": spec.get("x-amazon-apigateway-binary-media-types") or []}

    def import_new(spec: dict[str, Any], query: dict[str, Any]) -> Answer:
        types = query.get("endpointConfigurationTypes") or ["EDGE"]
        types = types if isinstance(types, list) else [types]
        api_id = import_api(spec, {**settings(spec), "endpointConfiguration": {"types": types}})
        answer: Answer = gateway._v1_response(gateway._rest_api_view(gateway._rest_apis[api_id]), 201)
        return answer

    def overwrite(api_id: str, spec: dict[str, Any]) -> Answer:
        # Nothing here awaits, so no request meets the API while it has no routes.
        root = {"id": gateway._new_id()[:8], "parentId": None, "pathPart": "", "path": "/", "resourceMethods": {}}
        gateway._resources[api_id] = {root["id"]: root}
        gateway._authorizers_v1[api_id] = {}
        gateway._rest_apis[api_id].update(settings(spec))
        schemes = import_schemes(api_id, spec)
        for path, item in (spec.get("paths") or {}).items():
            import_path(api_id, path, item, schemes, spec.get("security"))
        answer: Answer = gateway._v1_response(gateway._rest_api_view(gateway._rest_apis[api_id]), 200)
        return answer

    async def patched(method: str, path: str, headers: Any, body: Any, query_params: Any) -> Any:
        parts = [part for part in path.split("/") if part]
        mode = query_params.get("mode")
        mode = mode[0] if isinstance(mode, list) else mode
        if method == "POST" and parts == ["restapis"] and mode == "import":
            return import_new(json.loads(body), query_params)
        if method == "PUT" and len(parts) == 2 and parts[0] == "restapis" and parts[1] in gateway._rest_apis:
            if mode not in (None, "overwrite"):
                return gateway._v1_error("BadRequestException", "A rehearsal only knows mode=overwrite", 400)
            return overwrite(parts[1], json.loads(body))
        return await handle(method, path, headers, body, query_params)

    gateway.handle_request = patched


def patch_api_compression() -> None:
    """Let `minimumCompressionSize: ""` remove the setting, as on AWS; Chalice sends it with every deploy.

    ministack keeps the empty string and fails when it later reads it as a number.
    """
    gateway = load("services.apigateway_v1")
    update = require_function(gateway, "_update_rest_api", "api_id data")
    require_text(gateway, "_apply_patch", "obj[keys[0]] = value", "obj.pop(keys[0], None)")

    def patched(api_id: str, data: dict[str, Any]) -> Any:
        operations = [
            {"op": "remove", "path": operation["path"]}
            if operation.get("path") == "/minimumCompressionSize" and operation.get("value") in ("", None)
            else operation
            for operation in data.get("patchOperations", [])
        ]
        return update(api_id, {**data, "patchOperations": operations})

    gateway._update_rest_api = patched


def patch_lambda_delay() -> None:
    """Make functions ready at once: boto's waiters look every five seconds, so half a second of waiting costs five."""
    functions = load("services.lambda_svc")
    if functions.__dict__.get("_LAMBDA_STATE_TRANSITION_DELAY") != 0.5:
        raise PatchMismatch("services.lambda_svc._LAMBDA_STATE_TRANSITION_DELAY = 0.5")
    require_function(functions, "_schedule_state_transition", "func_name delay")
    functions._LAMBDA_STATE_TRANSITION_DELAY = 0


def patch_event_sources(host_key: str) -> None:
    """Let the EC2 host, and nobody else, put events whose source is `aws.…`.

    Nobody may on AWS, and ministack sends no events for instances; the host, which proves itself by its key in a
    header, stands in for EC2.
    """
    events = load("services.eventbridge")
    handle = require_function(events, "handle_request", _REQUEST)
    put_events = require_function(events, "_put_events", "data allow_aws_source")
    require_text(events, "handle_request", '"PutEvents": _put_events', "return handler(data)")
    from_host: contextvars.ContextVar[bool] = contextvars.ContextVar("from_host", default=False)

    async def patched_handle(method: str, path: str, headers: Any, body: Any, query_params: Any) -> Any:
        given = str(headers.get(EC2_HOST_HEADER, ""))
        token = from_host.set(bool(host_key) and hmac.compare_digest(given.encode(), host_key.encode()))
        try:
            return await handle(method, path, headers, body, query_params)
        finally:
            from_host.reset(token)

    def patched_put(data: Any, allow_aws_source: bool = False) -> Any:
        return put_events(data, allow_aws_source or from_host.get())

    events.handle_request = patched_handle
    events._put_events = patched_put


def patch_event_retries() -> None:
    """Invoke a rule's Lambda the asynchronous way, with retries and on-failure destination, as EventBridge does.

    ministack runs it once: an event that meets a failing controller would be lost here, and only here.
    """
    events = load("services.eventbridge")
    functions = load("services.lambda_svc")
    require_function(events, "_dispatch_to_lambda", "arn payload")
    require_text(events, "_dispatch_to_lambda", "_execute_function_with_config_scope, args=(exec_record, event)")
    find = require_function(functions, "_get_func_record_for_ref", "function_ref")
    record = require_function(functions, "_execution_record_for_config", "func config")
    invoke = require_function(functions, "invoke_async_with_retry", "func event")

    def patched(arn: str, payload: str) -> None:
        function, config, name = find(arn)
        if not function or not config:
            events.logger.warning("EventBridge: no function %s", name)
            return
        invoke(record(function, config), json.loads(payload))

    events._dispatch_to_lambda = patched


def patch_ec2(endpoint: str) -> None:
    """Hand every EC2 call that ministack has authenticated and authorized on to the EC2 host.

    ministack's own EC2 has no Spot, no launch templates worth the name and runs no user data.
    """
    ec2 = load("services.ec2")
    require_function(ec2, "handle_request", _REQUEST)
    # Authorization tells moto the region. The caller was judged before this.
    passed_on = ("content-type", "authorization", "x-amz-date", "user-agent")

    def ask(method: str, headers: dict[str, str], body: bytes) -> Answer:
        kept = {name: value for name, value in headers.items() if name.lower() in passed_on}
        request = urllib.request.Request(endpoint, data=body or None, method=method, headers=kept)
        try:
            with _direct().open(request, timeout=120) as answer:
                return answer.status, {"Content-Type": answer.headers.get("Content-Type", "text/xml")}, answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, {"Content-Type": refusal.headers.get("Content-Type", "text/xml")}, refusal.read()
        except OSError as error:
            return 503, {"Content-Type": "text/xml"}, _unavailable(endpoint, error)

    async def patched(method: str, path: str, headers: Any, body: Any, query_params: Any) -> Answer:
        # Off the event loop: the host may call back, for an instance profile or a parameter.
        return await asyncio.to_thread(ask, method, headers, body.encode() if isinstance(body, str) else body)

    ec2.handle_request = patched


def patch_resource_tags(endpoint: str) -> None:
    """Look an EC2 resource's tags up at the EC2 host, so that `aws:ResourceTag` conditions see them.

    A failed look-up raises, which fails the request: without tags, a condition such as `StringNotEquals` would allow
    it.
    """
    tagging = load("services.tagging")
    resource_tags = require_function(tagging, "resource_tags", "arn")
    require_text(load("core.iam_evaluator"), "enforce", "from ministack.services.tagging import resource_tags")

    def patched(arn: str) -> dict[str, str] | None:
        if not arn.startswith("arn:aws:ec2:"):
            tags: dict[str, str] | None = resource_tags(arn)
            return tags
        filters: Any = [{"Name": "resource-id", "Values": [arn.rsplit("/", 1)[-1]]}]
        found = _ec2_client(endpoint, arn.split(":")[3]).describe_tags(Filters=filters)["Tags"]
        return {tag["Key"]: tag["Value"] for tag in found}

    tagging.resource_tags = patched


def _direct() -> urllib.request.OpenerDirector:
    """Requests that no proxy sees: the host is on loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _unavailable(endpoint: str, error: OSError) -> bytes:
    message = f"No answer from the rehearsal's EC2 at {endpoint}: {type(error).__name__}"
    error_xml = f"<Error><Code>Unavailable</Code><Message>{message}</Message></Error>"
    return f"<Response><Errors>{error_xml}</Errors></Response>".encode()


@functools.cache
def _ec2_client(endpoint: str, region: str) -> Any:
    import boto3
    from botocore.config import Config

    # Short: the server can answer nobody else meanwhile.
    return boto3.session.Session(aws_access_key_id="host", aws_secret_access_key="host", region_name=region).client(
        "ec2",
        endpoint_url=endpoint,
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2}, proxies={}),
    )
