"""The command of ``record -- CMD``: forked before the probes exist, run when they do.

The child waits on a pipe until it is released, so that not an instruction of CMD runs unseen. It keeps our
stdin, stdout, stderr, process group and terminal: Ctrl-C reaches it directly. If we die first, the pipe closes
and the child, not yet released, exits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from typing import TYPE_CHECKING

from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SHELL = "/bin/sh"
_STDOUT, _STDERR = 1, 2
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
# Signals that Python treats otherwise than programs expect. SIGHUP stays ignored under nohup.
_PYTHONS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)


class CommandError(PlaintapError):
    """CMD could not be run; the exit code is the shell's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Command:
    """A child that has not begun yet."""

    def __init__(self, arguments: Sequence[str], *, stdout_is_taken: bool = False) -> None:
        """With ``stdout_is_taken``, by the capture, its stdout is our stderr."""
        self._arguments = list(arguments)
        self._stdout_is_taken = stdout_is_taken
        self.exit_code: int | None = None
        go_read, self._go = os.pipe()
        self._failed, failed_write = os.pipe()
        # Our own handlers must not run in the child.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PYTHONS)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.close(self._failed)
            self._become(go_read, failed_write, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(go_read)
        os.close(failed_write)
        self._pipes: tuple[int, ...] = (self._go, self._failed)

    def _become(self, go: int, failed: int, mask: Iterable[int]) -> None:
        """In the child: wait, then be CMD. Never returns."""
        try:
            # Before it waits: a signal that comes meanwhile ends it as it would end CMD.
            for number in _PYTHONS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if os.read(go, 1) == b"":
                os._exit(1)
            if self._stdout_is_taken:
                os.dup2(_STDERR, _STDOUT)
            self._execute()
        except OSError as error:
            os.write(failed, str(error.errno).encode())
        except ValueError:  # Python's own check: a name without a character
            os.write(failed, str(errno.ENOENT).encode())
        finally:
            os._exit(_NOT_FOUND)

    def _execute(self) -> None:
        """As execvp(3) does, and with it env, nice and sudo: a script that names no interpreter is the shell's."""
        name, *arguments = self._arguments
        try:
            os.execvp(name, self._arguments)  # noqa: S606 - running the user's command is the point
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
        os.execv(_SHELL, [_SHELL, shutil.which(name) or name, *arguments])  # noqa: S606 - as above

    def run(self) -> None:
        """Release the child. Raises CommandError if CMD cannot be executed."""
        # A child that a signal has ended while it waited reads no more: poll() tells of it.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"g")
        failure = os.read(self._failed, 16)
        self._close_pipes()
        if failure:
            os.waitpid(self.pid, 0)
            code = int(failure)
            name = self._arguments[0]
            raise CommandError(
                f"Cannot run {name!r}: {os.strerror(code)}.",
                _NOT_FOUND if code == errno.ENOENT else _NOT_EXECUTABLE,
            )

    def poll(self) -> bool:
        """Whether CMD has ended; then ``exit_code`` is set, 128 + N for signal N as shells do."""
        # A signal handler may be told its end meanwhile.
        with contextlib.suppress(ChildProcessError):
            if self.exit_code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.exit_code = _exit_code(status)
        return self.exit_code is not None

    def abandon(self) -> None:
        """Record it no more: wait for its end, which comes at once if it was never released."""
        self._close_pipes()
        # A signal handler may be told its end meanwhile.
        with contextlib.suppress(ChildProcessError):
            if self.exit_code is None:
                self.exit_code = _exit_code(os.waitpid(self.pid, 0)[1])

    def _close_pipes(self) -> None:
        """Once: the numbers may be another file's afterwards."""
        ends, self._pipes = self._pipes, ()
        for end in ends:
            os.close(end)

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        with contextlib.suppress(ProcessLookupError):
            if not self.poll():
                os.kill(self.pid, number)


def _exit_code(status: int) -> int:
    """As a shell has it, of what waitpid() says."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
