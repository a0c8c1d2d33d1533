"""Captures read back: ours give the items that were written, other people's give each byte once and in order."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from foreign import ACK, FIN, PSH, RST, SYN, Tcp, frames, pcap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transcripts import (
    CURL,
    METADATA,
    NGINX,
    REQUEST,
    START_NS,
    Transcript,
    capture,
    interleave,
    merged,
    read,
    response,
    timeless,
    tls,
)

from capture.streams import (
    Data,
    Endpoint,
    Gap,
    Process,
    Side,
    StreamClosed,
    StreamItem,
    StreamOpened,
    Tls,
    TlsEnded,
    TlsStarted,
)
from exporters import tcp_halves, tcp_reassembly
from exporters.conversations import REASON_CUT, REASON_NOT_IN_CAPTURE
from exporters.http import ExchangeReader
from exporters.http.messages import Outcome
from exporters.packets import Framing, PcapngExporter
from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Iterable

CLIENT, SERVER = Side.CLIENT, Side.SERVER

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "a b",
        'q"uote',
        "back\\slash",
        "\\udc80raw\\udcff",
        "tab\tnew\nline\0",
        "=",
        "key=value",
        "ünï",
        "x" * 600,
    ]
)
processes = st.builds(
    Process,
    st.integers(0, 2**22),
    texts,
    st.none() | texts.map(lambda text: text[:1000]),
    st.none() | texts,
)
names = st.none() | st.sampled_from(["example.com", "ünïcode.example", "x" * 300, ""]).filter(bool)
sessions = st.builds(
    Tls,
    st.none() | st.sampled_from(["libssl.so.3", "Go crypto/tls"]),
    names,
    st.sampled_from([None, "h2", "http/1.1", "odd one"]),
    st.none() | st.just(START_NS + 2_000),
    st.none() | st.just(START_NS + 3_000),
)
payloads = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PRI * HT", REQUEST, response(), b"\x16\x03\x01\x02\x00\x01"]
    ),
    st.integers(16_000, 140_000).map(lambda size: bytes(range(256)) * (size // 256 + 1)),
)
addresses = st.sampled_from(
    [b"\x0a\0\0\x01", b"\x7f\0\0\x01", bytes(15) + b"\x01", b"\xfd" + bytes(14) + b"\x09"]
)


@st.composite
def streams(draw: st.DrawFn, number: int) -> Transcript:
    """A stream with anything that may happen in one."""
    family = draw(st.booleans())
    client, server = ((draw(addresses.filter(lambda a: (len(a) == 4) is family))) for _ in range(2))
    stream = Transcript(
        number,
        client=Endpoint(client, 40_000 + number),
        server=Endpoint(server, draw(st.sampled_from([443, 80, 8443, 45123, 5432]))),
        side=draw(st.sampled_from(Side)),
        handshake_seen=draw(st.booleans()),
        process=draw(st.none() | processes),
        peer_process=draw(st.none() | processes),
        fd=draw(st.none() | st.integers(0, 2**20)),
        unix_path=draw(st.none() | st.sampled_from(["", "/run/docker.sock", '@a name\\"'])),
        tls=draw(st.none() | sessions),
    )
    for step in draw(st.lists(st.sampled_from("csccssCSt"), max_size=12)):
        if step == "c":
            stream.client(draw(payloads))
        elif step == "s":
            stream.server(draw(payloads))
        elif step == "t":
            stream.start_tls(draw(sessions))
            if draw(st.booleans()):
                stream.client(draw(payloads)).end_tls()
        else:
            sender = CLIENT if step == "C" else SERVER
            stream.lose(
                sender,
                draw(st.sampled_from([1, 16_384, 70_000])),
                draw(st.sampled_from(["fault", "ring full"])),
            )
    if any(isinstance(item, TlsStarted | TlsEnded) for item in stream.items):
        stream.client(b"A session without bytes and without an end is nothing that a packet could tell of.")
    ends = draw(st.sampled_from(["", "c", "s", "cs", "sc", "r"]))
    for end in ends:
        stream.close(SERVER if end == "s" else CLIENT, reset=end == "r")
    return stream


class TestOurCaptures:
    """pcapng is the only journal: what was written comes back."""

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data(), st.sampled_from(Framing))
    def test_what_was_written_is_read(self, data: st.DataObject, framing: Framing) -> None:
        count = data.draw(st.integers(1, 3))
        written = interleave(data.draw(streams(number)) for number in range(1, count + 1))
        found = read(capture(written, framing))
        assert by_stream(timeless(found)) == by_stream(timeless(written))

    def test_times_come_back(self) -> None:
        items = Transcript(tls=tls("h2"), peer_process=NGINX).exchange(2).lose(SERVER, 9).close().items
        assert read(capture(items)) == items

    def test_streams_with_the_same_addresses_are_kept_apart(self) -> None:
        ends = {"client": Endpoint(b"\x7f\0\0\x01", 40_000), "server": Endpoint(b"\x7f\0\0\x01", 80)}
        items = interleave(
            Transcript(number, **ends).client(b"the bytes of stream %d" % number).exchange().close()
            for number in (1, 2, 3)
        )
        assert read(capture(items)) == items

    def test_they_are_when_one_was_over_before_the_other_was_heard_of(self) -> None:
        ends = {"client": Endpoint(b"\x7f\0\0\x01", 40_000), "server": Endpoint(b"\x7f\0\0\x01", 80)}
        first, second = (
            Transcript(number, **ends).client(b"the bytes of stream %d" % number).exchange().close().items
            for number in (1, 2)
        )
        assert second[0].time_ns < first[-1].time_ns
        assert by_stream(read(capture([*first, *second]))) == {1: first, 2: second}

    def test_several_captures_one_after_another(self) -> None:
        one, two = (capture(Transcript(number, tls=tls()).exchange().close().items) for number in (1, 2))
        expected = [
            *Transcript(1, tls=tls()).exchange().close().items,
            *Transcript(2, tls=tls()).exchange().close().items,
        ]
        assert read(one + two) == expected

    def test_a_reader_has_ledgers_and_no_notes(self) -> None:
        reader = read_streams(io.BytesIO(capture(Transcript(tls=tls()).exchange().close().items)))
        assert len(list(reader)) == 5
        assert list(reader.notes) == []
        assert list(reader.ledgers) == []

    def test_comments_of_others_do_no_harm(self) -> None:
        stream = Transcript(process=Process(1, "x", None, "pid=2 side=server lost=5 reason=none"))
        assert read(capture(stream.exchange().close().items)) == stream.items


def by_stream(items: Iterable[StreamItem]) -> dict[int, list[StreamItem]]:
    """The items of each stream, whose order among each other is free."""
    grouped: dict[int, list[StreamItem]] = {}
    for item in items:
        grouped.setdefault(item.stream, []).append(item)
    return grouped


def bytes_of(items: Iterable[StreamItem], sender: Side) -> bytes:
    """What a side sent, with a hole shown as its size in brackets."""
    return b"".join(
        item.data if isinstance(item, Data) else b"[%d]" % item.length
        for item in items
        if isinstance(item, Data | Gap) and item.sender is sender
    )


def items_of(packets: list[Any], **file: Any) -> list[StreamItem]:
    """The items of a foreign capture."""
    return read(pcap(frames(packets), **file))


class TestOtherPeoplesTcp:
    """Each byte once, in order, and holes of exact length."""

    def conversation(self) -> tuple[Tcp, list[Any]]:
        tcp = Tcp()
        return tcp, tcp.handshake()

    def test_a_plain_conversation(self) -> None:
        tcp, packets = self.conversation()
        packets += [
            tcp.client(REQUEST),
            tcp.server(flags=ACK),
            tcp.server(response()),
            tcp.client(flags=ACK),
            *tcp.finish(),
        ]
        opened, *rest = items_of(packets)
        assert isinstance(opened, StreamOpened)
        assert (opened.client, opened.server) == (
            Endpoint(b"\xc0\x00\x02\x01", 50123),
            Endpoint(b"\xc0\x00\x02\x50", 80),
        )
        assert opened.handshake_seen
        assert opened.process is None
        assert opened.established_ns - opened.time_ns == 2_000_000
        assert [type(item) for item in rest] == [Data, Data, StreamClosed, StreamClosed]
        assert bytes_of(rest, CLIENT) == REQUEST
        assert bytes_of(rest, SERVER) == response()
        assert rest[1].time_ns - rest[0].time_ns == 2_000_000

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_reordering_and_repetition_change_nothing(self, data: st.DataObject) -> None:
        tcp, packets = self.conversation()
        sent = data.draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8))
        window = [tcp.client(piece) for piece in sent]
        repeated = data.draw(st.lists(st.sampled_from(window), max_size=6))
        shuffled = data.draw(st.permutations(window + repeated))
        packets += [*shuffled, tcp.server(b"done"), *tcp.finish()]
        items = items_of(packets)
        assert bytes_of(items, CLIENT) == b"".join(sent)
        assert bytes_of(items, SERVER) == b"done"
        assert [type(item) for item in items[-2:]] == [StreamClosed] * 2

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_any_lost_segments_are_gaps_of_their_length(self, data: st.DataObject) -> None:
        tcp, packets = self.conversation()
        sent = data.draw(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=10))
        kept = data.draw(st.lists(st.booleans(), min_size=len(sent), max_size=len(sent)))
        window = [tcp.client(piece) for piece in sent]
        packets += [packet for packet, keep in zip(window, kept, strict=True) if keep]
        packets += [tcp.server(b"answer"), *tcp.finish()]
        items = merged(items_of(packets))
        total = sum(
            item.length if isinstance(item, Gap) else len(item.data)
            for item in items
            if isinstance(item, Data | Gap) and item.sender is CLIENT
        )
        assert total == sum(map(len, sent))
        position = 0
        whole, known = b"".join(sent), [keep for piece, keep in zip(sent, kept, strict=True) for _ in piece]
        for item in items:
            if isinstance(item, Data) and item.sender is CLIENT:
                assert item.data == whole[position : position + len(item.data)]
                assert all(known[position : position + len(item.data)])
                position += len(item.data)
            elif isinstance(item, Gap):
                assert item.reason == REASON_NOT_IN_CAPTURE
                assert not any(known[position : position + item.length])
                position += item.length
        answer = next(at for at, item in enumerate(items) if isinstance(item, Data) and item.sender is SERVER)
        assert not any(isinstance(item, Data | Gap) for item in items[answer + 1 :])

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 90), st.integers(1, 60)), max_size=12)
    )
    def test_overlapping_segments_and_wrapping_numbers(self, first: int, cuts: list[tuple[int, int]]) -> None:
        text = bytes(range(33, 133))
        tcp = Tcp(client=first)
        packets = tcp.handshake()
        start = tcp.next[0]
        packets += [
            tcp.packet(0, PSH | ACK, text[at : at + size], sequence=start + at)
            for at, size in [*cuts, (0, len(text))]
        ]
        tcp.next[0] += len(text)
        assert bytes_of(items_of([*packets, *tcp.finish()]), CLIENT) == text

    def test_a_response_that_was_captured_before_its_request_comes_after_it(self) -> None:
        tcp, packets = self.conversation()
        request, answer = tcp.client(REQUEST), tcp.server(response())
        items = items_of([*packets, answer, request, *tcp.finish()])
        assert [item.sender for item in items if isinstance(item, Data)] == [CLIENT, SERVER]

    def test_a_lost_request_comes_before_its_response(self) -> None:
        tcp, packets = self.conversation()
        tcp.client(REQUEST)
        items = items_of([*packets, tcp.server(response()), *tcp.finish()])
        assert isinstance(items[1], Gap)
        assert items[1].length == len(REQUEST)
        assert bytes_of(items, SERVER) == response()

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_requests_and_responses_alternate_whatever_was_lost(self, data: st.DataObject) -> None:
        """And whatever came out of order: the order is that of what each side had read when it wrote."""
        tcp, handshake = self.conversation()
        packets: list[Any] = []
        rounds = data.draw(st.integers(1, 6))
        for _ in range(rounds):
            packets += [tcp.client(b"c" * 10), tcp.server(flags=ACK)]
            packets += [tcp.server(b"s" * 5), tcp.server(b"s" * 5), tcp.client(flags=ACK)]
        packets += [tcp.client(b"last")]
        kept = data.draw(st.lists(st.integers(0, 9), min_size=len(packets), max_size=len(packets)))
        late = data.draw(st.lists(st.integers(0, 4), min_size=len(packets), max_size=len(packets)))
        order = sorted(range(len(packets)), key=lambda at: at + late[at])
        position = [0, 0]
        for item in items_of([*handshake, *(packets[at] for at in order if kept[at])]):
            if isinstance(item, Data | Gap):
                before = position[item.sender]
                position[item.sender] += item.length if isinstance(item, Gap) else len(item.data)
                if isinstance(item, Data) and item.sender is SERVER:
                    assert position[CLIENT] >= (before // 10 + 1) * 10
                elif isinstance(item, Data):
                    assert position[SERVER] >= before // 10 * 10

    def test_a_lost_request_does_not_gather_the_requests_after_it(self) -> None:
        """They came within the time that is waited for it: the responses to it and to them are told apart."""
        tcp, packets = self.conversation()
        tcp.client(REQUEST)
        for number in range(3):
            packets += [tcp.server(b"response %d" % number), tcp.client(b"request %d" % number)]
        items = items_of([*packets, *tcp.finish()])
        assert [(type(item), item.sender) for item in items if isinstance(item, Data | Gap)] == [
            (Gap, CLIENT),
            *[(Data, SERVER), (Data, CLIENT)] * 3,
        ]

    def test_what_is_skipped_may_be_what_kept_back_the_segment_that_skips_it(self) -> None:
        """Segments without ACK, whose acknowledgement counts for nothing: fuzzing found that an export failed of it."""
        tcp = Tcp()
        packets = [tcp.packet(1, 0, b"a", sequence=7000 - 3), tcp.packet(0, 0, sequence=1000 - 3)]
        packets += [tcp.packet(0, ACK, sequence=1000 - 3, ack=7001)]
        packets += [
            tcp.packet(1, ACK, b"b", sequence=7001, ack=1000),
            tcp.packet(0, 0, b"c", 1000 - 3, ack=7002),
        ]
        items = items_of(packets)
        assert bytes_of(items, SERVER) == b"a[3]b"
        assert bytes_of(items, CLIENT) == b"c[2]"

    def test_a_syn_that_comes_late_is_of_the_connection_that_it_begins(self) -> None:
        tcp, (syn, answer, third) = self.conversation()
        packets = [answer, third, tcp.client(REQUEST), syn, tcp.server(response()), *tcp.finish()]
        items = items_of(packets)
        assert [item.stream for item in items if isinstance(item, StreamOpened)] == [1]
        assert bytes_of(items, CLIENT) == REQUEST
        assert bytes_of(items, SERVER) == response()

    def test_segments_that_were_cut_by_a_snap_length(self) -> None:
        tcp, packets = self.conversation()
        packets += [tcp.client(b"x" * 100), tcp.client(b"y" * 10), tcp.server(b"z" * 5), *tcp.finish()]
        reader = read_streams(io.BytesIO(pcap(frames(packets), snaplen=14 + 20 + 20 + 20)))
        items = list(reader)
        assert bytes_of(items, CLIENT) == b"x" * 20 + b"[80]" + b"y" * 10
        assert any(note.startswith("1 packets were cut") and "80 bytes" in note for note in reader.notes)
        assert [item.reason for item in items if isinstance(item, Gap)] == [REASON_CUT]

    @pytest.mark.parametrize("late_s", [0, 20])
    def test_files_joined_in_the_wrong_order_are_said_to_be(self, late_s: int) -> None:
        tcp, packets = self.conversation()
        packets += [tcp.client(REQUEST), tcp.server(response()), *tcp.finish()]
        data = bytearray(pcap(frames([packets[5], packets[6], packets[7], *packets[:5]])))
        first, at = struct.unpack_from("<I", data, 24)[0], 24
        for _ in range(3):
            struct.pack_into("<I", data, at, first + late_s)
            at += 16 + struct.unpack_from("<I", data, at + 8)[0]
        reader = read_streams(io.BytesIO(bytes(data)))
        list(reader)
        assert any("reordercap" in note for note in reader.notes) is bool(late_s)

    @pytest.mark.parametrize("ledger", [{"connections": 2}, None])
    def test_a_recordings_own_connections_that_say_nothing_for_a_while_are_no_disorder(
        self, ledger: dict[str, object] | None
    ) -> None:
        """What is known of one is written when it has something to say, with the times of before."""
        idle = Transcript(1).exchange()
        busy = Transcript(2, port=8443).exchange()
        late = [replace(item, time_ns=item.time_ns + 20_000_000_000) for item in busy.items]
        pieces: list[bytes] = []
        exporter = PcapngExporter(pieces.append, METADATA)
        for items in (late, idle.items):
            for item in items:
                exporter.write(item)
            exporter.flush()
        exporter.finish(ledger=ledger)
        reader = read_streams(io.BytesIO(b"".join(pieces)))
        list(reader)
        assert bool(reader.notes) is (ledger is None)

    def test_keep_alive_and_zero_window_probes_add_nothing(self) -> None:
        tcp, packets = self.conversation()
        packets += [tcp.client(b"abc")]
        at = tcp.next[0]
        packets += [tcp.packet(0, ACK, b"", sequence=at - 1), tcp.packet(0, ACK, b"c", sequence=at - 1)]
        packets += [
            tcp.packet(1, ACK, window=0),
            tcp.packet(0, ACK, b"d", sequence=at),
            tcp.packet(1, ACK, window=0),
        ]
        packets += [tcp.client(b"def"), *tcp.finish()]
        assert bytes_of(items_of(packets), CLIENT) == b"abcdef"

    def test_syn_that_is_repeated_and_data_in_a_syn(self) -> None:
        tcp = Tcp()
        first = tcp.packet(0, SYN, b"early")
        packets = [first, first, tcp.packet(1, SYN | ACK), tcp.client(b" late"), *tcp.finish()]
        opened, *rest = items_of(packets)
        assert isinstance(opened, StreamOpened)
        assert bytes_of(rest, CLIENT) == b"early late"

    @pytest.mark.parametrize("second", [900_000, 2_500_000_000])
    @pytest.mark.parametrize("both", [False, True], ids=["server", "both"])
    def test_a_port_is_used_again_in_a_capture_without_syn(self, both: bool, second: int) -> None:
        """As where one direction alone is captured: its client's FIN is missing, too."""
        packets = []
        for number in (1, 2):
            tcp = Tcp(client=1000 * number, server=second if number == 2 else 7000)
            _, answer, _ = tcp.handshake()
            asked, answered = tcp.client(b"ask %d" % number), tcp.server(b"answer %d" % number)
            packets += [answer, asked, answered] if both else [answer, answered, tcp.server(flags=FIN | ACK)]
        items = items_of(packets)
        assert [item.stream for item in items if isinstance(item, StreamOpened)] == [1, 2]
        of_second = [item for item in items if item.stream == 2]
        assert bytes_of(of_second, SERVER) == b"answer 2"
        assert bytes_of(of_second, CLIENT) == (b"ask 2" if both else b"[5]")

    @pytest.mark.parametrize("half_closed", [False, True])
    def test_a_connection_whose_end_is_not_captured_is_over_when_its_ports_are_used_again(
        self, half_closed: bool
    ) -> None:
        packets = []
        for number in (1, 2, 3):
            tcp = Tcp(client=1000 * number)
            packets += [*tcp.handshake(), tcp.client(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)]
            packets += [tcp.server(b"HTTP/1.1 200 OK\r\n\r\npart")]
            packets += [tcp.client(flags=FIN | ACK)] if half_closed else []
        reader = ExchangeReader()
        found = [exchange for item in items_of(packets) for exchange in reader.feed(item)]
        outcomes = [exchange.outcome for exchange in found]
        assert outcomes == [Outcome.CLOSED, Outcome.CLOSED]
        assert all(not exchange.response.body.complete for exchange in found if exchange.response)
        assert [exchange.ended_ns - exchange.started_ns for exchange in found] == [
            1_000_000 * (1 + half_closed)
        ] * 2
        assert len(reader.close()) == 1

    @pytest.mark.parametrize("close", ["fin", "rst", "nothing"])
    def test_a_port_that_is_used_again_is_a_new_stream(self, close: str) -> None:
        packets = []
        for number in (1, 2):
            tcp = Tcp(client=1000 * number)
            packets += [*tcp.handshake(), tcp.client(b"stream %d" % number)]
            packets += {
                "fin": tcp.finish,
                "rst": lambda tcp=tcp: [tcp.server(flags=RST | ACK)],
                "nothing": list,
            }[close]()
        items = items_of(packets)
        assert [item.stream for item in items if isinstance(item, StreamOpened)] == [1, 2]
        assert bytes_of([item for item in items if item.stream == 2], CLIENT) == b"stream 2"

    def test_late_repetitions_of_a_closed_connection_are_no_stream(self) -> None:
        tcp, packets = self.conversation()
        packets += [tcp.client(b"data"), *tcp.finish(), packets[0]]
        late = packets[3]
        reader = read_streams(io.BytesIO(pcap(frames([*packets[:-1], late, late]))))
        assert len([item for item in reader if isinstance(item, StreamOpened)]) == 1
        assert any("belong to no connection" in note for note in reader.notes)

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_connection_that_two_captures_have_is_one_stream_in_the_file_that_they_are_merged_to(
        self, reset: bool
    ) -> None:
        tcp = Tcp()
        packets = [*tcp.handshake(), tcp.client(b"data"), tcp.server(b"answer")]
        packets += [tcp.client(flags=RST | ACK)] if reset else tcp.finish()
        reader = read_streams(io.BytesIO(pcap(frames([*packets, *packets]))))
        items = list(reader)
        assert len([item for item in items if isinstance(item, StreamOpened)]) == 1
        assert bytes_of(items, CLIENT) == b"data"
        assert bytes_of(items, SERVER) == b"answer"
        assert any("belong to no connection" in note for note in reader.notes)

    @pytest.mark.parametrize("old", [(5, 9), (101_000, 7500), (2**31, 2**30)])
    @pytest.mark.parametrize("flags", [ACK, FIN | ACK, RST | ACK])
    def test_a_syn_that_is_sent_again_after_a_reset_opens_the_connection(
        self, flags: int, old: tuple[int, int]
    ) -> None:
        tcp = Tcp()
        # RFC 5961 §4: the server still knows the connection before, or (Windows asks again) it had refused this one.
        before = [tcp.packet(0, SYN), tcp.packet(1, flags, sequence=old[1], ack=old[0])]
        before += [tcp.packet(0, RST, sequence=old[0])] if not flags & RST else []
        tcp = Tcp()
        items = items_of(
            [*before, *tcp.handshake(), tcp.client(b"data"), tcp.server(b"answer"), *tcp.finish()]
        )
        stream = max(item.stream for item in items)
        assert bytes_of([item for item in items if item.stream == stream], CLIENT) == b"data"
        assert bytes_of([item for item in items if item.stream == stream], SERVER) == b"answer"
        assert not [item for item in items if isinstance(item, Gap)]

    def test_a_reset_ends_both_directions_and_what_it_acknowledges_was_sent(self) -> None:
        tcp, packets = self.conversation()
        packets += [tcp.client(b"data")]
        tcp.client(b"not captured")
        items = items_of([*packets, tcp.server(flags=RST | ACK)])
        assert bytes_of(items, CLIENT) == b"data[12]"
        assert isinstance(items[-1], StreamClosed)
        assert items[-1].reset
        assert items[-1].sender is SERVER

    def test_a_refused_connection_is_no_stream(self) -> None:
        tcp = Tcp()
        assert items_of([tcp.packet(0, SYN), tcp.packet(1, RST | ACK)]) == []

    @pytest.mark.parametrize(
        ("first", "payload", "ports", "client_port"),
        [
            (0, b"anything", (50123, 80), 50123),
            (1, b"anything", (50123, 80), 50123),
            (0, b"GET / HTTP/1.1\r\n", (80, 50123), 80),
            (1, b"HTTP/1.1 200 OK\r\n", (80, 50123), 80),
            (1, b"anything", (50123, 8080), 50123),
            (0, b"anything", (33000, 50123), 50123),
        ],
    )
    def test_the_client_of_a_connection_without_a_syn(
        self, first: int, payload: bytes, ports: tuple[int, int], client_port: int
    ) -> None:
        tcp = Tcp(client_port=ports[0], server_port=ports[1])
        opened, data = items_of([tcp.packet(first, PSH | ACK, payload)])
        assert isinstance(opened, StreamOpened)
        assert not opened.handshake_seen
        assert opened.client.port == client_port
        assert opened.time_ns == opened.established_ns == data.time_ns

    def test_a_syn_ack_tells_the_server_where_the_syn_is_missing(self) -> None:
        tcp = Tcp(client_port=80, server_port=50000)
        packets = [*tcp.handshake()[1:], tcp.client(b"x"), *tcp.finish()]
        opened = items_of(packets)[0]
        assert isinstance(opened, StreamOpened)
        assert opened.client.port == 80
        assert not opened.handshake_seen

    def test_one_direction_alone(self) -> None:
        tcp, packets = self.conversation()
        pieces = [tcp.server(b"%03d" % number) for number in range(100)]
        del pieces[50]
        only = [packets[1], *pieces, tcp.server(flags=FIN | ACK)]
        assert bytes_of(items_of(only), SERVER) == b"".join(
            b"%03d" % n if n != 50 else b"[3]" for n in range(100)
        )

    def test_what_piles_up_behind_a_hole_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tcp_halves, "MAX_EARLY_BYTES", 1000)
        tcp, packets = self.conversation()
        tcp.server(b"lost")
        pieces = [tcp.packet(1, PSH | ACK, bytes(100)) for _ in range(20)]
        reader = read_streams(io.BytesIO(pcap(frames([*packets, *pieces]))))
        kinds = [type(item) for item in reader]
        assert kinds[1] is Gap
        assert kinds.count(Data) == 20

    def test_open_connections_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tcp_reassembly, "MAX_CONNECTIONS", 3)
        packets = []
        for port in range(50_000, 50_010):
            tcp = Tcp(client_port=port)
            packets += [*tcp.handshake(), tcp.client(b"x")]
        items = items_of(packets)
        assert len([item for item in items if isinstance(item, Data)]) == 10

    def test_sequence_numbers_from_nowhere_are_left_out_and_counted(self) -> None:
        tcp, packets = self.conversation()
        packets += [
            tcp.client(b"ok"),
            tcp.packet(0, PSH | ACK, b"wild", sequence=tcp.next[0] + 2**31 - 5),
            *tcp.finish(),
        ]
        reader = read_streams(io.BytesIO(pcap(frames(packets))))
        assert bytes_of(list(reader), CLIENT) == b"ok"
        assert any("1 TCP segments" in note for note in reader.notes)

    @pytest.mark.parametrize("order", ["efx", "exf", "fex", "xef"])
    @pytest.mark.parametrize("flags", [ACK, PSH | ACK])
    def test_what_comes_behind_an_end_is_left_out_and_counted(self, order: str, flags: int) -> None:
        tcp, packets = self.conversation()
        sent = {"e": tcp.client(b"ok"), "f": tcp.client(flags=FIN | ACK)}
        sent["x"] = tcp.packet(0, flags, b"more", sequence=tcp.next[0])
        packets += [*map(sent.get, order), tcp.server(flags=FIN | ACK), tcp.client(flags=ACK)]
        reader = read_streams(io.BytesIO(pcap(frames(packets))))
        assert bytes_of(list(reader), CLIENT) == b"ok"
        assert any("1 TCP segments" in note for note in reader.notes)


def test_processes_of_a_darwin_capture_are_kept() -> None:
    """tcpdump on macOS writes process blocks and no comments of ours."""
    data = bytearray(capture(Transcript(process=CURL, side=SERVER).exchange().close().items))
    option = data.index(b"pid=4242") - 4
    assert data[option : option + 2] == b"\x01\x00"
    data[option : option + 2] = b"\x99\x59"  # a code that nobody knows
    opened = read(bytes(data))[0]
    assert isinstance(opened, StreamOpened)
    assert opened.process == Process(CURL.pid, CURL.comm)
    assert opened.side is SERVER
