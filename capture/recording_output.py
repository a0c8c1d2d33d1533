"""What a recording writes: the capture, the archive that follows it, and the account for machines."""

from __future__ import annotations

import contextlib
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from capture.errors import UsageError
from capture.live_har import LiveHar
from capture.outbox import Outbox
from capture.output_file import STDOUT, require_different
from capture.pipeline import Exporter
from exporters.packets import PcapngExporter
from exporters.pcapng import SectionMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from capture.ledger import Ledger
    from capture.output_file import OutputFile
    from exporters.framing import Framing


class RecordingOutput:
    """The files of one recording, opened by others. ``archive_options`` are LiveHar's.

    Raises UsageError where one is another, or the archive could not read the capture.
    """

    def __init__(
        self,
        capture: OutputFile,
        archive: OutputFile | None,
        account: OutputFile | None,
        framing: Framing,
        archive_options: Mapping[str, object],
    ) -> None:
        if archive and (capture.name == STDOUT or not capture.is_file):
            raise UsageError("--har reads the capture as it grows: name a file for that with -w.")
        require_different(filter(None, (capture, archive, account)))
        self._capture, self._archive, self._account = capture, archive, account
        self._archive_options = archive_options
        self._following = contextlib.ExitStack()
        self._follows = False
        self.outbox = Outbox(capture)
        self._packets = PcapngExporter(self.outbox.write, _metadata(), framing)
        self.exporter = Exporter(self.outbox, self._packets.write, self._flush, self._finish)

    def __enter__(self) -> Self:
        self.outbox.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The capture is whole, and the archive is when it has read it. Raises LiveHarError."""
        try:
            self._following.__exit__(kind, error, trace)
        finally:
            self.outbox.__exit__(kind, error, trace)

    def complete(self, ledger: Ledger) -> Ledger:
        """The account, with what only the capture's writer knows."""
        return replace(ledger, orphan_bytes=self._packets.orphan_bytes)

    def _flush(self) -> None:
        self._packets.settle()
        if self._archive and not self._follows:
            self._follows = True
            live = LiveHar(Path(self._capture.name), self._archive, self._archive_options)
            self._following.enter_context(live)

    def _finish(self, ledger: Ledger) -> None:
        self._packets.flush()  # counts what it has no place for
        ledger = self.complete(ledger)
        self._packets.finish(
            ledger=ledger.as_json(),
            summary="\n".join([*ledger.lines(), *ledger.warnings()]),
            dropped=ledger.lost_bytes,
        )
        self.outbox.finish()
        if self._account:
            self._account.write(f"{json.dumps(ledger.as_json(), indent=2)}\n".encode())


def _metadata() -> SectionMetadata:
    return SectionMetadata(
        hardware=platform.machine(),
        operating_system=f"{platform.system()} {platform.release()}",
        application="plaintap",
    )
