"""Options of what of the exchanges goes into an archive, rows of a table; and what they choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTENT: dict[str, dict[str, Any]] = {
    "--max-body": {
        "type": click.IntRange(min=0),
        "metavar": "BYTES",
        "help": "Show at most this much of a body",
    },
    "--no-bodies": {"is_flag": True, "help": "Show no bodies"},
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
        max_body, no_bodies, self.redact, self.sensitive = chosen.values()
        self.given = [
            name for name, value in chosen.items() if not (value is None or value is False or value == ())
        ]
        """The options by name."""
        self.limits = {} if max_body is None else {"body_bytes": max_body, "decoded_bytes": max_body}
        """What exporters.http.Limits takes."""
        self.bodies = not no_bodies

    def for_live(self) -> dict[str, object]:
        """The same, for exporters.live."""
        return {
            "limits": self.limits,
            "sensitive": self.sensitive,
            "redact": self.redact,
            "bodies": self.bodies,
        }
