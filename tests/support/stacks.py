"""Real TLS stacks, recorded one end at a time: what a row is, the peer it talks to, and how it is judged.

A *client* row is a command that gets ``/download`` and puts ``/upload/body`` on nginx, recorded by
``plaintap record -- COMMAND``; a *server* row is one that curl asks the same of, recorded by its pid. Only that
end is ever recorded, so that the probes on its peer cannot hide a miss. What really happened is told by the
peer: nginx names ALPN, SNI and the client's port in its responses, and curl says them in its log.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from https_client import sample_body
from judges import expert_problems
from processes import ROOT
from recording import decoded, entries, header, path_of

from capture.streams import Data, Gap, StreamOpened, Tls, TlsStarted
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROGRAMS = ROOT / "tests/stacks/programs"
BUILT = ROOT / "build/stacks"
PYTHON_OF_STACKS = BUILT / "python/bin/python"
NODE_MODULES = BUILT / "node/node_modules"
# Above one TLS record, and no multiple of it; different, so that one cannot pass for the other.
DOWNLOAD_BYTES = 70_001
UPLOAD_BYTES = 40_009
COMMAND_SECONDS = 90
LOCALHOST = b"\x7f\x00\x00\x01"


@dataclass(frozen=True, slots=True)
class Stack:
    """One row: a program, at one end.

    ``command`` has placeholders (see ``fill``). ``library`` is a regular expression for the label that the
    recording must give, ``version`` a command of which the first version-like words are shown. ``gap`` says why it
    is known not to be read: the row is then expected to fail, and the reason is in the table. What is not
    ``readable`` by design must be named in a warning, ``library`` then being the name that is said there.
    ``exchanges`` are those of download and upload that the program makes.
    """

    name: str
    command: tuple[str, ...]
    library: str
    version: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    exchanges: tuple[str, ...] = ("/download", "/upload/body")
    configuration: str = ""
    http2: bool = False
    readable: bool = True
    gap: str = ""
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    """What the peer says of a connection."""

    client_port: int
    alpn: str | None
    server_name: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A stream of a capture: its opening, its TLS session if it has one, and the bytes that are missing."""

    opened: StreamOpened
    tls: Tls | None
    missing: int


def fill(command: tuple[str, ...], values: Mapping[str, object]) -> list[str]:
    """The command with its placeholders filled: those of ``values``, and where programs are."""
    places = {
        "programs": PROGRAMS,
        "built": BUILT,
        "python": PYTHON_OF_STACKS,
        "node_modules": NODE_MODULES,
    }
    out = []
    for part in command:
        filled = part
        for name, value in {**places, **values}.items():
            filled = filled.replace(f"{{{name}}}", str(value))
        out.append(filled)
    return out


@cache
def python_version(package: str) -> tuple[str, ...]:
    """The command that tells the version of a Python package, or of Python itself."""
    if package == "python":
        return ("{python}", "--version")
    return ("{python}", "-c", f"import importlib.metadata as m; print(m.version('{package}'))")


def version_of(command: tuple[str, ...]) -> str:
    """The version that a command prints, or ``?``."""
    done = subprocess.run(
        fill(command, {}), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    found = re.search(r"\d+\.\d+(?:\.\d+)*[\w.]*", done.stdout + done.stderr)
    return found[0] if found else "?"


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@cache
def download_body() -> bytes:
    """What a server sends."""
    return sample_body(DOWNLOAD_BYTES)


@cache
def upload_body() -> bytes:
    """What a client sends."""
    return sample_body(UPLOAD_BYTES)


def streams_on(capture: Path, port: int) -> list[Seen]:
    """The capture's streams whose server has that port, but for those that a client's pool opened and never used, of
    which a server that logs requests says nothing.
    """
    opened: dict[int, StreamOpened] = {}
    tls: dict[int, Tls | None] = {}
    missing: dict[int, int] = {}
    used: set[int] = set()
    for item in read_streams(capture):
        if isinstance(item, StreamOpened):
            opened[item.stream], tls[item.stream], missing[item.stream] = item, item.tls, 0
        elif isinstance(item, TlsStarted):
            tls[item.stream] = item.tls
        elif isinstance(item, Gap):
            missing[item.stream] += item.length
        elif isinstance(item, Data):
            used.add(item.stream)
    return [
        Seen(item, tls[number], missing[number])
        for number, item in opened.items()
        if item.server.port == port and (number in used or missing[number])
    ]


def judge_streams(capture: Path, stack: Stack, port: int, truths: list[Truth]) -> str:
    """Hold the capture's connections against what the peer saw; the library's label."""
    seen = streams_on(capture, port)
    assert sorted(one.opened.client.port for one in seen) == sorted(truth.client_port for truth in truths)
    by_port = {truth.client_port: truth for truth in truths}
    labels = set()
    for one in seen:
        truth = by_port[one.opened.client.port]
        assert one.opened.client.address[-4:] == one.opened.server.address[-4:] == LOCALHOST
        assert one.tls is not None, "no TLS session on the connection"
        assert one.missing == 0, f"{one.missing} bytes are missing"
        assert one.tls.server_name == truth.server_name
        # A TLS 1.3 server's refusal to choose is encrypted; what was offered and then spoken is named.
        spoken = {truth.alpn} if truth.alpn else {None, "http/1.1"}
        assert one.tls.alpn in spoken, f"ALPN is {one.tls.alpn}, and the peer says {truth.alpn}"
        assert one.tls.library is not None, "the library is not named"
        labels.add(one.tls.library)
    (label,) = labels
    assert re.search(stack.library, label), f"the library is called {label}"
    return label


def judge_bodies(found: list[dict[str, Any]], stack: Stack) -> None:
    """Hold the archive's exchanges against what was sent."""
    paths = [path_of(entry) for entry in found]
    assert paths == list(stack.exchanges), f"the exchanges are {paths}"
    for entry in found:
        if path_of(entry) == "/download":
            assert digest(decoded(entry["response"]["content"])) == digest(download_body())
        elif path_of(entry) == "/upload/body":
            assert digest(decoded(entry["request"]["postData"])) == digest(upload_body())
        assert 200 <= entry["response"]["status"] < 300


def told_by_nginx(found: list[dict[str, Any]]) -> list[Truth]:
    """The connections that nginx describes in its responses."""
    told = {
        Truth(
            int(header(entry["response"], "x-client-port") or 0),
            header(entry["response"], "x-alpn") or None,
            header(entry["response"], "x-sni") or None,
        )
        for entry in found
    }
    return sorted(told, key=lambda truth: truth.client_port)


def judge_client(capture: Path, stack: Stack, port: int) -> str:
    """All of it for a client's recording; the library's label."""
    found = entries(capture)
    judge_bodies(found, stack)
    return judge_streams(capture, stack, port, told_by_nginx(found))


def judge_unreadable(stderr: str, stack: Stack) -> str:
    """Hold what a recording said at its end against a stack that cannot be read; what the table shows."""
    warned = re.search(
        r"^Warning: (.*) used TLS that cannot be read \((.*)\): ([\d,]+) bytes", stderr, re.MULTILINE
    )
    assert warned, f"no warning: {stderr}"
    assert re.search(stack.library, warned[2]), f"the library is called {warned[2]}"
    assert int(warned[3].replace(",", "")) > DOWNLOAD_BYTES + UPLOAD_BYTES
    return f"not readable, said so: {warned[2]}"


def problems(capture: Path, port: int) -> list[str]:
    """What Wireshark complains about, but for connections that were reset: some programs close that way."""
    return expert_problems(capture, f"tcp.port=={port} && tcp.flags.reset==0")


def told_by_curl(log: str) -> Truth:
    """The connection that ``curl -v -w 'local port %{local_port}'`` describes."""
    alpn = re.search(r"ALPN[:,] server accepted (?:to use )?(\S+)", log)
    ports = {int(port) for port in re.findall(r"local port (\d+)", log)}
    (port,) = ports
    return Truth(port, alpn[1] if alpn else None, "localhost")
