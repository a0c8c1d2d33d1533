"""An answer that is told of before the write that it answers comes after it, and nothing waits for long."""

from __future__ import annotations

import pytest
from kernel_events import START_NS, STEP_NS, distant, ended, plaintext

from capture.answers import ANSWER_WINDOW_NS, Answers
from capture.connections import Connections
from capture.events import Direction
from capture.streams import Data, Process

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED
REQUEST, RESPONSE = b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"


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
