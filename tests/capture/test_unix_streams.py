"""Streams of AF_UNIX as connections: names, addresses, both ends as one stream."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_events import REQUEST, RESPONSE, Recording, announced, ended, moved
from packed_samples import ABI, Samples, kind, packed

from capture.events import ConnectionAnnounced, Direction, Protocol, Role
from capture.samples import Decoder
from capture.streams import Endpoint, Side
from capture.unix_streams import SERVER, client_address, path_text

NAME = 0x01234567
INODES = st.integers(1, (1 << 32) - 1)


@given(INODES, INODES)
def test_no_two_clients_have_the_same_address(one: int, other: int) -> None:
    assert (client_address(one) == client_address(other)) == (one == other)
    address, port = client_address(one)
    assert ip_address(address).is_loopback
    assert address != SERVER[0]
    assert 32768 <= port < 65536


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"/run/docker.sock\0", "/run/docker.sock"),
        (b"/run/docker.sock", "/run/docker.sock"),
        (b"\0containerd-shim/1.sock", "@containerd-shim/1.sock"),
        (b"/run/\xff", r"/run/\xff"),
        (b"", ""),
    ],
)
def test_a_path_as_people_write_it(raw: bytes, text: str) -> None:
    assert path_text(raw) == text


def decoded(inode: int, path: bytes = b"/run/x.sock\0rest") -> ConnectionAnnounced:
    """The announcement of the end that has this inode."""
    samples = Samples().add(
        packed(
            "connection_sample", kind=kind("CONNECTION"), family=1, inode=inode, connection=inode,
            local=NAME.to_bytes(4, "little").ljust(16, b"\0"), path=path.ljust(108, b"\0"), path_bytes=12,
        )
    )  # fmt: skip
    (event,) = Decoder(ABI.layouts, ABI.constants, 0).decode(samples.buffer, samples.starts)
    assert isinstance(event, ConnectionAnnounced)
    return event


def test_both_ends_name_the_same_connection() -> None:
    client, server = decoded(NAME), decoded(99)
    assert (client.local, client.local_port) == (server.remote, server.remote_port) == client_address(NAME)
    assert (client.remote, client.remote_port) == (server.local, server.local_port) == SERVER
    assert client.unix_path == server.unix_path == "/run/x.sock"


def end(connection: int, role: Role, protocol: Protocol = Protocol.HTTP) -> ConnectionAnnounced:
    """One of the two."""
    address, port = client_address(NAME)
    client = {"local": address, "local_port": port, "remote": SERVER[0], "remote_port": SERVER[1]}
    server = {"local": SERVER[0], "local_port": SERVER[1], "remote": address, "remote_port": port}
    ends = client if role is Role.CLIENT else server
    return announced(connection, role, **ends, netns=0, protocol=protocol, unix_path="/run/x.sock")


def test_both_ends_are_one_stream_on_a_port_that_wireshark_dissects() -> None:
    recording = Recording().feed(
        end(1, Role.CLIENT),
        end(2, Role.SERVER),
        moved(1, Direction.SENT, 0, REQUEST),
        moved(2, Direction.RECEIVED, 0, REQUEST),
        moved(2, Direction.SENT, 0, RESPONSE),
        moved(1, Direction.RECEIVED, 0, RESPONSE),
        ended(1, len(REQUEST), len(RESPONSE)),
        ended(2, len(RESPONSE), len(REQUEST)),
    )
    recording.finish()
    opened = recording.stream.opened
    assert recording.stream.both == (REQUEST, RESPONSE)
    assert opened.client == Endpoint(*client_address(NAME))
    assert opened.server == Endpoint(SERVER[0], 80)
    assert opened.unix_path == "/run/x.sock"
    assert opened.peer_process is not None


def test_what_is_not_http_goes_to_a_port_of_no_protocol() -> None:
    recording = Recording(all_protocols=True).feed(
        end(1, Role.SERVER, Protocol.OTHER),
        moved(1, Direction.RECEIVED, 0, b"*1\r\n", protocol=Protocol.OTHER),
    )
    recording.finish()
    opened = recording.stream.opened
    assert opened.server == Endpoint(SERVER[0], 9)
    assert opened.side is Side.SERVER
