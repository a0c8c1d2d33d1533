"""One end of a connection: what is given out, and what its stream's first item says."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
from kernel_events import REQUEST, RESPONSE, START_NS, announced, distant, ended, moved, plaintext

from capture.events import Direction, Protocol, Reason, Role
from capture.streams import Data, Gap, Process, Side, StreamOpened, Tls, TlsEnded, TlsStarted
from capture.views import Content, State, View

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED


def opened(view):
    """The stream's beginning and what was held."""
    first, *rest = view.open(Process, lambda *_: None)
    assert isinstance(first, StreamOpened)
    return first, rest


def shown(view, *events):
    """Whether each event takes the short way, and its item or contents."""
    return [view.pass_through(event) for event in events]


def client_hello(name="example.com", protocols=("h2", "http/1.1")):
    """A real one, as it crosses the socket."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_the_short_way_is_only_for_pieces_that_are_next_and_whole():
    view = View(distant(1))
    opened(view)
    first, gap, early, late = (
        moved(1, SENT, 0, b"abc"),
        moved(1, SENT, 3, b"", length=2, reason=Reason.FAULT),
        moved(1, SENT, 9, b"xyz"),
        moved(1, SENT, 1, b"b"),
    )
    assert view.pass_through(first) == Data(1, first.time, Side.CLIENT, b"abc")
    assert [view.pass_through(event) for event in (gap, early, late)] == [None, None, None]
    assert [content.lost for content in view.add(gap)] == [2]
    assert list(view.add(early)) == []
    # Nothing may overtake what waits.
    assert view.pass_through(moved(1, SENT, 5, b"d")) is None


def test_the_first_plaintext_goes_the_long_way_for_it_begins_tls():
    view = View(distant(1))
    opened(view)
    assert view.pass_through(plaintext(7, SENT, 0, REQUEST, 1)) is None


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER])
def test_directions_become_senders_by_the_role(role):
    view = View(distant(1, role))
    opened(view)
    senders = [view.pass_through(moved(1, direction, 0, b"x")).sender for direction in (SENT, RECEIVED)]
    assert senders == ([Side.CLIENT, Side.SERVER] if role is Role.CLIENT else [Side.SERVER, Side.CLIENT])


def test_the_beginning_names_ends_times_and_process():
    first, _ = opened(View(distant(1, opened=START_NS - 9, established=START_NS - 4)))
    assert (first.time_ns, first.established_ns, first.handshake_seen) == (START_NS - 9, START_NS - 4, True)
    assert first.process == Process(1001, "client")
    assert (first.fd, first.peer_process, first.tls) == (5, None, None)


def test_an_older_connection_begins_with_its_first_bytes():
    view = View(distant(1, Role.UNKNOWN, opened=None, established=None))
    view.held += view.add(moved(1, SENT, 0, REQUEST, time=START_NS + 77))
    first, rest = opened(view)
    assert (first.time_ns, first.established_ns, first.handshake_seen) == (
        START_NS + 77,
        START_NS + 77,
        False,
    )
    assert [item.data for item in rest] == [REQUEST]
    assert view.held == []


@pytest.mark.parametrize("cut", [1, 5, 6, 200])
def test_the_hello_gives_name_and_offers_and_tells_the_client(cut):
    view = View(
        distant(1, Role.UNKNOWN, opened=None, protocol=Protocol.TLS, local_port=443, remote_port=50_000)
    )
    hello = client_hello()
    for part, time in ((hello[:cut], START_NS + 1), (hello[cut:], START_NS + 2)):
        view.tls.feed(moved(1, SENT, 0, part, time=time, hello=True))
    view.held += view.add(plaintext(7, SENT, 0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1, time=START_NS + 9))
    first, _ = opened(view)
    assert first.side is Side.CLIENT
    assert (first.tls.server_name, first.tls.alpn) == ("example.com", "h2")
    assert first.tls.started_ns in {START_NS + 1, START_NS + 2}
    assert first.tls.established_ns == START_NS + 9, (
        "without a probe on the handshake, at the first plaintext"
    )


def test_an_offer_that_was_not_made_is_not_taken():
    view = View(distant(1, protocol=Protocol.TLS))
    view.tls.feed(moved(1, SENT, 0, client_hello(protocols=("imap",)), hello=True))
    view.held += view.add(plaintext(7, SENT, 0, REQUEST, 1))
    first, _ = opened(view)
    assert first.tls.alpn is None


def test_a_tls_connection_that_said_nothing_is_still_tls():
    first, rest = opened(View(distant(1, protocol=Protocol.TLS)))
    assert first.tls is not None
    assert rest == []


def test_the_end_of_a_tls_connection_counts_plaintext_not_ciphertext():
    view = View(distant(1, protocol=Protocol.TLS))
    list(view.add(plaintext(7, SENT, 0, REQUEST, 1)))
    assert list(view.finish((5_000, 6_000), 7, (len(REQUEST), 0), START_NS)) == []


def test_the_end_of_a_session_that_brought_nothing_is_no_hole():
    view = View(distant(1, protocol=Protocol.TLS))
    assert list(view.finish((5_000, 6_000), 0, (0, 0), START_NS)) == []


def test_both_directions_of_cleartext_have_their_own_holes():
    view = View(distant(1))
    list(view.add(moved(1, RECEIVED, 0, RESPONSE)))
    found = list(view.finish((3, len(RESPONSE) + 4), 0, (0, 0), START_NS))
    assert found == [
        Content(START_NS, SENT, b"", 3, "", tls=False, hole=(0, 0)),
        Content(START_NS, RECEIVED, b"", 4, "", tls=False, hole=(0, 43)),
    ]


def test_state_and_side_before_anything_is_decided():
    view = View(announced(1, Role.UNKNOWN))
    assert (view.state, view.side, view.waits) == (State.HOLDING, None, False)
    list(view.add(moved(1, SENT, 4, b"early")))
    assert view.waits


def test_a_connection_without_fin_or_reset_has_no_close():
    view = View(distant(1))
    opened(view)
    assert list(view.close(replace(ended(1), local_fin=None, peer_fin=None))) == []


@pytest.mark.parametrize(("first", "inside"), [(b"CONNECT a:443 HTTP/1.1\r\n\r\n", True), (REQUEST, False)])
def test_another_session_is_inside_the_first_where_that_asked_for_a_tunnel(first, inside):
    view = View(distant(1))
    view.handshakes[8] = (20, 30)
    view.begin_tls()
    opened(view)
    events = (
        plaintext(7, SENT, 0, first, 1),
        plaintext(7, RECEIVED, 0, RESPONSE, 1),
        plaintext(8, SENT, 0, REQUEST, 1),
        plaintext(8, RECEIVED, 0, RESPONSE, 1),
    )
    items = [item for event in events for content in view.add(event) for item in view.give(content)]
    begun = [item.tls for item in items if isinstance(item, TlsStarted)]
    inner = Tls(None, None, "http/1.1", 20, 30)
    assert begun == ([inner] if inside else [])
    assert [item.data for item in items if isinstance(item, Data)] == [first, RESPONSE, REQUEST, RESPONSE]


def test_cleartext_after_tls():
    view = View(distant(1))
    opened(view)
    view.begin_tls()
    # On the socket, ciphertext took 1,000 bytes to one side and nothing has come after it to the other.
    events = (plaintext(7, SENT, 0, b"CCC", 1), moved(1, SENT, 1000, b"PASV"), moved(1, SENT, 1010, b"QUIT"))
    contents = [content for event in events for content in view.add(event)]
    contents += view.finish((1014, 500), 7, (3, 0), START_NS)
    items = [item for content in contents for item in view.give(content)]
    assert [type(item) for item in items] == [TlsStarted, Data, TlsEnded, Data, Gap, Data]
    assert [item.length for item in items if isinstance(item, Gap)] == [6]


def test_the_end_is_final_where_the_peer_s_is_never_seen():
    view = View(distant(1))
    opened(view)
    alone, *rest = view.close(replace(ended(1), local_fin=9, peer_fin=None))
    assert (alone.sender, alone.reset, alone.final, rest) == (Side.CLIENT, False, True, [])
    for ends in (
        {"peer_fin": 7},
        {"peer_reset": 12},
        {"local_reset": 12},
        {"local_fin": None, "peer_fin": 7},
    ):
        event = replace(ended(1), **{"local_fin": 9, "peer_fin": None, **ends})
        assert not any(item.final for item in view.close(event))


@pytest.mark.parametrize("likely", Side)
def test_who_listens_tells_the_side_if_nothing_else_does(likely):
    older = distant(1, Role.UNKNOWN, local_port=80, remote_port=50_000)
    assert View(older, likely).decide_side() is likely
    assert View(older).decide_side() is Side.SERVER
    assert View(replace(older, role=Role.CLIENT), Side.SERVER).decide_side() is Side.CLIENT
    asked = View(older, Side.SERVER)
    asked.held.append(Content(START_NS, SENT, REQUEST, 0, "", tls=False))
    assert asked.decide_side() is Side.CLIENT
