"""Decoding of samples that are packed by the header's own layout, alone and in batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed_samples import ABI, FAMILIES, Samples, kind, packed

from capture.events import (
    BytesMoved,
    ConnectionAnnounced,
    ConnectionEnded,
    Direction,
    HostResolved,
    NewCodeUsed,
    ProgramExecuted,
    Protocol,
    Reason,
    Role,
    SessionBound,
    SessionEstablished,
    SessionFreed,
    SessionJoined,
)
from capture.samples import Decoder

OFFSET = 1_700_000_000_000_000_000


def decoded(samples):
    return list(Decoder(ABI.layouts, ABI.constants, OFFSET).decode(samples.buffer, samples.starts))


def only(record, room=0):
    (event,) = decoded(Samples().add(record, room))
    return event


@pytest.mark.parametrize(
    ("enum", "prefix", "mine"),
    [("direction", "DIRECTION_", Direction), ("protocol", "PROTOCOL_", Protocol), ("role", "ROLE_", Role),
     ("reason", "REASON_", Reason)],
)  # fmt: skip
def test_enumerations_agree_with_the_header(enum, prefix, mine):
    assert {name.removeprefix(prefix): value for name, value in ABI.enums[enum].items()} == {
        member.name: member.value for member in mine
    }
    assert [member.value for member in mine] == list(range(len(mine))), "they are looked up by position"


def test_every_kind_of_sample_has_a_decoder():
    decoder = Decoder(ABI.layouts, ABI.constants, 0)
    assert set(decoder._kinds) == set(ABI.enums["sample_kind"].values())


@given(
    payload=st.binary(max_size=200),
    missing=st.integers(0, 1 << 30),
    direction=st.sampled_from(Direction),
    reason=st.sampled_from(Reason),
    protocol=st.sampled_from(Protocol),
    numbers=st.lists(st.integers(0, (1 << 64) - 1), min_size=3, max_size=3),
    small=st.lists(st.integers(0, (1 << 32) - 1), min_size=3, max_size=3),
    hello=st.booleans(),
)
def test_data(payload, missing, direction, reason, protocol, numbers, small, hello):
    connection, session, position = numbers
    pid, tid, library = small
    head = packed(
        "sample", kind=kind("HELLO" if hello else "DATA"), direction=direction, reason=reason, protocol=protocol,
        captured=len(payload), time=5, connection=connection, session=session, position=position,
        length=len(payload) + missing, tgid=pid, tid=tid, library=library,
    )  # fmt: skip
    assert only(head + payload, room=300) == BytesMoved(
        connection, session, OFFSET + 5, direction, position, len(payload) + missing, payload, reason, protocol,
        pid, tid, 0 if hello else library, hello, opposite=library if hello else 0,
    )  # fmt: skip


@pytest.mark.parametrize("width", [4, 16])
def test_an_announcement(width):
    local, remote = bytes(range(1, width + 1)), bytes(range(101, 101 + width))
    event = only(
        packed(
            "connection_sample", kind=kind("CONNECTION"), protocol=2, time=9, connection=77, tgid=4242, opened=3,
            established=4, base_sent=10, base_received=20, inode=6, netns=8, fd=5, family=FAMILIES[width],
            local_port=40_000, remote_port=443, role=1, local=local.ljust(16, b"\xff"),
            remote=remote.ljust(16, b"\xff"), comm=b"curl\0rest",
        )
    )  # fmt: skip
    assert event == ConnectionAnnounced(
        connection=77, time=OFFSET + 9, pid=4242, comm="curl", fd=5, inode=6, netns=8, local=local,
        local_port=40_000, remote=remote, remote_port=443, role=Role.CLIENT, protocol=Protocol.HTTP,
        opened=OFFSET + 3, established=OFFSET + 4, base=(10, 20),
    )  # fmt: skip


def test_what_was_before_the_recording_is_not_known():
    event = only(packed("connection_sample", kind=kind("CONNECTION"), family=2))
    assert (event.opened, event.established) == (None, None)


def test_a_name_of_any_bytes_is_text():
    event = only(packed("connection_sample", kind=kind("CONNECTION"), family=2, comm=b"\xffx" * 8))
    assert event.comm == r"\xffx" * 8


def test_an_end():
    event = only(
        packed(
            "end_sample", kind=kind("END"), protocol=1, time=50, connection=7, session=8, local_fin=41, peer_reset=43,
            sent=100, received=200, session_sent=10, session_received=20,
        )
    )  # fmt: skip
    assert event == ConnectionEnded(
        7, OFFSET + 50, OFFSET + 41, None, None, OFFSET + 43, (100, 200), 8, (10, 20), Protocol.TLS
    )


def test_what_happens_to_sessions():
    def session(name, **more):
        return only(
            packed("sample", kind=kind(name), session=8, connection=7, time=5, tgid=4, library=3, **more)
        )

    assert session("BOUND") == SessionBound(8, 7, OFFSET + 5, 4, 3)
    assert session("BOUND", position=1) == SessionBound(8, 7, OFFSET + 5, 4, 3, unwanted=True)
    joined = session("JOINED", direction=1, position=20, length=9)
    assert joined == SessionJoined(8, 7, 9, Direction.RECEIVED, 20, OFFSET + 5)
    assert session("HANDSHAKE", position=2) == SessionEstablished(8, 7, OFFSET + 5, OFFSET + 2, 4, 3)
    assert session("SESSION_END") == SessionFreed(8, OFFSET + 5)


def test_new_code():
    sample = packed(
        "new_code_sample", kind=kind("NEW_CODE"), tgid=4, time=5, position=1 << 40, length=0x80_0001,
        changed=1 << 60, size=9, path=b"/bin/na\xffme\0rest",
    )  # fmt: skip
    assert only(sample) == NewCodeUsed(
        pid=4, time=OFFSET + 5, device=0x80_0001, inode=1 << 40, changed=1 << 60, size=9,
        path="/bin/na\udcffme", held=False,
    )  # fmt: skip


def test_a_host_name():
    event = only(
        packed(
            "name_sample", kind=kind("NAME"), tgid=4, time=9, position=5, captured=2, length=3, connection=77,
            name=b"a.test\0rest", addresses=b"1" * 16 + b"2" * 16 + b"3" * 16,
        )
    )  # fmt: skip
    assert event == HostResolved(4, OFFSET + 9, OFFSET + 5, "a.test", (b"1" * 16, b"2" * 16), 3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (b"curl\0-s\0", ("curl", "-s")),
        (b"curl\0\0--\0", ("curl", "", "--")),
        (b"curl\0http://exam", ("curl",)),
        (b"averylongfirst", ("averylongfirst",)),
        (b"na\xffme\0", (r"na\xffme",)),
    ],
)
def test_an_execution(arguments, expected):
    half = ABI.constants["EXEC_TEXT_BYTES"] // 2
    head = packed("sample", kind=kind("EXEC"), tgid=4, time=5, captured=len(arguments))
    event = only(head + b"/usr/bin/curl".ljust(half, b"\0") + arguments.ljust(half, b"\0"))
    assert event == ProgramExecuted(4, OFFSET + 5, "/usr/bin/curl", expected)


def test_a_batch_comes_in_order_and_each_with_its_own_bytes():
    samples = Samples()
    for number in range(5):
        text = b"x" * number
        head = packed("sample", kind=kind("DATA"), captured=number, length=number, position=number)
        samples.add(head + text, room=200)
        samples.add(packed("sample", kind=kind("SESSION_END"), session=number))
    events = decoded(samples)
    assert [event.payload for event in events[::2]] == [b"x" * number for number in range(5)]
    assert [event.session for event in events[1::2]] == list(range(5))


def test_a_reason_in_words():
    assert [reason.word for reason in Reason] == [
        "none", "ring-full", "fault", "limit", "not-in-user-space", "table-full", "undecided",
        "unseen-return",
    ]  # fmt: skip
