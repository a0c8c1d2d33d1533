"""``plaintap doctor``: what of this machine's TLS can be read, what cannot, and what to do about it.

Only looks: nothing is attached and no process is stopped. Two kinds of findings: about the machine (rights, kernel,
bcc), and about each process that holds code of a TLS library or is known to bring its own.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpf import below, btf, kernels, system
from bpf.bcc_module import load_bcc
from bpf.program import OFFSETS
from bpf.tracefs import Tracefs
from capture import rights, rustls
from capture.errors import PlaintapError, UsageError
from capture.processes import discover_files, read_process, running_processes
from capture.unreadable_tls import unreadable_by_content, unreadable_by_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from capture.call_shapes import LibraryProbes
    from capture.probe_catalog import ProbeCatalog
    from capture.processes import ExecutableFile

_UNREADABLE_REMEDY = "record the other end, or put a proxy in between"
_NEEDED = ("CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")
# CAP_SYS_ADMIN stands in for these, as before Linux 5.8 (bpf_capable, perfmon_capable), and for no other.
_PARTS_OF_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON"}
# A processor, and what is not done on it.
_PROCESSORS = {
    "x86_64": "x86-64",
    "aarch64": "arm64: nothing is located in stripped programs that bring their own TLS (Chromium, Bun), rustls is not "
    "read, and what a call returns that was waiting when the recording began is lost",
}


@dataclass(frozen=True, slots=True)
class Check:
    """Something about the machine. ``remedy`` is None where nothing is wrong."""

    name: str
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A process and a TLS library in it. ``probes`` is None where none can be attached; ``missed`` is what and why."""

    pid: int
    comm: str
    file: str
    library: str
    probes: str | None
    missed: str | None = None


def examine_machine() -> Iterator[Check]:
    """What recording needs, in the order in which it would fail."""
    yield _kernel()
    yield _processor()
    yield _rights()
    yield _holding()
    yield _attempt("bcc", lambda: str(getattr(load_bcc(), "__version__", "found")))
    yield _attempt("BTF", _btf)
    yield _attempt("tracefs", _tracefs)
    yield _uprobes()
    yield _attempt("socket layer", _below)


def examine_processes(wanted: str | None, catalog: ProbeCatalog) -> Iterator[Finding]:
    """Each process, or those that ``wanted`` names (a pid, a comm, or the path of a file).

    Raises UsageError if nothing is named so.
    """
    if wanted is not None and "/" in wanted:
        yield from _file(wanted, catalog)
        return
    pids = list(_pids(wanted))
    if not pids:
        raise UsageError(
            f"There is no process {wanted!r}: give a pid, a name as ps -o comm shows it, or a path."
        )
    names = {pid: process.comm for pid in pids if (process := read_process(pid))}
    for file in discover_files(pids):
        for pid in file.pids:
            if pid in names:
                yield from _findings(pid, names[pid], file, catalog, closely=wanted is not None)


def _kernel() -> Check:
    return Check("kernel", f"Linux {platform.release()}", kernels.remedy())


def _processor() -> Check:
    machine = platform.machine()
    remedy = None if machine in _PROCESSORS else "plaintap needs x86-64 or arm64"
    return Check("processor", _PROCESSORS.get(machine, machine), remedy)


def _rights() -> Check:
    held = rights.held()
    if "CAP_SYS_ADMIN" in held:
        held |= _PARTS_OF_SYS_ADMIN
    missing = [name for name in _NEEDED if name not in held]
    if not missing:
        return Check("rights", "enough" if os.geteuid() else "root")
    return Check("rights", f"{', '.join(missing)} missing", "run as root: sudo plaintap …")


def _holding() -> Check:
    if "CAP_KILL" in rights.held():
        return Check("holding", "new programs can be held until they have their probes")
    return Check(
        "holding",
        "no program is held: the first bytes of new ones may be missing",
        "run as root, or add CAP_KILL",
    )


def _attempt(name: str, look: Callable[[], str | Check]) -> Check:
    try:
        found = look()
        return found if isinstance(found, Check) else Check(name, found)
    except (PlaintapError, OSError) as error:
        return Check(name, "not usable", str(error))


def _btf() -> str:
    needed = OFFSETS | below.probe().offsets
    types = btf.read_vmlinux(needed)
    members = [(name, member) for name, group in needed.items() for member in group]
    for name, member in members:
        types.offset(name, member)
    return f"all {len(members)} members that are needed"


def _tracefs() -> str:
    tracefs = Tracefs()
    try:
        return (
            "readable" if tracefs.event_id("syscalls/sys_enter_read") is not None else "no system call events"
        )
    finally:
        tracefs.close()


def _uprobes() -> Check:
    try:
        uprobes = system.newest_uprobes()
    except OSError as error:
        return Check("programs", f"the kernel loads none ({error.strerror})", "run as root: sudo plaintap …")
    quick = "uprobe_multi: starting and stopping are quick"
    killed = "programs that switch stacks inside TLS functions, as Crystal's fibers do, are killed by it"
    if platform.machine() != "x86_64" and uprobes is not system.Uprobes.PERF:
        return Check("uprobes", f"{quick}; {killed} (not so on x86-64, from Linux 6.13 on)")
    if uprobes is system.Uprobes.SESSIONS:
        return Check(
            "uprobes", "uprobe_multi with sessions: starting and stopping are quick, coroutines are safe"
        )
    if uprobes is system.Uprobes.MULTI:
        return Check("uprobes", f"{quick}; {killed} (Linux 6.13 does better)")
    return Check("uprobes", "one by one: stopping takes 0.1 s a probe; Linux 6.6 does better")


def _below() -> str | Check:
    """What of the socket layer is shown; older kernels show less, and nothing is to be mended."""
    features = below.probe()
    if not features.lengths:
        return "sendfile is a gap; splice, io_uring and 32-bit programs are not seen (Linux 6.3 shows their lengths)"
    if not features.messages:
        return "what sendfile, splice, io_uring and 32-bit programs send is a gap (Linux 6.16 shows it)"
    if "CAP_SYS_ADMIN" not in rights.held():
        return Check(
            "socket layer",
            "what sendfile and splice send is a gap, and what io_uring receives may be: to read pages that no program "
            "maps needs CAP_SYS_ADMIN",
            "run as root, or add CAP_SYS_ADMIN",
        )
    return "sendfile, splice, io_uring and 32-bit programs are seen"


def _pids(wanted: str | None) -> Iterator[int]:
    for process in running_processes():
        if process.pid != os.getpid() and wanted in (None, str(process.pid), process.comm):
            yield process.pid


def _file(path: str, catalog: ProbeCatalog) -> Iterator[Finding]:
    try:
        found = catalog.probes_for(path)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from None
    if found is None or found.level == "resolver":
        if stripped := _stripped(0, "-", path, path):
            yield stripped
            return
        yield Finding(0, "-", path, "none", None, "no TLS library that plaintap knows is in this file")
    else:
        yield _describe(0, "-", path, found)


def _findings(
    pid: int, comm: str, file: ExecutableFile, catalog: ProbeCatalog, *, closely: bool
) -> Iterator[Finding]:
    """``closely`` is whether to search a file for what explains why nothing of it can be probed."""
    if stack := unreadable_by_name(file.name):
        yield Finding(pid, comm, file.name, stack, None, f"cannot be read: {_UNREADABLE_REMEDY}")
    try:
        found = catalog.probes_for(file.path)
    except (PlaintapError, OSError) as error:
        yield Finding(pid, comm, file.name, "?", None, str(error))
        return
    if found and found.level != "resolver" and not found.library.startswith("libcrypto"):
        yield _describe(pid, comm, file.name, found)
    elif closely and (stripped := _stripped(pid, comm, file.name, file.path)):
        yield stripped


def _stripped(pid: int, comm: str, name: str, path: str) -> Finding | None:
    if library := unreadable_by_content(path):
        why = ", for it has no symbols" if library.startswith(rustls.LIBRARY) else ""
        missed = f"cannot be read{why}: {_UNREADABLE_REMEDY}"
        return Finding(pid, comm, name, library, None, missed)
    return None


def _describe(pid: int, comm: str, name: str, found: LibraryProbes) -> Finding:
    missed = "; ".join(found.notes) or None
    if not found.sites:
        return Finding(pid, comm, name, found.library, None, missed or "none of its functions can be probed")
    return Finding(pid, comm, name, found.library, f"{len(found.sites)} ({found.level})", missed)


def as_json(checks: Iterable[Check], findings: Iterable[Finding]) -> dict[str, object]:
    """For machines."""
    return {
        "machine": [{"name": c.name, "found": c.found, "remedy": c.remedy} for c in checks],
        "processes": [
            {
                "pid": f.pid, "comm": f.comm, "file": f.file, "library": f.library,
                "probes": f.probes, "missed": f.missed,
            }
            for f in findings
        ],
    }  # fmt: skip


def lines(checks: Sequence[Check], findings: Sequence[Finding]) -> Iterator[str]:
    """For people: a table of the machine, then one of the processes."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "ok  " if check.remedy is None else "MEND"
        yield f"{mark}  {check.name:<{width}}  {check.found}"
        if check.remedy:
            yield f"      {'':<{width}}  → {check.remedy}"
    yield ""
    if not findings:
        yield "No process has a TLS library that plaintap knows."
        return
    rows = [("PID", "PROCESS", "LIBRARY", "PROBES", "FILE")]
    rows += [(str(f.pid or "-"), f.comm, f.library, f.probes or "none", f.file) for f in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row, finding in zip(rows, (None, *findings), strict=True):
        yield "  ".join((*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]))
        if finding and finding.missed:
            yield f"{'':<{widths[0]}}  → {finding.missed}"
