"""tshark, with nobody's preferences, and scapy as judges of our captures."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TSHARK_SECONDS = 180
# tshark's default is not to look at checksums, because network cards compute them.
CHECK_CHECKSUMS = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
# Those that Wireshark looks for on ports of 32,768 to 60,999, which Linux gives to clients, and to servers that ask for
# none. It takes what goes over such a port for theirs, also in what tcpdump has recorded.
EPHEMERAL_PROTOCOLS = ("ams", "cbsp", "ecatf", "enip", "irc", "pcp", "pmproxy")
_WITHOUT_THEM = tuple(
    argument for protocol in EPHEMERAL_PROTOCOLS for argument in ("--disable-protocol", protocol)
)


def tshark(capture: Path, *arguments: str) -> str:
    """What ``tshark -r capture arguments`` prints, with an empty home folder, and without what dissects by chance."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            ["tshark", "-n", *_WITHOUT_THEM, "-r", str(capture), *arguments],
            capture_output=True,
            text=True,
            timeout=TSHARK_SECONDS,
            check=False,
            env=environment,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(capture: Path, display_filter: str, *fields: str) -> list[tuple[str, ...]]:
    """The fields of every packet that the display filter lets through; an absent field is empty."""
    chosen = [part for field in fields for part in ("-e", field)]
    separators = ("-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=|")
    printed = tshark(capture, "-Y", display_filter, "-T", "fields", *separators, *chosen)
    return [tuple(line.split("\t")) for line in printed.splitlines()]


def expert_problems(capture: Path, display_filter: str = "") -> list[str]:
    """What Wireshark's expert would show as Warn or Error, checksums included."""
    report = tshark(capture, "-q", *CHECK_CHECKSUMS, "-z", f"expert,warn,{display_filter}".rstrip(","))
    return [line.strip() for line in report.splitlines() if line.strip()]


def requests(capture: Path, ports: Sequence[int] = ()) -> list[str]:
    """The URI of every HTTP request that Wireshark shows, those to the ports if any are given."""
    where = f" && tcp.dstport in {{{','.join(map(str, ports))}}}" if ports else ""
    uris = rows(capture, f"http.request{where}", "http.request.full_uri")
    return [uri for (joined,) in uris for uri in joined.split("|")]


def mismatched_ports(capture: Path) -> list[tuple[str, ...]]:
    """Responses whose packet goes to another port than the server saw, which X-Client-Port tells."""
    found = rows(capture, "http.response", "frame.number", "tcp.dstport", "http.response.line")
    told = re.compile(r"X-Client-Port: (\d+)", re.IGNORECASE)
    return [row for row in found if any(port != row[1] for port in told.findall(row[2]))]


def checksums(packet: Any) -> list[int]:
    """IPv4's, if there is one, and TCP's."""
    return [packet[layer].chksum for layer in (IP, TCP) if layer in packet]


def recomputed_checksums(packet: Any) -> list[int]:
    """The same, as scapy computes them."""
    bare = packet.copy()
    for layer in (IP, TCP):
        if layer in bare:
            del bare[layer].chksum
    return checksums(Ether(bytes(bare)))


def wrong_checksums(capture: Path) -> list[int]:
    """The numbers, from 1, of the packets on whose checksums scapy disagrees; those cut short have none."""
    with PcapNgReader(str(capture)) as reader:
        return [
            number
            for number, packet in enumerate(reader, 1)
            if packet.wirelen == len(packet) and checksums(packet) != recomputed_checksums(packet)
        ]
