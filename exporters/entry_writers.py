"""Exchanges as lines: JSON for jq, commands that send the request again, a transcript to read.

Each format is a function from a HAR entry to text, so that what is redacted in one is redacted in all.
"""

from __future__ import annotations

import base64
import re
import shlex
from typing import TYPE_CHECKING, BinaryIO

import orjson

from exporters.compression import AWS_CHUNKED
from exporters.har import EntryMaker, HarResult, HarWriter
from exporters.har_entry import UNKNOWN_METHOD
from exporters.summary import duration_text, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporters.har_fields import Json
    from exporters.http.layers import Notes
    from exporters.http.messages import Exchange

_CURL_SETS = frozenset(("content-length", "transfer-encoding", "connection", "http2-settings"))
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_A_LINE = re.compile(r"[\0\r\n]")

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

    def write(self, exchange: Exchange) -> None:
        """Add ``exchange``."""
        entry = self._maker.entry_of(exchange)
        if entry is not None:
            data = self._render(entry)
            self._output.write(data)
            self.result.count(entry, exchange)
            self.result.bytes_written += len(data)

    def flush(self) -> None:
        """Bring the file up to date."""
        self._output.flush()

    def close(self, notes: Notes | None = None) -> HarResult:
        """Nothing is left to be written; there is no place for ``notes``."""
        self._output.flush()
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
    if "_unknown" in request:
        return "not all of the request was recorded"
    if request["method"] == "CONNECT":
        return "curl asks for tunnels itself (--proxy)"
    if request["url"].startswith(("ws:", "wss:")):
        return "a WebSocket"
    if not request["url"].startswith(("http://", "https://")):
        return "its scheme is none of HTTP's"
    if "_lostBytes" in request or request.get("_complete") is False:
        return "the request's body is not complete"
    signed = AWS_CHUNKED in request.get("postData", {}).get("_codings", ())
    return f"its body was signed as {AWS_CHUNKED}, and is shown without" if signed else None


def _curl_words(request: Json, path: str | None) -> Iterator[str]:
    posted = request.get("postData", {}).get("text")
    source, sent = _body_words(request["postData"]) if posted is not None else (None, None)
    if source is not None:
        yield source
    yield from ("curl", "--path-as-is", "--globoff")
    if flag := _HTTP_FLAGS.get(request["httpVersion"]):
        yield flag
    if request["method"] == "HEAD":
        yield "--head"
    elif request["method"] != ("GET" if posted is None else "POST"):
        yield f"--request {shlex.quote(request['method'])}"
    yield from _header_words(request)
    if path:
        yield f"--{'abstract-' if path[:1] == '@' else ''}unix-socket {shlex.quote(path.removeprefix('@'))}"
    if sent is not None:
        if all(header["name"].lower() != "content-type" for header in request["headers"]):
            yield "--header Content-Type:"  # or curl adds that of a form
        yield sent
    yield f"--url {shlex.quote(request['url'])}"


def _body_words(posted: Json) -> tuple[str | None, str]:
    """What writes the body to curl's input, where it is no argument, and how curl is told of it."""
    text = posted["text"]
    binary = posted.get("encoding") == "base64"
    if not binary and "\0" in text:  # which a shell drops
        text, binary = base64.b64encode(text.encode()).decode("ascii"), True
    if binary:
        return f"printf %s {shlex.quote(text)} | base64 -d |", "--data-binary @-"
    if len(text.encode()) > MAX_ARGUMENT_BYTES:
        return f"printf %s {shlex.quote(text)} |", "--data-binary @-"
    return None, f"--data-raw {shlex.quote(text)}"


def _header_words(request: Json) -> Iterator[str]:
    host = request["url"].partition("://")[2].partition("/")[0]
    for header in request["headers"]:
        name, value = header["name"], header["value"]
        if name.lower() in _CURL_SETS or (name.lower() == "host" and value == host):
            continue
        if name.lower() == "content-encoding" and "_codings" in request.get("postData", {}):
            continue  # it was undone
        if _TOKEN.fullmatch(name) is None or _NOT_IN_A_LINE.search(value):
            continue  # :path and its like, and what would be something else to curl
        yield "--header " + shlex.quote(f"{name}: {value}" if value else f"{name};")
        if name.lower() == "accept-encoding":
            yield "--compressed"


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
        yield f"{'>' if message['type'] == 'send' else '<'} [{message['opcode']}] {message['data']}"
    if "comment" in entry:
        yield f"* {entry['comment']}"


def _message_lines(mark: str, message: Json, content: Json) -> Iterator[str]:
    for header in message["headers"]:
        yield f"{mark} {header['name']}: {header['value']}"
    text = content.get("text")
    if text:
        yield mark
        if content.get("encoding") == "base64":
            yield f"{mark} [{len(base64.b64decode(text))} bytes of {content['mimeType'] or 'no stated type'}]"
        else:
            for line in text.splitlines():
                yield f"{mark} {line}"
    for header in message.get("_trailers", ()):
        yield f"{mark} {header['name']}: {header['value']}"
    if "comment" in message:
        yield f"* {message['comment']}"


Writer = HarWriter | LineWriter

EXPORTERS: dict[str, Callable[[BinaryIO, EntryMaker], Writer]] = {
    "har": HarWriter,
    "jsonl": lambda output, maker: LineWriter(output, maker, json_line),
    "curl": lambda output, maker: LineWriter(output, maker, curl_command),
    "text": lambda output, maker: LineWriter(output, maker, transcript),
}
"""A row per format of ``plaintap export``."""
