"""Measures what recording costs and whether it is complete, side by side in one run: ``make bench``.

Ratios are what counts: all figures come from the same machine within minutes, competitors in turn. Each claim
of completeness is checked against the load's own count or a hash. Prints tables and writes results.md.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import calls
import loads
import many
import orjson
import tracers
import wire
from processes import PLAINTAP, ROOT
from recording import peak_until_end
from report import MB, Row, Table, document, goal
from servers import Servers, nginx, sample_servers

if TYPE_CHECKING:
    from loads import Flood
    from recording import Recording
    from tracers import Tracer

RESULTS = ROOT / "benchmarks/results.md"
SMALL, LARGE = 1 << 10, 1 << 30
EXPORT_SECONDS = 100.0
ENTRY = b'{"startedDateTime"'

# The project's goals, which the tables show beside the figures.
OVER_SSLSNIFF = 1.5
PEAK_MB = 300
READY_SECONDS = 2.0
STOP_SECONDS = 1.5
EXPORTS_PER_SECOND = 5000

UNTRACED, SSLSNIFF = "untraced", "sslsniff (bcc), every process"
PLAINTAP_ALL, PLAINTAP_ONE = "plaintap, every process", "plaintap, nginx alone"


@dataclass(frozen=True, slots=True)
class Export:
    """What one ``plaintap export`` took, and what came out: exchanges, and how many are whole."""

    exchanges: int
    complete: int
    seconds: float
    peak_bytes: int


@dataclass(slots=True)
class Costs:
    """What every recording took: seconds until ready, seconds to stop, peak resident bytes."""

    ready: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)

    def add(self, recording: Recording) -> None:
        """Note a recording that has ended."""
        assert recording.finished is not None
        self.ready.append(recording.ready_seconds)
        self.stop.append(recording.finished.seconds)
        self.peak.append(recording.finished.peak_bytes)


@dataclass(slots=True)
class Bench:
    """A run: the server under load, a folder for files, and what recordings have cost so far."""

    server: Servers
    folder: Path
    seconds: int
    rounds: int
    costs: Costs = field(default_factory=Costs)

    def tracers(self) -> dict[str, Tracer]:
        """Who watches, in turn."""
        worker = self.server.worker_pids[0]
        return {
            UNTRACED: tracers.untraced,
            SSLSNIFF: tracers.sslsniff,
            PLAINTAP_ALL: tracers.plaintap,
            PLAINTAP_ONE: partial(tracers.plaintap, options=("-p", worker)),
        }


def export(capture: Path) -> Export:
    """Export a capture of the flood, and look at every exchange."""
    archive = capture.with_suffix(".har")
    began = time.monotonic()
    process = subprocess.Popen([PLAINTAP, "export", capture, "-o", archive], stderr=subprocess.DEVNULL)
    peak = peak_until_end(process, "the export", EXPORT_SECONDS)
    seconds = time.monotonic() - began
    assert process.returncode == 0
    exchanges = complete = 0
    # An entry a line: the whole archive at once would be several GB of objects.
    with archive.open("rb") as lines:
        for line in lines:
            if line.startswith(ENTRY):
                response = orjson.loads(line.rstrip(b",\n"))["response"]
                exchanges += 1
                complete += response["status"] == 200 and response["content"]["size"] == SMALL
    archive.unlink()
    return Export(exchanges, complete, seconds, peak)


def flood_tables(bench: Bench) -> list[Table]:
    """Requests a second under each tracer; then every recording of it, exported and counted."""
    floods: dict[str, list[Flood]] = {}
    captures: list[tuple[Path, Flood]] = []
    for turn in range(bench.rounds):
        for number, (name, tracer) in enumerate(bench.tracers().items()):
            place = bench.folder / f"flood-{turn}-{number}"
            place.mkdir()
            with tracer(place) as recording:
                flood = loads.flood(bench.server, "/small", bench.seconds)
            floods.setdefault(name, []).append(flood)
            if recording is not None:
                bench.costs.add(recording)
                captures.append((recording.path, flood))
    rates = {
        name: sum(f.completed for f in done) / sum(f.seconds for f in done) for name, done in floods.items()
    }
    over = rates[PLAINTAP_ALL] / rates[SSLSNIFF]
    rows = [
        Row(
            name,
            f"{rate:,.0f} a second, {rate / rates[UNTRACED]:.1%} of untraced",
            goal(f"{OVER_SSLSNIFF} × sslsniff", over >= OVER_SSLSNIFF) if name == PLAINTAP_ALL else "",
        )
        for name, rate in rates.items()
    ]
    rows.append(Row("plaintap ÷ sslsniff", f"{over:.2f}"))
    method = (
        f"wrk, {loads.CONNECTIONS} keep-alive connections, one thread; nginx, one worker; "
        f"{bench.rounds} × {bench.seconds} s each. sslsniff's output goes to /dev/null, plaintap's to a file."
    )
    return [Table("1 KiB over HTTPS, as fast as it goes", method, rows), export_table(captures)]


def export_table(captures: list[tuple[Path, Flood]]) -> Table:
    """Whether the floods' recordings are complete, and how fast they export."""
    exports, asked = [], 0
    rows = []
    missing = 0
    for capture, flood in captures:
        done = export(capture)
        capture.unlink()
        exports.append(done)
        asked += flood.completed
        # nginx answered a few more than wrk waited for: at least wrk's must be there, at most nginx's.
        missing += max(0, flood.completed - done.complete)
        assert done.complete <= flood.served, f"{done} of {flood}: exchanges that never were"
    found = sum(done.complete for done in exports)
    rate = sum(done.exchanges for done in exports) / sum(done.seconds for done in exports)
    rows = [
        Row(
            "exchanges in the files",
            f"{found:,} complete; wrk completed {asked:,}",
            goal("every one", missing == 0),
        ),
        Row(
            "export",
            f"{rate:,.0f} exchanges a second",
            goal(f"{EXPORTS_PER_SECOND:,}", rate >= EXPORTS_PER_SECOND),
        ),
        Row("export, peak memory", f"{max(done.peak_bytes for done in exports) / MB:.0f} MB"),
    ]
    method = "The recordings of that flood, each exported to a HAR whose entries are counted."
    return Table("Completeness and export", method, rows)


def download_table(bench: Bench, sha256: str) -> Table:
    """One large body: how long it takes under each tracer, and whether all of it is in the file."""
    seconds: dict[str, float] = {}
    rows = []
    for number, (name, tracer) in enumerate(bench.tracers().items()):
        place = bench.folder / f"download-{number}"
        place.mkdir()
        with tracer(place) as recording:
            seconds[name] = loads.download(bench.server, "/large", LARGE)
        rate = LARGE / MB / seconds[name]
        rows.append(Row(name, f"{rate:,.0f} MB/s, {seconds[UNTRACED] / seconds[name]:.1%} of untraced"))
        if recording is not None:
            bench.costs.add(recording)
            body = wire.received(recording.path, bench.server.https)
            whole = body.sha256 == sha256
            share = f"{1 - body.missing / LARGE:.2%} of the bytes"
            rows.append(Row(f"in the file of {name}", share, goal("100 %, SHA-256 equal", whole)))
            recording.path.unlink()
    return Table("1 GiB over HTTPS", "curl into nothing from nginx, once under each tracer.", rows)


def cost_table(bench: Bench) -> Table:
    """Start and stop without a load, several times; and the peak memory of every recording of the run."""
    idle = Costs()
    for number in range(5):
        place = bench.folder / f"idle-{number}"
        place.mkdir()
        with tracers.plaintap(place) as recording:
            time.sleep(0.5)
        idle.add(recording)
    peak = max(bench.costs.peak + idle.peak) / MB
    loaded = max(bench.costs.stop)
    ready, stop = median(idle.ready), median(idle.stop)
    rows = [
        Row("ready", f"{ready:.2f} s", goal(f"{READY_SECONDS} s", ready <= READY_SECONDS)),
        Row("stopped", f"{stop:.2f} s", goal(f"{STOP_SECONDS} s", stop <= STOP_SECONDS)),
        Row(
            "stopped after a load, the worst",
            f"{loaded:.2f} s",
            goal(f"{STOP_SECONDS} s", loaded <= STOP_SECONDS),
        ),
        Row("peak memory, the worst of the run", f"{peak:.0f} MB", goal(f"{PEAK_MB} MB", peak <= PEAK_MB)),
    ]
    return Table(
        "The recorder itself", "Median of five recordings of every process, on an idle machine.", rows
    )


def main() -> None:
    """Measure, print, and write results.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=4, help="of each flood (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of floods (default: %(default)s)")
    parser.add_argument("--calls", action="store_true", help="only print what is not recorded; write nothing")
    options = parser.parse_args()
    if options.calls:
        with tempfile.TemporaryDirectory(prefix="plaintap-bench-") as name:
            print(calls.call_table(Path(name)).markdown())
        return
    with tempfile.TemporaryDirectory(prefix="plaintap-bench-") as name, sample_servers() as samples:
        folder = Path(name)
        with nginx(folder / "nginx", samples.certificate) as server:
            assert server.root is not None
            loads.write_sample(server.root / "small", SMALL)
            sha256 = loads.write_sample(server.root / "large", LARGE)
            bench = Bench(server, folder, options.seconds, options.rounds)
            tables = [*flood_tables(bench), download_table(bench, sha256), cost_table(bench)]
        tables += [many.many_table(folder), calls.call_table(folder)]
    text = document(tables)
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
