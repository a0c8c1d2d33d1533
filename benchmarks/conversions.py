"""Measures ``plaintap export`` beside other people's converters, on the same file: ``make bench-conversions``.

A capture of 1 GiB and 200,000 exchanges is written by the exporter, as a recording would be, and exported: how
fast, and in how much memory. Then smaller ones of the same kind, for the others take minutes for what they can take
at all: tshark as JSON and as EK (with the fields of HTTP alone), pcapng-utils and pcap2har of PyPI, which are in an
environment of their own. What each has made is counted, and its time is the processors' (user and system, with that
of the programs that it runs): what else the machine does is no part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from processes import PLAINTAP, ROOT
from recording import peak_until_end
from report import MB, Row, Table, document, goal

from capture.streams import Data, Endpoint, Process, Side, StreamClosed, StreamOpened
from exporters.packets import PcapngExporter
from exporters.pcapng import SectionMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capture.streams import StreamItem

CONVERTERS = ROOT / "build/converters/bin"
EXCHANGES, CAPTURE_BYTES = 200_000, 1 << 30
# Of what the others get: half a minute's work for pcapng-utils; pcap2har takes as long for half of it.
SMALL_EXCHANGES = 10_000
PER_CONNECTION = 100
OPEN_AT_ONCE = 50
# What an exchange takes beside its body, as the file shows: two heads, four headers of packets and blocks.
OVERHEAD_BYTES = 568
SECONDS = 3600.0
TIMES_THE_BEST = 20
_START_NS = 1_700_000_000_000_000_000
_KINDS = (b"application/json", b"text/html; charset=utf-8", b"image/png", b"text/javascript", b"text/css")
Converter = tuple[str, "Callable[[Path, Path], Conversion]"]
_HTTP_FIELDS = ("-Y", "http", "-J", "http frame")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a program took for a file, processor ``seconds`` among it, and how many exchanges it made of it."""

    exchanges: int
    seconds: float
    peak_bytes: int
    asked: int = 0

    def by(self, asked: int) -> Conversion:
        """The same, of a file with so many exchanges."""
        return replace(self, asked=asked)

    @property
    def rate(self) -> float:
        """Exchanges of the file a second, found or not."""
        return self.asked / self.seconds


def connection(number: int, requests: int, chance: random.Random, body: int) -> Iterator[StreamItem]:
    """One client's requests on one connection; bodies are between a half and one and a half of ``body`` bytes."""
    client = Endpoint(bytes((10, 0, number >> 8 & 255, number & 255)), 30_000 + number % 30_000)
    server = Endpoint(bytes((192, 0, 2, 1 + number % 200)), 80)
    now = _START_NS + number * 10_000_000
    process = Process(1000 + number % 20, "client", "/usr/bin/client", "client --all")
    yield StreamOpened(number, now, now + 200_000, client, server, Side.CLIENT, True, process)
    for request in range(requests):
        now += 1_000_000
        name = b"/api/v1/items/%d?page=%d&q=a+b" % (number, request)
        yield Data(
            number, now, Side.CLIENT,
            b"GET " + name + b" HTTP/1.1\r\nHost: host%d.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux)\r\n"
            b"Accept: */*\r\nAccept-Language: en\r\nCookie: session=%032x; theme=dark\r\n\r\n"
            % (number % 200, number),
        )  # fmt: skip
        kind = _KINDS[request % len(_KINDS)]
        content = chance.randbytes(chance.randint(body // 4, body * 3 // 4))
        text = content + content if kind == b"image/png" else content.hex().encode()
        now += 2_000_000
        head = (
            b'HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nETag: "%d"\r\n'
            b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (request, kind, len(text))
        )
        yield Data(number, now, Side.SERVER, head + text)
    yield StreamClosed(number, now + 1000, Side.CLIENT, False)
    yield StreamClosed(number, now + 2000, Side.SERVER, False)


def write_capture(path: Path, exchanges: int, size: int) -> None:
    """A capture of about ``size`` bytes; connections come one after the other, some of them side by side."""
    chance = random.Random(1)
    body = size // exchanges - OVERHEAD_BYTES
    with path.open("wb") as file:
        exporter = PcapngExporter(file.write, SectionMetadata(application="plaintap"))
        waiting = (
            connection(n, PER_CONNECTION, chance, body) for n in range(1, exchanges // PER_CONNECTION + 1)
        )
        active: list[Iterator[StreamItem]] = []
        while True:
            while len(active) < OPEN_AT_ONCE and (new := next(waiting, None)):
                active.append(new)
            if not active:
                break
            turn = chance.randrange(len(active))
            item = next(active[turn], None)
            if item is None:
                del active[turn]
            else:
                exporter.write(item)
        exporter.finish()


def measure(command: Sequence[object], output: Path | None = None) -> tuple[float, int]:
    """Run it to its end, what it prints going to ``output``; processor seconds, and the peak resident bytes."""
    with (output or Path(os.devnull)).open("wb") as file:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        words = [str(word) for word in command]
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.DEVNULL)
        peak = peak_until_end(process, words[0], SECONDS)
    assert process.returncode == 0, f"{words} ended with {process.returncode}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def plaintap(capture: Path, folder: Path) -> Conversion:
    """Ours; the entries are counted a line each, for the whole archive at once would be gigabytes of objects."""
    archive = folder / "plaintap.har"
    seconds, peak = measure((PLAINTAP, "export", capture, "-o", archive))
    with archive.open("rb") as lines:
        count = sum(b'"status":200' in line for line in lines)
    archive.unlink()
    return Conversion(count, seconds, peak)


def _tshark(form: str, response: bytes, capture: Path, folder: Path) -> Conversion:
    """Wireshark's dissection of HTTP; a line with ``response`` is an exchange's."""
    output = folder / f"tshark.{form}"
    seconds, peak = measure(("tshark", "-r", capture, "-T", form, *_HTTP_FIELDS), output)
    with output.open("rb") as lines:
        count = sum(response in line for line in lines)
    output.unlink()
    return Conversion(count, seconds, peak)


def tshark_ek(capture: Path, folder: Path) -> Conversion:
    """As EK: a line of JSON for each packet."""
    return _tshark("ek", b'http_http_response_code"', capture, folder)


def tshark_json(capture: Path, folder: Path) -> Conversion:
    """As JSON."""
    return _tshark("json", b'"http.response.code":', capture, folder)


def entries_of(archive: Path) -> int:
    """How many entries with a response an archive has."""
    log = json.loads(archive.read_bytes())["log"]
    archive.unlink()
    return sum(entry["response"].get("status") == 200 for entry in log["entries"])


def pcapng_utils(capture: Path, folder: Path) -> Conversion:
    """PyPI's pcapng-utils, which runs tshark and goes through its JSON."""
    archive = folder / "pcapng-utils.har"
    seconds, peak = measure((CONVERTERS / "pcapng_to_har", "-f", "-i", capture, "-o", archive))
    return Conversion(entries_of(archive), seconds, peak)


def pcap2har(capture: Path, folder: Path) -> Conversion:
    """PyPI's pcap2har, which runs tshark by way of pyshark."""
    archive = folder / "pcap2har.har"
    seconds, peak = measure((CONVERTERS / "pcap2har", "-o", archive, capture))
    return Conversion(entries_of(archive), seconds, peak)


def row(name: str, done: Conversion, ours: Conversion | None = None) -> Row:
    """A line of the table; ``ours`` is what it is compared with."""
    figure = (
        f"{done.rate:,.0f} exchanges a second ({done.seconds:.1f} s), peak {done.peak_bytes / MB:,.0f} MB"
    )
    if done.exchanges != done.asked:
        figure += f"; of {done.asked:,} it found {done.exchanges:,}"
    return Row(name, figure, f"plaintap ÷ this: {ours.rate / done.rate:.1f}" if ours else "")


def small_table(
    folder: Path, exchanges: int, converters: Sequence[Converter], others: Sequence[Converter] = ()
) -> Table:
    """Several programs on one file; of the converters ours is to be so many times the best."""
    capture = folder / "small.pcapng"
    write_capture(capture, exchanges, CAPTURE_BYTES * exchanges // EXCHANGES)
    ours = plaintap(capture, folder).by(exchanges)
    rows = [row("plaintap export", ours)]
    rows += [row(name, convert(capture, folder).by(exchanges), ours) for name, convert in others]
    best = 0.0
    for name, convert in converters:
        done = convert(capture, folder).by(exchanges)
        rows.append(row(name, done, ours))
        best = max(best, done.rate)
    if best:
        ratio = ours.rate / best
        rows.append(
            Row(
                "plaintap ÷ the best converter",
                f"{ratio:.1f}",
                goal(f"{TIMES_THE_BEST} ×", ratio >= TIMES_THE_BEST),
            )
        )
    method = (
        f"{exchanges:,} exchanges in {capture.stat().st_size / MB:,.0f} MB of cleartext HTTP/1.1, each program once, "
        "one after the other; interpreters' starts included."
    )
    return Table(f"Converting {exchanges:,} exchanges", method, rows)


def large_table(folder: Path, exchanges: int) -> Table:
    """Ours and tshark; the converters hold all of tshark's JSON in memory, ten times the file's size and more."""
    capture = folder / "large.pcapng"
    write_capture(capture, exchanges, CAPTURE_BYTES * exchanges // EXCHANGES)
    size = capture.stat().st_size
    ours = plaintap(capture, folder).by(exchanges)
    rows = [
        row("plaintap export", ours),
        Row("plaintap export, of the capture", f"{size / MB / ours.seconds:,.0f} MB a second"),
        row("tshark -T ek", tshark_ek(capture, folder).by(exchanges), ours),
    ]
    method = (
        f"{exchanges:,} exchanges in {size / MB:,.0f} MB, {PER_CONNECTION} to a connection, "
        f"{OPEN_AT_ONCE} connections open at once."
    )
    return Table(f"Converting {exchanges:,} exchanges", method, rows)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--exchanges", type=int, default=EXCHANGES, help="of the large file (default: %(default)s)"
    )
    parser.add_argument(
        "--small", type=int, default=SMALL_EXCHANGES, help="of the small one (default: %(default)s)"
    )
    options = parser.parse_args()
    assert shutil.which("tshark"), "tshark is not installed"
    with tempfile.TemporaryDirectory(prefix="plaintap-bench-", dir=ROOT / "build") as name:
        folder = Path(name)
        tables = [
            small_table(
                folder,
                options.small,
                [("pcapng-utils", pcapng_utils)],
                [("tshark -T ek", tshark_ek), ("tshark -T json", tshark_json)],
            ),
            small_table(folder, options.small // 2, [("pcap2har", pcap2har)]),
            large_table(folder, options.exchanges),
        ]
    print(document(tables))


if __name__ == "__main__":
    main()
