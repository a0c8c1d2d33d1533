"""HAR archives: what an entry says, how the file grows, and what a schema and devtools make of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from dataclasses import replace
from datetime import datetime
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from typing import TYPE_CHECKING, Any

import brotli
import devtools
import har_schema
import pytest
import zstandard
from archives import write_har
from h2_talk import H2Talk
from http_streams import CURL, OPENED_NS, STEP_NS, Conversation, read
from hypothesis import given
from hypothesis import strategies as st
from odd_http import odd_exchanges

from capture.streams import Lookup, Process, Side, StreamOpened, Tls
from exporters.entry_writers import EXPORTERS
from exporters.har import EntryMaker, HarWriter
from exporters.har_fields import multipart_parameters, response_cookies
from exporters.har_redaction import Redaction
from exporters.har_timings import iso_time
from exporters.http import ExchangeReader, Limits, Notes, exchanges
from exporters.http.messages import Fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from exporters.http import Exchange

GET = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"
HTTPS = Tls(
    library="OpenSSL 3",
    server_name="example.com",
    alpn="http/1.1",
    started_ns=OPENED_NS + 1_500_000,
    established_ns=OPENED_NS + 1_900_000,
)


def answer(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with a length."""
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n" % len(body) + lines + b"\r\n" + body


def archive_of(found: Iterable[Exchange], notes: Notes | None = None) -> dict[str, Any]:
    """The archive of the exchanges, which the schema must accept."""
    output = io.BytesIO()
    write_har(found, output, EntryMaker(redaction=Redaction.of(sensitive=True)), notes)
    archive: dict[str, Any] = json.loads(output.getvalue())
    assert har_schema.problems(archive) == []
    assert_devtools_can_read(archive)
    return archive


def assert_devtools_can_read(archive: dict[str, Any]) -> None:
    """What Chromium refuses a whole archive for if it is missing, and what Firefox needs besides."""
    log = archive["log"]
    assert {"creator", "entries", "pages", "version"} <= log.keys()
    for page in log["pages"]:
        assert {"startedDateTime", "pageTimings"} <= page.keys()
    for entry in log["entries"]:
        assert {"startedDateTime", "time", "request", "response", "timings", "cache"} <= entry.keys()
        for message in (entry["request"], entry["response"]):
            assert isinstance(message["headersSize"], int)
            assert isinstance(message["bodySize"], int)
        assert {"status", "content"} <= entry["response"].keys()
        assert "size" in entry["response"]["content"]
        timings = entry["timings"]
        assert min(timings["send"], timings["wait"], timings["receive"]) >= 0
        phases = ("blocked", "dns", "connect", "send", "wait", "receive")
        assert entry["time"] == pytest.approx(sum(max(timings[phase], 0) for phase in phases))
        assert entry.get("_initiator", "") is not None


def entry_of(talk: Conversation) -> dict[str, Any]:
    """The only entry of a conversation."""
    (entry,) = archive_of(read(talk.items))["log"]["entries"]
    return entry


def body_of(content: dict[str, Any]) -> bytes:
    """The bytes of a HAR's content or postData."""
    if content.get("encoding") == "base64":
        return base64.b64decode(content["text"])
    return content.get("text", "").encode()


# What an entry says.


def test_an_entry_of_a_new_tls_connection() -> None:
    talk = Conversation(tls=HTTPS, port=443)
    talk.client(GET).server(answer(b"hello", b"Content-Type: text/plain"))
    archive = archive_of(read(talk.items))
    (entry,) = archive["log"]["entries"]
    assert entry["startedDateTime"] == "2023-11-14T22:13:20.000000Z"
    assert entry["request"]["url"] == "https://example.com/a"
    assert entry["request"]["httpVersion"] == "HTTP/1.1"
    assert entry["request"]["headersSize"] == len(GET)
    assert entry["request"]["bodySize"] == 0
    assert "postData" not in entry["request"]
    assert entry["request"]["headers"] == [{"name": "Host", "value": "example.com"}]
    assert entry["response"]["status"] == 200
    assert entry["response"]["content"] == {"size": 5, "mimeType": "text/plain", "text": "hello"}
    assert entry["response"]["bodySize"] == 5
    assert entry["response"]["_transferSize"] == entry["response"]["headersSize"] + 5
    assert entry["serverIPAddress"] == "127.0.0.1"
    assert entry["connection"] == "443"
    assert (entry["_pid"], entry["_comm"], entry["_exe"]) == (4242, "curl", "/usr/bin/curl")
    assert entry["timings"] == {
        "blocked": pytest.approx(0.6),
        "dns": -1,
        "connect": pytest.approx(1.4),
        "ssl": pytest.approx(0.4),
        "send": 0,
        "wait": 1,
        "receive": 0,
    }
    (page,) = archive["log"]["pages"]
    assert entry["pageref"] == page["id"]
    assert page["title"] == "curl --http1.1 https://example.com/"
    assert archive["log"]["creator"]["name"] == "plaintap"


def test_timings_of_a_connection_that_was_there() -> None:
    talk = Conversation().client(GET).server(answer(b"1")).client(GET).server(answer(b"2"))
    entries = archive_of(read(talk.items))["log"]["entries"]
    assert [entry["timings"]["connect"] for entry in entries] == [1, -1]
    assert entries[1]["timings"]["blocked"] == 0
    assert entries[1]["_connectionId"] == entries[0]["_connectionId"]


@pytest.mark.parametrize(
    ("side", "process", "peer", "initiator"),
    [
        (Side.CLIENT, CURL, None, CURL),
        (Side.CLIENT, CURL, Process(9, "nginx"), CURL),
        (Side.SERVER, Process(9, "nginx"), CURL, CURL),
        (Side.SERVER, Process(9, "nginx"), None, None),
    ],
)
def test_who_asked(side: Side, process: Process, peer: Process | None, initiator: Process | None) -> None:
    talk = Conversation()
    opened = talk.items[0]
    assert isinstance(opened, StreamOpened)
    talk.items[0] = replace(opened, side=side, process=process, peer_process=peer)
    found = entry_of(talk.client(GET).server(answer(b"x"))).get("_initiator")
    if initiator is None:
        assert found is None
    else:
        described = {"pid": initiator.pid, "comm": initiator.comm, "exe": initiator.exe}
        assert found == {"type": "other", "_process": described}


def looked_up(started_ms: int, ended_ms: int, talk: Conversation | None = None) -> list[dict[str, Any]]:
    """The entries of two requests on a connection behind a look-up, in milliseconds before its SYN."""
    talk = talk or Conversation()
    opened = talk.items[0]
    assert isinstance(opened, StreamOpened)
    before = Lookup("a", opened.time_ns - started_ms * STEP_NS, opened.time_ns - ended_ms * STEP_NS)
    talk.items[0] = replace(opened, lookup=before)
    talk.client(GET).server(answer(b"x")).client(GET).server(answer(b"y"))
    entries: list[dict[str, Any]] = archive_of(read(talk.items))["log"]["entries"]
    return entries


def test_the_time_of_a_look_up() -> None:
    without = entry_of(Conversation().client(GET).server(answer(b"x")))
    first, second = looked_up(25, 5)
    assert (first["timings"]["dns"], second["timings"]["dns"]) == (20, -1)
    assert first["timings"]["connect"] == without["timings"]["connect"]
    assert first["timings"]["blocked"] == without["timings"]["blocked"] + 5
    assert first["time"] == without["time"] + 25
    assert first["startedDateTime"] == iso_time(OPENED_NS - 25 * STEP_NS)


@pytest.mark.parametrize(
    ("started_ms", "ended_ms", "why"),
    [(5000, 2000, "long before"), (20, -10, "not before"), (-10, -20, "after")],
)
def test_a_look_up_that_the_connection_did_not_wait_for(started_ms: int, ended_ms: int, why: str) -> None:
    first, _ = looked_up(started_ms, ended_ms)
    assert first["timings"]["dns"] == -1, why


def test_a_look_up_before_a_tunnel_is_that_of_the_proxy_s_name() -> None:
    talk = (
        Conversation()
        .client(b"CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n")
        .server(b"HTTP/1.1 200 OK\r\n\r\n")
    )
    connect, first, _ = looked_up(25, 5, talk)
    assert (connect["timings"]["dns"], first["timings"]["dns"]) == (20, -1)


def test_timings_of_a_connection_older_than_the_recording() -> None:
    talk = Conversation(handshake_seen=False).client(GET).server(answer(b"1"))
    assert entry_of(talk)["timings"]["connect"] == -1


def test_a_connection_that_the_client_was_slow_to_use_is_waited_for() -> None:
    entry = entry_of(Conversation().waits(100_000_000).client(GET).server(answer(b"1")))
    assert (entry["timings"]["connect"], round(entry["timings"]["blocked"])) == (1, 101)


@pytest.mark.parametrize("waited_ms", [400, 2000])
def test_a_connection_opened_ahead_of_need_is_not_waited_for(waited_ms: int) -> None:
    entry = entry_of(Conversation().waits(waited_ms * 1_000_000).client(GET).server(answer(b"1")))
    assert entry["timings"]["connect"] == -1
    assert entry["timings"]["blocked"] == 0
    assert entry["startedDateTime"] == iso_time(OPENED_NS + 2 * STEP_NS + waited_ms * 1_000_000)


def test_send_wait_and_receive() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    talk = (
        Conversation()
        .client(post)
        .client(b"a")
        .client(b"b")
        .server(answer(b"xy")[:-2])
        .server(b"x")
        .server(b"y")
    )
    timings = entry_of(talk)["timings"]
    assert (timings["send"], timings["wait"], timings["receive"]) == (2, 1, 2)
    assert STEP_NS == 1_000_000


@pytest.mark.parametrize(
    ("target", "host", "tls", "port", "url"),
    [
        (b"/x?y#z", b"a", None, 80, "http://a/x?y%23z"),
        (b"/", b"a:8080", None, 8080, "http://a:8080/"),
        (b"/", b"a:80", None, 80, "http://a/"),
        (b"/", b"a:443", HTTPS, 443, "https://a/"),
        (b"/", b"[::1]:8443", HTTPS, 8443, "https://[::1]:8443/"),
        (b"/", None, HTTPS, 8443, "https://example.com:8443/"),
        (b"/", None, None, 81, "http://127.0.0.1:81/"),
        (b"/", b"two words", None, 80, "http://127.0.0.1/"),
        (b"http://b/c?d", b"a", None, 3128, "http://b/c?d"),
        (b"*", b"a", None, 80, "http://a"),
        (b"/a#b?c=1#d", b"a", None, 80, "http://a/a%23b?c=1%23d"),
        (b"http://b#c", b"a", None, 80, "http://b/%23c"),
        (b"/sp ace\xff\"<>", b"a", None, 80, "http://a/sp%20ace%FF%22%3C%3E"),
        (b"relative", b"a", None, 80, "http://a/relative"),
    ],
)  # fmt: skip
def test_urls(target: bytes, host: bytes | None, tls: Tls | None, port: int, url: str) -> None:
    named = b"" if host is None else b"Host: " + host + b"\r\n"
    talk = Conversation(tls=tls, port=port).client(b"GET " + target + b" HTTP/1.1\r\n" + named + b"\r\n")
    assert entry_of(talk)["request"]["url"] == url


def test_a_url_of_an_ipv6_address() -> None:
    talk = Conversation(address=bytes(15) + b"\x01", port=8080).client(b"GET / HTTP/1.0\r\n\r\n")
    entry = entry_of(talk)
    assert entry["request"]["url"] == "http://[::1]:8080/"
    assert entry["serverIPAddress"] == "::1"


def test_an_ipv4_address_in_ipv6_form_is_shown_as_what_it_is() -> None:
    mapped = bytes(10) + b"\xff\xff\x0a\x00\x00\x05"
    assert entry_of(Conversation(address=mapped).client(GET))["serverIPAddress"] == "10.0.0.5"


def test_query_strings_and_cookies() -> None:
    request = (
        b"GET /?a=1&b=%C3%A9+x&c&d=%FF&=e&a=2 HTTP/1.1\r\nHost: a\r\n"
        b'Cookie: sid=1; theme="dark"; odd\r\nCookie: more=2\r\n\r\n'
    )
    set_cookies = (
        b"Set-Cookie: sid=2; Path=/; Domain=a.example; Secure; HttpOnly; SameSite=Lax",
        b"Set-Cookie: old=; Expires=Wed, 21 Oct 2015 07:28:00 GMT",
        b"Set-Cookie: new=x=y; Max-Age=60; Expires=Wed, 21 Oct 2015 07:28:00 GMT",
        b"Set-Cookie: strange; Expires=whenever; Max-Age=soon",
    )
    entry = entry_of(Conversation().client(request).server(answer(b"", *set_cookies)))
    assert entry["request"]["queryString"] == [
        {"name": "a", "value": "1"},
        {"name": "b", "value": "é x"},
        {"name": "c", "value": ""},
        {"name": "d", "value": "%FF"},
        {"name": "", "value": "e"},
        {"name": "a", "value": "2"},
    ]
    assert entry["request"]["cookies"] == [
        {"name": "sid", "value": "1"},
        {"name": "theme", "value": '"dark"'},
        {"name": "", "value": "odd"},
        {"name": "more", "value": "2"},
    ]
    first, expired, lasting, strange = entry["response"]["cookies"]
    assert first == {
        "name": "sid",
        "value": "2",
        "path": "/",
        "domain": "a.example",
        "secure": True,
        "httpOnly": True,
        "sameSite": "Lax",
    }
    assert expired["expires"] == "2015-10-21T07:28:00Z"
    assert (lasting["value"], lasting["expires"]) == ("x=y", "2023-11-14T22:14:20Z")
    assert strange == {"name": "", "value": "strange", "httpOnly": False, "secure": False}


@pytest.mark.parametrize(
    ("date", "expires"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", "2015-10-21T07:28:00Z"),
        ("Wednesday, 21-Oct-15 7:28:0 GMT", "2015-10-21T07:28:00Z"),
        ("Wed Oct 21 07:28:00 2015", "2015-10-21T07:28:00Z"),
        ("Wed Oct 21 2015 07:28:00 GMT+0200 (CEST)", "2015-10-21T07:28:00Z"),
        ("Wed, 21/October/2015 07:28:00", "2015-10-21T07:28:00Z"),
        ("Tue, 01 Jan 69 00:00:00 GMT", "2069-01-01T00:00:00Z"),
        ("Thu, 01-Jan-70 00:00:00 GMT", "1970-01-01T00:00:00Z"),
        ("Mon, 01 Jan 0999 00:00:00 GMT", None),
        ("Wed, 21 Oct 2015 07.28.00 GMT", None),
        ("Sun, 29 Feb 2015 07:28:00 GMT", None),
        ("2015-10-21T07:28:00Z", None),
        ("Session", None),
        ("Tue, 01 \u017fep 2026 00:00:00 GMT", None),  # a letter whose upper case is S
    ],
)
def test_a_date_of_a_cookie_is_what_browsers_read(date: str, expires: str | None) -> None:
    (cookie,) = response_cookies(Fields(((b"set-cookie", f"a=b; expires={date}".encode()),)), OPENED_NS)
    assert cookie.get("expires") == expires


@pytest.mark.parametrize(
    ("age", "expires"),
    [
        (31536000000, "3023-03-17T22:13:20Z"),
        (10**17, "9999-12-31T23:59:59Z"),
        (-(10**12), "1970-01-01T00:00:00Z"),
    ],
)
def test_an_age_of_any_size(age: int, expires: str) -> None:  # some servers give milliseconds
    (cookie,) = response_cookies(Fields(((b"Set-Cookie", b"a=b; Max-Age=%d" % age),)), OPENED_NS)
    assert (cookie["expires"], cookie["_maxAge"]) == (expires, age)


def test_parameters_of_parts_in_any_case() -> None:
    body = b"--x\r\nContent-Disposition: Form-Data; Name=a; FileName=b\r\n\r\n1\r\n--x--"
    (part,) = multipart_parameters(body, b"multipart/form-data; boundary=x")
    assert (part["name"], part["fileName"]) == ("a", "b")


@pytest.mark.parametrize("year", ["99999999999999999999", "10000", "-1"])
def test_a_date_that_no_calendar_has_is_left_out(year: str) -> None:
    date = f"Wed, 21 Oct {year} 07:28:00 GMT"
    talk = Conversation().client(GET)
    talk.server(b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=b; Expires=%s\r\n\r\n" % date.encode())
    (cookie,) = entry_of(talk)["response"]["cookies"]
    assert "expires" not in cookie


def post(body: bytes, kind: bytes, *fields: bytes) -> Conversation:
    """An upload of ``body``."""
    lines = b"".join(field + b"\r\n" for field in (b"Content-Type: " + kind, *fields))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % len(body) + lines
    return Conversation().client(head + b"\r\n" + body).server(answer(b""))


def test_a_posted_form() -> None:
    posted = entry_of(post(b"a=1&b=%20x+y&c", b"application/x-www-form-urlencoded"))["request"]["postData"]
    assert posted["text"] == "a=1&b=%20x+y&c"
    assert posted["params"] == [
        {"name": "a", "value": "1"},
        {"name": "b", "value": " x y"},
        {"name": "c", "value": ""},
    ]


def test_a_posted_multipart_form() -> None:
    body = (
        b'preamble\r\n--XX\r\nContent-Disposition: form-data; name="field"\r\n\r\nva\r\nlue\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a \\"b\\".bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\x00\x01\xff\r\n--XX--\r\nepilogue"
    )
    posted = entry_of(post(body, b'multipart/form-data; boundary="XX"'))["request"]["postData"]
    assert posted["params"] == [
        {"name": "field", "value": "va\r\nlue"},
        {
            "name": "file",
            "fileName": 'a "b".bin',
            "contentType": "application/octet-stream",
            "value": "(binary)",
        },
    ]
    assert body_of(posted) == body


def test_a_multipart_form_as_python_s_email_package_writes_it() -> None:
    """Its lines end in LF, and long ones go on in the next."""
    form = MIMEMultipart("form-data", "XX")
    long = "a name that is long enough for a line of its own " * 2
    for name, content in (("field", "va\nlue"), (long, "x")):
        part = MIMENonMultipart("text", "plain")
        part.add_header("Content-Disposition", "form-data", name=name)
        part.set_payload(content)
        form.attach(part)
    body = form.as_bytes().partition(b"\n\n")[2]
    assert b";\n name=" in body
    posted = entry_of(post(body, b"multipart/form-data; boundary=XX"))["request"]["postData"]
    assert [(part["name"], part["value"]) for part in posted["params"]] == [("field", "va\nlue"), (long, "x")]


def test_uploads_are_exact() -> None:
    for body, kind in (
        (b'{"a":"\xc3\xa9"}', b"application/json"),
        (b"\x00\xff", b"application/octet-stream"),
    ):
        entry = entry_of(post(body, kind))
        assert body_of(entry["request"]["postData"]) == body
        assert entry["request"]["bodySize"] == len(body)
    packed = gzip.compress(b"text" * 100)
    entry = entry_of(post(packed, b"text/plain", b"Content-Encoding: gzip"))
    assert entry["request"]["postData"]["text"] == "text" * 100
    assert entry["request"]["bodySize"] == len(packed)


def raw_deflate(data: bytes) -> bytes:
    """Deflate without zlib's header, which some servers send as ``deflate``."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
BODY = "naïve text ".encode() * 500


@pytest.mark.parametrize("coding", CODINGS)
def test_content_codings(coding: str) -> None:
    packed = CODINGS[coding](BODY)
    talk = (
        Conversation()
        .client(GET)
        .server(answer(packed, b"Content-Type: text/plain", b"Content-Encoding: " + coding.encode()))
    )
    response = entry_of(talk)["response"]
    content = response["content"]
    assert body_of(content) == BODY
    assert content["size"] == len(BODY)
    assert content["compression"] == len(BODY) - len(packed)
    assert response["bodySize"] == len(packed)


def test_what_a_coding_saves_is_counted_against_the_body_size() -> None:
    packed = gzip.compress(BODY)
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = entry_of(Conversation().client(GET).server(head + framed))["response"]
    assert response["bodySize"] == len(framed)
    assert response["content"]["size"] - response["content"]["compression"] == response["bodySize"]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        (b"aws-chunked", BODY),
        (b"aws-chunked,gzip", gzip.compress(BODY)),
        (b"gzip, aws-chunked", gzip.compress(BODY)),
    ],
    ids=["as it is", "gzip behind", "gzip before"],
)
def test_what_is_uploaded_to_s3(coding: bytes, body: bytes) -> None:
    """Its chunks are around all other codings, wherever they are named."""
    packed = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n" % (len(body), body)
    head = b"PUT /b/k HTTP/1.1\r\nHost: s3\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
    talk = Conversation().client(head % (coding, len(packed)) + packed).server(answer(b""))
    request = entry_of(talk)["request"]
    assert body_of(request["postData"]) == BODY
    assert request["bodySize"] == len(packed)
    assert "_decodingProblem" not in request


def test_deflate_without_its_header_and_stacked_codings() -> None:
    stacked = brotli.compress(gzip.compress(BODY))
    for packed, coding in ((raw_deflate(BODY), b"deflate"), (stacked, b"gzip, br"), (BODY, b"identity")):
        talk = Conversation().client(GET).server(answer(packed, b"Content-Encoding: " + coding))
        assert body_of(entry_of(talk)["response"]["content"]) == BODY


def test_a_transfer_coding_is_undone_as_well() -> None:
    packed = gzip.compress(BODY)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    talk = Conversation().client(GET).server(head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed))
    assert body_of(entry_of(talk)["response"]["content"]) == BODY


@pytest.mark.parametrize("coding", CODINGS)
def test_a_truncated_coded_body_is_decoded_as_far_as_it_goes(coding: str) -> None:
    plain = os.urandom(300_000)
    packed = CODINGS[coding](plain)
    half = len(packed) // 2
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Encoding: %s\r\n\r\n" % (
        len(packed),
        coding.encode(),
    )
    talk = Conversation().client(GET).server(head, packed[:half]).gap(Side.SERVER, len(packed) - half)
    response = entry_of(talk)["response"]
    decoded = body_of(response["content"])
    assert len(decoded) > 100_000
    assert plain.startswith(decoded)
    assert response["_lostBytes"] == len(packed) - half
    assert response["comment"].startswith(f"truncated: {len(packed) - half} bytes lost (ring-full)")


def test_what_cannot_be_decoded_is_kept_as_it_was_sent() -> None:
    for coding in (b"gzip", b"zstd", b"br", b"martian"):
        talk = Conversation().client(GET).server(answer(b"\xffnot coded", b"Content-Encoding: " + coding))
        response = entry_of(talk)["response"]
        assert body_of(response["content"]) == b"\xffnot coded"
        assert response["_decodingProblem"]


def test_what_the_limit_cut_is_not_the_coding_s_fault() -> None:
    for coding, pack in CODINGS.items():
        packed = pack(os.urandom(300_000))
        talk = Conversation().client(GET).server(answer(packed, b"Content-Encoding: " + coding.encode()))
        (exchange,) = exchanges(talk.items, Limits(body_bytes=200_000))
        response = EntryMaker().entry_of(exchange)["response"]
        assert response["_decodingProblem"] == "only the first 200000 bytes, before decoding, are kept"


def test_bytes_that_were_lost_are_not_the_coding_s_fault() -> None:
    for coding, pack in CODINGS.items():
        packed = pack(os.urandom(300_000))
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Encoding: %s\r\n\r\n"
        talk = Conversation().client(GET).server(head % (len(packed), coding.encode()), packed[:100_000])
        talk.gap(Side.SERVER, 100_000).server(packed[200_000:])
        problem = "bytes were lost, and what comes after them cannot be decoded"
        assert entry_of(talk)["response"]["_decodingProblem"] == problem


def test_codings_without_end_are_a_problem() -> None:
    for kind in (b"text/plain", b"text/event-stream"):
        coding = b"Content-Encoding: " + b", ".join([b"gzip"] * 2000)
        talk = Conversation().client(GET).server(answer(b"x", b"Content-Type: " + kind, coding))
        response = entry_of(talk)["response"]
        assert response["_decodingProblem"] == "more than 8 codings on top of each other"
        assert body_of(response["content"]) == b"x"


def test_a_decompression_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(gzip.compress(bytes(50_000_000)))
    talk = Conversation().client(GET).server(answer(bomb, b"Content-Encoding: gzip, gzip"))
    output = io.BytesIO()
    write_har(exchanges(talk.items), output, EntryMaker(Limits(decoded_bytes=1_000_000)))
    response = json.loads(output.getvalue())["log"]["entries"][0]["response"]
    assert response["content"]["size"] == 1_000_000
    assert "only the first 1000000" in response["comment"]


@pytest.mark.parametrize(
    ("body", "kind", "is_text"),
    [
        ("é".encode(), b"text/html; charset=utf-8", True),
        ("é".encode(), b"text/html", True),
        (b"\xef\xbb\xbfbom", b"text/plain", True),
        ("é".encode("latin-1"), b"text/html; charset=iso-8859-1", False),
        ("é".encode(), b"text/html; charset=iso-8859-1", False),
        (b"ascii", b"text/html; charset=iso-8859-1", True),
        ("é".encode("utf-16"), b"text/html; charset=utf-16", False),
        (b"a\0", b"text/plain; charset=utf-16", False),
        (b"<meta charset=windows-1251>\xc3\xa9", b"text/html", False),
        (b"{}", b"application/problem+json", True),
        (b"plain", b"", True),
        (b"\x00\x01", b"", False),
        (b"GIF89a", b"image/gif", False),
        (b"<svg/>", b"image/svg+xml", True),
        (b"\xff\xfe", b"application/json", False),
    ],
)
def test_text_and_base64(body: bytes, kind: bytes, is_text: bool) -> None:
    content = entry_of(Conversation().client(GET).server(answer(body, b"Content-Type: " + kind)))["response"][
        "content"
    ]
    assert body_of(content) == body
    assert ("encoding" not in content) == is_text
    assert content["mimeType"] == (kind.decode() or "x-unknown")


@given(
    st.binary(max_size=300), st.sampled_from([b"text/html", b"application/json; charset=latin1", b"", b"a/b"])
)
def test_every_body_keeps_its_hash(body: bytes, kind: bytes) -> None:
    output = io.BytesIO()
    talk = Conversation().client(GET).server(answer(body, b"Content-Type: " + kind))
    write_har(read(talk.items), output)
    content = json.loads(output.getvalue())["log"]["entries"][0]["response"]["content"]
    assert hashlib.sha256(body_of(content)).digest() == hashlib.sha256(body).digest()


def test_what_was_not_recorded_is_a_marked_placeholder() -> None:
    talk = Conversation(handshake_seen=False).server(answer(b"orphan"))
    request = entry_of(talk)["request"]
    assert request["_unknown"] == ["method", "url"]
    assert request["url"] == "http://127.0.0.1/(not-recorded)"
    assert request["method"] == "UNKNOWN"


def test_a_request_without_a_response_says_why() -> None:
    entry = entry_of(Conversation().client(GET).closes(Side.SERVER, reset=True))
    assert entry["response"]["status"] == 0
    assert entry["response"]["_error"] == "no response: the connection was reset"
    assert entry["_outcome"] == "the connection was reset"


def test_lost_bytes_are_told_on_the_message_and_the_entry() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n"
    talk = Conversation().client(GET).server(head, b"ab").gap(Side.SERVER, 8, "fault")
    entry = entry_of(talk)
    assert entry["_lostBytes"] == entry["response"]["_lostBytes"] == 8
    assert entry["response"]["comment"] == "truncated: 8 bytes lost (fault)"
    assert entry["response"]["_lostRanges"] == [{"offset": 2, "length": 8, "reason": "fault"}]
    assert entry["response"]["content"] == {"size": 10, "mimeType": "text/plain", "text": "ab"}


@pytest.mark.parametrize(
    ("request_fields", "kind", "expected"),
    [
        (b"", b"text/html", "document"),
        (b"", b"text/css", "stylesheet"),
        (b"", b"application/javascript", "script"),
        (b"", b"application/json", "fetch"),
        (b"", b"image/png", "image"),
        (b"", b"font/woff2", "font"),
        (b"", b"video/mp4", "media"),
        (b"", b"text/event-stream", "eventsource"),
        (b"Sec-Fetch-Dest: empty\r\n", b"text/html", "fetch"),
        (b"Sec-Fetch-Dest: iframe\r\n", b"text/html", "document"),
        (b"", b"application/octet-stream", "other"),
    ],
)
def test_resource_types(request_fields: bytes, kind: bytes, expected: str) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n" + request_fields + b"\r\n"
    talk = Conversation().client(request).server(answer(b"x", b"Content-Type: " + kind))
    assert entry_of(talk)["_resourceType"] == expected


# How the file grows.


def test_the_file_is_an_archive_after_every_flush(tmp_path: Path) -> None:
    path = tmp_path / "live.har"
    reader = ExchangeReader()
    with path.open("w+b") as output:
        writer = HarWriter(output)
        writer.flush()
        assert json.loads(path.read_bytes())["log"]["entries"] == []
        written = 0
        for stream in range(5):
            process = Process(stream, f"client{stream}")
            for item in Conversation(stream, process=process).client(GET).server(answer(b"x")).items:
                for exchange in reader.feed(item):
                    writer.write(exchange)
                    writer.flush()
                    written += 1
                    log = json.loads(path.read_bytes())["log"]
                    assert len(log["entries"]) == len(log["pages"]) == written
        result = writer.close(reader.notes)
    assert result.entries == 5
    assert json.loads(path.read_bytes())["log"]["comment"] == "streams: 5, exchanges: 5"


def overtaken() -> list[Exchange]:
    """Exchanges in the order in which they end, which is not that of their start."""
    items = []
    for stream, waits_ns in ((1, 10**9), (2, 0), (3, 10**8)):
        talk = Conversation(stream, handshake_seen=False).waits(stream * 1000)
        talk.client(GET.replace(b"/a", b"/%d" % stream)).waits(waits_ns)
        items += talk.server(answer(b"x")).items
    items.sort(key=lambda item: item.time_ns)
    return read(items)


@pytest.mark.parametrize("form", EXPORTERS)
def test_entries_are_in_the_order_of_their_start(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def order() -> list[str]:
        output = io.BytesIO()
        writer = EXPORTERS[form](output, EntryMaker())
        for exchange in overtaken():
            writer.write(exchange)
        writer.close()
        return re.findall(r"https?://example.com/(\d)", output.getvalue().decode())

    assert order() == ["1", "2", "3"]
    monkeypatch.setattr("exporters.har.MAX_SORTED_BYTES", 100)
    assert order() == ["2", "3", "1"], "those that are too many are not held for ever"


def test_requests_that_were_sent_at_once_are_in_the_order_of_their_streams() -> None:
    talk = H2Talk()
    talk.respond(talk.request(path="/first"), b"x")
    asked = ["/large", "/small", "/smallest"]
    streams = []
    for path in asked:
        streams.append(stream := talk.client.get_next_available_stream_id())
        head = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", path)]
        talk.client.send_headers(stream, head, end_stream=True)
    talk.pump()
    for stream in reversed(streams):
        talk.respond(stream, b"x")
    entries = archive_of(read(talk.conversation.items))["log"]["entries"]
    assert len({entry["startedDateTime"] for entry in entries}) == 2
    assert [entry["request"]["url"] for entry in entries[1:]] == [f"https://a{path}" for path in asked]


def test_a_page_begins_with_its_first_entry() -> None:
    log = archive_of(overtaken())["log"]
    assert log["pages"][0]["startedDateTime"] == log["entries"][0]["startedDateTime"]


class Pipe(io.BytesIO):
    """An output that cannot be rewound."""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0) -> int:
        raise OSError("a pipe has no position")

    def tell(self) -> int:
        raise OSError("a pipe has no position")


def test_a_pipe_gets_one_archive() -> None:
    output = Pipe()
    writer = HarWriter(output)
    for exchange in read(Conversation().client(GET).server(answer(b"x")).items):
        writer.write(exchange)
        writer.flush()
    writer.close()
    assert len(json.loads(output.getvalue())["log"]["entries"]) == 1


def test_an_archive_without_exchanges() -> None:
    assert archive_of([])["log"]["entries"] == []


def test_processes_with_the_same_pid_have_pages_of_their_own() -> None:
    found = []
    for stream, line in ((1, "a"), (2, "b"), (3, "a")):
        talk = Conversation(stream, process=Process(7, "x", None, line))
        found += read(talk.client(GET).server(answer(b"x")).items)
    log = archive_of(found)["log"]
    assert [page["title"] for page in log["pages"]] == ["a", "b"]
    assert [entry["pageref"] for entry in log["entries"]] == [
        log["pages"][0]["id"], log["pages"][1]["id"], log["pages"][0]["id"]
    ]  # fmt: skip


# The judge that users have: devtools.


def varied_exchanges() -> list[Exchange]:
    """Exchanges of every kind that HTTP/1 has."""
    items = []
    talk = Conversation(1, HTTPS, port=443)
    opened = talk.items[0]
    assert isinstance(opened, StreamOpened)
    talk.items[0] = replace(
        opened, lookup=Lookup("example.com", OPENED_NS - 9 * STEP_NS, OPENED_NS - 2 * STEP_NS)
    )
    talk.client(GET).server(answer(b"<p>hi</p>", b"Content-Type: text/html; charset=utf-8"))
    form = b"a=1&b=2"
    talk.client(
        b"POST /form HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 7\r\n\r\n" + form
    )
    talk.server(answer(b'{"ok":true}', b"Content-Type: application/json", status=b"201 Created"))
    talk.client(GET.replace(b"/a", b"/z"))
    talk.server(answer(gzip.compress(BODY), b"Content-Type: text/plain", b"Content-Encoding: gzip"))
    talk.client(GET.replace(b"/a", b"/img"))
    talk.server(answer(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", b"Content-Type: image/gif"))
    talk.client(GET.replace(b"/a", b"/moved"))
    talk.server(answer(b"", b"Location: https://example.com/new", status=b"302 Found"))
    items += talk.items
    other = Conversation(2, process=Process(7, "python3"), port=8080)
    other.client(GET.replace(b"example.com", b"localhost:8080")).server(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"
    )
    other.gap(Side.SERVER, 7).client(GET.replace(b"/a", b"/unanswered"))
    items += other.items
    items += Conversation(3, handshake_seen=False, process=None).server(answer(b"orphan")).items
    return read(items)


def message_streams() -> list[Exchange]:
    """Exchanges that are sequences of messages, over HTTP/1 and HTTP/2."""
    socket = Conversation(1)
    socket.client(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    socket.server(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    socket.client(b"\x81\x82\x00\x00\x00\x00hi").server(b"\x81\x05hello\x82\x02\x00\xff")
    socket.closes(Side.SERVER).closes(Side.CLIENT)
    events = Conversation(2).client(GET.replace(b"/a", b"/events"))
    events.server(
        answer(b"event: tick\nid: 7\ndata: one\n\ndata: two\n\n", b"Content-Type: text/event-stream")
    )
    talk = H2Talk(Conversation(3, Tls(alpn="h2", server_name="a"), port=443))
    talk.respond(
        talk.request([("priority", "u=0")], path="/h2"), b"{}", [("content-type", "application/json")]
    )
    kind = ("content-type", "application/grpc")
    call = talk.request([kind], b"\0\0\0\0\x03ask", "/s.S/M", "POST")
    talk.respond(call, b"\0\0\0\0\x02ok", [kind], trailers=[("grpc-status", "0")])
    return [*read(socket.items), *read(events.items), *read(talk.conversation.items)]


def test_sequences_of_messages_in_the_archive() -> None:
    socket, events, plain, call = archive_of(message_streams())["log"]["entries"]
    assert [
        (message["type"], message["opcode"], message["data"]) for message in socket["_webSocketMessages"]
    ] == [
        ("send", 1, "hi"),
        ("receive", 1, "hello"),
        ("receive", 2, "AP8="),
    ]
    assert socket["_webSocketMessages"][0]["time"] == pytest.approx((OPENED_NS + 4 * STEP_NS) / 1e9)
    assert (socket["_resourceType"], socket["request"]["url"]) == ("websocket", "ws://a/ws")
    assert [
        (event["eventName"], event["eventId"], event["data"]) for event in events["_eventSourceMessages"]
    ] == [
        ("tick", "7", "one"),
        ("message", "7", "two"),
    ]
    assert (plain["_priority"], plain["request"]["httpVersion"]) == ("VeryHigh", "HTTP/2.0")
    assert call["_grpc"] == {
        "service": "s.S",
        "method": "M",
        "status": 0,
        "statusName": "OK",
        "message": "",
        "requestMessages": [{"size": 3, "compressed": False}],
        "responseMessages": [{"size": 2, "compressed": False}],
        "complete": True,
    }
    assert body_of(call["response"]["content"]) == b"\0\0\0\0\x02ok"


def test_devtools_show_sequences_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "streams.har"
    with path.open("wb+") as output:
        write_har(message_streams(), output)
    found = devtools.import_har(path)
    assert found["problems"] == []
    socket, events, plain, call = found["requests"]
    assert [(frame["type"], frame["text"]) for frame in socket["webSocketMessages"]] == [
        ("send", "hi"),
        ("receive", "hello"),
        ("receive", "AP8="),
    ]
    assert (socket["type"], socket["url"]) == ("websocket", "ws://a/ws")
    assert events["eventSourceMessages"] == [
        {"name": "tick", "id": "7", "data": "one"},
        {"name": "message", "id": "7", "data": "two"},
    ]
    assert (plain["protocol"], plain["priority"], plain["type"]) == ("h2", "VeryHigh", "fetch")
    assert call["status"] == 200


def test_devtools_read_odd_exchanges_too(tmp_path: Path) -> None:
    found = odd_exchanges(big=2_000_000)
    path = tmp_path / "odd.har"
    path.write_text(json.dumps(archive_of(found)))
    shown = devtools.import_har(path)
    assert shown["problems"] == []
    assert len(shown["requests"]) == len(found) > 100
    assert [request for request in shown["requests"] if "error" in request["content"]] == []


def seconds_of(text: str) -> float:
    """A time as HAR has it, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def test_devtools_show_every_entry_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "varied.har"
    with path.open("wb+") as output:
        write_har(varied_exchanges(), output)
    entries = json.loads(path.read_bytes())["log"]["entries"]
    found = devtools.import_har(path)
    assert found["problems"] == []
    assert len(found["requests"]) == len(entries) == 8
    assert sum(entry["timings"]["dns"] == 7 for entry in entries) == 1
    shown = {request["url"]: request for request in found["requests"]}
    for entry in entries:
        request = shown[entry["request"]["url"]]
        response = entry["response"]
        assert request["method"] == entry["request"]["method"]
        assert request["status"] == response["status"]
        assert request["type"] == entry["_resourceType"]
        assert request["remoteAddress"] == f"{entry['serverIPAddress']}:{entry['connection']}"
        assert request["connectionId"] == entry["_connectionId"]
        assert request["durationMs"] == pytest.approx(entry["time"], abs=0.01)
        assert request["startSeconds"] == pytest.approx(seconds_of(entry["startedDateTime"]), abs=0.001)
        for phase, shown_ms in request["phasesMs"].items():
            taken = entry["timings"][phase]
            assert shown_ms == (pytest.approx(taken, abs=0.001) if taken >= 0 else None), phase
        assert request["statusText"] == response["statusText"]
        for ours, theirs in ((entry["request"], "requestHeaders"), (response, "responseHeaders")):
            assert [[h["name"], h["value"]] for h in ours["headers"]] == [
                [h["name"], h["value"]] for h in request[theirs]
            ]
        if "_initiator" in entry:
            assert request["initiator"]["type"] == entry["_initiator"]["type"]
            assert entry["_initiator"]["_process"]["pid"] == entry["_pid"]
        assert request["transferSize"] == response["_transferSize"]
        if response["status"]:
            assert request["protocol"] == "http/1.1"
            content = request["content"]
            body = base64.b64decode(content["base64"]) if "base64" in content else content["text"].encode()
            assert body == body_of(response["content"])
            # The panel takes what was transferred for the size of no content.
            assert request["resourceSize"] == (response["content"]["size"] or response["_transferSize"])
        assert request["postData"] == entry["request"].get("postData", {}).get("text")
    names = [row[0] for row in found["rows"]]
    assert len([name for name in names if name]) >= 8
