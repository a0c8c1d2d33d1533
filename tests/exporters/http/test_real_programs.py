"""Real clients and servers, recorded by a relay: what they logged themselves is what the exchanges say."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from http_streams import Conversation, read, split
from relay import Relay

from capture.streams import StreamOpened
from exporters.http.messages import Exchange, Outcome
from exporters.http.sse import events_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORT = Path(__file__).resolve().parents[2] / "support"
SECONDS = 60

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("curl") is None, reason="NODE OR CURL ARE NOT INSTALLED"
)


class NodeServer:
    """The sample servers in Node, and what they logged."""

    def __init__(self) -> None:
        command = ["node", str(SUPPORT / "node_server.js")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ports = json.loads(self.process.stdout.readline())
        self.http1: int = ports["http1"]
        self.http2: int = ports["http2"]

    def stop(self) -> list[dict[str, Any]]:
        """End it; what it logged."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=SECONDS)
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def recorded(http2: bool) -> Iterator[tuple[Relay, list[dict[str, Any]]]]:
    """A relay in front of a server; its log is in the list at the end."""
    server = NodeServer()
    log: list[dict[str, Any]] = []
    try:
        with Relay(server.http2 if http2 else server.http1) as relay:
            yield relay, log
    finally:
        log += server.stop()


def run(*command: str) -> bytes:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout


def digest(data: bytes | bytearray) -> str:
    """SHA-256, as the programs log it."""
    return hashlib.sha256(data).hexdigest()


def check_against_server(found: list[Exchange], log: list[dict[str, Any]]) -> None:
    """Each logged request is there once, with the hashes of both bodies and its fields in their values."""
    assert len(found) == len(log)
    by_number = {exchange.request.fields.get(b"x-number"): exchange for exchange in found if exchange.request}
    for row in log:
        exchange = by_number[row["number"].encode()]
        request, response = exchange.request, exchange.response
        assert exchange.outcome is Outcome.COMPLETE
        assert request is not None
        assert response is not None
        assert request.method == row["method"].encode()
        assert request.target == row["url"].encode()
        assert digest(request.body.data) == row["received"]
        assert digest(response.body.data) == row["sent"]
        assert response.fields.get(b"x-number") == row["number"].encode()
        for name, value in row["headers"].items():
            assert request.fields.get(name.encode()) == value.encode()


@pytest.mark.parametrize(
    ("flags", "http2"),
    [(("--http1.1",), False), (("--http1.0",), False), (("--http2-prior-knowledge",), True)],
)
def test_curl_and_node(flags: tuple[str, ...], http2: bool, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 2000)
    with recorded(http2) as (relay, log):
        base = f"http://127.0.0.1:{relay.port}"
        paths = ("/bytes?n=0", "/bytes?n=1", "/bytes?n=16385", "/bytes?n=1048576", "/missing", "/events")
        gets = [
            ["-sS", *flags, "-H", f"X-Number: {number}", "-o", "/dev/null", base + path]
            for number, path in enumerate(paths)
        ]
        post = ["--data-binary", f"@{upload}", "-o", "/dev/null", base + "/echo"]
        chunks = (
            ["-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"]
            if flags == ("--http1.1",)
            else []
        )
        if http2:  # curl 7.88 cannot use such a connection twice
            for get in gets:
                run("curl", *get)
        else:
            run("curl", *[word for get in gets for word in ("--next", *get)][1:])
        run("curl", "-sS", *flags, "-H", "X-Number: up", *post)
        run("curl", "-sS", *flags, *chunks, "-H", "X-Number: again", *post)
    found = read(relay.items)
    check_against_server(found, log)
    assert {exchange.request.version for exchange in found if exchange.request} == {
        {"--http1.1": "HTTP/1.1", "--http1.0": "HTTP/1.0"}.get(flags[0], "HTTP/2")
    }
    (events,) = [each for each in found if each.request and each.request.target == b"/events"]
    assert events.response is not None
    assert [event.data for event in events_of(events.response, 1 << 20)] == ["one", "two"]
    if chunks:
        assert [[interim.status for interim in each.interim] for each in found if each.interim] == [[100]]
    assert [
        (each.number, each.response and each.response.body) for each in read(split(relay.items, 100))
    ] == [(each.number, each.response and each.response.body) for each in found]


def test_curl_upgrades_to_http2_and_is_refused() -> None:
    with recorded(http2=False) as (relay, log):
        run("curl", "-sS", "--http2", "-H", "X-Number: 1", f"http://127.0.0.1:{relay.port}/bytes?n=10")
    check_against_server(read(relay.items), log)


def test_trailers_of_node() -> None:
    with recorded(http2=True) as (relay, log):
        run(
            "curl",
            "-sS",
            "--http2-prior-knowledge",
            "-H",
            "X-Number: 1",
            f"http://127.0.0.1:{relay.port}/trailers",
        )
    (exchange,) = read(relay.items)
    assert exchange.response is not None
    assert list(exchange.response.trailers) == [(b"x-sum", log[0]["sent"].encode())]


def test_a_hundred_streams_at_once() -> None:
    with recorded(http2=True) as (relay, log):
        printed = run("node", str(SUPPORT / "node_client.js"), str(relay.port), "100")
    found = read(relay.items)
    check_against_server(found, log)
    client_log = {row["number"]: row for row in map(json.loads, printed.splitlines())}
    for exchange in found:
        assert exchange.request is not None
        assert exchange.response is not None
        row = client_log[int(exchange.request.fields.get(b"x-number") or b"")]
        assert (digest(exchange.request.body.data), digest(exchange.response.body.data)) == (
            row["sent"],
            row["received"],
        )
        assert exchange.response.status == row["status"]
    assert len({exchange.connection.opened.stream for exchange in found}) == 1


def test_joined_in_the_middle_of_a_busy_connection() -> None:
    with recorded(http2=True) as (relay, log):
        run("node", str(SUPPORT / "node_client.js"), str(relay.port), "60")
    whole = {exchange.stream_id: exchange for exchange in read(relay.items)}
    first = relay.items[0]
    assert isinstance(first, StreamOpened)
    opening = Conversation(handshake_seen=False).items
    seen = 0
    for start in range(2, len(relay.items), 5):
        for exchange in read([*opening, *relay.items[start:]]):
            sent = whole[exchange.stream_id]
            for ours, theirs in ((exchange.request, sent.request), (exchange.response, sent.response)):
                if ours is not None and theirs is not None:
                    assert bytes(theirs.body.data).endswith(bytes(ours.body.data))
            assert exchange.request is None or exchange.request.target in (
                None,
                sent.request and sent.request.target,
            )
            seen += 1
    assert seen > len(log)
