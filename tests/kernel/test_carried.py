"""TLS libraries that hand their records to functions of the program, which only keep them: who sends them later, and in
which order, tells nothing of whose they are, but they themselves do.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conformance_runs import SECONDS, streams_by_ports
from processes import running
from recording import record

if TYPE_CHECKING:
    from servers import Servers

pytestmark = pytest.mark.kernel

SOURCE = Path(__file__).parents[1] / "support" / "carried" / "ends.c"
LIBRARIES = {
    "gnutls": ("-DUSE_GNUTLS", "-lgnutls"),
    "gnutls-vectors": ("-DUSE_GNUTLS", "-DVECTORS", "-lgnutls"),
    "mbedtls": ("-DUSE_MBEDTLS", "-lmbedtls", "-lmbedx509", "-lmbedcrypto"),
    "wolfssl": ("-DUSE_WOLFSSL", "-lwolfssl"),
}
CONNECTIONS = 8
# As ends.c has them.
PERIOD, SHIFT = 65521, 4099


@pytest.fixture(scope="module")
def noise() -> bytes:
    """What every message is a part of."""
    found, r = bytearray(), 2463534242
    for _ in range(PERIOD):
        r ^= r << 13 & 0xFFFFFFFF
        r ^= r >> 17
        r ^= r << 5 & 0xFFFFFFFF
        found.append(r >> 24)
    return bytes(found)


def part(noise: bytes, begin: int, length: int) -> bytes:
    """So many bytes of it, which goes on from its beginning."""
    return (noise * (1 + (begin + length) // PERIOD))[begin : begin + length]


@pytest.fixture(scope="module", params=LIBRARIES)
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The program under a name for each end, to be recorded by."""
    folder = tmp_path_factory.mktemp("carried")
    found = {end: folder / f"ends-{end}" for end in ("client", "server")}
    for program in found.values():
        command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE)]
        subprocess.run([*command, *LIBRARIES[request.param], "-lpthread"], check=True)
    return found


@pytest.mark.parametrize("how", ["loop", "turns", "relay"])
@pytest.mark.parametrize("end", ["client", "server"])
def test_records_that_are_carried(
    programs: dict[str, Path], servers: Servers, noise: bytes, tmp_path: Path, end: str, how: str
) -> None:
    key, capture, account = (
        servers.certificate.with_name("key.pem"),
        tmp_path / "c.pcapng",
        tmp_path / "l.json",
    )
    options = ["-c", programs[end].name, "--protocol", "all", "--ledger", account]
    server = [programs["server"], "server", servers.certificate, key, how, CONNECTIONS]
    with record(capture, *options), running(server, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        client = [str(part) for part in (programs["client"], "client", port, how, CONNECTIONS)]
        done = subprocess.run(client, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        process.communicate(timeout=SECONDS)
    said: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    streams = streams_by_ports(capture)
    wrong = {}
    for number, connection in enumerate(said):
        begins = number * 2 * SHIFT % PERIOD, (number * 2 + 1) * SHIFT % PERIOD
        expected = (
            part(noise, begins[0], connection["sent"]),
            part(noise, begins[1], connection["received"]),
        )
        found = [
            (bytes(stream.sent.data), bytes(stream.received.data))
            for stream in streams.get((connection["port"], port), [])
            if stream.sent.data or stream.received.data
        ]
        if found != [expected]:
            wrong[number] = [tuple(map(len, flows)) for flows in found]
    ledger = json.loads(account.read_text())
    moved = sum(connection["sent"] + connection["received"] for connection in said)
    assert (wrong, ledger["tls"]["lost"]) == ({}, {})
    assert ledger["tls"]["captured"] == ledger["tls"]["reported"] == moved
