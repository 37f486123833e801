"""What ends an attempt before or beside its trainer, as exceptions that carry the sentence a person will read."""

from __future__ import annotations


class Failure(Exception):
    """The attempt ends. `reason` is one of the controller's word group, `message` one sentence that says what to do."""

    def __init__(self, reason: str, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.code = code


class Leave(Exception):
    """The controller (or the lease, or EC2) wants the attempt to end while it still prepares."""

    def __init__(self, wish: str, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.wish = wish
        self.reason = reason
        self.message = message


class TornCheckpoint(Exception):
    """A checkpoint whose bytes differ from its manifest: never restored, an older whole one is taken instead (I4)."""


class ManifestConflict(Exception):
    """Another manifest is already where ours should go, and it says something else. Nothing is overwritten."""
