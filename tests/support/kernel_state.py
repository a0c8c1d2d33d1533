"""What kernel tests need of the machine, and what they must leave behind: nothing."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

from processes import processes_of_run

from bpf import system

# The kinds of programs that a recorder attaches; others belong to systemd and the like.
PROGRAM_TYPES = {"tracepoint", "kprobe", "raw_tracepoint", "raw_tracepoint_writable", "tracing", "perf_event"}
PROGRAM_ID = re.compile(rb"^prog_id:\s*(\d+)", re.MULTILINE)
MAP_ID = re.compile(rb"^map_id:\s*(\d+)", re.MULTILINE)
# In struct bpf_prog_info.
_VERIFIED_INSTRUCTIONS_AT = 216
BCC_FOLDER = Path("/usr/lib/python3/dist-packages/bcc")
KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
# For a shell in a mount namespace of its own: some machines mount tracefs when they start, others never do.
UNMOUNT_TRACEFS = (
    "! mountpoint -q /sys/kernel/tracing || umount /sys/kernel/tracing; test ! -e /sys/kernel/tracing/events"
)


def missing_right() -> str | None:
    """Why no probe can be attached here, or None."""
    if os.geteuid() != 0:
        return "not root"
    if not KERNEL_TYPES.exists():
        return f"the kernel has no BTF ({KERNEL_TYPES})"
    if not BCC_FOLDER.is_dir():
        return "python3-bpfcc is not installed"
    try:
        programs()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"bpf(2) cannot be used: {error}"
    return None


def programs() -> dict[int, str]:
    """The loaded BPF programs that may be a recorder's, by identifier, each with its type and name."""
    listing = subprocess.run(["bpftool", "--json", "prog", "list"], capture_output=True, check=True)
    loaded = json.loads(listing.stdout)
    return {
        program["id"]: f"{program['type']} {program.get('name', '')}"
        for program in loaded
        if program["type"] in PROGRAM_TYPES
    }


def programs_of_others(run: str) -> set[int]:
    """The programs that processes hold that do not descend from the test run: open, or in an array of programs."""
    ours = processes_of_run(run)
    held, maps = set(), set()
    for folder in Path("/proc").glob("[0-9]*/fdinfo"):
        if int(folder.parent.name) in ours:
            continue
        # The process, or its descriptor, may be gone by now.
        with contextlib.suppress(OSError):
            for info in folder.iterdir():
                described = info.read_bytes()
                held |= {int(number) for number in PROGRAM_ID.findall(described)}
                maps |= {int(number) for number in MAP_ID.findall(described)}
    return held.union(*map(_programs_in, maps & _arrays_of_programs()))


def _arrays_of_programs() -> set[int]:
    listing = subprocess.run(["bpftool", "--json", "map", "list"], capture_output=True, check=True)
    return {found["id"] for found in json.loads(listing.stdout) if found["type"] == "prog_array"}


def _programs_in(array: int) -> set[int]:
    """What a recorder's programs go on with, also after their end; none of an array that is gone meanwhile."""
    command = ["bpftool", "--json", "map", "dump", "id", str(array)]
    done = subprocess.run(command, capture_output=True, check=False)
    entries = json.loads(done.stdout) if done.returncode == 0 else []
    return {int.from_bytes(_bytes(entry["value"]), sys.byteorder) for entry in entries}


def leaked_programs(before: set[int], run: str) -> dict[int, str]:
    """The programs that were loaded since ``before`` and that nobody but this test run can have left."""
    new = {number: name for number, name in programs().items() if number not in before}
    if not new:
        return {}
    foreign = programs_of_others(run)
    return {number: name for number, name in new.items() if number not in foreign}


def verified_instructions(program: int) -> int:
    """How many instructions the verifier has looked at before it took a program (verified_insns, Linux 5.16)."""
    information = ctypes.create_string_buffer(_VERIFIED_INSTRUCTIONS_AT + 4)
    attributes = struct.pack("<IIQ", program, len(information), ctypes.addressof(information))
    system._bpf(system._BPF_OBJ_GET_INFO_BY_FD, attributes)
    (number,) = struct.unpack_from("<I", information, _VERIFIED_INSTRUCTIONS_AT)
    return int(number)


def has_probes(recorder: int, path: Path) -> bool:
    """Whether a recorder has attached to a file (the kernel tells the paths of uprobe_multi's links)."""
    for info in Path(f"/proc/{recorder}/fdinfo").iterdir():
        # Descriptors come and go.
        with contextlib.suppress(OSError):
            if f"path:\t{path}\n" in info.read_text():
                return True
    return False


def table_entries(pid: int, *names: str) -> dict[str, int]:
    """How many entries the hash maps of these names have that a process holds open; names are cut to 15 bytes."""
    return {name: len(values) for name, values in table_values(pid, *names).items()}


def table_values(pid: int, *names: str) -> dict[str, list[bytes]]:
    """The values in those maps, as they are in the kernel's memory."""
    return {
        # What was deleted meanwhile has an error for a value.
        name: [_bytes(entry["value"]) for entry in entries if "error" not in entry["value"]]
        for name, (_, entries) in _tables(pid, *names).items()
    }


def empty_table(pid: int, name: str) -> int:
    """Delete all entries of that map; their number."""
    ((number, entries),) = _tables(pid, name).values()
    for entry in entries:
        subprocess.run(
            ["bpftool", "map", "delete", "id", str(number), "key", "hex", *_bare(entry["key"])], check=True
        )
    return len(entries)


def _bare(values: list[str]) -> list[str]:
    return [value.removeprefix("0x") for value in values]


def _bytes(values: list[str]) -> bytes:
    return bytes(int(value, 16) for value in values)


def _tables(pid: int, *names: str) -> dict[str, tuple[int, list[dict[str, list[str]]]]]:
    """Number and entries of each, as bpftool has them."""
    ids = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        # Descriptors come and go.
        with contextlib.suppress(OSError):
            ids |= {int(number) for number in MAP_ID.findall(info.read_bytes())}
    found = {}
    listing = subprocess.run(["bpftool", "--json", "map", "list"], capture_output=True, check=True)
    for table in json.loads(listing.stdout):
        if table["id"] in ids and table.get("name") in {name[:15] for name in names}:
            dump = ["bpftool", "--json", "map", "dump", "id", str(table["id"])]
            entries = json.loads(subprocess.run(dump, capture_output=True, check=True).stdout)
            found[str(table["name"])] = (int(table["id"]), entries)
    return found
