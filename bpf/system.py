"""The system calls that Python lacks: bpf(2), perf_event_open(2), fsopen(2) and fsmount(2).

Thin: arguments in, a file descriptor out, OSError with the kernel's errno otherwise.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NUMBERS = {
    "x86_64": {"bpf": 321, "perf_event_open": 298, "fstatfs": 138, "membarrier": 324},
    "aarch64": {"bpf": 280, "perf_event_open": 241, "fstatfs": 44, "membarrier": 283},
}
_OVERLAYFS_SUPER_MAGIC = 0x794C7630
# The same on every architecture: added after the tables were unified.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6

_BPF_MAP_CREATE, _BPF_MAP_LOOKUP_ELEM, _BPF_MAP_UPDATE_ELEM, _BPF_MAP_DELETE_ELEM = 0, 1, 2, 3
_BPF_MAP_LOOKUP_BATCH = 24
_BATCH_ATTRIBUTE_BYTES = 56
_BPF_PROG_LOAD, _BPF_LINK_CREATE, _BPF_RAW_TRACEPOINT_OPEN = 5, 28, 17
_BPF_PROG_TEST_RUN = 10
_BPF_OBJ_GET_INFO_BY_FD = 15
# struct bpf_prog_info up to and with recursion_misses; what an older kernel does not know stays 0.
_PROGRAM_INFO_BYTES = 216
# struct bpf_map_info up to and with map_flags.
_MAP_INFO_BYTES = 24
_BPF_PROG_TYPE_KPROBE = 2
_PROGRAM_TYPES = {"TRACEPOINT": 5, "RAW_TRACEPOINT": 17}
# A program that does nothing, to find out what the kernel knows: r0 = 0; exit.
_NOTHING = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
_BPF_F_UPROBE_MULTI_RETURN = 1
# As many signals may come while one program is verified: Ctrl-C, again and again.
_LOAD_ATTEMPTS = 20
# Of a program that is refused the verifier tells each way that it went, up to where it stopped.
_LOG_BYTES = 16 << 20
_ATTRIBUTE_BYTES = 160  # covers the members used here; the kernel checks that the rest is zero

_BPF_PERF_EVENT = 41
_PERF_TYPE_TRACEPOINT = 2
_PERF_ATTRIBUTE_BYTES = 112  # struct perf_event_attr, version 5
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_DISABLE = 0x2401
_MEMBARRIER_GLOBAL = 1
_BPF_MAP_TYPE_PERF_EVENT_ARRAY, _BPF_F_PRESERVE_ELEMS = 4, 1 << 11


class Uprobes(IntEnum):
    """How programs are attached to functions; the value is the type that they are loaded for."""

    # A perf event for each place (cookies since Linux 5.15).
    PERF = 0
    # Many places of a file at once (Linux 6.6).
    MULTI = 48
    # And what runs at a call's entry says whether its return is to be shown (Linux 6.13).
    SESSIONS = 57


@cache
def _libc() -> _Libc:
    """One for all calls."""
    return _Libc()


class _Libc:
    """libc's syscall(), with errno."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._numbers = _NUMBERS.get(platform.machine(), _NUMBERS["x86_64"])

    def __call__(
        self, number: str | int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None
    ) -> int:
        nr = self._numbers[number] if isinstance(number, str) else number
        wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        result = int(self._libc.syscall(ctypes.c_long(nr), *wide))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result


def _bpf(command: int, attributes: bytes) -> int:
    block = ctypes.create_string_buffer(attributes.ljust(_ATTRIBUTE_BYTES, b"\0"), _ATTRIBUTE_BYTES)
    return _libc()("bpf", command, block, _ATTRIBUTE_BYTES)


def load_program(kind: str, instructions: bytes, name: str) -> int:
    """Load a TRACEPOINT or RAW_TRACEPOINT program."""
    return _load_program(_PROGRAM_TYPES[kind], instructions, name, 0)


def load_uprobe_program(instructions: bytes, name: str, uprobes: Uprobes) -> int:
    """Load a kprobe-type program, to be attached in this way."""
    return _load_program(_BPF_PROG_TYPE_KPROBE, instructions, name, uprobes)


def _load_program(kind: int, instructions: bytes, name: str, attach_type: int) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")

    def load(log_level: int, log_bytes: int, log: int) -> int:
        attributes = struct.pack(
            "<IIQQIIQII16sII",
            kind, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(licence),
            log_level, log_bytes, log, 0, 0, name.encode()[:15], 0, attach_type,
        )  # fmt: skip
        return _bpf(_BPF_PROG_LOAD, attributes)

    attempts = _LOAD_ATTEMPTS
    while True:
        try:
            return load(0, 0, 0)
        except BlockingIOError:  # a signal came: the verifier has given up
            attempts -= 1
            if not attempts:
                raise
        except OSError:
            if "PLAINTAP_BPF_LOG" in os.environ:
                log = ctypes.create_string_buffer(_LOG_BYTES)
                with contextlib.suppress(OSError):
                    os.close(load(1, _LOG_BYTES, ctypes.addressof(log)))
                sys.stderr.write(f"{name}\n{log.value.decode()}\n")
            raise


def skipped_runs(program: int) -> int:
    """How often the kernel did not run a program, for it was running already (recursion_misses, Linux 5.12)."""
    information = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
    attributes = struct.pack("<IIQ", program, _PROGRAM_INFO_BYTES, ctypes.addressof(information))
    _bpf(_BPF_OBJ_GET_INFO_BY_FD, attributes)
    (skipped,) = struct.unpack_from("<Q", information, _PROGRAM_INFO_BYTES - 8)
    return int(skipped)


def create_map(kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int, name: str) -> int:
    """Make a map, of a kind by its number."""
    attributes = struct.pack(
        "<IIIIIII16s", kind, key_bytes, value_bytes, entries, flags, 0, 0, name.encode()[:15]
    )
    return _bpf(_BPF_MAP_CREATE, attributes)


def map_shape(map_fd: int) -> tuple[int, int, int, int, int]:
    """What create_map() was told, but for the name: a map's kind, bytes of a key and of a value, entries, flags."""
    information = ctypes.create_string_buffer(_MAP_INFO_BYTES)
    attributes = struct.pack("<IIQ", map_fd, _MAP_INFO_BYTES, ctypes.addressof(information))
    _bpf(_BPF_OBJ_GET_INFO_BY_FD, attributes)
    kind, _, key_bytes, value_bytes, entries, flags = struct.unpack("<6I", information.raw)
    return kind, key_bytes, value_bytes, entries, flags


def read_map(map_fd: int, key: ctypes.Structure, value: ctypes.Structure) -> bool:
    """Fill in the value of a key; False if there is none."""
    attributes = struct.pack("<IIQQQ", map_fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
    return _of_entry(_BPF_MAP_LOOKUP_ELEM, attributes)


def delete_from_map(map_fd: int, key: bytes) -> bool:
    """Delete one entry; False if there is none."""
    buffer = ctypes.create_string_buffer(key, len(key))
    return _of_entry(_BPF_MAP_DELETE_ELEM, struct.pack("<IIQQQ", map_fd, 0, ctypes.addressof(buffer), 0, 0))


def _of_entry(command: int, attributes: bytes) -> bool:
    try:
        _bpf(command, attributes)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def kernel_device(device: int) -> int:
    """A device's number as the kernel has it, from stat(2)'s."""
    return os.major(device) << 20 | os.minor(device)


def read_hash_map(map_fd: int, key_bytes: int, value_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """All entries of a BPF hash map, in batches (Linux 5.6): bcc's iteration takes two calls and 10 µs an entry."""
    room = 1024
    # The kernel's cursor is a bucket number; the array of keys must hold at least one full bucket.
    cursor = (ctypes.create_string_buffer(max(8, key_bytes)), ctypes.create_string_buffer(max(8, key_bytes)))
    keys, values = (
        ctypes.create_string_buffer(room * key_bytes),
        ctypes.create_string_buffer(room * value_bytes),
    )
    first, more = True, True
    while more:
        attributes = ctypes.create_string_buffer(
            struct.pack(
                "<QQQQIIQQ",
                0 if first else ctypes.addressof(cursor[0]), ctypes.addressof(cursor[1]),
                ctypes.addressof(keys), ctypes.addressof(values), room, map_fd, 0, 0,
            ),
            _ATTRIBUTE_BYTES,
        )  # fmt: skip
        try:
            _libc()("bpf", _BPF_MAP_LOOKUP_BATCH, attributes, _BATCH_ATTRIBUTE_BYTES)
        except OSError as error:
            if error.errno != errno.ENOENT:  # ENOENT: these are the last
                raise
            more = False
        (count,) = struct.unpack_from("<I", attributes, 32)
        raw_keys, raw_values = keys.raw, values.raw
        for i in range(count):
            yield (
                raw_keys[i * key_bytes : (i + 1) * key_bytes],
                raw_values[i * value_bytes : (i + 1) * value_bytes],
            )
        cursor, first = (cursor[1], cursor[0]), False


def write_map(map_fd: int, key: bytes, value: bytes) -> None:
    """Set one entry."""
    key_buffer, value_buffer = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    attributes = struct.pack(
        "<IIQQQ", map_fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), 0
    )
    _bpf(_BPF_MAP_UPDATE_ELEM, attributes)


def newest_uprobes() -> Uprobes:
    """The best way that the kernel knows: a directory is then a bad file to it."""
    for uprobes in (Uprobes.SESSIONS, Uprobes.MULTI):
        try:
            program = load_uprobe_program(_NOTHING, "nothing", uprobes)
        except OSError as error:
            # Before Linux 6.13 the type is out of range.
            if error.errno != errno.EINVAL:
                raise
            continue
        try:
            os.close(link_uprobe_multi(program, "/", [(0, 0)], uprobes))
        except OSError as error:
            if error.errno == errno.EBADF:
                return uprobes
        finally:
            os.close(program)
    return Uprobes.PERF


def link_uprobe_multi(
    program: int,
    path: str,
    points: Sequence[tuple[int, int]],
    uprobes: Uprobes,
    *,
    at_return: bool = False,
    pid: int = 0,
) -> int:
    """Attach one program at file offsets of one file, each with a cookie (Linux 6.6): in every process, or in one."""
    count = len(points)
    offsets = (ctypes.c_uint64 * count)(*(offset for offset, _ in points))
    cookies = (ctypes.c_uint64 * count)(*(cookie for _, cookie in points))
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = struct.pack(
        "<IIIIQQQQIII",
        program, 0, uprobes, 0, ctypes.addressof(name), ctypes.addressof(offsets), 0,
        ctypes.addressof(cookies), count, _BPF_F_UPROBE_MULTI_RETURN if at_return else 0, pid,
    )  # fmt: skip
    return _bpf(_BPF_LINK_CREATE, attributes)


def link_uprobe(program: int, path: str, offset: int, cookie: int, *, at_return: bool) -> int:
    """Attach a program at one file offset, with a cookie, in every process (Linux 5.15).

    The link holds the perf event that it goes through.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = struct.pack(
        "<IIQ40xQQ",
        _uprobe_event_type(),
        _PERF_ATTRIBUTE_BYTES,
        int(at_return),
        ctypes.addressof(name),
        offset,
    )
    fd = _open_perf_event(attributes)
    try:
        return link_perf_event(program, fd, cookie)
    finally:
        os.close(fd)


@cache
def _uprobe_event_type() -> int:
    """Perf's number of uprobes. The lowest bit of an event's configuration says that it is a return's."""
    return int(Path("/sys/bus/event_source/devices/uprobe/type").read_text())


def _open_perf_event(attributes: bytes) -> int:
    """An event of all processes and processors (perf's pid -1, and processor 0 stands for them), enabled."""
    block = ctypes.create_string_buffer(attributes.ljust(_PERF_ATTRIBUTE_BYTES, b"\0"), _PERF_ATTRIBUTE_BYTES)
    return _libc()("perf_event_open", block, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)


def has_raw_tracepoint(name: str) -> bool:
    """Whether the kernel has a tracepoint of this name: attaching to it is the only way to know without tracefs."""
    program = _load_program(_PROGRAM_TYPES["RAW_TRACEPOINT"], _NOTHING, "nothing", 0)
    try:
        os.close(open_raw_tracepoint(program, name))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    finally:
        os.close(program)
    return True


def is_overlay(fd: int) -> bool:
    """Whether an open file is on an overlay file system (statfs(2)): the inode behind it is another one's."""
    status = ctypes.create_string_buffer(256)
    try:
        _libc()("fstatfs", fd, status)
    except OSError:
        return False
    return int.from_bytes(status.raw[:8], sys.byteorder) == _OVERLAYFS_SUPER_MAGIC


def run_raw_tracepoint(program: int, arguments: Sequence[int]) -> None:
    """Run a raw tracepoint's program once, here and now, with these arguments (Linux 5.10)."""
    context = (ctypes.c_uint64 * len(arguments))(*arguments)
    # program, retval, data sizes and pointers, repeat, duration, context sizes and pointers
    attributes = struct.pack(
        "<IIIIQQIIIIQQ", program, 0, 0, 0, 0, 0, 0, 0, ctypes.sizeof(context), 0, ctypes.addressof(context), 0
    )
    _bpf(_BPF_PROG_TEST_RUN, attributes)


def open_raw_tracepoint(program: int, name: str) -> int:
    """Attach a program to a tracepoint's bare arguments."""
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(_BPF_RAW_TRACEPOINT_OPEN, struct.pack("<QII", ctypes.addressof(text), program, 0))


def open_tracepoint(event_id: int) -> int:
    """A perf event of a tracepoint."""
    return _open_perf_event(struct.pack("<IIQQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTRIBUTE_BYTES, event_id, 1))


def link_perf_event(program: int, event: int, cookie: int = 0) -> int:
    """Attach a program to a perf event, which the link holds (Linux 5.15)."""
    return _bpf(_BPF_LINK_CREATE, struct.pack("<IIIIQ", program, event, _BPF_PERF_EVENT, 0, cookie))


def disable_perf_event(event: int) -> None:
    """Let it count no more."""
    fcntl.ioctl(event, _PERF_EVENT_IOC_DISABLE, 0)


def wait_for_programs() -> None:
    """Return when what ran at tracepoints has ended: a grace period of RCU."""
    # Not where processors run without a tick: there each link's end has waited, since Linux 6.13.
    with contextlib.suppress(OSError):
        _libc()("membarrier", _MEMBARRIER_GLOBAL, 0, 0)


def create_event_map(entries: int) -> int:
    """A map of perf events, which stay in it until it is freed (Linux 5.10)."""
    return create_map(_BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, entries, _BPF_F_PRESERVE_ELEMS, "events")


def open_filesystem(kind: str) -> int:
    """A file system as a directory descriptor, mounted nowhere: it goes when the descriptor is closed."""
    libc = _libc()
    context = libc(_FSOPEN, kind.encode(), 1)
    try:
        libc(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return libc(_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)
