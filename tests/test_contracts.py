"""The API's shapes: what is described is what is served."""

from __future__ import annotations

import json

import pytest

import app
from chalicelib.contracts import api, openapi
from chalicelib.core.model import Reason
from chalicelib.settings import NotConfigured, Settings


def test_the_description_names_exactly_the_routes_that_are_served() -> None:
    served = {(method, path) for path, methods in app.app.routes.items() for method in methods}
    assert {(route.method, route.path) for route in openapi.ROUTES} == served


def test_every_route_is_signed() -> None:
    for methods in app.app.routes.values():
        for entry in methods.values():
            assert entry.authorizer is app.signed


def test_every_reference_of_the_description_resolves() -> None:
    document = openapi.document()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in schemas


def test_an_agent_may_say_every_reason_that_can_end_an_attempt() -> None:
    known = set(Reason)
    assert set(api.ExitReason.__args__) <= known  # type: ignore[attr-defined]


def test_settings_name_what_is_missing() -> None:
    with pytest.raises(NotConfigured, match="LIMIT_USD"):
        Settings.read({})
