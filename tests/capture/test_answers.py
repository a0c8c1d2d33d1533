"""An answer that is told of before the write that it answers comes after it, and nothing waits for long."""

from __future__ import annotations

import pytest
from kernel_events import SECOND_NS, START_NS, STEP_NS, Recording, distant, ended, plaintext

from capture.answers import ANSWER_WINDOW_NS, Answers
from capture.connections import Connections
from capture.events import Direction, Protocol
from capture.streams import Data, Process

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED
REQUEST, RESPONSE = b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
CONNECT, PID = b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", 77


def order(events):
    """What each event lets through."""
    answers = Answers()
    return [list(answers.in_order(event)) for event in events], answers


def test_an_answer_waits_for_the_write():
    answer = plaintext(5, RECEIVED, 0, RESPONSE, 1, answers=True)
    more = plaintext(5, RECEIVED, len(RESPONSE), b"x", 1)
    write = plaintext(5, SENT, 0, REQUEST, 1)
    found, answers = order([answer, more, write, more])
    assert found == [[], [], [write, answer, more], [more]]
    assert not answers


def test_other_sessions_and_writes_do_not_wait():
    answer = plaintext(5, RECEIVED, 0, RESPONSE, 1, answers=True)
    other = plaintext(6, RECEIVED, 0, RESPONSE, 2)
    others = plaintext(6, SENT, 0, REQUEST, 2)
    found, answers = order([answer, other, others])
    assert found == [[], [other], [others]]
    assert answers


@pytest.mark.parametrize("over", [False, True])
def test_a_write_that_does_not_return_is_not_waited_for(over):
    answer = plaintext(5, RECEIVED, 0, RESPONSE, 1, answers=True)
    _, answers = order([answer])
    assert list(answers.expire(answer.time + ANSWER_WINDOW_NS + over)) == [answer] * over
    assert list(answers.finish()) == [answer] * (not over)


def test_the_end_of_the_connection_waits_for_nothing():
    answer = plaintext(5, RECEIVED, 0, RESPONSE, 1, answers=True)
    end = ended(1, session=5, session_moved=(0, len(RESPONSE)))
    found, _ = order([answer, end])
    assert found == [[], [answer, end]]


@pytest.mark.parametrize("connections", [(1, 1), (0, 1), (2, 2)], ids=["known", "known later", "another's"])
def test_the_end_of_the_connection_waits_for_none_of_its_sessions(connections):
    """It names only the last."""
    answers = [plaintext(5, RECEIVED, at, b"x", of, answers=True) for at, of in enumerate(connections)]
    end = ended(1, session=9)
    found, _ = order([*answers, end])
    assert found == [[], [], [end] if 2 in connections else [*answers, end]]


def test_what_waits_of_an_earlier_session_is_in_the_stream_before_its_end():
    recording = Recording().feed(
        distant(1, protocol=Protocol.TLS),
        plaintext(5, SENT, 0, REQUEST, 1),
        plaintext(5, RECEIVED, 0, RESPONSE, 1, answers=True),
        ended(1, session=9, protocol=Protocol.TLS),
    )
    assert recording.stream.both == (REQUEST, RESPONSE)
    assert recording.tally.late_plaintext == 0


def test_the_end_of_what_is_around_a_session_waits_for_none_of_its_answers():
    """Of what is inside another's plaintext (capture.inner_sessions) no piece says a connection."""
    record = b"\x17\x03\x03" + (len(REQUEST) + 16).to_bytes(2) + bytes(len(REQUEST) + 16)
    recording = Recording().feed(
        distant(1, protocol=Protocol.TLS),
        plaintext(7, SENT, 0, CONNECT, 1, pid=PID),
        plaintext(8, SENT, 0, REQUEST, pid=PID),
        plaintext(7, SENT, len(CONNECT), record, 1, pid=PID),
        plaintext(8, RECEIVED, 0, RESPONSE, pid=PID, answers=True),
        ended(1, session=7, session_moved=(len(CONNECT) + len(record), 0), protocol=Protocol.TLS),
    )
    recording.tick(SECOND_NS)
    assert [stream.both for stream in recording.streams] == [(CONNECT + record, b""), (REQUEST, RESPONSE)]
    assert recording.tally.late_plaintext == 0


@pytest.mark.parametrize("how", ["write", "tick", "finish"])
def test_in_a_stream(how):
    connections = Connections(Process, lambda _: "Go", lambda *_: None)
    events = [
        distant(1),
        plaintext(5, RECEIVED, 0, RESPONSE, 1, answers=True),
        *([plaintext(5, SENT, 0, REQUEST, 1)] if how == "write" else []),
    ]
    items = [item for event in events for item in connections.handle(event)]
    later = START_NS + STEP_NS + 2 * ANSWER_WINDOW_NS
    if how == "tick":
        items += connections.tick(later)
        expected = [RESPONSE]
    elif how == "finish":
        items += connections.finish(later, {})
        expected = [RESPONSE]
    else:
        expected = [REQUEST, RESPONSE]
    assert [item.data for item in items if isinstance(item, Data)] == expected
    assert connections.tally.plaintext == sum(map(len, expected))
