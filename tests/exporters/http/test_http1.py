"""HTTP/1 without losses, as transcripts; each is read whole, byte by byte and in uneven pieces."""

from __future__ import annotations

import gc
import time

import pytest
from http_streams import STEP_NS, Conversation, read, read_in_splits, split

from capture.streams import Data, Side, Tls
from exporters.http import ExchangeReader, Limits, Notes
from exporters.http.messages import Outcome
from exporters.http.urls import exchange_url

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def bodies(conversation: Conversation) -> list[tuple[bytes | None, bytes | None]]:
    """The bodies of requests and responses, in the order in which the exchanges ended."""
    return [
        (
            None if exchange.request is None else bytes(exchange.request.body.data),
            None if exchange.response is None else bytes(exchange.response.body.data),
        )
        for exchange in read_in_splits(conversation.items)
    ]


def test_a_request_and_its_response() -> None:
    talk = Conversation().client(GET).server(OK)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange.request is not None
    assert exchange.response is not None
    assert (exchange.request.method, exchange.request.target) == (b"GET", b"/")
    assert list(exchange.request.fields) == [(b"Host", b"example.com")]
    assert exchange.request.head_bytes == len(GET)
    assert (exchange.response.status, exchange.response.reason) == (200, b"OK")
    assert exchange.response.body.data == b"ok"
    assert exchange.response.body.wire_bytes == 2
    assert exchange.request.started_ns == talk.items[1].time_ns
    assert exchange.response.started_ns == exchange.ended_ns == talk.items[2].time_ns


@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r\n\r\n"])
def test_empty_lines_before_the_first_request_are_ignored(before: bytes) -> None:
    (exchange,) = read_in_splits(Conversation().client(before, GET).server(OK).items)
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange.request is not None
    assert exchange.request.head_bytes == len(GET)


def test_an_exchange_comes_out_when_its_last_byte_is_in() -> None:
    talk = Conversation().client(GET).server(OK)
    assert read(talk.items[:2])[0].outcome is Outcome.UNFINISHED
    reader = ExchangeReader()
    ended = [len(reader.feed(item)) for item in talk.items]
    assert ended == [0, 0, 1]
    assert reader.close() == []


@pytest.mark.parametrize(
    ("response", "body", "wire"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", 5),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", b"hello", 5),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", b"hello", 5),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", 15),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n005;a=b\r\nhello\r\n0\r\n\r\n", b"hello", 21),
        (b"HTTP/1.1 200 OK\ntransfer-encoding: Chunked\n\n2\nhe\n3\nllo\n0\n\n", b"hello", 14),
        # RFC 9112 §6.3: Transfer-Encoding overrides Content-Length.
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n0\r\n\r\n", b"hello", 15
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", 0),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", 0),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", 0),
        (b"HTTP/1.1 205 Reset Content\r\n\r\n", b"", 0),
        (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello", b"hello", 5),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello", 5),
        (b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", 5),
    ],
)  # fmt: skip
def test_response_framing(response: bytes, body: bytes, wire: int) -> None:
    talk = Conversation().client(GET).server(response).client(GET).server(OK)
    first, second = read_in_splits(talk.items)
    assert first.response is not None
    assert first.response.body.data == body
    assert first.response.body.wire_bytes == wire
    assert first.response.body.complete
    assert second.response is not None
    assert second.response.body.data == b"ok"


def test_head_has_no_body_whatever_its_length_says() -> None:
    head = b"HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    talk = Conversation().client(head).server(answer).client(GET).server(OK)
    assert bodies(talk) == [(b"", b""), (b"", b"ok")]


@pytest.mark.parametrize("reset", [True, False])
def test_a_head_that_was_only_begun_is_told_of(reset: bool) -> None:
    talk = Conversation().client(GET).server(OK[:21]).closes(Side.SERVER, reset=reset)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.response is None
    assert exchange.notes == ("the head of its response was begun: 21 bytes of it came",)


@pytest.mark.parametrize(
    ("method", "answer", "stray"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"body"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\n\r\n", b"gone\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"),
    ],
)
def test_a_body_where_there_is_to_be_none_answers_nothing(method: bytes, answer: bytes, stray: bytes) -> None:
    # As some servers send, and curl drops: it goes on with its next request on the same connection.
    asked = method + b" / HTTP/1.1\r\nHost: a\r\n\r\n"
    talk = Conversation().client(asked).server(answer, stray).client(GET).server(OK).client(GET).server(OK)
    assert bodies(talk) == [(b"", b""), (b"", b"ok"), (b"", b"ok")]
    assert all(exchange.outcome is Outcome.COMPLETE for exchange in read(talk.items))


EXPECTING = b"PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\n"
MOVED = b"HTTP/1.1 307 Moved\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("framing", [b"Content-Length: 30", b"Transfer-Encoding: chunked"])
def test_a_body_that_is_not_sent_for_the_answer_came_before_it(framing: bytes) -> None:
    # As curl does, which goes on with the next request on the same connection.
    asked = EXPECTING.replace(b"Content-Length: 30", framing)
    talk = Conversation().client(asked).server(MOVED).client(GET).server(OK)
    first, second = read_in_splits(talk.items)
    assert first.request is not None
    assert (first.request.body.data, first.request.body.complete, first.outcome) == (
        b"",
        True,
        Outcome.COMPLETE,
    )
    assert first.notes == ("its body was not sent: it was answered before",)
    assert first.ended_ns == talk.items[2].time_ns
    assert first.request.ended_ns == talk.items[1].time_ns
    assert second.request is not None
    assert (second.request.target, second.number) == (b"/", 1)


@pytest.mark.parametrize("closed", [True, False])
def test_a_body_that_is_never_sent_ends_with_its_answer(closed: bool) -> None:
    talk = Conversation().client(EXPECTING).server(MOVED)
    if closed:
        talk.waits(60 * 10**9).closes(Side.CLIENT)
    (exchange,) = read_in_splits(talk.items)
    assert (exchange.outcome, exchange.ended_ns) == (Outcome.COMPLETE, talk.items[2].time_ns)


@pytest.mark.parametrize(
    ("answers", "body"),
    [
        ([OK], b"a body that is sent all the same"[:30]),
        ([OK], b"GET is how this body begins.\r\n"),
        ([OK], b"GET / HTTP/1.1 is in this one."),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK], b"GET / HTTP/1.1\r\nHost: aaaaaaaa"),
    ],
)
def test_a_body_that_is_sent_after_the_answer(answers: list[bytes], body: bytes) -> None:
    talk = Conversation().client(EXPECTING).server(answers[0]).client(body)
    for answer in answers[1:]:
        talk.server(answer)
    assert bodies(talk.client(GET).server(OK)) == [(body, b"ok"), (b"", b"ok")]


def test_trailers_and_chunk_framing() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n"
    chunks = b"3\r\nabc\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"
    (exchange,) = read_in_splits(Conversation().client(GET).server(answer, chunks).items)
    assert exchange.response is not None
    assert exchange.response.body.data == b"abc"
    assert list(exchange.response.trailers) == [(b"X-A", b"1"), (b"X-B", b"2")]
    assert exchange.response.body.wire_bytes == len(chunks)


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 80\r\n", b""),
        (b"PROXY UNKNOWN\r\n", b""),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(range(1, 13)), b""),
        (b"\5\1\0\5\1\0\1\x7f\0\0\1\0\x50", b"\5\0\5\0\0\1\0\0\0\0\0\0"),
        (b"\4\1\0\x50\x7f\0\0\1me\0", b"\0\x5a\0\0\0\0\0\0"),
    ],
    ids=["PROXY", "PROXY unknown", "PROXY 2", "SOCKS 5", "SOCKS 4"],
)
@pytest.mark.parametrize("apart", [True, False])
def test_what_is_said_to_a_proxy_or_by_one_comes_before(said: bytes, answered: bytes, apart: bool) -> None:
    talk = Conversation()
    if apart or answered:
        talk.client(said)
        talk.server(answered)
        talk.client(GET)
    else:
        talk.client(said + GET)
    talk.server(OK).client(GET).server(OK)
    found = read_in_splits(talk.items)
    assert [exchange.outcome for exchange in found] == [Outcome.COMPLETE] * 2
    for exchange in found:
        assert exchange.request is not None
        assert exchange.response is not None
        assert exchange.request.target == b"/"
        assert exchange.response.body.data == b"ok"


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_body_that_ends_with_the_connection(answer: bytes) -> None:
    talk = Conversation().client(GET).server(answer, b"all").server(b" of it").closes(Side.SERVER)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange.response is not None
    assert exchange.response.body.data == b"all of it"
    assert exchange.response.body.complete


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ([], Outcome.UNFINISHED),
        ([(Side.SERVER, True)], Outcome.RESET),
        # A client that gives up: its kernel forgets a closed socket, and what the server does then is not seen.
        ([(Side.CLIENT, False)], Outcome.CLOSED),
    ],
)
def test_a_body_whose_end_was_not_seen_says_so(ending: list[tuple[Side, bool]], outcome: Outcome) -> None:
    talk = Conversation().client(GET).server(b"HTTP/1.1 200 OK\r\n\r\nall")
    for sender, reset in ending:
        talk.closes(sender, reset)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.outcome is outcome
    assert exchange.response is not None
    assert exchange.response.body.data == b"all"
    assert not exchange.response.body.complete


def test_http_1_0_keep_alive() -> None:
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    talk = Conversation().client(request).server(answer).client(request).server(answer)
    assert bodies(talk) == [(b"", b"ok")] * 2


@pytest.mark.parametrize("after", [b"", b"\r"])
@pytest.mark.parametrize(
    "ends", [(), ((Side.CLIENT, False),), ((Side.SERVER, False),), ((Side.CLIENT, True),)]
)
def test_the_last_chunk_ends_a_body(after: bytes, ends: tuple[tuple[Side, bool], ...]) -> None:
    """Racket's client reads no further: the empty line after it stays in the TLS library."""
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
    talk = Conversation().client(GET).server(chunks + after)
    answered_ns = talk.items[-1].time_ns
    talk.waits(60 * 10**9)
    for side, reset in ends:
        talk.closes(side, reset=reset)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.response is not None
    assert (exchange.outcome, exchange.response.body.complete) == (Outcome.COMPLETE, True)
    assert (exchange.response.body.data, exchange.ended_ns) == (b"ok", answered_ns)


def test_trailers_that_are_cut_are_the_message_s_and_not_the_body_s() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 4"
    (exchange,) = read_in_splits(Conversation().client(GET).server(chunks).closes(Side.SERVER).items)
    assert exchange.response is not None
    assert (exchange.outcome, exchange.response.body.complete) == (Outcome.CLOSED, True)


def test_pipelined_requests_get_their_responses_in_order() -> None:
    requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(5)]
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(5)]
    found = read_in_splits(Conversation().client(*requests).server(*answers).items)
    assert [
        (each.request.target, each.response.body.data) for each in found if each.request and each.response
    ] == [(b"/%d" % number, b"%d" % number) for number in range(5)]


def test_interim_responses_are_kept_beside_the_final_one() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    talk = Conversation().client(post).server(b"HTTP/1.1 100 Continue\r\n\r\n").client(b"data")
    talk.server(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK)
    (exchange,) = read_in_splits(talk.items)
    assert [response.status for response in exchange.interim] == [100, 103]
    assert list(exchange.interim[1].fields) == [(b"Link", b"</a>")]
    assert exchange.request is not None
    assert exchange.request.body.data == b"data"
    assert exchange.response is not None
    assert exchange.response.status == 200


def test_a_response_that_comes_while_the_request_is_being_sent() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc"
    talk = Conversation().client(post).server(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    talk.client(b"def").client(GET).server(OK)
    assert bodies(talk) == [(b"abcdef", b""), (b"", b"ok")]


def test_upload_in_chunks() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    talk = (
        Conversation().client(post).client(b"2\r\nab\r\n").client(b"1\r\nc\r\n0\r\nT: x\r\n\r\n").server(OK)
    )
    (exchange,) = read_in_splits(talk.items)
    assert exchange.request is not None
    assert exchange.request.body.data == b"abc"
    assert list(exchange.request.trailers) == [(b"T", b"x")]


def test_obsolete_folding_and_odd_lines_are_read_as_servers_read_them() -> None:
    request = (
        b"GET  /a b  HTTP/1.1\nHost : example.com\nX: a\r\n  b\r\n\tc\nno colon\nEmpty:\nSpaced: \t v \t\n\n"
    )
    (exchange,) = read_in_splits(Conversation().client(request).server(OK).items)
    assert exchange.request is not None
    assert exchange.request.target == b"/a b"
    assert list(exchange.request.fields) == [
        (b"Host", b"example.com"),
        (b"X", b"a b c"),
        (b"no colon", b""),
        (b"Empty", b""),
        (b"Spaced", b"v"),
    ]


def test_a_response_that_overtakes_its_request_waits_for_it() -> None:
    second = b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
    in_order = (
        Conversation()
        .client(GET)
        .server(OK)
        .client(second)
        .server(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    )
    opened, first_request, first_answer, second_request, second_answer = in_order.items
    swapped = [opened, first_answer, second_answer, first_request, second_request]
    pairs = [(exchange.request, exchange.response) for exchange in read_in_splits(swapped)]
    assert pairs == [(exchange.request, exchange.response) for exchange in read(in_order.items)]


def test_a_response_without_a_request_is_kept_when_the_connection_ends() -> None:
    timeout = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    talk = Conversation().client(GET).server(OK).server(timeout).closes(Side.SERVER).closes(Side.CLIENT)
    answered, unasked = read_in_splits(talk.items)
    assert answered.request is not None
    assert unasked.request is None
    assert unasked.response is not None
    assert unasked.response.status == 408
    assert exchange_url(unasked) == "http://127.0.0.1/(not-recorded)"


def test_a_request_without_a_response() -> None:
    talk = Conversation().client(GET).closes(Side.SERVER)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.response is None
    assert exchange.outcome is Outcome.CLOSED


# Tunnels and upgrades.

CONNECT = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nContent-Length: 99\r\n\r\n"


def test_what_is_inside_a_tunnel_is_read() -> None:
    talk = Conversation().client(CONNECT).server(ESTABLISHED)
    talk.starts_tls(Tls(server_name="example.com", started_ns=1, established_ns=2)).client(GET).server(OK)
    outer, inner = read_in_splits(talk.items)
    assert outer.request is not None
    assert outer.request.method == b"CONNECT"
    assert exchange_url(outer) == "https://example.com:443"
    assert exchange_url(inner) == "https://example.com/"
    assert inner.connection.authority == b"example.com:443"
    assert inner.response is not None
    assert inner.response.body.data == b"ok"


def test_cleartext_inside_a_tunnel_that_the_client_did_not_wait_for() -> None:
    talk = Conversation().client(CONNECT, GET).server(ESTABLISHED, OK)
    _, inner = read_in_splits(talk.items)
    assert inner.response is not None
    assert inner.response.body.data == b"ok"
    assert exchange_url(inner) == "http://example.com/"


def test_a_refused_tunnel_stays_a_connection() -> None:
    refused = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno"
    talk = Conversation().client(CONNECT, GET).server(refused, OK)
    assert bodies(talk) == [(b"", b"no"), (b"", b"ok")]


def test_encrypted_bytes_inside_a_tunnel_are_no_exchange() -> None:
    notes = Notes()
    talk = Conversation().client(CONNECT).server(ESTABLISHED).client(b"\x16\x03\x01\x02\x00\x01\x00")
    assert len(read(talk.items, notes=notes)) == 1
    assert notes.streams_encrypted == 1


def test_an_upgrade_that_is_refused() -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    talk = Conversation().client(upgrade).server(OK).client(GET).server(OK)
    assert bodies(talk) == [(b"", b"ok")] * 2


def test_an_upgrade_to_what_is_no_http_ends_the_exchange() -> None:
    upgrade = b"GET /attach HTTP/1.1\r\nHost: a\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
    talk = (
        Conversation()
        .client(upgrade)
        .server(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nraw")
        .client(b"bytes")
    )
    (exchange,) = read_in_splits(talk.items)
    assert exchange.response is not None
    assert exchange.response.status == 101
    assert exchange.outcome is Outcome.COMPLETE


# Input that is no HTTP, or broken.


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (b"EHLO example.com\r\n", b"220 mail ESMTP\r\n"),
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
        (b"\x00\x00\x00\x08\x04\xd2\x16/", b"N"),
        (b"SSH-2.0-OpenSSH_9\r\n", b"SSH-2.0-OpenSSH_9\r\n"),
        (b"GET key\r\n", b"END\r\n"),
    ],
)
def test_other_protocols_are_left_alone(client: bytes, server: bytes) -> None:
    notes = Notes()
    talk = Conversation().client(client).server(server).client(client * 1000)
    assert read(talk.items, notes=notes) == []
    assert notes.streams_not_http == 1
    assert read_in_splits(Conversation().server(server).client(client).items) == []


def test_a_malformed_message_costs_its_connection_at_most() -> None:
    notes = Notes()
    broken = Conversation(stream=1).client(GET).server(b"\x00\x01garbage\r\n\r\n").client(GET).server(OK)
    sound = Conversation(stream=2).client(GET).server(OK)
    found = read([*broken.items, *sound.items], notes=notes)
    assert notes.malformed == 1
    assert [each.outcome for each in found] == [Outcome.MALFORMED, Outcome.COMPLETE, Outcome.COMPLETE]
    assert found[0].response is None


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nhello\r\n", b"3\r\nabcX\r\n", b"-1\r\n", b"f" * 20_000, b"1" * 16 + b"\r\n"]
)
def test_malformed_chunks_end_the_body_where_they_are(chunks: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n"
    talk = Conversation().client(GET).server(head, chunks).client(GET).server(OK)
    broken, sound = read_in_splits(talk.items)
    assert broken.outcome is Outcome.MALFORMED
    assert broken.response is not None
    assert bytes(broken.response.body.data).startswith(b"he")
    assert not broken.response.body.complete
    assert sound.response is not None
    assert sound.response.body.data == b"ok"


def test_contradictory_lengths_end_with_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"
    (exchange,) = read_in_splits(Conversation().client(GET).server(answer).closes(Side.SERVER).items)
    assert exchange.response is not None
    assert exchange.response.body.data == b"abc"


def test_late_items_of_a_closed_stream_are_skipped() -> None:
    notes = Notes()
    talk = Conversation().client(GET).server(OK).closes(Side.CLIENT).closes(Side.SERVER).server(OK)
    assert len(read(talk.items, notes=notes)) == 1
    assert notes.skipped_bytes == len(OK)


# Cost.


def test_a_body_in_a_million_pieces_is_read_in_linear_time() -> None:
    size = 1 << 20
    talk = Conversation().client(GET).server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    piece = Data(1, talk.now_ns, Side.SERVER, b"x")
    started = time.process_time()
    (exchange,) = read([*talk.items, *[piece] * size])
    assert time.process_time() - started < 20
    assert exchange.response is not None
    assert len(exchange.response.body.data) == size


def test_a_head_byte_by_byte_is_read_in_linear_time() -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 50) for number in range(4000))
    talk = Conversation().client(b"GET / HTTP/1.1\r\n", fields, b"\r\n").server(OK)
    started = time.process_time()
    (exchange,) = read(split(talk.items, 1))
    assert time.process_time() - started < 20
    assert exchange.request is not None
    assert len(exchange.request.fields) == 4000


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.1\r\n" * 40_000,
        b"GET " * 100_000,
        b"HTTP/1.1 200 OK\r\nA: HTTP/1.1 200 OK\r\n" * 20_000,
        b"GET / HTTP/1.1\r\nA:" + b" " * 250_000 + b"x\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: x\r\n" + b" y\r\n" * 60_000 + b"\r\n",
        b"GET " + b" " * 250_000 + b"x\r\n\r\n",
    ],
)
def test_no_input_is_read_in_quadratic_time(hostile: bytes) -> None:
    for side in Side:
        talk = Conversation(handshake_seen=False).client(GET)
        talk.items.append(Data(1, talk.now_ns, side, hostile))
        started = time.process_time()
        read(split(talk.items, 5000))
        assert time.process_time() - started < 5


def test_bodies_over_the_limit_are_counted_and_not_kept() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789"
    limits = Limits(body_bytes=4)
    (exchange,) = read_in_splits(Conversation().client(GET).server(answer).items, limits)
    assert exchange.response is not None
    assert exchange.response.body.data == b"0123"
    assert exchange.response.body.wire_bytes == 10
    assert [(lost.offset, lost.length, lost.reason) for lost in exchange.response.body.lost] == [
        (4, 6, "body-limit")
    ]


def test_requests_that_are_never_answered_are_not_collected_for_ever() -> None:
    limits = Limits(outstanding=10)
    reader = ExchangeReader(limits)
    talk = Conversation()
    for _ in range(100):
        talk.client(GET)
    ended = sum(len(reader.feed(item)) for item in talk.items)
    assert ended >= 85
    assert ended + len(reader.close()) == 100


def test_an_exchange_ends_where_its_process_has_closed_the_socket() -> None:
    from exporters.http import ExchangeReader

    reader = ExchangeReader()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    talk = Conversation().client(GET).server(head, b"abc").closes(Side.CLIENT, final=True)
    (found,) = [exchange for item in talk.items for exchange in reader.feed(item)]
    assert found.outcome is Outcome.CLOSED
    assert found.ended_ns == talk.items[-1].time_ns
    assert found.response is not None
    assert (bytes(found.response.body.data), found.response.body.complete) == (b"abc", False)
    assert reader.close() == []


def test_half_closed_streams_are_not_collected_for_ever() -> None:
    reader = ExchangeReader(Limits(half_closed=8))
    for stream in range(100):
        for item in Conversation(stream=stream).client(GET).closes(Side.CLIENT).items:
            reader.feed(item)
    assert len(reader.close()) == 8
    gc.collect()


def test_times_of_an_upload_and_a_download() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    talk = Conversation().client(post).client(b"ab").client(b"cd")
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").server(b"ef").server(b"gh")
    (exchange,) = read(talk.items)
    assert exchange.request is not None
    assert exchange.response is not None
    assert exchange.request.ended_ns - exchange.request.started_ns == 2 * STEP_NS
    assert exchange.response.started_ns - exchange.request.ended_ns == STEP_NS
    assert exchange.response.ended_ns - exchange.response.started_ns == 2 * STEP_NS


def test_a_coding_of_none_does_not_frame_a_body() -> None:
    identity = b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: a\r\n" + identity + b"up"
    talk = Conversation().client(post).server(b"HTTP/1.1 200 OK\r\n" + identity + b"ab")
    talk.client(GET).server(OK)
    assert bodies(talk) == [(b"up", b"ab"), (b"", b"ok")]


def test_what_was_asked_before_the_protocol_changed_is_told() -> None:
    switched = b"HTTP/1.1 101 S\r\nUpgrade: other\r\n\r\n"
    later = b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"
    talk = Conversation().client(GET, later).server(switched).closes(Side.SERVER).closes(Side.CLIENT)
    found = read_in_splits(talk.items)
    assert sorted((each.request.target, each.outcome) for each in found if each.request) == [
        (b"/", Outcome.COMPLETE),
        (b"/later", Outcome.CLOSED),
    ]
    assert [each.notes for each in found if each.response is None] == [
        ("not answered: the connection went on in another protocol",)
    ]


def test_an_upgrade_to_http2_that_was_not_asked_for() -> None:
    talk = Conversation(handshake_seen=False).server(b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\n\r\n")
    notes = Notes()
    (exchange,) = read(talk.closes(Side.SERVER).closes(Side.CLIENT).items, notes=notes)
    assert exchange.request is None
    assert exchange.response is not None
    assert exchange.response.status == 101
    assert notes.exchanges == 1


def test_a_server_that_begins_like_http2_is_not_held_for_ever() -> None:
    talk = Conversation().server(b"\0\0\0\4\0\0\0\0\0", b"x" * 1000)
    reader = ExchangeReader()
    for item in talk.items:
        reader.feed(item)
    assert reader.notes.streams_not_http == 0
    for _ in range(70):
        reader.feed(Data(1, talk.now_ns, Side.SERVER, bytes(1000)))
    assert reader.notes.streams_not_http == 1


def test_a_message_that_tells_what_a_connection_is_keeps_its_times() -> None:
    talk = Conversation(handshake_seen=False).client(b"GET /a HTTP/1.1\r")
    talk.waits(5_000_000_000).client(b"\nHost: a\r\n\r\n").server(OK)
    (exchange,) = read_in_splits(talk.items)
    assert exchange.request is not None
    assert exchange.request.started_ns == talk.items[1].time_ns
    assert exchange.request.ended_ns == talk.items[2].time_ns


def test_times_of_a_connection_that_is_long_undecided() -> None:
    talk = Conversation(handshake_seen=False)
    for _ in range(300):
        talk.client(bytes(1000))
    talk.client(b"\nGET /a HTTP/1.1\r\n").client(b"Host: a\r\n\r\n").server(OK)
    (exchange,) = read(talk.items)
    assert exchange.request is not None
    assert (exchange.request.started_ns, exchange.request.ended_ns) == (
        talk.items[-3].time_ns,
        talk.items[-2].time_ns,
    )
