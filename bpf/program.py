"""The kernel side in memory: its maps, and its programs, loaded for what they are attached to.

No kernel headers: bcc compiles plaintap.bpf.c against the stand-in tree in headers/ (``compiler``), offsets come from
BTF as -D. That is done once (``compiled``).
"""

from __future__ import annotations

import errno
import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bpf import abi, bcc_module, below, btf, compiled, compiler, direct_map, kernels, system
from bpf.maps import Map
from bpf.system_calls import call_number_flags
from capture.cache_folder import cache_folder
from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent.resolve()
MAIN = FOLDER / "plaintap.bpf.c"

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)

# struct: members. Each becomes -DOFFSET_struct_member, dots as underscores.
OFFSETS: dict[str, tuple[str, ...]] = {
    "task_struct": (
        "files", "flags", "group_leader", "comm", "pid", "tgid", "mm", "signal", "real_parent", "stack",
        "cred", "ptrace", "blocked",
    ),
    "cred": ("uid",),
    "signal_struct": ("live", "pids", "tty"),
    "mm_struct": ("arg_start", "arg_end", "start_stack"),
    "linux_binprm": ("filename", "interp", "file"),
    "super_block": ("s_dev",),
    "pipe_inode_info": ("bufs", "ring_size", "head", "tail"),
    "pipe_buffer": ("page", "offset", "len"),
    "files_struct": ("fdt",),
    "fdtable": ("fd", "max_fds"),
    "file": ("f_inode", "private_data"),
    "inode": ("i_mode", "i_ino", "i_sb", "i_size"),
    "socket": ("sk", "type"),
    "socket_alloc": ("socket", "vfs_inode"),
    "sock_common": (
        "skc_family", "skc_daddr", "skc_rcv_saddr", "skc_dport", "skc_v6_daddr", "skc_v6_rcv_saddr", "skc_net",
        "skc_flags", "skc_state",
    ),
    "sock": ("sk_protocol", "sk_err", "sk_socket", "sk_type", "sk_shutdown", "sk_receive_queue", "sk_user_data"),
    "inet_sock": ("inet_sport",),
    "unix_sock": ("addr", "peer"),
    "unix_address": ("refcnt", "len", "name"),
    "net": ("ns.inum",),
    "inet_connection_sock": ("icsk_ulp_ops",),
    "tcp_sock": ("bytes_acked", "bytes_received", "copied_seq", "rcv_nxt", "snd_una", "write_seq"),
}  # fmt: skip

# Most of what the verifier has to do. The longest comes first.
LONG_TO_VERIFY = (
    ("move_below_program", "RAW_TRACEPOINT"),
    ("wanted_exit_io", "TRACEPOINT"),
    ("continue_from_tracepoint", "TRACEPOINT"),
    ("continue_from_raw_tracepoint", "RAW_TRACEPOINT"),
    ("continue_from_uprobe", "UPROBE"),
    ("name_return_by_cookie", "UPROBE"),
    ("return_by_cookie", "UPROBE"),
    # A Go program sends its first request 5 ms after its start.
    ("go_return_by_cookie", "UPROBE"),
    ("go_enter_by_cookie", "UPROBE"),
)

# Where programs of tracepoints go on, by the names of events.h.
CONTINUED_TRACEPOINTS = (
    ("continue_from_tracepoint", "COPY_JOB"),
    ("tell_step_from_tracepoint", "TELL_STEP"),
    ("exit_keyed", "LOOK_FOR_KEYS"),
)

# The kernel skips a program that runs already, as when a softirq tells of TCP's sockets in the middle of it, or, on
# Linux 7.3, a thread exits while another one that does was preempted there: of these there are two, one after the
# other, so that one of them is free.
IN_PAIRS = frozenset({"on_inet_sock_set_state", "on_tcp_destroy_sock", "on_sched_process_exit"})
# Nothing is lost where they are skipped: these are for calls of AF_UNIX, which no softirq makes.
SKIPPED_IN_VAIN = IN_PAIRS | {"on_sk_data_ready", "on_consume_skb"}

NO_RIGHTS = (
    "Recording needs root: sudo plaintap …, or the capabilities CAP_BPF, CAP_PERFMON, "
    "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE."
)
NO_MEMORY = "There is no memory for the kernel side's tables: they count for the control group's limit."


class ProgramError(PlaintapError):
    """The kernel side could not be compiled or loaded."""


def source() -> str:
    """The translation unit, its own parts spliced in (BCC rewrites map calls only in the main file)."""

    def splice(found: re.Match[str]) -> str:
        name = found.group(1)
        return f'#line 1 "{name}"\n{(FOLDER / name).read_text("utf-8")}\n'

    return _INCLUDE.sub(splice, MAIN.read_text("utf-8"))


def _change_time_flags(types: btf.Btf) -> list[str]:
    """Where an inode's ctime is: Linux 6.11 took a struct timespec64 apart, 6.6 had renamed it."""
    for seconds, nanoseconds in (
        ("i_ctime_sec", "i_ctime_nsec"),
        ("__i_ctime.tv_sec", "__i_ctime.tv_nsec"),
        ("i_ctime.tv_sec", "i_ctime.tv_nsec"),
    ):
        with suppress(btf.BtfError):
            return [
                f"-DOFFSET_inode_ctime_sec={types.offset('inode', seconds)}",
                f"-DOFFSET_inode_ctime_nsec={types.offset('inode', nanoseconds)}",
            ]
    raise btf.BtfError("This kernel's struct inode has no ctime: its BTF does not fit plaintap.")


def offset_flags(types: btf.Btf, features: below.Features) -> list[str]:
    """-D flags for every offset, and for the sizes of what is in arrays. Raises BtfError."""
    offsets = OFFSETS | features.offsets
    if platform.machine() == "x86_64":
        offsets = offsets | {"task_struct": (*OFFSETS["task_struct"], "thread.fsbase")}
    return [
        *(
            f"-DOFFSET_{name}_{member.replace('.', '_')}={types.offset(name, member)}"
            for name, members in offsets.items()
            for member in members
        ),
        *_change_time_flags(types),
        f"-DPAGE_BYTES={os.sysconf('SC_PAGE_SIZE')}ULL",
        f"-DPAGE_STRUCT_BYTES={types.size('page')}ULL",
        f"-DPIPE_BUFFER_BYTES={types.size('pipe_buffer')}ULL",
    ]


def compiler_flags(
    types: btf.Btf, features: below.Features, uprobes: system.Uprobes, *, unix: bool
) -> list[str]:
    """All that the source text needs to know. Raises BtfError."""
    return [
        "-w",
        *offset_flags(types, features),
        *features.flags(),
        *call_number_flags(),
        f"-DRECORD_UNIX={int(unix)}",
        f"-DNO_RETURN={int(uprobes is system.Uprobes.SESSIONS)}",
    ]


class Kernel:
    """Maps by name, programs by name."""

    def __init__(
        self,
        ring_bytes: int,
        *,
        below_calls: bool = True,
        unix: bool = False,
        compiling: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the maps and load. ``ring_bytes`` is a power of two of at least a page.

        ``below_calls`` is whether to see what moves below the system calls, where the kernel shows it. ``unix`` is
        whether to see streams of AF_UNIX. ``compiling`` is called before what takes seconds, and is needed once.

        Raises CompilerError, BtfError, ProgramError.
        """
        self.uprobes = _newest_uprobes()
        self.below = below.probe(unix=unix) if below_calls else below.Features(lengths=False, messages=False)
        types = btf.read_vmlinux({*OFFSETS, *self.below.offsets, "page"})
        self.page_struct_bytes = types.size("page")
        flags = compiler_flags(types, self.below, self.uprobes, unix=unix)
        self._fds: dict[int, str] = {}
        self._ready: dict[tuple[str, str], list[int]] = {}  # loaded, and nobody's yet
        self._maps: dict[str, Map] = {}
        try:
            self._code = self._make_maps(_compiled(source(), flags, compiling), ring_bytes)
            self._load_all()
            self.reads_pages = direct_map.calibrate(self)
        except BaseException as error:
            self.close()
            if isinstance(error, ProgramError) and (remedy := kernels.remedy()):
                raise ProgramError(f"{error}: {remedy}.") from None
            raise

    def _make_maps(self, kept: compiled.Compiled, ring_bytes: int) -> dict[str, bytes]:
        """Make the maps, and link the programs to them. Code does not depend on how large the ring is."""
        try:
            for declaration in kept.maps:
                is_ring = declaration.name == "ring"
                self._maps[declaration.name] = Map(
                    replace(declaration, entries=ring_bytes) if is_ring else declaration
                )
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise ProgramError(NO_MEMORY) from None
            raise ProgramError(f"The map {declaration.name} cannot be made: {_reason(error)}") from None
        return kept.link([m.map_fd for m in self._maps.values()], _values())

    def _load_all(self) -> None:
        """What every recording needs, and where programs that copy bytes go on."""
        self._load_side_by_side()
        continuations = abi.header().enums["continuation"]
        for program, name in CONTINUED_TRACEPOINTS:
            self.set_tail_call("emit_from_tracepoint", self.load(program, "TRACEPOINT"), continuations[name])
        emit = self.load("continue_from_raw_tracepoint", "RAW_TRACEPOINT")
        self.set_tail_call("emit_from_raw_tracepoint", emit)
        self._link_parts()
        if self.below.lengths:
            self.set_tail_call("move_below", self.load("move_below_program", "RAW_TRACEPOINT"))
            self.set_tail_call("move_below", self.load("check_below_program", "RAW_TRACEPOINT"), 1)

    def load(self, program: str, kind: str) -> int:
        """Load a program (TRACEPOINT, RAW_TRACEPOINT); its descriptor. Raises ProgramError."""
        ready = self._ready.get((program, kind))
        return ready.pop() if ready else self._load(program, kind)

    def load_uprobe(self, program: str, uprobes: system.Uprobes) -> int:
        """Load a program to be attached in this way; its descriptor, which is the caller's. Raises OSError."""
        ready = self._ready.get((program, "UPROBE"))
        if not ready or uprobes is not self.uprobes:
            return system.load_uprobe_program(self._code[program], program, uprobes)
        fd = ready.pop()
        del self._fds[fd]
        return fd

    def _load(self, program: str, kind: str) -> int:
        code = self._code[program]
        try:
            if kind == "UPROBE":
                fd = system.load_uprobe_program(code, program, self.uprobes)
            else:
                fd = system.load_program(kind, code, program)
        except OSError as error:
            raise ProgramError(f"The kernel refused the program {program}: {_reason(error)}") from None
        self._fds[fd] = program
        return fd

    def _load_side_by_side(self) -> None:
        """What takes long: more than half a second, one after the other."""
        names = [name for name in LONG_TO_VERIFY if name[0] in self._code]
        with ThreadPoolExecutor() as pool:
            for name, fd in zip(names, pool.map(lambda name: self._load(*name), names), strict=True):
                self._ready.setdefault(name, []).append(fd)

    def _link_parts(self) -> None:
        """Of programs that are in two parts, where the first goes on."""
        for kind in ("TRACEPOINT", "RAW_TRACEPOINT"):
            array = f"wanted_{kind.lower()}"
            for name, index in abi.header().enums[array].items():
                program = name.replace("WANTED_", "wanted_")
                # What is not attached is not compiled.
                if program in self._code:
                    self.set_tail_call(array, self.load(program, kind), index)

    def set_tail_call(self, array: str, program: int, index: int = 0) -> None:
        """Let a tail call by this index of an array lead to a program."""
        table = self.table(array)
        table[table.Key(index)] = table.Leaf(program)

    def instructions(self, program: str) -> bytes:
        """A program's bytecode, map descriptors in place."""
        return self._code[program]

    def table(self, name: str) -> Map:
        """A map."""
        return self._maps[name]

    def skipped_runs(self) -> int:
        """How often the kernel did not run one of the programs where it should, for it was running already."""
        return sum(system.skipped_runs(fd) for fd, name in self._fds.items() if name not in SKIPPED_IN_VAIN)

    def close(self) -> None:
        """Free maps and programs."""
        while self._fds:
            os.close(self._fds.popitem()[0])
        while self._maps:
            self._maps.popitem()[1].close()


def _compiled(text: str, flags: list[str], compiling: Callable[[], None]) -> compiled.Compiled:
    """What an earlier recording kept, or what is compiled now."""
    key = compiled.key_of(text + compiler.headers(), flags, bcc_module.identity())
    folder = cache_folder()
    if kept := compiled.read(key, folder):
        return kept
    compiling()
    try:
        fresh = compiler.compile_source(text, flags)
    except MemoryError:
        raise ProgramError(NO_MEMORY) from None
    compiled.write(key, fresh, folder)
    return fresh


def _values() -> dict[int, str]:
    """Maps of whose only value programs have the address, by the number that stands for it."""
    numbers = abi.header().enums["value_of"]
    return {number: name.removeprefix("VALUE_OF_") for name, number in numbers.items()}


def _newest_uprobes() -> system.Uprobes:
    try:
        return system.newest_uprobes()
    except PermissionError:
        raise ProgramError(NO_RIGHTS) from None
    except OSError as error:
        raise ProgramError(
            f"The kernel loads no BPF programs ({error.strerror}): "
            "plaintap needs CONFIG_BPF_SYSCALL, Linux 5.15 or newer."
        ) from None


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return NO_RIGHTS
    return error.strerror or str(error)
