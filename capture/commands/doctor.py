"""``plaintap doctor``."""

from __future__ import annotations

import json
import sys

import click

import capture.doctor
from capture import standard_streams
from capture.console import Command, print_line
from capture.probe_catalog import ProbeCatalog, default_cache_file
from exporters.printable import printable


@click.command(cls=Command)
@click.argument("target", required=False, metavar="[PID|COMM|PATH]")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def doctor(target: str | None, as_json: bool) -> None:
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
    checks = list(capture.doctor.examine_machine())
    findings = list(capture.doctor.examine_processes(target, catalog))
    catalog.save()
    if as_json:
        print_line(json.dumps(capture.doctor.as_json(checks, findings)))
    else:
        for line in capture.doctor.lines(checks, findings):
            print_line(printable(line))
    if any(check.remedy for check in checks):
        sys.exit(1)
