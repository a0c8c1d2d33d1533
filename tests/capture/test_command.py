"""The command of a recording: waits for its release, keeps what is its own, and gives a shell's exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import children, wait_until

from capture.command import Command, CommandError


def ended(command):
    """Its exit code."""
    wait_until(command.poll, "the command to end")
    return command.exit_code


def run(*arguments):
    command = Command(arguments)
    command.run()
    return command


def descriptors():
    return {link.name for link in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def leaves_no_descriptor_and_no_child():
    before, children_before = descriptors(), children(os.getpid())
    yield
    assert descriptors() == before
    assert children(os.getpid()) == children_before


@pytest.mark.parametrize("code", [0, 1, 37, 255])
def test_the_exit_code_is_its_own(code):
    assert ended(run("sh", "-c", f"exit {code}")) == code


@pytest.mark.parametrize("by_path", [True, False])
def test_a_script_without_an_interpreter_is_the_shells(tmp_path, monkeypatch, by_path):
    script = tmp_path / "deploy me"
    script.write_text('test "$1 $#" = "a b 1" && exit 7\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ended(run(str(script) if by_path else script.name, "a b")) == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGXFSZ])
def test_a_signal_gives_128_and_its_number(number):
    assert ended(run("sh", "-c", f"kill -{int(number)} $$")) == 128 + number


def test_not_an_instruction_runs_before_the_release(tmp_path):
    marker = tmp_path / "ran"
    command = Command(("touch", str(marker)))
    time.sleep(0.1)
    assert not marker.exists()
    assert not command.poll()
    assert Path(f"/proc/{command.pid}/exe").readlink() == Path(sys.executable).resolve()
    command.run()
    assert ended(command) == 0
    assert marker.exists()


def test_the_process_that_waits_is_the_one_that_runs(tmp_path):
    out = tmp_path / "pid"
    command = Command(("sh", "-c", f"echo $$ > {out}"))
    pid = command.pid
    command.run()
    ended(command)
    assert int(out.read_text()) == pid


@pytest.mark.parametrize("name", ["/no/such/program", "no-such-program", ""])
def test_a_command_that_is_not_there_is_127(name):
    with pytest.raises(CommandError) as raised:
        run(name)
    assert raised.value.exit_code == 127
    assert repr(name) in str(raised.value)


def test_one_that_may_not_be_executed_is_126(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(CommandError) as raised:
        run(str(script))
    assert raised.value.exit_code == 126
    assert "Permission denied" in str(raised.value)


def test_a_folder_is_126(tmp_path):
    with pytest.raises(CommandError) as raised:
        run(str(tmp_path))
    assert raised.value.exit_code == 126


def test_one_that_is_abandoned_never_ran(tmp_path):
    marker = tmp_path / "ran"
    command = Command(("touch", str(marker)))
    command.abandon()
    assert not marker.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_release_ends_it_as_it_would_end_the_command(number):
    command = Command(("true",))
    command.signal(number)
    assert ended(command) == 128 + number
    command.abandon()


def test_one_that_a_signal_ended_before_the_release_is_released_in_vain():
    command = Command(("true",))
    os.kill(command.pid, signal.SIGKILL)
    os.waitid(os.P_PID, command.pid, os.WEXITED | os.WNOWAIT)
    command.run()
    assert ended(command) == 128 + signal.SIGKILL


def test_one_whose_parent_dies_never_runs(tmp_path):
    marker = tmp_path / "ran"
    script = (
        "import os, sys, time\nfrom capture.command import Command\n"
        "print(Command(['touch', sys.argv[1]]).pid, flush=True)\nos._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, marker], stdout=subprocess.PIPE, text=True, check=True
    )
    wait_until(lambda: not Path(f"/proc/{int(done.stdout)}").exists(), "the child to go")
    assert not marker.exists()


def test_signals_are_passed_on_and_none_is_an_error_when_it_has_ended():
    command = run("sh", "-c", "trap 'exit 41' TERM; echo; while :; do sleep 0.01; done")
    wait_until(lambda: children(command.pid), "the trap to be set")
    command.signal(signal.SIGTERM)
    assert ended(command) == 41
    command.signal(signal.SIGTERM)
    assert command.exit_code == 41


def test_it_starts_with_the_signals_that_programs_expect(tmp_path):
    out = tmp_path / "signals"
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        command = run("sh", "-c", f"grep SigIgn /proc/self/status > {out}")
        assert ended(command) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ignored = int(out.read_text().split()[1], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        assert not ignored >> (number - 1) & 1
    assert ignored >> (signal.SIGHUP - 1) & 1, "nohup"


def test_it_has_no_descriptor_of_ours(tmp_path):
    out = tmp_path / "fds"
    script = f"ls /proc/self/fd > {out}"
    subprocess.run(["sh", "-c", script], close_fds=False, check=True)
    inherited = out.read_text()
    with (tmp_path / "other").open("wb"):
        assert ended(run("sh", "-c", script)) == 0
    assert out.read_text() == inherited


def test_its_stdout_is_our_stderr_where_the_capture_has_ours(capfd):
    command = Command(("echo", "hello"), stdout_is_taken=True)
    command.run()
    assert ended(command) == 0
    assert tuple(capfd.readouterr()) == ("", "hello\n")


def test_one_that_is_not_recorded_any_more_is_waited_for():
    command = run("sh", "-c", "sleep 0.1; exit 7")
    command.abandon()
    assert command.exit_code == 7


def test_no_descriptor_is_closed_twice(tmp_path):
    command = run("true")
    ended(command)
    with (tmp_path / "a").open("wb") as first, (tmp_path / "b").open("wb") as second:
        command.abandon()
        os.fstat(first.fileno())
        os.fstat(second.fileno())


def test_an_end_that_a_signal_s_handler_is_told_first_is_the_same_end(monkeypatch):
    command = run("true")
    waitpid = os.waitpid

    def interrupted(pid, options):
        """The handler runs in the middle of it."""
        monkeypatch.setattr(os, "waitpid", waitpid)
        wait_until(command.poll, "the command to end")
        return waitpid(pid, options)

    monkeypatch.setattr(os, "waitpid", interrupted)
    assert command.poll()
    assert command.exit_code == 0
