"""Firefox's own network panel reads our archives, whatever is in them, and shows each entry as it is."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from archives import write_har
from odd_http import odd_exchanges
from processes import PYTHON, ROOT
from stacks import PROGRAMS

from exporters.har import EntryMaker
from exporters.har_redaction import Redaction

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kernel, pytest.mark.stacks]

SECONDS = 120


def imported(archive: Path) -> list[dict[str, Any]]:
    """The requests that the panel shows."""
    command = [str(PYTHON), str(PROGRAMS / "firefox_import.py"), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("["), done.stdout
    shown: list[dict[str, Any]] = json.loads(done.stdout)
    return shown


def compare(archive: Path) -> int:
    """Each entry is shown, and with all that it says; how many there are."""
    entries = json.loads(archive.read_bytes())["log"]["entries"]
    shown = imported(archive)
    assert len(shown) == len(entries)
    for entry, panel in zip(sorted(entries, key=order), sorted(shown, key=order), strict=True):
        request, response = entry["request"], entry["response"]
        assert panel["host"] or request["url"].startswith("file:")
        for name in ("url", "method", "httpVersion"):
            assert panel[name] == request[name]
        for name in ("status", "statusText"):
            assert panel[name] == response[name]
        assert panel["requestHeaders"] == request["headers"]
        assert panel["responseHeaders"] == response["headers"]
        assert panel["requestCookies"] == request["cookies"]
        assert panel["responseCookies"] == response["cookies"]
        assert panel["postData"] == request.get("postData", {})
        assert panel["content"] == response["content"]
        assert panel["mimeType"] == response["content"]["mimeType"]
        assert panel["contentSize"] == response["content"]["size"]
        assert panel["transferredSize"] == response["bodySize"]
        assert (panel["remoteAddress"], panel["remotePort"]) == (
            entry["serverIPAddress"],
            entry["connection"],
        )
        assert panel["timings"] == entry["timings"]
        # Firefox adds up all phases, though HAR 1.2 has ssl inside connect.
        assert panel["totalTime"] == pytest.approx(entry["time"] + max(entry["timings"]["ssl"], 0))
    return len(entries)


def order(entry: dict[str, Any]) -> str:
    """A key by which the same entries come in the same order, for the panel sorts by time alone."""
    request, response = entry.get("request", entry), entry.get("response", entry)
    sent = request.get("headers", entry.get("requestHeaders"))
    received = response.get("headers", entry.get("responseHeaders"))
    return json.dumps(
        [
            request["url"],
            request["method"],
            sent,
            request.get("postData") or {},
            received,
            response["status"],
            response["content"],
        ]
    )


def test_the_samples() -> None:
    assert compare(ROOT / "samples" / "https.har") == 27
    assert compare(ROOT / "samples" / "losses.har") == 3


def test_odd_exchanges(tmp_path: Path) -> None:
    archive = tmp_path / "odd.har"
    with archive.open("wb+") as output:
        write_har(odd_exchanges(), output, EntryMaker(redaction=Redaction.of(sensitive=True)))
    assert compare(archive) > 100
