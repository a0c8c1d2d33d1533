"""The archive that is written while recording: its process gives way to what is recorded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from exporters.live import NICE

SAY = "import os; from exporters.live import give_way; give_way(); print(os.getpriority(os.PRIO_PROCESS, 0))"


@pytest.mark.parametrize(("recorder", "ours"), [(-10, NICE), (0, NICE), (12, 12)])
def test_it_is_nice_whatever_the_recorder_is(recorder, ours):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if recorder < before and os.geteuid() != 0:
        pytest.skip("only root can be more urgent")
    command = ["nice", "-n", str(recorder - before), sys.executable, "-c", SAY]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) == ours
