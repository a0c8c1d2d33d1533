"""Any capture to stream items: files, packets, TCP, comments and TLS put together.

    capture_files   bytes → packets
    dissection      packets → TCP segments (foreign_packets: the ones that are scapy's)
    tcp_reassembly  segments → each connection's bytes, in order
    conversations   a connection's bytes and comments → stream items

What memory it takes depends on what is open and early, never on the file's length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final

from capture.errors import CaptureFormatError
from exporters.capture_files import CaptureFile
from exporters.conversations import Conversation, Counts
from exporters.dissection import Dissector
from exporters.tcp_reassembly import Opening, TcpReassembler

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from capture.streams import StreamItem


DISORDER_NS: Final = 1_000_000_000
"""Packets are captured together that lie in a file by some milliseconds too late; what is later by this was put
there, by files that were joined in the wrong order."""


class StreamReader:
    """Iterates over a capture's stream items, once. Streams are numbered from 1.

    ``notes`` (sentences for people) and ``ledgers`` (of our own captures, one for each recording in the file)
    are complete after the iteration, also after one that ended in an error.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        """``source`` is a path, ``-`` for stdin, or a binary file, which is left open."""
        self._file = CaptureFile(source)
        self._dissector = Dissector()
        self._counts = Counts()
        self._items: list[StreamItem] = []
        self._tcp = TcpReassembler(self._open)
        self._notes: list[str] = []
        self._late_ns = 0
        self._iterator = self._read()

    @property
    def name(self) -> str:
        """What the source is called in messages."""
        return self._file.name

    @property
    def ledgers(self) -> Sequence[dict[str, object]]:
        """What recordings accounted for, as ``PcapngExporter.finish`` was given it."""
        return self._file.ledgers

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know about the capture: truncation, encryption, what could not be read."""
        return [*self._file.notes, *self._notes]

    def __iter__(self) -> Iterator[StreamItem]:
        return self._iterator

    def __next__(self) -> StreamItem:
        return next(self._iterator)

    def _open(self, opening: Opening) -> Conversation:
        return Conversation(self._counts.streams + 1, opening, self._items, self._counts)

    def _read(self) -> Iterator[StreamItem]:
        items = self._items
        segment_of, feed = self._dissector.segment, self._tcp.feed
        error = None
        latest_ns = 0
        try:
            for packet in self._file:
                if packet.time_ns > latest_ns:
                    latest_ns = packet.time_ns
                elif latest_ns - packet.time_ns > self._late_ns:
                    self._late_ns = latest_ns - packet.time_ns
                segment = segment_of(packet)
                if segment is not None:
                    feed(segment)
                    if items:
                        yield from items
                        items.clear()
        except CaptureFormatError as malformed:
            error = malformed
        self._tcp.finish()
        yield from items
        items.clear()
        self._note()
        if error is not None:
            raise error

    def _note(self) -> None:
        counts = self._counts
        if counts.encrypted_streams:
            self._notes.append(
                f"{counts.encrypted_streams} TLS streams ({counts.encrypted_bytes} bytes) are encrypted and "
                "were not read; record their processes with `plaintap record` to see the plaintext."
            )
            if self._file.has_secrets:
                self._notes.append(
                    f"The keys in {self.name} are not used: plaintap decrypts nothing. Wireshark does, with them."
                )
        if counts.cut_packets:
            self._notes.append(
                f"{counts.cut_packets} packets were cut short when they were captured: {counts.cut_bytes} bytes are "
                "missing. Capture whole packets, with `tcpdump -s 0` or `dumpcap -s 0`."
            )
        if self._dissector.undecodable:
            self._notes.append(f"{self._dissector.undecodable} packets could not be decoded.")
        if self._tcp.ignored_segments:
            self._notes.append(
                f"{self._tcp.ignored_segments} TCP segments belong to no connection and were left out."
            )
        # Recordings of ours write what they know of a connection when it has something to say.
        if self._late_ns > DISORDER_NS and not self.ledgers:
            self._notes.append(
                f"{self.name} is not in order of time: some packets are {self._late_ns / 1e9:.0f} s late. "
                "Where exchanges are missing, sort it with `reordercap`."
            )


def read_streams(source: str | os.PathLike[str] | BinaryIO) -> StreamReader:
    """The stream items of a capture: pcapng or pcap, gzip and zstd unpacked, ``-`` for stdin.

    Iterating raises CaptureFormatError for a file that is no capture or is malformed (after the items of
    what comes before), and OSError for one that cannot be read. A truncated file ends with a note.
    """
    return StreamReader(source)
