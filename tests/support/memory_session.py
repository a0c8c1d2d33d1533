"""TLS over memory BIOs, for programs that tests run: their text begins with this module's."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class MemorySession:
    """A session whose records ``send`` takes and ``receive`` gives, which waits for some."""

    def __init__(
        self,
        context: ssl.SSLContext,
        send: Callable[[bytes], object],
        receive: Callable[[], bytes],
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self.send = send
        self.receive = receive
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)

    def do(self, name: str, *arguments: object) -> Any:
        """Call a method of the ``ssl.SSLObject`` until it need not wait."""
        while True:
            try:
                result, waits = getattr(self._session, name)(*arguments), False
            except ssl.SSLWantReadError:
                waits = True
            if written := self._outgoing.read():
                self.send(written)
            if not waits:
                return result
            self._incoming.write(self.receive())


def source() -> str:
    """This module's text."""
    return Path(__file__).read_text()
