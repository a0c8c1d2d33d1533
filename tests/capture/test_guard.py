"""The guard of held processes, as the recorder sees it: it may be killed, too."""

from __future__ import annotations

import os
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from capture.guard import Guard, release
from capture.guard import main as guard_main
from capture.pipeline import Plan
from capture.recorder import Recorder
from capture.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Iterator


class Tables:
    """What of the kernel's tables holding concerns."""

    def __init__(self) -> None:
        self.holding = True

    def hold(self, *, on: bool) -> None:
        self.holding = on


class Pipeline:
    """One without warnings of its own."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.can_hold = True

    def take_warnings(self) -> list[str]:
        return []


@pytest.fixture
def guard() -> Iterator[Guard]:
    """One that waits; its maps are none, for it has not looked at them yet."""
    with Path(os.devnull).open() as nothing:
        fd = nothing.fileno()
        watching = Guard(fd, fd, fd)
    yield watching
    watching.close()


def recorder(guard: Guard, said: list[str]) -> Recorder:
    """One that records with this guard."""
    recorder = Recorder(Plan(Targets()), cast("Any", None), said.append)
    recorder._guard = guard
    return recorder


def test_where_the_guard_is_killed_nothing_is_held_and_the_end_is_as_ever(guard: Guard) -> None:
    said: list[str] = []
    pipeline = Pipeline()
    recording = recorder(guard, said)
    os.kill(guard._process.pid, signal.SIGKILL)
    guard._process.wait()
    for _ in range(3):
        recording._say_warnings(cast("Any", pipeline))
    assert not pipeline.tables.holding
    (warning,) = said
    assert "guard" in warning
    guard.close()


@pytest.mark.parametrize("can_hold", [True, False])
def test_what_the_guard_let_go_is_held_again_if_there_is_who_lets_it_go(guard: Guard, can_hold: bool) -> None:
    said: list[str] = []
    pipeline = Pipeline()
    pipeline.can_hold = can_hold
    pipeline.tables.holding = False
    recording = recorder(guard, said)
    guard.has_let_go = lambda: True  # type: ignore[method-assign]
    recording._say_warnings(cast("Any", pipeline))
    assert pipeline.tables.holding is can_hold
    assert len(said) == 1


@pytest.mark.parametrize("word", [b"done", b""], ids=["at the end", "when the recorder has died"])
def test_what_was_stopped_last_goes_on(monkeypatch: pytest.MonkeyPatch, word: bytes) -> None:
    """A process may be stopped after the last that was told of it was answered."""
    released: list[int] = []
    monkeypatch.setattr("capture.guard.release", lambda held, _limit=0.0: released.append(held))
    monkeypatch.setattr("capture.guard.system.write_map", lambda *_: None)
    monkeypatch.setattr("capture.guard.time.sleep", lambda _: None)
    monkeypatch.setattr("capture.guard.signal.signal", lambda *_: None)
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(word)
        ours.shutdown(socket.SHUT_WR)
        guard_main(theirs.detach(), 1, 2, 3)
    assert set(released) == {3}


@pytest.mark.parametrize("held_long", [False, True])
def test_a_recorder_that_dies_with_the_guards_word_unread_is_dead_too(
    monkeypatch: pytest.MonkeyPatch, *, held_long: bool
) -> None:
    """The guard is told of that by an error (unix(7): ECONNRESET), of its next word by another."""
    released: list[float] = []
    ours, theirs = socket.socketpair()

    def release(_held: int, longer_than_s: float = 0.0) -> bool:
        ours.close()
        released.append(longer_than_s)
        return held_long

    monkeypatch.setattr("capture.guard.release", release)
    monkeypatch.setattr("capture.guard.system.write_map", lambda *_: None)
    monkeypatch.setattr("capture.guard.signal.signal", lambda *_: None)
    guard_main(theirs.detach(), 1, 2, 3)
    assert released[-1] == 0.0


def test_one_that_may_not_be_signalled_does_not_keep_the_others_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken: list[int] = []

    def kill(pid: int, number: int) -> None:
        if pid == 4:
            raise PermissionError
        woken.append(pid)

    entries = [(struct.pack("=QI4x", 1, pid), bytes(1)) for pid in (3, 4, 5)]
    monkeypatch.setattr("capture.guard.system.read_hash_map", lambda *_: iter(entries))
    monkeypatch.setattr("capture.guard.os.kill", kill)
    assert release(7)
    assert woken == [3, 5]
