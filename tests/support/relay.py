"""A TCP relay that records what real programs say to each other, as stream items."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING

from capture.streams import Data, Endpoint, Side, StreamClosed, StreamItem, StreamOpened

if TYPE_CHECKING:
    from types import TracebackType

PIECE_BYTES = 1 << 16


class Relay:
    """Listens on ``port``, passes everything on to ``target``, and keeps it in ``items``."""

    def __init__(self, target: int) -> None:
        self.items: list[StreamItem] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._count = 0
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Relay:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._count += 1
                thread = threading.Thread(target=self._serve, args=(self._count, client), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, stream: int, client: socket.socket) -> None:
        started_ns = time.time_ns()
        server = socket.create_connection(("127.0.0.1", self._target))
        local = Endpoint(bytes((127, 0, 0, 1)), client.getpeername()[1])
        remote = Endpoint(bytes((127, 0, 0, 1)), self._target)
        opened = StreamOpened(stream, started_ns, time.time_ns(), local, remote, Side.CLIENT, True)
        self._keep(opened)
        with client, server, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, (Side.CLIENT, server))
            ready.register(server, selectors.EVENT_READ, (Side.SERVER, client))
            while ready.get_map():
                for key, _ in ready.select():
                    side, other = key.data
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if not self._pass_on(stream, side, source, other):
                        ready.unregister(source)

    def _pass_on(self, stream: int, side: Side, source: socket.socket, other: socket.socket) -> bool:
        try:
            data = source.recv(PIECE_BYTES)
        except ConnectionResetError:
            data = b""
        if data:
            self._keep(Data(stream, time.time_ns(), side, data))
            with contextlib.suppress(OSError):
                other.sendall(data)
            return True
        self._keep(StreamClosed(stream, time.time_ns(), side, reset=False))
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)
        return False

    def _keep(self, item: StreamItem) -> None:
        with self._lock:
            self.items.append(item)
