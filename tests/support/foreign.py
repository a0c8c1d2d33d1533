"""Other people's captures: TCP segments that scapy builds, in any order, inside any link type, as pcap."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

CLIENT, SERVER = ("192.0.2.1", 50123), ("192.0.2.80", 80)
STEP_US = 1000
SYN, ACK, PSH, FIN, RST = 0x02, 0x10, 0x08, 0x01, 0x04


class Tcp:
    """A TCP connection's packets, each of which may be left out, repeated or moved by the test.

    ``client`` and ``server`` return the packet, of which the sequence numbers go on.
    """

    def __init__(self, client: int = 1000, server: int = 7000, **ports: int) -> None:
        self.next = [client, server]
        self.ports = (ports.get("client_port", CLIENT[1]), ports.get("server_port", SERVER[1]))

    def packet(
        self, side: int, flags: int, data: bytes = b"", sequence: int | None = None, **fields: Any
    ) -> Any:
        """A packet from side 0 (client) or 1; ``fields`` are TCP's in scapy."""
        hosts = (CLIENT[0], SERVER[0])
        tcp = TCP(
            sport=self.ports[side],
            dport=self.ports[1 - side],
            seq=(self.next[side] if sequence is None else sequence) & 0xFFFFFFFF,
            ack=fields.pop("ack", self.next[1 - side] & 0xFFFFFFFF if flags & ACK else 0),
            flags=flags,
            **fields,
        )
        if sequence is None:
            self.next[side] += len(data) + bool(flags & (SYN | FIN))
        return IP(src=hosts[side], dst=hosts[1 - side]) / tcp / data

    def handshake(self) -> list[Any]:
        """SYN, SYN-ACK, ACK."""
        return [self.packet(0, SYN), self.packet(1, SYN | ACK), self.packet(0, ACK)]

    def client(self, data: bytes = b"", flags: int = PSH | ACK) -> Any:
        """The client's next packet."""
        return self.packet(0, flags, data)

    def server(self, data: bytes = b"", flags: int = PSH | ACK) -> Any:
        """The server's next packet."""
        return self.packet(1, flags, data)

    def finish(self) -> list[Any]:
        """FIN from both, and the last ACK."""
        return [self.client(flags=FIN | ACK), self.server(flags=FIN | ACK), self.client(flags=ACK)]


def frames(packets: list[Any]) -> list[bytes]:
    """The packets inside Ethernet."""
    return [bytes(Ether(src="02:42:00:00:00:01", dst="02:42:00:00:00:02") / packet) for packet in packets]


def pcap(
    data: list[bytes], link_type: int = 1, snaplen: int = 262_144, order: str = "<", magic: int = 0xA1B2C3D4
) -> bytes:
    """A pcap file of these frames, a millisecond apart."""
    pieces = [struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, snaplen, link_type)]
    for index, frame in enumerate(data):
        fraction = index * STEP_US * (1 if magic == 0xA1B2C3D4 else 1000)
        cut = frame[:snaplen]
        pieces.append(struct.pack(order + "IIII", 1_700_000_000, fraction, len(cut), len(frame)) + cut)
    return b"".join(pieces)
