"""Options of which processes and connections are meant, rows of a table; and what they choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from capture.commands.values import PID
from capture.errors import UsageError
from capture.targets import PROTOCOLS, Targets, select

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PORT = click.IntRange(1, 65535)
# Kinds of targets: how select() calls them, the short option, the long one, its value, and what it records.
_TARGETS: tuple[tuple[str, str | None, str, click.IntRange | None, str, str], ...] = (
    ("pids", "-p", "pid", PID, "PID", "this process"),
    ("comms", "-c", "comm", None, "COMM", "processes of this name (as ps -o comm shows it)"),
    ("users", "-u", "user", None, "USER", "processes of this user"),
    ("ports", None, "port", _PORT, "N", "connections with this port at either end"),
    (
        "hosts",
        None,
        "host",
        None,
        "HOST",
        "connections with this host or network (10.0.0.0/8) at either end",
    ),
    ("cgroups", None, "cgroup", None, "PATH", "processes in this control group"),
    ("containers", None, "container", None, "NAME", "processes of this container, by name or id"),
)
_EXCLUDED = "excluded_"


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each kind of target, and its opposite."""
    for kind, _, name, value, metavar, what in reversed(_TARGETS):
        command = click.option(
            f"--exclude-{name}", f"{_EXCLUDED}{kind}", type=value, multiple=True, metavar=metavar,
            help=f"Leave out {what}.",
        )(command)  # fmt: skip
    for kind, short, name, value, metavar, what in reversed(_TARGETS):
        names = [*([short] if short else []), f"--{name}", kind]
        command = click.option(*names, type=value, multiple=True, metavar=metavar, help=f"Record {what}.")(
            command
        )
    return command


def targets(options: Mapping[str, tuple[Any, ...]], protocols: str, *, follow: bool) -> Targets:
    """What the options of target_options() choose. Raises UsageError."""
    chosen = frozenset(word.strip() for word in protocols.split(","))
    if not chosen <= PROTOCOLS:
        raise UsageError(
            f"--protocol takes {', '.join(sorted(PROTOCOLS))}, with commas between, not {protocols!r}."
        )
    for kind, _, name, *_ in _TARGETS:
        for values, option in ((options[kind], name), (options[_EXCLUDED + kind], f"exclude-{name}")):
            if "" in values:
                raise UsageError(f"--{option} has an empty value: name what is meant.")
    excluded = {k.removeprefix(_EXCLUDED): v for k, v in options.items() if k.startswith(_EXCLUDED)}
    wanted = {k: v for k, v in options.items() if not k.startswith(_EXCLUDED)}
    return Targets(select(**wanted), select(**excluded), chosen, follow)
