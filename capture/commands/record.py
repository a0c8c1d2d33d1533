"""``plaintap record``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from capture import standard_streams
from capture.commands.content_options import Content, content_options
from capture.commands.target_options import target_options, targets
from capture.commands.values import SECONDS
from capture.console import Command, say
from capture.errors import UsageError
from capture.output_file import STDOUT, Existing, OutputFile, deleted_outputs
from capture.pipeline import DEFAULT_RING_BYTES, MAX_RING_BYTES, Plan
from capture.recorder import Recorder
from capture.recording_output import RecordingOutput
from exporters.framing import Framing

if TYPE_CHECKING:
    from capture.ledger import Ledger


@click.command(cls=Command)
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
    help="Also record streams of Unix sockets, such as Docker's API. --port and --host leave them out.",
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
@content_options(" in the archive of --har")
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
        OutputFile(name, "-w", Existing.ANY if output else Existing.NONE) as out,
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
