"""Our frozen dataclasses behave as the standard library's."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.core.frozen import dataclass

Ours: Any = dataclass(frozen=True)(
    type(
        "Ours", (), {"__annotations__": {"a": int, "b": str}, "b": "x", "__module__": __name__, "__qualname__": "Ours"}
    )
)


@dataclasses.dataclass(frozen=True)
class Standard:
    a: int
    b: str = "x"


VALUES = st.tuples(st.integers(0, 2), st.sampled_from("xy"))


@given(VALUES, VALUES)
def test_they_compare_hash_and_show_alike(one: tuple[int, str], other: tuple[int, str]) -> None:
    assert (Ours(*one) == Ours(*other)) is (Standard(*one) == Standard(*other))
    assert hash(Ours(*one)) == hash(Standard(*one))
    assert repr(Ours(*one)) == repr(Standard(*one)).replace("Standard", "Ours")


def test_the_same_fields_in_another_class_are_another_value() -> None:
    assert Ours(1) != Standard(1)
    assert Ours(1) != (1, "x")


def test_nothing_in_them_changes_and_copies_do() -> None:
    value = Ours(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.a = 2
    assert dataclasses.replace(value, a=2) == Ours(2)
    assert pickle.loads(pickle.dumps(value)) == value
