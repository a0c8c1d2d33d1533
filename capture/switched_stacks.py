"""Probes where TLS functions return to that are called on stacks which their program switches between: coroutines,
fibers. Such a call's return address must stay as it is (bpf/stacks.bpf.h), so a probe waits there for it.

The address is what the process's memory says, which may be anything: the probe is for that process alone.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from capture.processes import code_at

if TYPE_CHECKING:
    from bpf.probes import Probes
    from bpf.tables import Tables
    from capture.events import ReturnExpected

# A program calls the functions from a few places; each is a link, which takes a descriptor.
MAX_PLACES = 1024


class SwitchedStacks:
    """Answers to ReturnExpected."""

    def __init__(self, tables: Tables, probes: Probes) -> None:
        self._tables = tables
        self._probes = probes
        # By process, memory and address; where there can be no probe, why.
        self._links: dict[tuple[int, int, int], int | str] = {}
        self._warned: set[int] = set()
        self._warnings: deque[str] = deque()

    def take_warnings(self) -> list[str]:
        """Processes whose calls are not seen to return, each once."""
        return [self._warnings.popleft() for _ in range(len(self._warnings))]

    def expect(self, event: ReturnExpected) -> None:
        """Put a probe there, and let the kernel side know.

        Of a handshake that returns to where none can be nothing is missed, and nothing said: the kernel side asks
        again, for what reads or writes may return there too.
        """
        key = (event.pid, event.memory, event.address)
        if key not in self._links:
            self._links[key] = self._attach(event)
        link = self._links[key]
        if isinstance(link, int):
            self._tables.know_return_place(*key, probed=True)
        elif event.moves_bytes:
            self._warn(event.pid, link)
            self._tables.know_return_place(*key, probed=False)

    def _warn(self, pid: int, problem: str) -> None:
        if pid not in self._warned and os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - often
            self._warned.add(pid)
            self._warnings.append(
                f"pid {pid} calls TLS functions from coroutines, where not all can be read: {problem}."
            )

    def _forget_ended(self) -> None:
        """Let go of what was for processes that are gone: it takes 0.1 s."""
        ended = [key for key in self._links if not os.path.exists(f"/proc/{key[0]}")]  # noqa: PTH110 - often
        links = [self._links.pop(key) for key in ended]
        self._probes.release([link for link in links if isinstance(link, int)])

    def _attach(self, event: ReturnExpected) -> int | str:
        """What ``release`` takes, or why there is no probe."""
        try:
            if len(self._links) >= MAX_PLACES:
                self._forget_ended()
            if len(self._links) >= MAX_PLACES:
                return f"it is called from more than {MAX_PLACES} places"
            if not (code := code_at(event.pid, event.address)):
                return "it returns to code that is in no file"
            return self._probes.attach_return_place(*code, event.pid)
        except OSError as error:
            return str(error)
