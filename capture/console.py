"""How the command line talks: to stderr, in sentences, and with exit codes; stdout is for data."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from capture import standard_streams
from capture.errors import PlaintapError
from exporters.printable import printable


def say(message: str) -> None:
    """Talk goes to stderr; stdout is data. Names of others' processes and files are in it."""
    click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def print_line(line: str) -> None:
    """Print to stdout, which is named where it takes nothing."""
    with standard_streams.printing():
        click.echo(line)


class Command(click.Command):
    """Its help, too, may be printed where nothing takes it."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """See click: it prints help and version."""
        with standard_streams.printing():
            return super().make_context(*args, **kwargs)


class Group(Command, click.Group):
    """Prints plaintap's own errors as one sentence, with their exit code; has commands of which each is a module.

    A module of a package is imported when its command is asked for: exporting does not wait for all of recording.
    """

    def __init__(self, *args: Any, package: str, names: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._package = package
        self._names = names

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return sorted(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        if cmd_name not in self._names:
            return None
        command: click.Command = getattr(import_module(f"{self._package}.{cmd_name}"), cmd_name)
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """See click: to be called once, by the script."""
        standard_streams.reserve()
        try:
            return super().main(*args, **kwargs)
        except PlaintapError as error:
            say(f"plaintap: {error}")
            sys.exit(error.exit_code)
        except OSError as error:  # but for that of a reader who has gone, with whom click ends silently
            say(f"plaintap: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        sys.exit(1)
