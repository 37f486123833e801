"""`chalice deploy` and `chalice delete` for a stage: the installed Chalice as a process, in the project's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from spotrelay.deploying import bytecode, record, settings
from spotrelay.deploying.errors import Clients, DeployError

_CHALICE = "import sys; from chalice.cli import main; sys.exit(main())"
_TIMEOUT_S = 1800.0
_TAIL_LINES = 30


class Chalice:
    """A stage's functions, rules and API.

    `environment` adds to the process' own: the region, and the profile when one was chosen.
    """

    def __init__(
        self,
        clients: Clients,
        project: Path,
        stage: str,
        environment: Mapping[str, str],
    ) -> None:
        self._clients, self._project, self._stage = clients, project, stage
        self._environment = environment

    def __call__(self, env: Mapping[str, str], roles: Mapping[str, str]) -> tuple[str, str]:
        """Deploy with these settings and roles (ARN by handler). Raises DeployError.

        Gives the API's id and its URL, no slash at the end.
        """
        settings.render_config(self._project, self._stage, env, roles)
        record.rebuild(self._clients, self._project, self._stage, self._api_stage(), api_id_in(env["API_URL"]))
        bytecode.compile_library(self._project)
        self._run("deploy")
        made = json.loads(self._record().read_text("utf-8"))["resources"]
        for resource in made:
            if resource["resource_type"] == "rest_api":
                return resource["rest_api_id"], self._address(resource["rest_api_id"], resource["rest_api_url"])
        raise DeployError("chalice deployed no REST API.")

    def delete(self) -> bool:
        """Remove them; False when there were none. An API that a failed deploy left behind goes as well. Raises DeployError."""
        removed = False
        # One record holds one API: what is still found afterwards goes in the next round.
        for _ in range(5):
            if not record.rebuild(self._clients, self._project, self._stage, self._api_stage()):
                return removed
            settings.allow_delete(self._project, self._stage)
            self._run("delete")
            removed = True
        raise DeployError(f"chalice can't remove everything of the stage {self._stage}: see `chalice delete`.")

    def _api_stage(self) -> str:
        config = json.loads((self._project / ".chalice/config.json").read_text("utf-8"))
        return str(config.get("api_gateway_stage", "api"))

    def _record(self) -> Path:
        return self._project / ".chalice/deployed" / f"{self._stage}.json"

    def _address(self, api_id: str, url: str) -> str:
        """An emulator serves its APIs under its own address, not AWS's."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        return f"{endpoint}/_aws/execute-api/{api_id}/{self._api_stage()}" if endpoint else url.rstrip("/")

    def _run(self, what: str) -> None:
        command = [sys.executable, "-c", _CHALICE, what, "--stage", self._stage]
        try:
            done = subprocess.run(
                command,
                cwd=self._project,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise DeployError(
                f"`chalice {what}` took more than {_TIMEOUT_S / 60:.0f} minutes: run it again."
            ) from error
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
            raise DeployError(f"`chalice {what} --stage {self._stage}` failed ({done.returncode}):\n{tail}")


def api_id_in(url: str) -> str | None:
    """The API's id in its URL, on AWS or under an emulator's address."""
    parts = urlsplit(url)
    if ".execute-api." in parts.netloc:
        return parts.netloc.split(".")[0]
    folders = parts.path.split("/")
    return folders[folders.index("execute-api") + 1] if "execute-api" in folders[:-1] else None
