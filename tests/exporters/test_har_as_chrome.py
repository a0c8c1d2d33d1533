"""What Chrome's own archive of the same load says, field by field, and where the two used to differ.

The whole comparison, with Chrome, is tests/kernel/test_chrome_har.py.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from typing import TYPE_CHECKING, Any

import har_schema
import pytest
from archives import write_har
from h2_talk import H2Talk
from http_streams import Conversation, read

from capture.streams import Side
from exporters.har import EntryMaker
from exporters.har_redaction import REDACTED, Redaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporters.http import Exchange

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


def entries_of(found: Iterable[Exchange], redaction: Redaction | None = None) -> list[dict[str, Any]]:
    """The entries of an archive that the schema accepts."""
    output = io.BytesIO()
    write_har(found, output, EntryMaker(redaction=redaction or Redaction.of(sensitive=True)))
    archive: dict[str, Any] = json.loads(output.getvalue())
    assert har_schema.problems(archive) == []
    entries: list[dict[str, Any]] = archive["log"]["entries"]
    return entries


def entry_of(talk: Conversation, redaction: Redaction | None = None) -> dict[str, Any]:
    """The only entry of a conversation."""
    (entry,) = entries_of(read(talk.items), redaction)
    return entry


def pairs(message: dict[str, Any]) -> list[tuple[str, str]]:
    """A message's headers."""
    return [(header["name"], header["value"]) for header in message["headers"]]


def test_the_cookies_of_http_2_are_one_header() -> None:
    talk = H2Talk()
    crumbs = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", 'b="2 3"'), ("x-last", "1")]
    talk.respond(talk.request(crumbs))
    request = entry_of(talk.conversation)["request"]
    assert pairs(request)[4:] == [("cookie", 'a=1; b="2 3"'), ("accept", "*/*"), ("x-last", "1")]
    assert request["cookies"] == [{"name": "a", "value": "1"}, {"name": "b", "value": '"2 3"'}]
    redacted = entry_of(talk.conversation, Redaction.of())["request"]
    assert pairs(redacted)[4:] == [("cookie", REDACTED), ("accept", "*/*"), ("x-last", "1")]


def test_the_cookies_of_http_1_are_as_they_were_sent() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"
    assert pairs(entry_of(Conversation().client(request))["request"])[1:] == [
        ("Cookie", "a=1"),
        ("Cookie", "b=2"),
    ]


def test_the_status_of_http_2_is_no_header() -> None:
    talk = H2Talk()
    stream = talk.request()
    talk.server.send_headers(stream, [(":status", "103"), ("link", "</a>; rel=preload")])
    talk.respond(stream, b"x", [("x-a", "1")])
    response = entry_of(talk.conversation)["response"]
    assert (response["status"], pairs(response)) == (200, [("x-a", "1")])
    assert [pairs(interim) for interim in response["_interim"]] == [[("link", "</a>; rel=preload")]]


def test_interim_responses_were_transferred_too() -> None:
    early, final = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    )
    response = entry_of(Conversation().client(GET).server(early).server(final, b"ok"))["response"]
    assert (response["headersSize"], response["bodySize"]) == (len(final), 2)
    assert response["_transferSize"] == len(early) + len(final) + 2


@pytest.mark.parametrize("chunked", [False, True])
def test_the_size_of_what_is_posted_is_that_of_the_data(chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 7"
    body = b"4\r\na=1&\r\n3\r\nb=2\r\n0\r\n\r\n" if chunked else b"a=1&b=2"
    talk = Conversation().client(b"POST / HTTP/1.1\r\nHost: a\r\n", framing, b"\r\n\r\n", body)
    assert entry_of(talk)["request"]["bodySize"] == 7


def test_the_size_of_what_is_posted_over_http_2_is_that_of_the_data() -> None:
    talk = H2Talk()
    talk.respond(talk.request(body=b"x" * 40_000, method="POST"))
    assert entry_of(talk.conversation)["request"]["bodySize"] == 40_000


def test_lost_bytes_of_what_is_posted_count() -> None:
    talk = Conversation().client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
    assert entry_of(talk.gap(Side.CLIENT, 7))["request"]["bodySize"] == 9


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"403 Forbidden", None])
def test_a_websocket_has_its_scheme_whatever_the_answer(status: bytes | None) -> None:
    talk = Conversation().client(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
    )
    if status is not None:
        talk.server(b"HTTP/1.1 " + status + b"\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
    entry = entry_of(talk)
    assert (entry["request"]["url"], entry["_resourceType"]) == ("ws://a/ws", "websocket")


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/a?x=[1]|{2}^`'", "/a?x=[1]|{2}^`'"),
        (b'/a b\\"<>\xc3\xa9\x7f', "/a%20b%5C%22%3C%3E%C3%A9%7F"),
        (b"/a\\b?c:\\d e?\\", "/a%5Cb?c:\\d%20e?\\"),
    ],
)
def test_urls_are_as_browsers_write_them(target: bytes, shown: str) -> None:
    talk = Conversation().client(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert entry_of(talk)["request"]["url"] == f"http://a{shown}"


def test_of_two_media_types_the_last_counts() -> None:
    kinds = b"Content-Type: text/plain\r\nContent-Type: text/html; charset=windows-1252\r\n"
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\n" + kinds + b"Content-Length: 1\r\n\r\n\xe9")
    entry = entry_of(talk)
    assert [value for name, value in pairs(entry["response"]) if name == "Content-Type"] == [
        "text/plain", "text/html; charset=windows-1252"
    ]  # fmt: skip
    content = entry["response"]["content"]
    assert (content["mimeType"], content["_charset"]) == ("text/html; charset=windows-1252", "windows-1252")
    assert entry["_resourceType"] == "document"


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("a:8080", "a:8080"), ("a:", "a"), ("user:p@a", "user:p@a"), ("[::1]:8080", "[::1]:8080"), ("a..b", "a..b"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"), ("10.0.0.1", "10.0.0.1"), ("a.", "a."), ("1.a", "1.a"),
        *((none, "127.0.0.1") for none in ("a:99999", "a:b", ":80", "%", "a%41", "::1", "[::1", "[fe80::1%25eth0]",
        "[1.2.3.4]", "999.1.1.1", "1.2.3.4.5", "1.2.3.4.5.", "a.0x1g.0x1f", "xn--a", "a b", "a/b", "a@b@", "a^b")),
    ],
)  # fmt: skip
def test_a_host_that_is_none_is_the_address(host: str, shown: str) -> None:
    talk = Conversation().client(b"GET /x HTTP/1.1\r\nHost: ", host.encode(), b"\r\n\r\n")
    request = entry_of(talk)["request"]
    assert request["url"] == f"http://{shown}/x"
    assert pairs(request) == [("Host", host)]


@pytest.mark.parametrize(
    ("line", "url", "target"),
    [
        (b"GET http://u:p@b:1/x?y", "http://u:p@b:1/x?y", None),
        (b"GET http://b:99999/x?y", "http://a/x?y", "http://b:99999/x?y"),
        (b"GET http:///x", "http://a/x", "http:///x"),
        (b"GET http://[::1", "http://a/", "http://[::1"),
        (b"CONNECT b:443", "https://b:443", None),
        (b"CONNECT b:443:443", "http://127.0.0.1", "b:443:443"),
        (b"CONNECT http://b", "http://127.0.0.1", "http://b"),
    ],
)
def test_a_target_that_names_no_host_is_told_apart(line: bytes, url: str, target: str | None) -> None:
    talk = Conversation().client(line, b" HTTP/1.1\r\nHost: a\r\n\r\n")
    request = entry_of(talk)["request"]
    assert (request["url"], request.get("_target")) == (url, target)


@pytest.mark.parametrize("scheme", ["", "ht tp", "1a"])
def test_a_scheme_that_is_none_is_the_connection_s(scheme: str) -> None:
    talk = H2Talk()
    talk.client.config.validate_outbound_headers = False
    head = [(":method", "GET"), (":scheme", scheme), (":authority", "a"), (":path", "/")]
    talk.client.send_headers(1, head, end_stream=True)
    talk.pump()
    talk.respond(1)
    assert entry_of(talk.conversation)["request"]["url"] == "https://a/"


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        (b"Sec-Fetch-Dest: empty", b"application/wasm", "wasm"),
        (b"X-Requested-With: XMLHttpRequest\r\nSec-Fetch-Dest: empty", b"text/html", "xhr"),
        (b"X-Requested-With: com.example.app\r\nSec-Fetch-Dest: document", b"text/html", "document"),
        (b"Content-Type: text/ping\r\nSec-Fetch-Dest: empty", b"text/html", "ping"),
        (b"Content-Type: application/csp-report\r\nSec-Fetch-Dest: report", b"", "csp-violation-report"),
        (b"Accept: text/event-stream", b"text/event-stream;charset=utf-8", "eventsource"),
    ],
)
def test_resource_types(fields: bytes, kind: bytes, expected: str) -> None:
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Type: " + kind + b"\r\n\r\n")
    assert entry_of(talk)["_resourceType"] == expected


@pytest.mark.parametrize(("status", "failed"), [(302, False), (200, True)])
def test_a_redirect_whose_body_nobody_waits_for_has_not_failed(status: int, failed: bool) -> None:
    talk = H2Talk()
    stream = talk.request()
    talk.server.send_headers(stream, [(":status", str(status)), ("location", "/b")])
    talk.pump()
    talk.client.reset_stream(stream, error_code=8)
    talk.pump()
    entry = entry_of(talk.conversation)
    assert ("_error" in entry["response"]) == failed
    assert entry["_outcome"] == "the stream was reset"


@pytest.mark.parametrize(("length", "failed"), [(3, False), (4, True)])
def test_an_upload_that_is_refused_has_not_failed(length: int, failed: bool) -> None:
    talk = Conversation().client(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    talk.server(b"HTTP/1.1 413 C\r\nContent-Length: %d\r\n\r\nbig" % length)
    entry = entry_of(talk.closes(Side.SERVER, reset=True))
    assert ("_error" in entry["response"]) == failed
    assert entry["_outcome"] == "the connection was reset"


def test_an_upload_that_http_2_refuses_has_not_failed() -> None:
    talk = H2Talk()
    head = [(":method", "PUT"), (":scheme", "https"), (":authority", "a"), (":path", "/")]
    talk.client.send_headers(1, head)
    talk.pump()
    talk.respond(1, status=413)
    talk.server.reset_stream(1, error_code=0)
    talk.pump()
    entry = entry_of(talk.conversation)
    assert "_error" not in entry["response"]


def test_a_form_in_another_charset_has_parameters() -> None:
    body = b"a=\xe9&b=%E9&pass=\xfcx"
    talk = Conversation().client(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    posted = entry_of(talk)["request"]["postData"]
    assert posted["encoding"] == "base64"
    assert posted["params"] == [
        {"name": "a", "value": "é"},
        {"name": "b", "value": "%E9"},
        {"name": "pass", "value": "üx"},
    ]
    redacted = entry_of(talk, Redaction.of(names=["pass"]))["request"]["postData"]
    assert redacted["params"][2]["value"] == REDACTED
    assert base64.b64decode(redacted["text"]) == b"a=\xe9&b=%E9&pass=" + REDACTED.encode()


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        (b"text/plain; charset=binary; a=b", b"\xff", "text/plain; a=b"),
        (b'text/plain;charset="utf-7"', b"\xff", "text/plain"),
        (b"text/plain; charset=binary", b"text", "text/plain; charset=binary"),
        (b"text/plain; charset=Shift_JIS", b"\x93\xfa", "text/plain; charset=Shift_JIS"),
        (b"text/plain; charset=csiso2022kr", b"\xff", "text/plain"),
        (b"text/plain; charset=dos-874", b"\xa1", "text/plain; charset=dos-874"),
    ],
)
def test_devtools_are_not_told_of_a_charset_that_they_do_not_know(
    kind: bytes, body: bytes, shown: str
) -> None:
    talk = Conversation().client(GET)
    talk.server(
        b"HTTP/1.1 200 OK\r\nContent-Type: ", kind, b"\r\nContent-Length: %d\r\n\r\n" % len(body), body
    )
    response = entry_of(talk)["response"]
    assert response["content"]["mimeType"] == shown
    assert response["headers"][0]["value"] == kind.decode()


@pytest.mark.parametrize(
    ("kind", "body", "charset"),
    [
        (b"text/html; charset=windows-31j", b"\x87\x40", "shift_jis"),
        (b"text/html; charset=X-SJIS", b"\x93\xfa", "shift_jis"),
        (b"text/html; charset=windows-949", b"\xb0\xa1", "euc-kr"),
        (b"text/html; charset=x-gbk", b"\xb0\xa1", "gbk"),
        (b"text/html; charset=iso-8859-1", b"\x80", "windows-1252"),
        (b"text/html; charset=iso-8859-8-i", b"\xe0", "iso-8859-8-i"),
        (b"text/html; charset=x-user-defined", b"\xe0", "x-user-defined"),
        (b"text/html; charset=unicode-1-1-utf-8", b"\xe0", "utf-8"),
        (b"text/html; charset=iso-2022-kr", b"\xe0", "iso2022_kr"),
        (b"text/html; charset=cp437", b"\xe0", "cp437"),
        (b"text/html; charset=nothing", b"\xe0", None),
        (b"text/html; charset=rot13", b"\xe0", None),
        (b"text/html; charset=zlib", b"\xe0", None),
        (b"text/html; charset=punycode", b"\xe0", None),
        (b"text/html", b"<meta charset=x-sjis>\x93\xfa", "shift_jis"),
        (b"text/html", b"<meta charset=utf-16>\xe0", "utf-8"),
        (b"text/html", b"<meta charset=x-user-defined>\xe0", "windows-1252"),
    ],
)
def test_a_charset_is_named_as_browsers_do(kind: bytes, body: bytes, charset: str | None) -> None:
    talk = Conversation().client(GET)
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind)
    talk.server(b"\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    assert entry_of(talk)["response"]["content"].get("_charset") == charset


def test_a_file_that_curl_sends_as_a_form_has_no_parameters() -> None:
    talk = Conversation().client(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 6\r\n\r\na=\xff\x00&b"
    )
    assert "params" not in entry_of(talk)["request"]["postData"]


def test_a_set_cookie_s_flags_are_told_either_way() -> None:
    talk = Conversation().client(GET)
    talk.server(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2; Secure; HttpOnly\r\nContent-Length: 0\r\n\r\n"
    )
    cookies = entry_of(talk)["response"]["cookies"]
    assert [(cookie["httpOnly"], cookie["secure"]) for cookie in cookies] == [(False, False), (True, True)]


@pytest.mark.parametrize("coding", [b"aws-chunked", b"aws-chunked,gzip", b"gzip, aws-chunked"])
def test_what_amazon_s_sdks_upload_is_shown(coding: bytes) -> None:
    meant = b"an object"
    sent = gzip.compress(meant) if b"gzip" in coding else meant
    body = b"%x;chunk-signature=0\r\n%b\r\n0;chunk-signature=1\r\n\r\n" % (len(sent), sent)
    talk = Conversation().client(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Encoding: " + coding)
    talk.client(b"\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    request = entry_of(talk)["request"]
    assert request["postData"]["text"] == meant.decode()
    assert request["bodySize"] == len(body)
    assert "comment" not in request
