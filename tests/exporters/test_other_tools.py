"""Our captures after other tools have had them: saved again, cut, merged, sorted, converted."""

from __future__ import annotations

import gzip
import subprocess
from typing import TYPE_CHECKING

import pytest
from judges import tshark
from transcripts import NGINX, Transcript, interleave, read, timeless, tls, write

from capture.streams import Data, Side, StreamItem, StreamOpened

if TYPE_CHECKING:
    from pathlib import Path


def transcripts() -> list[Transcript]:
    """Streams of several kinds."""
    return [
        Transcript(1, tls=tls("h2"), peer_process=NGINX)
        .exchange(2)
        .lose(Side.SERVER, 40_000)
        .exchange(2)
        .close(),
        Transcript(2, port=80).client(b"x" * 70_000).server(b"y" * 200).close(Side.CLIENT),
        Transcript(3, port=8443, tls=tls(None, started_ns=None, established_ns=None)).exchange().close(),
    ]


def of_stream(items: list[StreamItem], number: int) -> list[StreamItem]:
    """The items of one stream, without times."""
    return timeless(item for item in items if item.stream == number)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


@pytest.mark.parametrize("tool", ["tshark", "editcap", "editcap --compress", "mergecap", "reordercap"])
def test_a_copy_has_everything(tmp_path: Path, tool: str) -> None:
    streams = transcripts()
    ours, copy = write(tmp_path / "ours.pcapng", interleave(streams)), tmp_path / "copy.pcapng"
    if tool == "tshark":
        tshark(ours, "-w", str(copy))
    elif tool == "editcap":
        run("editcap", ours, copy)
    elif tool == "editcap --compress":
        copy.write_bytes(gzip.compress(ours.read_bytes()))
    elif tool == "mergecap":
        run("mergecap", "-w", copy, ours)
    else:
        run("reordercap", ours, copy)
    found = read(copy.read_bytes())
    numbers = {item.client: item.stream for item in found if isinstance(item, StreamOpened)}
    for stream in streams:
        opened = stream.items[0]
        assert isinstance(opened, StreamOpened)
        expected = timeless(stream.items)
        actual = of_stream(found, numbers[opened.client])
        assert [getattr(item, "data", type(item)) for item in actual] == [
            getattr(item, "data", type(item)) for item in expected
        ]
        assert isinstance(actual[0], StreamOpened)
        assert actual[0].process == opened.process
        assert actual[0].tls == opened.tls


def test_a_pcap_without_comments_has_addresses_bytes_and_tls(tmp_path: Path) -> None:
    ours, pcap = write(tmp_path / "a.pcapng", transcripts()[0].items), tmp_path / "a.pcap"
    run("editcap", "-F", "nsecpcap", ours, pcap)
    opened, *rest = read(pcap.read_bytes())
    expected = transcripts()[0].items
    assert isinstance(opened, StreamOpened)
    assert opened.process is None
    assert opened.tls == tls("h2", library=None)
    assert [item for item in rest if isinstance(item, Data) and item.stream == 1][:4] == [
        item for item in expected if isinstance(item, Data)
    ][:4]


def test_a_part_without_the_handshakes_still_has_its_plaintext(tmp_path: Path) -> None:
    stream = Transcript(tls=tls("http/1.1")).exchange(4).close()
    ours, part = write(tmp_path / "a.pcapng", stream.items), tmp_path / "part.pcapng"
    tshark(ours, "-Y", "http", "-w", str(part))
    opened, *rest = read(part.read_bytes())
    assert isinstance(opened, StreamOpened)
    assert not opened.handshake_seen
    assert opened.tls is not None
    assert opened.server.port == 443
    assert rest == [item for item in stream.items if isinstance(item, Data)]


def test_capinfos_counts_what_we_say(tmp_path: Path) -> None:
    ours = write(tmp_path / "a.pcapng", interleave(transcripts()))
    shown = subprocess.run(["capinfos", str(ours)], check=True, capture_output=True, text=True).stdout
    assert "plaintap test" in shown
    assert "nanoseconds" in shown
    assert "Number of interfaces in file: 1" in shown
