"""Text that has the shape of somebody's credentials: found where a spec may not hold any, and never repeated. Pure.

Only shapes that their issuers made to be recognised are known here; a password that looks like a word is not found. Sources:
GitHub, GitLab, AWS, Slack, Hugging Face, OpenAI, Google, npm and PyPI document these prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from chalicelib.contracts.fields import FieldError, path

_SHAPES = {
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{20,255}",
    "a GitLab token": r"gl(?:pat|dt|rt|cbt|ptt)-[A-Za-z0-9_-]{20,255}",
    "an AWS access key": r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,255}",
    "a Hugging Face token": r"hf_[A-Za-z0-9]{20,255}",
    "an API key": r"sk-[A-Za-z0-9_-]{20,255}|AIza[A-Za-z0-9_-]{35}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{20,255}",
    "a private key": r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----",
}
# Not in the middle of a longer word: a file called `desk-…` is no key.
_KNOWN = re.compile("(?<![A-Za-z0-9])(?:" + "|".join(f"({shape})" for shape in _SHAPES.values()) + ")")
# Names that AWS gave to nothing else.
_CREDENTIALS = frozenset({"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"})
HIDDEN = "[hidden]"


def kind(text: str) -> str | None:
    """What the text holds by its shape, like `a GitHub token`; None when nothing in it is known."""
    found = _KNOWN.search(text)
    return tuple(_SHAPES)[(found.lastindex or 1) - 1] if found else None


def hide(text: str) -> str:
    """The text without what looks like credentials."""
    return _KNOWN.sub(HIDDEN, text)


def secrets_in(document: object) -> Iterator[FieldError]:
    """Every place of a document that holds what looks like a secret, keys included. No value is in the answer."""
    left: list[tuple[tuple[str | int, ...], object]] = [((), document)]
    while left:
        where, value = left.pop()
        if isinstance(value, str):
            found = kind(value)
            if found or (len(where) == 2 and where[0] == "env" and where[1] in _CREDENTIALS and value):
                yield FieldError(path(where), None, _advice(found or "a secret key of AWS", where))
        elif isinstance(value, Mapping):
            for key, inside in value.items():
                if kind(str(key)):
                    yield FieldError(path(where) or "(the whole)", None, _advice(f"{kind(str(key))} as a key", where))
                else:
                    left.append(((*where, str(key)), inside))
        elif isinstance(value, list):
            left += [((*where, n), inside) for n, inside in enumerate(value)]


def _advice(found: str, where: tuple[Any, ...]) -> str:
    if where[:1] == ("source",):
        return f"holds {found}: store it (spotrelay secret set NAME) and name it in source.token"
    if found.endswith("AWS access key") or found.endswith("key of AWS"):
        return f"holds {found}: store it under secrets:, or ask for aws_credentials: true, which are made for the run"
    return f"holds {found}: store it (spotrelay secret set NAME) and name it under secrets: {{ENV_NAME: NAME}}"
