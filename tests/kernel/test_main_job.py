"""The main job, end to end: real programs, recorded by the real command, judged by tshark and by hashes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from clients import curl, curl_command, keep_alive_client
from https_client import sample_body, sample_server
from judges import expert_problems, mismatched_ports, requests, rows
from recording import (
    entries,
    header,
    path_of,
    record,
    record_command,
    request_sha256,
    response_sha256,
    settle,
)
from servers import nginx

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

pytestmark = pytest.mark.kernel

MIB = 1 << 20
SIZES = (1, 16 * 1024 + 1, MIB, 64 * MIB)
SCHEMES = ("http", "https")


def sha256_of_sample(length: int) -> str:
    digest: str = sample_server().sample_sha256(length)
    return digest


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_body_that_curl_receives_is_in_the_har(servers: Servers, tmp_path: Path, scheme: str) -> None:
    with record(tmp_path / "down.pcapng") as recording:
        for size in SIZES:
            body = curl(servers, servers.url(scheme, f"/bytes/{size}"))
            assert hashlib.sha256(body).hexdigest() == sha256_of_sample(size)
    found = entries(recording.path, servers.port(scheme))
    assert {path_of(entry): response_sha256(entry) for entry in found} == {
        f"/bytes/{size}": sha256_of_sample(size) for size in SIZES
    }
    assert len(found) == len(SIZES)
    assert [entry["_comm"] for entry in found] == ["curl"] * len(SIZES)
    assert mismatched_ports(recording.path) == []
    assert expert_problems(recording.path, f"tcp.port=={servers.port(scheme)}") == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_body_that_curl_sends_is_in_the_har(servers: Servers, tmp_path: Path, scheme: str) -> None:
    with record(tmp_path / "up.pcapng", "-c", "curl") as recording:
        for size in SIZES:
            upload = tmp_path / "upload"
            upload.write_bytes(sample_body(size))
            url = servers.url(scheme, f"/echo?size={size}")
            sent = ("--header", "Content-Type: application/octet-stream", "--data-binary", f"@{upload}")
            told = json.loads(curl(servers, *sent, url))
            assert told == {"length": size, "sha256": sha256_of_sample(size)}
    found = entries(recording.path, servers.port(scheme))
    assert {path_of(entry): request_sha256(entry) for entry in found} == {
        f"/echo?size={size}": sha256_of_sample(size) for size in SIZES
    }
    assert [entry["request"]["bodySize"] for entry in found] == list(SIZES)
    assert [json.loads(entry["response"]["content"]["text"])["length"] for entry in found] == list(SIZES)
    assert expert_problems(recording.path, f"tcp.port=={servers.port(scheme)}") == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_alone_on_a_connection_older_than_the_recording(
    servers: Servers, tmp_path: Path, scheme: str
) -> None:
    lengths = (1, 16_385, 300_007)
    with keep_alive_client(servers, scheme) as client:
        client.request("/bytes/977")
        with record(tmp_path / "client.pcapng", "-p", client.pid) as recording:
            for length in lengths:
                assert client.request(f"/bytes/{length}")["sha256"] == sha256_of_sample(length)
                client.request("/echo", "PUT", upload=length)
    found = entries(recording.path)
    assert [path_of(entry) for entry in found] == [
        path for length in lengths for path in (f"/bytes/{length}", "/echo")
    ]
    assert [response_sha256(entry) for entry in found[::2]] == [sha256_of_sample(n) for n in lengths]
    assert [request_sha256(entry) for entry in found[1::2]] == [sha256_of_sample(n) for n in lengths]
    assert {entry["_pid"] for entry in found} == {client.pid}
    assert {entry["serverIPAddress"] for entry in found} == {"127.0.0.1"}
    addresses = rows(
        recording.path,
        "tcp.flags.syn==1 && tcp.flags.ack==0",
        "ip.src",
        "tcp.srcport",
        "ip.dst",
        "tcp.dstport",
    )
    assert addresses == [("127.0.0.1", str(client.local_port), "127.0.0.1", str(servers.port(scheme)))]
    assert mismatched_ports(recording.path) == []
    assert expert_problems(recording.path) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nginx_alone_on_a_connection_older_than_the_recording(
    servers: Servers, tmp_path: Path, scheme: str
) -> None:
    lengths = (1, 16_385, 300_007)
    with nginx(tmp_path / "nginx", servers.certificate) as server:
        assert server.root is not None
        for length in lengths:
            (server.root / f"down-{length}").write_bytes(sample_body(length))
        with keep_alive_client(server, scheme) as client:
            client.request("/down-1?before")
            (worker,) = server.worker_pids
            with record(tmp_path / "nginx.pcapng", "-p", worker) as recording:
                for length in lengths:
                    assert client.request(f"/down-{length}")["sha256"] == sha256_of_sample(length)
                    assert client.request(f"/files/up-{length}", "PUT", upload=length)["status"] == 201
                    assert (server.root / f"files/up-{length}").read_bytes() == sample_body(length)
    found = entries(recording.path)
    assert [path_of(entry) for entry in found] == [
        path for length in lengths for path in (f"/down-{length}", f"/files/up-{length}")
    ]
    # Over HTTP nginx sends files by sendfile(2), whose bytes are seen below the system calls alone.
    assert [response_sha256(entry) for entry in found[::2]] == [sha256_of_sample(n) for n in lengths]
    assert [request_sha256(entry) for entry in found[1::2]] == [sha256_of_sample(n) for n in lengths]
    assert {entry["_pid"] for entry in found} == {worker}
    assert {header(entry["response"], "X-Client-Port") for entry in found} == {str(client.local_port)}
    assert mismatched_ports(recording.path) == []
    assert expert_problems(recording.path) == []


@pytest.mark.slow
def test_the_first_request_of_a_command_is_never_missing(servers: Servers, tmp_path: Path) -> None:
    for attempt in range(5):
        capture = tmp_path / f"{attempt}.pcapng"
        url = servers.url("https", f"/json?attempt={attempt}")
        done = record_command(capture, curl_command(servers, url))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["query"] == {"attempt": str(attempt)}
        (entry,) = entries(capture)
        assert entry["request"]["url"] == url
        assert entry["response"]["status"] == 200
        assert entry["timings"]["ssl"] > 0
        assert rows(capture, "tls.handshake.type==1", "tls.handshake.extensions_server_name") == [
            ("localhost",)
        ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_body_that_only_the_end_of_the_connection_delimits(
    servers: Servers, tmp_path: Path, scheme: str
) -> None:
    """In the HAR alone: tshark 4.0 never ends such a body over TLS, with or without close_notify and FIN."""
    with record(tmp_path / "close.pcapng", "--port", servers.port(scheme)) as recording:
        curl(servers, servers.url(scheme, "/close/70000"))
        settle()
    (entry,) = entries(recording.path)
    assert response_sha256(entry) == sha256_of_sample(70_000)
    assert expert_problems(recording.path) == []


def test_wireshark_lists_every_exchange_by_its_url_without_complaint(
    servers: Servers, tmp_path: Path
) -> None:
    paths = (
        "/",
        "/text",
        "/json?a=1&b=2",
        "/pixel.png",
        "/chunked/20000",
        "/encoded/gzip",
        "/status/204",
        "/status/304",
        "/redirect",
        "/cookies",
        "/events?count=3",
    )
    ports = [servers.http, servers.https]
    urls = [servers.url(scheme, path) for scheme in SCHEMES for path in paths]
    with record(tmp_path / "all.pcapng", "--port", servers.http, "--port", servers.https) as recording:
        for url in urls:
            curl(servers, url)
        curl(servers, "--head", servers.url("https", "/bytes/500"))
        settle()
    urls.append(servers.url("https", "/bytes/500"))
    assert requests(recording.path, ports) == urls
    assert len(rows(recording.path, "http.response", "frame.number")) == len(urls)
    assert expert_problems(recording.path) == []
    assert mismatched_ports(recording.path) == []
    found = entries(recording.path)
    assert [entry["request"]["url"] for entry in found] == urls
    text = next(entry for entry in found if path_of(entry) == "/encoded/gzip")
    assert text["response"]["content"]["text"] == curl(servers, servers.url("http", "/text")).decode()


@pytest.mark.parametrize("method", ["get", "Post", "x-Cache_2"])
def test_a_method_that_nobody_knows_is_http_all_the_same(
    servers: Servers, tmp_path: Path, method: str
) -> None:
    """Over HTTP; what is inside TLS is never told by its first bytes."""
    capture = tmp_path / "odd.pcapng"
    url = servers.url("http", "/bytes/17")
    done = record_command(capture, curl_command(servers, "--no-fail", "--request", method, url))
    (entry,) = entries(capture)
    assert (entry["request"]["method"], entry["request"]["url"]) == (method, url)
    assert entry["response"]["status"] >= 400, done.stderr
