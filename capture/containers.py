"""A container's control group, by name or id: Docker, Podman, containerd and CRI-O name the folder by the id.

Ids are found in the names of cgroup v2 folders. Names are asked of the engine where it is (Docker's socket) or
read where it keeps them (Podman's list). Nothing is started.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from capture.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUP_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
DOCKER_SOCKET = Path("/var/run/docker.sock")
PODMAN_LISTS = (
    Path("/var/lib/containers/storage/overlay-containers/containers.json"),
    Path("/var/lib/containers/storage/vfs-containers/containers.json"),
)
_TIMEOUT_S = 2.0
# docker-ID.scope, cri-containerd-ID.scope, libpod-ID.scope, crio-ID.scope, or the bare id below docker/
_FOLDER = re.compile(r"(?:^|-)([0-9a-f]{64})(?:\.scope)?$")
_ID_PREFIX = re.compile(r"[0-9a-f]{6,64}")


def cgroup_of_container(name: str) -> str:
    """The cgroup v2 folder of the running container of this name or id (or the beginning of one).

    Raises UsageError if there is none, or more than one.
    """
    identifier = _docker_id(name) or _podman_id(name) or name
    found = {}
    if _ID_PREFIX.fullmatch(identifier):
        found = {i: folder for i, folder in _container_folders() if i.startswith(identifier)}
    if not found:
        raise UsageError(
            f"There is no running container {name!r}: `docker ps` or `podman ps` lists them; "
            "with other engines give the id, or its folder with --cgroup."
        )
    if len(found) > 1:
        raise UsageError(f"{name!r} begins the ids of {len(found)} containers: give more of it.")
    return str(next(iter(found.values())))


def _container_folders() -> Iterator[tuple[str, Path]]:
    """(id, folder); where engines nest folders of one id, the outermost."""
    for root in CGROUP_ROOTS:
        for folder, below, _ in os.walk(root):
            for entry in list(below):
                match = _FOLDER.search(entry)
                path = Path(folder, entry)
                if match and (path / "cgroup.controllers").is_file():
                    below.remove(entry)
                    yield match.group(1), path


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(DOCKER_SOCKET))


def _docker_id(name: str) -> str | None:
    if not DOCKER_SOCKET.exists():
        return None
    connection = _UnixConnection("localhost", timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"/containers/{quote(name, safe='')}/json")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    identifier = answer.get("Id") if isinstance(answer, dict) else None
    return identifier if isinstance(identifier, str) else None


def _podman_id(name: str) -> str | None:
    for path in PODMAN_LISTS:
        try:
            containers = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        for container in containers if isinstance(containers, list) else ():
            if isinstance(container, dict) and name in (container.get("names") or ()):
                return str(container.get("id"))
    return None
