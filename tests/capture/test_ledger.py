"""The ledger: it balances when every byte has a place, says so when one has none, and agrees with the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_events import REQUEST, SECOND_NS, Recording, announced, distant, ended, moved, plaintext

from bpf import abi
from capture.balance import balance
from capture.events import Direction, Protocol, Reason, Role, SessionFreed
from capture.ledger import MAX_IDLE_LISTED, MAX_SAID_PROCESSES, IdleConnection, Observation
from capture.streams import Data, Gap, Side
from capture.tally import MAX_LISTED_PROCESSES, Tally

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED
NAMES = [
    name.removeprefix("COUNTER_").lower() for name in abi.header().enums["counter"] if name != "COUNTERS"
]


def counters(**values):
    """All of the kernel's counters, nought but for ``values``."""
    assert set(values) <= set(NAMES)
    return dict.fromkeys(NAMES, 0) | values


def test_every_counter_is_read():
    """One that nobody reads is an atomic addition for nothing."""
    root = Path(abi.__file__).parents[1]
    source = "".join(path.read_text() for of in ("bpf", "capture") for path in (root / of).glob("*.py"))
    assert [name for name in NAMES if f'"{name}"' not in source] == []


def accounts(recording, **values):
    return balance(counters(**values), recording.tally)


def in_file(recording):
    """Bytes of data and of gaps that the streams show."""
    data = sum(len(item.data) for item in recording.items if isinstance(item, Data))
    return data, sum(item.length for item in recording.items if isinstance(item, Gap))


# What becomes of each piece of a connection that is recorded.
FATES = st.sampled_from(["captured", "ring_full", "fault", "limit", "not_in_user_space"])
PIECES = st.lists(st.tuples(st.sampled_from([SENT, RECEIVED]), st.integers(1, 50), FATES), max_size=25)


@given(pieces=PIECES, tls=st.booleans(), wait=st.booleans(), random=st.randoms(use_true_random=False))
def test_ledger_and_file_agree_whatever_becomes_of_the_pieces(pieces, tls, wait, random):
    position, counted, events = [0, 0], dict.fromkeys(NAMES, 0), []
    lost = {"ring_full": "ring_full", "limit": "limit", "not_in_user_space": "not_in_user_space"}
    if tls:
        pieces = [piece for piece in pieces if piece[2] != "not_in_user_space"]
    prefix = "plaintext_" if tls else "lost_"
    for direction, length, fate in pieces:
        counted["plaintext_reported" if tls else "reported_sent"] += length
        if fate in lost:
            counted[prefix + lost[fate]] += length
        reason = Reason[fate.upper()] if fate != "captured" else Reason.NONE
        payload = bytes(length) if fate == "captured" else b""
        if fate != "ring_full":
            make = (
                (lambda *a, **k: plaintext(7, *a, connection=1, **k))
                if tls
                else (lambda *a, **k: moved(1, *a, **k))
            )
            events.append(make(direction, position[direction], payload, length=length, reason=reason))
        position[direction] += length
    # Threads may swap neighbours.
    for at in range(len(events) - 1):
        if random.random() < 0.2:
            events[at], events[at + 1] = events[at + 1], events[at]
    recording = Recording().feed(distant(1, protocol=Protocol.TLS if tls else Protocol.HTTP))
    for event in events:
        recording.feed(event)
        if wait:
            # So late that holes are declared, and what then comes is too late to be shown.
            recording.tick(SECOND_NS)
    session = {"session": 7, "session_moved": tuple(position)} if tls and events else {}
    total = (0, 0) if tls else tuple(position)
    recording.feed(ended(1, *total, protocol=Protocol.TLS if tls else Protocol.HTTP, **session)).finish()
    ledger = balance(counted, recording.tally)
    account = ledger.tls if tls else ledger.sockets
    assert account.residue == 0
    data, gaps = in_file(recording)
    assert account.captured == data
    assert gaps == ledger.gap_bytes
    if events:
        assert gaps == account.lost_bytes


OVERLAPPING = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=15)


@given(pieces=OVERLAPPING, tls=st.booleans(), ticks=st.sets(st.integers(0, 14)), over=st.booleans())
def test_what_an_earlier_piece_reaches_into_is_lost_not_captured(pieces, tls, ticks, over):
    reported = sum(length for _, length in pieces)
    protocol, session = (Protocol.TLS, 7) if tls else (Protocol.HTTP, 0)
    recording = Recording().feed(distant(1, protocol=protocol))
    for number, (position, length) in enumerate(pieces):
        recording.feed(moved(1, SENT, position, bytes(length), session=session, protocol=protocol))
        if number in ticks:
            recording.tick((number + 1) * SECOND_NS)
    if over:
        total = {"session": session, "session_moved": (reported, 0)} if tls else {"sent": reported}
        recording.feed(ended(1, protocol=protocol, **total))
    recording.finish()
    ledger = accounts(recording, **{"plaintext_reported" if tls else "reported_sent": reported})
    account = ledger.tls if tls else ledger.sockets
    assert account.captured == in_file(recording)[0]
    assert account.lost_bytes == reported - account.captured
    assert account.residue == 0


def test_what_the_other_end_shows_is_mirrored_not_captured():
    size = len(REQUEST)
    recording = Recording().feed(
        announced(1),
        announced(2, Role.SERVER),
        moved(2, RECEIVED, 0, REQUEST),
        moved(1, SENT, 0, REQUEST),
        moved(2, RECEIVED, size, b"x" * 5),  # before the kernel knew
    )
    ledger = accounts(recording, reported_sent=size, reported_received=size + 5 + 7, mirrored=7)
    assert ledger.sockets.mirrored == size + 5 + 7
    assert ledger.sockets.captured == size == in_file(recording)[0]
    assert ledger.sockets.residue == 0


def test_plaintext_without_a_socket_is_lost_with_its_reason():
    recording = Recording().feed(plaintext(7, SENT, 0, REQUEST), SessionFreed(7, 1))
    ledger = accounts(recording, plaintext_reported=len(REQUEST))
    assert ledger.tls.lost == {"unknown-association": len(REQUEST)}
    assert (ledger.tls.captured, ledger.tls.residue) == (0, 0)


def test_whose_plaintext_it_is_that_has_no_socket_is_said():
    """Of many processes that talk at once, which one was not read whole."""
    recording = Recording()
    for session in range(1, MAX_SAID_PROCESSES + 4):
        sent = plaintext(session, SENT, 0, b"x" * (100 + session), pid=session)
        recording.feed(sent, plaintext(90 + session, RECEIVED, 0, b"y" * 1000, pid=session))
    recording.feed(plaintext(7000, SENT, 0, b"", pid=7, length=9, reason=Reason.FAULT))
    recording.finish()
    ledger = accounts(recording)
    assert (
        sum(whose["bytes"] for whose in ledger.as_json()["unassociated"])
        == recording.tally.unknown_association
    )
    said = next(warning for warning in ledger.warnings() if "no known connection" in warning)
    assert said.startswith("TLS of no known connection: pid 23, libssl.so.3: 1,123 bytes; pid 22")
    assert said.endswith("pid 4, libssl.so.3: 1,104 bytes; 3 more processes.")


@pytest.mark.parametrize(
    ("program", "name"), [("/usr/bin/node", "node (pid 7, OpenSSL 3.5.8)"), (None, "pid 7")]
)
def test_a_process_is_named_by_its_program(program, name):
    tally = Tally()
    tally.note_unassociated((7, program, "OpenSSL 3.5.8" if program else None), 1)
    ledger = balance(counters(plaintext_reported=1), tally)
    assert f"TLS of no known connection: {name}: 1 byte." in ledger.warnings()


@pytest.mark.parametrize("connection", [0, 99])
def test_a_fault_outside_of_any_stream_is_counted_once(connection):
    fault = plaintext(7, SENT, 0, b"", connection, length=9, reason=Reason.FAULT)
    ledger = accounts(Recording().feed(fault).finish(), plaintext_reported=9)
    assert ledger.tls.captured == 0
    assert ledger.tls.residue == 0


def test_data_that_belongs_to_nothing_is_lost_not_captured():
    recording = Recording().feed(moved(9, SENT, 0, REQUEST))
    ledger = accounts(recording, reported_sent=len(REQUEST))
    assert ledger.sockets.captured == 0
    assert ledger.sockets.residue == 0
    assert ledger.lost_bytes == len(REQUEST)


def test_first_bytes_that_became_tls_or_nothing_are_filtered():
    recording = Recording().feed(
        distant(1, protocol=Protocol.UNDECIDED),
        moved(1, SENT, 0, b"GE", protocol=Protocol.UNDECIDED),
        ended(1, 7, protocol=Protocol.OTHER),
    )
    ledger = accounts(recording, reported_sent=9, filtered=5, undecided=2)
    assert ledger.sockets.filtered == 9
    assert ledger.unrecognised == 4
    assert (ledger.sockets.captured, ledger.sockets.residue, ledger.gap_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    "name",
    ["suppressed", "filtered", "undecided", "mirrored", "lost_ring_full", "lost_limit", "lost_not_in_user_space",
     "lost_table_full", "plaintext_ring_full", "plaintext_limit", "plaintext_filtered", "plaintext_mirrored"],
)  # fmt: skip
def test_a_byte_that_no_call_reported_shows(name):
    ledger = balance(counters(**{name: 1}), Tally())
    assert [ledger.sockets.residue, ledger.tls.residue].count(-1) == 1
    assert any("off by -1" in warning for warning in ledger.warnings())


@pytest.mark.parametrize("name", ["reported_sent", "reported_received", "plaintext_reported"])
def test_a_byte_that_nothing_explains_shows(name):
    ledger = balance(counters(**{name: 1}), Tally())
    assert [ledger.sockets.residue, ledger.tls.residue].count(1) == 1
    assert any("off by 1 " in warning for warning in ledger.warnings())


def test_nothing_happened_and_nothing_is_said():
    ledger = balance(counters(), Tally())
    assert ledger.warnings() == []
    assert ledger.lines()[0] == "0 connections, 0 streams written"
    assert all("none lost" in line for line in ledger.lines()[1:])


def test_losses_are_said_with_reason_and_remedy():
    ledger = balance(counters(reported_sent=1_234_567, lost_ring_full=1_234_567), Tally(gaps=1_000_000))
    (warning,) = ledger.warnings()
    assert "1,234,567 bytes were lost (ring-full)" in warning
    assert "1,000,000 bytes of them are gaps" in warning
    assert "--ring-size" in warning
    assert "1,234,567 bytes lost (ring-full)" in ledger.lines()[1]


def test_bytes_that_are_not_in_the_file_are_said():
    ledger = replace(balance(counters(), Tally()), orphan_bytes=1234)
    assert ledger.warnings() == [
        "1,234 bytes came after the end of their connection had been written: they are not in the file."
    ]
    assert ledger.as_json()["orphan_bytes"] == 1234


def test_what_could_not_be_seen_is_said():
    tally = Tally(unreadable={(7, "node", None): 5, (8, "java", "conscrypt"): 1})
    said = "\n".join(balance(counters(events_ring_full=3, table_full=4), tally).warnings())
    for part in (
        "3 events",
        "4 entries",
        "node (pid 7)",
        "java (pid 8)",
        "(conscrypt)",
        "5 bytes",
        "1 byte ",
    ):
        assert part in said


def test_tls_that_came_too_early_or_is_others_is_called_that():
    tally = Tally(unreadable={(7, "go", None): 5, (8, "java", "JSSE"): 6}, relayed={(9, "squid"): 7})
    early, java, proxy = balance(counters(), tally, late={7, 8}).warnings()
    assert "go (pid 7)" in early
    assert "--hold" in early
    assert "cannot be read (JSSE): 6" in java
    assert "squid (pid 9) relayed" in proxy
    assert all("cannot be read" not in said for said in (early, proxy))


def test_of_tls_that_began_without_probes_only_that_of_late_ones_is_said():
    """A library whose handshake has no probe begins so each time."""
    tally = Tally(unreadable={(7, "go", None): 5}, begun={(7, "go"): 20, (8, "bun"): 30, (9, "etcdctl"): 40})
    unread, *begun = balance(counters(), tally, late={7, 9}).warnings()
    assert unread.startswith("go (pid 7) used TLS before its probes were in place: 5 bytes")
    for said, who in zip(begun, ("go (pid 7)", "etcdctl (pid 9)"), strict=True):
        assert said.startswith(
            f"{who} used TLS before its probes were in place, and its first bytes may be missing: "
        )


def test_a_direction_that_was_not_read_is_said():
    tally = Tally(one_way={(7, "proxy", "s2n-tls", Direction.SENT): 900_000})
    (said,) = balance(counters(), tally).warnings()
    assert said.startswith("What proxy (pid 7) sent by s2n-tls was not read")
    assert "900,000 bytes" in said


def test_who_used_quic_is_said_in_one_line():
    users = tuple((pid, "browser") for pid in range(1, MAX_SAID_PROCESSES + 4))
    ledger = replace(balance(counters(), Tally()), quic=users)
    (said,) = ledger.warnings()
    assert "browser (pid 1), " in said
    assert f"browser (pid {MAX_SAID_PROCESSES}), 3 more, and is not recorded" in said
    assert len(ledger.as_json()["quic"]) == len(users)


def test_of_processes_that_come_by_the_thousand_the_worst_are_said():
    tally = Tally()
    for pid in range(3 * MAX_LISTED_PROCESSES):
        tally.note_unread(tally.unreadable, (pid, "short", "rustls"), 1000 + pid % MAX_LISTED_PROCESSES)
        tally.note_unread(tally.unreadable, (0, "short", "rustls"), 1)
    assert len(tally.unreadable) == MAX_LISTED_PROCESSES
    ledger = balance(counters(), tally)
    *lines, rest = ledger.warnings()
    assert len(lines) == MAX_SAID_PROCESSES
    assert lines[0].startswith("short (pid 0) used TLS")
    said = [int(line.split(": ")[1].split()[0].replace(",", "")) for line in lines]
    whole = sum(1000 + pid % MAX_LISTED_PROCESSES for pid in range(3 * MAX_LISTED_PROCESSES))
    hidden = whole + 3 * MAX_LISTED_PROCESSES - sum(said)
    assert rest.startswith(f"more than {MAX_LISTED_PROCESSES - MAX_SAID_PROCESSES} more processes used TLS")
    assert f" {hidden:,} bytes" in rest
    found = ledger.as_json()
    listed = sum(row["ciphertext"] for row in found["unreadable"])
    assert listed + found["unlisted_ciphertext"] == whole + 3 * MAX_LISTED_PROCESSES


def test_machines_read_the_same():
    recording = Recording().feed(distant(1), moved(1, SENT, 0, REQUEST))
    ledger = accounts(recording, reported_sent=len(REQUEST) + 4, lost_ring_full=3)
    found = json.loads(json.dumps(ledger.as_json()))
    assert found["sockets"] == {
        "reported": len(REQUEST) + 4, "captured": len(REQUEST), "suppressed": 0, "filtered": 0, "mirrored": 0,
        "lost": {"ring-full": 3}, "residue": 1,
    }  # fmt: skip
    assert (found["connections"], found["streams"]) == (1, 1)


def test_how_it_was_seen_is_in_it_and_warned_of():
    recording = Recording().feed(distant(1, remote_port=0))
    values = {
        "tcp_checked": 5,
        "tcp_unseen_sent": 6,
        "tcp_excess_received": 7,
        "by_reference": 8,
        "probe_hits": 9,
    }
    seen = Observation(counted_below=False, probes=3, samples=4, skipped_runs=11)
    ledger = balance(counters(**values), recording.tally, seen)
    found = ledger.as_json()
    assert found["counted_by"] == "system-calls"
    assert "returned by system calls" in ledger.lines()[1]
    assert found["tcp_totals"] == {"connections": 5, "unseen_sent": 6, "unseen_received": 0, "excess": 7}
    assert (found["as_of_call"], found["probes"], found["probe_hits"], found["samples"]) == (8, 3, 9, 4)
    assert (found["skipped_runs"], found["connections_without_address"]) == (11, 1)
    said = " ".join(ledger.warnings())
    assert all(part in said for part in ("6 bytes", "7 bytes", "11 runs"))


def test_losses_are_listed_by_connection():
    recording = Recording().feed(distant(1), moved(1, SENT, 0, REQUEST), ended(1, len(REQUEST) + 3))
    (loss,) = accounts(recording).as_json()["losses"]
    assert loss == {
        "pid": 1001, "comm": "client", "local": "10.0.0.7:40000", "remote": "93.184.216.34:8080",
        "lost": {"ring-full": 3},
    }  # fmt: skip


def test_idle_connections_are_counted_and_listed():
    idle = IdleConnection(7, "curl", 5, (bytes(15) + b"\x01", 40_000), (b"\x7f\0\0\x01", 80), Side.CLIENT)
    unknown = replace(idle, side=None)
    ledger = replace(accounts(Recording()), idle=(idle, *[unknown] * MAX_IDLE_LISTED))
    found = ledger.as_json()
    assert found["idle"] == MAX_IDLE_LISTED + 1
    assert len(found["idle_connections"]) == MAX_IDLE_LISTED
    assert found["idle_connections"][:2] == [
        {
            "pid": 7,
            "comm": "curl",
            "fd": 5,
            "local": "[::1]:40000",
            "remote": "127.0.0.1:80",
            "side": "client",
        },
        {"pid": 7, "comm": "curl", "fd": 5, "local": "[::1]:40000", "remote": "127.0.0.1:80", "side": None},
    ]
    assert "1,001 more were open and moved nothing" in ledger.lines()[0]
    assert "more" not in accounts(Recording()).lines()[0]
