"""Which exchanges are wanted: by host, URL, status, method and process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from capture.errors import UsageError
from capture.networks import is_network, mapped, networks
from exporters.har_fields import field_text
from exporters.http.urls import exchange_url

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv6Network

    from exporters.http.messages import Exchange

_STATUS = re.compile(r"([1-5])xx|([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ExchangeFilter:
    """An exchange is wanted if it meets every criterion that is given, each in any of its values.

    Hosts match themselves and, written as ``*.example.com`` or ``.example.com``, what is below; ``networks`` are hosts
    too, of connections with an address of them at either end (IPv4 mapped). URLs are shell patterns over the whole URL.
    Statuses are numbers, ranges (``400-499``) and classes (``4xx``).
    """

    hosts: tuple[re.Pattern[str], ...] = ()
    urls: tuple[re.Pattern[str], ...] = ()
    statuses: tuple[range, ...] = ()
    methods: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    networks: tuple[IPv6Network, ...] = ()

    @classmethod
    def of(
        cls,
        hosts: Iterable[str] = (),
        urls: Iterable[str] = (),
        statuses: Iterable[str] = (),
        methods: Iterable[str] = (),
        pids: Iterable[int] = (),
    ) -> ExchangeFilter:
        """The filter as the user writes it; UsageError where a status or a network is none."""
        ranges, names = _parted(hosts)
        return cls(
            tuple(
                re.compile(translate(f"*{host}" if host.startswith(".") else host), re.I) for host in names
            ),
            tuple(re.compile(translate(url)) for url in urls),
            tuple(_status_range(status) for status in statuses),
            frozenset(method.upper() for method in methods),
            frozenset(pids),
            tuple(network for host in ranges for network in networks(host)),
        )

    def __call__(self, exchange: Exchange) -> bool:
        """Whether ``exchange`` is wanted."""
        if self.pids and not self.pids & _pids(exchange):
            return False
        if self.methods and _method(exchange) not in self.methods:
            return False
        if self.statuses:
            status = exchange.response.status if exchange.response is not None else None
            if status is None or not any(status in wanted for wanted in self.statuses):
                return False
        if not self.hosts and not self.networks and not self.urls:
            return True
        url = exchange_url(exchange)
        if self.urls and not any(pattern.match(url) for pattern in self.urls):
            return False
        return self._host_is_wanted(exchange, url)

    def _host_is_wanted(self, exchange: Exchange, url: str) -> bool:
        if not self.hosts and not self.networks:
            return True
        host = _host(url)
        return any(pattern.match(host) for pattern in self.hosts) or self._is_of_networks(exchange)

    def _is_of_networks(self, exchange: Exchange) -> bool:
        opened = exchange.connection.opened
        ends = (opened.client.address, opened.server.address)
        return any(mapped(address) in network for network in self.networks for address in ends)


def _parted(hosts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Networks, and names."""
    parted: tuple[list[str], list[str]] = ([], [])
    for host in hosts:
        parted[not is_network(host)].append(host)
    return parted


def _status_range(text: str) -> range:
    match = _STATUS.fullmatch(text.strip())
    if match is None or (match[3] and match[3] < match[2]):
        raise UsageError(
            f"{text!r} is no HTTP status: give a number, a range such as 400-499, or a class such as 5xx."
        )
    if match[1]:
        return range(int(match[1]) * 100, int(match[1]) * 100 + 100)
    return range(int(match[2]), int(match[3] or match[2]) + 1)


def _pids(exchange: Exchange) -> set[int]:
    opened = exchange.connection.opened
    return {process.pid for process in (opened.process, opened.peer_process) if process is not None}


def _method(exchange: Exchange) -> str | None:
    request = exchange.request
    return None if request is None or request.method is None else field_text(request.method).upper()


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
