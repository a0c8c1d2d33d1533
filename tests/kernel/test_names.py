"""Host names: what a process was told by its resolver, in the capture and in the archive's ``dns`` times."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from compiled import compile_library
from recording import entries, path_of, plaintap

from exporters.reassembly import read_streams

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.kernel

NAMES = Path(__file__).parents[1] / "support" / "names"
PORT = 8080
DELAY_MS = 150
HOST = "slow.test"
MODES = ("getaddrinfo", "getaddrinfo_a", "gethostbyname", "gethostbyname2", "cancelled")
PYTHON_CLIENT = """
import http.client, socket, sys, threading, time
def look_up():
    return socket.getaddrinfo("{host}", {port}, 0, socket.SOCK_STREAM)[0][4]
began = time.time_ns()
found = []
thread = threading.Thread(target=lambda: found.append(look_up()))
thread.start(); thread.join()
print(began, time.time_ns())
for n in range(2):
    c = http.client.HTTPConnection(found[0][0], {port})
    c.request("GET", f"/thread/{{n}}"); c.getresponse().read()
    c.request("GET", f"/thread/{{n}}/again"); c.getresponse().read()
"""


MUSL_MODES = tuple(mode for mode in MODES if mode != "getaddrinfo_a")
NODE_CLIENT = """
const began = performance.now();
require("http").get("http://{host}:{port}/node", answer => answer.resume()).on("socket", socket =>
    socket.on("lookup", () => console.log(performance.now() - began)));
"""


def in_town(folder: Path, host: str, commands: Sequence[str]) -> tuple[Path, list[str]]:
    """The capture of ``commands`` in a network with a slow name server, and what they printed."""
    capture = folder / "names.pcapng"
    town = ["unshare", "--net", "--mount", sys.executable, NAMES / "town.py", folder, DELAY_MS, host]
    done = plaintap("record", "-w", capture, "--", *town, *commands)
    assert done.returncode == 0, done.stderr
    return capture, done.stdout.splitlines()


def timings(found: list[dict[str, Any]], path: str) -> dict[str, float]:
    """The phases of the only request for ``path``; they add up to its time."""
    (entry,) = [entry for entry in found if path_of(entry) == path]
    phases: dict[str, float] = entry["timings"]
    parts = [phases[name] for name in ("blocked", "dns", "connect", "send", "wait", "receive")]
    assert sum(part for part in parts if part > 0) == pytest.approx(entry["time"], abs=0.01)
    return phases


def test_the_time_of_a_look_up_is_that_of_the_connection_behind_it(tmp_path: Path) -> None:
    program = compile_library(tmp_path, (NAMES / "lookups.c").read_text(), name="lookups", linkage=())
    client = tmp_path / "client.py"
    client.write_text(PYTHON_CLIENT.format(host=HOST, port=PORT))
    commands = [f"{program} {mode} {{host}} {{port}}" for mode in MODES]
    capture, printed = in_town(tmp_path, HOST, [*commands, f"{sys.executable} {client}"])
    found = entries(capture)
    for mode, line in zip((*MODES, "thread"), printed, strict=True):
        began, ended = map(int, line.split())
        told = timings(found, f"/{mode}/0")
        # Between its own two looks at the clock; and it has waited for the name server.
        assert DELAY_MS <= told["dns"] <= (ended - began) / 1e6, mode
        assert told["connect"] >= 0
        assert timings(found, f"/{mode}/1")["dns"] == -1, "it had the address already"
    assert timings(found, "/thread/0/again")["dns"] == -1
    shown = subprocess.run(
        ["tshark", "-r", capture, "-N", "n", "-Y", "http.request", "-T", "fields", "-e", "ip.dst_host"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert set(shown) == {HOST}
    comments = subprocess.run(
        ["tshark", "-r", capture, "-Y", "tcp.flags.syn == 1", "-T", "fields", "-e", "frame.comment"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert comments.count(f"name={HOST}") == 2 * len(MODES) + 2
    assert comments.count("dns_started=") == len(MODES) + 1


@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="MUSL IS NOT INSTALLED")
@pytest.mark.parametrize("linkage", ["-pie", "-static"])
def test_musl(linkage: str, tmp_path: Path) -> None:
    program = tmp_path / "lookups"
    subprocess.run(["musl-gcc", "-O2", linkage, "-o", program, NAMES / "lookups.c"], check=True)
    capture, printed = in_town(tmp_path, HOST, [f"{program} {mode} {{host}} {{port}}" for mode in MUSL_MODES])
    found = entries(capture)
    for mode, line in zip(MUSL_MODES, printed, strict=True):
        began, ended = map(int, line.split())
        assert DELAY_MS <= timings(found, f"/{mode}/0")["dns"] <= (ended - began) / 1e6, mode
        assert timings(found, f"/{mode}/1")["dns"] == -1


def test_curl_and_node_measure_the_same(tmp_path: Path) -> None:
    client = tmp_path / "client.js"
    client.write_text(NODE_CLIENT.format(host=HOST, port=PORT))
    curl = "curl -s -o /dev/null -w %%{time_namelookup} http://{host}:{port}/curl".replace("%%{", "%{{")
    capture, printed = in_town(tmp_path, HOST, [curl.replace("lookup}", "lookup}}"), f"node {client}"])
    found = entries(capture)
    for path, measured_ms in (("/curl", float(printed[0]) * 1000), ("/node", float(printed[1]))):
        assert DELAY_MS <= timings(found, path)["dns"] <= measured_ms + 0.01, path
    assert {entry["request"]["url"] for entry in found} == {
        f"http://{HOST}:{PORT}/{x}" for x in ("curl", "node")
    }


def test_more_addresses_than_there_is_room_for(tmp_path: Path) -> None:
    program = compile_library(tmp_path, (NAMES / "lookups.c").read_text(), name="lookups", linkage=())
    capture, printed = in_town(tmp_path, "many.test", [f"{program} getaddrinfo {{host}} {{port}}"])
    began, ended = map(int, printed[0].split())
    assert DELAY_MS <= timings(entries(capture), "/getaddrinfo/0")["dns"] <= (ended - began) / 1e6
    ledger = read_streams(capture)
    assert list(ledger)
    # Room for 32 of 40, each an entry for every type of socket or one alone.
    assert ledger.ledgers[0]["unlisted_addresses"] == 8


def test_a_program_without_a_look_up_has_none(tmp_path: Path) -> None:
    command = "curl -s -o /dev/null http://127.0.0.1:{port}/a"
    capture, _ = in_town(tmp_path, HOST, [command])
    assert timings(entries(capture), "/a")["dns"] == -1
