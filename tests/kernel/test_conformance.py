"""Every way to move a connection's bytes, and what may become of its socket: a small program each, all in one
recording, of which only their own ends are seen. What the capture has is what they sent and received, by SHA-256,
or a gap of exact length; docs/coverage.md says which, and this suite holds it to that.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from conformance_runs import (
    Peer,
    Stream,
    Truth,
    accept,
    compile_program,
    listen,
    response,
    run,
    streams_by_ports,
)
from processes import ROOT
from recording import record, settle

from capture.streams import Side

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

COVERAGE = ROOT / "docs/coverage.md"
# Set to write docs/coverage.md instead of comparing it.
WRITE = "PLAINTAP_WRITE_COVERAGE"
# A way that needs none.
NO_LISTENER = "none"
NOT_HELD = "not-in-user-space"
RECEIVED_BYTES = 300_007
HEAD_BYTES = 101


@dataclass(frozen=True, slots=True)
class Case:
    """A program, its way, and what is lost of the bytes that it received (``all`` but the head; ``some``, or none), or
    of those that it sent (``sent``: all but the head). ``listener`` is what it connects to, if not to IPv4's TCP.
    """

    program: str
    way: str
    what: str
    modes: str = ""
    lost: str = ""
    connections: int = 1
    response_bytes: int = RECEIVED_BYTES
    listener: str = ""

    @property
    def name(self) -> str:
        """For the test's id."""
        return "-".join(filter(None, (self.program, self.way, self.modes.replace(",", "+"))))

    @property
    def may_be_overtaken(self) -> bool:
        """Whether it sends on a Unix socket by a call that is not hooked: a receiver that does not sleep may take the
        packet before it can be looked at.
        """
        return (
            self.program in BELOW_UNIX
            and self.way in (BELOW_UNIX[self.program] or [self.way])
            and not self.receives
        )

    @property
    def receives(self) -> bool:
        """Whether the peer sends."""
        return self.program in (*CONNECTING, *ACCEPTING) or self.way.startswith(
            ("rec", "read", "multishot", "splice_from", "threads_receive")
        )


MOVES: tuple[tuple[str, str], ...] = (
    ("send_write", "write"),
    ("send_send", "send"),
    ("send_sendto", "sendto, MSG_MORE"),
    ("send_oob", "send, MSG_OOB"),
    ("send_writev", "writev"),
    ("send_many_blocks", "writev of 1,024 blocks"),
    ("send_pwritev2", "pwritev2"),
    ("send_sendmsg", "sendmsg"),
    ("send_sendmmsg", "sendmmsg"),
    ("send_zerocopy", "send, MSG_ZEROCOPY"),
    ("send_sendfile", "sendfile"),
    ("send_splice_of_file", "splice from a file"),
    ("send_splice_of_pipe", "splice from a pipe"),
    ("send_vmsplice", "vmsplice and splice"),
    ("send_tee", "tee and splice"),
    ("send_aio", "AIO, PWRITE"),
    ("send_aio_vector", "AIO, PWRITEV"),
    ("send_int80", "int 0x80: write"),
    ("send_socketcall", "int 0x80: socketcall, send"),
    ("send_bytes", "write of one byte"),
    ("send_big", "write of 8 MiB"),
    ("send_big_blocks", "writev of 8 MiB in 1,024 blocks"),
    ("send_partial", "write, non-blocking: EAGAIN and parts"),
    ("send_interrupted", "send, interrupted by signals"),
    ("receive_read", "read"),
    ("receive_recv", "recv"),
    ("receive_waitall", "recv, MSG_WAITALL"),
    ("receive_interrupted", "recv, MSG_WAITALL, interrupted by signals"),
    ("receive_fault", "recv, into memory that ends: EFAULT"),
    ("receive_dontwait", "recv, MSG_DONTWAIT: EAGAIN"),
    ("receive_aio", "AIO, PREAD"),
    ("receive_int80", "int 0x80: read"),
    ("receive_socketcall", "int 0x80: socketcall, recv"),
    ("receive_readv", "readv"),
    ("receive_preadv2", "preadv2"),
    ("receive_recvmsg", "recvmsg"),
    ("receive_recvmmsg", "recvmmsg"),
    ("receive_peek", "recv, MSG_PEEK before each"),
    ("receive_spliced_body", "recv, then splice into a pipe"),
    ("receive_bytes", "read of one byte"),
    ("receive_big", "recv of 1 MiB, MSG_WAITALL"),
    ("receive_trunc", "recv, each second with MSG_TRUNC"),
    ("receive_oob", "recv beside MSG_OOB"),
    ("receive_mapped", "TCP_ZEROCOPY_RECEIVE, and recv"),
    ("receive_mapped_copied", "TCP_ZEROCOPY_RECEIVE that also copies"),
)
# Here the peer sends pages that can be mapped.
MAPPED = ("receive_mapped", "receive_mapped_copied")
SIZES = {"receive_bytes": 3011, "receive_big": 8 << 20}
URING: tuple[tuple[str, str], ...] = (
    ("send", ""), ("recv", ""), ("sendmsg", ""), ("recvmsg", ""), ("read", ""), ("write", ""), ("readv", ""),
    ("writev", ""), ("send_zc", ""), ("sendmsg_zc", ""), ("send_zc_fixed", ""), ("write_fixed", ""),
    ("multishot", ""), ("multishot_msg", ""), ("recv_bundle", ""), ("send_bundle", ""), ("splice", ""),
    ("splice_from", ""),
    ("send", "sqpoll"), ("recv", "sqpoll"), ("multishot", "sqpoll"), ("sendmsg", "sqpoll"),
    ("send", "async"), ("recv", "async"), ("sendmsg", "async"), ("recvmsg", "async"), ("multishot", "async"),
    ("write", "async"), ("send", "defer"), ("recv", "defer"), ("multishot", "defer"), ("send", "link"),
    ("send", "link,skip"), ("recv", "fixedfile"), ("send", "sqpoll,fixedfile"), ("splice_from", "async"),
)  # fmt: skip
LIVES: tuple[tuple[str, str], ...] = (
    ("dup", "dup, dup2, dup3, F_DUPFD, the first closed"),
    ("fork", "a child that shares the socket"),
    ("SCM_RIGHTS", "a process that was sent the socket"),
    ("pidfd_getfd", "a process that took the socket"),
    ("reuse", "101 connections with the same descriptor, close and close_range"),
    ("exec", "another program with the socket"),
    ("threads_send_messages", "three threads that send at once"),
    ("threads_send_blocking", "three threads that send at once, in calls that wait for room"),
    ("threads_receive", "three threads that receive at once"),
)
ACCEPTS: tuple[tuple[str, str], ...] = (
    ("accept", "accept, without an address"),
    ("accept4", "accept4"),
    ("int80", "int 0x80: socketcall, accept"),
    ("uring", "io_uring: accept"),
)
# Way, what, what it connects to, how many connections, what is lost.
CONNECTS: tuple[tuple[str, str, str, int, str], ...] = (
    ("ipv6", "IPv6", "ipv6", 1, ""),
    ("mapped", "IPv4 by a socket of IPv6", "", 1, ""),
    ("again", "a socket that is connected again and again (AF_UNSPEC)", "", 7, ""),
    ("mptcp", "Multipath TCP", "mptcp", 1, ""),
    ("mptcp6", "Multipath TCP, IPv6", "mptcp6", 1, ""),
    ("mptcp_splice", "Multipath TCP, spliced into a pipe", "mptcp", 1, ""),
    ("mptcp_many", "Multipath TCP, 101 one after the other", "mptcp", 101, ""),
)
UNIX: tuple[tuple[str, str, str, int, str], ...] = (
    ("unix", "a path", "unix", 1, ""),
    ("unix_abstract", "an abstract name", "unix_abstract", 1, ""),
    ("unix_pair", "a pair (socketpair)", NO_LISTENER, 1, ""),
    ("unix_many", "101 one after the other", "unix", 101, ""),
    ("unix_passed", "a process that was sent the socket", "unix", 1, ""),
    ("unix_messages", "sendmsg and recvmsg, with descriptors, MSG_PEEK and MSG_TRUNC", "unix", 1, ""),
    ("unix_datagrams", "SOCK_DGRAM", NO_LISTENER, 0, ""),
    ("unix_packets", "SOCK_SEQPACKET", NO_LISTENER, 0, ""),
)
# What Unix sockets know of the ways above; their MSG_TRUNC, MSG_OOB and MSG_ZEROCOPY are none.
UNIX_MOVES = tuple(
    (way, what)
    for way, what in MOVES
    if way not in {"send_oob", "send_zerocopy", "receive_trunc", "receive_oob", *MAPPED}
)
# Multishot with IOSQE_ASYNC hangs on a Unix socket, once in some hundred runs, with or without a recording.
UNIX_URING = tuple(
    (way, modes) for way, modes in URING if "_zc" not in way and (way, modes) != ("multishot", "async")
)
# Programs whose calls are not hooked: these ways, or all.
BELOW_UNIX = {
    "unix-moves": (
        "send_pwritev2", "send_sendmmsg", "send_sendfile", "send_splice_of_file", "send_splice_of_pipe",
        "send_vmsplice", "send_tee", "send_aio", "send_aio_vector", "send_int80", "send_socketcall",
    ),
    "unix-moves32": (),
    "unix-uring": (),
}  # fmt: skip
# Of what such ways send, as much as this may be gaps: some hundredths are, where two processors are idle.
MOST_OVERTAKEN = 0.25
# The same program under two names: streams of Unix sockets are recorded by themselves, with --unix.
ACCEPTING = ("accepts", "accepts32")
CONNECTING = {"connects": CONNECTS, "unix": UNIX}


def cases() -> Iterator[Case]:
    """A line of the table each."""
    for program in ("moves", "moves32"):
        for way, what in MOVES:
            lost = "all" if (program, way) == ("moves32", "receive_spliced_body") else ""
            if way in MAPPED:
                lost = "some"
            yield Case(program, way, what, lost=lost, response_bytes=SIZES.get(way, RECEIVED_BYTES))
    for program in ("unix-moves", "unix-moves32"):
        for way, what in UNIX_MOVES:
            size = SIZES.get(way, RECEIVED_BYTES)
            yield Case(program, way, what, response_bytes=size, listener="unix")
    for way, modes in URING:
        yield Case("uring", way, way.replace("_", " "), modes, "all" if way == "splice_from" else "")
    for way, modes in UNIX_URING:
        yield Case("unix-uring", way, way.replace("_", " "), modes, listener="unix")
    for way, what in LIVES:
        many = 101 if way == "reuse" else 1
        size = 3_000_017 if way == "threads_receive" else RECEIVED_BYTES
        yield Case("lives", way, what, connections=many, response_bytes=size)
    for program in ACCEPTING:
        for way, what in ACCEPTS:
            if (program, way) != ("accepts32", "uring"):
                yield Case(program, way, what, "", "", 7, 30_011)
    for program, ways in CONNECTING.items():
        for way, what, listener, many, lost in ways:
            yield Case(program, way, what, "", lost, many, 30_011, listener)


CASES = tuple(cases())


@dataclass(frozen=True, slots=True)
class Run:
    """What all programs said, and what the recording has."""

    truths: dict[Case, list[Truth]]
    streams: dict[tuple[int, int], list[Stream]]
    ledgers: list[dict[str, Any]]
    overtaken: dict[Case, bytes]  # what such a case's peer received


def truths_of(case: Case, program: Path, overtaken: dict[Case, bytes]) -> list[Truth]:
    """Run one. Where threads send or receive at once, only the peer knows the order of their bytes."""
    sends = response(case.response_bytes) if case.receives else b""
    if case.program in ACCEPTING:
        return accept([program, case.way], sends, case.connections)
    if case.listener == NO_LISTENER:
        return run([program, case.way, ""], None)
    listener = listen(case.listener, program.parent) if case.listener else None
    peer = Peer(sends, case.connections, case.way == "receive_oob", listener, case.way in MAPPED)
    modes = [case.modes] if case.program.endswith("uring") else []
    truths = run([program, case.way, *modes, peer.where], peer)
    assert len(truths) == case.connections
    if case.may_be_overtaken:
        overtaken[case] = bytes(peer.bytes)
    for truth, digest in zip(truths, peer.received, strict=True):
        if not case.way.startswith("threads_send"):
            assert digest.hexdigest() == truth.sent, f"{case.name}: the peer received something else"
    if case.way.startswith("threads_send"):
        truths = [replace(t, sent=d.hexdigest()) for t, d in zip(truths, peer.received, strict=True)]
    if case.way == "threads_receive":
        truths = [replace(truths[0], received=hashlib.sha256(sends).hexdigest())]
    return truths


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All of them in two recordings, of TCP and of Unix sockets, in an order of their own each time."""
    folder = tmp_path_factory.mktemp("conformance")
    programs = {
        "moves": compile_program(folder, "moves.c", "moves"),
        "moves32": compile_program(folder, "moves.c", "moves32", "-m32"),
        "uring": compile_program(folder, "uring.c", "uring", "-luring"),
        "lives": compile_program(folder, "lives.c", "lives", "-lpthread"),
        "accepts": compile_program(folder, "accepts.c", "accepts", "-luring"),
        "accepts32": compile_program(folder, "accepts.c", "accepts32", "-m32"),
        **{name: compile_program(folder, "connects.c", name) for name in CONNECTING},
        "unix-moves": compile_program(folder, "moves.c", "unix-moves"),
        "unix-moves32": compile_program(folder, "moves.c", "unix-moves32", "-m32"),
        "unix-uring": compile_program(folder, "uring.c", "unix-uring", "-luring"),
    }
    on_unix = {name for name in programs if name.startswith("unix")}
    everything = Run({}, {}, [], {})
    for names, options in ((programs.keys() - on_unix, []), (on_unix, ["--unix"])):
        order = [case for case in CASES if case.program in names]
        random.shuffle(order)
        comms = [option for name in sorted(names) for option in ("-c", name)]
        account = folder / "ledger.json"
        with record(folder / "all.pcapng", *comms, *options, "--ledger", account) as recording:
            everything.truths.update(
                (case, truths_of(case, programs[case.program], everything.overtaken)) for case in order
            )
            settle()
            done = recording.stop()
        assert done.returncode == 0, done.stderr
        assert account.stat().st_mode & 0o777 == 0o600
        everything.streams.update(streams_by_ports(recording.path))
        everything.ledgers.append(json.loads(account.read_text()))
    return everything


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_byte_is_there_or_a_gap_of_its_length(case: Case, everything: Run) -> None:
    for truth in everything.truths[case]:
        (stream,) = everything.streams[truth.ports]
        # Nobody opens a pair.
        assert stream.handshake_seen is (case.way != "unix_pair")
        assert stream.side is (Side.SERVER if case.program in ACCEPTING else Side.CLIENT)
        if case.lost == "sent":
            assert stream.sent.lost == truth.sent_bytes - HEAD_BYTES
        elif case.may_be_overtaken and stream.sent.lost:
            assert stream.sent.is_of(everything.overtaken[case])
        else:
            assert (stream.sent.lost, stream.sent.sha256) == (0, truth.sent)
        assert len(stream.sent.data) == truth.sent_bytes
        assert len(stream.received.data) == truth.received_bytes
        if case.lost in ("", "sent"):
            assert (stream.received.lost, stream.received.sha256) == (0, truth.received)
        else:
            # The end of a splice may be in a packet that is still there.
            least = 0 if case.lost == "some" else 1
            assert least <= stream.received.lost <= truth.received_bytes - HEAD_BYTES
            assert stream.received.is_of(response(case.response_bytes))
        # A packet is taken before it is looked at, or while it is copied.
        reasons = {NOT_HELD, "fault"} if case.may_be_overtaken else {NOT_HELD}
        assert stream.received.reasons | stream.sent.reasons <= reasons


def test_no_connection_is_merged_split_or_invented(everything: Run) -> None:
    ports = sorted(truth.ports for truths in everything.truths.values() for truth in truths)
    assert len(ports) == sum(case.connections for case in CASES)
    assert sorted(everything.streams) == ports


def test_the_independent_count_leaves_no_residue(everything: Run) -> None:
    accounts = [ledger["sockets"] for ledger in everything.ledgers]
    moved = sum(t.sent_bytes + t.received_bytes for truths in everything.truths.values() for t in truths)
    lost = sum(s.received.lost + s.sent.lost for found in everything.streams.values() for s in found)
    assert sum(account["reported"] for account in accounts) == moved
    assert sum(account["captured"] for account in accounts) == moved - lost
    on_tcp, on_unix = accounts
    overtaken = sum(lost_of(case, everything) for case in everything.overtaken)
    assert on_tcp["lost"] == {NOT_HELD: lost - overtaken}
    assert sum(on_unix["lost"].values()) == overtaken
    assert on_unix["lost"].keys() <= {NOT_HELD, "fault"}
    for account in accounts:
        assert account["residue"] == 0


def lost_of(case: Case, run: Run) -> int:
    """Bytes that it sent and that are gaps."""
    return sum(stream.sent.lost for truth in run.truths[case] for stream in run.streams[truth.ports])


def test_few_packets_of_unix_sockets_are_overtaken(everything: Run) -> None:
    sent = sum(map(len, everything.overtaken.values()))
    assert sum(lost_of(case, everything) for case in everything.overtaken) < MOST_OVERTAKEN * sent


HEAD = """# What is captured of every call

Made by `tests/kernel/test_conformance.py`, which runs a small program for each line, records its end alone,
and compares the bytes in the file with what it sent and received, by SHA-256. *exact*: byte for byte, in order.
*gap*: a hole of exactly as many bytes as were lost, with its reason. This is on a kernel that has
`tcp_sendmsg_locked` (Linux 6.16) and `sock_send_length` (6.3). On older kernels, or with `--no-below`,
what is not a plain read, write, send or receive is not seen, but for sendfile, which is a gap, and a splice of
64 bits from a socket into a pipe.

Bytes that are sent by reference (sendfile, splice, vmsplice, MSG_ZEROCOPY, send_zc) are those of the time of the
call; a program that changes them before TCP sends them sends something else.

Not in the table: of a splice from a socket by io_uring or of 32 bits, and of sendfile from a socket into a pipe,
TCP's sequence tells the length only where
the connection's beginning, or anything else that it received, was seen, and the bytes are there only if they are the
middle of a packet. The byte that MSG_OOB receives is not in
the stream. Multipath TCP that is moved by other than the plain calls is a gap. So is the rest of a packet that is
a list of packets (frag_list, as some network cards' drivers make them), for other than the plain calls. What is sent
on a Unix socket by other than the plain calls is a gap where the receiver took it before it could be looked at, which
it can within a microsecond if it does not wait for it. What is put into a socket's queues while it is restored
(TCP_REPAIR, as CRIU does) is shown as sent. What goes with the SYN (TCP Fast Open) by other than the plain
calls is a gap.

Which bytes came first is known of several threads that send or receive at once on TCP, but not of their splices from a
socket, nor of calls between whose bytes those of others came more than 128 times; nor on Unix sockets. There, what a
splice by io_uring or of 32 bits, or sendfile into a pipe, takes of a packet is missing, without a gap, if another
call has the rest of it.
"""
TITLES = {
    "moves": "System calls",
    "moves32": "System calls of 32-bit programs",
    "uring": "io_uring",
    "lives": "What becomes of a socket",
    "connects": "Connections",
    "accepts": "Connections that are accepted",
    "accepts32": "Connections that are accepted by 32-bit programs",
    "unix": "Unix sockets, with --unix",
    "unix-moves": "System calls on Unix sockets, with --unix",
    "unix-moves32": "System calls of 32-bit programs on Unix sockets, with --unix",
    "unix-uring": "io_uring on Unix sockets, with --unix",
}
FATES = {
    "": "exact",
    "sent": f"gap, `{NOT_HELD}`",
    "all": f"gap, `{NOT_HELD}`",
    "some": f"exact, or a gap where it is of several packets, `{NOT_HELD}`",
    "overtaken": "exact, or a gap where the receiver was quicker",
}


def table(run: Run) -> str:
    """The document, of what was seen."""
    text = HEAD
    for program, title in TITLES.items():
        text += f"\n## {title}\n\n| Way | Seen as |\n|---|---|\n"
        for case in (case for case in CASES if case.program == program):
            found = [stream for t in run.truths[case] for stream in run.streams.get(t.ports, ())]
            fate = FATES[seen(case, run, found)] if case.connections else "left alone: no stream of bytes"
            if len(found) != case.connections:
                fate = "not seen"
            text += f"| {case.what}{f' ({case.modes})' if case.modes else ''} | {fate} |\n"
    return text


def seen(case: Case, run: Run, found: list[Stream]) -> str:
    """Which fate the bytes had."""
    if case.may_be_overtaken:
        return "overtaken"
    if any(stream.sent.lost for stream in found):
        return "sent"
    if case.lost == "some":
        return case.lost
    return "all" if any(stream.received.lost for stream in found) else ""


def test_the_table_in_the_documentation_is_what_was_seen(everything: Run) -> None:
    text = table(everything)
    if WRITE in os.environ:
        COVERAGE.write_text(text)
    assert COVERAGE.read_text() == text, f"run again with {WRITE}=1 to write docs/coverage.md"
