"""What goes wrong while deploying or destroying, and the shapes that the steps share."""

from __future__ import annotations

from typing import Any, Protocol


class DeployError(Exception):
    """A step failed; the message says which, why, and what to do."""


class Clients(Protocol):
    """Makes boto3 clients for the account that is deployed into."""

    def __call__(self, service: str) -> Any: ...
