"""The agent as one zip, the same bytes for the same inputs: it is stored in the bucket under its SHA-256.

In it: `userdata/agent/`, `chalicelib/contracts/templates.py`, and the pure-Python libraries the agent imports, since the image
has no pip and later boots must not depend on a package index. botocore's data is cut down to the services the agent
calls: all of it would be 25 MB more to fetch at every boot.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("botocore", "s3transfer", "jmespath", "urllib3", "dateutil")
MODULES = ("six",)
SERVICES = ("s3", "ssm", "logs")
_DATA_FILES = ("endpoints.json", "partitions.json", "sdk-default-configuration.json", "_retry.json")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
# Present and empty in the zip, so that `templates` is imported under the same name here and there.
_EMPTY = ("chalicelib/__init__.py", "chalicelib/contracts/__init__.py")


class BundleError(Exception):
    """Something the agent needs isn't installed here."""


def build() -> tuple[bytes, str]:
    """The zip and its SHA-256, hex. Raises BundleError."""
    files: dict[str, bytes] = dict.fromkeys(_EMPTY, b"")
    for path in sorted((ROOT / "userdata/agent").glob("*.py")):
        files[path.name] = path.read_bytes()
    files["chalicelib/contracts/templates.py"] = (ROOT / "chalicelib/contracts/templates.py").read_bytes()
    for name in PACKAGES:
        folder = _origin(name).parent
        for path in _wanted(name, folder):
            files[f"{name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    for name in MODULES:
        files[f"{name}.py"] = _origin(name).read_bytes()
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    body = raw.getvalue()
    return body, hashlib.sha256(body).hexdigest()


def write(folder: Path) -> Path:
    """Write `<sha256>.zip` into `folder`."""
    body, digest = build()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest}.zip"
    path.write_bytes(body)
    return path


def key(digest: str) -> str:
    """Where the bucket has the agent of that hash."""
    return f"agent/{digest}.zip"


def _origin(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BundleError(f"The agent needs {name}, which isn't installed here: run make test once, it installs it.")
    return Path(spec.origin)


def _wanted(package: str, folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or "__pycache__" in relative.parts or path.suffix in (".pyc", ".pyi", ".so"):
            continue
        if package == "botocore" and relative.parts[0] == "data" and not _needed(relative):
            continue
        if package == "dateutil" and path.suffix == ".gz":
            continue  # a time-zone database nobody asks for
        yield path


def _needed(relative: Path) -> bool:
    if len(relative.parts) == 2:
        return relative.name in _DATA_FILES
    # Examples are for the documentation only.
    return relative.parts[1] in SERVICES and not relative.name.startswith("examples-")
