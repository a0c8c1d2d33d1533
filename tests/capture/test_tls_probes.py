"""Between the look at a file and its probes, its process may end and its path with it; and someone may write to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compiled import LIBSSL, compile_library
from processes import wait_until
from rustls_like import NEW, compile_program

from bpf import abi
from capture.leases import Leases
from capture.probe_catalog import ProbeCatalog
from capture.processes import ExecutableFile, Version, discover_files
from capture.tls_probes import Look, TlsFiles, TlsProbes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bpf.probes import UprobeSite
    from capture.older_calls import ProbedFile

LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print('loaded', flush=True); sys.stdin.read()"


class Attached:
    """Where probes would go: the inodes behind the paths."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self.older: list[int] = []  # where calls of before the probes are looked for
        self.released: list[int] = []
        self.sites: list[UprobeSite] = []
        self.known: dict[tuple[int, int], Version] = {}
        self.keys: list[int] = []

    def attach_uprobes(self, path: str, sites: Sequence[UprobeSite], library: int) -> tuple[int, ...]:
        assert sites
        self.sites += sites
        self.inodes.append(os.stat(path).st_ino)  # noqa: PTH116 - as the kernel resolves it
        return (library,)

    def release(self, links: Sequence[int]) -> None:
        self.released += links

    def know_file(self, device: int, inode: int, version: Version) -> None:
        self.known[device, inode] = version

    def forget_file(self, device: int, inode: int, version: Version) -> None:
        assert self.known.pop((device, inode)) == version

    def expect_keys(self, pid: int) -> None:
        self.keys.append(pid)

    def add(self, file: ProbedFile) -> None:
        self.older.append(file.inode)

    def remove(self, inode: int) -> None:
        self.older.remove(inode)


@pytest.fixture
def leases() -> Iterator[Leases]:
    """Leases that end with the test."""
    held = Leases()
    yield held
    held.close()


def look_at(files: TlsFiles, path: Path) -> list[Look]:
    """Look at a file by its path."""
    status = path.stat()
    return files.look_at_path(str(path), status.st_ino, Version.of(status))


def test_a_fifo_under_a_librarys_name_is_not_waited_for(leases: Leases, tmp_path: Path) -> None:
    """Whose process is looked at can put one there after the file was found."""
    library = tmp_path / "libssl.so"
    shutil.copy(LIBSSL, library)
    status = library.stat()
    found = ExecutableFile(
        str(library), status.st_dev, status.st_ino, Version.of(status), str(library), (os.getpid(),)
    )
    library.unlink()
    os.mkfifo(library)
    done: list[list[Look]] = []
    files = TlsFiles(ProbeCatalog(), leases)
    thread = threading.Thread(target=lambda: done.append(files._look([found])), daemon=True)
    thread.start()
    thread.join(5.0)
    assert done == [[]]


def test_processes_that_have_keys_already_are_told_of(leases: Leases, tmp_path: Path) -> None:
    attached = Attached()
    for path, pids in ((compile_program(tmp_path, NEW), (7, 9)), (tmp_path / "libssl.so", (8,))):
        if not path.exists():
            shutil.copy(LIBSSL, path)
        (look,) = look_at(TlsFiles(ProbeCatalog(), leases), path)
        TlsProbes(attached, attached, attached).attach([replace(look, file=replace(look.file, pids=pids))])
    assert attached.keys == [7, 9]


def test_code_in_a_file_of_another_kind_is_left_alone_without_a_word(leases: Leases, tmp_path: Path) -> None:
    """SBCL's programs map an image of Lisp, .NET's and Wine's those of Windows."""
    library, image = tmp_path / "libssl.so", tmp_path / "sbcl.core"
    library.write_bytes(Path(LIBSSL).read_bytes()[:100])
    image.write_bytes(b"LCBS" + bytes(1 << 16))
    looks = [look for path in (library, image) for look in look_at(TlsFiles(ProbeCatalog(), leases), path)]
    assert [look.probes for look in looks] == [None, None]
    attached = Attached()
    probes = TlsProbes(attached, attached, attached)
    probes.attach(looks)
    (warning,) = probes.take_warnings()
    assert f"{library}: no probes" in warning
    # Whoever maps it next does not wait for a look.
    assert {inode for _, inode in attached.known} == {library.stat().st_ino, image.stat().st_ino}


def test_another_file_under_the_name_is_not_looked_at(leases: Leases, tmp_path: Path) -> None:
    library, other = tmp_path / "libssl.so", tmp_path / "other"
    for path in (library, other):
        shutil.copy(LIBSSL, path)
    status = library.stat()
    found = ExecutableFile(str(library), status.st_dev, status.st_ino, Version.of(status), str(library), ())
    other.rename(library)
    files = TlsFiles(ProbeCatalog(), leases)
    assert files._look([found]) == []
    (look,) = look_at(files, library)
    assert look.probes


CONTAINER = """
mount -t tmpfs tmpfs "$1"
cp /lib/x86_64-linux-gnu/libssl.so.3 "$1"
sed 's/OpenSSL 3\\.[0-9.]* /OpenSSL 3.0.99 /' /lib/x86_64-linux-gnu/libcrypto.so.3 >"$1/libcrypto.so.3"
echo mounted
read end
"""


@pytest.mark.kernel  # for the right to mount
def test_a_container_s_library_has_the_version_of_its_own_companion(leases: Leases, tmp_path: Path) -> None:
    """At the same path the host has none, or another."""
    command = ["unshare", "--mount", "sh", "-ec", CONTAINER, "sh", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"mounted\n"
        library = Path(f"/proc/{child.pid}/root{tmp_path}/libssl.so.3")
        (look,) = look_at(TlsFiles(ProbeCatalog(), leases), library)
        child.communicate(b"\n")
    assert look.probes
    assert "3.0.99" in look.probes.library


def test_of_many_files_the_first_are_forgotten(
    leases: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capture.tls_probes.MAX_SEEN", 3)
    files = TlsFiles(ProbeCatalog(), leases)
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_bytes(b"no program")
        look_at(files, path)
    seen = [files.has_seen(path.stat().st_ino, Version.of(path.stat())) for path in paths]
    assert seen == [False, False, True, True, True]
    assert len(files._seen) == len(files._inodes) == 3


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A library as two containers of one image have it."""
    with contextlib.ExitStack() as mounts:
        layers = tmp_path / "layers"
        layers.mkdir()
        # An overlay on an overlay would hide the inode.
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", layers], check=True)
        mounts.callback(subprocess.run, ["umount", layers], check=True)
        for name in ("image", "upper1", "work1", "upper2", "work2", "root1", "root2"):
            (layers / name).mkdir()
        shutil.copy(LIBSSL, layers / "image/libssl.so")
        for number in "12":
            options = f"lowerdir={layers}/image,upperdir={layers}/upper{number},workdir={layers}/work{number}"
            root = layers / f"root{number}"
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
            mounts.callback(subprocess.run, ["umount", "-l", root], check=True)
        yield layers / "root1/libssl.so", layers / "root2/libssl.so"


@pytest.mark.kernel  # for the right to mount
def test_containers_of_one_image_share_their_probes(leases: Leases, containers: tuple[Path, Path]) -> None:
    first, second = containers
    assert first.stat().st_dev != second.stat().st_dev
    files, attached = TlsFiles(ProbeCatalog(), leases), Attached()
    probes = TlsProbes(attached, attached, attached)  # type: ignore[arg-type]
    probes.attach([*look_at(files, first), *look_at(files, second)])
    assert attached.inodes == [first.stat().st_ino]
    # In the first one someone writes to it: the probes go with it, and the other gets its own.
    version = Version.of(second.stat())
    with first.open("r+b"):
        wait_until(lambda: attached.released, "the probes to go")

    def is_read_again() -> bool:
        """A look comes after the lease has gone, as the recorder's does that looks again and again."""
        probes.attach(files.look_again())
        return len(attached.inodes) >= 2

    wait_until(is_read_again, "the other's own probes")
    assert files.has_seen(second.stat().st_ino, version)


@pytest.mark.kernel  # for the right to open files in /proc/PID/map_files
@pytest.mark.parametrize("looked", [True, False], ids=["after the look", "before the look"])
def test_a_process_that_ends_leaves_no_warning(leases: Leases, tmp_path: Path, looked: bool) -> None:
    library = tmp_path / "own.so"
    shutil.copy(LIBSSL, library)
    inode = library.stat().st_ino
    files, attached = TlsFiles(ProbeCatalog(), leases), Attached()
    probes = TlsProbes(attached, attached, attached)  # type: ignore[arg-type]
    command = [sys.executable, "-c", LOAD, str(library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"loaded\n"
        library.unlink()
        (found,) = [file for file in discover_files((child.pid,)) if file.name == str(library)]
        looks = files._look([found]) if looked else []
        child.communicate()
    probes.attach(looks or files._look([found]))
    assert probes.take_warnings() == []
    assert attached.inodes == ([inode] if looked else [])


@pytest.mark.kernel  # for the right to open files in /proc/PID/map_files
def test_a_deleted_file_is_let_go_when_nobody_maps_it_any_more(leases: Leases, tmp_path: Path) -> None:
    library, kept = tmp_path / "own.so", tmp_path / "kept.so"
    for path in (library, kept):
        shutil.copy(LIBSSL, path)
    files, attached = TlsFiles(ProbeCatalog(), leases), Attached()
    probes = TlsProbes(attached, attached, attached)  # type: ignore[arg-type]
    probes.attach(look_at(files, kept))
    command = [sys.executable, "-c", LOAD, str(library)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"loaded\n"
        probes.attach(look_at(files, library))
        inode = library.stat().st_ino
        held = files._leased[library.stat().st_dev, inode][1].file
        library.unlink()
        assert files.drop_deleted() == []
        assert (attached.released, held.closed) == ([], False)
        child.communicate()
    assert inode not in {look.file.inode for look in files.drop_deleted()}
    assert (attached.released, held.closed) == ([2], True)
    assert list(attached.known) == [(kept.stat().st_dev, kept.stat().st_ino)]


def test_a_file_that_is_written_to_loses_its_probes_before_and_gets_others_after(
    leases: Leases, tmp_path: Path
) -> None:
    library = tmp_path / "own.so"
    shutil.copy(LIBSSL, library)
    files, attached = TlsFiles(ProbeCatalog(), leases), Attached()
    probes = TlsProbes(attached, attached, attached)  # type: ignore[arg-type]
    probes.attach(look_at(files, library))
    assert (len(attached.inodes), attached.released, len(attached.known)) == (1, [], 1)
    assert attached.older == attached.inodes
    library.chmod(0o700)
    probes.attach(look_at(files, library))
    assert (len(attached.inodes), attached.released) == (1, [])
    with library.open("r+b") as writer:
        assert (attached.released, attached.known, attached.older) == ([1], {}, [])
        probes.attach([*files.look_again(), *look_at(files, library)])
        assert attached.known == {}
        writer.truncate(4096)
    warnings: list[str] = []

    # The thread that let the writer go on may tell of it later than the writer is done.
    def told() -> bool:
        probes.attach(files.look_again())
        warnings.extend(probes.take_warnings())
        return bool(warnings)

    wait_until(told, "the second look")
    (warning,) = warnings
    assert str(library) in warning
    shutil.copy(LIBSSL, library)
    probes.attach(look_at(files, library))
    assert (len(attached.inodes), attached.released, len(attached.known)) == (2, [1], 1)


def test_what_is_written_over_counts_as_new_though_it_has_no_probes(leases: Leases, tmp_path: Path) -> None:
    file = tmp_path / "file"
    shutil.copy("/bin/true", file)
    files, attached = TlsFiles(ProbeCatalog(), leases), Attached()
    probes = TlsProbes(attached, attached, attached)  # type: ignore[arg-type]
    probes.attach(look_at(files, file))
    assert look_at(files, file) == []
    (before,) = attached.known.values()
    assert files.has_seen(file.stat().st_ino, before)
    file.write_bytes(LIBSSL.read_bytes())
    probes.attach(look_at(files, file))
    assert len(attached.inodes) == 1
    assert attached.known != {}
    assert not files.has_seen(file.stat().st_ino, before)


def test_a_bio_is_for_the_library_that_writes_to_it(leases: Leases, tmp_path: Path) -> None:
    """s2n comes with a libcrypto, often in one file, and writes its records without it."""
    names = ("s2n_recv", "s2n_send", "s2n_negotiate", "SSL_read", "SSL_write", "BIO_read", "BIO_write")
    source = "".join(f"long {name}(void *o, void *b, long n) {{ return n; }}\n" for name in names)
    files, attached = TlsFiles(ProbeCatalog(), leases), Attached()
    probes = TlsProbes(attached, attached, attached)  # type: ignore[arg-type]
    probes.attach(look_at(files, compile_library(tmp_path, source)))
    without_bio = abi.header().constants["WITHOUT_BIO"]
    flags = [(site.shape, bool(site.flags & without_bio)) for site in attached.sites]
    assert set(flags) >= {
        ("READ_INT", False),
        ("WRITE_INT", False),
        ("READ_LONG", True),
        ("WRITE_LONG", True),
    }
