"""A deploy key for git over SSH: a file that exists while git runs, and ssh told to use it and nothing else."""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

# GitHub's own, as it publishes it: https://docs.github.com/authentication/keeping-your-account-and-data-secure/githubs-ssh-key-fingerprints
_KNOWN = "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"
_SSH = re.compile(r"ssh://(?:[^@/]+@)?(?P<url>[^/:]+)|[\w.-]+@(?P<short>[\w.-]+):")


def host(repo: str) -> str | None:
    """The host of an address that git reaches over SSH; None when it does not."""
    found = _SSH.match(repo)
    return (found["url"] or found["short"]) if found else None


@contextlib.contextmanager
def environment(repo: str, key: str | None) -> Iterator[dict[str, str]]:
    """GIT_SSH_COMMAND for `repo` while the block lasts; nothing when it is not reached over SSH or there is no key."""
    where = host(repo)
    if where is None or not key:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="spot-relay-key-") as folder:
        place, known = Path(folder) / "key", Path(folder) / "known_hosts"
        place.touch(0o600)
        place.write_text(key.strip() + "\n")
        known.write_text(_KNOWN)
        # A host that is not known shows itself once; GitHub's key is known, and another in its place is refused.
        strict = "yes" if where == "github.com" else "accept-new"
        options = ["-F", "/dev/null", "-i", str(place)]
        for option in (
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            f"UserKnownHostsFile={known}",
            "GlobalKnownHostsFile=/dev/null",
            f"StrictHostKeyChecking={strict}",
            "ConnectTimeout=30",
        ):
            options += ["-o", option]
        yield {"GIT_SSH_COMMAND": shlex.join(["ssh", *options])}
