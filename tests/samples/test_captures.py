"""The sample captures: what they export to is as it was, and other people's programs agree with them."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import har_schema
import pytest
from devtools import import_har
from haralyzer import HarParser
from judges import expert_problems, mismatched_ports, requests, wrong_checksums
from recording import export

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CAPTURES = sorted([*SAMPLES.glob("*.pcapng"), *SAMPLES.glob("*.pcap")])
OURS = [path for path in CAPTURES if path.suffix == ".pcapng"]
MAX_BYTES = 300_000
# Where a machine keeps its own things; /usr is the same on all.
MACHINE_PATH = re.compile(rb"/(?:home|root|tmp|var|work|opt|srv|mnt)/[\w.]+")

captures = pytest.mark.parametrize("capture", CAPTURES, ids=[path.name for path in CAPTURES])
ours = pytest.mark.parametrize("capture", OURS, ids=[path.name for path in OURS])


def archive(capture: Path) -> dict[str, Any]:
    """The HAR beside a capture."""
    har: dict[str, Any] = json.loads(capture.with_suffix(".har").read_bytes())
    return har


def test_there_are_samples() -> None:
    assert {path.name for path in CAPTURES} >= {
        "https.pcapng",
        "http.pcapng",
        "losses.pcapng",
        "foreign.pcap",
    }


@captures
def test_the_export_is_as_it_was(capture: Path, tmp_path: Path) -> None:
    """If a change is meant: samples/record.py export, and read the difference."""
    shutil.copy(capture, tmp_path)
    made, kept = export(tmp_path / capture.name), archive(capture)
    for har in (made, kept):
        har["log"]["creator"].pop("version")
    assert made == kept


@captures
def test_the_archive_keeps_to_the_schema_and_haralyzer_reads_it(capture: Path) -> None:
    har = archive(capture)
    assert har_schema.problems(har) == []
    parser = HarParser(har)
    assert sum(len(page.entries) for page in parser.pages) == len(har["log"]["entries"]) > 0


@captures
def test_wireshark_and_the_archive_name_the_same_requests(capture: Path) -> None:
    entries = archive(capture)["log"]["entries"]
    seen = [entry["request"]["url"] for entry in entries if entry["request"]["method"] != "UNKNOWN"]
    assert requests(capture) == seen
    assert mismatched_ports(capture) == []


@ours
def test_wireshark_and_scapy_have_no_complaint(capture: Path) -> None:
    # tshark 4.0 warns of the content codings that it cannot undo.
    assert expert_problems(capture, 'http.content_encoding != "zstd"') == []
    assert wrong_checksums(capture) == []


def test_devtools_show_every_row(tmp_path: Path) -> None:
    capture = SAMPLES / "https.pcapng"
    found = import_har(capture.with_suffix(".har"))
    entries = archive(capture)["log"]["entries"]
    assert [request["url"] for request in found["requests"]] == [entry["request"]["url"] for entry in entries]
    assert [request["status"] for request in found["requests"]] == [
        entry["response"]["status"] for entry in entries
    ]
    assert found["problems"] == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_both_schemes_gave_the_same(scheme: str) -> None:
    """What was asked is what endpoints.sh asks; what came is what the server's documentation says."""
    entries = archive(SAMPLES / f"{scheme}.pcapng")["log"]["entries"]
    text = archive(SAMPLES / "http.pcapng")["log"]["entries"][1]["response"]["content"]["text"]
    assert len(text.encode()) == 3440
    by_path = {urlsplit(entry["request"]["url"]).path: entry for entry in entries}
    for coding in ("gzip", "deflate", "br", "zstd"):
        assert by_path[f"/encoded/{coding}"]["response"]["content"]["text"] == text
    for path, status in (
        ("/status/204", 204),
        ("/status/304", 304),
        ("/no/such/page", 404),
        ("/redirect", 302),
    ):
        assert by_path[path]["response"]["status"] == status
    assert by_path["/redirect"]["response"]["redirectURL"] == "/text"
    assert by_path["/bytes/12345"]["request"]["method"] == "HEAD"
    assert by_path["/bytes/12345"]["response"]["content"]["size"] == 0
    assert by_path["/close/3000"]["response"]["content"]["size"] == 3000
    form = {field["name"]: field["value"] for field in by_path["/form"]["request"]["postData"]["params"]}
    assert form == {"name": "Ada Lovelace", "language": "français"}


@pytest.mark.parametrize("path", [*CAPTURES, *SAMPLES.glob("*.har")], ids=lambda path: path.name)
def test_samples_are_small_and_tell_nothing_of_a_machine(path: Path) -> None:
    content = path.read_bytes()
    assert len(content) < MAX_BYTES
    assert MACHINE_PATH.findall(content) == []
    assert not re.search(rb"\b" + re.escape(socket.gethostname().encode()) + rb"\b", content)
