"""Held processes go on, and who cannot wake them holds nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from capture.events import NewCodeUsed
from capture.new_code import NewCode
from capture.pipeline import Plan
from capture.recorder import Recorder
from capture.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable


class Tables:
    """What of the kernel's tables holding concerns."""

    new_code_map = -1

    def __init__(self) -> None:
        self.holding = True
        self.held = {(77, 5)}

    def hold(self, *, on: bool) -> None:
        self.holding = on

    def let_go(self, pid: int, since: int) -> None:
        self.held.discard((pid, since))

    def know_kernel_file(self, *_: object) -> None:
        pass


class Anything:
    """Files, probes and stacks that have nothing to say."""

    def __getattr__(self, _name: str) -> Callable[..., list[Any]]:
        return lambda *_: []


class NoRing:
    """One that nobody writes into."""

    def __init__(self, *_: object) -> None:
        pass

    def drain(self, _keep: object) -> None:
        return None


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> tuple[NewCode, Tables]:
    """One that was told of a held process, and its tables."""
    monkeypatch.setattr("capture.new_code.Ring", NoRing)
    monkeypatch.setattr("capture.new_code._await_stop", lambda _pid: None)
    tables, nothing = Tables(), cast("Any", Anything())
    new_code = NewCode(cast("Any", tables), nothing, nothing, nothing, nothing)
    new_code._told[77] = [NewCodeUsed(77, 5, 1, 2, 3, 4, "", True)]
    return new_code, tables


def test_who_may_not_wake_a_process_says_so_and_holds_nobody_any_more(
    monkeypatch: pytest.MonkeyPatch, answering: tuple[NewCode, Tables]
) -> None:
    new_code, tables = answering

    def refused(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr("capture.new_code.os.kill", refused)
    new_code._answer(77)
    assert not tables.holding
    assert not new_code.lets_go
    (warning,) = new_code.take_warnings()
    assert "kill -CONT 77" in warning
    assert new_code.take_warnings() == []


def test_the_guard_knows_of_a_process_until_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, answering: tuple[NewCode, Tables]
) -> None:
    new_code, tables = answering
    known: list[set[tuple[int, int]]] = []
    monkeypatch.setattr("capture.new_code.os.kill", lambda *_: known.append(set(tables.held)))
    new_code._answer(77)
    assert known == [{(77, 5)}]
    assert tables.held == set()
    assert tables.holding


def test_one_that_is_held_anew_as_soon_as_it_goes_on_stays_known(
    monkeypatch: pytest.MonkeyPatch, answering: tuple[NewCode, Tables]
) -> None:
    new_code, tables = answering
    monkeypatch.setattr("capture.new_code.os.kill", lambda *_: tables.held.add((77, 9)))
    new_code._answer(77)
    assert tables.held == {(77, 9)}


@pytest.mark.parametrize(("rights", "holds"), [({"CAP_KILL"}, True), (set[str](), False)])
def test_without_the_right_to_wake_nobody_is_held(
    monkeypatch: pytest.MonkeyPatch, rights: set[str], holds: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr("capture.recorder.rights.held", lambda: frozenset(rights))
    recorder = Recorder(Plan(Targets(), hold=True), cast("Any", None), said.append)
    recorder._require_right_to_hold()
    assert recorder._plan.hold is holds
    assert ["CAP_KILL" in warning for warning in said] == [True] * (not holds)
