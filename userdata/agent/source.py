"""The user's code. The first attempt clones it and stores it in the bucket; later ones need neither GitHub nor the token.

A token travels in git's environment only: never in argv, in a URL or in `.git/config` (I8). A deploy key is a file while
git runs.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import shutil
import subprocess
import tarfile
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path

import deploykey
from failures import Failure
from redact import Redactor
from store import Bucket

_GIT_TIMEOUT = 1800


def git_environment(repo: str, token: str | None, base: Mapping[str, str]) -> dict[str, str]:
    """git's environment: no questions, no translations, and the token as a header for the repository's host only."""
    env = {k: v for k, v in base.items() if not k.startswith(("AWS_", "GIT_"))}
    env.update(GIT_TERMINAL_PROMPT="0", LC_ALL="C", GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL=os.devnull)
    settings = [("safe.directory", "*"), ("credential.helper", "")]
    if token and deploykey.host(repo) is None:
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        settings.append((f"http.{_origin(repo)}.extraHeader", f"AUTHORIZATION: basic {basic}"))
    env["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings):
        env[f"GIT_CONFIG_KEY_{number}"], env[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return env


def _origin(repo: str) -> str:
    parts = urllib.parse.urlsplit(repo)
    # On loopback (a rehearsal) nobody can listen in; anywhere else a token goes over TLS or not at all.
    if not parts.hostname or (parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1")):
        raise Failure("source", "source.token needs a source.repo that begins with https://.")
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/"


def _shown(repo: str) -> str:
    """The address without anything secret that someone wrote into it."""
    parts = urllib.parse.urlsplit(repo)
    return repo.replace(parts.netloc, parts.netloc.rpartition("@")[2]) if "@" in parts.netloc else repo


def explain(stderr: str, repo: str, ref: str, token_name: str | None, redact: Redactor) -> str:
    """git's complaint as one sentence that says what to do."""
    text, where = stderr.lower(), _shown(repo)
    if any(s in text for s in ("couldn't find remote ref", "not our ref", "unadvertised object", "no such ref")):
        return f"The repository {where} has no {ref!r}: correct source.ref (a branch, a tag or a full commit hash)."
    if any(
        s in text for s in ("could not resolve host", "timed out", "connection refused", "early eof", "reset by peer")
    ):
        return f"The repository {where} can't be reached: check source.repo, and whether the host is up."
    if any(
        s in text
        for s in (
            "could not read username",
            "could not read password",
            "authentication failed",
            "permission denied (publickey",
            " 403",
            " 401",
        )
    ):
        if token_name:
            return (
                f"The secret {token_name!r} is refused by {where}: store a new token that may read this repository "
                "(fine-grained, Contents: read)."
            )
        return f"The repository {where} is private or doesn't exist: name a stored token in source.token."
    if any(
        s in text for s in ("not found", "does not exist", "does not appear to be a git repository", "no such file")
    ):
        if token_name:
            return (
                f"The repository {where} doesn't exist, or the secret {token_name!r} may not read it: correct either."
            )
        return f"The repository {where} was not found: correct source.repo; if it is private, set source.token."
    lines = [line for line in stderr.strip().splitlines() if line.strip()] or ["git said nothing"]
    return f"The repository {where} can't be fetched: {redact(lines[-1].strip())[:300]}"


class Git:
    """Runs git in a folder. Every failure is a Failure(source) with a sentence."""

    def __init__(
        self,
        folder: Path,
        repo: str,
        ref: str,
        token: str | None,
        token_name: str | None,
        redact: Redactor,
        ssh: Mapping[str, str],
    ) -> None:
        self._folder, self._repo, self._ref, self._token_name = folder, repo, ref, token_name
        self._redact = redact
        if token:
            redact.add(token)
            redact.add(base64.b64encode(f"x-access-token:{token}".encode()).decode())
        self._env = {**git_environment(repo, token, os.environ), **ssh}

    def __call__(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self._folder,
                env=self._env,
                capture_output=True,
                text=True,
                timeout=_GIT_TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            raise Failure("boot_failed", "The image has no git: use the Ubuntu image of the launch template.") from None
        except subprocess.TimeoutExpired:
            raise Failure("source", f"The repository {_shown(self._repo)} took longer than 30 minutes.") from None
        if done.returncode != 0:
            raise Failure("source", explain(done.stderr, self._repo, self._ref, self._token_name, self._redact))
        return done.stdout


def clone(
    folder: Path, repo: str, ref: str, token: str | None, token_name: str | None, redact: Redactor
) -> tuple[str, int]:
    """Check out `ref` of `repo` into `folder`, without history. Gives the commit and its time (Unix seconds).

    `token` is a token for HTTPS or, when `repo` is reached over SSH, a deploy key.
    """
    with deploykey.environment(repo, token) as ssh:
        return _clone(Git(folder, repo, ref, token, token_name, redact, ssh), folder, repo, ref)


def _clone(git: Git, folder: Path, repo: str, ref: str) -> tuple[str, int]:
    if ref.startswith("-") or repo.startswith("-"):
        raise Failure("source", "source.repo and source.ref must not begin with a dash.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    git("init", "--quiet")
    git("remote", "add", "origin", repo)
    git("fetch", "--quiet", "--depth", "1", "--no-tags", "origin", ref)
    git("-c", "advice.detachedHead=false", "checkout", "--quiet", "FETCH_HEAD")
    commit = git("rev-parse", "HEAD").strip()
    time = int(git("log", "-1", "--format=%ct").strip())
    if (folder / ".gitmodules").is_file():
        git("submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1")
    # Later attempts unpack an archive without it: all attempts see the same folder.
    for left in (".git", *(str(p.relative_to(folder)) for p in folder.rglob(".git"))):
        path = folder / left
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return commit, time


def pack(folder: Path, time: int) -> bytes:
    """The folder as tar.gz; the same content gives the same bytes."""
    raw = io.BytesIO()

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = time
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(folder.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(folder)), recursive=False, filter=plain)
    return raw.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Unpack with the `data` filter: nothing lands outside of `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            opened.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise Failure("source", f"The repository holds a link that leads out of it: {error}.") from error


def fetch(
    bucket: Bucket,
    key: str,
    stored: bool,
    folder: Path,
    repo: str,
    ref: str,
    token: Callable[[], str | None],
    token_name: str | None,
    redact: Redactor,
) -> str | None:
    """The code into `folder`; stored in the bucket if it wasn't. Gives the commit where it is known.

    `token` is asked only when git is.
    """
    if stored:
        return _from_bucket(bucket, key, folder)
    commit, time = clone(folder, repo, ref, token(), token_name, redact)
    if not bucket.put_new(key, pack(folder, time), "application/gzip", {"commit": commit}):
        # Another attempt was first: its source is the run's, even if the branch has moved since.
        return _from_bucket(bucket, key, folder)
    return commit


def _from_bucket(bucket: Bucket, key: str, folder: Path) -> str | None:
    archive = bucket.get(key)
    if archive is None:
        raise Failure("source", f"The stored source {key} is gone from the bucket: submit the run under a new name.")
    unpack(archive, folder)
    return bucket.metadata(key).get("commit")
