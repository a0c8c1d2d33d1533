"""The catalogue of what was found: that it remembers exactly, forgets in time, and believes nobody else."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from compiled import LIBM, LIBSSL, compile_library

import capture.probe_catalog
from capture.file_view import ElfError
from capture.probe_catalog import DECIDING_MODULES, ProbeCatalog, default_cache_file
from capture.tls_libraries import probes_for


@pytest.fixture
def searches(monkeypatch):
    """The paths of files that were really looked into."""
    paths = []
    find = capture.probe_catalog.find_probes
    monkeypatch.setattr(capture.probe_catalog, "find_probes", lambda elf: paths.append(elf.path) or find(elf))
    return paths


def test_a_second_look_is_from_memory_and_equal(searches):
    catalog = ProbeCatalog()
    for path in (str(LIBSSL), str(LIBM)):
        assert catalog.probes_for(path) == catalog.probes_for(path) == probes_for(path)
    assert searches == [str(LIBSSL), str(LIBM)]
    assert not catalog.save()


def test_the_next_recording_looks_nothing_up(tmp_path, searches):
    file = tmp_path / "folder" / "probes.json"
    first = ProbeCatalog(file)
    for path in (str(LIBSSL), str(LIBM)):
        first.probes_for(path)
    assert first.save()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [entry.name for entry in file.parent.iterdir()] == ["probes.json"]
    del searches[:]
    second = ProbeCatalog(file)
    assert second.probes_for(str(LIBSSL)) == probes_for(str(LIBSSL))
    assert second.probes_for(str(LIBM)) is None
    assert searches == []
    assert second.save()


def test_another_name_of_a_file_needs_no_second_look(tmp_path, searches):
    file = tmp_path / "file"
    shutil.copy(LIBSSL, file)
    (tmp_path / "link").symlink_to(file)
    catalog = ProbeCatalog()
    original = catalog.probes_for(str(file))
    found = catalog.probes_for(str(tmp_path / "link"))
    assert searches == [str(file)]
    assert found.sites == original.sites


def test_a_forged_copy_says_nothing_of_the_original(tmp_path):
    """It has the build ID and the size, and a symbol that is elsewhere."""
    source = "int SSL_read(void *s, void *b, int n) { return n; } int SSL_write(void *s, void *b, int n) { return 7; }"
    (tmp_path / "forged").mkdir()
    original = compile_library(tmp_path, source, "-Wl,--build-id=0x1234")
    forged = compile_library(
        tmp_path / "forged", f"int before(void) {{ return 1; }} {source}", "-Wl,--build-id=0x1234"
    )
    larger = max(original.stat().st_size, forged.stat().st_size)
    for path in (original, forged):
        os.truncate(path, larger)
    catalog = ProbeCatalog()
    catalog.probes_for(str(forged))
    assert catalog.probes_for(str(original)) == probes_for(str(original))
    assert catalog.probes_for(str(forged)).sites != catalog.probes_for(str(original)).sites


@pytest.mark.parametrize("options", [("-Wl,--build-id=none",), ()], ids=["without build ID", "with build ID"])
def test_a_change_is_noticed_whatever_its_owner_says(tmp_path, searches, options):
    source = "int SSL_read(void *s, void *b, int n) { return n; }"
    path = compile_library(tmp_path, source, *options)
    catalog = ProbeCatalog()
    assert catalog.probes_for(str(path)) == catalog.probes_for(str(path))
    assert len(searches) == 1
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"\x7fELF")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    catalog.probes_for(str(path))
    assert len(searches) == 2


def test_what_cannot_be_read_is_not_remembered(tmp_path):
    path = tmp_path / "late.so"
    catalog = ProbeCatalog(tmp_path / "probes.json")
    path.write_bytes(b"half")
    with pytest.raises(ElfError):
        catalog.probes_for(str(path))
    shutil.copy(LIBSSL, path)
    assert catalog.probes_for(str(path)).library.startswith("OpenSSL")


def saved(tmp_path):
    file = tmp_path / "probes.json"
    catalog = ProbeCatalog(file)
    catalog.probes_for(str(LIBSSL))
    catalog.save()
    return file, json.loads(file.read_text())


def spoiled(content):
    """The file as it was saved, with one thing wrong."""
    (entry,) = content["files"].values()
    for change in (
        {"code": "0" * 64},
        {"files": []},
        {"files": {"a": 7}},
        {"files": {"a": {**entry, "level": "certain"}}},
        {"files": {"a": {**entry, "library": None}}},
        {"files": {"a": {**entry, "place": None}}},
        {"files": {"a": {**entry, "sites": [["NO_SUCH_CALL", "f", 1, 1, []]]}}},
        {"files": {"a": {**entry, "sites": [["FREE", "f", -1, None, []]]}}},
        {"files": {"a": {**entry, "sites": [["FREE", "f", 1.5, None, []]]}}},
        {"files": {"a": {**entry, "sites": [["FREE", "f"]]}}},
        {"files": {"a": {key: value for key, value in entry.items() if key != "notes"}}},
    ):
        yield json.dumps(content | change)
    yield ""
    yield "[]"
    yield "{" * 100_000
    yield json.dumps(content)[:-10]
    yield "\xff\0"


def test_a_malformed_file_is_as_none(tmp_path, searches):
    file, content = saved(tmp_path)
    cases = list(spoiled(content))
    for case in cases:
        file.write_bytes(case.encode("latin-1"))
        del searches[:]
        catalog = ProbeCatalog(file)
        assert catalog.probes_for(str(LIBSSL)) == probes_for(str(LIBSSL))
        assert searches == [str(LIBSSL)]
    assert len(cases) == 16


def test_where_files_with_probes_were_is_known_the_next_time(tmp_path):
    """The latest first; not those that are gone or are others, which would have to be searched while programs are held,
    and none in a process's folder, whose number will be another's.
    """
    file = tmp_path / "probes.json"
    catalog = ProbeCatalog(file)
    copies = [tmp_path / name for name in ("a", "b", "gone", "other", "plain")]
    for copy in copies:
        shutil.copy(LIBM if copy.name == "plain" else LIBSSL, copy)
        assert (catalog.probes_for(str(copy)) is None) == (copy.name == "plain")
    catalog.probes_for(str(LIBSSL), f"/proc/{os.getpid()}/root{LIBSSL}")
    catalog.probes_for(str(copies[0]))
    copies[2].unlink()
    copies[3].unlink()
    shutil.copy(LIBSSL, copies[3])
    assert catalog.save()
    assert ProbeCatalog(file).places() == catalog.places() == [str(copies[0]), str(copies[1])]


def test_a_few_places_are_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(capture.probe_catalog, "MAX_PLACES", 2)
    catalog = ProbeCatalog()
    for name in "abc":
        catalog.probes_for(str(shutil.copy(LIBSSL, tmp_path / name)))
    assert catalog.places() == [str(tmp_path / name) for name in "cb"]


def test_offsets_behind_the_files_end_are_looked_up_again(tmp_path, searches):
    file, content = saved(tmp_path)
    (entry,) = content["files"].values()
    entry["sites"][0][2] = 1 << 40
    file.write_text(json.dumps(content))
    del searches[:]
    assert ProbeCatalog(file).probes_for(str(LIBSSL)) == probes_for(str(LIBSSL))
    assert searches == [str(LIBSSL)]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_believed(tmp_path, searches, mode):
    file, _ = saved(tmp_path)
    file.chmod(mode)
    del searches[:]
    ProbeCatalog(file).probes_for(str(LIBSSL))
    assert searches == [str(LIBSSL)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_not_believed(tmp_path, searches):
    file, _ = saved(tmp_path)
    os.chown(file, 12345, 12345)
    del searches[:]
    ProbeCatalog(file).probes_for(str(LIBSSL))
    assert searches == [str(LIBSSL)]


def test_where_nothing_can_be_written_nothing_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    catalog = ProbeCatalog(tmp_path / "file" / "probes.json")
    assert catalog.probes_for(str(LIBM)) is None
    assert not catalog.save()


def test_what_is_found_is_kept_under_the_code_that_found_it(tmp_path, searches, monkeypatch):
    """The code on disk may be another version's by the time a long recording ends."""
    file = tmp_path / "probes.json"
    catalog = ProbeCatalog(file)
    catalog.probes_for(str(LIBM))
    monkeypatch.setattr(capture.probe_catalog, "_code_digest", lambda: "of the next version")
    assert catalog.save()
    del searches[:]
    ProbeCatalog(file).probes_for(str(LIBM))
    assert searches == [str(LIBM)]


def test_the_digest_covers_every_module_that_decides():
    """Those that tls_libraries imports, and what they import."""
    folder = Path(capture.probe_catalog.__file__).parent
    seen, waiting = set(), {"tls_libraries"}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "capture":
                waiting |= {alias.name for alias in node.names} - seen
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("capture."):
                waiting |= {node.module.removeprefix("capture.")} - seen
    assert seen - {"errors"} == set(DECIDING_MODULES)


def test_the_default_place(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_file() == Path("/somewhere/plaintap/probes.json")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_file() == Path.home() / ".cache/plaintap/probes.json"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_cache_file() == Path("/var/cache/plaintap/probes.json")


def test_a_hundred_libraries_come_back_equal(tmp_path):
    listing = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    paths = [line.rsplit(" => ", 1)[1] for line in listing.splitlines() if "libc6,x86-64" in line][:100]
    catalog = ProbeCatalog(tmp_path / "probes.json")
    found = [catalog.probes_for(path) for path in paths]
    catalog.save()
    loaded = ProbeCatalog(tmp_path / "probes.json")
    assert [loaded.probes_for(path) for path in paths] == found
