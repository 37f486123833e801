"""Many items of the table in few calls: BatchGetItem with what it leaves unprocessed asked for again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from chalicelib.codec import to_item

# Keys a call, and 16 MB: what is over that comes back as unprocessed (DynamoDB API reference, BatchGetItem).
_MOST = 100
_TRIES = 8
_FIRST_PAUSE_S = 0.05


def batch_get(
    client: Any,
    table: str,
    keys: Sequence[Mapping[str, str]],
    request: Mapping[str, Any],
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """The items of these keys that there are, in no order, as DynamoDB gives them. Raises TimeoutError.

    No key may be there twice. `request` is what else BatchGetItem takes for a table.
    """
    for start in range(0, len(keys), _MOST):
        left = [to_item(dict(key)) for key in keys[start : start + _MOST]]
        for attempt in range(_TRIES):
            answer = client.batch_get_item(RequestItems={table: {"Keys": left, **request}})
            yield from answer["Responses"].get(table, [])
            left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
            if not left:
                break
            pause(random.uniform(0, _FIRST_PAUSE_S * 2**attempt))
        else:
            raise TimeoutError(f"DynamoDB left {len(left)} of a batch's items unread {_TRIES} times.")
