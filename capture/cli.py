"""The command line: parse, wire, report. Nothing is decided here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from capture import doctor, standard_streams
from capture.console import Group, print_line, say
from capture.errors import UsageError
from capture.options import PID, SECONDS, Content, content_options, target_options, targets
from capture.output_file import STDOUT, OutputFile, beside, deleted_outputs, require_different
from capture.pipeline import DEFAULT_RING_BYTES, MAX_RING_BYTES, Plan
from capture.probe_catalog import ProbeCatalog, default_cache_file
from capture.reading import read_exchanges
from capture.recorder import Recorder
from capture.recording_output import RecordingOutput
from exporters import har_stats, summary
from exporters.entry_writers import EXPORTERS
from exporters.filters import ExchangeFilter
from exporters.http import Notes
from exporters.packets import Framing

if TYPE_CHECKING:
    from capture.ledger import Ledger
    from exporters.har import HarResult


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="plaintap")
def main() -> None:
    """Record the plaintext of this machine's connections, for Wireshark and devtools."""


_ENDINGS = {"har": ".har", "curl": ".sh", "text": ".txt"}


@main.command()
@click.option(
    "-w",
    "--write",
    "output",
    metavar="FILE",
    help="The pcapng to write; - is stdout.  [default: plaintap-DATE.pcapng]",
)
@click.option(
    "-d",
    "--duration",
    type=SECONDS,
    metavar="SECONDS",
    help="Stop after this time.",
)
@click.option("--har", "archive", metavar="FILE", help="Write a HAR, too, while recording.")
@target_options
@click.option(
    "--protocol",
    "protocols",
    default="http,tls",
    show_default=True,
    metavar="LIST",
    help="What to record: http, tls, or all (any cleartext TCP, such as Redis, and the TLS of everyone).",
)
@click.option(
    "--framing",
    type=click.Choice([f.value for f in Framing]),
    default=Framing.TLS.value,
    show_default=True,
    help="How decrypted streams are framed: tls for Wireshark, plain for other tools.",
)
@click.option(
    "--follow/--no-follow",
    default=True,
    show_default=True,
    help="Also record the children of the processes of -p, and theirs.",
)
@click.option(
    "--hold/--no-hold",
    default=None,
    help="Stop a process for the milliseconds that probes for code new to us take.  [default: with a command]",
)
@click.option(
    "--unix",
    is_flag=True,
    help="Also record streams of Unix sockets, such as Docker's API. Not with --port and --host.",
)
@click.option(
    "--below/--no-below",
    default=True,
    show_default=True,
    help="Record what no system call shows: sendfile, splice, io_uring, 32-bit programs.",
)
@click.option(
    "--ring-size",
    type=click.IntRange(1, MAX_RING_BYTES),
    default=DEFAULT_RING_BYTES,
    metavar="BYTES",
    help="Kernel memory between probes and recorder; rounded up to a power of two.  [default: 32 MiB]",
)
@click.option(
    "--ledger",
    "account",
    metavar="FILE.json",
    help="Also write what became of every byte, for machines.",
)
@content_options(" of --har")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def record(
    output: str | None,
    archive: str | None,
    duration: float | None,
    protocols: str,
    framing: str,
    follow: bool,
    hold: bool | None,
    unix: bool,
    below: bool,
    ring_size: int,
    account: str | None,
    command: tuple[str, ...],
    **others: Any,
) -> None:
    """Record to a pcapng that Wireshark opens as if it had the keys.

    Without targets or a command, every process is recorded. Targets of different kinds must all fit, of
    several of one kind any; what is excluded is left out. With a command, plaintap starts it, follows its
    children, and exits with its exit code.

    \b
    Examples:
      plaintap record                                 everything, until Ctrl-C
      plaintap record -w a.pcapng -- curl https://example.com/
      plaintap record -p 4711 -d 30                   a running process, for 30 seconds
      plaintap record -c node --port 443
      plaintap record --container web --exclude-comm prometheus
      plaintap record -w a.pcapng --har a.har         both, live
      plaintap record --unix -c dockerd               what Docker is asked for
      plaintap record -w - | wireshark -k -i -        watch live
    """
    content = Content(others)
    if content.given and not archive:
        raise UsageError(
            f"{content.given[0]} is for the archive of --har: a capture has everything, as it was."
        )
    chosen = targets(others, protocols, follow=follow)
    name = output or time.strftime("plaintap-%Y%m%d-%H%M%S.pcapng")
    if name == STDOUT and standard_streams.stdout_is_terminal():
        raise UsageError(
            "The capture is binary and stdout is a terminal: name a file with -w, or pipe it: | wireshark -k -i -"
        )
    held = bool(command) if hold is None else hold
    plan = Plan(
        chosen, command, duration, _power_of_two(ring_size), hold=held, unix=unix, below=below,
        stdout_is_taken=name == STDOUT,
    )  # fmt: skip
    with (
        OutputFile(name, "-w", fresh=not output) as out,
        _optional(archive, "--har") as har,
        _optional(account, "--ledger") as machines,
        RecordingOutput(out, har, machines, Framing(framing), content.for_live()) as recording,
    ):
        recorder = Recorder(plan, recording.exporter, say)
        ledger = recording.complete(recorder.run())
        deleted = deleted_outputs(filter(None, (out, har, machines)))
    outbox = recording.outbox
    _report(ledger, deleted, *filter(None, (name, archive)))
    if outbox.reader_gone:
        say("The reader of the capture has gone: it ends there.")
    elif outbox.undelivered:
        say(
            f"Warning: {outbox.undelivered:,} bytes of the capture were not taken by its reader: it ends there."
        )
    sys.exit(
        recorder.exit_code
        or (1 if deleted or (outbox.undelivered and not command and not outbox.reader_gone) else 0)
    )


@main.command()
@click.argument("file", metavar="FILE")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="The file to write; - is stdout.  [default: FILE with the format's ending]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(EXPORTERS)),
    default="har",
    show_default=True,
    help="har for devtools; jsonl, a line each, for jq; curl, commands that repeat the requests; text, to read.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Only this host; *.example.com for those below, 10.0.0.0/8 for an address at either end.",
)
@click.option("--url", "urls", multiple=True, metavar="GLOB", help="Only URLs that match.")
@click.option(
    "--status", "statuses", multiple=True, metavar="N", help="Only this status: 404, 400-499 or 4xx."
)
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this method.")
@click.option("--pid", "pids", type=PID, multiple=True, metavar="PID", help="Only this process.")
@content_options()
def export(
    file: str,
    output: str | None,
    form: str,
    hosts: tuple[str, ...],
    urls: tuple[str, ...],
    statuses: tuple[str, ...],
    methods: tuple[str, ...],
    pids: tuple[int, ...],
    **others: Any,
) -> None:
    """Turn a capture into a HAR 1.2 archive that devtools import, or into lines.

    FILE is a capture of plaintap's, or any pcap or pcapng with plaintext HTTP, also .gz or .zst; - is stdin.
    Credentials are redacted, as in Chrome's own export, unless --sensitive is given.

    \b
    Examples:
      plaintap export a.pcapng                  writes a.har
      plaintap export --sensitive --host api.example.com a.pcapng
      plaintap export --format jsonl -o - a.pcapng | jq .request.url
      plaintap export --format curl --status 5xx -o - a.pcapng
      tcpdump -w - port 80 | plaintap export - -o web.har
    """
    name = output or beside(file, _ENDINGS.get(form, f".{form}"))
    content = Content(others)
    wanted = ExchangeFilter.of(hosts, urls, statuses, methods, pids)
    notes = Notes()
    with OutputFile(name, "-o") as out:
        require_different((out,), file)
        with read_exchanges(file, say, notes, content.limits) as found:
            out.begin()
            writer = EXPORTERS[form](out.file, content.maker(wanted))
            try:
                for exchange in found:
                    with out.writing():
                        writer.write(exchange)
            finally:
                # Whatever stops the reading, what was read is whole.
                with out.writing():
                    result = writer.close(notes)
                    out.file.flush()
    say(f"Wrote {result.entries} {_plural(result.entries, 'exchange')} to {name}{_shortfall(result)}")


@main.command()
@click.argument("file", metavar="FILE")
@click.option(
    "--stats", is_flag=True, help="Page, size, status and slowest requests instead, as haralyzer counts them."
)
def show(file: str, stats: bool) -> None:
    """List a capture's HTTP exchanges: time, process, method, URL, status, sizes, duration.

    \b
    Examples:
      plaintap show a.pcapng
      plaintap show --stats a.pcapng
    """
    standard_streams.require_stdout()
    columns = shutil.get_terminal_size().columns if standard_streams.stdout_is_terminal() else None
    with read_exchanges(file, say, Notes()) as found:
        lines = (
            har_stats.lines(har_stats.stats_of_exchanges(found)) if stats else summary.lines(found, columns)
        )
        for line in lines:
            print_line(line)


@main.command("doctor")
@click.argument("target", required=False, metavar="[PID|COMM|PATH]")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def examine(target: str | None, as_json: bool) -> None:
    """Say what can be recorded here: of the machine, of each process, or of the one named.

    For each process its TLS libraries, how many probes fit and how they were found (by OpenSSL's internal
    functions, by exports, or located in stripped code), and what will be missed and why. Nothing is attached.

    \b
    Examples:
      plaintap doctor
      plaintap doctor node
      plaintap doctor /usr/bin/curl
      plaintap doctor --json | jq .processes
    """
    standard_streams.require_stdout()
    catalog = ProbeCatalog(default_cache_file())
    checks = list(doctor.examine_machine())
    findings = list(doctor.examine_processes(target, catalog))
    catalog.save()
    if as_json:
        print_line(json.dumps(doctor.as_json(checks, findings)))
    else:
        for line in doctor.lines(checks, findings):
            print_line(summary.printable(line))
    if any(check.remedy for check in checks):
        sys.exit(1)


def _shortfall(result: HarResult) -> str:
    parts = []
    if result.incomplete:
        parts.append(f"{result.incomplete} unfinished")
    if result.lost_bytes:
        parts.append(f"{result.lost_bytes} bytes lost, marked as truncated")
    return f" ({'; '.join(parts)})" if parts else ""


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"


def _report(ledger: Ledger, deleted: list[str], *names: str) -> None:
    for line in ledger.lines():
        say(line)
    for warning in ledger.warnings():
        say(f"Warning: {warning}")
    for name in deleted:
        say(f"Warning: {name} was deleted by someone while it was written: nothing is left of it.")
    for name in names:
        if name != STDOUT and name not in deleted:
            say(f"Wrote {name}")


def _power_of_two(size: int) -> int:
    return max(1 << (size - 1).bit_length(), os.sysconf("SC_PAGE_SIZE"))


def _optional(name: str | None, option: str) -> contextlib.AbstractContextManager[OutputFile | None]:
    return OutputFile(name, option) if name else contextlib.nullcontext()
