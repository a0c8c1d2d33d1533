"""What can be recorded here, said without attaching anything."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capture import doctor, rights
from capture.errors import UsageError
from capture.probe_catalog import ProbeCatalog


@pytest.fixture
def tls_user():
    """A process that maps libssl: Python with its ssl module loaded."""
    script = "import ssl, sys; print(ssl.OPENSSL_VERSION, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process.pid, process.stdout.readline().strip()
        process.stdin.close()


def test_a_process_s_library_is_named_with_its_version_and_probes(tls_user):
    pid, version = tls_user
    (finding,) = doctor.examine_processes(str(pid), ProbeCatalog())
    assert finding.pid == pid
    assert finding.comm == "python3"
    assert version.startswith(finding.library)
    assert int(finding.probes.split()[0]) >= 4
    assert finding.missed is None


def test_a_process_is_found_by_its_name(tls_user):
    assert tls_user[0] in {finding.pid for finding in doctor.examine_processes("python3", ProbeCatalog())}


def test_a_process_without_tls_has_no_findings():
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert list(doctor.examine_processes(str(process.pid), ProbeCatalog())) == []
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["no-such-process", "999999999"])
def test_what_is_not_there_is_named(name):
    with pytest.raises(UsageError, match=name):
        list(doctor.examine_processes(name, ProbeCatalog()))


def test_a_file_can_be_asked_for():
    (finding,) = doctor.examine_processes(os.path.realpath(sys.executable), ProbeCatalog())
    assert finding.pid == 0


@pytest.mark.parametrize("name", ["libjvm.so", "beam.smp"])
def test_a_stack_that_cannot_be_read_is_named(tmp_path, name):
    copy = tmp_path / name
    shutil.copy("/bin/sleep", copy)
    copy.chmod(0o755)
    with subprocess.Popen([copy, "60"]) as process:
        try:
            (finding,) = doctor.examine_processes(str(process.pid), ProbeCatalog())
        finally:
            process.kill()
    assert finding.probes is None
    assert "cannot be read" in finding.missed


def test_each_fault_of_the_machine_has_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor.btf, "VMLINUX", Path("/nowhere"))
    monkeypatch.setattr(platform, "release", lambda: "4.19.0")
    checks = {check.name: check for check in doctor.examine_machine()}
    assert "5.15" in checks["kernel"].remedy
    assert "CONFIG_DEBUG_INFO_BTF" in checks["BTF"].remedy
    text = "\n".join(doctor.lines(list(checks.values()), []))
    assert text.count("MEND") == text.count("→")


@pytest.mark.parametrize(
    ("machine", "said", "mended"),
    [("x86_64", "x86-64", False), ("aarch64", "stripped", False), ("riscv64", "riscv64", True)],
)
def test_what_is_not_done_on_a_processor_is_said(monkeypatch, machine, said, mended):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    check = doctor._processor()
    assert said in check.found
    assert (check.remedy is not None) is mended


@pytest.mark.parametrize(("machine", "oldest"), [("x86_64", "5.15"), ("aarch64", "5.18")])
def test_the_oldest_kernel_is_a_processor_s_own(monkeypatch, machine, oldest):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "release", lambda: f"{oldest}.0-1")
    assert doctor._kernel().remedy is None
    monkeypatch.setattr(platform, "release", lambda: "5.14.0-1")
    assert oldest in doctor._kernel().remedy


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_where_it_is_so_coroutines_are_called_safe(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(doctor.system, "newest_uprobes", lambda: doctor.system.Uprobes.SESSIONS)
    assert ("coroutines are safe" in doctor._uprobes().found) is (machine == "x86_64")
    assert ("are killed by it" in doctor._uprobes().found) is (machine != "x86_64")


FOUR = {"CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"}


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        (FOUR, ()),
        ({"CAP_SYS_ADMIN"}, ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")),
        ({"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"}, ()),
        (FOUR - {"CAP_BPF"}, ("CAP_BPF",)),
    ],
)
def test_rights_are_enough_if_none_is_missing(monkeypatch, held, missing):
    monkeypatch.setattr(doctor.rights, "held", lambda: frozenset(held))
    (check,) = (check for check in doctor.examine_machine() if check.name == "rights")
    assert tuple(word.strip(",") for word in check.found.split() if word.startswith("CAP_")) == missing
    assert (check.remedy is None) is (not missing)


@pytest.mark.parametrize(("right", "name"), [("CAP_KILL", "holding"), ("CAP_SYS_ADMIN", "socket layer")])
def test_what_a_right_is_for_is_said_where_it_is_missing(monkeypatch, right, name):
    monkeypatch.setattr(doctor.below, "probe", lambda: doctor.below.Features(lengths=True, messages=True))
    for held in (FOUR, FOUR | {right}):
        monkeypatch.setattr(doctor.rights, "held", lambda held=held: frozenset(held))
        (check,) = (check for check in doctor.examine_machine() if check.name == name)
        assert (check.remedy is None) is (right in held)
        assert right in held or right in check.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give away")
def test_the_rights_that_a_process_has_are_the_effective_ones():
    assert rights.held() >= {*FOUR, "CAP_KILL", "CAP_SYS_ADMIN"}
    command = [sys.executable, "-c", "from capture import rights; print(sorted(rights.held()))"]
    none = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    assert none.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("lengths", "messages", "said"),
    [(False, False, "not seen"), (True, False, "send is a gap"), (True, True, "are seen")],
)
def test_what_the_socket_layer_shows_depends_on_the_kernel(monkeypatch, lengths, messages, said):
    monkeypatch.setattr(doctor.below, "probe", lambda: doctor.below.Features(lengths, messages))
    (check,) = (check for check in doctor.examine_machine() if check.name == "socket layer")
    assert said in check.found
    assert check.remedy is None


def test_both_forms_say_the_same(tls_user):
    findings = list(doctor.examine_processes(str(tls_user[0]), ProbeCatalog()))
    checks = [doctor.Check("a", "b"), doctor.Check("c", "d", "e")]
    value = json.loads(json.dumps(doctor.as_json(checks, findings)))
    text = "\n".join(doctor.lines(checks, findings))
    for finding in value["processes"]:
        assert str(finding["pid"]) in text
        assert finding["library"] in text
        assert finding["file"] in text
    assert [check["remedy"] for check in value["machine"]] == [None, "e"]
