"""What recording costs a process that is not recorded: nanoseconds a call, beside empty programs on the same
tracepoints, which is the least that any tracer on them costs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import struct
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tracers
from report import Row, Table, goal

from bpf import below, system
from bpf.probes import RAW_TRACEPOINTS, TRACEPOINTS
from bpf.tracefs import Tracefs
from bpf.tracepoint_events import TracepointEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tracers import Tracer

# The project's goals.
OVER_EMPTY = 1.3
UNHOOKED_NS = 100

CALLS, BATCHES, VISITS = 100, 600, 6
UNTRACED, EMPTY = "untraced", "empty programs"
SOCKETS, UNHOOKED = "send and recv of 64 bytes", "getppid, not hooked"
_RETURN_0 = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)


@contextlib.contextmanager
def empty_programs(_folder: Path) -> Iterator[None]:
    """A program that returns at once on every event that a recording attaches to."""
    features = below.probe()
    tracefs = Tracefs()
    events = TracepointEvents(len(TRACEPOINTS))
    fds = [
        per_event := system.load_program("TRACEPOINT", _RETURN_0, "empty"),
        raw := system.load_program("RAW_TRACEPOINT", _RETURN_0, "empty"),
    ]
    try:
        for event, _ in TRACEPOINTS:
            number = tracefs.event_id(event)
            if number is not None and not (event in below.COVERED and features.lengths):
                fds.append(events.attach(per_event, number))
        fds += [
            system.open_raw_tracepoint(raw, event)
            for event, _ in (*RAW_TRACEPOINTS, *features.raw_tracepoints())
        ]
        yield
    finally:
        tracefs.close()
        for fd in fds:
            os.close(fd)
        events.close()


def _batches(call: Callable[[], object]) -> list[float]:
    """Nanoseconds a call, of each batch."""
    found = []
    # The recorder is not to share the processor: it was started with ours.
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(processors)})
    for _ in range(BATCHES):
        began = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        found.append((time.perf_counter_ns() - began) / CALLS)
    os.sched_setaffinity(0, processors)
    return found


def _move(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].send(b"x" * 64)
    ends[1].recv(64)


@contextlib.contextmanager
def _loads() -> Iterator[dict[str, Callable[[], object]]]:
    """What is called: on a TCP connection, on files, and what nobody hooks."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        one = stack.enter_context(socket.create_connection(listener.getsockname()))
        other = stack.enter_context(listener.accept()[0])
        zero = stack.enter_context(Path("/dev/zero").open("rb", buffering=0)).fileno()
        null = stack.enter_context(Path("/dev/null").open("wb", buffering=0)).fileno()
        yield {
            SOCKETS: partial(_move, (one, other)),
            "read and write of files": lambda: os.write(null, os.read(zero, 1)),
            UNHOOKED: os.getppid,
        }


def measure(ways: Mapping[str, Tracer], folder: Path) -> dict[str, dict[str, float]]:
    """Nanoseconds by way and load: the fastest tenth of what several visits found, each in another order.

    What others do to the machine only ever adds; but the very fastest batch is one that had luck, and of two
    kinds of luck the difference means nothing.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    names = list(ways)
    for visit in range(VISITS):
        for name in names[visit % len(names) :] + names[: visit % len(names)]:
            place = folder / f"calls-{visit}-{names.index(name)}"
            place.mkdir()
            with ways[name](place), _loads() as loads:
                for load, call in loads.items():
                    found[name].setdefault(load, []).extend(_batches(call))
    return {
        name: {load: statistics.quantiles(batches, n=10)[0] for load, batches in by_load.items()}
        for name, by_load in found.items()
    }


def call_table(folder: Path) -> Table:
    """What not being a target costs, by the kind of target that somebody else is."""
    ways: dict[str, Tracer] = {
        UNTRACED: tracers.untraced,
        EMPTY: empty_programs,
        "record -p, another process": partial(tracers.plaintap, options=("-p", 1, "--no-follow")),
        "record -c, another name": partial(tracers.plaintap, options=("-c", "another-name")),
        "record -u, another user": partial(tracers.plaintap, options=("-u", "nobody")),
    }
    found = measure(ways, folder)
    rows = []
    for load, base in found[UNTRACED].items():
        rows.append(Row(f"{load}, {UNTRACED}", f"{base:,.0f} ns"))
        empty = found[EMPTY][load] - base
        for name in list(ways)[1:]:
            cost = found[name][load] - base
            aim = ""
            if load == UNHOOKED:
                aim = goal(f"{UNHOOKED_NS} ns", cost <= UNHOOKED_NS)
            elif load == SOCKETS and name != EMPTY:
                aim = goal(f"{OVER_EMPTY} × empty programs", cost <= OVER_EMPTY * empty)
            share = f" ({cost / empty:.2f} × empty programs)" if load != UNHOOKED and name != EMPTY else ""
            rows.append(Row(f"… {name}", f"+ {cost:,.0f} ns{share}", aim))
    method = (
        "A process that is not recorded, on one processor: what its calls take more. The fastest tenth of "
        f"{VISITS} × {BATCHES} times {CALLS} calls; empty programs are on every event that a recording uses."
    )
    return Table("What is not recorded", method, rows)
