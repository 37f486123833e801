"""`dataclass(frozen=True)` as the standard library's, but quicker to make: a handler's cold start makes fifty such classes.

The standard one writes and compiles `__eq__`, `__hash__` and `__repr__` anew for each class, which is two fifths of its time;
here all share one of each. To type checkers it is the standard one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool) -> Any:
        def made(cls: type) -> type:
            cls = dataclasses.dataclass(frozen=frozen, eq=False, repr=False)(cls)
            cls.__eq__, cls.__hash__, cls.__repr__ = _equal, _hash, _text
            return cls

        return made


def _equal(self: Any, other: object) -> Any:
    return vars(self) == vars(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(tuple(vars(self).values()))  # in the order of the fields, as they were set


def _text(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
