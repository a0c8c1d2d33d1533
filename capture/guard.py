"""Lets stopped processes go on when the recorder has died, however it died: ``python -m capture.guard FD FD FD``.

A process of its own, in a session of its own, that does nothing but wait. It holds descriptors of the kernel
side's settings and of its map of held processes, and the other end of a socket of the recorder's. When that closes
without a word, the recorder is gone. Its programs are detached one by one then, which can take seconds: so the
settings are cleared first, which stops them all, and then what was held gets SIGCONT.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from bpf import abi, system

_KEY_BYTES, _VALUE_BYTES = 4, 1
# A program that was running when the settings were cleared may still have stopped a process.
_LOOKS_S = (0.0, 0.05, 0.5)
_DONE = b"done"


class Guard:
    """The recorder's side."""

    def __init__(self, settings_map: int, held_map: int) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                # -P: not from the working directory, which may be anyone's.
                [sys.executable, "-P", "-m", "capture.guard", str(theirs.fileno()), str(settings_map), str(held_map)],
                pass_fds=(theirs.fileno(), settings_map, held_map),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        if not self._socket.recv(1):
            raise OSError("the guard of held processes did not start")

    def close(self) -> None:
        """There is nothing left to guard."""
        with self._socket:
            self._socket.sendall(_DONE)
        self._process.wait()


def release(held_map: int) -> None:
    """SIGCONT to every process of the map."""
    for key, _ in system.read_hash_map(held_map, _KEY_BYTES, _VALUE_BYTES):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int.from_bytes(key, sys.byteorder), signal.SIGCONT)


def main(socket_fd: int, settings_map: int, held_map: int) -> None:
    """Wait for the recorder's word, or its death."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=socket_fd) as recorder:
        recorder.sendall(b"r")
        word = recorder.recv(len(_DONE))
    if word != _DONE:
        system.write_map(settings_map, bytes(4), bytes(abi.header().layouts["settings"].codec.size))
        for pause in _LOOKS_S:
            time.sleep(pause)
            release(held_map)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
