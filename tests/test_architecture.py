"""The imports, held to the picture in capture/__init__.py: who may know whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bpf", "capture", "exporters")

# Foreign packages that only these modules may import.
SOLE_IMPORTERS = {
    "click": {
        "capture.cli",
        "capture.console",
        "capture.reading",
        *(f"capture.commands.{path.stem}" for path in (ROOT / "capture/commands").glob("[a-z]*.py")),
    },
}
# These are imported by one module apiece, whichever that is.
ONE_IMPORTER = ("haralyzer", "scapy", "webencodings", "zstandard")
# What an exporter may know of capture/: the values that pass between them, the errors, what a TLS hello says, and which
# addresses a network has.
SHARED_WITH_EXPORTERS = {"capture.streams", "capture.errors", "capture.tls_hello", "capture.networks"}
# Modules that turn values into values: no clock, file, process, socket, log or kernel.
_SANS_IO_CAPTURE = (
    "answers", "balance", "connections", "endpoints", "events", "first_words", "flows", "inner_sessions", "ledger",
    "networks", "samples", "sessions", "streams", "tally", "tls_notes", "two_ends", "unread",
    "views",
)  # fmt: skip
SANS_IO = {
    *(f"capture.{name}" for name in _SANS_IO_CAPTURE),
    *(f"exporters.http.{path.stem}" for path in (ROOT / "exporters/http").glob("[a-z]*.py")),
}
FORBIDDEN_SANS_IO = {
    "asyncio",
    "bcc",
    "io",
    "logging",
    "os",
    "pathlib",
    "socket",
    "subprocess",
    "threading",
    "time",
}
# Past this a module holds more than one concept, and is to be split.
MAX_MODULE_LINES = 400


def module_name(path: Path) -> str:
    """The dotted name of a file below ROOT."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """Every module of the packages."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {module_name(path): path for path in sorted(found)}


def imported(source: str, package: str) -> set[str]:
    """The dotted names that a module of the package imports, in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    """The dotted names that the module in a file imports."""
    name = module_name(path)
    return imported(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])


def importers(package: str) -> set[str]:
    """The modules that import a package or something inside it."""
    return {
        name
        for name, path in modules().items()
        if any(found == package or found.startswith(f"{package}.") for found in imports(path))
    }


def known(name: str) -> set[str]:
    """The project's own modules that a module imports."""
    own = modules()
    return {found for found in imports(own[name]) if found in own}


def test_every_module_is_seen() -> None:
    assert {"capture.streams", "capture.errors"} <= set(modules())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b", {"a.b"}),
        ("def f():\n    from a import b", {"a", "a.b"}),
        ("if TYPE_CHECKING:\n    import a as b", {"a"}),
        ("from . import a", {"x.y", "x.y.a"}),
        ("from .a import b", {"x.y.a", "x.y.a.b"}),
        ("from ..a import b", {"x.a", "x.a.b"}),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, expected: set[str]) -> None:
    assert imported(source, "x.y") == expected


@pytest.mark.parametrize(("package", "allowed"), SOLE_IMPORTERS.items())
def test_sole_importers(package: str, allowed: set[str]) -> None:
    assert importers(package) <= allowed


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_one_importer_apiece(package: str) -> None:
    assert len(importers(package)) <= 1, importers(package)


def test_bcc_is_known_to_bpf_alone() -> None:
    assert {name for name in importers("bcc") if not name.startswith("bpf.")} == set()


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("bpf")])
def test_the_kernel_boundary_knows_no_exporter(name: str) -> None:
    assert not {found for found in known(name) if found.startswith("exporters")}


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("exporters")])
def test_exporters_know_the_stream_items_alone(name: str) -> None:
    foreign = {found for found in known(name) if found.startswith(("capture.", "bpf"))}
    assert foreign <= SHARED_WITH_EXPORTERS


def test_every_sans_io_module_is_seen() -> None:
    assert set(modules()) >= SANS_IO


@pytest.mark.parametrize("name", sorted(SANS_IO))
def test_sans_io_modules_do_none(name: str) -> None:
    assert not {found.partition(".")[0] for found in imports(modules()[name])} & FORBIDDEN_SANS_IO


@pytest.mark.parametrize("name", list(modules()))
def test_modules_are_of_one_concept_s_length(name: str) -> None:
    assert len(modules()[name].read_text().splitlines()) <= MAX_MODULE_LINES


def is_interpreter(node: ast.AST) -> bool:
    """Whether an expression is ``sys.executable``."""
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"


@pytest.mark.parametrize("name", list(modules()))
def test_our_interpreters_import_nothing_from_the_working_directory(name: str) -> None:
    """That may be anyone's, and we are root: -P comes first wherever Python starts Python."""
    nodes = list(ast.walk(ast.parse(modules()[name].read_text())))
    started = [
        [ast.unparse(word) for word in node.elts[:2]]
        for node in nodes
        if isinstance(node, ast.List | ast.Tuple) and any(map(is_interpreter, node.elts))
    ]
    assert started == [["sys.executable", "'-P'"]] * sum(map(is_interpreter, nodes))
