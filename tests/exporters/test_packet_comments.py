"""Comments: readable by people and by shells, and back without loss."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters import packet_comments
from exporters.packet_comments import (
    format_words,
    ledger_comments,
    parse_ledger,
    parse_words,
    read_gap,
    read_stream,
)
from exporters.pcapng import MAX_OPTION_BYTES, encode_text

keys = st.sampled_from(["pid", "comm", "cmd", "peer_cmd", "host", "x"])
values = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["", " ", '"', "\\", "a=b", "\n", "\udc80", "é", "\0", "\u2028"]
)


def file_of(comment: str) -> str:
    """The comment as it comes back from a file."""
    return encode_text(comment).decode("utf-8", "replace")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keys, values))
def test_any_words_come_back(words: dict[str, str]) -> None:
    shown = {key: encode_text(value).decode() for key, value in words.items()}
    assert parse_words(file_of(format_words(words))) == shown


@pytest.mark.parametrize("escape", ["\\udcff", "\\ud800"])
def test_half_a_surrogate_pair_is_shown_as_its_escape(escape: str) -> None:
    assert parse_words(f'exe="/{escape}/x" comm="\\ud83d\\ude00"') == {"exe": f"/{escape}/x", "comm": "😀"}


@given(st.text(max_size=100))
def test_any_comment_is_words_or_none(comment: str) -> None:
    words = parse_words(comment)
    assert words is None or parse_words(format_words(words)) == words


def test_a_shell_reads_words_alike() -> None:
    comment = format_words({"comm": "curl", "cmd": 'curl -H "A: b c" \\ x', "fd": 5, "none": None})
    assert comment == 'comm=curl cmd="curl -H \\"A: b c\\" \\\\ x" fd=5'
    assert shlex.split(comment) == ["comm=curl", 'cmd=curl -H "A: b c" \\ x', "fd=5"]


@pytest.mark.parametrize("character", ["x", "é", '"', "\0", "𝄞", " ", "\udc80"])
def test_long_values_are_cut_to_fit_an_option(character: str) -> None:
    words = {
        "cmd": character * 70_000,
        "exe": character * 70_000,
        "comm": character * 70_000,
        "peer_cmd": character * 70_000,
        "peer_exe": character * 70_000,
        "peer_comm": character * 70_000,
        "host": "example.com",
    }
    comment = format_words(words)
    assert len(encode_text(comment)) <= MAX_OPTION_BYTES
    found = parse_words(file_of(comment))
    assert found is not None
    assert found["host"] == "example.com"
    assert found["cmd"].endswith("…")
    assert encode_text(words["cmd"]).decode().startswith(found["cmd"][:-1])
    assert len(encode_text(found["cmd"])) <= packet_comments.MAX_COMMAND_LINE_BYTES


@pytest.mark.parametrize(
    "comment", ["", "hello", "a=b c", 'a="b', "a=b  ", "=", 'a="\\q"', "TCP handshake is synthetic"]
)
def test_comments_of_people_are_no_streams(comment: str) -> None:
    words = parse_words(comment) or {}
    assert read_gap(words) is None
    assert read_stream(words, 1, (0, 0), None, None) is None  # type: ignore[arg-type]  # not looked at


@pytest.mark.parametrize("length", ["", "-1", "1e3", "٣", "9" * 30, str(1 << 63)])
def test_a_length_that_is_no_number_is_no_gap(length: str) -> None:
    assert read_gap({"lost": length, "reason": "x"}) is None


def test_a_long_ledger_is_spread_over_comments() -> None:
    ledger = {"streams": [{"name": "é" * 50, "bytes": number} for number in range(3000)]}
    comments = list(ledger_comments(ledger))
    assert len(comments) > 1
    assert all(len(comment.encode()) <= MAX_OPTION_BYTES for comment in comments)
    assert parse_ledger(["unrelated", *comments]) == ledger


@pytest.mark.parametrize(
    "text",
    ["", "plaintap-ledger ", "plaintap-ledger {", "plaintap-ledger [1]", "plaintap-ledger " + "[" * 9999],
)
def test_what_is_no_ledger_is_none(text: str) -> None:
    assert parse_ledger([text]) is None
