"""What `app.py` declares, read from the application itself: its functions, what calls them, and its routes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from spotrelay.deploying.stack import ROOT

API_HANDLER = "api_handler"


@dataclass(frozen=True)
class Function:
    """A handler, and in words what calls it."""

    handler: str
    called_by: str

    def name(self, stage: str) -> str:
        """What Chalice calls the function."""
        return f"spot-relay-{stage}" + ("" if self.handler == API_HANDLER else f"-{self.handler}")


def functions() -> list[Function]:
    """The API's function first, then one for each event source."""
    app = _load()
    found = [Function(API_HANDLER, f"the API's {len(routes())} routes")] if app.routes else []
    for source in app.event_sources:
        pattern, schedule = getattr(source, "event_pattern", None), getattr(source, "schedule_expression", "")
        how = _pattern(pattern) if pattern else schedule if isinstance(schedule, str) else schedule.to_string()
        found.append(Function(source.name, how))
    return found


def routes() -> list[str]:
    """`METHOD /path` of every route."""
    app = _load()
    return sorted(f"{method} {path}" for path, methods in app.routes.items() for method in methods)


def _load() -> Any:
    """The application of this checkout, wherever the command was started from."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from app import app

    return app


def _pattern(pattern: object) -> str:
    """An event pattern's kinds of event; all of it, when it names none."""
    kinds = pattern.get("detail-type") if isinstance(pattern, dict) else None
    return ", ".join(kinds) if kinds else json.dumps(pattern)
