"""What the user asked to record, checked. Kinds are a conjunction, values of one kind a disjunction."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capture.errors import UsageError
from capture.processes import require_process

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Targets:
    """Empty kinds do not restrict."""

    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    uids: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    follow: bool = True

    def flags(self, *, with_command: bool) -> Iterator[str]:
        """Their names in events.h."""
        kinds = {
            "WANT_PIDS": bool(self.pids) or with_command,
            "WANT_COMMS": bool(self.comms),
            "WANT_UIDS": bool(self.uids),
            "WANT_PORTS": bool(self.ports),
            "FOLLOW_CHILDREN": self.follow or with_command,
        }
        return (flag for flag, wanted in kinds.items() if wanted)


def check(
    pids: tuple[int, ...],
    comms: tuple[str, ...],
    users: tuple[str, ...],
    ports: tuple[int, ...],
    *,
    follow: bool,
) -> Targets:
    """Targets from the command line. Raises ProcessError (no such pid) and UsageError (no such user)."""
    for pid in pids:
        require_process(pid)
    return Targets(pids, comms, tuple(_uid(user) for user in users), ports, follow)


def _uid(user: str) -> int:
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageError(
            f"There is no user {user!r} on this machine: give a name of /etc/passwd or a number."
        ) from None
