"""Ask EC2 about several names at once, when one name that it does not know makes it refuse the whole question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from botocore.exceptions import ClientError

Answer = TypeVar("Answer")

# "The specified value is not valid" and its like (Amazon EC2 API reference, Error codes).
_REFUSED = ("InvalidParameterValue", "InvalidParameter", "InvalidInstanceType")


def known(ask: Callable[[list[str]], Answer], names: Sequence[str]) -> Iterator[Answer]:
    """The answer about all names; where EC2 refuses a value, those about each half, down to the names that it does not know.

    That is one call, and two more for each halving: fewer than twice as many as there are names. What is answered before a
    call fails for another reason has been given already. Raises ClientError and BotoCoreError.
    """
    left = [list(names)] if names else []
    while left:
        asked = left.pop()
        try:
            yield ask(asked)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _REFUSED:
                raise
            half = len(asked) // 2
            left += [part for part in (asked[half:], asked[:half]) if half]
