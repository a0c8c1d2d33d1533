"""How the plaintext of a TLS session is shown: decided by what tools make of it on the server's port."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Framing(Enum):
    """Inside a NULL-cipher record layer, for Wireshark; or bare, for tools that know no such cipher."""

    TLS = "tls"
    PLAIN = "plain"


_FOR_HEURISTICS: Final = "another protocol, which leaves HTTP to the heuristics"

DISSECTED_BY_PORT: Final[Mapping[int, str]] = {
    21: "FTP",
    25: "SMTP",
    80: "HTTP",
    110: "POP",
    119: "NNTP",
    143: "IMAP",
    389: "LDAP",
    554: "RTSP",
    587: "SMTP",
    631: "IPP",
    1099: "RMI",
    1344: "ICAP, " + _FOR_HEURISTICS,
    1433: "TDS",
    1521: "TNS",
    1883: "MQTT",
    1900: "HTTP",
    2433: "TDS",
    2575: "HL7",
    2710: "HTTP",
    2869: "HTTP",
    3002: _FOR_HEURISTICS,
    3003: _FOR_HEURISTICS,
    3006: _FOR_HEURISTICS,
    3128: "HTTP",
    3132: "HTTP",
    3268: "LDAP",
    3306: "MySQL",
    3386: _FOR_HEURISTICS,
    3689: "DAAP",
    3868: "Diameter",
    4222: _FOR_HEURISTICS,
    4249: _FOR_HEURISTICS,
    4250: _FOR_HEURISTICS,
    4730: "Gearman",
    5000: _FOR_HEURISTICS,
    5060: "SIP",
    5094: _FOR_HEURISTICS,
    5222: "XMPP",
    5432: "PostgreSQL",
    5445: "Artemis",
    5672: "AMQP",
    5701: "Hazelcast",
    5985: "HTTP",
    6379: "Redis",
    6653: "OpenFlow",
    6667: "IRC",
    7236: "RTSP",
    8080: "HTTP",
    8088: "HTTP",
    8554: "RTSP",
    9042: "CQL",
    9092: "Kafka",
    9300: "Elasticsearch",
    11211: "memcached",
    11371: "HTTP",
}
"""Ports where Wireshark dissects by number and looks for no TLS (measured with 4.0 on every port it knows),
or knows no way from TLS to the protocol: a stream that is TLS from its beginning goes bare there. So does one whose
cleartext before TLS (STARTTLS) was not recorded, for it was long or before the recording. On the other ports that
Wireshark claims by number (X11's, for instance, or SOCKS' where nothing was said before TLS) neither way shows HTTP."""

PLAIN_PORTS: Final[Mapping[int, int]] = {443: 80, 8443: 80}
"""With plain framing: TLS ports, on which tools expect no cleartext, and what is written instead."""


def goes_bare(framing: Framing, server_port: int) -> bool:
    """Whether a stream that is TLS from its beginning is written without a record layer."""
    return framing is Framing.PLAIN or server_port in DISSECTED_BY_PORT


def shown_port(framing: Framing, server_port: int) -> int:
    """The port under which the plaintext of a TLS stream is written."""
    return PLAIN_PORTS.get(server_port, server_port) if framing is Framing.PLAIN else server_port
