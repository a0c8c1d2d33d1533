"""Hellos: real ones from OpenSSL in any split, and anything at all without an error."""

from __future__ import annotations

import ssl
import subprocess
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capture.tls_hello import MAX_HELLO_BYTES, Hello, HelloReader


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += [
        "-keyout",
        folder / "key",
        "-out",
        folder / "certificate",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate", folder / "key"


def hellos(name, client_protocols, server=None, newest=ssl.TLSVersion.TLSv1_3):
    """The first flights of client and server, as they cross the socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if client_protocols:
        context.set_alpn_protocols(client_protocols)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    first = to_server.read()
    if server is None:
        return first, b""
    incoming, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(first)
    with pytest.raises(ssl.SSLWantReadError):
        server.wrap_bio(incoming, answer, server_side=True).do_handshake()
    return first, answer.read()


def read(*parts):
    """What a reader says of these parts; it says it once."""
    reader = HelloReader()
    found = [hello for part in parts if (hello := reader.feed(part)) is not None]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize("more", [b"", b"\x14\3\3\0\1\1"])
def test_what_comes_behind_a_hello_in_its_last_piece_is_no_part_of_it(more):
    reader = HelloReader()
    first, _ = hellos("localhost", ["h2"])
    assert reader.feed(first[:100]) is None
    assert reader.feed(first[100:] + more) is not None
    assert reader.surplus == len(more)


@given(cuts=st.lists(st.integers(0, 600), max_size=5), tail=st.binary(max_size=50))
def test_a_real_client_hello_in_any_split(cuts, tail):
    hello, _ = hellos("www.example.com", ["h2", "http/1.1"])
    edges = sorted({0, *(min(cut, len(hello)) for cut in cuts), len(hello)})
    parts = [hello[a:b] for a, b in pairwise(edges)]
    assert read(*parts, tail) == Hello(True, "www.example.com", ("h2", "http/1.1"))


def test_byte_by_byte():
    hello, _ = hellos("www.example.com", ["h2"])
    assert read(*(hello[i : i + 1] for i in range(len(hello)))) == Hello(True, "www.example.com", ("h2",))


def test_without_a_name_and_without_offers():
    assert read(hellos(None, [])[0]) == Hello(True, None, ())


@given(size=st.integers(1, 200))
def test_a_hello_that_is_spread_over_records(size):
    hello, _ = hellos("www.example.com", ["h2"])
    message = hello[5:]
    parts = (message[i : i + size] for i in range(0, len(message), size))
    records = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)
    assert read(records) == Hello(True, "www.example.com", ("h2",))


@pytest.mark.parametrize(
    ("newest", "chosen"), [(ssl.TLSVersion.TLSv1_2, ("http/1.1",)), (ssl.TLSVersion.TLSv1_3, ())]
)
def test_a_real_server_hello(certificate, newest, chosen):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    server.set_alpn_protocols(["http/1.1"])
    _, answer = hellos("localhost", ["h2", "http/1.1"], server, newest)
    # TLS 1.3 encrypts what was chosen (RFC 8446 §4.3.1).
    assert read(answer) == Hello(False, None, chosen)


@given(st.lists(st.binary(max_size=80), max_size=6))
@example([b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"])
@example([b"\x16\x03\x01\x00\x00"] * 6)
def test_anything_is_read_without_an_error(parts):
    reader = HelloReader()
    for part in parts:
        reader.feed(part)
    assert len(reader._bytes) <= sum(map(len, parts))


@given(place=st.integers(5, 400), value=st.integers(0, 255), length=st.integers(1, 600))
def test_a_damaged_or_cut_hello_is_read_as_far_as_it_goes(place, value, length):
    hello = bytearray(hellos("www.example.com", ["h2"])[0])
    hello[min(place, len(hello) - 1)] = value
    found = read(bytes(hello[:length]))
    assert found is None or isinstance(found.alpn, tuple)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x17\x03\x03\x00\x10" + bytes(16), b"\x15\x03\x01\0\2\1\0"]
)
def test_what_is_no_handshake_is_given_up_at_once(data):
    reader = HelloReader()
    assert reader.feed(data) is None
    assert reader.done
    size = len(reader._bytes)
    assert reader.feed(hellos("www.example.com", [])[0]) is None
    assert len(reader._bytes) == size


def test_a_hello_without_end_is_given_up():
    reader = HelloReader()
    record = b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + bytes(0x3FFC)
    for _ in range(10):
        assert reader.feed(record) is None
    assert reader.done
    assert len(reader._bytes) <= MAX_HELLO_BYTES + len(record)
