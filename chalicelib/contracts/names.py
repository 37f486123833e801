"""What a run may be called: a name is part of keys, tags, folders and URLs, and nothing else is ever looked up."""

from __future__ import annotations

import re

NAME = r"[a-z0-9][a-z0-9_-]{0,62}"


def is_run_name(text: str) -> bool:
    return re.fullmatch(NAME, text) is not None
