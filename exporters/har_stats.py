"""What a HAR contains in numbers, as haralyzer counts them: ``plaintap show --stats``.

The only module that imports haralyzer, and only when it is asked (0.1 s).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from exporters.har_entry import entry_of
from exporters.http.layers import Limits
from exporters.printable import printable
from exporters.summary import duration_text, size_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from exporters.har_fields import Json
    from exporters.http.messages import Exchange

ENTRIES_AT_ONCE = 1000
"""haralyzer wants entries whole, with all their headers; of those before only the figures are kept."""

SLOWEST = 10
"""How many of the slowest requests are named."""

NO_PAGE = "(no process known)"
"""The page of exchanges that no process is known of."""


@dataclass(frozen=True, slots=True)
class PageStats:
    """One page (process): sizes in bytes of bodies and of all that was received, time in ms, all added up."""

    title: str
    requests: int
    body_bytes: int
    transferred_bytes: int
    time_ms: float


@dataclass(frozen=True, slots=True)
class Request:
    """One request, for the list of the slowest."""

    time_ms: float
    method: str
    status: int
    url: str


@dataclass(frozen=True, slots=True)
class HarStats:
    """The figures of an archive; ``slowest`` in descending order."""

    pages: tuple[PageStats, ...]
    statuses: dict[int, int]
    slowest: tuple[Request, ...]


def stats_of_exchanges(exchanges: Iterable[Exchange]) -> HarStats:
    """The figures of the archive that ``exchanges`` would make."""
    entries = _entries(exchanges)
    pages: dict[str, PageStats] = {}
    statuses = Counter[int]()
    slowest: list[Request] = []
    while some := list(islice(entries, ENTRIES_AT_ONCE)):
        part = _stats(some)
        for page in part.pages:
            pages[page.title] = _sum(page.title, (pages[page.title], page)) if page.title in pages else page
        statuses.update(part.statuses)
        slowest = sorted((*slowest, *part.slowest), key=lambda request: -request.time_ms)[:SLOWEST]
    return HarStats(tuple(pages.values()), dict(sorted(statuses.items())), tuple(slowest))


def _sum(title: str, pages: Collection[PageStats]) -> PageStats:
    return PageStats(
        title,
        sum(page.requests for page in pages),
        sum(page.body_bytes for page in pages),
        sum(page.transferred_bytes for page in pages),
        sum(page.time_ms for page in pages),
    )


def _entries(exchanges: Iterable[Exchange]) -> Iterator[Json]:
    limit = Limits().decoded_bytes
    for exchange in exchanges:
        # Without what only Chrome and we know, such as messages.
        entry = {key: value for key, value in entry_of(exchange, limit).items() if key[0] != "_"}
        entry["response"]["content"].pop("text", None)
        entry["request"].pop("postData", None)
        process = exchange.connection.process
        if process is not None:
            entry["pageref"] = f"{process.comm}[{process.pid}]"
        yield entry


def _stats(entries: list[Json]) -> HarStats:
    from haralyzer import HarPage  # noqa: PLC0415  (0.1 s that no other command needs)

    groups: dict[str | None, list[Json]] = {}
    for entry in entries:
        groups.setdefault(entry.get("pageref"), []).append(entry)
    pages, statuses, slowest = [], Counter[int](), []
    for page_id, group in groups.items():
        # A parser per page: haralyzer goes through all the entries of its archive for each page.
        head = {"id": page_id, "startedDateTime": group[0]["startedDateTime"], "pageTimings": {}}
        log = {"log": {"pages": [head] if page_id is not None else [], "entries": group}}
        page = HarPage(page_id or "unknown", har_data=log)
        transferred = page.get_total_size_trans(page.entries)
        time_ms = sum(entry.time for entry in page.entries)
        pages.append(
            PageStats(
                page_id or NO_PAGE,
                len(page.entries),
                page.get_total_size(page.entries),
                transferred,
                time_ms,
            )
        )
        statuses.update(entry.status for entry in page.entries)
        slowest += sorted(page.entries, key=lambda entry: -entry.time)[:SLOWEST]
    slowest.sort(key=lambda entry: -entry.time)
    return HarStats(
        tuple(pages),
        dict(sorted(statuses.items())),
        tuple(
            Request(entry.time, entry.request.method, entry.status, entry.url) for entry in slowest[:SLOWEST]
        ),
    )


def lines(stats: HarStats) -> Iterator[str]:
    """The figures as lines for people."""
    yield f"{'REQUESTS':>8}  {'BODIES':>8}  {'RECEIVED':>8}  {'TIME':>9}  PAGE"
    for page in stats.pages:
        yield _page_line(page)
    if len(stats.pages) > 1:
        yield _page_line(_sum("all pages", stats.pages))
    yield ""
    yield f"{'REQUESTS':>8}  STATUS"
    for status, count in stats.statuses.items():
        yield f"{count:>8}  {status or 'no response'}"
    yield ""
    yield f"{'TIME':>9}  SLOWEST REQUESTS"
    for request in stats.slowest:
        duration = duration_text(int(request.time_ms * 1e6))
        yield printable(f"{duration:>9}  {request.method} {request.status or '-'} {request.url}")


def _page_line(page: PageStats) -> str:
    return (
        f"{page.requests:>8}  {size_text(page.body_bytes):>8}  {size_text(page.transferred_bytes):>8}  "
        f"{duration_text(int(page.time_ms * 1e6)):>9}  {printable(page.title)}"
    )
