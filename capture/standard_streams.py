"""Standard streams that were closed before we began: ``plaintap show FILE >&-``, or a parent that has none.

Their numbers would be given to the next files that are opened, and what is meant for a stream would go into
them. So the numbers are taken: by what can neither be read from nor be written to, but that talk is dropped.
Python has None for such a stream, and goes on to have it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACEHOLDERS = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
"""How stdin, stdout and stderr are opened: the wrong way round, except for the last."""


def reserve() -> None:
    """Before any other file is opened."""
    for number, flags in enumerate(_PLACEHOLDERS):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, flags)  # the lowest free number: this one
            os.set_inheritable(fd, True)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Names of processes and files may have any character, and the terminal another encoding.
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """What cannot be printed fails by name, but for BrokenPipeError, where the reader has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is buffered still would fail once more, and without a name, when Python ends.
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        raise PlaintapError(f"Writing to stdout failed ({error.strerror}).") from None


def require_stdout() -> None:
    """For who has nothing to do but to print."""
    if sys.stdout is None:
        raise PlaintapError("stdout is closed: there is nowhere to print.")


def stdout_is_terminal() -> bool:
    """Whether a person reads what is printed."""
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Whether a person reads what is said."""
    return sys.stderr is not None and sys.stderr.isatty()
