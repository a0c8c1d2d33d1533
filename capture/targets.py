"""What the user asked to record, checked. Kinds are a conjunction, values of one kind a disjunction; what is
excluded is excluded, whatever else fits.
"""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass, field
from ipaddress import IPv6Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from capture.containers import CGROUP_ROOTS, cgroup_of_container
from capture.errors import UsageError
from capture.networks import is_network, mapped, networks
from capture.processes import require_process, running_processes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Set

PROTOCOLS = frozenset({"http", "tls", "all"})
# (uid_t)-1 is no user: the kernel's "leave it as it is".
_NO_UID = (1 << 32) - 1
# events.h: each is a program's loop, unrolled.
MAX_CGROUPS = 8
# What the kernel keeps of a process's name (TASK_COMM_LEN, with its end).
MAX_COMM_BYTES = 15


@dataclass(frozen=True, slots=True)
class Selection:
    """Values of every kind of target. Hosts are networks of IPv6, IPv4's mapped; cgroups are folders."""

    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    hosts: tuple[IPv6Network, ...] = ()
    cgroups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """Empty kinds do not restrict. ``protocols`` is what is kept: http, tls, or all."""

    wanted: Selection = field(default_factory=Selection)
    excluded: Selection = field(default_factory=Selection)
    protocols: frozenset[str] = frozenset({"http", "tls"})
    follow: bool = True

    def wants_process(self, pid: int, comm: bytes, uid: int, cgroup: str) -> bool:
        """What targets.bpf.h decides of a process; ``cgroup`` is as /proc/PID/cgroup names it."""
        folders = {str(root / cgroup.lstrip("/")) for root in CGROUP_ROOTS}
        comms = {
            name
            for name in (*self.wanted.comms, *self.excluded.comms)
            if os.fsencode(name)[:MAX_COMM_BYTES] == comm
        }
        groups = {
            group
            for group in (*self.wanted.cgroups, *self.excluded.cgroups)
            if any(folder == group or folder.startswith(f"{group.rstrip('/')}/") for folder in folders)
        }
        return all(
            _passes(own, getattr(self.wanted, kind), getattr(self.excluded, kind))
            for kind, own in (("pids", {pid}), ("comms", comms), ("uids", {uid}), ("cgroups", groups))
        )

    def absent_names(self) -> list[str]:
        """Wanted names that no process has which runs now."""
        present = {process.comm for process in running_processes()} if self.wanted.comms else set()
        return [
            name
            for name in self.wanted.comms
            if os.fsencode(name)[:MAX_COMM_BYTES].decode("utf-8", "backslashreplace") not in present
        ]

    def wants_ends(self, *ends: tuple[bytes, int]) -> bool:
        """What it decides of a connection, by the addresses and ports of its ends."""
        addresses = [mapped(address) for address, _ in ends]
        hosts = {
            network
            for network in (*self.wanted.hosts, *self.excluded.hosts)
            if any(address in network for address in addresses)
        }
        ports = {port for _, port in ends}
        return _passes(hosts, self.wanted.hosts, self.excluded.hosts) and _passes(
            ports, self.wanted.ports, self.excluded.ports
        )

    def flags(self, *, with_command: bool) -> Iterator[str]:
        """Their names in events.h."""
        for kind in ("pids", "comms", "uids", "ports", "hosts", "cgroups"):
            wanted, excluded = getattr(self.wanted, kind), getattr(self.excluded, kind)
            wanted = wanted or (kind == "pids" and with_command)
            if wanted and kind != "cgroups":
                yield f"WANT_{kind.upper()}"
            if wanted or excluded:
                yield f"CHECK_{kind.upper()}"
        if self.follow or with_command:
            yield "FOLLOW_CHILDREN"
        if "all" in self.protocols:
            yield "KEEP_ALL_PROTOCOLS"
        else:
            yield from (f"DROP_{p.upper()}" for p in ("http", "tls") if p not in self.protocols)


def select(
    *,
    pids: tuple[int, ...] = (),
    comms: tuple[str, ...] = (),
    users: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
    hosts: tuple[str, ...] = (),
    cgroups: tuple[str, ...] = (),
    containers: tuple[str, ...] = (),
) -> Selection:
    """Values from the command line, checked and resolved.

    Raises UsageError: there is no such process, user, host, control group or container.
    """
    for pid in pids:
        require_process(pid)
    folders = (*(_cgroup(path) for path in cgroups), *(cgroup_of_container(name) for name in containers))
    if len(folders) > MAX_CGROUPS:
        raise UsageError(
            f"At most {MAX_CGROUPS} control groups and containers can be named, not {len(folders)}."
        )
    return Selection(
        pids,
        comms,
        tuple(_uid(user) for user in users),
        ports,
        tuple(network for host in hosts for network in _hosts(host)),
        folders,
    )


def _passes(own: Set[object], wanted: Collection[object], excluded: Collection[object]) -> bool:
    """Whether a thing with these values of a kind fits."""
    return own.isdisjoint(excluded) and (not wanted or not own.isdisjoint(wanted))


def _uid(user: str) -> int:
    if user.isdecimal() and int(user) < _NO_UID:
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(
            f"There is no user {user!r} on this machine: give a name of /etc/passwd or a number."
        ) from None


def _hosts(host: str) -> tuple[IPv6Network, ...]:
    if is_network(host):
        return networks(host)
    # An address in brackets is one that was copied from a URL.
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = {info[4][0] for info in socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)}
    except (OSError, UnicodeError) as error:  # UnicodeError: what cannot be a name, such as a..b
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError(f"The host {host!r} has no address ({reason}): give an address.") from None
    return tuple(
        IPv6Network(mapped(ip_address(address.partition("%")[0]).packed))
        for address in sorted(map(str, found))
    )


def _cgroup(path: str) -> str:
    """A folder of cgroup v2, by its path or as /proc/PID/cgroup names it."""
    for folder in (Path(path), *(root / path.lstrip("/") for root in CGROUP_ROOTS)):
        if (folder / "cgroup.procs").is_file() and (folder / "cgroup.controllers").is_file():
            return str(folder)
    raise UsageError(
        f"There is no control group {path!r} of version 2: give a folder below /sys/fs/cgroup, "
        "or the path that `cat /proc/PID/cgroup` shows after 0::."
    )
