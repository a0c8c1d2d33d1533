"""A server and its client, of which one alone is recorded, so that nothing of the other can hide a miss."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from processes import running
from recording import record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from recording import Finished

ENDS = ("client", "server")
SECONDS = 60


def record_end(
    path: Path,
    end: str,
    server: Sequence[object],
    client: Callable[[int], Sequence[object]],
    *options: object,
) -> tuple[Finished, int]:
    """The recording of one of ENDS, and the server's port.

    The server prints its port when it listens; the client, which is made for that, begins when it has read a line. Both
    end by themselves, without an error.
    """
    with running(server, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout
        port = int(serving.stdout.readline())
        with running(client(port), stdin=subprocess.PIPE, text=True) as asking:
            pid = asking.pid if end == "client" else serving.pid
            with record(path, "-p", pid, *options) as recording:
                asking.communicate("go\n", SECONDS)
                assert (asking.returncode, serving.wait(SECONDS)) == (0, 0)
                return recording.stop(), port
