"""The sample server, whose answers every kernel test trusts, judged by curl."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from clients import curl, curl_command, keep_alive_client
from https_client import sample_body, sample_server
from processes import wait_until
from servers import sample_servers

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Servers

SCHEMES = ("http", "https")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "path", ["/bytes/1", "/bytes/16385", "/bytes/1048577", "/chunked/20000", "/close/16385"]
)
def test_sample_bodies_are_a_function_of_their_length(servers: Servers, scheme: str, path: str) -> None:
    body = curl(servers, servers.url(scheme, path))
    assert body == sample_body(int(path.rpartition("/")[2]))


def test_the_digest_in_the_header_is_the_body_s() -> None:
    assert sample_server().sample_sha256(70_001) == hashlib.sha256(sample_body(70_001)).hexdigest()


def test_chunks_have_the_size_that_was_asked_for_and_a_trailer(servers: Servers) -> None:
    raw = curl(servers, "--raw", "--include", servers.url("http", "/chunked/250?size=100"))
    body = sample_body(250)
    digest = hashlib.sha256(body).hexdigest()
    chunks = [body[:100], body[100:200], body[200:]]
    expected = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    assert raw.endswith(b"\r\n\r\n" + expected + f"0\r\nX-SHA256: {digest}\r\n\r\n".encode())


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw-deflate", "br", "zstd"])
def test_content_codings(servers: Servers, coding: str) -> None:
    plain = curl(servers, servers.url("http", "/text"))
    assert len(curl(servers, servers.url("http", f"/encoded/{coding}"))) < len(plain) // 4
    if coding != "zstd":  # Debian 12's curl does not decode it
        assert curl(servers, "--compressed", servers.url("http", f"/encoded/{coding}")) == plain


@pytest.mark.parametrize("scheme", SCHEMES)
def test_uploads_are_hashed_in_both_framings(servers: Servers, tmp_path: Path, scheme: str) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(sample_body(200_003))
    expected = {"length": 200_003, "sha256": sample_server().sample_sha256(200_003)}
    url = servers.url(scheme, "/echo")
    assert json.loads(curl(servers, "--data-binary", f"@{upload}", url)) == expected
    chunked = ("--upload-file", "-", "--header", "Transfer-Encoding: chunked")
    command = curl_command(servers, *chunked, url)
    done = subprocess.run(command, input=upload.read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stdout) == expected


def test_statuses_and_redirects(servers: Servers) -> None:
    told = ("--output", "/dev/null", "--write-out", "%{http_code} %{size_download} %{num_connects}\n")
    urls = [servers.url("http", path) for path in ("/status/204", "/status/304", "/json")]
    assert curl(
        servers, *told, *(part for url in urls for part in (*told[:2], url))
    ).decode().splitlines() == [
        "204 0 1",
        "304 0 0",
        f"200 {len(json.dumps({'method': 'GET', 'path': '/json', 'query': {}}))} 0",
    ]
    final = curl(servers, "--location", "--write-out", "%{num_redirects}", servers.url("https", "/redirect"))
    assert final == curl(servers, servers.url("https", "/text")) + b"1"


def test_head_has_the_header_of_get_and_no_body(servers: Servers) -> None:
    answer = curl(servers, "--head", servers.url("https", "/bytes/12345")).decode()
    assert "Content-Length: 12345" in answer


def test_events_and_cookies(servers: Servers) -> None:
    events = curl(servers, servers.url("https", "/events?count=2")).decode()
    assert events.count("event: tick") == 2
    answer = curl(servers, "--include", "--cookie", "a=1; b=2", servers.url("http", "/cookies")).decode()
    assert answer.endswith("\r\n\r\na=1; b=2")
    assert answer.count("Set-Cookie: ") == 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_keep_alive_client_stays_on_one_connection(servers: Servers, scheme: str) -> None:
    with keep_alive_client(servers, scheme) as client:
        for length in (1, 16_385, 0):
            answer = client.request(f"/bytes/{length}")
            assert answer["sha256"] == sample_server().sample_sha256(length)
            assert answer["headers"]["X-Client-Port"] == str(client.local_port)
        assert client.request("/echo", "PUT", upload=5)["status"] == 200


def test_it_serves_ipv6_and_removes_its_certificate_when_it_ends() -> None:
    with sample_servers("::1") as servers:
        url = f"https://[::1]:{servers.https}/bytes/3"
        assert curl(servers, url) == sample_body(3)
        assert servers.certificate.exists()
    wait_until(lambda: not servers.certificate.parent.exists(), "the certificate's folder to be removed")
