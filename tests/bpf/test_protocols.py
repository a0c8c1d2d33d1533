"""The kernel side's inference, compiled for this machine, against what the specifications say, byte by byte."""

from __future__ import annotations

import ctypes
import re

import pytest
from compiled import compile_library
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bpf.program import FOLDER

PREFIX_BYTES = 16
VERDICTS = ("no", "maybe", "tls", "http")
TLS, OTHER = 1, 3
PROTOCOLS = {"no": OTHER, "maybe": 0, "tls": TLS, "http": 2}

SHIM = """
#include <stdint.h>
#include <string.h>
typedef uint8_t u8;
typedef uint32_t u32;
typedef int32_t s32;
typedef int64_t s64;
typedef uint64_t u64;
#define INLINE static inline
#define PREFIX_BYTES 16
#define PREFIX_ROOM (2 * PREFIX_BYTES)
#define apart(value) (value)
#define bpf_probe_read_kernel(to, n, from) memcpy(to, from, n)
#define MAX_HELLO_BYTES 4096
#define HEAD_ROOM 64
enum {{ PROTOCOL_UNDECIDED, PROTOCOL_TLS, PROTOCOL_HTTP, PROTOCOL_OTHER }};
struct connection {{
    u8 prefix[2 * PREFIX_ROOM];
    u32 prefix_length[2], protocol, opened, misses, left, greets_no_socks_proxy, may_precede_tls, untold;
    u64 hello_left[2], position[2];
}};
#include "{header}"
int verdict(u8 *bytes, u32 n) {{ return verdict_on(bytes, n); }}
int hello(u8 *bytes, u32 n) {{ return is_hello(bytes, n); }}
int precedes(u8 *bytes, u32 n) {{ return may_precede_tls(bytes, n); }}
int text(u8 *bytes, u32 n) {{ return sign_of_text(bytes, n) >= 0; }}
int tds(u8 *bytes, u32 n) {{ return sign_of_tds_packet(bytes, n) >= 0; }}
int frame(u8 *bytes, u32 n) {{ return sign_of_frame(bytes, n) >= 0; }}
int record(u8 *bytes, u32 n) {{ return sign_of_record(bytes, n) >= 0; }}
int inferred(u8 *bytes, u32 n, u32 split)
{{
    struct connection c = {{.opened = 1}};
    u8 head[HEAD_ROOM] = {{}};
    memcpy(head, bytes, split);
    infer(&c, 0, head, split);
    memset(head, 0, sizeof(head));
    memcpy(head, bytes + split, n - split);
    infer(&c, 0, head, n - split);
    return c.protocol;
}}
int inferred_around(u8 *bytes, u32 n, u32 untold)
{{
    struct connection c = {{.opened = 1, .untold = untold}};
    u8 head[HEAD_ROOM] = {{}};
    memcpy(head, bytes, n);
    infer(&c, 0, head, n);
    infer(&c, 0, head, 0);
    return c.protocol;
}}
"""


@pytest.fixture(scope="module")
def kernel_side(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = SHIM.format(header=FOLDER / "protocols.bpf.h")
    return ctypes.CDLL(str(compile_library(tmp_path_factory.mktemp("protocols"), source)))


def request(data: bytes) -> str:
    """A method of 3 to 14 letters, with digits, hyphens and underscores inside, and a path; after one of capitals and
    hyphens, what else a target begins with; CONNECT names a host."""
    method, space, rest = data.partition(b" ")
    if (
        not re.fullmatch(rb"(?:[A-Za-z][\w-]*)?", method[: PREFIX_BYTES - 1])
        or len(method) >= PREFIX_BYTES - 1
    ):
        return "no"
    if not space:
        return "maybe"
    if len(method) < 3:
        return "no"
    if not rest:
        return "maybe"
    if rest[:1] == b"/":
        return "http"
    if not re.fullmatch(rb"[A-Z-]+", method):
        return "no"
    return "http" if rest[:1] in b"*h" or re.fullmatch(rb"CONN[A-Z-]{2}T", method) else "no"


# RFC 9113 §4.1 and §6.5: length, of six bytes each, type, flags, stream.
SETTINGS_HEAD = ({0}, {0}, range(0, 256, 6), {4}, *[{0}] * 5)


def expected(data: bytes) -> str:
    data = data[:PREFIX_BYTES]
    if data.startswith(b"PROXY "):
        return "http"
    if data and all(byte in allowed for byte, allowed in zip(data, SETTINGS_HEAD, strict=False)):
        return "http" if len(data) >= len(SETTINGS_HEAD) else "maybe"
    if re.match(rb"\r(\n|$)", data):
        if len(data) < 5:
            return "maybe"
        return "http" if re.match(rb"\r\n(\r\n\0|[A-Z]{3})", data) else "no"
    if re.match(rb"[\x14-\x17]\x03[\x00-\x04](?!\x00\x00)[\x00-\x48].", data, re.DOTALL):
        return "tls"
    if re.fullmatch(rb"[\x14-\x17](\x03.{0,2})?", data, re.DOTALL):
        return "maybe"
    if b"HTTP/1.".startswith(data[:7]):
        return "http" if len(data) >= 7 else "maybe"
    return request(data)


def is_hello(data: bytes) -> bool:
    return bool(re.match(rb"\x16\x03[\x00-\x03]..[\x01\x02]\x00..\x03[\x00-\x03]", data, re.DOTALL))


BEGINNINGS = (
    b"GET / HTTP/1.1\r\n\r\n", b"AB / HTTP/1.1", b"HTTP/1.1 200 OK\r\n", b"CONNECT a.test:443 H", b"PRI * HTTP/2.0\r\n",
    b"VERSION-CONTROL /", b"BASELINE-CONTRO /", b"-SEARCH * HTTP/1", b"GET http://a.test", b"PROXY TCP4 192.0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcde", b"\x17\x03\x03\x00\x20abcdefghijk", b"\x15\x03\x03\x00\x00",
    b"\x17\x03\x04\x48\x00", b"\x05\x01\x00", b"\x04\x01\x01\xbb", b"get / HTTP/1.1\r\n", b"Foo_1-b /x HTTP/1",
    b"\r\n\r\n\0\r\nQUIT\n", b"\r\nGET / HTTP/1.1", b"\r\n\r\n\r\n", b"get hello\r\n",
    b"\0\0\x12\4\0\0\0\0\0\0\3", b"\0\0\0\4\0\0\0\0\0", b"0032git-upload-p", b"git-upload-pack /",
)  # fmt: skip


@st.composite
def beginnings(draw: st.DrawFn) -> bytes:
    """One of those, cut off, with a byte changed; or any bytes."""
    data = draw(
        st.one_of(
            st.sampled_from(BEGINNINGS),
            st.binary(max_size=24),
            st.text("AZ-@[ /*hHaz`{_019:", max_size=24).map(str.encode),
        )
    )
    data = bytearray(data[: draw(st.one_of(st.just(24), st.integers(0, 24)))])
    if data and draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(
            st.one_of(st.integers(0, 255), st.sampled_from(b"AZ@[- /*haz_`{09:"))
        )
    return bytes(data)


@settings(max_examples=600)
@given(data=beginnings())
def test_a_verdict_is_the_specifications(kernel_side: ctypes.CDLL, data: bytes) -> None:
    padded = data[:PREFIX_BYTES].ljust(PREFIX_BYTES, b"\0")
    assert VERDICTS[kernel_side.verdict(padded, min(len(data), PREFIX_BYTES))] == expected(data)
    assert bool(kernel_side.hello(padded, len(data))) == (len(data) >= 11 and is_hello(data))


@given(data=beginnings(), split=st.integers(0, 24))
def test_two_calls_say_what_one_says(kernel_side: ctypes.CDLL, data: bytes, split: int) -> None:
    assume(data[:1] not in (b"\x04", b"\x05"))
    split = min(split, len(data))
    first, whole = expected(data[:split]), expected(data)
    hello = is_hello(data[:split]) or is_hello(data[split:])
    found = kernel_side.inferred(data, len(data), split)
    if hello:
        assert found == TLS
    elif first == "maybe":
        assert found == (PROTOCOLS[whole] if split < len(data) else PROTOCOLS[first])
    else:
        assert found == PROTOCOLS[first]


@pytest.mark.parametrize(
    "greeting", [b"\x05\x01\x00", b"\x05\x02\x00\x02", b"\x04\x01\x01\xbb\xc0\x00\x02\x01\x00"]
)
def test_what_follows_a_socks_greeting_is_looked_at(kernel_side: ctypes.CDLL, greeting: bytes) -> None:
    data = greeting + b"GET / HTTP/1.1"
    assert kernel_side.inferred(data, len(data), len(greeting)) == PROTOCOLS["http"]
    assert kernel_side.inferred(b"\x06" + data, len(data) + 1, len(greeting) + 1) == OTHER


@pytest.mark.parametrize(
    ("begin", "kept"),
    [
        (b"220 mx ESMTP", 1),
        (b"+OK ready", 1),
        (b"* OK ready", 1),
        (b"INFO {}", 1),
        (b"<?xml", 1),
        (b"AMQP\2\1\0\0", 1),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
        (b"\x5b\0\0\0\x0a8.0", 1),
        (b"\x30\x1d\2\1\1\x77", 1),
        (b"\3\0\0\x13\x0e\xe0", 1),
        (b"\5\1\0", 1),
        (b"\5\1", 1),
        (b"\4\1\x01\xbb", 1),
        (b"* PREAUTH", 1),
        (b"* BYE", 1),
        (b"<stream:", 1),
        (b"\0\0\0\x08", 1),
        (b"\0\0\0\x08\x04\xd2\x16\x30", 1),
        (b"\x5b\0\0\0", 1),
        (b"", 0),
        (b"2", 0),
        (b"S", 0),
        (b"\0", 0),
        (b"\3", 0),
        (b"\4", 0),
        (b"\5", 0),
        (b"SSH-2.0-", 0),
        (b"\x10\x0c\0\4MQTT", 0),
        (b"*3\r\n$3\r\n", 0),
        (b"+PONG\r\n", 0),
        (b"\0\0\0\x2a\0\x12\0\3", 0),
        (b"\x5b\0\0\0\x0b", 0),
        (b"\x5b\0\0\1\x0a", 0),
        (b"\x5b\0\0", 0),
        (b"\x30\x0c\2\1\1\x60", 0),
        (b"\5\1\0\3", 0),
        (b"AUTH", 0),
        (b"INVITE", 0),
        (b"<html>", 0),
    ],
)
def test_what_may_be_said_before_tls_is_kept(kernel_side: ctypes.CDLL, begin: bytes, kept: int) -> None:
    assert kernel_side.precedes(begin.ljust(PREFIX_BYTES, b"\0"), len(begin)) == kept


TEXT = re.compile(rb"[\t-\r -~]{4,16}")


@given(
    data=st.one_of(
        st.binary(max_size=PREFIX_BYTES),
        st.text(st.characters(max_codepoint=130), max_size=PREFIX_BYTES).map(str.encode),
        st.text("\t\n\r ~a", max_size=PREFIX_BYTES).map(str.encode),
    ),
    behind=st.binary(min_size=PREFIX_BYTES, max_size=PREFIX_BYTES),
)
def test_text_is_nothing_but_text(kernel_side: ctypes.CDLL, data: bytes, behind: bytes) -> None:
    data = data[:PREFIX_BYTES]
    said = bool(kernel_side.text((data + behind)[:PREFIX_BYTES], len(data)))
    assert said == bool(TEXT.fullmatch(data))


@pytest.mark.parametrize(
    ("head", "is_packet"),
    [
        ("0401005f00000100", True),  # an answer, the last of its packets
        ("01010022000001000000", True),  # a batch
        ("0400100000360200", True),  # of 4,096 bytes, with more to come
        ("0401000800000100", False),  # nothing is in it
        ("04010022000001", False),
        ("1703030022aabb00", False),  # a record
        ("0401002200000107", False),  # no such window
        ("4801005f00000100", False),  # no such type
    ],
)
def test_packets_of_sql_server(kernel_side: ctypes.CDLL, head: str, is_packet: bool) -> None:
    data = bytes.fromhex(head)
    assert bool(kernel_side.tds(data.ljust(PREFIX_BYTES, b"\0"), len(data))) == is_packet


@given(data=st.one_of(beginnings(), st.text("\x16\x17\x03\x01", min_size=1, max_size=4).map(str.encode)))
def test_what_may_be_a_record(kernel_side: ctypes.CDLL, data: bytes) -> None:
    assume(data)
    data = data[:PREFIX_BYTES]
    said = bool(kernel_side.record(data.ljust(PREFIX_BYTES, b"\0"), len(data)))
    assert said == bool(re.match(rb"[\x14-\x17](\x03|$)", data, re.DOTALL))


def is_frame(data: bytes) -> bool:
    """RFC 9113 §4.1 and §6: of a stream, or WINDOW_UPDATE, or PING."""
    if len(data) < 9:
        return False
    length, kind, flags, stream = int.from_bytes(data[:3]), data[3], data[4], int.from_bytes(data[5:9])
    if length > 1 << 14 or stream >> 31:
        return False
    if kind in (0, 1):
        return stream > 0 and flags | (0x2D if kind else 0x09) == (0x2D if kind else 0x09)
    return (kind, length, flags) == (8, 4, 0) or ((kind, length, stream) == (6, 8, 0) and flags <= 1)


FRAMES = (
    "00000100 00000001",
    "0004000900000003",
    "0000040800000000",
    "0000080600000000",
    "00003e01257fffffff",
)


@given(
    data=st.one_of(
        st.binary(max_size=12), st.sampled_from(FRAMES).map(lambda text: bytes.fromhex(text) + b"\1\2")
    ),
    place=st.integers(0, 9),
    byte=st.one_of(st.none(), st.integers(0, 255), st.sampled_from((0, 1, 4, 8, 9, 0x25, 0x3F, 0x40, 0x80))),
)
def test_frames_of_http2(kernel_side: ctypes.CDLL, data: bytes, place: int, byte: int | None) -> None:
    if byte is not None and place < len(data):
        data = data[:place] + bytes([byte]) + data[place + 1 :]
    said = bool(kernel_side.frame(data.ljust(PREFIX_BYTES, b"\0"), min(len(data), PREFIX_BYTES)))
    assert said == is_frame(data)


@pytest.mark.parametrize("before", [b"", b"G", b"SET"])
def test_what_begins_with_bytes_that_the_peer_had_taken_is_shown_of_unix_sockets(
    kernel_side: ctypes.CDLL, before: bytes
) -> None:
    assert kernel_side.inferred_around(before, len(before), 1) == PROTOCOLS["http"]
    assert kernel_side.inferred_around(before, len(before), 0) == PROTOCOLS["maybe"]
