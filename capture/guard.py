"""Lets stopped processes go on when the recorder has died, or answers no more: ``python -m capture.guard FD …``.

A process of its own, in a session of its own, that does nothing but wait. It holds descriptors of the kernel
side's settings, of its switch for holding and its map of held processes, and the other end of a socket of the
recorder's. When that closes without a word, the recorder is gone. Its programs are detached one by one then, which
can take seconds: so the settings are cleared first, which stops them all, and then what was held gets SIGCONT.

A recorder that is stopped itself, or has no processor, must not stop others with it: what is held for more than a
second goes on, and nothing is held from then on, until the recorder hears of it and holds again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time

from bpf import abi, system

_HELD = struct.Struct("=QI4x")  # new_code.bpf.h's struct hold
_VALUE_BYTES = 1
# A look at a browser takes half a second.
HELD_LIMIT_S = 1.0
_LOOK_S = 0.25
# A program that was running when the settings were cleared may still have stopped a process.
_LOOKS_S = (0.0, 0.05, 0.5)
_DONE, _READY, _LET_GO = b"done", b"r", b"g"


class Guard:
    """The recorder's side."""

    def __init__(self, settings_map: int, holding_map: int, held_map: int) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), settings_map, holding_map, held_map)
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                # -P: not from the working directory, which may be anyone's.
                [sys.executable, "-P", "-m", "capture.guard", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.gone = False  # killed, as far as has_let_go() knows
        if not self._socket.recv(1):
            raise OSError("the guard of held processes did not start")

    def has_let_go(self) -> bool:
        """Whether it had to let processes go on since it was last asked; nothing is held from then on."""
        try:
            said = self._socket.recv(64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            said = b""
        self.gone = not said
        return bool(said)

    def close(self) -> None:
        """There is nothing left to guard."""
        # A guard that was killed has no use for it.
        with self._socket, contextlib.suppress(OSError):
            self._socket.sendall(_DONE)
        self._process.wait()


def release(held_map: int, longer_than_s: float = 0.0) -> bool:
    """SIGCONT to every process of the map that has been held so long; whether there was one."""
    latest = time.monotonic_ns() - int(longer_than_s * 1e9)
    found = False
    for key, _ in system.read_hash_map(held_map, _HELD.size, _VALUE_BYTES):
        since, pid = _HELD.unpack(key)
        if since <= latest:
            found = True
            # One that may not be signalled must not keep the others waiting.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGCONT)
    return found


def _word_of(recorder: socket.socket) -> bytes | None:
    """What it said; nothing, if it has died; None if it lives and is silent."""
    try:
        return recorder.recv(len(_DONE))
    except TimeoutError:
        return None
    except OSError:
        return b""  # ECONNRESET: it has died, and had not read what it was told (unix(7))


def main(socket_fd: int, settings_map: int, holding_map: int, held_map: int) -> None:
    """Wait for the recorder's word, or its death."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=socket_fd) as recorder:
        recorder.sendall(_READY)
        recorder.settimeout(_LOOK_S)
        told = False
        while (word := _word_of(recorder)) is None:
            if not release(held_map, HELD_LIMIT_S):
                told = False
                continue
            system.write_map(holding_map, bytes(4), bytes(4))
            release(held_map, HELD_LIMIT_S)
            if not told:
                told = True
                with contextlib.suppress(OSError):  # it has died: what comes next says so
                    recorder.sendall(_LET_GO)
    if word == _DONE:
        # The programs are detached: who was stopped after the recorder's last look is in the map.
        release(held_map)
        return
    system.write_map(settings_map, bytes(4), bytes(abi.header().layouts["settings"].codec.size))
    for pause in _LOOKS_S:
        time.sleep(pause)
        release(held_map)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:5]))
