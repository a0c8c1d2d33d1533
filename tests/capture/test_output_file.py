"""Outputs of root in folders of others: what was not asked for by name is not written to, nor given away."""

from __future__ import annotations

import os

import pytest

from capture import output_file
from capture.errors import UsageError
from capture.output_file import Existing, OutputFile


@pytest.mark.parametrize("planted", ["file", "link", "link to nothing"])
def test_a_name_that_the_user_did_not_give_is_a_new_file(tmp_path, planted):
    victim, output = tmp_path / "victim", tmp_path / "plaintap-1.pcapng"
    if planted == "file":
        output.write_text("of others")
    else:
        output.symlink_to(victim)
        if planted == "link":
            victim.write_text("of others")
    with pytest.raises(UsageError, match="Name another"):
        OutputFile(str(output), "-w", Existing.NONE)
    assert victim.exists() == (planted == "link")
    assert planted != "file" or output.read_text() == "of others"


@pytest.mark.parametrize("planted", ["link", "another's file", "fifo"])
def test_what_others_have_put_beside_a_capture_is_not_written_to(tmp_path, monkeypatch, planted):
    victim, output = tmp_path / "victim", tmp_path / "a.har"
    victim.write_text("of others")
    if planted == "link":
        output.symlink_to(victim)
    elif planted == "fifo":
        os.mkfifo(output)
    else:
        victim.rename(output)
        monkeypatch.setattr(os, "geteuid", lambda: output.stat().st_uid + 1)
    with pytest.raises(UsageError, match="Name another"):
        OutputFile(str(output), "-o", Existing.OWN)
    assert planted == "fifo" or output.read_text() == "of others"


@pytest.mark.parametrize("behind_sudo", [False, True])
def test_what_was_made_of_a_capture_before_is_written_over(tmp_path, monkeypatch, behind_sudo):
    path = tmp_path / "a.har"
    path.write_text("of before")
    if behind_sudo:
        owner = path.stat().st_uid
        monkeypatch.setenv("SUDO_UID", str(owner))
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with OutputFile(str(path), "-o", Existing.OWN) as output:
        output.write(b"now")
    assert path.read_bytes() == b"now"


def test_a_name_that_the_user_gave_is_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    with OutputFile(str(link), "-w") as output:
        output.write(b"data")
    assert (tmp_path / "file").read_bytes() == b"data"


def test_only_a_new_file_is_given_to_the_user_behind_sudo(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(os, "fchown", lambda _fd, *ids: given.append(ids))
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "5678")
    for _ in range(2):
        with OutputFile(str(tmp_path / "a"), "-w") as output:
            output.write(b"data")
    assert given == [(1234, 5678)]


@pytest.mark.parametrize("before", [None, b"", b"an older capture"])
def test_only_what_has_something_in_it_is_emptied(tmp_path, monkeypatch, before):
    """ext4 writes a file that was emptied to the disk when it is closed, even one that had nothing in it."""
    emptied = []
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: emptied.append(os.pread(fd, 99, size)))
    path = tmp_path / "a.pcapng"
    if before is not None:
        path.write_bytes(before)
    # Readable, to look into it.
    monkeypatch.setattr(output_file, "_FLAGS", os.O_RDWR | os.O_CREAT)
    with OutputFile(str(path), "-w") as out:
        out.begin()
    assert emptied == ([before] if before else [])
