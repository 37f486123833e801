"""A record of who was allowed what in ministack, and by which statement: one line of JSON for each decision about a role.

`{"role", "action", "resource", "sid", "allowed"}`; `sid` is the statement of the role's own policies that allowed it.
`spotrelay.privileges` reads it. Policies of resources decide beside the role's, and are left out.
"""

import contextvars
import functools
import json
from pathlib import Path
from typing import Any

from spotrelay.rehearsal.ministack_checks import load, require_function, require_text

_ASSUMED = ":assumed-role/"


def patch_decisions(path: Path) -> None:
    """Write every decision to `path` before it takes effect; ministack itself forgets which statement matched."""
    evaluator = load("core.iam_evaluator")
    evaluate = require_function(evaluator, "evaluate", "ctx policies limits")
    of_resource = require_function(evaluator, "evaluate_resource_policy", "doc ctx service named_only direct_only")
    require_text(evaluator, "enforce", "result = evaluate(ctx, principal.policies, *principal.limits)")
    require_text(evaluator, "evaluate", 'EvalResult("Allow", ctx.principal_arn, allow.sid')
    quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("quiet", default=False)
    lines = path.open("a", buffering=1)

    @functools.wraps(of_resource)
    def patched_of_resource(*args: Any, **kwargs: Any) -> Any:
        token = quiet.set(True)
        try:
            return of_resource(*args, **kwargs)
        finally:
            quiet.reset(token)

    @functools.wraps(evaluate)
    def patched(ctx: Any, policies: Any, *limits: Any) -> Any:
        result = evaluate(ctx, policies, *limits)
        if _ASSUMED in ctx.principal_arn and not quiet.get():
            decision = {
                "role": ctx.principal_arn.partition(_ASSUMED)[2].split("/")[0],
                "action": ctx.action,
                "resource": str(ctx.resource_arn),
                "sid": result.matched_sid,
                "allowed": result.decision == "Allow",
            }
            lines.write(json.dumps(decision) + "\n")
        return result

    evaluator.evaluate = patched
    evaluator.evaluate_resource_policy = patched_of_resource
