"""Ends that wait in the kernel's table are told after the bytes that were reported before them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from kernel_events import REQUEST, RESPONSE, SECOND_NS, START_NS, Recording, announced, distant, moved

from bpf.tables import OpenConnection
from capture.drain import Drain
from capture.events import Direction
from capture.late_ends import MAX_WRITE_S, LateEnds
from capture.pipeline import SWEEP_INTERVAL_S, Pipeline

if TYPE_CHECKING:
    from capture.events import Event


class Tables:
    """The kernel side's table of late ends, and its count of them."""

    def __init__(self) -> None:
        self.late: list[OpenConnection] = []
        self.count = 0

    def add(self, *, written_to: bool = False, number: int = 1) -> None:
        """A connection ended, and nobody was told."""
        moved_bytes = (len(REQUEST), len(RESPONSE))
        times = (START_NS + 5, START_NS + 6, 0, 0)
        self.late.append(OpenConnection(number, number, True, moved_bytes, 0, (0, 0), *times, written_to))
        self.count += 1

    def counter(self, _name: str) -> int:
        return self.count

    def late_ends(self) -> list[OpenConnection]:
        return list(self.late)

    def drop_ended(self, key: int, _connection: int) -> None:
        self.late = [c for c in self.late if c.key != key]

    def distrusted(self) -> list[int]:
        return []

    def find_ends(self, _most: int) -> None:
        pass

    find_missed_ends = find_ends


class Ring:
    """A ring of which so many bytes were written."""

    produced = 0

    def drain(self, _keep: object) -> None:
        return None


def batch_of(ring: Ring, size: int) -> tuple[list[memoryview], list[int]]:
    """Of bytes that say how many they are."""
    ring.produced += size
    return [memoryview(bytes([size]) * size)], [0]


def pipeline_of(
    events: dict[int, list[Event]], tables: Tables, drain: Drain, recording: Recording
) -> Pipeline:
    """One whose batches of so many bytes hold these events."""
    pipeline = Pipeline.__new__(Pipeline)
    parts: dict[str, object] = {
        "tables": tables,
        "_drain": drain,
        "_late_ends": LateEnds(cast("Any", tables), drain),
        "_connections": recording.connections,
        "_exporter": SimpleNamespace(write=recording.items.append),
        "_decoder": SimpleNamespace(decode=lambda buffer, starts: events[buffer[starts[0]]]),
        "_clock": SimpleNamespace(now=lambda: START_NS + SECOND_NS, adjust=lambda: 0, offset=0),
        "_tls": SimpleNamespace(distrust=lambda _: None),
        "_older_calls": SimpleNamespace(release_ended=lambda: None),
        "_now": START_NS, "_samples": 0, "_next_sweep": 0.0, "_next_look": 0.0,
    }  # fmt: skip
    for name, part in parts.items():
        setattr(pipeline, name, part)
    return pipeline


def test_what_the_queue_holds_comes_before_an_end_in_the_table() -> None:
    ring, tables, recording = Ring(), Tables(), Recording()
    drain = Drain(cast("Any", ring), cast("Any", None))
    sent, received = moved(1, Direction.SENT, 0, REQUEST), moved(1, Direction.RECEIVED, 0, RESPONSE)
    pipeline = pipeline_of({8: [distant(1)], 16: [sent], 24: [received]}, tables, drain, recording)
    drain._keep(*batch_of(ring, 8))
    pipeline.step(0)
    drain._keep(*batch_of(ring, 16))
    last = batch_of(ring, 24)  # in the ring still
    tables.add()
    pipeline.tick(0)
    pipeline.step(0)
    pipeline.tick(1)
    assert not recording.stream.closed
    drain._keep(*last)
    pipeline.step(0)
    pipeline.tick(1)
    assert recording.stream.both == (REQUEST, RESPONSE)
    assert len(recording.stream.closed) == 2
    assert tables.late == []
    assert recording.tally.late_cleartext == 0


def test_what_comes_to_the_table_later_is_found_by_a_later_look() -> None:
    ring, tables, recording = Ring(), Tables(), Recording()
    drain = Drain(cast("Any", ring), cast("Any", None))
    first, second = distant(1), announced(2, remote=bytes([93, 184, 216, 35]))
    pipeline = pipeline_of({8: [first, second]}, tables, drain, recording)
    drain._keep(*batch_of(ring, 8))
    tables.add()
    pipeline.tick(0)
    tables.add(number=2)
    pipeline.step(0)
    pipeline.tick(1)
    assert [c.connection for c in tables.late] == [2]
    pipeline.tick(2 * SWEEP_INTERVAL_S)
    assert tables.late == []


@pytest.mark.parametrize("returns", [True, False])
def test_an_end_waits_for_a_write_that_has_not_returned_but_not_for_ever(returns: bool) -> None:
    tables = Tables()
    drain = SimpleNamespace(taken=0, reported=0)
    late = LateEnds(cast("Any", tables), cast("Any", drain))
    tables.add(written_to=True)
    for now in (0.0, SWEEP_INTERVAL_S, MAX_WRITE_S - 1):
        late.look(now)
        assert not late.take()
    if returns:
        tables.late = []
        tables.add()
        drain.reported = 8
    late.look(MAX_WRITE_S - 0.5 if returns else MAX_WRITE_S)
    assert bool(late.take()) is not returns
    drain.taken = 8
    if returns:
        assert [c.connection for c in late.take()] == [1]
    assert not late.take()


def test_a_table_that_nothing_came_to_is_not_read() -> None:
    tables = Tables()
    late = LateEnds(cast("Any", tables), cast("Any", SimpleNamespace(taken=0, reported=0)))
    tables.late_ends = lambda: pytest.fail("read")  # type: ignore[method-assign]
    late.look(0)
    assert not late.take()
