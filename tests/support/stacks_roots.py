"""The same rows once more with the programs of other Debian releases, in roots that make test-stacks makes, as in
containers: no library of them is one of the host's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from processes import ROOT
from stacks_clients import CLIENTS
from stacks_servers import SERVERS
from stacks_tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stacks import Stack

# As the Makefile has them: the stable release, and the newest of everything.
RELEASES = ("trixie", "sid")
# Those that need nothing but Debian's packages.
_CLIENTS = (
    *("curl", "wget2", "openssl s_client", "gnutls-cli", "tstclnt", "Python http.client", "Node https"),
    *("Node http2", "Ruby net/http", "libsoup", "LuaSec"),
)
_SERVERS = (
    *("nginx", "nginx, HTTP/2", "haproxy, HTTP/2", "lighttpd, mbedtls", "lighttpd, nss", "openssl s_server"),
    *("Python http.server", "Node https"),
)


def _in_root(release: str, stack: Stack) -> Stack:
    enter = ("{programs}/in_root.sh", f"{{built}}/roots/{release}", str(ROOT))
    environment = [f"{name}={value}" for name, value in stack.environment.items()]
    own = tuple(part.replace("{python}", "/usr/bin/python3") for part in stack.command)
    version = tuple(part.replace("{python}", "/usr/bin/python3") for part in stack.version)
    return replace(
        stack,
        name=f"{stack.name}, {release}",
        command=(*enter, "env", *environment, *own),
        version=(*enter, *version),
        environment={},
        quick=False,
    )


def _rows(release: str, stacks: Iterable[Stack], names: tuple[str, ...]) -> tuple[Stack, ...]:
    return tuple(_in_root(release, stack) for stack in stacks if stack.name in names)


ROOT_CLIENTS = tuple(row for release in RELEASES for row in _rows(release, (*CLIENTS, *TOOLS), _CLIENTS))
ROOT_SERVERS = tuple(row for release in RELEASES for row in _rows(release, SERVERS, _SERVERS))
