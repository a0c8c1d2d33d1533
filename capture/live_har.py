"""The process that writes the HAR of a recording while it runs: started here, at work in exporters.live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from capture.errors import PlaintapError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from capture.output_file import OutputFile


class LiveHarError(PlaintapError):
    """The archive could not be completed; the capture is whole."""


class LiveHar:
    """Follows the capture at ``path``, whose header is written, into ``archive``."""

    def __init__(self, path: Path, archive: OutputFile, options: Mapping[str, object]) -> None:
        self._name = archive.name
        archive.begin()
        reading, self._writing = os.pipe()
        capture = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        output = archive.file.fileno()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                [
                    sys.executable,
                    "-P",  # not from the working directory, which may be anyone's
                    "-m",
                    "exporters.live",
                    str(capture),
                    str(output),
                    str(reading),
                    json.dumps(options),
                ],
                pass_fds=(capture, output, reading),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(capture)
            os.close(reading)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The capture is complete: wait for the archive. Raises LiveHarError, unless another error is on its way."""
        os.close(self._writing)
        if self._process.wait() != 0 and error is None:
            raise LiveHarError(
                f"{self._name} could not be completed: make it from the capture with `plaintap export`."
            )
