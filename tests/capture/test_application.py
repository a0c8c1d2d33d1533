"""Recognising what plaintext speaks: what is sent on the wire, cut anywhere, and anything else without an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transcripts import PREFACE, frame

from capture.application import HTTP2_PREFACE, Speech, recognise
from exporters import http_starts
from exporters.http.h2_sync import plausible

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /a?b=c HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
    b"GET http://example.com/ HTTP/1.1\r\n\r\n",
    b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n",
    b"VERSION-CONTROL /x HTTP/1.1\r\n\r\n",
    b"PATCH /x HTTP/1.1\n",
]
SETTINGS = frame(4, 0, 0, bytes(6))
FRAMES = [
    SETTINGS,
    frame(4, 1, 0) + frame(1, 4, 1, b"\x88") + frame(0, 1, 1, b"hello"),
    frame(8, 0, 0, bytes(4)),
    frame(6, 0, 0, bytes(8)),
    frame(7, 0, 0, bytes(8)),
]


@pytest.mark.parametrize("data", REQUESTS)
def test_requests(data):
    assert recognise(data) is Speech.HTTP1_REQUEST


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 \r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_responses(data):
    assert recognise(data) is Speech.HTTP1_RESPONSE


def test_the_preface_is_the_one_of_the_rfc_and_known_by_its_first_letters():
    assert HTTP2_PREFACE == http_starts.HTTP2_PREFACE == PREFACE
    for length in range(3, len(PREFACE) + 1):
        assert recognise(PREFACE[:length]) is Speech.HTTP2_PREFACE
    assert recognise(PREFACE + SETTINGS) is Speech.HTTP2_PREFACE


@pytest.mark.parametrize("data", FRAMES)
def test_frames(data):
    assert recognise(data) is Speech.HTTP2_FRAMES


@pytest.mark.parametrize(
    "data",
    [
        frame(4, 0, 1, bytes(6)),  # SETTINGS on a stream
        frame(0, 0, 0, b"data"),  # DATA on none
        frame(6, 0, 0, bytes(7)),  # a PING of 7
        frame(99, 0, 1),  # no known type
        frame(5, 0, 2),  # a message of five bytes behind their number
        frame(1, 2, 1, b"\x88"),  # no known flag
        frame(1, 4, 2, b"\x88"),  # HEADERS on a stream that nobody asks on
        frame(4, 0, 0, bytes(7)),  # SETTINGS of one and a sixth
        bytes.fromhex("0004 0100 0001 0000 0000 0000 0161 0474 6573 7400 0001 0001"),  # a DNS query
        SETTINGS + b"\xff" * 9,
    ],
)
def test_what_cannot_be_frames(data):
    assert recognise(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"SSH-2.0-OpenSSH\r\n",
        b"220 mail ESMTP\r\n",
        b"EHLO me\r\n",
        b"GETTING better",
        b"HTTP/2 200",
        b"OPTIONS sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/TLS a\r\n",
        b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        b"HEAD 5\r\n",
    ],
)
def test_what_is_something_else(data):
    assert recognise(data) is None


@given(st.binary(max_size=64))
def test_anything_is_looked_at_without_an_error(data):
    assert recognise(data) in {None, *Speech}


@given(st.sampled_from(REQUESTS + FRAMES + [b"HTTP/1.1 200 OK\r\n\r\n"]), st.integers(0, 60))
def test_a_beginning_is_never_taken_for_something_else(data, length):
    assert recognise(data[:length]) in {None, recognise(data)}


@given(st.builds(frame, st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=13)))
def test_frames_are_the_same_here_and_where_they_are_read(data):
    assert (recognise(data) is Speech.HTTP2_FRAMES) == bool(plausible(data, 0))


def test_identifiers_are_those_of_iana():
    assert {speech.alpn for speech in Speech} == {"http/1.1", "h2"}
