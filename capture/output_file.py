"""Where captures and archives go: a file for its owner's eyes only, or stdout.

Nothing of what was there before is touched until there is something to write: a recording that is refused
leaves an older capture as it was, and no empty file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from capture.errors import PlaintapError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import BinaryIO, Self

STDOUT = "-"
_PACKED = frozenset((".gz", ".zst"))
_OWNER_ONLY = 0o600
_STDIN = 0
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class Existing(Enum):
    """What may be there already. A name that is ours, not the user's, may be one in a folder of others, who know it:
    a root is not to write to what they have put there, nor to where a link of theirs leads.
    """

    ANY = auto()  # the user has named it
    OWN = auto()  # a file of the user's own: what was made before
    NONE = auto()


class WriteError(PlaintapError):
    """An output takes no more."""

    def __init__(self, name: str, option: str, error: OSError) -> None:
        super().__init__(
            f"Writing {'to stdout' if name == STDOUT else name} failed ({error.strerror}): it ends where it was "
            f"written last. Make room, or name another file with {option}."
        )


class OutputFile:
    """An output by name, ``-`` for stdout; ``option`` is how the user can name another.

    ``name`` is what it was called; ``file``, with a buffer, is for writing from begin() on.
    Raises UsageError where it cannot be written.
    """

    def __init__(self, name: str, option: str, existing: Existing = Existing.ANY) -> None:
        self.name = name
        self.option = option
        self._path: Path | None = None
        self.begun = False
        self._created = False
        if name == STDOUT:
            if sys.stdout is None:
                raise UsageError(f"stdout is closed: name a file with {option}.")
            # Not its buffer, which PYTHONUNBUFFERED takes away: what is written in part must be continued.
            self.file: BinaryIO = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115
            return
        path = self._path = Path(name)
        try:
            try:
                fd = os.open(path, _FLAGS | os.O_EXCL, _OWNER_ONLY)
                self._created = True
            except FileExistsError:
                if existing is Existing.NONE:
                    raise
                fd = os.open(path, _FLAGS, _OWNER_ONLY) if existing is Existing.ANY else _open_own(path)
        except OSError as error:
            raise UsageError(
                f"Cannot write {name}: {error.strerror}. Name another file with {option}."
            ) from None
        self.file = os.fdopen(fd, "wb")

    @property
    def is_file(self) -> bool:
        """Not a pipe, a terminal or another device."""
        return stat.S_ISREG(os.fstat(self.file.fileno()).st_mode)

    def write(self, data: bytes) -> None:
        """Begin, and be complete with ``data``. Raises WriteError."""
        with self.writing():
            self.begin()
            self.file.write(data)
            self.file.flush()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Raises WriteError for what goes wrong, but BrokenPipeError where the reader has gone."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WriteError(self.name, self.option, error) from None

    def begin(self) -> None:
        """Make it empty, and its owner's alone; a new one is the user's behind sudo."""
        self.begun = True
        if self._path is None or not self.is_file:
            return
        fd = self.file.fileno()
        # ext4 writes what was emptied to the disk when it is closed (auto_da_alloc), even if nothing was in it: half a
        # second for a GiB.
        if os.fstat(fd).st_size:
            os.ftruncate(fd, 0)
        with contextlib.suppress(OSError):
            os.fchmod(fd, _OWNER_ONLY)
        if not self._created:
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            os.fchown(fd, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # whoever wrote was told
            self.file.close()
        if self._created and not self.begun:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _open_own(path: Path) -> int:
    fd = os.open(path, _FLAGS | os.O_NOFOLLOW | os.O_NONBLOCK, _OWNER_ONLY)  # a FIFO would wait for a reader
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and str(found.st_uid) in (str(os.geteuid()), os.environ.get("SUDO_UID")):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "what is there is no file of yours")


def beside(source: str, ending: str) -> str:
    """The name of what is made of a capture: its own with another ending; ``-`` for ``-``."""
    if source == STDOUT:
        return STDOUT
    path = Path(source)
    if not path.name:  # a folder, of which whoever reads it complains
        return f"capture{ending}"
    return str((path.with_suffix("") if path.suffix in _PACKED else path).with_suffix(ending))


def deleted_outputs(outputs: Iterable[OutputFile]) -> list[str]:
    """The names of those that someone has removed meanwhile: nobody can find what was written."""
    return [
        output.name for output in outputs if output.is_file and not os.fstat(output.file.fileno()).st_nlink
    ]


def require_different(outputs: Iterable[OutputFile], source: str | None = None) -> None:
    """Refuse outputs that are one file, or that are the ``source`` (a path, ``-`` for stdin).

    By device and inode: links have other names. Raises UsageError; nothing was written yet.
    """
    found = [(f"{output.option} {output.name}", os.fstat(output.file.fileno())) for output in outputs]
    if source is not None:
        with contextlib.suppress(OSError):  # there is none: whoever reads it says so
            found.insert(0, (source, os.fstat(_STDIN) if source == STDOUT else Path(source).stat()))
    known: dict[tuple[int, int], str] = {}
    for label, status in found:
        # Terminals and /dev/null may be named as often as one likes.
        if stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode):
            other = known.setdefault((status.st_dev, status.st_ino), label)
            if other != label:
                raise UsageError(f"{other} and {label} are the same file: one would destroy the other.")
