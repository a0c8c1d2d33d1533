"""What the values of several commands' options are."""

from __future__ import annotations

import math
from typing import Any

import click

PID = click.IntRange(min=1)


class _Seconds(click.FloatRange):
    """What compares with nothing is in no range, and would never be over."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is no time.", param, ctx)
        return seconds


SECONDS = _Seconds(min=0, min_open=True)
