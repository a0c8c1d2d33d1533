"""Losses of an exchange while it comes in: a list that does not grow for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporters.http.messages import Lost

MAX_LOSSES = 100
"""Of one stream that are kept apart: losses of a connection may concern each of its streams, and so may a peer's
frames that are malformed, of a few bytes each."""


def add_loss(losses: list[Lost], lost: Lost) -> None:
    """Remember ``lost``, together with the one before it where nothing is between them, or there are too many."""
    last = losses[-1] if losses else None
    same = last is not None and (last.offset, last.reason) == (lost.offset, lost.reason)
    if last is not None and (same or len(losses) >= MAX_LOSSES):
        losses[-1] = replace(last, length=last.length + lost.length)
    else:
        losses.append(lost)
