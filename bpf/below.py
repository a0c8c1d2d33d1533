"""Which of the tracepoints below the system calls this kernel has, and what reading them takes (below.bpf.h).

Without the two that count (Linux 6.3), the ledger counts what system calls return, and what they do not show is
not seen but for sendfile's length. Without tcp_sendmsg_locked's message (6.16), what others send has its exact
length only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpf import system

if TYPE_CHECKING:
    from collections.abc import Iterator

OFFSETS: dict[str, tuple[str, ...]] = {
    "sk_buff": ("sk", "cb", "len", "data_len", "data", "head", "end", "prev"),
    "skb_shared_info": ("nr_frags", "frags"),
    "tcp_skb_cb": ("seq",),
    "unix_skb_parms": ("consumed",),
}

# iov_iter's members are called so since Linux 6.4.
MESSAGE_OFFSETS: dict[str, tuple[str, ...]] = {
    "msghdr": ("msg_iter", "msg_flags"),
    "iov_iter": ("iter_type", "iov_offset", "__iov", "count", "nr_segs"),
}

# System calls that need no tracepoint of their own where the socket layer shows what they move.
COVERED = frozenset({"syscalls/sys_enter_sendfile64", "syscalls/sys_exit_sendfile64"})

_LENGTHS = ("sock_send_length", "sock_recv_length", "skb_copy_datagram_iovec", "tcp_rcv_space_adjust")
_MESSAGES = "tcp_sendmsg_locked"
_UNIX_PACKETS = ("sk_data_ready", "consume_skb")


@dataclass(frozen=True, slots=True)
class Features:
    """What there is: the socket layer's counts, the messages that TCP is given, and the packets of AF_UNIX."""

    lengths: bool
    messages: bool
    unix_packets: bool = False

    @property
    def offsets(self) -> dict[str, tuple[str, ...]]:
        """Structs, and their members that are read."""
        return (OFFSETS if self.lengths else {}) | (MESSAGE_OFFSETS if self.messages else {})

    def flags(self) -> Iterator[str]:
        """-D flags for the kernel side."""
        yield f"-DBELOW={int(self.lengths)}"
        yield f"-DMESSAGES={int(self.messages)}"

    def raw_tracepoints(self) -> Iterator[tuple[str, str]]:
        """(event, program)."""
        if self.lengths:
            yield from ((event, f"on_{event}") for event in _LENGTHS)
            if self.messages:
                yield _MESSAGES, f"on_{_MESSAGES}"
            if self.unix_packets:
                yield from ((event, f"on_{event}") for event in _UNIX_PACKETS)


def probe(*, unix: bool = False) -> Features:
    """Try each. Where there is no right to try, there will be none to record.

    ``unix`` is whether AF_UNIX is wanted: what shows its packets is passed by everybody's.
    """
    lengths = all(map(system.has_raw_tracepoint, _LENGTHS))
    return Features(
        lengths,
        lengths and system.has_raw_tracepoint(_MESSAGES),
        unix and lengths and all(map(system.has_raw_tracepoint, _UNIX_PACKETS)),
    )
