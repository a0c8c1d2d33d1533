"""Which look-up a connection waited for, and which addresses have names."""

from __future__ import annotations

from capture.events import HostResolved
from capture.lookups import MAX_BY_ADDRESS, MAX_REMEMBERED, Lookups
from capture.streams import Lookup

V4 = bytes((192, 0, 2, 1))
V6 = bytes.fromhex("20010db8000000000000000000000001")
MAPPED = bytes(10) + b"\xff\xff" + V4


def lookups(*events: HostResolved) -> Lookups:
    found = Lookups()
    for event in events:
        found.resolved(event)
    return found


def resolved(name="a.test", pid=7, started=100, ended=200, addresses=(MAPPED, V6), more=0) -> HostResolved:
    return HostResolved(pid, ended, started, name, addresses, more)


def test_the_first_connection_waited_and_the_others_know_the_name():
    found = lookups(resolved())
    assert found.behind(7, V4, 200) == Lookup("a.test", 100, 200)
    assert found.behind(7, V4, 300) == Lookup("a.test")
    assert found.behind(7, V6, 300) == Lookup("a.test"), "another address of the same answer"


def test_asked_again_it_waits_again():
    found = lookups(resolved(), resolved(started=500, ended=600))
    assert found.behind(7, MAPPED, 450) == Lookup("a.test", 100, 200)
    assert found.behind(7, V4, 650) == Lookup("a.test", 500, 600)
    assert found.behind(7, V4, 700) == Lookup("a.test")


def test_what_was_not_asked_or_only_later_has_no_name():
    found = lookups(resolved())
    assert found.behind(8, V4, 300) is None
    assert found.behind(7, bytes((192, 0, 2, 2)), 300) is None
    assert found.behind(7, V4, 199) is None


def test_an_address_is_no_name():
    for name in ("192.0.2.1", "2001:db8::1", "fe80::1%eth0"):
        assert lookups(resolved(name)).behind(7, V4, 300) is None


def test_memory_is_bounded():
    found = lookups(
        *(resolved(f"{n}.test", addresses=(n.to_bytes(16, "big"),)) for n in range(MAX_REMEMBERED + 1))
    )
    assert found.behind(7, bytes(16), 300) is None
    assert found.behind(7, (1).to_bytes(16, "big"), 300) is not None
    found = lookups(*(resolved(started=n, ended=n + 1) for n in range(1000)))
    assert found.behind(7, V4, 1000 - MAX_BY_ADDRESS) is None
    assert found.behind(7, V4, 1001 - MAX_BY_ADDRESS) is not None
