"""AWS credentials lent to the command, when the spec asks: a file that the agent renews, and a configuration that names it.

`credential_process` is what every AWS SDK asks again before the last answer expires; variables would be stale after an hour. The
credentials are narrower than the agent's own, and come with the claim and with heartbeats.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


class Lent:
    """`owner` is the uid that may read them; None where there is no training user (a rehearsal)."""

    def __init__(self, folder: Path, region: str, owner: int | None) -> None:
        self._folder, self._region, self._owner = folder, region, owner
        self._lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """What the command sees: where the configuration is, and the region. No credentials."""
        kept = {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]} if os.environ.get("AWS_ENDPOINT_URL") else {}
        return {
            "AWS_CONFIG_FILE": str(self._folder / "config"),
            "AWS_REGION": self._region,
            "AWS_DEFAULT_REGION": self._region,
            **kept,
        }

    def take(self, given: dict[str, Any]) -> None:
        """Write fresh credentials over the old ones; whoever reads sees either whole."""
        document = {
            "Version": 1,
            "AccessKeyId": given["access_key_id"],
            "SecretAccessKey": given["secret_access_key"],
            "SessionToken": given["session_token"],
            "Expiration": given["expiration"],
        }
        with self._lock:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            credentials = self._folder / "credentials.json"
            self._write(credentials, json.dumps(document), 0o400)
            text = f'[default]\nregion = {self._region}\ncredential_process = cat "{credentials}"\n'
            self._write(self._folder / "config", text, 0o444)

    def _write(self, path: Path, text: str, mode: int) -> None:
        beside = path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(opened, "w") as stream:
            stream.write(text)
            if self._owner is not None:
                os.fchown(opened, self._owner, -1)
        beside.replace(path)
