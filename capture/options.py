"""Options that are rows of a table, or that several commands have; and what they choose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from capture.errors import UsageError
from capture.targets import PROTOCOLS, Targets, select
from exporters.har import EntryMaker
from exporters.har_redaction import Redaction
from exporters.http import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporters.filters import ExchangeFilter

# Kinds of targets: how select() calls them, the short option, the long one, its value, and what it records.
_PORT = click.IntRange(1, 65535)
PID = click.IntRange(min=1)


class _Seconds(click.FloatRange):
    """What compares with nothing is in no range, and would never be over."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is no time.", param, ctx)
        return seconds


SECONDS = _Seconds(min=0, min_open=True)
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


_CONTENT: dict[str, dict[str, Any]] = {
    "--max-body": {
        "type": click.IntRange(min=0),
        "metavar": "BYTES",
        "help": "Show at most this much of a body",
    },
    "--no-bodies": {"is_flag": True, "help": "Leave bodies out"},
    "--redact": {
        "multiple": True,
        "metavar": "NAME",
        "help": "Also redact this header, cookie, query, form or JSON field",
    },
    "--sensitive": {"is_flag": True, "help": "Keep Authorization, Cookie and other credentials"},
}


def content_options(of: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What of the exchanges goes into an archive: ``of`` says which, where that is not plain."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for name, option in _CONTENT.items():
            command = click.option(name, **(option | {"help": f"{option['help']}{of}."}))(command)
        return command

    return add


class Content:
    """What the options of content_options() chose; they are taken out of ``options``."""

    def __init__(self, options: dict[str, Any]) -> None:
        chosen = {name: options.pop(name[2:].replace("-", "_")) for name in _CONTENT}
        max_body, no_bodies, self._redact, self._sensitive = chosen.values()
        self.given = [
            name for name, value in chosen.items() if not (value is None or value is False or value == ())
        ]
        """The options by name."""
        self._limits = {} if max_body is None else {"body_bytes": max_body, "decoded_bytes": max_body}
        self._bodies = not no_bodies

    @property
    def limits(self) -> Limits:
        """For reading exchanges."""
        return Limits(**self._limits)

    def maker(self, wanted: ExchangeFilter | None) -> EntryMaker:
        """For making entries of those that are wanted."""
        return EntryMaker(self.limits, Redaction.of(self._sensitive, self._redact), self._bodies, wanted)

    def for_live(self) -> dict[str, object]:
        """The same, for exporters.live."""
        return {
            "limits": self._limits,
            "sensitive": self._sensitive,
            "redact": self._redact,
            "bodies": self._bodies,
        }
