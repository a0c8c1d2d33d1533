"""What packet comments say: ``key=value`` words that people filter by and that an export reads back.

A stream's first packet names its process, side, TLS session and peer; the packet of a gap says what was lost;
the capture's last block carries the ledger. The file is the only journal, so whatever a StreamOpened holds
and packets cannot show is a word here. A value that is not plain is a JSON string, which a shell would
read alike: ``comm=curl cmd="curl -s https://example.com/"``.

Text in, text out: this module knows no block and no packet.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from capture.streams import Endpoint, Lookup, Process, Side, StreamOpened, Tls

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_COMMAND_LINE_BYTES: Final = 20_000
"""Two of them, two executables (PATH_MAX 4,096 each) and the short words stay below the 65,535 bytes of an
option; Java's class paths are the long ones, and 20,000 shows which program it is."""
MAX_VALUE_BYTES: Final = 4_096

MAX_NUMBER: Final = (1 << 63) - 1
"""Of bytes, of nanoseconds since the epoch, of a process: what is larger was not written by us, and JSON ends at
64 bits."""

LEDGER_PREFIX: Final = "plaintap-ledger "
_LEDGER_PART_CHARACTERS: Final = 60_000
"""The ledger is ASCII, cut into options of at most 65,535 bytes with their prefix."""

_PLAIN_VALUE: Final = re.compile(r"[\w@%+:,./*-]+", re.ASCII)
_WORD: Final = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?:\s+|$)')

_SIDES: Final = {side.name.lower(): side for side in Side}

HANDSHAKE_SEEN: Final = "seen"
HANDSHAKE_SYNTHETIC: Final = "synthetic"
TLS_FRAMED: Final = "framed"
TLS_BARE: Final = "bare"
TLS_INSIDE: Final = "inside"
"""Whether a TLS session's plaintext is inside a record layer, or in the segments as it is; or, for TLS in TLS, shown
as the plaintext of the session around it."""

INSIDE_TLS: Final = "tls"
"""The word of a stream that is a session inside another's plaintext: its client's port is made up, for the one that it
goes over has it."""

TLS_ENDED: Final = "cleartext"
ENDED_CLEARTEXT: Final = "after-tls"
"""The word of the first bytes in the clear after TLS."""

CONTINUES: Final = "continues"
"""The word of a SYN that begins no connection but goes on with one, after bytes that are not in the file."""

END: Final = "end"
END_CLOSED: Final = "closed"
"""The word of a FIN after which there is nothing more: its process closed the socket, and no other FIN is seen."""

CONTINUES_HINT: Final = (
    "This is no new connection: after bytes that are not in the file the stream goes on under new sequence numbers, "
    "so that what follows is dissected."
)
CLEARTEXT_HINT: Final = (
    "From here on the connection was in the clear; it is shown in TLS records like what came before, so that it is "
    "dissected."
)
AS_OF_CALL_HINT: Final = (
    "From here on as of the call: what is sent by reference can be changed before it is sent."
)
TCP_HANDSHAKE_HINT: Final = "This TCP handshake is synthetic: the connection is older than the recording."
HTTP2_HINT: Final = (
    "HTTP/2 without TLS records, which Wireshark looks for on HTTP's ports alone. It is dissected by Analyze, Decode "
    "As, TCP port {port}, HTTP2; by tshark with -d tcp.port=={port},http2."
)
TLS_HANDSHAKE_HINT: Final = "This TLS handshake is synthetic: the real one was before the recording."
TLS_JOINED_HINT: Final = (
    "The probes came when this TLS session had begun: its first plaintext may be missing."
)


def _cut(value: str, limit: int) -> str:
    """``value`` with an ellipsis where it was longer than ``limit`` bytes as a JSON string."""
    if len(value) * 6 <= limit or len(_quoted(value).encode("utf-8", "backslashreplace")) <= limit:
        return value
    low, high = 0, min(len(value), limit)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_quoted(value[:middle]).encode("utf-8", "backslashreplace")) <= limit - 4:
            low = middle
        else:
            high = middle - 1
    return value[:low] + "…"


def _quoted(value: str) -> str:
    if _PLAIN_VALUE.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def format_words(words: Mapping[str, str | int | None]) -> str:
    """``key=value`` words in order; None is left out, long values are cut and end in an ellipsis."""
    return " ".join(
        f"{key}={_quoted(_cut(str(value), _limit(key)))}" for key, value in words.items() if value is not None
    )


def _limit(key: str) -> int:
    return MAX_COMMAND_LINE_BYTES if key in ("cmd", "peer_cmd") else MAX_VALUE_BYTES


def parse_words(comment: str) -> dict[str, str] | None:
    """The words of ``format_words``; None where the comment is anything else.

    What JSON can name and no file can hold, a surrogate without its other half, is shown as its escape.
    """
    words: dict[str, str] = {}
    at = 0
    while at < len(comment):
        match = _WORD.match(comment, at)
        if match is None:
            return None
        key, quoted, plain = match.groups()
        if quoted is None:
            words[key] = plain
        else:
            try:
                value: str = json.loads(f'"{quoted}"', strict=False)
            except json.JSONDecodeError:
                return None
            words[key] = value.encode("utf-8", "backslashreplace").decode()
        at = match.end()
    return words


def _process_words(process: Process | None, prefix: str) -> dict[str, str | int | None]:
    if process is None:
        return {}
    return {
        f"{prefix}pid": process.pid,
        f"{prefix}comm": process.comm,
        f"{prefix}exe": process.exe,
        f"{prefix}cmd": process.command_line,
    }


def tls_words(tls: Tls, framing: str) -> dict[str, str | int | None]:
    """The words of a TLS session: how its plaintext is shown, library, host, ALPN, handshake times in ns."""
    return {
        "tls": framing,
        "lib": tls.library,
        "host": tls.server_name,
        "alpn": tls.alpn,
        "tls_started": tls.started_ns,
        "tls_established": tls.established_ns,
        "tls_joined": "yes" if tls.joined else None,
    }


def _lookup_words(lookup: Lookup | None) -> dict[str, str | int | None]:
    if lookup is None:
        return {}
    return {"name": lookup.name, "dns_started": lookup.started_ns, "dns_ended": lookup.ended_ns}


def stream_words(
    opened: StreamOpened, framing: str, original_port: int | None
) -> dict[str, str | int | None]:
    """The words of a stream's first packet; ``original_port`` is the server's where packets show another."""
    return {
        **_process_words(opened.process, ""),
        "fd": opened.fd,
        "unix": opened.unix_path,
        "inside": INSIDE_TLS if opened.inside_tls else None,
        "client_port": opened.client.port if opened.inside_tls else None,
        "side": opened.side.name.lower(),
        "handshake": HANDSHAKE_SEEN if opened.handshake_seen else HANDSHAKE_SYNTHETIC,
        **_lookup_words(opened.lookup),
        **(tls_words(opened.tls, framing) if opened.tls is not None else {}),
        "port": original_port,
        **_process_words(opened.peer_process, "peer_"),
    }


def gap_words(length: int, reason: str) -> dict[str, str | int | None]:
    """The words of a gap's packet: how many bytes were lost there, and why."""
    return {"lost": length, "reason": reason}


def ledger_comments(ledger: Mapping[str, object]) -> Iterable[str]:
    """The ledger as one or more comments, each with ``LEDGER_PREFIX``; their rests, joined, are its JSON."""
    text = json.dumps(ledger, separators=(",", ":"))
    for start in range(0, len(text), _LEDGER_PART_CHARACTERS):
        yield LEDGER_PREFIX + text[start : start + _LEDGER_PART_CHARACTERS]


def parse_ledger(comments: Iterable[str]) -> dict[str, object] | None:
    """What ``ledger_comments`` was given; None where there is none, or not a whole one."""
    text = "".join(c.removeprefix(LEDGER_PREFIX) for c in comments if c.startswith(LEDGER_PREFIX))
    try:
        ledger = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return ledger if isinstance(ledger, dict) else None


def _number(words: Mapping[str, str], key: str) -> int | None:
    value = words.get(key, "")
    if not (value.isascii() and value.isdigit() and len(value) <= 19):
        return None
    return number if (number := int(value)) <= MAX_NUMBER else None


def _read_process(words: Mapping[str, str], prefix: str) -> Process | None:
    pid = _number(words, f"{prefix}pid")
    if pid is None:
        return None
    return Process(
        pid=pid,
        comm=words.get(f"{prefix}comm", ""),
        exe=words.get(f"{prefix}exe"),
        command_line=words.get(f"{prefix}cmd"),
    )


def read_tls(words: Mapping[str, str]) -> Tls | None:
    """The TLS session that ``tls_words`` told of."""
    if "tls" not in words:
        return None
    return Tls(
        library=words.get("lib"),
        server_name=words.get("host"),
        alpn=words.get("alpn"),
        started_ns=_number(words, "tls_started"),
        established_ns=_number(words, "tls_established"),
        joined="tls_joined" in words,
    )


def _read_lookup(words: Mapping[str, str]) -> Lookup | None:
    if "name" not in words:
        return None
    started_ns, ended_ns = _number(words, "dns_started"), _number(words, "dns_ended")
    if started_ns is None or ended_ns is None or started_ns > ended_ns:
        return Lookup(words["name"])
    return Lookup(words["name"], started_ns, ended_ns)


def read_stream(
    words: Mapping[str, str], stream: int, times_ns: tuple[int, int], client: Endpoint, server: Endpoint
) -> StreamOpened | None:
    """The StreamOpened of ``stream_words``; None for words that are not a stream's.

    ``times_ns`` are those of the SYN and of the handshake's last segment; the server's port is replaced by
    the original one, where the words have it.
    """
    side = _SIDES.get(words.get("side", ""))
    if side is None or "handshake" not in words:
        return None
    port = _number(words, "port")
    inside = words.get("inside") == INSIDE_TLS
    client_port = _number(words, "client_port") if inside else None
    return StreamOpened(
        stream=stream,
        time_ns=times_ns[0],
        established_ns=times_ns[1],
        client=client
        if client_port is None or client_port > 0xFFFF
        else Endpoint(client.address, client_port),
        server=server if port is None or port > 0xFFFF else Endpoint(server.address, port),
        side=side,
        handshake_seen=words["handshake"] == HANDSHAKE_SEEN,
        process=_read_process(words, ""),
        peer_process=_read_process(words, "peer_"),
        fd=_number(words, "fd"),
        tls=read_tls(words),
        lookup=_read_lookup(words),
        unix_path=words.get("unix"),
        inside_tls=inside,
    )


def read_gap(words: Mapping[str, str]) -> tuple[int, str] | None:
    """The length and the reason of ``gap_words``."""
    length, reason = _number(words, "lost"), words.get("reason")
    return (length, reason) if length is not None and reason is not None else None
