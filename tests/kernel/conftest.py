"""What makes the tests of whole recordings take less time."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import kernel_state
import pytest

from bpf import system
from bpf.probes import TRACEPOINTS
from bpf.tracefs import Tracefs

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPE_TRACEPOINT, SAMPLE_PERIOD, DISABLED = 2, 1, 1


@pytest.fixture(scope="session", autouse=True)
def opened_tracepoints() -> Iterator[None]:
    """Another user of the tracepoints, as perf would be, whose events count nothing.

    Who is the last to close one waits for a grace period of RCU, and a recording closes some thirty, one after the
    other: a second for each test. Recordings that are the last are those of the other folders' tests.
    """
    if kernel_state.missing_right():
        yield
        return
    tracefs = Tracefs()
    events = [number for event, _ in TRACEPOINTS if (number := tracefs.event_id(event)) is not None]
    tracefs.close()
    opened = [
        system._open_perf_event(
            struct.pack(
                "<IIQQQQQ",
                TYPE_TRACEPOINT,
                system._PERF_ATTRIBUTE_BYTES,
                event,
                SAMPLE_PERIOD,
                0,
                0,
                DISABLED,
            )
        )
        for event in events
    ]
    yield
    for event in opened:
        os.close(event)
