"""``plaintap show``."""

from __future__ import annotations

import shutil

import click

from capture import standard_streams
from capture.console import Command, print_line, say
from capture.reading import read_exchanges
from exporters import har_stats, summary
from exporters.http import Notes


@click.command(cls=Command)
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
