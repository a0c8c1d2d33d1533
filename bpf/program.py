"""Compiles plaintap.bpf.c with bcc and loads its programs.

No kernel headers: BCC compiles against the stand-in tree in headers/, offsets come from BTF as -D. BCC changes
the working directory while it compiles: paths are absolute, and this runs before threads start.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpf import abi, below, btf, compiled, direct_map, system
from bpf.bcc_module import load_bcc
from bpf.system_calls import call_number_flags
from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent.resolve()
MAIN = FOLDER / "plaintap.bpf.c"
PAGE_BYTES = 4096

_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)

# struct: members. Each becomes -DOFFSET_struct_member, dots as underscores.
OFFSETS: dict[str, tuple[str, ...]] = {
    "task_struct": (
        "files", "flags", "group_leader", "comm", "pid", "tgid", "mm", "signal", "real_parent", "stack",
        "cred",
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
        "skc_family", "skc_daddr", "skc_rcv_saddr", "skc_dport", "skc_num", "skc_v6_daddr", "skc_v6_rcv_saddr",
        "skc_net", "skc_flags", "skc_state",
    ),
    "sock": ("sk_protocol", "sk_err", "sk_socket", "sk_type", "sk_shutdown", "sk_receive_queue", "sk_user_data"),
    "unix_sock": ("addr", "peer"),
    "unix_address": ("refcnt", "len", "name"),
    "net": ("ns.inum",),
    "inet_connection_sock": ("icsk_ulp_ops",),
    "tcp_sock": ("bytes_acked", "bytes_received", "copied_seq", "rcv_nxt", "snd_una", "write_seq"),
}  # fmt: skip

LONG_TO_VERIFY = (
    ("move_below_program", "RAW_TRACEPOINT"),
    ("wanted_exit_io", "TRACEPOINT"),
    ("continue_from_tracepoint", "TRACEPOINT"),
    ("continue_from_raw_tracepoint", "RAW_TRACEPOINT"),
)

# The kernel skips a program that runs already, as when a softirq tells of TCP's sockets in the middle of it: of these
# there are two, one after the other, so that one of them is free.
IN_PAIRS = frozenset({"on_inet_sock_set_state", "on_tcp_destroy_sock"})
# Nothing is lost where they are skipped: these are for calls of AF_UNIX, which no softirq makes.
SKIPPED_IN_VAIN = IN_PAIRS | {"on_sk_data_ready", "on_consume_skb"}

NO_RIGHTS = (
    "Recording needs root: sudo plaintap …, or the capabilities CAP_BPF, CAP_PERFMON, "
    "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE."
)


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


@contextmanager
def _stand_in_headers() -> Iterator[None]:
    """BCC_KERNEL_SOURCE for the time of a compilation: the environment is also our children's."""
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(FOLDER / "headers")
    try:
        yield
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """bcc writes the compiler's and the verifier's logs to descriptor 2: pages that help no user.

    PLAINTAP_BPF_LOG set in the environment lets them through. Raises MemoryError where they speak of that.
    """
    if "PLAINTAP_BPF_LOG" in os.environ:
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    saved, log = os.dup(2), os.memfd_create("log")
    try:
        os.dup2(log, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        with os.fdopen(log, "rb") as file:
            file.seek(0)
            said = file.read()
        if os.strerror(errno.ENOMEM).encode() in said:
            raise MemoryError


class Kernel:
    """The compiled module: maps by name, programs by name."""

    def __init__(self, ring_bytes: int, *, below_calls: bool = True, unix: bool = False) -> None:
        """Compile. ``ring_bytes`` is a power of two of at least a page.

        ``below_calls`` is whether to see what moves below the system calls, where the kernel shows it; compiling
        and verifying that takes 2 s. ``unix`` is whether to see streams of AF_UNIX.

        Raises BccError, BtfError, ProgramError.
        """
        self._bcc = load_bcc()
        self.uprobes = _newest_uprobes()
        self.below = below.probe(unix=unix) if below_calls else below.Features(lengths=False, messages=False)
        types = btf.read_vmlinux({*OFFSETS, *self.below.offsets, "page"})
        self.page_struct_bytes = types.size("page")
        flags = [
            "-w", f"-DRING_PAGES={ring_bytes // PAGE_BYTES}",
            *offset_flags(types, self.below), *self.below.flags(), *call_number_flags(),
        ]  # fmt: skip
        if unix:
            flags.append("-DRECORD_UNIX=1")
        if self.uprobes is system.Uprobes.SESSIONS:
            flags.append("-DNO_RETURN=1")
        self._fds: dict[int, str] = {}
        self._loaded: dict[tuple[str, str], int] = {}
        self._module: Any
        self._code = self._compile(source(), flags)
        self.ring_bytes = ring_bytes
        self._load_side_by_side()
        self.set_tail_call("emit_from_tracepoint", self.load("continue_from_tracepoint", "TRACEPOINT"))
        self.set_tail_call("emit_from_tracepoint", self.load("tell_step_from_tracepoint", "TRACEPOINT"), 1)
        self.set_tail_call("emit_from_tracepoint", self.load("exit_keyed", "TRACEPOINT"), 2)
        emit = self.load("continue_from_raw_tracepoint", "RAW_TRACEPOINT")
        self.set_tail_call("emit_from_raw_tracepoint", emit)
        self._link_parts()
        if self.below.lengths:
            self.set_tail_call("move_below", self.load("move_below_program", "RAW_TRACEPOINT"))
            self.set_tail_call("move_below", self.load("check_below_program", "RAW_TRACEPOINT"), 1)
        self.reads_pages = direct_map.calibrate(self)

    def _compile(self, text: str, flags: list[str]) -> dict[str, bytes]:
        """The maps, and each program's code: of what is kept of an earlier recording, only the maps are made."""
        key = compiled.key_of(text, flags, f"{self._bcc.__file__} {getattr(self._bcc, '__version__', '')}")
        kept = compiled.read(key)
        try:
            with _stand_in_headers(), _quiet_stderr():
                self._module = self._bcc.BPF(
                    text=(compiled.declarations(text) if kept else text).encode(), cflags=flags
                )
        except MemoryError:
            raise ProgramError(
                "There is no memory for the kernel side's tables: they count for the control group's limit."
            ) from None
        except Exception as error:  # noqa: BLE001 - bcc raises bare Exception for all that can go wrong
            raise ProgramError(
                f"The kernel side cannot be compiled or its maps made: {_reason(error)}"
            ) from None
        if not kept:
            code = {name.decode(): bytes(self._module.dump_func(name)) for name in self._function_names()}
            kept = compiled.Compiled.of(code, self._map_descriptors())
            compiled.write(key, kept)
        return kept.link(self._map_descriptors(), _values())

    def load(self, program: str, kind: str) -> int:
        """Load a program (TRACEPOINT, RAW_TRACEPOINT, KPROBE); its descriptor. Raises ProgramError."""
        if (program, kind) in self._loaded:
            return self._loaded[program, kind]
        try:
            fd = system.load_program(kind, self._code[program], program)
        except OSError as error:
            self._explain(program, kind)
            raise ProgramError(f"The kernel refused the program {program}: {_reason(error)}") from None
        self._fds[fd] = program
        return fd

    def _load_side_by_side(self) -> None:
        """What the verifier takes longest for: more than half a second, one after the other."""
        with ThreadPoolExecutor() as pool:
            names = [name for name in LONG_TO_VERIFY if self.below.lengths or name[1] == "TRACEPOINT"]
            loaded = pool.map(lambda name: self.load(*name), names)
            self._loaded.update(zip(names, loaded, strict=True))

    def _explain(self, program: str, kind: str) -> None:
        """The verifier's log, for who asked for it: PLAINTAP_BPF_LOG."""
        if "PLAINTAP_BPF_LOG" in os.environ:
            print(system.refusal(kind, self._code[program]), file=sys.stderr)

    def _function_names(self) -> list[bytes]:
        library, module = self._bcc.libbcc.lib, self._module.module
        return [library.bpf_function_name(module, i) for i in range(library.bpf_num_functions(module))]

    def _map_descriptors(self) -> dict[str, int]:
        library, module = self._bcc.libbcc.lib, self._module.module
        # bcc's Python does not declare these.
        for function, result in (
            (library.bpf_num_tables, ctypes.c_size_t),
            (library.bpf_table_name, ctypes.c_char_p),
            (library.bpf_table_fd_id, ctypes.c_int),
        ):
            function.restype = result
        count = library.bpf_num_tables(ctypes.c_void_p(module))
        return {
            library.bpf_table_name(ctypes.c_void_p(module), ctypes.c_size_t(i)).decode(): int(
                library.bpf_table_fd_id(ctypes.c_void_p(module), ctypes.c_size_t(i))
            )
            for i in range(count)
        }

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
        """Where programs that copy bytes go on."""
        table = self.table(array)
        table[table.Key(index)] = table.Leaf(program)

    def instructions(self, program: str) -> bytes:
        """A program's bytecode, map descriptors in place."""
        return self._code[program]

    def table(self, name: str) -> Any:
        """A map, as bcc shows it."""
        return self._module[name.encode()]

    def skipped_runs(self) -> int:
        """How often the kernel did not run one of the programs where it should, for it was running already."""
        return sum(system.skipped_runs(fd) for fd, name in self._fds.items() if name not in SKIPPED_IN_VAIN)

    def close(self) -> None:
        """Free maps and programs."""
        while self._fds:
            os.close(self._fds.popitem()[0])
        self._module.cleanup()


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


def _reason(error: Exception) -> str:
    if (os.geteuid() != 0 and "ermission" in str(error)) or "EPERM" in str(error):
        return NO_RIGHTS
    return f"{error}".replace("b'", "'")
