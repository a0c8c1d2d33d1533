"""The archive of a page's load beside the one that Chrome's own network panel saves of the same load.

Where the two differ on purpose, it is said where it is passed over: what is not on the wire, what Chrome's panel makes
up or leaves out, and bodies, which ours keep to the byte.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import devtools
import pytest
import zstandard
from processes import running, wait_until
from recording import decoded, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Servers

pytestmark = pytest.mark.kernel

RICH = Path(__file__).parents[1] / "support" / "rich"
SECONDS = 180
Entry = dict[str, Any]

# What Chrome's panel does not know: it sees a preflight, a worker's script and a WebSocket only in part.
SEEN_IN_PART = ("/cors", "/worker.js", "/denied", "/socket", "/never")
# Of what was given up it has no body, nor of a redirect, of which it counts the head alone; and of media it may have
# only as much as was played.
WITHOUT_BODY = ("/cut", "/slow", "/events", "/moved", "/sound", *SEEN_IN_PART)


@dataclass(frozen=True, slots=True)
class Load:
    """Both archives' entries, paired, and what the page itself had to say."""

    pairs: list[tuple[Entry, Entry]]
    alone: list[Entry]
    results: dict[str, Any]
    protocol: str

    def called(self, *paths: str, but: bool = False) -> Iterator[tuple[Entry, Entry]]:
        """The pairs whose path begins like one of these, or (``but``) like none."""
        for chrome, ours in self.pairs:
            path = "/" + chrome["request"]["url"].split("/", 3)[3]
            if path.startswith(paths) != but:
                yield chrome, ours


@pytest.fixture(scope="module", params=["h1", "h2"])
def load(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Load]:
    """A load of the page over HTTP/1.1 or HTTP/2, with frames and requests over the other."""
    folder = tmp_path_factory.mktemp("load")
    packed = folder / "text.zst"
    packed.write_bytes(zstandard.ZstdCompressor().compress(b"zstandard " * 100))
    log, key = folder / "server.log", servers.certificate.with_name("key.pem")
    theirs, capture, archive = folder / "chrome.har", folder / "load.pcapng", folder / "load.har"
    with (
        log.open("w") as out,
        running(["node", RICH / "server.js", servers.certificate, key, packed], stdout=out),
    ):
        ports = json.loads(
            wait_until(lambda: "\n" in (text := log.read_text()) and text, "the server's ports")
        )
        command = devtools.load_command(f"https://localhost:{ports[request.param]}/page", theirs)
        options = ["--port", ports["h1"], "--port", ports["h2"], "--har", archive, "--sensitive"]
        with record(capture, "--hold", *options) as recording:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            assert done.returncode == 0, done.stderr
            assert recording.stop().returncode == 0
    pairs, alone = paired(entries(theirs), entries(archive))
    yield Load(pairs, alone, json.loads(done.stdout), request.param)


def entries(archive: Path) -> list[Entry]:
    """An archive's entries in order of time."""
    found: list[Entry] = json.loads(archive.read_bytes())["log"]["entries"]
    return sorted(found, key=lambda entry: str(entry["startedDateTime"]))


def destination(entry: Entry) -> str:
    """What a page wants it for (Sec-Fetch-Dest); empty where that is not told."""
    named = {field["name"].lower(): str(field["value"]) for field in entry["request"]["headers"]}
    return named.get("sec-fetch-dest", "")


def paired(theirs: list[Entry], ours: list[Entry]) -> tuple[list[tuple[Entry, Entry]], list[Entry]]:
    """The same exchanges of both, and theirs that ours have not."""
    waiting = defaultdict(list)
    for entry in ours:
        if entry["_comm"] == "chromium" and entry["_side"] == "client":
            waiting[name_of(entry)].append(entry)
    pairs, alone = [], []
    for entry in theirs:
        same = waiting[name_of(entry)]
        if same:
            # Of two at the same moment, that which is for the same use.
            like = [other for other in same if destination(other) == destination(entry)]
            found = (like or same)[0]
            same.remove(found)
            pairs.append((entry, found))
        else:
            alone.append(entry)
    return pairs, alone


def name_of(entry: Entry) -> tuple[str, str]:
    """Method and URL. Chrome says GET of every WebSocket, though over HTTP/2 (RFC 8441) it is a CONNECT."""
    method = "GET" if entry["_resourceType"] == "websocket" else entry["request"]["method"]
    return method, entry["request"]["url"]


def test_nothing_is_missing(load: Load) -> None:
    assert load.results["parallel"] == [load.results["parallel"][0]] * 12
    assert [name for name, result in load.results.items() if result == "timeout"] == []
    assert load.results["socket"] == load.results["othersocket"] == [1000, [11, 3, 300]]
    assert [entry["request"]["url"] for entry in load.alone] == []
    assert len(load.pairs) > 65


def test_requests(load: Load) -> None:
    for chrome, ours in load.called(*SEEN_IN_PART, but=True):
        theirs, request = chrome["request"], ours["request"]
        assert request["httpVersion"].lower() == theirs["httpVersion"].lower()
        if {"host", ":authority"} & {name for name, _ in headers(theirs)}:  # a worker's are not known
            assert headers(request) == headers(theirs)
            shown = [(cookie["name"], cookie["value"]) for cookie in theirs["cookies"]]
            assert [(cookie["name"], cookie["value"]) for cookie in request["cookies"]] == shown
        # Chrome leaves parameters as they were sent.
        shown = [(shown_as(one["name"]), shown_as(one["value"])) for one in theirs["queryString"]]
        assert [(one["name"], one["value"]) for one in request["queryString"]] == shown


def shown_as(text: str) -> str:
    """A part of a parameter as we show it: as it was sent, where it is no UTF-8."""
    return text if text == "%FF" else unquote_plus(text)


def headers(message: Entry) -> list[tuple[str, str]]:
    """In order of names: Chrome's panel sorts them."""
    return sorted((header["name"].lower(), header["value"]) for header in message["headers"])


def test_what_was_posted(load: Load) -> None:
    posted = 0
    for chrome, ours in load.called("/cors", but=True):
        theirs, request = chrome["request"].get("postData"), ours["request"].get("postData")
        assert (theirs is None) == (request is None)
        if theirs is None or request is None:
            continue
        posted += 1
        body = decoded(request)
        assert request["mimeType"] == theirs["mimeType"]
        assert theirs["text"] in (body.decode("utf-8", "replace"), body.decode("latin-1"))
        if request.get("encoding") is None:
            assert ours["request"]["bodySize"] == chrome["request"]["bodySize"] == len(body)
        for one, other in zip(request.get("params", []), theirs.get("params", []), strict=True):
            assert one["name"] == other["name"]
            assert other["value"] == "(binary)" or unquote_plus(other["value"]) in (
                one["value"],
                "\N{REPLACEMENT CHARACTER}",
            )
    assert posted > 8


def test_responses(load: Load) -> None:
    for chrome, ours in load.called(*SEEN_IN_PART, but=True):
        theirs, response = chrome["response"], ours["response"]
        assert (response["status"], response["statusText"]) == (theirs["status"], theirs["statusText"])
        assert response["httpVersion"].lower() == theirs["httpVersion"].lower()
        assert headers(response) == headers(theirs)
        set_cookies = [
            (one["name"], one["value"], one["httpOnly"], one["secure"]) for one in theirs["cookies"]
        ]
        assert [
            (o["name"], o["value"], o["httpOnly"], o["secure"]) for o in response["cookies"]
        ] == set_cookies
        assert response["redirectURL"] == theirs["redirectURL"]
        given_up = bool(theirs["_error"])
        if ours["_resourceType"] == "media" and given_up:
            # A page gives up a sound of which it has enough, which is not sent where all had come by then.
            given_up = response["content"]["size"] < int(dict(headers(response))["content-length"])
        assert bool(response.get("_error")) == given_up
        assert (ours["serverIPAddress"], ours["connection"]) == (
            chrome["serverIPAddress"],
            chrome["connection"],
        )


def test_bodies(load: Load) -> None:
    seen = 0
    for chrome, ours in load.called(*WITHOUT_BODY, but=True):
        theirs, content = chrome["response"]["content"], ours["response"]["content"]
        assert content["size"] == theirs["size"]
        assert ours["response"]["_transferSize"] == chrome["response"]["_transferSize"]
        if content["mimeType"] != "x-unknown":  # Chrome guesses
            assert content["mimeType"].partition(";")[0] == theirs["mimeType"]
        body = decoded(content)
        if theirs.get("encoding") == "base64":
            assert body == decoded(theirs)
        else:
            assert theirs["text"] == body.decode(theirs["_charset"]).removeprefix("\ufeff")
        seen += 1
    assert seen > 50


def test_kinds_and_priorities(load: Load) -> None:
    fetched = {"xhr": "fetch", "ping": "fetch"}  # the wire does not tell them apart
    for chrome, ours in load.pairs:
        assert ours["_resourceType"] == fetched.get(chrome["_resourceType"], chrome["_resourceType"])
        # Over HTTP/1.1 a priority is not sent; that of an image in sight Chrome raises for itself.
        if "_priority" in ours and ours["_resourceType"] not in ("image", "websocket"):
            assert ours["_priority"] == chrome["_priority"]


def test_sequences_of_messages(load: Load) -> None:
    (events,) = load.called("/events")
    told = [
        [(e["eventName"], e["eventId"], e["data"]) for e in one["_eventSourceMessages"]] for one in events
    ]
    assert told[0] == told[1]
    assert len(told[0]) == 4
    sockets = list(load.called("/socket"))
    assert len(sockets) == 2
    for chrome, ours in sockets:
        for side in ("send", "receive"):  # ours have the control frames besides
            sent = [
                [
                    (m["opcode"], m["data"])
                    for m in one["_webSocketMessages"]
                    if m["type"] == side and m["opcode"] < 8
                ]
                for one in (chrome, ours)
            ]
            assert sent[0] == sent[1]
            assert len(sent[0]) == 3
        assert ours["request"]["method"] in ("GET", "CONNECT")


def test_times(load: Load) -> None:
    waited = [
        abs(chrome["timings"]["wait"] - ours["timings"]["wait"])
        for chrome, ours in load.called(*WITHOUT_BODY, but=True)
    ]
    assert statistics.median(waited) < 5
    for name in ("/slow", "/never", "/events"):
        ((chrome, ours),) = load.called(name)
        # When the browser closes the socket, which a busy machine may let it do later than it tells the page.
        assert ours["_outcome"] in ("the connection was closed", "the stream was reset")
        assert ours["time"] > 0.5 * chrome["time"]
