"""Ids of events from tracefs, wherever it is mounted, or from an instance that is mounted nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpf import tracefs
from bpf.tracefs import Tracefs, TracefsError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tracefs of files, mounted at the second of two places."""
    event = tmp_path / "second/events/syscalls/sys_enter_read"
    event.mkdir(parents=True)
    (event / "id").write_text("4711\n")
    monkeypatch.setattr(tracefs, "_MOUNT_POINTS", (tmp_path / "first", tmp_path / "second"))
    return tmp_path


def test_the_id_of_an_event(folder):
    events = Tracefs()
    assert events.event_id("syscalls/sys_enter_read") == 4711
    events.close()


def test_an_event_that_the_kernel_has_not(folder):
    assert Tracefs().event_id("syscalls/sys_enter_nothing") is None


def test_one_that_cannot_be_understood_is_an_error(folder):
    (folder / "second/events/syscalls/sys_enter_read/id").write_text("many")
    with pytest.raises(TracefsError, match="CAP_DAC_READ_SEARCH"):
        Tracefs().event_id("syscalls/sys_enter_read")


def test_mounted_nowhere_and_no_right_to_open_one(monkeypatch, tmp_path):
    def refuse(kind):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(tracefs, "_MOUNT_POINTS", (tmp_path / "none",))
    monkeypatch.setattr(tracefs.system, "open_filesystem", refuse)
    with pytest.raises(TracefsError, match="mount -t tracefs"):
        Tracefs()


def test_a_folder_that_may_not_be_looked_into(monkeypatch, folder):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "is_dir", refuse)
    monkeypatch.setattr(tracefs.system, "open_filesystem", refuse)
    with pytest.raises(TracefsError, match="run as root"):
        Tracefs()


def descriptors():
    return {link.name for link in Path("/proc/self/fd").iterdir()}


@pytest.mark.kernel
def test_an_instance_of_our_own_is_mounted_nowhere(monkeypatch, tmp_path):
    monkeypatch.setattr(tracefs, "_MOUNT_POINTS", (tmp_path / "none",))
    mounts = Path("/proc/self/mountinfo").read_text()
    before = descriptors()
    events = Tracefs()
    assert events.event_id("syscalls/sys_enter_read")
    assert events.event_id("syscalls/sys_enter_nothing") is None
    assert Path("/proc/self/mountinfo").read_text() == mounts
    events.close()
    assert descriptors() == before
