"""Connections: events in any order that the kernel may give them, and the streams that must come out."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_events import (
    CLIENT_PORT,
    ELSEWHERE,
    HERE,
    LOOPBACK,
    REQUEST,
    RESPONSE,
    SECOND_NS,
    SERVER_PORT,
    START_NS,
    Recording,
    announced,
    distant,
    ended,
    in_pieces,
    moved,
    plaintext,
)

from capture.connections import Connections
from capture.events import (
    Direction,
    Final,
    ProgramExecuted,
    Protocol,
    Reason,
    Role,
    SessionBound,
    SessionEstablished,
    SessionFreed,
    SessionJoined,
)
from capture.sessions import MAX_UNBOUND_BYTES
from capture.streams import Process, Side, TlsEnded
from capture.tls_notes import MIN_FINISHED_BYTES
from capture.two_ends import CLIENT_WINDOW_NS, MAX_HELD_BYTES, SERVER_WINDOW_NS

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED
BOTH = (REQUEST, RESPONSE)
MIDDLE = START_NS + 50
CUTS = st.lists(st.integers(1, max(map(len, BOTH)) - 1), max_size=4)


def ends(client_cuts=(), server_cuts=(), **server_fields):
    """All events of either end of one local connection."""
    return (
        [
            announced(1),
            *in_pieces(1, SENT, REQUEST, client_cuts),
            *in_pieces(1, RECEIVED, RESPONSE, client_cuts),
            ended(1, len(REQUEST), len(RESPONSE)),
        ],
        [
            announced(2, Role.SERVER, **server_fields),
            *in_pieces(2, RECEIVED, REQUEST, server_cuts),
            *in_pieces(2, SENT, RESPONSE, server_cuts),
            ended(2, len(RESPONSE), len(REQUEST)),
        ],
    )


def interleaved(draw, *queues):
    """The queues, each in its own order, mixed as hypothesis likes."""
    queues = [list(queue) for queue in queues]
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        yield queue.pop(0)


# Both ends of a local connection


@given(data=st.data(), client_cuts=CUTS, server_cuts=CUTS)
def test_both_ends_in_any_interleaving_give_one_stream(data, client_cuts, server_cuts):
    recording = Recording()
    for event in interleaved(data.draw, *ends(client_cuts, server_cuts)):
        recording.feed(event)
    recording.tick(SECOND_NS).finish()
    assert recording.stream.both == BOTH
    assert not any(recording.stream.holes.values())
    assert {closed.sender for closed in recording.stream.closed} == {Side.CLIENT, Side.SERVER}
    assert len(recording.stream.closed) == 2
    tally = recording.tally
    whole = len(REQUEST) + len(RESPONSE)
    assert (tally.cleartext, tally.mirrored_cleartext, tally.gaps, tally.late_cleartext) == (
        2 * whole,
        whole,
        0,
        0,
    )


@given(data=st.data(), client_cuts=CUTS, server_cuts=CUTS)
def test_also_when_the_decision_s_window_ends_anywhere_in_between(data, client_cuts, server_cuts):
    recording = Recording()
    for number, event in enumerate(interleaved(data.draw, *ends(client_cuts, server_cuts))):
        recording.feed(event)
        if data.draw(st.booleans()):
            recording.tick((number + 1) * CLIENT_WINDOW_NS * 2 // 10)
    recording.tick(SECOND_NS).finish()
    assert recording.stream.both == BOTH
    assert not any(recording.stream.holes.values())


@pytest.mark.parametrize("first", [0, 1])
def test_the_client_s_end_is_shown_and_the_server_s_process_named(first):
    queues = ends()
    recording = Recording()
    # Announcements and first data of both ends, whichever comes first.
    for step in range(2):
        for queue in (queues[first], queues[1 - first]):
            recording.feed(queue[step])
    opened = recording.stream.opened
    assert opened.side is Side.CLIENT
    assert opened.stream == 1
    assert opened.process == Process(1001, "client")
    assert opened.peer_process == Process(1002, "server")
    assert recording.mirrored == [(2, True)]
    for queue in queues:
        recording.feed(*queue[2:])
    assert recording.mirrored == [(2, True), (2, False)], "the kernel is told when it may forget"


def test_a_lone_server_is_shown_when_the_window_is_over():
    recording = Recording().feed(*ends()[1][:2])
    recording.tick(SERVER_WINDOW_NS)
    assert recording.streams == []
    recording.tick(2 * SERVER_WINDOW_NS)
    assert recording.stream.opened.side is Side.SERVER
    assert recording.stream.opened.peer_process is None
    assert recording.stream.both == (REQUEST, b"")


def test_what_a_server_sent_in_a_call_that_blocked_waits_for_its_client_as_ever():
    """Its time is that of the call's entry."""
    client, server = ends()
    recording = Recording().tick(40 * SECOND_NS)
    recording.feed(*server[:2]).tick(40 * SECOND_NS + SERVER_WINDOW_NS)
    assert recording.streams == []
    recording.feed(*client[:2])
    assert recording.stream.opened.side is Side.CLIENT


def test_a_distant_connection_does_not_wait():
    recording = Recording().feed(distant(1), moved(1, SENT, 0, REQUEST))
    assert recording.stream.both == (REQUEST, b"")
    assert recording.stream.opened.server.address == ELSEWHERE


def test_more_than_the_limit_is_not_held_back():
    size = MAX_HELD_BYTES // 4
    recording = Recording().feed(announced(1, Role.SERVER))
    for number in range(6):
        recording.feed(moved(1, RECEIVED, number * size, bytes(size)))
    assert len(recording.stream.sent[Side.CLIENT]) == 6 * size


def test_loopback_of_another_namespace_is_another_connection():
    client, server = ends(netns=2)
    recording = Recording().feed(*client, *server).tick(SECOND_NS)
    assert len(recording.streams) == 2


@pytest.mark.parametrize("server_first", [False, True])
@pytest.mark.parametrize(("client_at", "server_at"), [(HERE, LOOPBACK), (LOOPBACK, HERE)])
def test_a_client_may_be_bound_to_another_address_of_the_machine(client_at, server_at, *, server_first):
    """curl --interface; a proxy that shows its client's address to what is behind it."""
    both = (
        [announced(1, local=client_at, remote=server_at), moved(1, SENT, 0, REQUEST)],
        [announced(2, Role.SERVER, local=server_at, remote=client_at), moved(2, RECEIVED, 0, REQUEST)],
    )
    recording = Recording()
    for end in reversed(both) if server_first else both:
        recording.feed(*end)
    recording.feed(moved(1, RECEIVED, 0, RESPONSE), moved(2, SENT, 0, RESPONSE)).tick(SECOND_NS)
    assert recording.stream.both == BOTH
    assert recording.stream.opened.side is Side.CLIENT


@pytest.mark.parametrize("address", [LOOPBACK, HERE])
def test_what_stays_in_its_namespace_has_its_other_end_there(address):
    """Rootless containers all have the same address."""
    other = [
        announced(2, Role.SERVER, local=address, remote=address, netns=2),
        moved(2, RECEIVED, 0, REQUEST),
    ]
    recording = Recording().feed(announced(1, local=address, remote=address), *other).tick(SECOND_NS)
    recording.feed(moved(1, SENT, 0, REQUEST)).tick(2 * SECOND_NS)
    assert len(recording.streams) == 2


def test_a_mapped_address_is_the_same_address():
    mapped = bytes(10) + b"\xff\xff" + LOOPBACK
    client, server = ends(local=mapped, remote=mapped)
    recording = Recording().feed(*client, *server).tick(SECOND_NS)
    assert recording.stream.both == BOTH


def test_the_same_ports_again_are_another_stream():
    first, second = ends(), ends()
    again = [
        [replace(event, connection=number) for event in queue]
        for queue, number in zip(second, (3, 4), strict=True)
    ]
    recording = Recording()
    for client, server in ((first[0], first[1]), (again[0], again[1])):
        recording.feed(client[0], server[0], *client[1:-1], *server[1:-1], client[-1], server[-1])
    recording.tick(SECOND_NS)
    assert [stream.both for stream in recording.streams] == [BOTH, BOTH]


# One end: order, losses, ends


@given(cuts=CUTS, random=st.randoms(use_true_random=False))
def test_pieces_of_two_threads_are_put_in_order(cuts, random):
    pieces = in_pieces(1, SENT, REQUEST, cuts)
    random.shuffle(pieces)
    recording = Recording().feed(distant(1), *pieces, ended(1, len(REQUEST)))
    assert recording.stream.both == (REQUEST, b"")
    assert not recording.stream.holes[Side.CLIENT]


@given(cuts=CUTS, lost=st.sets(st.integers(0, 4)))
def test_what_the_ring_had_no_room_for_is_a_gap_of_exact_length(cuts, lost):
    pieces = in_pieces(1, SENT, REQUEST, cuts)
    came = [piece for number, piece in enumerate(pieces) if number not in lost]
    recording = Recording().feed(distant(1), *came, ended(1, len(REQUEST))).tick(SECOND_NS)
    missing = len(REQUEST) - sum(piece.length for piece in came)
    assert recording.tally.gaps == missing or not came
    if came:
        expected = bytearray(len(REQUEST))
        for piece in came:
            expected[piece.position : piece.position + piece.length] = piece.payload
        stream = recording.stream
        assert stream.sent[Side.CLIENT] == bytes(expected)
        assert sum(length for _, length, _ in stream.holes[Side.CLIENT]) == missing
        assert {reason for *_, reason in stream.holes[Side.CLIENT]} <= {"ring-full"}


def test_a_hole_before_the_end_of_the_recording_is_shown_too():
    recording = Recording().feed(distant(1), moved(1, SENT, 0, REQUEST))
    recording.finish({1: Final((len(REQUEST) + 7, 3), 0, (0, 0))})
    assert recording.stream.holes == {
        Side.CLIENT: [(len(REQUEST), 7, "ring-full")],
        Side.SERVER: [(0, 3, "ring-full")],
    }


def test_positions_begin_at_the_base():
    recording = Recording().feed(
        distant(1, opened=None, established=None, role=Role.UNKNOWN, base=(1_000_000, 5)),
        moved(1, SENT, 1_000_000, REQUEST),
        moved(1, RECEIVED, 5, RESPONSE),
        ended(1, 1_000_000 + len(REQUEST), 5 + len(RESPONSE)),
    )
    assert recording.stream.both == BOTH
    assert not any(recording.stream.holes.values())


@pytest.mark.parametrize("reason", [Reason.FAULT, Reason.LIMIT, Reason.NOT_IN_USER_SPACE])
def test_what_could_not_be_read_is_a_gap_with_the_reason(reason):
    recording = Recording().feed(
        distant(1),
        moved(1, SENT, 0, REQUEST),
        moved(1, SENT, len(REQUEST), b"", length=9, reason=reason),
        moved(1, SENT, len(REQUEST) + 9, b"tail"),
    )
    assert recording.stream.holes[Side.CLIENT] == [(len(REQUEST), 9, reason.word)]
    assert recording.stream.sent[Side.CLIENT] == REQUEST + bytes(9) + b"tail"
    assert recording.tally.cleartext_faults == (9 if reason is Reason.FAULT else 0)
    assert recording.tally.gaps == 9


def test_closes_are_in_order_of_time_and_by_who_sent_them():
    recording = Recording().feed(
        distant(1, Role.SERVER),
        moved(1, RECEIVED, 0, REQUEST),
        ended(1, 0, len(REQUEST), local_fin=MIDDLE + 2, peer_fin=MIDDLE + 1, peer_reset=MIDDLE + 3),
    )
    closed = [(c.sender, c.reset, c.time_ns) for c in recording.stream.closed]
    assert closed == [
        (Side.CLIENT, False, MIDDLE + 1),
        (Side.SERVER, False, MIDDLE + 2),
        (Side.CLIENT, True, MIDDLE + 3),
    ]


def test_an_end_before_any_data_shows_nothing():
    recording = Recording().feed(distant(1), ended(1)).tick(SECOND_NS).finish()
    assert recording.items == []
    assert recording.connections._views == {}


def test_a_second_announcement_changes_nothing():
    recording = Recording().feed(distant(1), moved(1, SENT, 0, b"GET "), distant(1), moved(1, SENT, 4, b"/ "))
    assert recording.stream.both == (b"GET / ", b"")
    assert recording.tally.connections == 1


def test_data_without_an_announcement_is_counted():
    recording = Recording().feed(moved(9, SENT, 0, REQUEST))
    assert recording.items == []
    assert recording.tally.late_cleartext == len(REQUEST)


def test_executions_are_not_for_streams():
    assert Recording().feed(ProgramExecuted(1, 2, "/bin/true", ())).items == []


# Older than the recording: which end is ours?


@pytest.mark.parametrize(
    ("direction", "said", "side"),
    [
        (SENT, REQUEST, Side.CLIENT),
        (RECEIVED, REQUEST, Side.SERVER),
        (SENT, RESPONSE, Side.SERVER),
        (RECEIVED, RESPONSE, Side.CLIENT),
    ],
)
def test_the_content_tells_the_side_of_an_older_connection(direction, said, side):
    # The ports say the opposite.
    ports = (80, 50_000) if side is Side.CLIENT else (50_000, 80)
    older = distant(1, Role.UNKNOWN, opened=None, established=None, local_port=ports[0], remote_port=ports[1])
    opened = Recording().feed(older, moved(1, direction, 0, said)).stream.opened
    assert opened.side is side
    assert not opened.handshake_seen
    assert (opened.client.port, opened.server.port) == (ports if side is Side.CLIENT else ports[::-1])


@pytest.mark.parametrize(("local", "remote", "side"), [(80, 50_000, Side.SERVER), (50_000, 80, Side.CLIENT)])
def test_else_the_lower_port_is_the_server_s(local, remote, side):
    older = distant(1, Role.UNKNOWN, opened=None, local_port=local, remote_port=remote)
    assert Recording().feed(older, moved(1, SENT, 0, b"<middle of a body>")).stream.opened.side is side


def test_the_other_end_s_side_is_known_where_it_is_local():
    server = announced(2, Role.SERVER)
    client = announced(1, Role.UNKNOWN, opened=None, local_port=CLIENT_PORT, remote_port=SERVER_PORT)
    recording = Recording().feed(server, client, moved(1, SENT, 0, b"<middle>"))
    recording.tick(SECOND_NS)
    assert recording.stream.opened.side is Side.CLIENT


# First bytes that do not tell yet


def test_first_bytes_wait_until_the_protocol_is_known():
    recording = Recording().feed(
        distant(1, protocol=Protocol.UNDECIDED), moved(1, SENT, 0, b"GE", protocol=Protocol.UNDECIDED)
    )
    assert recording.streams == []
    recording.feed(moved(1, SENT, 2, REQUEST[2:]))
    assert recording.stream.both == (REQUEST, b"")


def test_first_bytes_that_turn_out_to_be_tls_are_none_of_the_stream():
    hello = bytes.fromhex("16030100") + b"\x2f"
    recording = Recording().feed(
        distant(1, protocol=Protocol.UNDECIDED),
        moved(1, SENT, 0, hello[:2], protocol=Protocol.UNDECIDED),
        moved(1, SENT, 2, hello[2:], protocol=Protocol.TLS, hello=True),
    )
    assert recording.streams == []
    assert recording.tally.never_decided_arrived == 2
    assert recording.tally.cleartext == 2, "what the kernel has counted as captured, and only that"


def test_first_bytes_that_never_told_are_filtered_and_forgotten():
    recording = Recording().feed(
        distant(1, protocol=Protocol.UNDECIDED),
        moved(1, SENT, 0, b"GE", protocol=Protocol.UNDECIDED),
        ended(1, 2, protocol=Protocol.OTHER),
    )
    assert recording.tick(SECOND_NS).items == []
    assert recording.tally.never_decided_arrived == 2
    assert not recording.connections._first_words


def test_with_all_protocols_everything_is_shown_at_once():
    recording = Recording(all_protocols=True).feed(
        distant(1, protocol=Protocol.UNDECIDED), moved(1, SENT, 0, b"GE", protocol=Protocol.UNDECIDED)
    )
    assert recording.stream.both == (b"GE", b"")


@pytest.mark.parametrize("cuts", [(2,), (1, 2, 4)])
def test_with_all_protocols_a_record_s_first_bytes_wait_for_the_rest(cuts):
    hello = bytes.fromhex("16030100") + b"\x2f"
    recording = Recording(all_protocols=True).feed(distant(1, protocol=Protocol.UNDECIDED))
    for begin, end in pairwise((0, *cuts)):
        recording.feed(moved(1, SENT, begin, hello[begin:end], protocol=Protocol.UNDECIDED))
    recording.feed(moved(1, SENT, cuts[-1], hello[cuts[-1] :], protocol=Protocol.TLS, hello=True))
    assert recording.streams == []
    assert recording.tally.never_decided_arrived == cuts[-1]


@pytest.mark.parametrize("then", ["more", "an answer", "the end"])
def test_with_all_protocols_what_only_begins_like_a_record_is_shown(then):
    recording = Recording(all_protocols=True).feed(
        distant(1, protocol=Protocol.UNDECIDED), moved(1, SENT, 0, b"\x16", protocol=Protocol.UNDECIDED)
    )
    assert recording.streams == []
    if then == "more":
        recording.feed(moved(1, SENT, 1, b"\x02", protocol=Protocol.OTHER))
    elif then == "an answer":
        recording.feed(moved(1, RECEIVED, 0, b"OK", protocol=Protocol.OTHER))
    else:
        recording.feed(ended(1, 1, protocol=Protocol.UNDECIDED))
    recording.tick(SECOND_NS)
    assert (
        recording.stream.both
        == {
            "more": (b"\x16\x02", b""),
            "an answer": (b"\x16", b"OK"),
            "the end": (b"\x16", b""),
        }[then]
    )
    assert recording.tally.never_decided_arrived == 0


# TLS


def tls_connection(**fields):
    return distant(1, protocol=Protocol.TLS, **fields)


def test_plaintext_before_its_socket_is_known_waits_and_comes_in_order():
    recording = Recording().feed(
        plaintext(7, SENT, 0, REQUEST[:9]),
        plaintext(7, SENT, 9, REQUEST[9:]),
        plaintext(7, RECEIVED, 0, RESPONSE[:5]),
    )
    assert recording.items == []
    recording.feed(tls_connection(), SessionBound(7, 1, MIDDLE, 1001, 1))
    recording.feed(plaintext(7, RECEIVED, 5, RESPONSE[5:], 1))
    assert recording.stream.both == BOTH
    assert recording.stream.opened.tls.library == "libssl.so.3"
    assert recording.stream.opened.tls.alpn == "http/1.1"
    assert recording.tally.unknown_association == 0


@given(data=st.data(), cuts=CUTS, other_cuts=CUTS)
@settings(max_examples=60)
def test_when_the_socket_becomes_known_makes_no_difference(data, cuts, other_cuts):
    plain = [
        *in_pieces(0, SENT, REQUEST, cuts, session=7, protocol=Protocol.TLS),
        *in_pieces(0, RECEIVED, RESPONSE, other_cuts, session=7, protocol=Protocol.TLS),
    ]
    binding = [tls_connection(), SessionBound(7, 1, MIDDLE, 1001, 1)]
    recording = Recording().feed(*interleaved(data.draw, plain, binding))
    final = (len(REQUEST), len(RESPONSE))
    recording.feed(ended(1, 5_000, 6_000, session=7, session_moved=final, protocol=Protocol.TLS))
    assert recording.stream.both == BOTH
    assert not any(recording.stream.holes.values()), "ciphertext's positions are none of the plaintext"
    assert not recording.tally.unreadable


def test_the_first_piece_that_names_its_connection_binds_the_session():
    recording = Recording().feed(
        tls_connection(), plaintext(7, SENT, 0, b"GET / "), plaintext(7, SENT, 6, b"HTTP/1.1\r\n", 1)
    )
    assert recording.stream.both == (b"GET / HTTP/1.1\r\n", b"")


def test_handshake_times_are_the_library_s():
    recording = Recording().feed(
        tls_connection(),
        SessionEstablished(7, 1, MIDDLE + 30, MIDDLE + 10, 1001, 1),
        plaintext(7, SENT, 0, REQUEST, 1),
    )
    tls = recording.stream.opened.tls
    assert (tls.started_ns, tls.established_ns) == (MIDDLE + 10, MIDDLE + 30)


HELLO_NS = START_NS + 1000


@pytest.mark.parametrize(("probed", "handshake"), [(-1, False), (1, False), (1, True)])
def test_a_session_that_began_before_its_probes_may_lack_its_first_plaintext(probed, handshake):
    recording = Recording()
    recording.connections = Connections(
        Process, lambda _: None, lambda *_: None, probed_since=lambda _: HELLO_NS + probed
    )
    recording.feed(distant(1), hello_of(1, SENT, b"r" * 32), SessionBound(7, 1, MIDDLE + 5, 1001, 1))
    if handshake:
        recording.feed(SessionEstablished(7, 1, MIDDLE + 9, MIDDLE + 6, 1001, 1))
    recording.feed(plaintext(7, SENT, 0, REQUEST, 1))
    assert recording.stream.opened.tls.joined == (probed > 0 and not handshake)


def joined(session, direction, position):
    return SessionJoined(session, 1, 7, direction, position, MIDDLE)


def test_what_a_key_has_told_is_the_connection_s_from_where_that_had_room_for_it():
    """What was said by a key before its records were seen to be sent waits; the session around it goes on behind."""
    recording = Recording().feed(
        tls_connection(),
        plaintext(8, SENT, 0, REQUEST[:5]),
        plaintext(8, SENT, 5, REQUEST[5:9]),
        SessionBound(7, 1, MIDDLE, 1001, 1),
        joined(8, SENT, 0),
        plaintext(7, RECEIVED, 0, RESPONSE[:4], 1),
        plaintext(9, RECEIVED, 0, RESPONSE[4:]),
    )
    assert recording.stream.both == (REQUEST[:9], RESPONSE[:4])
    recording.feed(plaintext(7, SENT, 9, REQUEST[9:], 1), joined(9, RECEIVED, 4))
    final = (len(REQUEST), len(RESPONSE))
    recording.feed(ended(1, 5_000, 6_000, session=7, session_moved=final, protocol=Protocol.TLS)).finish()
    assert recording.stream.both == BOTH
    assert not any(recording.stream.holes.values())
    assert recording.tally.unknown_association == 0


def test_what_a_key_told_and_never_came_is_a_hole():
    recording = Recording().feed(tls_connection(), SessionBound(7, 1, MIDDLE, 1001, 1), joined(8, SENT, 0))
    recording.feed(plaintext(7, SENT, 9, REQUEST[9:], 1))
    recording.feed(
        ended(1, 5_000, 6_000, session=7, session_moved=(len(REQUEST), 0), protocol=Protocol.TLS)
    ).finish()
    assert [length for _, length, _ in recording.stream.holes[Side.CLIENT]] == [9]


def test_an_object_s_new_session_goes_to_its_own_connection():
    recording = Recording().feed(
        tls_connection(),
        plaintext(7, SENT, 0, b"GET /one", 1),
        distant(2, protocol=Protocol.TLS, local_port=40_001),
        SessionBound(8, 2, MIDDLE, 1001, 1),
        plaintext(8, SENT, 0, b"GET /two", 2),
    )
    assert [stream.both[0] for stream in recording.streams] == [b"GET /one", b"GET /two"]


def test_plaintext_that_never_finds_a_socket_is_counted_as_such():
    recording = Recording().feed(plaintext(7, SENT, 0, REQUEST), SessionFreed(7, MIDDLE))
    assert recording.items == []
    assert recording.tally.unknown_association == len(REQUEST)
    recording.feed(plaintext(8, SENT, 0, REQUEST)).finish()
    assert recording.tally.unknown_association == 2 * len(REQUEST)


def test_what_is_read_after_the_socket_was_closed_is_in_the_stream():
    """Node's fetch that is given up: OpenSSL has the records in a buffer, and hands them over after close()."""
    end = ended(1, 900, 9_000, session=7, session_moved=(len(REQUEST), len(RESPONSE)), protocol=Protocol.TLS)
    recording = Recording().feed(
        tls_connection(),
        SessionBound(7, 1, MIDDLE, 1001, 1),
        plaintext(7, SENT, 0, REQUEST, 1),
        plaintext(7, RECEIVED, 0, RESPONSE, 1),
        end,
        plaintext(7, RECEIVED, len(RESPONSE), b"more", 0),
    )
    assert not recording.stream.closed
    recording.feed(SessionFreed(7, MIDDLE))
    assert recording.stream.both == (REQUEST, RESPONSE + b"more")
    assert len(recording.stream.closed) == 2
    assert recording.tally.unknown_association == recording.tally.late_plaintext == 0


@pytest.mark.parametrize("over", [lambda r: r.tick(SECOND_NS), lambda r: r.finish()])
def test_a_connection_whose_session_is_never_freed_ends_all_the_same(over):
    end = ended(1, 900, 900, session=7, session_moved=(len(REQUEST), 0), protocol=Protocol.TLS)
    recording = Recording().feed(tls_connection(), plaintext(7, SENT, 0, REQUEST, 1), end)
    over(recording)
    assert recording.stream.both == (REQUEST, b"")
    assert len(recording.stream.closed) == 2


def test_plaintext_of_a_connection_that_was_not_announced_is_lost():
    """Its end came before, or its announcement found no room in the ring."""
    recording = Recording().feed(plaintext(7, SENT, 0, REQUEST, 99))
    assert recording.items == []
    assert (recording.tally.late_plaintext, recording.tally.filtered_plaintext) == (len(REQUEST), 0)


def test_waiting_plaintext_of_a_connection_that_is_not_wanted_is_filtered():
    recording = Recording().feed(plaintext(7, SENT, 0, REQUEST))
    recording.feed(SessionBound(7, 99, MIDDLE, 1001, 1, unwanted=True), SessionFreed(7, MIDDLE))
    recording.finish()
    assert recording.items == []
    tally = recording.tally
    assert (tally.filtered_plaintext, tally.unknown_association) == (len(REQUEST), 0)


def test_sessions_that_nobody_frees_are_forgotten(monkeypatch):
    monkeypatch.setattr("capture.sessions.MAX_SESSIONS", 10)
    recording = Recording()
    for session in range(1, 101):
        recording.feed(plaintext(session, SENT, 0, REQUEST))
    assert len(recording.connections._sessions) == 10
    assert recording.tally.unknown_association == 90 * len(REQUEST)


def test_waiting_plaintext_is_bounded_and_the_oldest_goes_first():
    size = MAX_UNBOUND_BYTES // 8
    recording = Recording()
    for session in range(1, 21):
        recording.feed(plaintext(session, SENT, 0, bytes(size)))
        assert recording.connections._sessions._unbound_bytes <= MAX_UNBOUND_BYTES
    assert recording.tally.unknown_association == 12 * size
    recording.feed(tls_connection(), SessionBound(20, 1, MIDDLE, 1001, 1))
    assert recording.stream.both == (bytes(size), b"")


@pytest.mark.parametrize("cleartext", [b"EHLO me\r\nSTARTTLS\r\n", b"CONNECT h:443 HTTP/1.1\r\n\r\n"])
def test_tls_that_begins_in_mid_stream(cleartext):
    recording = Recording().feed(
        distant(1),
        moved(1, SENT, 0, cleartext),
        moved(1, RECEIVED, 0, b"ok\r\n"),
        moved(1, SENT, len(cleartext), bytes.fromhex("160301"), protocol=Protocol.TLS, hello=True),
        SessionEstablished(7, 1, MIDDLE + 9, MIDDLE, 1001, 1),
        plaintext(7, SENT, 0, REQUEST, 1),
        plaintext(7, RECEIVED, 0, RESPONSE, 1),
        ended(1, 9_000, 9_000, session=7, session_moved=(len(REQUEST), len(RESPONSE)), protocol=Protocol.TLS),
    )
    stream = recording.stream
    assert stream.both == (cleartext + REQUEST, b"ok\r\n" + RESPONSE)
    assert stream.opened.tls is None
    (started,) = stream.tls_started
    assert started.tls.alpn == "http/1.1"
    assert started.tls.library == "libssl.so.3"
    assert not any(stream.holes.values())


def test_the_tail_of_a_session_that_found_no_room_is_a_gap():
    recording = Recording().feed(
        tls_connection(),
        plaintext(7, SENT, 0, REQUEST, 1),
        ended(1, 900, 900, session=7, session_moved=(len(REQUEST) + 3, 4), protocol=Protocol.TLS),
        SessionFreed(7, MIDDLE),
    )
    assert recording.stream.holes == {
        Side.CLIENT: [(len(REQUEST), 3, "ring-full")],
        Side.SERVER: [(0, 4, "ring-full")],
    }


def test_tls_without_plaintext_is_shown_and_counted_by_process():
    recording = Recording().feed(tls_connection(), ended(1, 300, 4_000, protocol=Protocol.TLS))
    assert recording.stream.both == (b"", b"")
    assert recording.stream.opened.tls is not None
    assert recording.tally.unreadable == {(1001, "client", None): 4_300}
    assert len(recording.stream.closed) == 2


@pytest.mark.parametrize(
    ("opened", "handshake", "begun"),
    [(START_NS, False, True), (START_NS, True, False), (None, False, False)],
)
def test_tls_whose_handshake_no_probe_saw_may_lack_its_beginning(opened, handshake, begun):
    """As where the probes of a new program come after it; of a connection of before the recording that is no news."""
    recording = Recording().feed(
        tls_connection(opened=opened),
        *([SessionEstablished(7, 1, MIDDLE + 9, MIDDLE, 1001, 1)] if handshake else []),
        plaintext(7, SENT, 0, REQUEST, 1),
        ended(1, 900, 400, session=7, session_moved=(len(REQUEST), 0), protocol=Protocol.TLS),
        SessionFreed(7, MIDDLE + 20),
    )
    recording.finish()
    assert recording.tally.begun == ({(1001, "client"): 1_300} if begun else {})
    assert not recording.tally.unreadable


def test_tls_that_the_other_end_can_read_is_not_counted_as_unreadable():
    client = announced(1, protocol=Protocol.TLS)
    server = announced(2, Role.SERVER, protocol=Protocol.TLS)
    recording = Recording().feed(
        client,
        server,
        plaintext(7, RECEIVED, 0, REQUEST, 2),
        plaintext(7, SENT, 0, RESPONSE, 2),
    )
    recording.tick(SECOND_NS)
    recording.feed(
        ended(1, 900, 900, protocol=Protocol.TLS),
        ended(2, 900, 900, session=7, session_moved=(len(RESPONSE), len(REQUEST)), protocol=Protocol.TLS),
    )
    assert recording.stream.both == BOTH
    assert recording.stream.opened.side is Side.SERVER
    assert not recording.tally.unreadable


@pytest.mark.parametrize("direction", [SENT, RECEIVED])
@pytest.mark.parametrize(("content", "said"), [(b"", True), (RESPONSE, True), (bytes(10_000), False)])
def test_a_direction_whose_records_nothing_explains_is_not_silent(direction, content, said):
    """As where a library writes by a function that has no probe; records of one byte are mostly overhead."""
    pieces = [plaintext(7, Direction(1 - direction), 0, REQUEST, 1), plaintext(7, direction, 0, content, 1)]
    totals = (1_000_000, 1_000) if direction is SENT else (1_000, 1_000_000)
    last = (len(content), len(REQUEST)) if direction is SENT else (len(REQUEST), len(content))
    recording = (
        Recording()
        .feed(
            tls_connection(),
            *(piece for piece in pieces if piece.length),
            ended(1, *totals, session=7, session_moved=last, protocol=Protocol.TLS),
        )
        .finish()
    )
    assert recording.tally.one_way == (
        {(1001, "client", "libssl.so.3", direction): 1_000_000} if said else {}
    )


@pytest.mark.parametrize(("direction", "said"), [(SENT, True), (RECEIVED, False)])
def test_what_a_program_has_received_ahead_and_not_decrypted_is_no_way_that_is_not_known(direction, said):
    """As aiohttp and curl, that give a response up after its head: some of the body is in a BIO in memory."""
    totals = (400_000, 1_000) if direction is SENT else (1_000, 400_000)
    recording = (
        Recording()
        .feed(
            tls_connection(),
            plaintext(7, SENT, 0, REQUEST, 1),
            plaintext(7, RECEIVED, 0, RESPONSE, 1),
            ended(1, *totals, session=7, session_moved=(len(REQUEST), len(RESPONSE)), protocol=Protocol.TLS),
        )
        .finish()
    )
    assert bool(recording.tally.one_way) is said


def test_an_answer_in_the_clear_to_a_hello_follows_what_asked_for_tls():
    """Of a server whose port is http's: its client wanted https."""
    recording = Recording().feed(
        tls_connection(role=Role.SERVER),
        hello_of(1, RECEIVED, bytes(32)),
        moved(1, SENT, 0, RESPONSE, time=START_NS + 5_000),
    )
    opened, tls_ended, data = recording.items
    assert opened.tls is not None
    assert type(tls_ended) is TlsEnded
    assert (data.sender, data.data) == (Side.SERVER, RESPONSE)


def hello_of(connection, direction, random):
    """A ClientHello's record."""
    message = b"\x03\x03" + random + b"\0" + b"\0\2\x13\1" + b"\1\0" + b"\0\0"
    body = b"\1" + len(message).to_bytes(3) + message
    record = b"\x16\3\1" + len(body).to_bytes(2) + body
    return moved(connection, direction, 0, record, protocol=Protocol.TLS, hello=True)


@pytest.mark.parametrize("direction", [SENT, RECEIVED])
@pytest.mark.parametrize(
    ("more", "unreadable"), [(0, 0), (MIN_FINISHED_BYTES - 1, 0), (MIN_FINISHED_BYTES, 1_400)]
)
def test_a_handshake_that_the_client_did_not_go_on_with_has_nothing_to_read(direction, more, unreadable):
    """As when Go's HTTP client ends with connections that it dialled ahead, or with an alert: it trusts nobody."""
    hello = hello_of(1, direction, b"r" * 32)
    client, server = hello.length + more, 1_400 - hello.length - more
    totals = (client, server) if direction is SENT else (server, client)
    recording = Recording().feed(tls_connection(), hello, ended(1, *totals, protocol=Protocol.TLS))
    assert sum(recording.tally.unreadable.values()) == unreadable
    assert recording.stream.opened.tls is not None


class LivingProcesses:
    """Processes that end at once: what was not seen of them has no name."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def see(self, pid: int) -> None:
        self.seen.append(pid)

    def name(self, pid: int) -> str | None:
        return "rustls" if pid in self.seen else None


def test_a_process_is_looked_at_when_its_hello_is_seen_for_it_may_end_at_once():
    names = LivingProcesses()
    hello = hello_of(1, SENT, b"r" * 32)
    recording = Recording(tls_names=names).feed(tls_connection(), hello)
    assert names.seen == [1001]
    recording.feed(ended(1, hello.length + 900, 8_000, protocol=Protocol.TLS))
    assert recording.tally.unreadable == {(1001, "client", "rustls"): hello.length + 8_900}


def test_a_process_whose_tls_is_read_is_not_looked_at_for_each_connection():
    names = LivingProcesses()
    recording = Recording(tls_names=names)
    for n in range(1, 4):
        recording.feed(
            distant(n, protocol=Protocol.TLS, pid=1001),
            hello_of(n, SENT, bytes(32)),
            plaintext(70 + n, SENT, 0, REQUEST, n),
        )
    assert names.seen == [1001]


@pytest.mark.parametrize(("more", "unreadable"), [(64, 0), (160, 0), (161, 1_400)])
def test_nor_has_one_that_was_just_over_when_a_process_ended_that_is_read(more, unreadable):
    """Its library's call had not returned yet."""
    hello = hello_of(1, SENT, b"r" * 32)
    sent = hello.length + more
    recording = Recording().feed(
        announced(1, protocol=Protocol.TLS, pid=7), hello,
        announced(2, local_port=5, protocol=Protocol.TLS, pid=7), plaintext(7, SENT, 0, REQUEST, 2),
        ended(1, sent, 1_400 - sent, protocol=Protocol.TLS),
    )  # fmt: skip
    assert sum(recording.tally.unreadable.values()) == unreadable


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("hello_first", [True, False])
@pytest.mark.parametrize(("random", "relayed"), [(b"r" * 32, True), (b"s" * 32, False)])
def test_a_tunnel_inside_tls_is_relayed(random, relayed, hello_first, shown):
    """As squid's, whose clients speak TLS with it: it reads what is around the tunnel, not what is inside."""
    connect = b"CONNECT a:443 HTTP/1.1\r\n\r\n"
    asked = plaintext(7, RECEIVED, 0, connect, 1, pid=7)
    inside = plaintext(7, RECEIVED, len(connect), bytes(hello_of(1, RECEIVED, b"r" * 32).payload), 1, pid=7)
    inside = replace(inside, position=0) if not shown else inside
    outside = [
        announced(2, local_port=5, remote_port=6, protocol=Protocol.TLS, pid=7), hello_of(2, SENT, random),
    ]  # fmt: skip
    recording = Recording().feed(announced(1, Role.SERVER, protocol=Protocol.TLS, pid=7), *([asked] * shown))
    recording.tick(SECOND_NS)
    recording.feed(*((*outside, inside) if hello_first else (inside, *outside)))
    recording.feed(
        ended(2, 4_000, 300, protocol=Protocol.TLS), ended(1, 900, 900, session=7, protocol=Protocol.TLS)
    )
    assert (sum(recording.tally.relayed.values()), sum(recording.tally.unreadable.values())) == (
        (4_300, 0) if relayed else (0, 4_300)
    )


@pytest.mark.parametrize(("random", "relayed"), [(b"r" * 32, True), (b"s" * 32, False)])
def test_a_tunnel_is_relayed_and_nothing_that_could_be_read(random, relayed):
    inside = announced(1, Role.SERVER, protocol=Protocol.TLS, pid=7)
    outside = announced(2, local_port=5, remote_port=6, protocol=Protocol.TLS, pid=7)
    recording = Recording().feed(
        inside, hello_of(1, RECEIVED, b"r" * 32), outside, hello_of(2, SENT, random),
        ended(1, 300, 4_000, protocol=Protocol.TLS), ended(2, 4_000, 300, protocol=Protocol.TLS),
    )  # fmt: skip
    assert (sum(recording.tally.relayed.values()), sum(recording.tally.unreadable.values())) == (
        (8_600, 0) if relayed else (0, 8_600)
    )


# The end of the recording, and memory


def test_at_the_end_what_was_held_back_is_shown():
    recording = Recording().feed(announced(1), moved(1, SENT, 0, REQUEST)).finish()
    assert recording.stream.both == (REQUEST, b"")
    assert recording.stream.closed == [], "it is still open"
    assert recording.connections._views == {}


def tables_of(connections):
    """Sizes of all that may grow."""
    return {
        name: len(value)
        for name, value in vars(connections).items()
        if isinstance(value, dict | list | set | deque) and name != "_handlers"
    }


def lives(number):
    """By kind, everything that one connection may give, from its beginning to its end."""
    me, session = 2 * number + 1, 1_000_000 + number
    whole = len(REQUEST)
    tls_end = ended(me, 900, 900, session=session, session_moved=(whole, 0), protocol=Protocol.TLS)
    tls_begin = distant(me, protocol=Protocol.TLS, local_port=number % 60_000)
    bound = SessionBound(session, me, MIDDLE, 1, 1)
    freed = SessionFreed(session, MIDDLE)
    return {
        "cleartext": [distant(me), moved(me, SENT, 0, REQUEST), ended(me, whole)],
        "hole": [distant(me), moved(me, SENT, 5, REQUEST), ended(me, whole + 5)],
        "local": [announced(me), moved(me, SENT, 0, REQUEST), ended(me, whole)],
        "tls": [tls_begin, plaintext(session, SENT, 0, REQUEST, me), freed, tls_end],
        "tls, freed late": [tls_begin, plaintext(session, SENT, 0, REQUEST, me), tls_end, freed],
        "tls without content": [tls_begin, bound, freed, tls_end],
        "tls of nobody's": [plaintext(session, SENT, 0, REQUEST), freed],
        "tls of an unwanted connection": [bound, freed],
        "handshake of an unwanted connection": [SessionEstablished(session, me, 9, 8, 1, 1), freed],
        "never decided": [
            distant(me, protocol=Protocol.UNDECIDED),
            moved(me, SENT, 0, b"G", protocol=Protocol.UNDECIDED),
            ended(me, 1),
        ],
    }


@pytest.mark.parametrize("kind", lives(0))
def test_what_has_ended_leaves_nothing(kind):
    recording = Recording()
    for number in range(50):
        recording.feed(*lives(number)[kind])
        recording.tick(number * SECOND_NS)
        recording.items.clear()
    recording.tick(100 * SECOND_NS)
    assert tables_of(recording.connections) == dict.fromkeys(tables_of(recording.connections), 0)


SET_BACK_NS = -3600 * SECOND_NS


def test_a_clock_that_is_set_back_keeps_nobody_waiting():
    """A server whose client is not recorded, a hole, and an answer to a write that does not return."""
    recording = (
        Recording()
        .tick(SECOND_NS)
        .feed(
            announced(1, Role.SERVER),
            moved(1, RECEIVED, 0, REQUEST),
            distant(3),
            moved(3, SENT, 5, REQUEST),
            distant(5, protocol=Protocol.TLS),
            plaintext(7, RECEIVED, 0, RESPONSE, 5, answers=True, time=START_NS + SECOND_NS),
        )
    )
    recording.tick(SECOND_NS).tick(SET_BACK_NS).tick(SET_BACK_NS + SECOND_NS)
    assert sorted(stream.opened.stream for stream in recording.streams) == [1, 3, 5]


def test_a_clock_that_is_set_back_lets_ends_be_forgotten():
    """What had ended just before stands before all that end later."""
    recording = Recording().tick(SECOND_NS).feed(*lives(0)["local"], *lives(1)["tls, freed late"][:-1])
    for number in range(2, 50):
        at = START_NS + SET_BACK_NS + number * SECOND_NS
        recording.tick(SET_BACK_NS + number * SECOND_NS)
        recording.feed(*(replace(event, time=at) for event in lives(number)["local"]))
    recording.tick(SET_BACK_NS + 100 * SECOND_NS)
    assert tables_of(recording.connections) == dict.fromkeys(tables_of(recording.connections), 0)
    assert tables_of(recording.connections._ends) == dict.fromkeys(
        ("_by_address", "_lingering", "_undecided"), 0
    )
