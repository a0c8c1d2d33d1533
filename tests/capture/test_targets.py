"""What the user asked for: checked against this machine, and turned into the kernel side's flags."""

from __future__ import annotations

import json
import os
import re
import subprocess
from ipaddress import IPv6Address, IPv6Network

import pytest

from bpf import abi
from capture import containers
from capture.errors import UsageError
from capture.targets import MAX_CGROUPS, MAX_COMM_BYTES, Selection, Targets, select

KINDS = {"pids": 1, "comms": "a", "uids": 0, "ports": 80, "hosts": IPv6Network("::"), "cgroups": "/c"}


SAMPLES = [IPv6Address(text) for text in ("::ffff:10.0.0.1", "2001:db8::1", "::1")]


def flags(targets, with_command=False):
    return set(targets.flags(with_command=with_command))


def test_nothing_asked_restricts_nothing():
    assert flags(Targets()) == {"FOLLOW_CHILDREN"}
    assert flags(Targets(follow=False)) == set()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cgroups"])
def test_a_kind_restricts_where_it_is_wanted_and_is_looked_up_where_it_is_used(kind):
    chosen, name = Selection(**{kind: (KINDS[kind],)}), kind.upper()
    assert flags(Targets(wanted=chosen, follow=False)) == {f"WANT_{name}", f"CHECK_{name}"}
    assert flags(Targets(excluded=chosen, follow=False)) == {f"CHECK_{name}"}


def test_a_command_and_its_children_are_wanted_whatever_else_is_asked():
    assert flags(Targets(follow=False), with_command=True) == {"WANT_PIDS", "CHECK_PIDS", "FOLLOW_CHILDREN"}


@pytest.mark.parametrize(
    ("protocols", "expected"),
    [
        ({"http", "tls"}, set()),
        ({"http"}, {"DROP_TLS"}),
        ({"tls"}, {"DROP_HTTP"}),
        ({"all"}, {"KEEP_ALL_PROTOCOLS"}),
        ({"all", "http"}, {"KEEP_ALL_PROTOCOLS"}),
    ],
)
def test_protocols(protocols, expected):
    assert flags(Targets(protocols=frozenset(protocols), follow=False)) == expected


def test_flags_are_bits_of_their_own_in_the_header():
    everything = Selection(**{kind: (value,) for kind, value in KINDS.items()})
    constants = abi.header().constants
    names = flags(Targets(everything, everything)) | {
        "DROP_HTTP",
        "DROP_TLS",
        "KEEP_ALL_PROTOCOLS",
    }
    values = [constants[name] for name in names]
    assert all(value.bit_count() == 1 for value in values)
    assert len(set(values)) == len(names)
    processes = sum(constants[f"CHECK_{kind}"] for kind in ("PIDS", "COMMS", "UIDS", "CGROUPS"))
    assert constants["CHECK_PROCESSES"] == processes
    assert constants["MAX_CGROUPS"] == MAX_CGROUPS


def test_processes_must_be_there():
    assert select(pids=(os.getpid(),)).pids == (os.getpid(),)
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(UsageError, match=str(process.pid)):
        select(pids=(os.getpid(), process.pid))


def test_users_by_name_or_number():
    assert select(users=("root", "65534", "4000000000")).uids == (0, 65_534, 4_000_000_000)


def test_an_unknown_user_is_named():
    for user in ("no-such-user", "", "-1", "4294967295", "4294967296"):
        with pytest.raises(UsageError, match=repr(user)):
            select(users=(user,))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", bytes(10) + b"\xff\xff\x7f\0\0\1"),
        ("::1", bytes(15) + b"\1"),
        ("[::1]", bytes(15) + b"\1"),
        ("::ffff:10.1.2.3", bytes(10) + b"\xff\xff\x0a\1\2\3"),
    ],
)
def test_hosts_are_addresses_of_one_form(host, expected):
    assert select(hosts=(host,)).hosts == (IPv6Network(expected),)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.0.0.0/8", "::ffff:10.0.0.0/104"),
        ("10.1.2.3/32", "::ffff:10.1.2.3/128"),
        ("0.0.0.0/0", "::ffff:0:0/96"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::]/32", "2001:db8::/32"),
        ("::ffff:10.0.0.0/104", "::ffff:10.0.0.0/104"),
        ("::ffff:0:0/96", "::ffff:0:0/96"),
    ],
)
def test_networks_are_of_one_form(host, expected):
    assert select(hosts=(host,)).hosts == (IPv6Network(expected),)


def test_all_of_ipv6_is_without_ipv4():
    assert IPv6Address("::ffff:10.0.0.1") not in _networks("::/0")
    assert IPv6Address("2001:db8::1") in _networks("::/0")
    assert IPv6Address("::1") in _networks("::/1")


def _networks(host):
    found = select(hosts=(host,)).hosts
    return [address for address in SAMPLES if any(address in network for network in found)]


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.0/33",
        "10.0.0/8",
        "example.com/24",
        "10.0.0.0/",
        "/8",
        "10.0.0.0/255.0.0.0",
        "::/129",
        "a/b",
        "1.2.3.4/-1",
    ],
)
def test_what_can_be_no_network_is_named(host):
    with pytest.raises(UsageError, match=re.escape(f"{host!r} is no network")):
        select(hosts=(host,))


def test_bits_outside_of_a_network_are_pointed_out():
    with pytest.raises(UsageError, match=re.escape("is '10.0.0.0/8' meant?")):
        select(hosts=("10.0.0.1/8",))


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "[1.2.3", ""])
def test_what_can_be_no_host_is_named(host):
    with pytest.raises(UsageError, match=re.escape(repr(host))):
        select(hosts=(host,))


def test_a_host_without_an_address_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.invalid"):
        select(hosts=("nowhere.invalid",))


@pytest.mark.parametrize("path", ["/", "/proc", "/no/such/group"])
def test_a_folder_that_is_no_control_group_is_named(path, monkeypatch):
    monkeypatch.setattr("capture.targets.CGROUP_ROOTS", ())
    with pytest.raises(UsageError, match="control group"):
        select(cgroups=(path,))


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A control group tree with two containers, and Podman's list with a name."""
    ids = ["ab" * 32, "ac" * 32]
    for identifier, name in zip(ids, ("docker-{}.scope", "libpod-{}.scope"), strict=True):
        folder = tmp_path / "system.slice" / name.format(identifier)
        folder.mkdir(parents=True)
        (folder / "cgroup.controllers").touch()
        (folder / "cgroup.procs").touch()
    podman = tmp_path / "containers.json"
    podman.write_text(json.dumps([{"id": ids[1], "names": ["web"]}]))
    monkeypatch.setattr(containers, "CGROUP_ROOTS", (tmp_path,))
    monkeypatch.setattr(containers, "PODMAN_LISTS", (podman, tmp_path / "none.json"))
    monkeypatch.setattr(containers, "DOCKER_SOCKET", tmp_path / "none.sock")
    return tmp_path / "system.slice", ids


def test_containers_by_id_its_beginning_or_name(engine):
    root, ids = engine
    assert select(containers=(ids[0],)).cgroups == (f"{root}/docker-{ids[0]}.scope",)
    assert select(containers=("ababab",)).cgroups == (f"{root}/docker-{ids[0]}.scope",)
    assert select(containers=("web",)).cgroups == (f"{root}/libpod-{ids[1]}.scope",)


@pytest.mark.parametrize("name", ["db", "ffffff", "../etc", ""])
def test_a_container_that_does_not_run_is_named(engine, name):
    with pytest.raises(UsageError, match="no running container"):
        select(containers=(name,))


def test_the_beginning_of_two_ids_is_refused(engine, monkeypatch):
    root, _ = engine
    third = root / f"docker-{'ab' * 31}cd.scope"
    third.mkdir()
    (third / "cgroup.controllers").touch()
    with pytest.raises(UsageError, match="2 containers"):
        select(containers=("ababab",))


HOST, OTHER = IPv6Network("::ffff:10.0.0.7"), IPv6Network("::ffff:10.0.0.8")
PROCESS = {"pid": 7, "comm": b"curl", "uid": 1000, "cgroup": "/system.slice/a.scope"}


@pytest.mark.parametrize(
    ("wanted", "excluded", "fits"),
    [
        (Selection(), Selection(), True),
        (Selection(pids=(7, 8)), Selection(), True),
        (Selection(pids=(8,)), Selection(), False),
        (Selection(pids=(7,), comms=("wget",)), Selection(), False),
        (Selection(pids=(7,), comms=("wget", "curl"), uids=(1000,)), Selection(), True),
        (Selection(), Selection(comms=("curl",)), False),
        (Selection(pids=(7,)), Selection(uids=(1000,)), False),
        (Selection(cgroups=("/sys/fs/cgroup/system.slice",)), Selection(), True),
        (Selection(cgroups=("/sys/fs/cgroup/system.slice/a.scope",)), Selection(), True),
        (Selection(cgroups=("/sys/fs/cgroup/system.slice/a",)), Selection(), False),
        (Selection(cgroups=("/sys/fs/cgroup/unified/system.slice",)), Selection(), True),
        (Selection(), Selection(cgroups=("/sys/fs/cgroup",)), False),
    ],
)
def test_whether_a_process_is_wanted(wanted, excluded, fits):
    assert Targets(wanted, excluded).wants_process(**PROCESS) is fits


def test_a_long_name_is_cut_as_the_kernel_cuts_it():
    targets = Targets(Selection(comms=("a-name-of-a-long-program",)))
    assert targets.wants_process(**PROCESS | {"comm": b"a-name-of-a-lon"})
    assert abi.header().constants["COMM_BYTES"] == MAX_COMM_BYTES + 1


def test_names_that_nobody_has_are_told():
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            wanted = Selection(comms=("sleep", "slepe", "a-name-of-more-than-15-bytes"))
            assert Targets(wanted).absent_names() == ["slepe", "a-name-of-more-than-15-bytes"]
        finally:
            process.kill()
    assert Targets().absent_names() == []


def test_a_name_that_is_no_text():
    """A process may give itself any bytes for a name; on the command line Python has them as surrogates."""
    targets = Targets(Selection(comms=(os.fsdecode(b"\xff"),)))
    assert targets.wants_process(**PROCESS | {"comm": b"\xff"})
    assert not targets.wants_process(**PROCESS | {"comm": b"\xfe"})


@pytest.mark.parametrize(
    ("wanted", "excluded", "fits"),
    [
        (Selection(), Selection(), True),
        (Selection(ports=(80,)), Selection(), True),
        (Selection(ports=(50_000,)), Selection(), True),
        (Selection(ports=(81,)), Selection(), False),
        (Selection(hosts=(HOST,)), Selection(), True),
        (Selection(hosts=(OTHER,)), Selection(), False),
        (Selection(hosts=(HOST,), ports=(81,)), Selection(), False),
        (Selection(), Selection(ports=(80,)), False),
        (Selection(hosts=(HOST,)), Selection(hosts=(IPv6Network("::"),)), False),
        (Selection(hosts=(IPv6Network("::ffff:10.0.0.0/104"),)), Selection(), True),
        (Selection(hosts=(IPv6Network("::ffff:10.1.0.0/112"),)), Selection(), False),
        (Selection(hosts=(HOST,)), Selection(hosts=(IPv6Network("::ffff:10.0.0.0/104"),)), False),
    ],
)
def test_whether_a_connection_is_wanted(wanted, excluded, fits):
    ends = ((b"\x0a\0\0\x07", 50_000), (bytes(16), 80))
    assert Targets(wanted, excluded).wants_ends(*ends) is fits
