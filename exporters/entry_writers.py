"""Exchanges as lines: JSON for jq, commands that send the request again, a transcript to read.

Each format is a function from a HAR entry to text, so that what is redacted in one is redacted in all.
"""

from __future__ import annotations

import base64
import re
import shlex
from typing import TYPE_CHECKING, BinaryIO

import orjson

from exporters.har import EntryMaker, HarResult, HarWriter, InOrder
from exporters.har_entry import UNKNOWN_METHOD
from exporters.http.content import text_in
from exporters.printable import printable
from exporters.summary import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporters.har_fields import Json
    from exporters.http.layers import Notes
    from exporters.http.messages import Exchange

_CURL_SETS = frozenset(("content-length", "http2-settings"))
_FRAMES = frozenset(("connection", "transfer-encoding", "upgrade"))
_CURL_ADDS = ("Accept", "Host", "User-Agent")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_A_LINE = re.compile(r"[\0\r\n]")
_NOT_AS_IT_IS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""In a body: what a shell drops, or a terminal obeys on which the command is shown."""

MAX_ARGUMENT_BYTES = 100_000
"""Linux gives an argument 128 KiB (MAX_ARG_STRLEN in execve(2)). A longer body goes through a pipe: printf is the
shell's own."""

_HTTP_FLAGS = {"HTTP/1.0": "--http1.0", "HTTP/1.1": "--http1.1", "HTTP/2.0": "--http2"}


class LineWriter:
    """Writes what ``render`` makes of each entry; the counterpart of HarWriter."""

    def __init__(self, output: BinaryIO, maker: EntryMaker, render: Callable[[Json], bytes]) -> None:
        self.result = HarResult()
        self._output = output
        self._maker = maker
        self._render = render
        self._entries = InOrder(output.write)

    def write(self, exchange: Exchange) -> None:
        """Add ``exchange``."""
        entry = self._maker.entry_of(exchange)
        if entry is not None:
            self.result.count(entry, exchange)
            self._entries.add(entry, self._render(entry))

    def flush(self) -> None:
        """Bring the file up to date."""
        self._entries.release()
        self._output.flush()

    def close(self, notes: Notes | None = None) -> HarResult:
        """Nothing is left to be written; there is no place for ``notes``."""
        self.flush()
        return self.result


def json_line(entry: Json) -> bytes:
    """The entry as it is in the HAR, on one line."""
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def curl_command(entry: Json) -> bytes:
    """A command that sends the request again; a comment where it cannot be."""
    request = entry["request"]
    problem = _not_repeatable(entry)
    if problem is not None:
        return f"# {printable(request['method'])} {printable(request['url'])}: {problem}\n".encode()
    return (" ".join(_curl_words(request, entry.get("_unixSocket"))) + "\n").encode()


def _not_repeatable(entry: Json) -> str | None:
    request = entry["request"]
    url, posted = request["url"], request.get("postData", {})
    cut = "_decodingProblem" in request and "_codings" in posted
    problems = (
        ("_unknown" in request, "not all of the request was recorded"),
        (request["method"] == "CONNECT", "curl asks for tunnels itself (--proxy)"),
        (_TOKEN.fullmatch(request["method"]) is None, "its method is none (RFC 9110 §9.1)"),
        (url.startswith(("ws:", "wss:")), "a WebSocket"),
        (not url.startswith(("http://", "https://")), "its scheme is none of HTTP's"),
        (
            cut or not request.keys().isdisjoint(("_lostBytes", "_omittedBytes", "_complete")),
            "the request's body is not complete",
        ),
        ("comment" in posted, "the request's body is left out or redacted"),
    )
    return next((reason for applies, reason in problems if applies), None)


def _curl_words(request: Json, path: str | None) -> Iterator[str]:
    source, sent = _body_words(request)
    if source is not None:
        yield source
    yield from ("curl", "--path-as-is", "--globoff")
    if flag := _version_flag(request):
        yield flag
    if request["method"] == "HEAD":
        yield "--head"
    elif request["method"] != ("GET" if sent is None else "POST"):
        yield f"--request {shlex.quote(request['method'])}"
    yield from _header_words(request)
    if path:
        yield f"--{'abstract-' if path[:1] == '@' else ''}unix-socket {shlex.quote(path.removeprefix('@'))}"
    if sent is not None:
        yield sent
    if "/" not in request["url"].partition("://")[2]:
        yield "--request-target '*'"  # RFC 9112 §3.2.4
    yield f"--url {shlex.quote(request['url'])}"


def _version_flag(request: Json) -> str | None:
    """Which HTTP curl is to speak. In cleartext there is no ALPN: --http2 asks for an upgrade (RFC 7540 §3.2)."""
    version = request["httpVersion"]
    if request["url"].startswith("http:"):
        if any(header["name"].lower() == "http2-settings" for header in request["headers"]):
            return "--http2"
        if version == "HTTP/2.0":
            return "--http2-prior-knowledge"
    return _HTTP_FLAGS.get(version)


def _posted(request: Json) -> Json | None:
    """What is posted, if only that it is empty."""
    posted: Json | None = request.get("postData")
    says_so = any(header["name"].lower() == "content-length" for header in request["headers"])
    return {"text": ""} if posted is None and says_so else posted


def _body_words(request: Json) -> tuple[str | None, str | None]:
    """What writes the body to curl's input, where it is no argument, and how curl is told of it; None for nothing."""
    posted = _posted(request)
    if posted is None:
        return None, None
    text = posted["text"]
    binary = posted.get("encoding") == "base64"
    if not binary and _NOT_AS_IT_IS.search(text):
        text, binary = base64.b64encode(text.encode()).decode("ascii"), True
    if binary:
        return f"printf %s {shlex.quote(text)} | base64 -d |", "--data-binary @-"
    if len(text.encode()) > MAX_ARGUMENT_BYTES:
        return f"printf %s {shlex.quote(text)} |", "--data-binary @-"
    return None, f"--data-raw {shlex.quote(text)}"


def _header_words(request: Json) -> Iterator[str]:
    host = request["url"].partition("://")[2].partition("/")[0]
    named = {header["name"].lower(): header["value"] for header in request["headers"]}
    left_out = _CURL_SETS
    if not request["httpVersion"].startswith("HTTP/1") or "http2-settings" in named:
        left_out |= _FRAMES  # an upgrade that curl has its own way to ask for
    elif named.get("transfer-encoding", "").lower() != "chunked":
        left_out |= {"transfer-encoding"}
    if "_codings" in request.get("postData", {}):
        left_out |= {"content-encoding"}  # the body is sent as what it says
    yield from (f"--header {name}:" for name in _added_names(request) if name.lower() not in named)
    for header in request["headers"]:
        name, value = header["name"], header["value"]
        if name.lower() in left_out or (name.lower() == "host" and value == host):
            continue
        if _TOKEN.fullmatch(name) is None or _NOT_IN_A_LINE.search(value):
            continue  # :path and its like, and what would be something else to curl
        yield "--header " + shlex.quote(f"{name}: {value}" if value else f"{name};")
        if name.lower() == "accept-encoding":
            yield "--compressed"


def _added_names(request: Json) -> Iterator[str]:
    """What curl adds unless it is told not to."""
    yield from (name for name in _CURL_ADDS if name != "Host" or request["httpVersion"].startswith("HTTP/1"))
    if _posted(request) is not None:
        yield "Content-Type"  # that of a form
        if request["bodySize"] > MAX_ARGUMENT_BYTES:
            yield "Expect"


def transcript(entry: Json) -> bytes:
    """The exchange as it might have been typed: what was sent behind ``>``, what came back behind ``<``."""
    return ("\n".join(printable(line) for line in _transcript_lines(entry)) + "\n\n").encode()


def _transcript_lines(entry: Json) -> Iterator[str]:
    request, response = entry["request"], entry["response"]
    who = f" {entry['_comm']}[{entry['_pid']}]" if "_pid" in entry else ""
    where = f"{entry['serverIPAddress']} port {entry['connection']}"
    yield f"* {entry['startedDateTime']}{who} {where}, {duration_text(int(entry['time'] * 1e6))}"
    method = request["method"] if request["method"] != UNKNOWN_METHOD else "(method not recorded)"
    yield f"> {method} {request['url']} {request['httpVersion']}".rstrip()
    yield from _message_lines(">", request, request.get("postData", {}))
    if response["status"] or response["headers"]:
        for interim in response.get("_interim", ()):
            yield f"< {response['httpVersion']} {interim['status']} {interim['statusText']}".rstrip()
        yield f"< {response['httpVersion']} {response['status']} {response['statusText']}".rstrip()
        yield from _message_lines("<", response, response["content"])
    for message in entry.get("_webSocketMessages", ()):
        mark = ">" if message["type"] == "send" else "<"
        yield f"{mark} [{message['opcode']}] {message['data']}"
        if "comment" in message:
            yield f"{mark} [{message['comment']}]"
    if "comment" in entry:
        yield f"* {entry['comment']}"


def _message_lines(mark: str, message: Json, content: Json) -> Iterator[str]:
    for header in message["headers"]:
        yield f"{mark} {header['name']}: {header['value']}"
    if not content.get("text"):
        if "comment" in content:
            yield f"{mark} [{content['comment']}]"
    else:
        yield mark
        text = _readable_text(content)
        if text is None:
            size = len(base64.b64decode(content["text"]))
            yield f"{mark} [{size} bytes of {content['mimeType'] or 'no stated type'}]"
        else:
            for line in text.splitlines():
                yield f"{mark} {line}"
    for header in message.get("_trailers", ()):
        yield f"{mark} {header['name']}: {header['value']}"
    if "comment" in message:
        yield f"* {message['comment']}"


def _readable_text(content: Json) -> str | None:
    text: str = content["text"]
    if content.get("encoding") != "base64":
        return text
    return text_in(content["_charset"], base64.b64decode(text)) if "_charset" in content else None


Writer = HarWriter | LineWriter

EXPORTERS: dict[str, Callable[[BinaryIO, EntryMaker], Writer]] = {
    "har": HarWriter,
    "jsonl": lambda output, maker: LineWriter(output, maker, json_line),
    "curl": lambda output, maker: LineWriter(output, maker, curl_command),
    "text": lambda output, maker: LineWriter(output, maker, transcript),
}
"""A row per format of ``plaintap export``."""
