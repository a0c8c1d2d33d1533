"""The kernel side's counters and what arrived in user space → the ledger. Sans-IO."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from capture.ledger import (
    Account,
    ConnectionLoss,
    Ledger,
    Observation,
    TcpTotals,
    Unassociated,
    Unreadable,
    end_text,
)

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from capture.tally import Loss, Tally

_NOT_OBSERVED = Observation()
# Reason → the kernel side's counter, or else what of the tally.
_LOST_OF_SOCKETS = {
    "ring-full": "lost_ring_full",
    "fault": "cleartext_faults",
    "limit": "lost_limit",
    "not-in-user-space": "lost_not_in_user_space",
    "table-full": "lost_table_full",
    "late": "late_cleartext",
}
_LOST_OF_TLS = {
    "ring-full": "plaintext_ring_full",
    "fault": "plaintext_faults",
    "limit": "plaintext_limit",
    "not-in-user-space": "plaintext_not_in_user_space",
    "table-full": "plaintext_table_full",
    "unseen-return": "plaintext_unseen_return",
    "unknown-association": "unknown_association",
    "late": "late_plaintext",
}


def balance(
    counters: Mapping[str, int],
    tally: Tally,
    seen: Observation = _NOT_OBSERVED,
    late: Container[int] = frozenset(),
) -> Ledger:
    """Draw up the ledger from the kernel's counters, what arrived, and how it was seen.

    ``late`` are pids whose probes came when they had begun.
    """
    unrecognised = counters["other_protocols"] + counters["undecided"] + tally.never_decided_arrived
    sockets = Account(
        reported=counters["reported_sent"] + counters["reported_received"],
        captured=tally.cleartext
        - tally.never_decided_arrived
        - tally.mirrored_cleartext
        - tally.late_cleartext,
        suppressed=counters["suppressed"],
        filtered=counters["filtered"] + unrecognised,
        mirrored=counters["mirrored"] + tally.mirrored_cleartext,
        lost=_lost(_LOST_OF_SOCKETS, counters, tally),
    )
    tls = Account(
        reported=counters["plaintext_reported"],
        captured=tally.plaintext
        - tally.unknown_association
        - tally.filtered_plaintext
        - tally.mirrored_plaintext
        - tally.late_plaintext,
        suppressed=0,
        mirrored=counters["plaintext_mirrored"] + tally.mirrored_plaintext,
        filtered=counters["plaintext_filtered"] + tally.filtered_plaintext,
        lost=_lost(_LOST_OF_TLS, counters, tally),
    )
    return Ledger(
        sockets, tls, tally.connections, tally.streams, tally.gaps, counters["events_ring_full"],
        counters["table_full"],
        (
            *(
                Unreadable(pid, comm, library, n, late=library is None and pid in late)
                for (pid, comm, library), n in tally.unreadable.items()
            ),
            *(
                Unreadable(pid, comm, None, n, late=True, begun=True)
                for (pid, comm), n in tally.begun.items()
                if pid in late
            ),
            *(Unreadable(pid, comm, None, n, relayed=True) for (pid, comm), n in tally.relayed.items()),
            *(
                Unreadable(pid, comm, library, n, direction=direction.name.lower())
                for (pid, comm, library, direction), n in tally.one_way.items()
            ),
        ),
        tally.unlisted_addresses,
        tally.without_address,
        counters["by_reference"],
        replace(
            seen,
            probe_hits=counters["probe_hits"],
            unseen_returns=counters["unseen_returns"],
            unseen_entries=counters["unseen_entries"],
        ),
        TcpTotals(
            counters["tcp_checked"],
            counters["tcp_unseen_sent"],
            counters["tcp_unseen_received"],
            counters["tcp_excess_sent"] + counters["tcp_excess_received"],
        ),
        tuple(_loss(loss) for loss in tally.losses.values()),
        unrecognised=unrecognised,
        unlisted_unread=tally.unlisted_unread,
        unlisted_ciphertext=tally.unlisted_ciphertext,
        unassociated=tuple(Unassociated(*process, n) for process, n in tally.unassociated.items()),
    )  # fmt: skip


def _loss(loss: Loss) -> ConnectionLoss:
    a = loss.announced
    return ConnectionLoss(
        a.pid, a.comm, end_text(a.local, a.local_port), end_text(a.remote, a.remote_port), dict(loss.lost)
    )


def _lost(rows: Mapping[str, str], counters: Mapping[str, int], tally: Tally) -> dict[str, int]:
    found = {
        reason: counters[source] if source in counters else getattr(tally, source)
        for reason, source in rows.items()
    }
    return {reason: n for reason, n in found.items() if n}
