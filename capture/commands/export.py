"""``plaintap export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from capture.commands.content_options import Content, content_options
from capture.commands.values import PID
from capture.console import Command, say
from capture.output_file import Existing, OutputFile, beside, require_different
from capture.reading import read_exchanges
from exporters.entry_writers import EXPORTERS
from exporters.filters import ExchangeFilter
from exporters.har import EntryMaker
from exporters.har_redaction import Redaction
from exporters.http import Limits, Notes

if TYPE_CHECKING:
    from exporters.har import HarResult

_ENDINGS = {"har": ".har", "curl": ".sh", "text": ".txt"}


@click.command(cls=Command)
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
    help="Only this host (may be repeated); *.example.com for those below, 10.0.0.0/8 for an address at either end.",
)
@click.option("--url", "urls", multiple=True, metavar="GLOB", help="Only URLs that match.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="N",
    help="Only this status (may be repeated): 404, 400-499 or 4xx.",
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
      plaintap export --format curl --status 5xx --sensitive -o - a.pcapng
      tcpdump -w - port 80 | plaintap export - -o web.har
    """
    name = output or beside(file, _ENDINGS.get(form, f".{form}"))
    content = Content(others)
    limits = Limits(**content.limits)
    redaction = Redaction.of(content.sensitive, content.redact)
    wanted = ExchangeFilter.of(hosts, urls, statuses, methods, pids)
    notes = Notes()
    with OutputFile(name, "-o", Existing.ANY if output else Existing.OWN) as out:
        require_different((out,), file)
        with read_exchanges(file, say, notes, limits) as found:
            out.begin()
            writer = EXPORTERS[form](out.file, EntryMaker(limits, redaction, content.bodies, wanted))
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


def _shortfall(result: HarResult) -> str:
    parts = []
    if result.incomplete:
        parts.append(f"{result.incomplete} unfinished")
    if result.lost_bytes:
        parts.append(f"{result.lost_bytes} bytes lost, marked as truncated")
    return f" ({'; '.join(parts)})" if parts else ""


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"
