"""Rights of the kernel tests, the servers that tests share, and the check that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from typing import TYPE_CHECKING

import hypothesis
import kernel_state
import pytest
from processes import RUN_VARIABLE, processes_of_run, wait_until
from servers import Servers, sample_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

# The kernel frees programs and processes a little after their last user is gone.
GRACE_SECONDS = 20.0
IN_CI = os.environ.get("CI") == "true"
MISSING_RIGHT = pytest.StashKey[str | None]()
NOT_RUN = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a name, which the processes of its tests inherit, and look at the rights once."""
    # A busy machine is no failure.
    hypothesis.settings.register_profile("plaintap", hypothesis.settings.default, deadline=None)
    hypothesis.settings.load_profile("plaintap")
    os.environ[RUN_VARIABLE] = uuid.uuid4().hex
    # Programs under test buffer their output, as users' do.
    os.environ.pop("PYTHONUNBUFFERED", None)
    # A recorder that hangs is asked where (recording.Recording.wait).
    os.environ["PYTHONFAULTHANDLER"] = "1"
    config.stash[MISSING_RIGHT] = kernel_state.missing_right()
    config.stash[NOT_RUN] = []


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A kernel test without the rights fails in CI; elsewhere it is skipped, and the summary says so."""
    reason = item.config.stash[MISSING_RIGHT]
    if reason is None or item.get_closest_marker("kernel") is None:
        return
    if IN_CI:
        pytest.fail(f"kernel tests must run in CI: {reason}", pytrace=False)
    item.config.stash[NOT_RUN].append(item.nodeid)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly which tests were not run."""
    if not_run := config.stash[NOT_RUN]:
        reason = config.stash[MISSING_RIGHT]
        terminalreporter.section(f"{len(not_run)} KERNEL TESTS WERE NOT RUN: {reason}", red=True, bold=True)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The sample servers, one pair for the whole run."""
    with sample_servers() as running:
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a kernel test: no process of its own and no BPF program that was not there before."""
    if request.node.get_closest_marker("kernel") is None:
        yield
        return
    run = os.environ[RUN_VARIABLE]
    processes, programs = set(processes_of_run(run)), set(kernel_state.programs())
    yield

    def left() -> dict[int, str]:
        return {pid: line for pid, line in processes_of_run(run).items() if pid not in processes}

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(), "the test's processes to end", GRACE_SECONDS)
    remaining = left()
    for pid in remaining:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not remaining, f"processes were left: {remaining}"
    leaked = kernel_state.leaked_programs(programs, run)

    def gone() -> bool:
        """None of them is left; those of other recorders that come and go meanwhile are not ours."""
        now = kernel_state.leaked_programs(programs, run)
        for program in leaked.keys() - now.keys():
            del leaked[program]
        return not leaked

    with contextlib.suppress(AssertionError):
        wait_until(gone, "programs to go", GRACE_SECONDS)
    assert not leaked, f"BPF programs were left: {leaked}"
