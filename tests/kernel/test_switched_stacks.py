"""Programs that leave a TLS function in the middle for another stack: coroutines, as of Crystal, D or Boost. A
recording must not kill them, whoever is recorded, and reads them like others.

Each test has a copy of the library of its own: another recording's probes are in everyone's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from compiled import LIBGNUTLS, LIBSSL
from kernel_state import has_probes
from processes import wait_until
from recording import entries, path_of, plaintap, record, response_sha256, settle, warnings

from bpf import system

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servers import Servers

pytestmark = pytest.mark.kernel

SOURCES = Path(__file__).parents[1] / "support/switches"
ROUNDS = 11
COROUTINES = 7


@pytest.fixture(autouse=True)
def asks_about_returns() -> None:
    if system.newest_uprobes() is not system.Uprobes.SESSIONS:
        pytest.skip("this kernel replaces return addresses on any stack")


def compiled(path: Path) -> Path:
    source = SOURCES / f"{path.name}.c"
    warned = ("-Wall", "-Wextra", "-Werror")
    libraries = ("-lssl", "-lcrypto", "-lgnutls", "-lpthread")
    subprocess.run(["gcc", "-O1", *warned, "-o", path, source, "-Wl,--as-needed", *libraries], check=True)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("coroutines") / "coroutines")


def command(program: Path, folder: Path, servers: Servers, threads: int) -> list[str]:
    """It, with a copy of libssl that nobody has looked at."""
    shutil.copy(LIBSSL, folder)
    arguments = [program, servers.https, threads, ROUNDS]
    return ["env", f"LD_LIBRARY_PATH={folder}", *map(str, arguments)]


def said(output: str) -> dict[str, str]:
    return {answer["path"]: answer["sha256"] for answer in map(json.loads, output.splitlines())}


def recorded(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {path_of(entry): response_sha256(entry) for entry in found}


@pytest.mark.parametrize("threads", [0, 1, 3], ids=["main thread", "a thread", "threads that take turns"])
def test_coroutines_are_read_and_live(threads: int, program: Path, servers: Servers, tmp_path: Path) -> None:
    capture, account = tmp_path / "all.pcapng", tmp_path / "ledger.json"
    done = plaintap(
        "record", "-w", capture, "--ledger", account, "--", *command(program, tmp_path, servers, threads)
    )
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    answers = said(done.stdout)
    assert len(answers) == (COROUTINES + (not threads)) * ROUNDS
    found = entries(capture)
    assert len(found) == len(answers)
    assert recorded(found) == answers
    # Each on a connection of its own.
    assert len(
        {(entry["connection"], path_of(entry).rpartition("?")[2].split(".")[0]) for entry in found}
    ) == (COROUTINES + (not threads))
    ledger = json.loads(account.read_text())
    assert ledger["unseen_returns"] == 0
    assert ledger["tls"]["lost"] == {}


def run(asked: Sequence[str]) -> dict[str, str]:
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return said(done.stdout)


@pytest.mark.parametrize("threads", [0, 3])
def test_without_hold_they_live_and_what_was_not_seen_is_counted(
    threads: int, program: Path, servers: Servers, tmp_path: Path
) -> None:
    account = tmp_path / "ledger.json"
    other = Path(shutil.copy(program, tmp_path / "not-recorded"))
    asked = command(program, tmp_path, servers, threads)
    with record(tmp_path / "all.pcapng", "-c", program.name, "--ledger", account) as recording:
        library = tmp_path / LIBSSL.name
        # One run may be over before it is looked at.
        wait_until(lambda: run(asked) and has_probes(recording.process.pid, library), "its library's probes")
        settle()
        answers = run([*asked[:-1], "31"])
        unrecorded = run(command(other, tmp_path, servers, threads))
        settle()
        finished = recording.stop()
    assert len(unrecorded) == (COROUTINES + (not threads)) * ROUNDS
    # All connections begin at once: where the probes come after that, nothing of a coroutine's is read.
    exported = plaintap("export", recording.path)
    assert exported.returncode == 0 or "has no HTTP" in exported.stderr
    found = entries(recording.path) if exported.returncode == 0 else []
    # A request may have been written before there was a probe where the read of its answer returns: that is marked.
    read = recorded([entry for entry in found if path_of(entry) in answers and "_outcome" not in entry])
    assert read == {path: answers[path] for path in read}, "answers are with their own requests"
    if not threads:
        assert {path for path in answers if "?0." in path} <= read.keys(), "the main stack's"
    ledger = json.loads(account.read_text())
    assert ledger["unseen_returns"] > 0
    assert set(ledger["tls"]["lost"]) <= {"unseen-return"}
    assert ledger["gap_bytes"] == sum(ledger["tls"]["lost"].values()), "a hole is shown as a hole"
    assert ledger["tls"]["residue"] == 0
    assert any("from coroutines" in line for line in warnings(finished.stderr))


@pytest.mark.parametrize("who", ["-1", "-2"], ids=["a thread", "a child that it forks"])
def test_a_threads_own_stack_may_be_deep(who: str, program: Path, servers: Servers, tmp_path: Path) -> None:
    """Nothing is switched there; taken for a coroutine's, it would be read only from its second call on."""
    account = tmp_path / "ledger.json"
    with record(tmp_path / "all.pcapng", "-c", program.name, "--ledger", account) as recording:
        answers = run([str(program), str(servers.https), who, str(ROUNDS)])
        settle()
        finished = recording.stop()
    assert len(answers) == ROUNDS
    assert recorded(entries(recording.path)) == answers
    assert warnings(finished.stderr) == []
    assert json.loads(account.read_text())["unseen_returns"] == 0


def test_code_that_is_in_no_file_calls(servers: Servers, tmp_path: Path) -> None:
    """As of compilers that run with their programs (SBCL). Here no probe can wait for what returns: a handshake does,
    which moves nothing; what reads and writes inside of libssl returns to libssl.
    """
    capture, account = tmp_path / "generated.pcapng", tmp_path / "ledger.json"
    shutil.copy(LIBSSL, tmp_path)
    asked = ["env", f"LD_LIBRARY_PATH={tmp_path}", compiled(tmp_path / "in_no_file"), servers.https]
    done = plaintap("record", "-w", capture, "--ledger", account, "--", *asked)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5000
    assert warnings(done.stderr) == []
    ledger = json.loads(account.read_text())
    assert ledger["unseen_returns"] == 0
    assert ledger["tls"]["lost"] == {}
    (entry,) = entries(capture)
    assert entry["response"]["content"]["size"] == 5000


def test_one_function_jumps_to_another(servers: Servers, tmp_path: Path) -> None:
    """As gnutls_record_send does to gnutls_record_send2. The second entry is not of a call whose first was left."""
    capture, account = tmp_path / "jumps.pcapng", tmp_path / "ledger.json"
    shutil.copy(LIBGNUTLS, tmp_path)
    asked = ["env", f"LD_LIBRARY_PATH={tmp_path}", compiled(tmp_path / "gnutls"), servers.https]
    done = plaintap("record", "-w", capture, "--ledger", account, "--", *asked)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5 * 5000
    assert warnings(done.stderr) == []
    ledger = json.loads(account.read_text())
    assert ledger["unseen_returns"] == 0
    assert ledger["tls"]["lost"] == {}
    assert [entry["response"]["content"]["size"] for entry in entries(capture)] == [5000] * 5
