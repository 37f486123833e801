"""Reading a run spec from a YAML file, strictly: what a person wrote twice, or a bomb of aliases, is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MOST_BYTES = 256 * 1024


class SpecFileError(Exception):
    """The file can't be read as one YAML mapping; the message says where and why."""


class _Strict(yaml.SafeLoader):
    """Safe, without aliases, and every key once."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"line {line}: aliases (*name) are not taken")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is there twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path) -> dict[str, Any]:
    """The document in the file. Raises SpecFileError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpecFileError(f"{path} can't be read: {error.strerror}.") from error
    return load(raw, str(path))


def load(raw: bytes, name: str = "the spec") -> dict[str, Any]:
    """The document in these bytes. Raises SpecFileError."""
    if len(raw) > _MOST_BYTES:
        raise SpecFileError(f"{name} has {len(raw)} bytes; at most {_MOST_BYTES} are taken.")
    try:
        document = yaml.load(raw, Loader=_Strict)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpecFileError(f"{name} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise SpecFileError(f"{name} must be a mapping of keys to values, and is {type(document).__name__}.")
    return document
