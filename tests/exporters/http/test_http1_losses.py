"""HTTP/1 connections of which bytes are missing: what is lost is told, and nothing is invented."""

from __future__ import annotations

from typing import Any

import pytest
from http_streams import Conversation, read, read_in_splits

from capture.streams import Side, Tls
from exporters.http import Notes
from exporters.http.messages import Outcome

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def get(number: int) -> bytes:
    """A request that its target numbers."""
    return b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number


def answer(number: int) -> bytes:
    """A response that its body numbers."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number


def test_a_gap_of_one_side_takes_nothing_from_the_other() -> None:
    """While the first bytes have decided nothing yet."""
    talk = Conversation().client(b"GE").gap(Side.SERVER, 5).client(GET[2:]).server(OK)
    notes = Notes()
    (exchange,) = read(talk.items, notes=notes)
    assert exchange.request is not None
    assert exchange.request.target == b"/"
    assert exchange.response is not None
    assert notes.skipped_bytes == 0


def test_what_decides_no_protocol_is_counted() -> None:
    talk = Conversation(handshake_seen=False).client(b"\0" * 5000).server(b"\0" * 9)
    notes = Notes()
    assert read(talk.items, notes=notes) == []
    assert notes.skipped_bytes == 5009


def pairs(talk: Conversation) -> list[tuple[bytes | None, bytes | None]]:
    """Targets and response bodies; what is on the same line belongs together."""
    return [
        (each.request and each.request.target, each.response and bytes(each.response.body.data))
        for each in read_in_splits(talk.items)
    ]


def test_a_loss_inside_a_body_of_known_length_costs_those_bytes() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    talk = Conversation().client(GET).server(head, b"012").gap(Side.SERVER, 4).server(b"789")
    talk.client(GET).server(OK)
    first, second = read_in_splits(talk.items)
    assert first.outcome is Outcome.COMPLETE
    assert first.response is not None
    body = first.response.body
    assert body.data == b"012789"
    assert [(lost.offset, lost.length, lost.reason) for lost in body.lost] == [(3, 4, "ring-full")]
    assert body.complete
    assert body.wire_bytes == 10
    assert first.lost_bytes == 4
    assert second.response is not None
    assert second.response.body.data == b"ok"


def test_a_loss_up_to_the_exact_end_of_a_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    talk = Conversation().client(GET).server(head, b"012").gap(Side.SERVER, 7).client(GET).server(OK)
    assert [body for _, body in pairs(talk)] == [b"012", b"ok"]


def test_a_loss_in_an_upload() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
    talk = Conversation().client(post).gap(Side.CLIENT, 9).client(b"9").server(OK)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.request is not None
    assert exchange.request.body.data == b"9"
    assert exchange.request.body.lost_bytes == 9
    assert exchange.outcome is Outcome.COMPLETE


def test_a_loss_inside_a_chunk_is_exact() -> None:
    talk = (
        Conversation().client(GET).server(CHUNKED, b"5\r\nhe").gap(Side.SERVER, 2).server(b"o\r\n0\r\n\r\n")
    )
    (exchange,) = read_in_splits(talk.items)
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange.response is not None
    assert exchange.response.body.data == b"heo"
    assert exchange.response.body.lost_bytes == 2


def test_a_loss_over_chunk_framing_ends_the_body_and_the_next_exchange_is_whole() -> None:
    notes = Notes()
    talk = Conversation().client(get(1)).server(CHUNKED, b"5\r\nhe").gap(Side.SERVER, 40)
    talk.server(b"more of it\r\n0\r\n\r\n").client(get(2)).server(answer(2))
    first, second = read_in_splits(talk.items)
    assert first.outcome is Outcome.LOST
    assert first.lost_bytes == 40
    assert first.response is not None
    assert first.response.body.data == b"he"
    assert not first.response.body.complete
    assert second.request is not None
    assert second.request.target == b"/2"
    assert second.outcome is Outcome.COMPLETE
    read(talk.items, notes=notes)
    assert notes.skipped_bytes == len(b"more of it\r\n0\r\n\r\n")
    assert notes.resynchronised == 1


def test_a_loss_in_a_body_that_ends_with_the_connection() -> None:
    talk = Conversation().client(GET).server(b"HTTP/1.1 200 OK\r\n\r\nab").gap(Side.SERVER, 5).server(b"cd")
    talk.closes(Side.SERVER)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange.response is not None
    assert exchange.response.body.data == b"abcd"
    assert [(lost.offset, lost.length) for lost in exchange.response.body.lost] == [(2, 5)]


def test_a_lost_response_head_costs_that_response() -> None:
    talk = Conversation().client(get(1)).gap(Side.SERVER, 100).server(b"rest of a body").client(get(2))
    talk.server(answer(2))
    first, second = read_in_splits(talk.items)
    assert (first.outcome, first.response, first.lost_bytes) == (Outcome.LOST, None, 100)
    assert second.outcome is Outcome.COMPLETE
    assert second.response is not None
    assert second.response.body.data == b"2"


def test_a_head_that_begins_before_a_loss_is_not_completed_from_what_follows() -> None:
    talk = Conversation().client(get(1)).server(b"HTTP/1.1 200 OK\r\nContent-").gap(Side.SERVER, 20)
    talk.server(b"Length: 7\r\n\r\n1").client(get(2)).server(answer(2))
    assert pairs(talk) == [(b"/1", None), (b"/2", b"2")]


def test_a_body_that_quotes_a_response_is_not_taken_for_one() -> None:
    quote = b"--batch\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    talk = Conversation().client(get(1)).gap(Side.SERVER, 100).server(quote).client(get(2)).server(answer(2))
    assert pairs(talk) == [(b"/1", None), (b"/2", b"2")]


def test_lost_requests_leave_responses_without_a_request() -> None:
    talk = Conversation().client(get(1)).server(answer(1)).gap(Side.CLIENT, 200).server(answer(2), answer(3))
    talk.client(get(4)).server(answer(4))
    assert pairs(talk) == [(b"/1", b"1"), (None, b"2"), (None, b"3"), (b"/4", b"4")]


def test_pipelined_requests_are_not_paired_after_a_loss() -> None:
    talk = Conversation().client(get(1), get(2), get(3)).server(answer(1)).gap(Side.SERVER, 50)
    talk.server(answer(3)).client(get(4)).server(answer(4))
    assert pairs(talk) == [(b"/1", b"1"), (b"/2", None), (b"/3", None), (b"/4", None)]


@pytest.mark.parametrize("rest", [b"", b"the rest of a body\n", b"\x00" * 100_000])
def test_a_connection_that_is_older_than_the_recording(rest: bytes) -> None:
    talk = Conversation(handshake_seen=False).client(rest or GET).server(rest or OK)
    talk.client(get(1)).server(answer(1)).client(get(2)).server(answer(2))
    assert pairs(talk)[-2:] == [(b"/1", b"1"), (b"/2", b"2")]
    assert len(pairs(talk)) == (2 if rest else 3)


@pytest.mark.parametrize("begun", [{"handshake_seen": False}, {"tls": Tls(alpn="http/1.1", joined=True)}])
def test_a_recording_that_begins_between_request_and_response(begun: dict[str, Any]) -> None:
    talk = Conversation(**begun).server(answer(1)).client(get(2)).server(answer(2))
    assert pairs(talk) == [(None, b"1"), (b"/2", b"2")]


def test_a_session_whose_probes_may_have_come_late_loses_nothing_by_that() -> None:
    talk = Conversation(tls=Tls(joined=True)).client(get(1), get(2)).server(answer(1), answer(2))
    assert pairs(talk) == [(b"/1", b"1"), (b"/2", b"2")]


def test_a_recording_that_begins_inside_a_response_joins_at_the_next_one() -> None:
    talk = Conversation(handshake_seen=False).server(b"of a body}").server(b"more").client(get(2))
    talk.server(b"end of it\r\n", answer(2)).client(get(3)).server(answer(3))
    assert pairs(talk) == [(b"/2", b"2"), (b"/3", b"3")]


def test_a_connection_that_begins_with_a_loss() -> None:
    talk = Conversation().gap(Side.CLIENT, 30).server(answer(1)).client(get(2)).server(answer(2))
    assert pairs(talk) == [(None, b"1"), (b"/2", b"2")]


def test_an_upload_in_progress_is_not_searched_for_requests_of_http_1_1_without_a_host() -> None:
    batch = b"--b\r\n\r\nGET /inner HTTP/1.1\r\n\r\n--b--\r\n"
    talk = Conversation(handshake_seen=False).client(batch).client(get(2)).server(answer(2))
    assert pairs(talk) == [(b"/2", b"2")]


def test_a_loss_in_trailers() -> None:
    talk = Conversation().client(get(1)).server(CHUNKED, b"2\r\nab\r\n0\r\nX-A: ").gap(Side.SERVER, 9)
    talk.client(get(2)).server(answer(2))
    first, second = read_in_splits(talk.items)
    assert first.outcome is Outcome.LOST
    assert first.response is not None
    assert first.response.body.data == b"ab"
    assert second.outcome is Outcome.COMPLETE


def test_a_loss_inside_a_tunnel_goes_to_what_is_inside() -> None:
    connect = b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    talk = Conversation().client(connect).server(b"HTTP/1.1 200 OK\r\n\r\n").client(get(1)).server(head)
    talk.gap(Side.SERVER, 10)
    notes = Notes()
    read(talk.items, notes=notes)
    assert notes.lost_bytes == 10
    _, inner = read_in_splits(talk.items)
    assert inner.lost_bytes == 10
    assert inner.outcome is Outcome.COMPLETE


def test_a_response_to_an_unknown_request_may_be_one_to_head() -> None:
    to_head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    talk = Conversation(handshake_seen=False).server(to_head).server(to_head).server(answer(1))
    talk.server(to_head).client(get(2)).server(answer(2))
    assert pairs(talk) == [(None, b""), (None, b""), (None, b"1"), (None, b""), (b"/2", b"2")]


def test_every_lost_byte_is_counted_once() -> None:
    notes = Notes()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    talk = Conversation().client(get(1)).server(head).gap(Side.SERVER, 25).client(get(2)).gap(Side.CLIENT, 7)
    talk.gap(Side.SERVER, 5)
    found = read(talk.items, notes=notes)
    assert notes.lost_bytes == 37
    assert found[0].lost_bytes == 10
