"""Exchanges as lines for people, and the figures that haralyzer finds in their HAR."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from archives import write_har
from h2_by_hand import END_HEADERS, END_STREAM, HEADERS, OK, fields, frame, talk
from http_streams import Conversation, read

from capture.streams import Process, Side, Tls
from exporters import har_stats, summary

if TYPE_CHECKING:
    from pathlib import Path

    from exporters.http import Exchange

GET = b"GET /%s HTTP/1.1\r\nHost: example.com\r\n\r\n"


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with a length."""
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def sample() -> list[Exchange]:
    """Exchanges of two processes and of none."""
    first = Conversation(1, Tls(), port=443).client(GET % b"a").server(answer(b"x" * 2000))
    first.client(GET % b"slow").waits(3_000_000_000).server(answer(b"", b"404 Not Found"))
    second = Conversation(2, process=Process(7, "wget")).client(GET % b"b").server(answer(b"12"))
    foreign = Conversation(3, process=None).client(GET % b"c").closes(Side.SERVER)
    return read([*first.items, *second.items, *foreign.items])


def test_a_line_per_exchange() -> None:
    heading, *lines = summary.lines(sample())
    assert heading.split() == ["TIME", "PROCESS", "METHOD", "STATUS", "SENT", "RECEIVED", "DURATION", "URL"]
    assert lines[0].split()[1:] == [
        "curl[4242]",
        "GET",
        "200",
        "0",
        "B",
        "2.0",
        "K",
        "1.0",
        "ms",
        "https://example.com/a",
    ]
    assert lines[1].split()[1:4] == ["curl[4242]", "GET", "404"]
    assert lines[3].split()[1:4] == ["-", "GET", "-"]
    assert lines[3].endswith("http://example.com/c  (the connection was closed)")
    starts = {line.index("http") for line in lines}
    assert starts == {heading.index("URL")}


@pytest.mark.parametrize(
    ("path", "end"), [("/run/x.sock", "  (unix socket /run/x.sock)"), ("", "  (pair of sockets)")]
)
def test_a_line_names_the_unix_socket(path: str, end: str) -> None:
    talk = Conversation(unix_path=path).client(GET % b"a").server(answer(b"x"))
    _, line = summary.lines(read(talk.items))
    assert line.endswith(f"http://example.com/a{end}")


def test_a_terminal_cuts_urls_and_a_file_does_not() -> None:
    found = read(Conversation().client(GET % (b"x" * 300)).server(answer(b"")).items)
    _, cut = summary.lines(found, columns=120)
    _, whole = summary.lines(found)
    assert len(cut) == 120
    assert cut.endswith("…")
    assert whole.endswith("x" * 300)


def test_a_peer_cannot_write_to_the_terminal() -> None:
    found = read(Conversation(process=Process(1, "a\x1b[2J")).client(b"GE\x80T / HTTP/1.1\r\n\r\n").items)
    found += read(Conversation(process=Process(1, "a\x1b[2J")).client(GET % b"").server(answer(b"")).items)
    assert found
    method = fields((b":method", b"\x1b[2J"), (b":path", b"/"), (b":scheme", b"https"), (b":authority", b"a"))
    conversation = talk().client(frame(HEADERS, END_HEADERS | END_STREAM, 1, method))
    found += read(conversation.server(frame(HEADERS, END_HEADERS | END_STREAM, 1, OK)).items)
    assert all(line.isprintable() for line in summary.lines(found))
    assert all(line.isprintable() for line in har_stats.lines(har_stats.stats_of_exchanges(found)))


def statuses_and_peak(exchange: Exchange, count: int) -> tuple[dict[int, int], int]:
    """Of the figures of so many, and the bytes that they took at most."""
    har_stats.stats_of_exchanges([exchange])  # what is imported and made once
    tracemalloc.start()
    try:
        return har_stats.stats_of_exchanges([exchange] * count).statuses, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_figures_hold_no_messages() -> None:
    upgrade = b"Upgrade: websocket\r\n\r\n"
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n", upgrade)
    talk.server(b"HTTP/1.1 101 S\r\n", upgrade, (b"\x81\x7e\xff\xff" + b"x" * 0xFFFF) * 10)
    (socket,) = read(talk.items)
    statuses, peak = statuses_and_peak(socket, 20)
    assert statuses == {101: 20}
    assert peak < 3 << 20


def test_truncated_exchanges_say_so() -> None:
    talk = Conversation().client(GET % b"").server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    _, line = summary.lines(read(talk.gap(Side.SERVER, 9).items))
    assert line.endswith("(truncated: 9 bytes lost)")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 K"),
        (102_400, "100 K"),
        (5 << 20, "5.0 M"),
        (3 << 50, "3072 T"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert summary.size_text(size) == text


def test_the_figures_take_no_more_memory_for_more_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(har_stats, "ENTRIES_AT_ONCE", 20)
    field = b"Cookie: " + b"x" * 10_000 + b"\r\n\r\n"
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n", field)
    (exchange,) = read(talk.server(b"HTTP/1.1 204 N\r\n\r\n").items)
    statuses, peak = statuses_and_peak(exchange, 400)
    assert statuses == {204: 400}
    assert peak < 1 << 20


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_the_figures_are_those_of_the_exchanges(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(har_stats, "ENTRIES_AT_ONCE", at_once)
    found = sample()
    stats = har_stats.stats_of_exchanges(found)
    assert stats.statuses == {0: 1, 200: 2, 404: 1}
    assert (stats.slowest[0].url, stats.slowest[0].time_ms) == ("https://example.com/slow", 3001.0)
    assert len(stats.slowest) == len(found)
    assert [page.title for page in stats.pages] == ["curl[4242]", "wget[7]", har_stats.NO_PAGE]
    assert [page.requests for page in stats.pages] == [2, 1, 1]
    assert [page.body_bytes for page in stats.pages] == [2000, 2, 0]
    assert sum(page.transferred_bytes for page in stats.pages) == sum(
        (each.response.head_bytes or 0) + each.response.body.wire_bytes for each in found if each.response
    )


def test_haralyzer_reads_the_whole_archive(tmp_path: Path) -> None:
    from haralyzer import HarParser

    path = tmp_path / "sample.har"
    with path.open("wb+") as output:
        write_har(sample(), output)
    pages = {page.page_id: page for page in HarParser.from_file(path).pages}
    assert sorted((len(page.entries), page.get_total_size(page.entries)) for page in pages.values()) == [
        (1, 0),
        (1, 2),
        (2, 2000),
    ]
    (entry,) = pages["unknown"].entries
    assert (entry.status, entry.url, entry.port) == (0, "http://example.com/c", 80)
    assert pages["page_1_pid_4242"].title == "curl --http1.1 https://example.com/"


def test_the_figures_as_lines() -> None:
    lines = list(har_stats.lines(har_stats.stats_of_exchanges(sample())))
    assert lines[0].split() == ["REQUESTS", "BODIES", "RECEIVED", "TIME", "PAGE"]
    assert lines[4].split()[0] == "4"
    assert lines[4].endswith("all pages")
    assert any(line.split() == ["1", "no", "response"] for line in lines)
    assert lines[-4].split()[-2:] == ["404", "https://example.com/slow"]
