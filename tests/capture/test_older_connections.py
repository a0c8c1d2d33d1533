"""Which end of an older connection is whose, by who listens; where nothing can be asked there is no answer."""

from __future__ import annotations

import pytest

from capture import older_connections
from capture.older_connections import OlderConnections
from capture.sock_diag import OWN_NAMESPACE, TcpSocket
from capture.streams import Side
from capture.targets import Selection, Targets

HERE = OWN_NAMESPACE.stat().st_ino
NOBODY = Targets(Selection(pids=(1 << 22,)))


def listener(port: int) -> TcpSocket:
    """A socket that listens."""
    return TcpSocket(True, (bytes(4), port), (bytes(4), 0), port, port, (0, 0))


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> OlderConnections:
    """Ports 80 and 9000 are listened on here."""
    monkeypatch.setattr(older_connections, "tcp_sockets", lambda _: [listener(80), listener(9000)])
    found = OlderConnections()
    found.look(NOBODY)
    return found


@pytest.mark.parametrize(
    ("local_port", "remote_port", "local", "side"),
    [
        (80, 50_000, False, Side.SERVER),
        (9000, 80, False, Side.SERVER),
        (9000, 80, True, None),
        (50_000, 80, True, Side.CLIENT),
        (8000, 60_000, False, Side.CLIENT),
    ],
)
def test_the_end_whose_port_is_listened_on_is_the_server(
    older: OlderConnections, local_port: int, remote_port: int, *, local: bool, side: Side | None
) -> None:
    assert older.side(HERE, local_port, remote_port, local=local) is side


def test_of_another_namespace_nothing_is_known(older: OlderConnections) -> None:
    assert older.side(HERE + 1, 80, 50_000, local=False) is None


def test_without_sock_diag_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> list[TcpSocket]:
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(older_connections, "tcp_sockets", refuse)
    found = OlderConnections()
    found.look(NOBODY)
    assert found.side(HERE, 80, 50_000, local=False) is None
    assert found.idle() == ()
