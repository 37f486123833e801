"""Credentials that reach one run and nothing else, for its agent: an assumed role narrowed by a session policy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from chalicelib.bucket import run_prefix
from chalicelib.settings import Settings

SECONDS = 3600  # role chaining allows no more
MOST_CHARACTERS = 2048  # of a session policy (STS, AssumeRole)


def policy(
    settings: Settings, region: str, run: str, attempt: int, inputs: Iterable[str], secrets: Iterable[str]
) -> dict[str, Any]:
    """Read the run, write this attempt's part of it, read its inputs and its secrets, write its log. Pure."""
    bucket = f"arn:aws:s3:::{settings.bucket}"
    prefix = run_prefix(run)
    writes = [f"{bucket}/{prefix}{part}/{attempt:04d}/*" for part in ("checkpoints", "results", "logs")]
    fetched = sorted({name.strip("/") for name in inputs})
    parameters = f"arn:aws:ssm:{region}:{settings.account}:parameter{secret_path(settings.stage, '')}"
    statements: list[dict[str, Any]] = [
        {
            "Action": "s3:GetObject",
            "Resource": [f"{bucket}/{prefix}*", *(f"{bucket}/{f}{end}" for f in fetched for end in ("", "/*"))],
        },
        {"Action": "s3:PutObject", "Resource": [*writes, f"{bucket}/{prefix}source.tar.gz"]},
        {
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {"StringLike": {"s3:prefix": [f"{prefix}*", *(f"{f}*" for f in fetched)]}},
        },
    ]
    if settings.log_group:
        group = f"arn:aws:logs:{region}:{settings.account}:log-group:{settings.log_group}"
        stream = f"{group}:log-stream:{run}/{attempt:04d}"
        statements.append({"Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": stream})
    named = sorted(set(secrets))
    if named:
        statements.append({"Action": "ssm:GetParameter", "Resource": [parameters + name for name in named]})
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **s} for s in statements]}


def command_policy(settings: Settings, run: str, attempt: int, inputs: Iterable[str]) -> dict[str, Any]:
    """What a run's own command may do when its spec asks for credentials: read the run and its inputs, write results. Pure.

    No secrets, no log, no checkpoints: those are the agent's, and a checkpoint that the command wrote could not be believed.
    """
    bucket, prefix = f"arn:aws:s3:::{settings.bucket}", run_prefix(run)
    fetched = sorted({name.strip("/") for name in inputs})
    read = [f"{bucket}/{prefix}*", *(f"{bucket}/{each}{end}" for each in fetched for end in ("", "/*"))]
    statements: list[dict[str, Any]] = [
        {"Action": "s3:GetObject", "Resource": read},
        {"Action": "s3:PutObject", "Resource": f"{bucket}/{prefix}results/{attempt:04d}/*"},
        {
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {"StringLike": {"s3:prefix": [f"{prefix}*", *(f"{each}*" for each in fetched)]}},
        },
    ]
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **s} for s in statements]}


def text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def secret_path(stage: str, name: str) -> str:
    """The SSM parameter that keeps a stored secret."""
    return f"/spot-relay/{stage}/secrets/{name}"


def credentials(sts: Any, settings: Settings, run: str, attempt: int, document: dict[str, Any]) -> dict[str, str]:
    """Fresh credentials under that policy: access_key_id, secret_access_key, session_token, expiration (ISO 8601)."""
    given = sts.assume_role(
        RoleArn=settings.run_role_arn,
        RoleSessionName=f"{run[:48]}-{attempt}",
        Policy=text(document),
        DurationSeconds=SECONDS,
    )["Credentials"]
    return {
        "access_key_id": given["AccessKeyId"],
        "secret_access_key": given["SecretAccessKey"],
        "session_token": given["SessionToken"],
        "expiration": given["Expiration"].isoformat(),
    }
