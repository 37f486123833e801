"""The bucket, as this attempt sees it: AWS clients with the run-scoped credentials, and S3 in the few words we need.

The credentials are handed out by the controller with the claim and renewed with heartbeats; clients pick up the newest by
themselves, and ask for others when AWS says that they have expired. Clients are made without boto3, which would only add
weight to the agent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials
from botocore.exceptions import ClientError
from s3transfer.manager import TransferConfig, TransferManager

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MEBIBYTE = 1024 * 1024
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_EXPIRED_TRIES, _EXPIRED_PAUSE_S = 6, 1.0  # a heartbeat brings new ones meanwhile
_COPY_LIMIT = 5 * 1024 * MEBIBYTE  # CopyObject's own bound; above it the file is sent again


class ScopedCredentials(Credentials):
    """Credentials that can be replaced as a whole while clients sign with them. `expired` is called when AWS says so."""

    def __init__(self, given: dict[str, Any], expired: Callable[[], None] = lambda: None) -> None:
        self.expired = expired
        self._replacing = threading.Lock()
        super().__init__("", "", "")
        self.replace(given)

    def replace(self, given: dict[str, Any]) -> None:
        with self._replacing:
            self.access_key = str(given["access_key_id"])
            self.secret_key = str(given["secret_access_key"])
            self.token = given.get("session_token") or None

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        # All three from the same handing-out: a mixed signature would be refused.
        with self._replacing:
            return ReadOnlyCredentials(self.access_key, self.secret_key, self.token)


class _Given(CredentialProvider):
    METHOD = "spot-relay"
    CANONICAL_NAME = "spot-relay"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials


def client(service: str, region: str, credentials: Credentials, **config: Any) -> Any:
    """A botocore client for `service` that signs with `credentials`. AWS_ENDPOINT_URL is honoured by botocore itself."""
    session = botocore.session.Session()
    session.register_component("credential_provider", CredentialResolver([_Given(credentials)]))
    settings: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "total_max_attempts": 6},
    }
    made = session.create_client(service, region_name=region, config=Config(**{**settings, **config}))
    if isinstance(credentials, ScopedCredentials):
        again = _AgainWhenExpired(credentials)
        made.meta.events.register(f"needs-retry.{made.meta.service_model.service_id.hyphenize()}", again)
    return made


class _AgainWhenExpired:
    """botocore signs anew each time it tries, but does not try again what was refused for credentials that have expired."""

    def __init__(self, credentials: ScopedCredentials) -> None:
        self._credentials = credentials

    def __call__(self, response: Any, operation: Any, attempts: int, **_: Any) -> float | None:
        """Seconds to wait, or None for all that is not about that."""
        code = str(response[1].get("Error", {}).get("Code", "")) if response else ""
        # What answers HEAD has no body, and so no code of its own.
        if code not in _EXPIRED and not (code == "400" and operation.name.startswith("Head")):
            return None
        self._credentials.expired()
        return _EXPIRED_PAUSE_S if attempts < _EXPIRED_TRIES else None


def s3_client(region: str, credentials: Credentials, path_style: bool) -> S3Client:
    addressing = {"addressing_style": "path" if path_style else "virtual"}
    return cast("S3Client", client("s3", region, credentials, s3=addressing, max_pool_connections=16))


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


class Bucket:
    """One bucket. Never deletes; whoever needs that is the controller's sweep."""

    def __init__(self, s3: S3Client, name: str) -> None:
        self.s3 = s3
        self.name = name
        # boto3's own defaults: what "as fast as boto3" is measured against.
        config = TransferConfig(
            multipart_threshold=8 * MEBIBYTE, multipart_chunksize=8 * MEBIBYTE, max_request_concurrency=10
        )
        self._transfers = TransferManager(s3, config)

    def close(self) -> None:
        self._transfers.shutdown()

    def upload(self, path: Path, key: str) -> None:
        self._transfers.upload(str(path), self.name, key).result()

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._transfers.download(self.name, key, str(path)).result()

    def copy(self, source: str, key: str, size: int) -> bool:
        """Copy inside S3. False when that isn't possible (too big, or gone): the caller uploads."""
        if size > _COPY_LIMIT:
            return False
        try:
            self.s3.copy_object(Bucket=self.name, Key=key, CopySource={"Bucket": self.name, "Key": source})
        except ClientError as error:
            if code_of(error) in ("NoSuchKey", "404", "AccessDenied", "403"):
                return False
            raise
        return True

    def put(self, key: str, body: bytes, content_type: str = "application/octet-stream") -> None:
        self.s3.put_object(Bucket=self.name, Key=key, Body=body, ContentType=content_type)

    def put_new(self, key: str, body: bytes, content_type: str, metadata: dict[str, str] | None = None) -> bool:
        """Put only if the key isn't there. False: it is there already."""
        for last in (False, False, False, True):
            try:
                self.s3.put_object(
                    Bucket=self.name,
                    Key=key,
                    Body=body,
                    ContentType=content_type,
                    IfNoneMatch="*",
                    Metadata=metadata or {},
                )
                return True
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status == 412 or code_of(error) == "PreconditionFailed":
                    return False
                # 409: another conditional write to the key is under way; S3 asks to try again.
                if last or not (status == 409 or code_of(error) == "ConditionalRequestConflict"):
                    raise
        return False

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        try:
            return self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
        except ClientError as error:
            if code_of(error) in ("NoSuchKey", "404"):
                return None
            raise

    def metadata(self, key: str) -> dict[str, str]:
        return dict(self.s3.head_object(Bucket=self.name, Key=key).get("Metadata", {}))

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for found in page.get("Contents", []):
                yield found["Key"], found["Size"]
