"""The command line: what commands there are."""

from __future__ import annotations

import click

from capture.console import Group

COMMANDS = ("record", "export", "show", "doctor")


@click.group(
    cls=Group,
    package="capture.commands",
    names=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="plaintap")
def main() -> None:
    """Record the plaintext of this machine's connections, for Wireshark and devtools."""
