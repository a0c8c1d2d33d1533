"""A machine that sleeps, and a clock that is set: what is recorded later has the time that it had then."""

from __future__ import annotations

import time

import pytest

from capture.wall_clock import MAX_DRIFT_NS, WallClock

HOUR_NS = 3_600_000_000_000


@pytest.mark.parametrize("jump", [8 * HOUR_NS, -HOUR_NS, MAX_DRIFT_NS + 100_000_000])
def test_a_jump_is_followed_once(monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    clock = WallClock()
    before = clock.offset
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + jump)
    assert clock.adjust() == pytest.approx(jump, abs=100_000_000)
    assert clock.offset - before == pytest.approx(jump, abs=100_000_000)
    assert abs(clock.now() - time.time_ns()) < 100_000_000
    assert clock.adjust() == 0


def test_a_correction_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WallClock()
    before = clock.offset
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + MAX_DRIFT_NS // 2)
    assert clock.adjust() == 0
    assert clock.offset == before
