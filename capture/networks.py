"""Networks of hosts as users write them (RFC 4632 §3.1, RFC 4291 §2.3), IPv4's as those of mapped addresses.

Knows neither connections nor the kernel. An address of IPv4 is ::ffff:a.b.c.d (RFC 4291 §2.5.5.2), as it is on a socket
of both versions; a network of IPv6 has none of these unless it is one of them.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from capture.errors import UsageError

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def mapped(address: bytes) -> IPv6Address:
    """An address of 4 or 16 bytes."""
    return IPv6Address(address.rjust(6, b"\xff").rjust(16, b"\0") if len(address) == 4 else address)


def is_network(host: str) -> bool:
    """Whether that is meant by a host: no name has a slash."""
    return "/" in host


def networks(text: str) -> tuple[IPv6Network, ...]:
    """The networks that are an ADDRESS/BITS, several where one would hold all of IPv4.

    Raises UsageError: it is none, or its address has bits that are not the network's.
    """
    address, _, bits = text.partition("/")
    # In brackets, an address was copied from a URL.
    address = address.removeprefix("[").removesuffix("]")
    try:
        if not (bits.isascii() and bits.isdecimal()):
            raise ValueError(bits)
        network = ip_network(f"{address}/{bits}", strict=False)
    except ValueError:
        raise UsageError(
            f"{text!r} is no network: give an address and how many of its bits count, such as 10.0.0.0/8 or "
            "2001:db8::/32."
        ) from None
    if network.network_address != ip_address(address):
        raise UsageError(f"{text!r} has bits that are not of the network: is {str(network)!r} meant?")
    if network.version == 4:
        return (IPv6Network((mapped(network.network_address.packed), 96 + network.prefixlen)),)
    if network != _MAPPED and _MAPPED.subnet_of(network):
        return tuple(sorted(network.address_exclude(_MAPPED)))
    return (network,)
