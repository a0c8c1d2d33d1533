"""The kernel side's maps as values: settings in, counters and last positions out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from bpf import abi, system

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bpf.program import Kernel


class Choice(IntEnum):
    """What a target's value in its map means."""

    WANTED = 1
    EXCLUDED = 2


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """What the kernel side knows of a connection that user space was told of; ``ended``: its end was not told.

    ``written_to``: as far as was asked, whether a call that writes to its session has not returned.
    """

    key: int
    connection: int
    ended: bool
    moved: tuple[int, int]
    session: int
    session_moved: tuple[int, int]
    local_fin: int
    peer_fin: int
    local_reset: int
    peer_reset: int
    written_to: bool = False


@dataclass(frozen=True, slots=True)
class OlderCall:
    """A call of a TLS library that a thread was in before its probes were there, as a probe would have seen it.

    ``stack`` is where its return address is, ``library`` has events.h's flags, ``fd`` is what it waits on, if known.
    """

    pid: int
    tid: int
    fd: int | None
    shape: str
    writes: bool
    library: int
    stack: int
    ssl: int
    buffer: int
    count: int
    done_pointer: int


class Tables:
    """Reads and writes the maps of a compiled kernel side."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._constants = abi.header().constants
        self._counters = tuple(abi.header().enums["counter"])[:-1]  # the last is their number
        self._programs: dict[str, int] = {}  # those that are run from here
        self._unasked: dict[str, list[bytes]] = {}

    def choose_pid(self, pid: int, choice: Choice) -> None:
        """A process, and those it forks from now on if children are followed."""
        self._put("chosen_pids", ctypes.c_uint32(pid), choice)

    def choose_uid(self, uid: int, choice: Choice) -> None:
        """Processes of a user."""
        self._put("chosen_uids", ctypes.c_uint32(uid), choice)

    def choose_port(self, port: int, choice: Choice) -> None:
        """Connections with this port at either end."""
        self._put("chosen_ports", ctypes.c_uint16(port), choice)

    def choose_comm(self, comm: str, choice: Choice) -> None:
        """Processes of a name; the kernel keeps 15 bytes of it."""
        table = self._kernel.table("chosen_comms")
        key = table.Key()
        key.comm = os.fsencode(comm)[: self._constants["COMM_BYTES"] - 1]
        table[key] = table.Leaf(choice)

    def choose_hosts(self, address: bytes, bits: int, choice: Choice) -> None:
        """Connections with an address (16 bytes, IPv4 mapped) at either end that begins with the same bits."""
        table = self._kernel.table("wanted_hosts" if choice is Choice.WANTED else "excluded_hosts")
        key = table.Key()
        key.bits = bits
        key.address[:] = address
        table[key] = table.Leaf(choice)

    def choose_cgroups(self, paths: Sequence[str], choice: Choice) -> int:
        """Processes in these cgroups (folders of cgroup v2) or below; their number."""
        table = self._kernel.table("wanted_cgroups" if choice is Choice.WANTED else "excluded_cgroups")
        for index, path in enumerate(paths):
            fd = os.open(path, os.O_RDONLY)
            try:
                table[table.Key(index)] = table.Leaf(fd)
            finally:
                os.close(fd)
        return len(paths)

    def _put(self, name: str, key: Any, choice: Choice) -> None:
        table = self._kernel.table(name)
        table[key] = table.Leaf(choice)
        self._decide_again()

    def _decide_again(self) -> None:
        """What was decided before does not hold any more. The kernel side counts in small steps."""
        decisions = self._kernel.table("decisions")
        leaf = decisions[decisions.Key(0)]
        leaf.epoch += 1 << 32
        decisions[decisions.Key(0)] = leaf

    def mirror(self, connection: int, mirrored: bool) -> None:
        """Copy a connection's bytes no more (they are shown from its other end), or forget it (it has ended)."""
        table = self._kernel.table("mirrored")
        if mirrored:
            table[table.Key(connection)] = table.Leaf(1)
        else:
            with contextlib.suppress(KeyError):
                del table[table.Key(connection)]

    def know_file(self, device: int, inode: int, version: tuple[int, int]) -> None:
        """A file was looked at: processes that use it need not be told of.

        The device is stat(2)'s, the version ctime (ns) and size (bytes).
        """
        self.know_kernel_file(system.kernel_device(device), inode, version)

    def know_kernel_file(self, device: int, inode: int, version: tuple[int, int]) -> None:
        """The same with the device as the kernel numbers it, which differs on some file systems."""
        table = self._kernel.table("known_files")
        table[_file_key(table, device, inode, version)] = table.Leaf(1)

    def expect_older_call(self, call: OlderCall) -> bool:
        """A probe will see it return; False if another call of the thread is known."""
        table = self._kernel.table("tls_calls")
        leaf = table.Leaf()
        for name in ("ssl", "buffer", "count", "done_pointer", "stack", "library"):
            setattr(leaf, name, getattr(call, name))
        header = abi.header()
        leaf.shape = header.enums["shape"][f"SHAPE_{call.shape}"]
        leaf.kind = header.constants["CALL_WRITES" if call.writes else "CALL_READS"]
        leaf.older = 1 if call.fd is None else call.fd + 2
        leaf.entered = time.monotonic_ns()
        key = self._call_key(table, call.tid)
        if key in table:
            return False
        table[key] = leaf
        return True

    def knows_call(self, tid: int) -> bool:
        """Whether a call of the thread was seen entered, or is expected."""
        table = self._kernel.table("tls_calls")
        return self._call_key(table, tid) in table

    def expects_older_call(self, call: OlderCall) -> bool:
        """Whether it has not returned yet."""
        table = self._kernel.table("tls_calls")
        with contextlib.suppress(KeyError):
            found = table[self._call_key(table, call.tid)]
            return bool(found.older) and int(found.stack) == call.stack
        return False

    def drop_older_call(self, call: OlderCall) -> None:
        """Forget it, if it has not returned and was seen to."""
        table = self._kernel.table("tls_calls")
        key = self._call_key(table, call.tid)
        with contextlib.suppress(KeyError):
            if table[key].older:
                del table[key]

    @staticmethod
    def _call_key(table: Any, tid: int) -> Any:
        key = table.Key()
        key.stack = tid
        return key

    def expect_older_read(self, pid: int, tid: int, fd: int, buffer: int, *, writes: bool = False) -> None:
        """A thread is in a TLS library's call that no probe saw entered; of a read that waits for a record's header
        ``buffer`` is where that will be, else it is 0."""
        table = self._kernel.table("older_reads")
        leaf = table.Leaf()
        leaf.buffer, leaf.fd, leaf.tgid, leaf.direction = buffer, fd, pid, not writes
        table[table.Key(tid)] = leaf

    def drop_older_read(self, tid: int) -> None:
        """It is in none."""
        table = self._kernel.table("older_reads")
        with contextlib.suppress(KeyError):
            del table[table.Key(tid)]

    def older_reads(self) -> set[int]:
        """The threads that are in one of those still, or have not entered another since."""
        return {int(tid.value) for tid in self._kernel.table("older_reads")}

    def know_return_place(self, pid: int, memory: int, address: int, *, probed: bool) -> None:
        """Where a call of a process on a switched stack returns to has a probe, or can have none."""
        table = self._kernel.table("return_places")
        key = table.Key()
        key.mm, key.address = memory, address
        table[key] = table.Leaf(pid if probed else pid | self._constants["NO_PROBE_THERE"])

    def expect_keys(self, pid: int) -> None:
        """A process may have TLS connections open whose keys no probe has seen."""
        table = self._kernel.table("key_users")
        table[table.Key(pid)] = table.Leaf(1)

    def forget_file(self, device: int, inode: int, version: tuple[int, int]) -> None:
        """A file must be looked at again."""
        table = self._kernel.table("known_files")
        with contextlib.suppress(KeyError):
            del table[_file_key(table, system.kernel_device(device), inode, version)]

    def hold(self, *, on: bool) -> None:
        """Whether processes stop until they are let go."""
        table = self._kernel.table("holding")
        table[table.Key(0)] = table.Leaf(on)

    @property
    def holding_map(self) -> int:
        """The map of that switch, for the guard."""
        return int(self._kernel.table("holding").map_fd)

    @property
    def new_code_map(self) -> int:
        """The ring that tells of new code."""
        return int(self._kernel.table("new_code_ring").map_fd)

    def let_go(self, pid: int, since: int) -> None:
        """A process that was held then, by the kernel's clock, goes on. What else it is held for is another matter."""
        table = self._kernel.table("held")
        with contextlib.suppress(KeyError):
            del table[table.Key(since, pid)]

    @property
    def held_map(self) -> int:
        """The map of held processes, for the guard."""
        return int(self._kernel.table("held").map_fd)

    @property
    def settings_map(self) -> int:
        """The settings, for the guard."""
        return int(self._kernel.table("settings").map_fd)

    def set(self, own_pid: int, flags: Iterable[str], cgroups: tuple[int, int] = (0, 0)) -> None:
        """Start (own_pid > 0), with flags by their names in events.h, or stop (0) reporting."""
        table = self._kernel.table("settings")
        leaf = table.Leaf()
        leaf.self = own_pid
        leaf.wanted_cgroups, leaf.excluded_cgroups = cgroups
        for flag in flags:
            leaf.flags |= self._constants[flag]
        table[table.Key(0)] = leaf
        self._decide_again()

    def counter(self, name: str) -> int:
        """One of the counters."""
        table = self._kernel.table("counters")
        return int(table[table.Key(self._constants[f"COUNTER_{name.upper()}"])].value)

    def holes(self) -> Iterator[tuple[tuple[int, int, int], int, int, int]]:
        """Noted holes: (connection, session, direction), position, bytes, reason."""
        table = self._kernel.table("holes")
        for raw_key, raw_value in self._entries(table):
            key, hole = table.Key.from_buffer_copy(raw_key), table.Leaf.from_buffer_copy(raw_value)
            flow = (int(key.connection), int(key.session), int(key.direction))
            yield flow, int(key.position), int(hole.length), int(hole.reason)

    def _entries(self, table: Any) -> Iterator[tuple[bytes, bytes]]:
        return system.read_hash_map(table.map_fd, ctypes.sizeof(table.Key), ctypes.sizeof(table.Leaf))

    def distrusted(self) -> list[int]:
        """The numbers of libraries that were found by their code, wrongly."""
        return [int(number.value) for number in self._kernel.table("distrusted")]

    def counters(self) -> dict[str, int]:
        """All counters, by their names in events.h without the prefix, in lower case."""
        table = self._kernel.table("counters")
        return {
            name.removeprefix("COUNTER_").lower(): int(table[table.Key(self._constants[name])].value)
            for name in self._counters
        }

    def unfinished(self) -> tuple[int, int]:
        """Bytes by direction that calls in flight at the end add to the reported ones, or take back.

        Of a system call the socket layer counted what its exit will explain no more; of a transfer below system
        calls, packets were explained before their count.
        """
        table = self._kernel.table("syscalls")
        found = [0, 0]
        for _, value in self._entries(table):
            call = table.Leaf.from_buffer_copy(value)
            found[call.direction & 1] += int(call.told) if call.below else -int(call.reported)
        return found[0], found[1]

    def connections(self) -> Iterator[OpenConnection]:
        """Connections that user space was told of."""
        table = self._kernel.table("connections")
        for key, value in self._entries(table):
            c = table.Leaf.from_buffer_copy(value)
            if c.announced:
                yield _open_connection(key, c)

    def late_ends(self) -> Iterator[OpenConnection]:
        """Those of them that have ended without a word of it. ``drop_ended`` is for those that were told."""
        table = self._kernel.table("connections")
        for key, value in list(self._entries(self._kernel.table("late_ends"))):
            number = int.from_bytes(value, sys.byteorder)
            with contextlib.suppress(KeyError):
                c = table[table.Key.from_buffer_copy(key)]
                if c.id == number and c.ended and c.announced:
                    yield replace(_open_connection(key, c), written_to=self._is_written_to(c))
                    continue
            # The address is another socket's by now, whose first sight told of the end.
            self.drop_ended(int.from_bytes(key, sys.byteorder), number)

    def _is_written_to(self, c: Any) -> bool:
        """Whether a call is in flight that will tell what it wrote only when it returns (Go's)."""
        table = self._kernel.table("sessions")
        key = table.Key()
        key.ssl, key.tgid = c.ssl, c.ssl_tgid
        try:
            session = table[key]
        except KeyError:
            return False
        return bool(session.connection == c.id and session.writing)

    def find_ends(self, most: int) -> None:
        """Let the kernel side report connections whose end it is told by nobody: AF_UNIX's and MPTCP's.

        At most ``most`` are asked of, for that takes 10 µs each; the rest is asked of the next time.
        """
        self._ask_of_ends("untold_ends", most)

    def find_missed_ends(self, most: int) -> None:
        """The same of all connections: TCP's end is told while it happens, once, and no program may have run."""
        self._ask_of_ends("connections", most)

    def _ask_of_ends(self, name: str, most: int) -> None:
        keys = self._unasked.get(name) or [key for key, _ in self._entries(self._kernel.table(name))]
        self._unasked[name] = keys[most:]
        for key in keys[:most]:
            self._run("check_end", int.from_bytes(key, sys.byteorder))

    def drop_ended(self, key: int, connection: int) -> None:
        """Delete an entry whose socket is gone, unless its key is another's by now."""
        self._run("drop_ended", key, connection)

    def _run(self, program: str, *arguments: int) -> None:
        if program not in self._programs:
            self._programs[program] = self._kernel.load(program, "RAW_TRACEPOINT")
        system.run_raw_tracepoint(self._programs[program], arguments)


def _open_connection(key: bytes, c: Any) -> OpenConnection:
    return OpenConnection(
        int.from_bytes(key, sys.byteorder), int(c.id), bool(c.ended),
        (int(c.position[0]), int(c.position[1])),
        int(c.session), (int(c.session_position[0]), int(c.session_position[1])),
        int(c.local_fin), int(c.notified or c.peer_fin), int(c.local_reset), int(c.peer_reset),
    )  # fmt: skip


def _file_key(table: Any, device: int, inode: int, version: tuple[int, int]) -> Any:
    key = table.Key()
    key.inode, key.device = inode, device
    key.changed, key.size = version
    return key
