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


DISSECTED_BY_PORT: Final[Mapping[int, str]] = {
    80: "HTTP",
    389: "LDAP",
    631: "IPP",
    1433: "TDS",
    1521: "TNS",
    1883: "MQTT",
    1900: "HTTP",
    2710: "HTTP",
    2869: "HTTP",
    3128: "HTTP",
    3132: "HTTP",
    3268: "LDAP",
    3306: "MySQL",
    3689: "DAAP",
    5000: "GSM over IP, which leaves HTTP to the heuristics",
    5222: "XMPP",
    5432: "PostgreSQL",
    5672: "AMQP",
    5985: "HTTP",
    6379: "Redis",
    6667: "IRC",
    8080: "HTTP",
    8088: "HTTP",
    9042: "CQL",
    9092: "Kafka",
    9300: "Elasticsearch",
    11211: "memcached",
    11371: "HTTP",
    27017: "MongoDB",
}
"""Ports where Wireshark dissects by number and looks for no TLS (measured with 4.0 on every port it knows),
or knows no way from TLS to the protocol: a stream that is TLS from its beginning goes bare there. On the
other ports that Wireshark claims by number (X11's, for instance) neither way shows HTTP."""

PLAIN_PORTS: Final[Mapping[int, int]] = {443: 80, 8443: 80}
"""With plain framing: TLS ports, on which tools expect no cleartext, and what is written instead."""


def goes_bare(framing: Framing, server_port: int) -> bool:
    """Whether a stream that is TLS from its beginning is written without a record layer."""
    return framing is Framing.PLAIN or server_port in DISSECTED_BY_PORT


def shown_port(framing: Framing, server_port: int) -> int:
    """The port under which the plaintext of a TLS stream is written."""
    return PLAIN_PORTS.get(server_port, server_port) if framing is Framing.PLAIN else server_port
