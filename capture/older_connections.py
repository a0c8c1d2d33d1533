"""Connections that were open before the recording: whose they are, which end is the server, and which moved nothing.

The kernel side learns of a connection with its first byte. What it cannot know then is who opened it: here, an end
is the server's if somebody listens on its port. And of those without a byte it learns nothing: they are looked for
before the recording and after it, in the network namespace of every wanted process.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture.ledger import IdleConnection
from capture.processes import PROC, process_ids
from capture.sock_diag import OWN_NAMESPACE, TcpSocket, tcp_sockets
from capture.streams import Side

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from capture.targets import Targets


@dataclass(frozen=True, slots=True)
class _Holder:
    pid: int
    comm: str
    fd: int


class OlderConnections:
    """``look`` once before the recording; the rest is answered from that."""

    def __init__(self) -> None:
        self._ports: dict[int, set[int]] = {}  # that are listened on, by network namespace
        self._connected: dict[int, dict[int, tuple[TcpSocket, _Holder]]] = {}  # by namespace and cookie
        self._paths: dict[int, Path] = {}

    def look(self, targets: Targets) -> None:
        """Find the connections of the wanted processes. One that ends meanwhile, or may not be read, has none."""
        holders = self._holders(targets)
        for namespace, path in self._paths.items():
            with contextlib.suppress(OSError):
                self._note(namespace, tcp_sockets(path), holders, targets)

    def _holders(self, targets: Targets) -> dict[int, _Holder]:
        """By the socket's inode, the first process that has it."""
        holders: dict[int, _Holder] = {}
        for pid, comm in wanted_processes(targets).items():
            folder = PROC / str(pid)
            with contextlib.suppress(OSError):
                path = folder / "ns/net"
                namespace = path.stat().st_ino
                self._paths.setdefault(namespace, path)
                for fd, inode in _sockets(folder):
                    holders.setdefault(inode, _Holder(pid, comm, fd))
        # Also where nobody is wanted: a connection may be handed to one who is.
        self._paths.setdefault(OWN_NAMESPACE.stat().st_ino, OWN_NAMESPACE)
        return holders

    def _note(
        self, namespace: int, sockets: list[TcpSocket], holders: dict[int, _Holder], targets: Targets
    ) -> None:
        self._ports[namespace] = {found.local[1] for found in sockets if found.listens}
        self._connected[namespace] = {
            found.cookie: (found, holders[found.inode])
            for found in sockets
            if not found.listens and found.inode in holders and targets.wants_ends(found.local, found.remote)
        }

    def side(self, namespace: int, local_port: int, remote_port: int, *, local: bool) -> Side | None:
        """Which end of a connection this is, by who listens; ``local``: the other may be in this namespace too.

        None where the namespace was not looked at, or both ports are listened on.
        """
        ports = self._ports.get(namespace)
        if ports is None:
            return None
        if local_port not in ports:
            return Side.CLIENT
        return None if local and remote_port in ports else Side.SERVER

    def idle(self) -> tuple[IdleConnection, ...]:
        """Those that are open still, and moved nothing."""
        unmoved = {namespace: self._unmoved(namespace) for namespace in self._connected}
        return tuple(
            IdleConnection(
                holder.pid,
                holder.comm,
                holder.fd,
                found.local,
                found.remote,
                self.side(
                    namespace, found.local[1], found.remote[1], local=found.local[0] == found.remote[0]
                ),
            )
            for namespace, connected in self._connected.items()
            for found, holder in connected.values()
            if found.cookie in unmoved[namespace]
        )

    def _unmoved(self, namespace: int) -> set[int]:
        before = self._connected[namespace]
        try:
            if not before or self._paths[namespace].stat().st_ino != namespace:
                return set()
            now = tcp_sockets(self._paths[namespace])
        except OSError:
            return set()
        return {s.cookie for s in now if s.cookie in before and before[s.cookie][0].moved == s.moved}


def wanted_processes(targets: Targets) -> dict[int, str]:
    """The names, by pid, of the processes that are to be recorded."""
    found = {}
    for pid in process_ids():
        folder = PROC / str(pid)
        with contextlib.suppress(OSError):
            comm = (folder / "comm").read_bytes().removesuffix(b"\n")
            if pid != os.getpid() and targets.wants_process(pid, comm, _user(folder), _cgroup(folder)):
                found[pid] = comm.decode("utf-8", "backslashreplace")
    return found


def _sockets(folder: Path) -> Iterator[tuple[int, int]]:
    """Descriptor and inode of each socket of a process."""
    descriptors = str(folder / "fd")
    for name in os.listdir(descriptors):  # noqa: PTH208 - 10,000 paths take longer to make than to read
        with contextlib.suppress(OSError):
            kind, _, inode = os.readlink(f"{descriptors}/{name}").partition(":")  # noqa: PTH115
            if kind == "socket":
                yield int(name), int(inode.strip("[]"))


def _user(folder: Path) -> int:
    """The real user, as the kernel side sees it."""
    return int(_value(folder / "status", b"Uid:\t").split()[0])


def _cgroup(folder: Path) -> str:
    """The process's group of version 2, as a path below the root; empty where there is none."""
    return os.fsdecode(_value(folder / "cgroup", b"0::"))


def _value(path: Path, name: bytes) -> bytes:
    """The rest of the line that begins so; empty where there is none. A name may have anything in it but \\n."""
    lines = path.read_bytes().split(b"\n")
    return next((line.removeprefix(name) for line in lines if line.startswith(name)), b"")
