"""Who a pid is: what /proc says while it lives, what its exec said when it is gone, and not forever."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from processes import running

from capture import process_names
from capture.events import ProgramExecuted
from capture.process_names import MAX_REMEMBERED, ProcessNames
from capture.processes import RunningProcess
from capture.streams import Process

HOLDER = "import sys; print('up', flush=True); sys.stdin.read()"


def gone():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def executed(pid, file="/usr/bin/curl", *arguments):
    return ProgramExecuted(pid, 0, file, arguments or ("curl", "-H", "X: a b", "http://x/"))


def test_a_living_process_as_proc_shows_it():
    command = [sys.executable, "-c", HOLDER, "an argument"]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        found = ProcessNames().describe(process.pid, "kernel's name")
    assert (found.pid, found.comm) == (process.pid, "kernel's name")
    assert found.exe == str(Path(sys.executable).resolve())
    assert found.command_line.endswith("'an argument'")


def test_one_that_is_gone_as_its_exec_said():
    names, pid = ProcessNames(), gone()
    names.executed(executed(pid))
    assert names.describe(pid, "curl") == Process(pid, "curl", "/usr/bin/curl", "curl -H 'X: a b' http://x/")


def test_one_that_nothing_is_known_of():
    pid = gone()
    assert ProcessNames().describe(pid, "curl") == Process(pid, "curl")


def test_another_program_in_the_same_process_is_asked_for_again():
    names, pid = ProcessNames(), gone()
    names.executed(executed(pid, "/bin/sh", "sh"))
    assert names.describe(pid, "x").exe == "/bin/sh"
    names.executed(executed(pid))
    assert names.describe(pid, "x").exe == "/usr/bin/curl"


def test_what_is_known_is_not_asked_for_again(monkeypatch):
    asked = []
    monkeypatch.setattr(process_names, "read_process", asked.append)
    names = ProcessNames()
    for _ in range(3):
        names.describe(1, "a")
        names.describe(1, "b")
    assert asked == [1, 1]


def test_a_pid_that_is_used_again_without_an_exec_is_another_process(monkeypatch):
    """A child that was forked and goes on with its parent's program, or another's of the same name."""
    names, pid = ProcessNames(), 7
    starts = iter([100, 100, 200, None])
    running = RunningProcess(pid, 100, "worker", "/usr/bin/old", "old")
    monkeypatch.setattr(process_names, "start_ticks", lambda _: next(starts))
    monkeypatch.setattr(process_names, "read_process", lambda _: running)
    assert names.describe(pid, "worker").exe == "/usr/bin/old"
    assert names.describe(pid, "worker").exe == "/usr/bin/old"
    running = replace(running, start_ticks=200, exe="/usr/bin/new")
    assert names.describe(pid, "worker").exe == "/usr/bin/new"
    # It has gone; what is known of it is.
    assert names.describe(pid, "worker").exe == "/usr/bin/new"


def test_who_was_asked_for_last_stays(monkeypatch):
    monkeypatch.setattr(process_names, "read_process", lambda _: None)
    monkeypatch.setattr(process_names, "MAX_REMEMBERED", 3)
    names = ProcessNames()
    for pid in (1, 2, 3, 1, 4):
        names.describe(pid, "a")
    assert sorted(names._described) == [1, 3, 4]


def test_memory_is_bounded_and_the_newest_stay(monkeypatch):
    monkeypatch.setattr(process_names, "read_process", lambda _: None)
    names = ProcessNames()
    for pid in range(1, MAX_REMEMBERED + 51):
        names.executed(executed(pid))
        names.describe(pid, "curl")
    assert len(names._executed) == len(names._described) == MAX_REMEMBERED
    assert names.describe(MAX_REMEMBERED + 50, "curl").exe == "/usr/bin/curl"
    assert replace(names.describe(1, "curl"), comm="") == Process(1, "")
