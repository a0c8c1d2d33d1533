"""Every hole has its reason: what the kernel side noted, what was thrown away, and the ring's losses otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kernel_events import (
    REQUEST,
    SECOND_NS,
    Recording,
    announced,
    distant,
    ended,
    moved,
    plaintext,
)

from capture import sessions
from capture.connections import Connections
from capture.events import Direction, Protocol, Reason, Role, SessionBound
from capture.holes import Holes
from capture.streams import Data, Process, Side

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED


def holes_of(*notes, ring_was_full=True):
    """Notes as (flow, position, length, reason); how often they were read is in the list beside."""
    reads = []

    def read():
        reads.append(len(notes))
        return notes

    return Holes(lambda: len(notes), read, lambda: ring_was_full), reads


def test_of_what_nothing_is_noted_the_ring_was_full_or_it_was_late():
    assert list(holes_of()[0].reasons(1, 0, SENT, 10, 5)) == [(5, "ring-full")]
    assert list(holes_of(ring_was_full=False)[0].reasons(1, 0, SENT, 10, 5)) == [(5, "late")]


def test_a_hole_is_cut_where_its_reasons_change():
    flow = (1, 0, int(SENT))
    holes, reads = holes_of(
        (flow, 5, 10, Reason.TABLE_FULL),
        (flow, 20, 5, Reason.UNDECIDED),
        (flow, 40, 9, Reason.LIMIT),
        ((1, 0, int(RECEIVED)), 15, 5, Reason.FAULT),
        ((2, 0, int(SENT)), 15, 5, Reason.FAULT),
    )
    assert list(holes.reasons(1, 0, SENT, 10, 20)) == [
        (5, "table-full"), (5, "ring-full"), (5, "undecided"), (5, "ring-full"),
    ]  # fmt: skip
    assert list(holes.reasons(1, 0, SENT, 0, 5)) == [(5, "ring-full")]
    assert len(reads) == 1, "what has not changed is not read again"


@given(
    notes=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6, unique_by=lambda n: n[0]),
    position=st.integers(0, 60),
    length=st.integers(1, 40),
    given_up=st.integers(0, 60),
)
def test_the_parts_of_a_hole_are_the_hole(notes, position, length, given_up):
    flow = (0, 7, int(RECEIVED))
    holes, _ = holes_of(*((flow, start, n, Reason.TABLE_FULL) for start, n in notes))
    holes.give_up(7, RECEIVED, given_up)
    parts = list(holes.reasons(1, 7, RECEIVED, position, length))
    assert sum(n for n, _ in parts) == length
    assert all(n > 0 for n, _ in parts)


def test_a_session_s_notes_are_found_whatever_its_connection():
    holes, _ = holes_of(((0, 7, int(SENT)), 0, 3, Reason.TABLE_FULL))
    assert list(holes.reasons(99, 7, SENT, 0, 3)) == [(3, "table-full")]


def recording_with(holes):
    recording = Recording()
    recording.connections = Connections(Process, lambda _: None, lambda *_: None, holes=holes)
    return recording


def test_a_hole_in_the_middle_is_shown_with_its_reasons_and_counted_by_connection():
    flow = (1, 0, int(SENT))
    holes, _ = holes_of((flow, len(REQUEST) + 2, 3, Reason.NOT_IN_USER_SPACE))
    recording = recording_with(holes).feed(distant(1), moved(1, SENT, 0, REQUEST))
    recording.feed(moved(1, SENT, len(REQUEST) + 5, b"rest")).tick(0).tick(SECOND_NS)
    begin = len(REQUEST)
    assert recording.stream.holes[Side.CLIENT] == [
        (begin, 2, "ring-full"), (begin + 2, 3, "not-in-user-space"),
    ]  # fmt: skip
    assert recording.tally.gaps == 5
    assert recording.tally.losses[1].lost == {"ring-full": 2, "not-in-user-space": 3}


def test_plaintext_that_was_thrown_away_before_its_socket_was_known(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_UNBOUND_BYTES", 3)
    recording = Recording().feed(distant(1, protocol=Protocol.TLS))
    recording.feed(plaintext(7, SENT, 0, b"lost"), SessionBound(7, 1, 0, 1, 1))
    recording.feed(plaintext(7, SENT, 4, REQUEST, connection=1)).tick(0).tick(SECOND_NS)
    assert recording.stream.holes[Side.CLIENT] == [(0, 4, "unknown-association")]


def test_the_list_of_connections_with_losses_has_an_end(monkeypatch):
    monkeypatch.setattr("capture.tally.MAX_LISTED_LOSSES", 1)
    recording = Recording()
    for number in (1, 2):
        port = {"local_port": 40_000 + number}
        recording.feed(
            distant(number, **port), moved(number, SENT, 0, REQUEST), ended(number, len(REQUEST) + 3)
        )
    assert recording.tally.gaps == 6
    assert list(recording.tally.losses) == [1]


def test_bytes_by_reference_are_marked_as_of_the_call():
    recording = Recording().feed(
        announced(1, Role.CLIENT), moved(1, SENT, 0, REQUEST, by_reference=True), distant(2)
    )
    recording.tick(SECOND_NS)
    recording.feed(
        moved(1, SENT, len(REQUEST), b"x", by_reference=True), moved(1, SENT, len(REQUEST) + 1, b"y")
    )
    assert [item.as_of_call for item in recording.items if isinstance(item, Data)] == [True, True, False]
