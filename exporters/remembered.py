"""Results of functions that are asked the same again and again: a cache that nothing large gets into.

What comes once, as cookies and tokens do, is long. Kept by the thousand it would be most of what an export holds.
"""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_REMEMBERED_BYTES: Final = 1024
"""Of what is asked: 4,096 such questions, with what is made of each, are some 10 MB."""

_Asked = TypeVarTuple("_Asked")
_Result = TypeVar("_Result")


def remembered(count: int) -> Callable[[Callable[[*_Asked], _Result]], Callable[[*_Asked], _Result]]:
    """Keeps the latest ``count`` results of a function of strings, or of bytes, that are short."""

    def decorate(function: Callable[[*_Asked], _Result]) -> Callable[[*_Asked], _Result]:
        cached = lru_cache(maxsize=count)(function)

        @wraps(function)
        def ask(*asked: *_Asked) -> _Result:
            size = sum(len(each) for each in asked if isinstance(each, (bytes, str)))
            return (cached if size <= MAX_REMEMBERED_BYTES else function)(*asked)

        return ask

    return decorate
