"""All rows, in the order of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacks_bundled import BUNDLED
from stacks_clients import CLIENTS as COMMON
from stacks_proxies import PROXIES
from stacks_roots import ROOT_CLIENTS, ROOT_SERVERS
from stacks_servers import SERVERS as COMMON_SERVERS
from stacks_tools import TOOLS
from stacks_versions import SERVER_VERSIONS, VERSIONS

if TYPE_CHECKING:
    from stacks import Stack

CLIENTS: tuple[Stack, ...] = (*COMMON, *TOOLS, *BUNDLED, *VERSIONS, *ROOT_CLIENTS)
SERVERS: tuple[Stack, ...] = (*COMMON_SERVERS, *PROXIES, *SERVER_VERSIONS, *ROOT_SERVERS)
