"""What Wireshark makes of our captures: everything dissected, nothing to complain about."""

from __future__ import annotations

import json
import re
import subprocess
import tracemalloc
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from judges import expert_problems, requests, rows, tshark
from transcripts import (
    HTTP2_START,
    METADATA,
    NGINX,
    PREFACE,
    REQUEST,
    START_NS,
    Transcript,
    capture,
    frame,
    http2_request,
    http2_response,
    interleave,
    merged,
    read,
    response,
    timeless,
    tls,
    write,
)

from capture.streams import Data, Endpoint, Lookup, Side, StreamOpened, Tls
from exporters import packets, time_order
from exporters.http import exchanges
from exporters.http.urls import exchange_url
from exporters.packets import Framing, PcapngExporter

if TYPE_CHECKING:
    from pathlib import Path

CLIENT, SERVER = Side.CLIENT, Side.SERVER
ODD_PORTS = (443, 8443, 45123, 9443, 3000, 8000, 4433)
WEBSOCKET_REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
WEBSOCKET_RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n0\r\n\r\n"
)


def numbered(ports: tuple[int, ...], **opened: object) -> list[Transcript]:
    """A stream to every port."""
    return [Transcript(number, port, **opened) for number, port in enumerate(ports, 1)]


@pytest.mark.parametrize("alpn", ["http/1.1", None])
def test_https_is_dissected_on_any_port(tmp_path: Path, alpn: str | None) -> None:
    streams = numbered(ODD_PORTS, tls=tls(alpn))
    path = write(tmp_path / "a.pcapng", interleave(stream.exchange(2).close() for stream in streams))
    assert expert_problems(path) == []
    assert len(rows(path, "http.response", "frame.number")) == 2 * len(ODD_PORTS)
    uris = requests(path)
    assert len(uris) == 2 * len(ODD_PORTS)
    assert all(uri.startswith("https://example.com") for uri in uris)
    names = rows(path, "tls.handshake.type == 1", "tls.handshake.extensions_server_name")
    assert set(names) == {("example.com",)}


@pytest.mark.parametrize("alpn", ["h2", None])
def test_http2_over_tls_is_dissected(tmp_path: Path, alpn: str | None) -> None:
    streams = numbered((443, 45123), tls=tls(alpn))
    for stream in streams:
        stream.client(HTTP2_START, frame(4, 1, 0)).server(frame(4, 0, 0), frame(4, 1, 0))
        for number in (1, 3):
            stream.client(http2_request(number)).server(http2_response(number, b"hello"))
        stream.close()
    path = write(tmp_path / "h2.pcapng", interleave(streams))
    assert expert_problems(path) == []
    assert len(rows(path, "http2.headers.method == GET", "frame.number")) == 4
    assert len(rows(path, "http2.headers.status == 200", "frame.number")) == 4


@pytest.mark.parametrize(
    ("port", "session", "hints"),
    [(8080, None, 0), (50051, None, 1), (8080, tls("h2"), 0), (5000, tls("h2"), 1)],
)
def test_http2_without_records_says_how_it_is_dissected(
    tmp_path: Path, port: int, session: Tls | None, hints: int
) -> None:
    stream = Transcript(port=port, tls=session).client(HTTP2_START, frame(4, 1, 0)).server(frame(4, 0, 0))
    stream.client(http2_request(1)).server(http2_response(1, b"hello")).close()
    path = write(tmp_path / "h2c.pcapng", stream.items)
    comments = "|".join(row[0] for row in rows(path, "frame.comment", "frame.comment"))
    said = re.findall(r" (-d) (tcp.port==\d+,http2)", comments)
    assert len(said) == hints
    fields = ("-Y", "http2", "-T", "fields", "-e", "http2.headers.status")
    assert "200" in tshark(path, *(part for option in said for part in option), *fields)


def test_http2_that_is_joined_in_the_middle_is_dissected_by_its_alpn(tmp_path: Path) -> None:
    session = tls("h2", started_ns=None, established_ns=None)
    stream = Transcript(handshake_seen=False, tls=session)
    path = write(
        tmp_path / "mid.pcapng", stream.client(http2_request(9)).server(http2_response(9, b"x")).close().items
    )
    assert expert_problems(path) == []
    assert len(rows(path, "http2.headers.method == GET", "frame.number")) == 1


@pytest.mark.parametrize(
    ("port", "begun", "hints"), [(50051, b"", 1), (50051, frame(8, 0, 0, bytes(4)), 1), (8080, b"", 0)]
)
def test_http2_in_the_clear_that_is_joined_in_the_middle_says_how_it_is_dissected(
    tmp_path: Path, port: int, begun: bytes, hints: int
) -> None:
    stream = Transcript(port=port, handshake_seen=False).server(b"x" * 100)
    if begun:
        stream.client(begun)
    stream.client(http2_request(9)).server(http2_response(9, b"x")).client(http2_request(11))
    path = write(tmp_path / "mid.pcapng", stream.close().items)
    said = re.findall(r"-d (tcp.port==\d+,http2)", tshark(path, "-T", "fields", "-e", "frame.comment"))
    assert said == [f"tcp.port=={port},http2"] * hints


@pytest.mark.parametrize("data", [b"+OK ready\r\n", b"\x00\x00\x0c\x09" + bytes(12)])
def test_another_protocol_that_is_joined_in_the_middle_is_not_said_to_be_http2(
    tmp_path: Path, data: bytes
) -> None:
    stream = Transcript(port=50051, handshake_seen=False).client(data).server(data)
    path = write(tmp_path / "other.pcapng", stream.close().items)
    assert "http2" not in tshark(path, "-T", "fields", "-e", "frame.comment")


@pytest.mark.parametrize(("split", "session"), [(1, None), (23, tls("h2")), (9, tls(None))])
def test_a_split_preface_is_written_in_one_segment(tmp_path: Path, split: int, session: Tls | None) -> None:
    stream = Transcript(port=8080 if session is None else 443, tls=session)
    stream.client(HTTP2_START[:split], HTTP2_START[split:]).server(frame(4, 0, 0)).client(http2_request(1))
    path = write(tmp_path / "a.pcapng", stream.close().items)
    assert len(rows(path, "http2.magic", "frame.number")) == 1
    assert len(rows(path, "http2.headers.method == GET", "frame.number")) == 1


@pytest.mark.parametrize("move", ["server", "lose", "close", "finish", "other bytes"])
def test_a_preface_that_is_never_finished_is_written_all_the_same(move: str) -> None:
    stream = Transcript(tls=tls(None)).client(PREFACE[:7])
    if move == "server":
        stream.server(b"bye")
    elif move == "lose":
        stream.lose(CLIENT, 3)
    elif move == "close":
        stream.close()
    elif move == "other bytes":
        stream.client(b"- not HTTP/2")
    assert timeless(read(capture(stream.items))) == timeless(stream.items)


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("session", [None, tls("http/1.1")])
def test_a_message_that_is_read_byte_by_byte_is_dissected(
    tmp_path: Path, session: Tls | None, *, between: bool
) -> None:
    port = 443 if session else 8080
    stream = Transcript(port=port, tls=session).client(REQUEST)
    stream.server(*(CHUNKED[at : at + 1] for at in range(len(CHUNKED))))
    others = (
        Transcript(2, port, tls=session).client(*(bytes((byte,)) for byte in REQUEST * 5))
        if between
        else None
    )
    items = interleave([stream.close(), others.close()]) if others else stream.close().items
    path = write(tmp_path / "a.pcapng", items)
    assert expert_problems(path) == []
    assert len(rows(path, "http.response.code == 200", "frame.number")) == 1
    assert len(rows(path, "tcp.len > 0 && tcp.stream == 0", "frame.number")) < 12
    for number in (1, 2):
        found = [item for item in read(path.read_bytes()) if item.stream == number]
        assert timeless(found) == timeless(item for item in items if item.stream == number)


@pytest.mark.parametrize("session", [None, tls("http/1.1"), tls("h2")])
@pytest.mark.parametrize("framing", Framing)
def test_a_final_end_is_told_as_such(session: Tls | None, framing: Framing) -> None:
    stream = Transcript(tls=session).client(REQUEST).close(CLIENT, final=True)
    again = Transcript(tls=session).client(REQUEST).close(CLIENT)
    for items in (stream.items, again.items):
        assert timeless(read(capture(items, framing))) == timeless(items)


@pytest.mark.parametrize("framing", Framing)
def test_a_session_inside_another_is_a_connection_with_a_port_of_its_own(
    tmp_path: Path, framing: Framing
) -> None:
    outer = Transcript(1, tls=tls("h2"), port=8443)
    outer.client(HTTP2_START, frame(4, 1, 0)).server(frame(4, 0, 0), frame(4, 1, 0)).client(http2_request(1))
    inner = Transcript(2, tls=tls("http/1.1"), port=8443).exchange(2)
    opened = inner.items[0]
    assert isinstance(opened, StreamOpened)
    inner.items[0] = replace(opened, inside_tls=True)
    items = interleave([outer, inner.close()])
    read_back = timeless(read(capture(items, framing)))
    assert [item for item in read_back if item.stream == 2] == timeless(inner.items)
    path = write(tmp_path / "a.pcapng", items)
    assert expert_problems(path) == []
    assert (
        len({port for (port,) in rows(path, "http.request", "tcp.srcport")} - {str(opened.client.port)}) == 1
    )


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_tls_in_tls_is_shown_as_the_plaintext_around_it(tmp_path: Path, framing: Framing, alpn: str) -> None:
    stream = Transcript(tls=tls("http/1.1"), port=8443)
    stream.client(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").server(b"HTTP/1.1 200 OK\r\n\r\n")
    stream.start_tls(tls(alpn))
    if alpn == "h2":
        stream.client(HTTP2_START, frame(4, 1, 0)).server(frame(4, 0, 0), frame(4, 1, 0))
        stream.client(http2_request(1)).server(http2_response(1, b"hello"))
    else:
        stream.exchange(2)
    items = stream.close().items
    assert timeless(read(capture(items, framing))) == timeless(items)
    assert expert_problems(write(tmp_path / "a.pcapng", items)) == []
    found = list(exchanges(read(capture(items, framing))))
    assert [exchange_url(each).split("/")[0] for each in found[1:]] == ["https:"] * (len(found) - 1)
    assert len(found) > 1


def test_cleartext_http_is_dissected_on_any_port(tmp_path: Path) -> None:
    ports = (80, 8080, 45123, 3000, 8000, 9999, 5000)
    streams = [stream.exchange(2).close() for stream in numbered(ports)]
    path = write(tmp_path / "a.pcapng", interleave(streams))
    assert expert_problems(path) == []
    assert len(requests(path)) == 2 * len(ports)
    assert len(rows(path, "http.response", "frame.number")) == 2 * len(ports)


@pytest.mark.parametrize("port", [80, 8080, 45123])
def test_http_is_found_where_the_server_speaks_first(tmp_path: Path, port: int) -> None:
    stream = Transcript(port=port, handshake_seen=False).server(b"the end of a body\n").exchange().close()
    path = write(tmp_path / "a.pcapng", stream.items)
    assert expert_problems(path) == []
    assert requests(path) == ["http://example.com/index.html"]


@pytest.mark.parametrize("late", [False, True], ids=["older", "late probes"])
@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_what_follows_a_message_that_was_joined_in_its_middle_is_dissected(
    tmp_path: Path, alpn: str | None, late: bool
) -> None:
    session = replace(tls(alpn), joined=True) if late else tls(alpn, started_ns=None, established_ns=None)
    streams = [
        Transcript(number, port, tls=session, handshake_seen=late)
        for number, port in enumerate((443, 8443, 443, 8443, 443, 8443), 1)
    ]
    for stream in streams[:2]:
        stream.server(b"<p>the end of\n", b"a body\n")
    for stream in streams[2:4]:
        stream.client(b"a=1&b=2").server(response())
    for stream in streams[4:]:
        stream.server(response())
    for stream in streams:
        stream.exchange(2).close()
    path = write(tmp_path / "a.pcapng", interleave(streams))
    assert expert_problems(path) == []
    assert len(requests(path)) == 2 * len(streams)
    assert len(rows(path, "http.response", "frame.number")) == 2 * len(streams) + 4
    found = read(path.read_bytes())
    for number, stream in enumerate(streams, 1):
        assert merged(item for item in found if item.stream == number) == merged(stream.items)


@pytest.mark.parametrize("session", [None, tls()])
def test_websockets_are_dissected(tmp_path: Path, session: Tls | None) -> None:
    stream = Transcript(port=443 if session else 80, tls=session)
    stream.client(WEBSOCKET_REQUEST).server(WEBSOCKET_RESPONSE)
    stream.client(bytes.fromhex("8185 37fa213d 7f9f4d5158".replace(" ", ""))).server(b"\x81\x05Hello")
    path = write(tmp_path / "ws.pcapng", stream.close().items)
    assert expert_problems(path) == []
    assert len(rows(path, "websocket", "frame.number")) == 2


MYSQL_GREETING = (
    b"\x0a8.0.30\0\x09\0\0\0abcdefgh\0\xff\xf7\x21\x02\0\xff\xc1\x15" + bytes(10) + b"ijklmnopqrst\0"
    b"mysql_native_password\0"
)


@pytest.mark.parametrize(
    ("port", "protocol", "sent", "answered"),
    [
        (5432, "pgsql", b"Q\0\0\0\x0dSELECT 1\0", b"Z\0\0\0\x05I"),
        (6379, "resp", b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", b"$5\r\nvalue\r\n"),
        (3306, "mysql", b"", len(MYSQL_GREETING).to_bytes(3, "little") + b"\0" + MYSQL_GREETING),
        (8080, "http", REQUEST, response()),
        (80, "http", REQUEST, response()),
        (4222, "http", REQUEST, response()),
        # The cleartext before STARTTLS was not recorded.
        (25, "smtp.req.command || smtp.response", b"MAIL FROM:<a@example.com>\r\n", b"250 fine\r\n"),
        (587, "smtp.req.command || smtp.response", b"MAIL FROM:<a@example.com>\r\n", b"250 fine\r\n"),
        (143, "imap.request || imap.response", b"a1 NOOP\r\n", b"a1 OK done\r\n"),
        (110, "pop", b"STAT\r\n", b"+OK 0 0\r\n"),
        (21, "ftp.request.command || ftp.response.code", b"PWD\r\n", b'257 "/"\r\n'),
    ],
    ids=[
        "PostgreSQL",
        "Redis",
        "MySQL",
        "HTTP-8080",
        "HTTP-80",
        "HTTP-4222",
        "SMTP-25",
        "SMTP-587",
        "IMAP",
        "POP",
        "FTP",
    ],
)
def test_protocols_that_go_by_port_are_written_bare(
    tmp_path: Path, port: int, protocol: str, sent: bytes, answered: bytes
) -> None:
    stream = Transcript(port=port, tls=tls(None)).client(sent).server(answered).close()
    path = write(tmp_path / "a.pcapng", stream.items)
    assert expert_problems(path) == []
    assert rows(path, "tls", "frame.number") == []
    assert len(rows(path, protocol, "frame.number")) == (2 if sent else 1)
    assert "tls=bare" in rows(path, "tcp.flags.syn == 1 && tcp.flags.ack == 0", "frame.comment")[0][0]


def test_what_wireshark_takes_for_tls_by_its_port_is_written_as_tls(tmp_path: Path) -> None:
    ping = bytes.fromhex("0f000000 10 70696e6700 01000000 00")
    message = bytes.fromhex("24000000 01000000 00000000 dd070000 00000000 00") + ping
    stream = Transcript(port=27017, tls=tls(None)).client(message).close()
    path = write(tmp_path / "a.pcapng", stream.items)
    assert rows(path, "mongo", "mongo.element.name") == [("ping",)]


@pytest.mark.parametrize("port", [443, 6379])
def test_tls_that_is_known_after_the_opening_is_framed_as_if_known_before(tmp_path: Path, port: int) -> None:
    session = tls(None, started_ns=None, established_ns=None)
    late = (
        Transcript(port=port).start_tls(session).client(b"*1\r\n$4\r\nPING\r\n").server(b"+PONG\r\n").close()
    )
    path = write(tmp_path / "a.pcapng", late.items)
    assert expert_problems(path) == []
    assert bool(rows(path, "tls", "frame.number")) is (port == 443)
    assert bool(rows(path, "resp", "frame.number")) is (port == 6379)
    assert timeless(read(path.read_bytes())) == timeless(late.items)


SMTP = (
    b"220 mx ESMTP\r\n",
    b"EHLO me\r\n",
    b"250-mx\r\n250 STARTTLS\r\n",
    b"STARTTLS\r\n",
    b"220 go ahead\r\n",
)
TUNNELS = {
    "CONNECT": (3128, [(0, b"CONNECT example.com:443 HTTP/1.1\r\n\r\n"), (1, b"HTTP/1.1 200 OK\r\n\r\n")]),
    "CONNECT on any port": (45123, [(0, b"CONNECT a:443 HTTP/1.1\r\n\r\n"), (1, b"HTTP/1.1 200 OK\r\n\r\n")]),
    "SMTP": (587, [(1, SMTP[0]), (0, SMTP[1]), (1, SMTP[2]), (0, SMTP[3]), (1, SMTP[4])]),
    "PostgreSQL": (5432, [(0, b"\0\0\0\x08\x04\xd2\x16\x2f"), (1, b"S")]),
}
INSIDE = {
    "SMTP": (b"MAIL FROM:<a@example.com>\r\n", b"250 fine\r\n", "smtp.req.command == MAIL"),
    "PostgreSQL": (b"Q\0\0\0\x0dSELECT 1\0", b"Z\0\0\0\x05I", "pgsql.query"),
}


@pytest.mark.parametrize("name", TUNNELS)
def test_tls_inside_a_cleartext_connection(tmp_path: Path, name: str) -> None:
    port, before = TUNNELS[name]
    request, answer, shown = INSIDE.get(name, (REQUEST, response(), "http.request.method == GET"))
    stream = Transcript(port=port)
    for side, data in before:
        _ = stream.server(data) if side else stream.client(data)
    stream.start_tls(tls(None, started_ns=None, established_ns=None)).client(request).server(answer).close()
    path = write(tmp_path / "a.pcapng", stream.items)
    assert expert_problems(path) == []
    assert len(rows(path, f"tls && {shown}", "frame.number")) == 1
    assert timeless(read(path.read_bytes())) == timeless(stream.items)


def test_plain_framing_maps_tls_ports_to_80(tmp_path: Path) -> None:
    streams = [stream.exchange().close() for stream in numbered((443, 8443, 9443), tls=tls())]
    path = write(tmp_path / "a.pcapng", interleave(streams), Framing.PLAIN)
    assert expert_problems(path) == []
    assert rows(path, "tls", "frame.number") == []
    assert {port for (port,) in rows(path, "http.request", "tcp.dstport")} == {"80", "9443"}
    comments = "".join(comment for (comment,) in rows(path, "frame.comment", "frame.comment"))
    assert "port=443" in comments
    assert "port=8443" in comments


def test_a_thousand_interleaved_streams(tmp_path: Path) -> None:
    streams = [Transcript(number, tls=tls()).exchange().close() for number in range(1, 1001)]
    path = write(tmp_path / "a.pcapng", interleave(streams))
    assert expert_problems(path) == []
    assert len(requests(path)) == 1000
    assert len(set(rows(path, "http.response", "tcp.stream"))) == 1000


def test_a_body_of_64_mib(tmp_path: Path) -> None:
    piece = bytes(range(256)) * 4096
    stream = Transcript(tls=tls()).client(REQUEST).server(response(b"", len(piece) * 64))
    for _ in range(64):
        stream.server(piece)
    path = write(tmp_path / "a.pcapng", stream.exchange().close().items)
    assert expert_problems(path) == []
    assert len(rows(path, "http.response", "frame.number")) == 2
    assert len(rows(path, "http.response && http.content_length == 67108864", "frame.number")) == 1


@pytest.mark.parametrize("session", [None, tls()])
@pytest.mark.parametrize(
    "closed",
    [(), (CLIENT,), (SERVER,), (SERVER, CLIENT)],
    ids=["never", "by the client", "by the server", "by both"],
)
def test_streams_that_end_in_any_way(tmp_path: Path, session: Tls | None, closed: tuple[Side, ...]) -> None:
    port = 443 if session else 80
    streams = [
        Transcript(1, port, tls=session),
        Transcript(2, port, tls=session).client(REQUEST),
        Transcript(3, port, tls=session).server(b"only the server"),
        Transcript(4, port, tls=session).exchange(),
    ]
    for stream in streams if closed else ():
        stream.close(*closed)
    path = write(tmp_path / "a.pcapng", interleave(streams))
    assert expert_problems(path) == []
    assert len(rows(path, "tcp.flags.fin == 1", "frame.number")) == 4 * len(closed)


def test_a_reset_is_the_only_warning_of_its_kind(tmp_path: Path) -> None:
    stream = Transcript(tls=tls()).exchange().close(SERVER, reset=True)
    path = write(tmp_path / "a.pcapng", stream.items)
    assert len(rows(path, "tcp.flags.reset == 1", "frame.number")) == 1
    assert all("RST" in line for line in expert_problems(path) if line.startswith("1"))


def test_ports_that_are_used_again_are_new_streams(tmp_path: Path) -> None:
    client = Endpoint(b"\x0a\0\0\x01", 40001)
    one, two = (
        Transcript(number, 80, START_NS + number * 1_000_000_000, client=client).exchange().close()
        for number in (1, 2)
    )
    path = write(tmp_path / "a.pcapng", [*one.items, *two.items])
    assert expert_problems(path) == []
    assert set(rows(path, "http.request", "tcp.stream")) == {("0",), ("1",)}


@pytest.mark.parametrize("address", ["4", "6", "mapped", "mixed"])
def test_addresses_of_either_family(tmp_path: Path, address: str) -> None:
    mapped = bytes(10) + b"\xff\xff"
    ends = {
        "4": (b"\x0a\0\0\x01", b"\x0a\0\0\x02"),
        "6": (bytes.fromhex("fd00" + "00" * 13 + "01"), bytes.fromhex("fd00" + "00" * 13 + "02")),
        "mapped": (mapped + b"\x0a\0\0\x01", mapped + b"\x0a\0\0\x02"),
        "mixed": (b"\x0a\0\0\x01", bytes.fromhex("fd00" + "00" * 13 + "02")),
    }[address]
    stream = Transcript(tls=tls(), client=Endpoint(ends[0], 40001), server=Endpoint(ends[1], 443))
    path = write(tmp_path / "a.pcapng", stream.exchange().close().items)
    assert expert_problems(path) == []
    field = "ip.dst" if address in ("4", "mapped") else "ipv6.dst"
    expected = "10.0.0.2" if address in ("4", "mapped") else "fd00::2"
    assert rows(path, "http.request", field) == [(expected,)]


def test_sequence_numbers_wrap_around(tmp_path: Path) -> None:
    # The first sequence number is made of time and number, so that one can be chosen just below 2^32.
    stream = Transcript(number=1, port=80)
    time_ns = ((97_000 << 32) - 200 - 2_654_435_761) * 4_000
    opened = stream.items[0]
    assert isinstance(opened, StreamOpened)
    stream.items = [replace(opened, time_ns=time_ns, established_ns=time_ns)]
    stream.now_ns = time_ns
    stream.exchange(20).close()
    path = write(tmp_path / "a.pcapng", stream.items)
    numbers = [int(raw) for (raw,) in rows(path, "tcp.srcport == 40001", "tcp.seq_raw")]
    assert numbers[0] > 2**32 - 1000
    assert numbers[-1] < 2**16
    assert expert_problems(path) == []
    assert len(requests(path)) == 20
    assert read(path.read_bytes()) == stream.items


def test_times_are_those_of_the_items_and_never_go_back_in_a_stream(tmp_path: Path) -> None:
    stream = Transcript(tls=tls()).exchange()
    late = stream.items[-1]
    assert isinstance(late, Data)
    stream.items.append(Data(1, late.time_ns - 5_000_000, SERVER, b"too early"))
    path = write(tmp_path / "a.pcapng", stream.items)
    times = [int(row[0].replace(".", "")) for row in rows(path, "tcp", "frame.time_epoch")]
    assert times == sorted(times)
    assert times[:3] == [START_NS, START_NS + 1_000, START_NS + 1_000]
    assert times[3:7] == [START_NS + 2_000] + [START_NS + 3_000] * 3
    assert times[-1] == late.time_ns


def test_who_and_what_can_be_filtered_for(tmp_path: Path) -> None:
    session = tls("http/1.1")
    stream = Transcript(tls=session, peer_process=NGINX, side=CLIENT).exchange().close()
    path = write(tmp_path / "a.pcapng", stream.items)
    ((comment, name, description),) = rows(
        path, "frame.number == 1", "frame.comment", "frame.interface_name", "frame.interface_description"
    )
    for word in (
        "pid=4242 comm=curl exe=/usr/bin/curl",
        'cmd="curl -s \\"https://example.com/\\""',
        "fd=5 side=client handshake=seen",
        "lib=libssl.so.3 host=example.com alpn=http/1.1",
        "peer_pid=77 peer_comm=nginx",
    ):
        assert word in comment.replace("\\\\", "\\")
    assert name == packets.INTERFACE_NAME
    assert "synthetic" in description
    assert len(rows(path, 'frame.comment contains "comm=curl"', "frame.number")) == 1


def test_a_handshake_that_was_not_seen_is_said_to_be_synthetic(tmp_path: Path) -> None:
    old = Transcript(handshake_seen=False, tls=tls(started_ns=None, established_ns=None)).exchange()
    path = write(tmp_path / "a.pcapng", old.items)
    hints = rows(path, 'frame.comment contains "synthetic:"', "frame.number")
    assert [number for (number,) in hints] == ["1", "4"]


def test_processes_have_one_block_each_and_packets_point_at_it() -> None:
    data = capture(interleave([Transcript(1), Transcript(2), Transcript(3, process=NGINX), Transcript(4)]))
    assert data.count(b"\x01\x00\x00\x80\x1c\x00\x00\x00" + (4242).to_bytes(4, "little")) == 1
    assert data.count(b"\x01\x00\x00\x80\x20\x00\x00\x00" + (77).to_bytes(4, "little")) == 1


class TestLosses:
    """Gaps are shown as packets that were captured short."""

    @pytest.mark.parametrize("session", [None, tls(), tls(None)])
    @pytest.mark.parametrize("lost", [1, 150_000])
    def test_what_follows_a_loss_in_a_body_is_dissected(
        self, tmp_path: Path, session: Tls | None, lost: int
    ) -> None:
        streams = []
        for number, port in enumerate((443, 45123) if session else (80, 8080, 45123), 1):
            stream = Transcript(number, port, tls=session).exchange().client(REQUEST)
            stream.server(response(b"x" * 500, 1_000 + lost)).lose(SERVER, lost).server(b"y" * 500)
            streams.append(stream.exchange(3).close())
        path = write(tmp_path / "a.pcapng", interleave(streams))
        assert expert_problems(path) == []
        assert len(requests(path)) == 5 * len(streams)
        assert len(rows(path, "http.response", "frame.number")) >= 4 * len(streams)
        assert merged(read(path.read_bytes())) == merged(interleave(streams))

    @pytest.mark.parametrize("session", [None, tls()])
    def test_what_follows_a_lost_request_is_dissected(self, tmp_path: Path, session: Tls | None) -> None:
        stream = Transcript(tls=session, port=443 if session else 80).exchange().lose(CLIENT, len(REQUEST))
        path = write(tmp_path / "a.pcapng", stream.server(response()).exchange(2).close().items)
        assert expert_problems(path) == []
        assert len(rows(path, "http.response", "frame.number")) == 4
        assert len(requests(path)) == 3

    def test_the_client_s_side_of_http2_survives_a_loss_on_the_server_s(self, tmp_path: Path) -> None:
        stream = Transcript(tls=tls("h2")).client(HTTP2_START, http2_request(1)).server(frame(4, 0, 0))
        answer = http2_response(1, b"z" * 8000)
        stream.server(answer[:4000]).lose(SERVER, 2000).server(answer[6000:])
        for number in (3, 5):
            stream.client(http2_request(number)).server(http2_response(number, b"ok"))
        path = write(tmp_path / "a.pcapng", stream.close().items)
        assert expert_problems(path) == []
        assert len(rows(path, "http2.headers.method == GET", "frame.number")) == 3

    def test_bare_http2_goes_on_after_a_loss(self, tmp_path: Path) -> None:
        stream = Transcript(port=8080).client(HTTP2_START, http2_request(1)).server(frame(4, 0, 0))
        answer = http2_response(1, b"z" * 8000)
        stream.server(answer[:4000]).lose(SERVER, 2000).server(answer[6000:])
        for number in (3, 5):
            stream.client(http2_request(number)).server(http2_response(number, b"ok"))
        path = write(tmp_path / "a.pcapng", stream.close().items)
        assert expert_problems(path) == []
        assert len(rows(path, "http2.headers.status == 200", "frame.number")) >= 2

    def test_a_loss_says_how_much_and_why(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.pcapng", Transcript(port=80).exchange().lose(SERVER, 1234, "fault").items)
        found = rows(
            path, "frame.cap_len < frame.len", "frame.comment", "frame.drop_count", "tcp.len", "frame.cap_len"
        )
        assert found == [("lost=1234 reason=fault", "1", "1234", "54")]

    def test_no_segment_is_longer_than_scapy_reads(self, tmp_path: Path) -> None:
        streams = [
            Transcript(1, port=80).client(b"x" * 300_000).lose(CLIENT, 300_000),
            Transcript(2, tls=tls()).client(b"x" * 300_000).lose(CLIENT, 300_000),
        ]
        path = write(tmp_path / "a.pcapng", interleave(streams))
        lengths = [int(length) for (length,) in rows(path, "tcp", "tcp.len")]
        assert max(lengths) == 65_000
        assert expert_problems(path) == []


def test_names_of_addresses(tmp_path: Path) -> None:
    items = []
    for number, (address, lookup) in enumerate(
        (
            ("192.0.2.1", Lookup("first.test", 5, 9)),
            ("192.0.2.1", Lookup("second.test")),
            ("2001:db8::1", Lookup("six.test", 1, 2)),
            ("::ffff:192.0.2.2", Lookup("mapped.test", 1, 2)),
            ("192.0.2.3", None),
        )
    ):
        server = Endpoint(ip_address(address).packed, 80)
        client = Endpoint(bytes(server.address[:-1]) + b"\x64", 40_000 + number)
        talk = Transcript(number, port=80).exchange().close().items
        assert isinstance(talk[0], StreamOpened)
        items += [replace(talk[0], client=client, server=server, lookup=lookup), *talk[1:]]
    path = write(tmp_path / "a.pcapng", items)
    command = ["tshark", "-r", str(path), "-N", "n", "-Y", "http.request", "-T", "fields"]
    command += ["-e", "ip.dst_host", "-e", "ipv6.dst_host"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert shown == ["first.test", "first.test", "six.test", "mapped.test", "192.0.2.3"]
    assert expert_problems(path) == []
    read_back = [item.lookup for item in read(path.read_bytes()) if isinstance(item, StreamOpened)]
    assert read_back == [item.lookup for item in items if isinstance(item, StreamOpened)]


def test_named_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MAX_NAMED_ADDRESSES", 2)
    pieces: list[bytes] = []
    exporter = PcapngExporter(pieces.append, METADATA)
    for number in range(5):
        opened = Transcript(number).items[0]
        assert isinstance(opened, StreamOpened)
        server = Endpoint(bytes((10, 0, 0, number)), 80)
        exporter.write(replace(opened, server=server, lookup=Lookup(f"{number}.in-a-block")))
    exporter.flush()
    blocks = [bytes((10, 0, 0, number)) + b"%d.in-a-block\0" % number for number in range(5)]
    assert [block in b"".join(pieces) for block in blocks] == [True, True, False, False, False]


class TestExporter:
    """The class itself, without a judge."""

    def test_a_file_can_be_opened_after_every_flush(self) -> None:
        pieces: list[bytes] = []
        exporter = PcapngExporter(pieces.append, METADATA)
        expected = []
        for item in Transcript(tls=tls()).exchange(2).close().items:
            exporter.write(item)
            exporter.flush()
            expected.append(item)
            assert merged(read(b"".join(pieces))) == merged(expected)

    @pytest.mark.parametrize("session", [None, tls()])
    def test_a_large_gap_is_not_collected(self, session: Tls | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time_order, "MAX_HELD_BYTES", 1 << 19)
        sizes: list[int] = []
        exporter = PcapngExporter(lambda data: sizes.append(len(data)), METADATA)
        for item in Transcript(tls=session).client(b"x").lose(SERVER, 1 << 28).items:
            exporter.write(item)
        assert sum(sizes) > time_order.MAX_HELD_BYTES // 2
        assert max(sizes) < 2 * time_order.PIECE_BYTES

    def test_bytes_without_a_stream_are_counted(self) -> None:
        exporter = PcapngExporter(lambda data: None, METADATA)
        exporter.write(Data(9, START_NS, CLIENT, b"12345"))
        for item in Transcript().close(CLIENT).client(b"123").lose(CLIENT, 7).server(b"fine").items:
            exporter.write(item)
        exporter.flush()
        assert exporter.orphan_bytes == 15
        assert exporter.lost_bytes == 0

    def test_closed_streams_are_forgotten(self) -> None:
        exporter = PcapngExporter(lambda data: None, METADATA)
        for number in range(1, 50):
            for item in Transcript(number).exchange().close().items:
                exporter.write(item)
        assert not exporter._streams

    def test_half_closed_streams_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packets, "MAX_HALF_CLOSED_STREAMS", 10)
        exporter = PcapngExporter(lambda data: None, METADATA)
        for number in range(1, 50):
            for item in Transcript(number).exchange().close(CLIENT).items:
                exporter.write(item)
        for number in range(1, 50):
            exporter.write(Data(number, START_NS, SERVER, b"x"))
        exporter.flush()
        assert exporter.orphan_bytes == 49 - 10

    def test_remembered_processes_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packets, "MAX_PROCESSES", 2)
        pids = [10, 11, 12, 10, 12]
        items = []
        for number, pid in enumerate(pids, 1):
            process = type(NGINX)(pid, f"program-{pid}")
            start_ns = START_NS + number * 1_000_000_000
            items += Transcript(number, start_ns=start_ns, process=process).exchange().close().items
        assert merged(read(capture(items))) == merged(items)

    def test_a_connection_that_is_known_later_is_in_its_place(self, tmp_path: Path) -> None:
        pieces: list[bytes] = []
        exporter = PcapngExporter(pieces.append, METADATA)
        early, late = Transcript(1, tls=tls()), Transcript(2, 80).exchange().close()
        for items in (late.items, early.exchange().close().items):
            for item in items:
                exporter.write(item)
            exporter.settle()
        exporter.finish()
        path = tmp_path / "a.pcapng"
        path.write_bytes(b"".join(pieces))
        assert merged(read(b"".join(pieces))) != merged(late.items + early.items)
        times = [time for (time,) in rows(path, "frame", "frame.time_epoch")]
        assert times == sorted(times)
        assert expert_problems(path) == []

    def test_large_items_are_handed_on_in_pieces(self) -> None:
        pieces: list[bytes] = []
        exporter = PcapngExporter(pieces.append, METADATA)
        for item in Transcript().client(b"x" * 40_000_000).items:
            exporter.write(item)
        assert len(b"".join(pieces)) > 40_000_000 - time_order.MAX_HELD_BYTES
        exporter.flush()
        assert max(map(len, pieces)) < 2 * time_order.PIECE_BYTES
        assert len(b"".join(pieces)) > 40_000_000

    def test_memoryviews_are_not_kept(self) -> None:
        pieces: list[bytes] = []
        exporter = PcapngExporter(pieces.append, METADATA)
        exporter.write(Transcript().items[0])
        buffer = bytearray(b"before")
        exporter.write(Data(1, START_NS, CLIENT, memoryview(buffer)))  # type: ignore[arg-type]  # it may be
        buffer[:] = b"after!"
        exporter.finish()
        assert b"before" in b"".join(pieces)

    def test_an_address_of_another_size_is_refused(self) -> None:
        exporter = PcapngExporter(lambda data: None, METADATA)
        with pytest.raises(ValueError, match="4 or 16 bytes"):
            exporter.write(Transcript(client=Endpoint(b"", 1)).items[0])

    def test_the_ledger_is_in_the_file(self, tmp_path: Path) -> None:
        pieces: list[bytes] = []
        exporter = PcapngExporter(pieces.append, METADATA)
        exporter.finish(ledger={"captured": 5, "lost": {"ring_full": 7}}, summary="5 bytes", dropped=3)
        data = b"".join(pieces)
        assert json.dumps({"captured": 5, "lost": {"ring_full": 7}}, separators=(",", ":")).encode() in data
        path = tmp_path / "a.pcapng"
        path.write_bytes(data)
        assert tshark(path) == ""

    def test_an_open_stream_costs_about_a_kilobyte(self) -> None:
        count = 5_000
        streams = [Transcript(number, tls=tls()).exchange() for number in range(count)]
        exporter = PcapngExporter(lambda data: None, METADATA)
        tracemalloc.start()
        try:
            for stream in streams:
                for item in stream.items:
                    exporter.write(item)
            exporter.flush()
            assert tracemalloc.get_traced_memory()[0] < count * 1_400
        finally:
            tracemalloc.stop()
