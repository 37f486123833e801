"""The API's description, OpenAPI 3.1, made from the models. `ROUTES` is what `app.py` must serve, and a test compares them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chalicelib.contracts import api, files, money
from chalicelib.contracts.spec import RunSpec
from chalicelib.core.frozen import dataclass

VERSION = "0.1.0"
_STATUS = {
    200: "Done.",
    201: "Accepted.",
    400: "Something in the request is wrong; each wrong field is named.",
    402: "The money does not cover it; the numbers are in the answer.",
    403: "Not signed, or not allowed.",
    404: "There is no such thing.",
    409: "It clashes with what is there. Code `retry`: ask again after `retry_in_s`; `unreadable`: a record can't be read.",
    413: "The body is too large.",
    415: "The body is of another kind than application/json.",
    429: "Too many requests.",
    500: "Something broke; it was logged.",
    503: "A price is not known, and nothing is launched without one; or, to an agent, the run's record can't be read now.",
}


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    operation: str
    summary: str
    answers: tuple[tuple[int, type[BaseModel] | None], ...]
    errors: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    query: tuple[str, ...] = ()


def _one(model: type[BaseModel] | None) -> tuple[tuple[int, type[BaseModel] | None], ...]:
    return ((200, model),)


ROUTES = (
    Route(
        "POST",
        "/runs",
        "submitRun",
        "Submit a run. The same name and spec again answer the run that is there.",
        ((201, api.RunView), (200, api.RunView), (200, money.Plan)),
        (400, 402, 409, 413, 503),
        RunSpec,
        query=("plan",),
    ),
    Route(
        "GET",
        "/runs",
        "listRuns",
        "Runs, newest first.",
        _one(api.RunList),
        (400,),
        query=("status", "limit", "cursor"),
    ),
    Route("GET", "/runs/{run}", "getRun", "A run with its spec.", _one(api.RunView), (404, 409)),
    Route("POST", "/runs/{run}/cancel", "cancelRun", "End a run for good.", _one(api.RunView), (404, 409)),
    Route("POST", "/runs/{run}/suspend", "suspendRun", "Drain a run and keep it.", _one(api.RunView), (404, 409)),
    Route(
        "POST",
        "/runs/{run}/resume",
        "resumeRun",
        "Go on with a suspended run, within a higher limit if one is given.",
        _one(api.RunView),
        (400, 404, 409, 413),
        api.ResumeRequest,
    ),
    Route(
        "GET",
        "/runs/{run}/ledger",
        "getLedger",
        "What a run cost, lease by lease.",
        _one(money.LedgerView),
        (400, 404, 409),
        query=("limit", "cursor"),
    ),
    Route(
        "GET",
        "/runs/{run}/events",
        "listEvents",
        "A run's timeline, oldest first.",
        _one(api.EventList),
        (400, 404, 409),
        query=("limit", "cursor"),
    ),
    Route(
        "GET",
        "/runs/{run}/checkpoints",
        "listCheckpoints",
        "A run's whole checkpoints.",
        _one(api.CheckpointList),
        (400, 404, 409),
        query=("limit", "cursor"),
    ),
    Route(
        "GET",
        "/runs/{run}/results",
        "listResults",
        "What an attempt of a run has left, by signed URLs.",
        _one(files.ResultList),
        (400, 404, 409),
        query=("attempt", "limit", "cursor"),
    ),
    Route(
        "GET",
        "/runs/{run}/logs",
        "readLogs",
        "The log of an attempt of a run, piece by piece.",
        _one(files.LogText),
        (400, 404, 409),
        query=("attempt", "tail", "cursor"),
    ),
    Route("GET", "/budget", "getBudget", "The month's money.", _one(money.Budget), (409,)),
    Route(
        "PUT",
        "/budget",
        "setBudget",
        "Set the monthly limit; runs that wait for money go on.",
        _one(money.Budget),
        (400, 409, 413),
        money.BudgetChange,
    ),
    Route("GET", "/openapi.json", "getOpenapi", "This document.", _one(None)),
    Route(
        "POST",
        "/attempts/{run}/{attempt}/claim",
        "claimAttempt",
        "For agents: ask for the work, then for the baton.",
        _one(api.ClaimAnswer),
        (400, 404, 409, 413, 503),
        api.ClaimRequest,
    ),
    Route(
        "POST",
        "/attempts/{run}/{attempt}/heartbeat",
        "heartbeat",
        "For agents: say how it goes, learn what to do.",
        _one(api.HeartbeatAnswer),
        (400, 404, 409, 413, 503),
        api.HeartbeatRequest,
    ),
    Route(
        "POST",
        "/attempts/{run}/{attempt}/exit",
        "exitAttempt",
        "For agents: the last word.",
        _one(api.ExitAnswer),
        (400, 404, 409, 413, 503),
        api.ExitRequest,
    ),
)
_QUERY: dict[str, dict[str, Any]] = {
    "plan": {"type": "boolean", "description": "Answer what would be done and cost, and do nothing."},
    "status": {"type": "string", "description": "Only runs of this status."},
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "description": "How many at most."},
    "attempt": {"type": "integer", "minimum": 1, "maximum": 9999, "description": "Of this attempt, not of the newest."},
    "tail": {"type": "boolean", "description": "Begin with the last 64 KiB."},
    "cursor": {"type": "string", "description": "Where to go on, as the answer before said."},
}


def document() -> dict[str, Any]:
    """The whole description."""
    answers = {m for r in ROUTES for _, m in r.answers if m} | {api.ErrorBody}
    bodies = {r.body for r in ROUTES if r.body}
    wanted = [(m, "validation") for m in sorted(bodies, key=str)] + [
        (m, "serialization") for m in sorted(answers, key=str)
    ]
    refs, schemas = models_json_schema(wanted, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Spot Relay", "version": VERSION, "description": "Every route is signed (AWS IAM, SigV4)."},
        "security": [{"sigv4": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "sigv4": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "x-amazon-apigateway-authtype": "awsSigv4",
                }
            },
        },
    }


def _operation(route: Route, refs: Any) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": _part(part)}
        for part in route.path.split("/")
        if part.startswith("{")
    ]
    parameters += [{"name": name, "in": "query", "schema": _QUERY[name]} for name in route.query]
    responses = {}
    for status in dict.fromkeys(status for status, _ in route.answers):
        models = [model for each, model in route.answers if each == status]
        schemas = [refs[model, "serialization"] if model else {"type": "object"} for model in models]
        responses[str(status)] = _response(status, schemas[0] if len(schemas) == 1 else {"anyOf": schemas})
    bodies = {415} if route.method != "GET" else set()
    for status in sorted({403, 429, 500, *bodies, *route.errors}):
        # API Gateway answers 403 and 429 by itself, Chalice 415, each in a shape of its own.
        schema = {"type": "object"} if status in (403, 415, 429) else refs[api.ErrorBody, "serialization"]
        responses[str(status)] = _response(status, schema)
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses,
    }
    if route.body:
        schema = refs[route.body, "validation"]
        needed = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": {"application/json": {"schema": schema}}}
    return operation


def _part(part: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1} if part == "{attempt}" else {"type": "string"}


def _response(status: int, schema: Any) -> dict[str, Any]:
    return {"description": _STATUS[status], "content": {"application/json": {"schema": schema}}}
