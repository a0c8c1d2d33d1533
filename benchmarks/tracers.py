"""What watches a load: nothing, ``plaintap record``, or bcc's sslsniff, each ready before the load begins."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import kernel_state
from processes import running, wait_until
from recording import Recording, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tracer = Callable[[Path], contextlib.AbstractContextManager["Recording | None"]]

SSLSNIFF = Path("/usr/sbin/sslsniff-bpfcc")
READY_SECONDS = 30.0
# sslsniff says nothing when it is ready: it is when no program has been added for this long.
QUIET_SECONDS = 1.0

# bcc compiles sslsniff against kernel headers, which it wants under the running kernel's name. They are
# shown to it, and to it alone, in a mount namespace that ends with it.
WITH_HEADERS = """
set -e
headers=$(ls -d /usr/src/linux-headers-*-amd64 | sort -V | tail -1)
if [ ! -e "/lib/modules/$(uname -r)/build" ]; then
    mkdir -p /lib/modules
    mount -t tmpfs none /lib/modules
    mkdir "/lib/modules/$(uname -r)"
    ln -s "$headers" "/lib/modules/$(uname -r)/build"
    ln -s "${headers%-amd64}-common" "/lib/modules/$(uname -r)/source"
fi
exec "$@"
"""


def patched_sslsniff(folder: Path) -> Path:
    """Debian's sslsniff with a min() that the type checks of newer headers do not stop from compiling."""
    lenient = "\\g<0>\n#undef min\n#define min(a, b) ((a) < (b) ? (a) : (b))"
    source = re.sub(r"^#include <linux/sched\.h>.*$", lenient, SSLSNIFF.read_text(), flags=re.MULTILINE)
    path = folder / "sslsniff"
    path.write_text(source)
    return path


@contextlib.contextmanager
def sslsniff(folder: Path) -> Iterator[None]:
    """sslsniff on every process, its output thrown away, which costs it least."""
    before = set(kernel_state.programs())
    command = ["unshare", "--mount", "sh", "-c", WITH_HEADERS, "sh"]
    log = folder / "sslsniff.stderr"
    with (
        log.open("wb") as stderr,
        running(
            [*command, "/usr/bin/python3", patched_sslsniff(folder)], stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        attached, since = 0, time.monotonic()

        def quiet() -> bool:
            nonlocal attached, since
            assert process.poll() is None, log.read_text()
            if (now := len(set(kernel_state.programs()) - before)) != attached:
                attached, since = now, time.monotonic()
            return attached > 0 and time.monotonic() - since > QUIET_SECONDS

        wait_until(quiet, "sslsniff to attach its probes", READY_SECONDS)
        yield


@contextlib.contextmanager
def untraced(_folder: Path) -> Iterator[None]:
    """Nothing watches."""
    yield


@contextlib.contextmanager
def plaintap(folder: Path, options: tuple[object, ...] = ()) -> Iterator[Recording]:
    """``plaintap record`` into the folder."""
    with record(folder / "recording.pcapng", *options) as recording:
        yield recording
