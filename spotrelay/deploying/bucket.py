"""Which bucket a stage uses: the one its stack has, one that is there and is adopted, or a new one.

The bucket is the only thing that outlives a stage. One of our own name that `destroy` (or a creation that failed) left is taken
back. CloudFormation looks after its settings no more, nor after any that somebody changed by hand: so each deploy sets them. Of a
bucket that somebody else named, nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import ClientError

from spotrelay.deploying.errors import DeployError
from spotrelay.deploying.stack import parameter_values

Presence = Literal["ours", "absent", "foreign"]


@dataclass(frozen=True)
class Choice:
    """`parameters` are the template's; `restore` is the name when the bucket is there and of our own making."""

    name: str
    parameters: Mapping[str, str]
    restore: str | None
    sentence: str


def default_name(stage: str, account: str, region: str) -> str:
    return f"spot-relay-{stage}-{account}-{region}"


def of_stack(stack: Mapping[str, Any] | None, default: str) -> str | None:
    """The bucket of a stack that stands; None without one."""
    if stack is None:
        return None
    values = parameter_values(stack)
    return values.get("BucketName") or values.get("NewBucketName") or default


def presence(s3: Any, name: str, account: str) -> Presence:
    """Whether the account has a bucket of that name. Names are one space for all accounts: another's is never written to."""
    try:
        s3.head_bucket(Bucket=name, ExpectedBucketOwner=account)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            return "absent"
        if status in (301, 400, 403):
            return "foreign"
        raise
    return "ours"


def choose(wanted: str | None, default: str, current: str | None, there: Presence) -> Choice:
    """`current` is the bucket of the stack that stands; `there` is about `wanted`, or else `default`. Raises DeployError."""
    if current is not None:
        if wanted not in (None, current):
            raise DeployError(
                f"This stage keeps its runs in {current}; another bucket ({wanted}) would lose them: use another stage, "
                "or `make destroy` first."
            )
        return Choice(current, {}, current if current == default else None, f"bucket {current}, as before")
    name = wanted or default
    if there == "foreign":
        raise DeployError(
            f"The bucket {name} can't be used: it is another account's, in another region, or closed to you. "
            "Choose another name with BUCKET=."
        )
    if there == "ours":
        restore = name if name == default else None
        return Choice(
            name, {"BucketName": name, "NewBucketName": ""}, restore, f"bucket {name}, which is there: adopted"
        )
    return Choice(name, {"BucketName": "", "NewBucketName": wanted or ""}, None, f"bucket {name}, new")


def restore(s3: Any, name: str, tls_only: bool) -> None:
    """Give a bucket that the template once made the template's settings again."""
    s3.put_public_access_block(
        Bucket=name,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        },
    )
    s3.put_bucket_encryption(
        Bucket=name,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
    )
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_lifecycle_configuration(
        Bucket=name,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "old-versions",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
                },
                {
                    "ID": "unfinished-uploads",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                },
            ]
        },
    )
    if tls_only:
        s3.put_bucket_policy(Bucket=name, Policy=json.dumps(tls_policy(name, s3.meta.partition)))


def tls_policy(name: str, partition: str = "aws") -> dict[str, Any]:
    arn = f"arn:{partition}:s3:::{name}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "TlsOnly",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
