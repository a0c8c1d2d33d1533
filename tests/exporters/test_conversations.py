"""TLS in other people's captures, made by OpenSSL itself: NULL ciphers are read, others said to be encrypted."""

from __future__ import annotations

import io
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from foreign import ACK, PSH, Tcp, frames, pcap
from hypothesis import given, settings
from hypothesis import strategies as st
from transcripts import REQUEST, Transcript, capture, read, response, tls

from capture.streams import Data, Gap, Side, StreamClosed, StreamItem, StreamOpened
from exporters.reassembly import StreamReader, read_streams

if TYPE_CHECKING:
    from pathlib import Path

CLIENT, SERVER = Side.CLIENT, Side.SERVER
Wire = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=example.com", "-days", "2"]
    files = ["-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    subprocess.run(["openssl", "req", "-x509", *options, *files], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


class Session:
    """A TLS connection in memory; ``wire`` is what crossed it, in order, by side."""

    def __init__(self, certificate: Path, ciphers: str | None, version: ssl.TLSVersion) -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate)
        for context in (client, server):
            context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"] if context is client else ["http/1.1"])
            if ciphers is not None:
                context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        self.bios = [ssl.MemoryBIO() for _ in range(4)]
        self.ends = (
            client.wrap_bio(self.bios[0], self.bios[1], server_hostname="example.com"),
            server.wrap_bio(self.bios[2], self.bios[3], server_side=True),
        )
        self.wire: Wire = []
        waiting = {0, 1}
        while waiting:
            for side in sorted(waiting):
                try:
                    self.ends[side].do_handshake()
                    waiting.discard(side)
                except ssl.SSLWantReadError:
                    pass
                self.move(side)

    def move(self, side: int) -> None:
        """What one end has written goes to the other."""
        data = self.bios[1 + 2 * side].read()
        if data:
            self.wire.append((side, data))
            self.bios[2 - 2 * side].write(data)

    def send(self, side: int, data: bytes) -> None:
        """One end writes."""
        self.ends[side].write(data)
        self.move(side)


def captured(wire: Wire, split: list[int] | None = None, **tcp_ports: int) -> StreamReader:
    """The wire read as a capture."""
    return read_streams(io.BytesIO(captured_file(wire, split, **tcp_ports)))


def captured_file(wire: Wire, split: list[int] | None = None, **tcp_ports: int) -> bytes:
    """The wire as a capture on port 443, each write cut into pieces of the sizes of ``split`` in turn."""
    tcp = Tcp(server_port=443, **tcp_ports)
    packets: list[Any] = tcp.handshake()
    sizes = iter((split or [1200]) * 100_000)
    for side, data in wire:
        at = 0
        while at < len(data):
            size = next(sizes)
            packets.append(tcp.packet(side, PSH | ACK, data[at : at + size]))
            at += size
    return pcap(frames([*packets, *tcp.finish()]))


def texts(items: list[StreamItem]) -> tuple[bytes, bytes]:
    """What each side sent."""
    client, server = (
        b"".join(item.data for item in items if isinstance(item, Data) and item.sender is side)
        for side in (CLIENT, SERVER)
    )
    return client, server


@pytest.mark.parametrize("cipher", ["NULL-MD5", "NULL-SHA", "NULL-SHA256"])
def test_a_null_cipher_of_openssl_is_read(certificate: Path, cipher: str) -> None:
    session = Session(certificate, cipher, ssl.TLSVersion.TLSv1_2)
    body = bytes(range(256)) * 200
    session.send(0, REQUEST)
    session.send(1, response(body))
    session.send(0, b"more")
    reader = captured(session.wire)
    opened, *rest = list(reader)
    assert isinstance(opened, StreamOpened)
    assert opened.tls is not None
    assert (opened.tls.server_name, opened.tls.alpn, opened.tls.library) == ("example.com", "http/1.1", None)
    assert opened.tls.started_ns is not None
    assert opened.tls.established_ns is not None
    assert opened.established_ns < opened.tls.started_ns < opened.tls.established_ns < rest[0].time_ns
    assert texts(rest) == (REQUEST + b"more", response(body))
    assert list(reader.notes) == []


@settings(max_examples=40, deadline=None)
@given(split=st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_any_split_of_the_records_gives_the_same_text(certificate: Path, split: list[int]) -> None:
    session = Session(certificate, "NULL-SHA256", ssl.TLSVersion.TLSv1_2)
    session.send(0, REQUEST)
    session.send(1, response())
    items = list(captured(session.wire, split))
    assert isinstance(items[0], StreamOpened)
    assert items[0].tls is not None
    assert items[0].tls.alpn == "http/1.1"
    assert texts(items) == (REQUEST, response())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_encrypted_streams_are_opened_and_closed_and_counted(
    certificate: Path, version: ssl.TLSVersion
) -> None:
    session = Session(certificate, None, version)
    session.send(0, REQUEST)
    session.send(1, response())
    reader = captured(session.wire)
    items = list(reader)
    assert [type(item) for item in items] == [StreamOpened, StreamClosed, StreamClosed]
    assert isinstance(items[0], StreamOpened)
    assert items[0].tls is not None
    assert items[0].tls.server_name == "example.com"
    total = sum(len(data) for _, data in session.wire)
    assert any(f"1 TLS streams ({total} bytes) are encrypted" in note for note in reader.notes)


def test_a_server_that_says_nothing_is_not_waited_for(certificate: Path) -> None:
    """As in a capture of one direction: its hello does not come, and what the client sends is not collected."""
    session = Session(certificate, None, ssl.TLSVersion.TLSv1_2)
    (_, hello), *_ = session.wire
    tcp = Tcp(server_port=443)
    packets = [*tcp.handshake(), tcp.packet(0, PSH | ACK, hello)]
    packets += [tcp.packet(0, PSH | ACK, b"\x17\x03\x03\x40\x00" + bytes(0x4000)) for _ in range(40)]
    file = io.BytesIO(pcap(frames(packets)))
    opened = next(read_streams(file))
    assert isinstance(opened, StreamOpened)
    assert opened.tls is not None
    assert opened.tls.server_name == "example.com"
    assert file.tell() < len(file.getvalue()) // 4


@pytest.mark.parametrize("keys", [True, False])
def test_keys_in_the_file_are_said_not_to_be_used(certificate: Path, tmp_path: Path, keys: bool) -> None:
    """Whoever wrote them into it expects them to be."""
    session = Session(certificate, None, ssl.TLSVersion.TLSv1_3)
    session.send(0, REQUEST)
    plain, both, log = tmp_path / "plain.pcap", tmp_path / "both.pcapng", tmp_path / "keys.log"
    plain.write_bytes(captured_file(session.wire))
    log.write_text("CLIENT_RANDOM " + "00" * 32 + " " + "00" * 48 + "\n")
    secrets = ["--inject-secrets", f"tls,{log}"] if keys else []
    subprocess.run(["editcap", "-F", "pcapng", *secrets, plain, both], check=True, capture_output=True)
    reader = read_streams(both)
    assert len(list(reader)) == 3
    assert any("keys" in note and str(both) in note for note in reader.notes) is keys


def test_an_encrypted_stream_that_is_joined_in_the_middle(certificate: Path) -> None:
    session = Session(certificate, None, ssl.TLSVersion.TLSv1_3)
    session.wire.clear()
    session.send(1, response())
    session.send(0, REQUEST)
    reader = captured(session.wire)
    assert [type(item) for item in reader] == [StreamOpened, StreamClosed, StreamClosed]
    assert any("encrypted" in note for note in reader.notes)


def test_a_record_that_was_not_captured_is_a_gap_of_its_text(certificate: Path) -> None:
    session = Session(certificate, "NULL-SHA", ssl.TLSVersion.TLSv1_2)
    session.send(0, REQUEST)
    session.send(1, response())
    start = len(session.wire)
    session.send(1, b"lost" * 25)
    session.send(1, b"here")
    tcp = Tcp(server_port=443)
    packets: list[Any] = tcp.handshake()
    for number, (side, data) in enumerate(session.wire):
        packet = tcp.packet(side, PSH | ACK, data)
        packets += [packet] if number != start else []
    items = list(read_streams(io.BytesIO(pcap(frames([*packets, tcp.client(flags=ACK), *tcp.finish()])))))
    gaps = [item for item in items if isinstance(item, Gap)]
    assert [gap.length for gap in gaps] == [100]
    assert texts(items) == (REQUEST, response() + b"here")


def test_a_record_that_was_cut_is_a_gap_of_what_is_missing(certificate: Path) -> None:
    session = Session(certificate, "NULL-SHA256", ssl.TLSVersion.TLSv1_2)
    session.send(0, REQUEST)
    session.send(1, b"a" * 3000)
    session.send(1, b"b" * 10)
    tcp = Tcp(server_port=443)
    packets = [
        *tcp.handshake(),
        *(tcp.packet(side, PSH | ACK, data) for side, data in session.wire),
        *tcp.finish(),
    ]
    snaplen = 14 + 40 + 1500
    items = list(read_streams(io.BytesIO(pcap(frames(packets), snaplen=snaplen))))
    gaps = [item for item in items if isinstance(item, Gap)]
    assert sum(gap.length for gap in gaps) == 3000 - (1500 - 5)
    assert texts(items) == (REQUEST, b"a" * 1495 + b"b" * 10)


def test_our_capture_without_its_comments_is_still_read() -> None:
    stream = Transcript(tls=tls("h2"), process=None).exchange(2).lose(SERVER, 40_000).server(b"after").close()
    data = bytearray(capture(stream.items))
    option = data.index(b"fd=5 side=client") - 4
    data[option : option + 2] = b"\x99\x59"  # a code that nobody knows
    opened, *rest = read(bytes(data))
    assert isinstance(opened, StreamOpened)
    assert opened.tls == tls("h2", library=None)
    assert [item for item in rest if not isinstance(item, Gap)] == [
        item for item in stream.items[1:] if not isinstance(item, Gap)
    ]
    assert sum(item.length for item in rest if isinstance(item, Gap)) == 40_000


def test_bytes_that_only_begin_like_tls_are_cleartext() -> None:
    tcp = Tcp()
    packets = [*tcp.handshake(), tcp.client(b"\x16"), tcp.client(b"\x03is no TLS at all"), *tcp.finish()]
    items = list(read_streams(io.BytesIO(pcap(frames(packets)))))
    assert isinstance(items[0], StreamOpened)
    assert items[0].tls is None
    assert texts(items)[0] == b"\x16\x03is no TLS at all"


def test_a_capture_of_headers_alone_is_two_gaps() -> None:
    tcp = Tcp()
    packets = tcp.handshake()
    for _ in range(50):
        packets += [tcp.client(b"x" * 100), tcp.server(b"y" * 1400), tcp.server(b"z" * 1400)]
    opened, *items = read_streams(io.BytesIO(pcap(frames([*packets, *tcp.finish()]), snaplen=54)))
    assert isinstance(opened, StreamOpened)
    gaps = [(item.sender, item.length) for item in items if isinstance(item, Gap)]
    assert gaps == [(CLIENT, 50 * 100), (SERVER, 50 * 2800)]
    assert len(items) == 4
