"""What a probe on a TLS library's function means: its call shape, its place, and the places of one file.

The kernel side has a pair of probe programs for each ``Call``; capture.tls_libraries and its kin say which
functions of a file have which shape. Nothing here knows how either is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

# How sure the places are, and what they are: OpenSSL's internal functions, proven; functions named by
# symbols; functions named by what their code does (capture.located_libraries), to be dropped if a call is
# implausible; no TLS at all, but the C library's look-up of host names (capture.name_lookups).
Level = Literal["internal", "exports", "located", "resolver"]


class Call(Enum):
    """A call shape. The value names the probe programs; ``takes_return`` is whether there is a return probe.

    Arguments are given in order; ``tls`` is the library's object for one connection.
    """

    # f(tls, buffer, int length) → bytes moved (int, 32 bits), 0 or negative for none
    READ_INT = "read_int", True
    WRITE_INT = "write_int", True
    # f(tls, buffer, size_t length) → bytes moved (ssize_t, 64 bits), 0 or negative for none
    READ_LONG = "read_long", True
    WRITE_LONG = "write_long", True
    # GnuTLS: f(tls, gnutls_packet_t *) → bytes moved (ssize_t, 64 bits), which the packet holds
    READ_PACKET = "read_packet", True
    # f(tls, buffer, size_t length, size_t *moved) → 1 for success
    READ_EX = "read_ex", True
    # OpenSSL's own: the same → 0 where it is over in order (close_notify), -1 for all other failures
    READ_INTERNAL = "read_internal", True
    WRITE_EX = "write_ex", True
    # f(tls, buffer, size_t length, flags, size_t *moved) → 1 for success
    WRITE_EX2 = "write_ex2", True
    # f(tls, output, size_t *, size_t, const iovec *{base, length}, size_t count, size_t length, size_t
    # *moved): a record is made of the vectors; the 7th and 8th argument are on the stack
    WRITE_VECTORS = "write_vectors", True
    # f(tls, ...): what earlier writes were given is sent, by calls of its own to functions that have rows
    WRITE_KEPT = "write_kept", True
    # f(tls) → 1 when the handshake is done
    HANDSHAKE = "handshake", True
    # f(tls) → 0 when the handshake is done
    HANDSHAKE_ZERO = "handshake_zero", True
    # f(tls): the object is gone, or cleared: what comes next at its address is another connection's
    FREE = "free", False
    # libc's memcpy, called in the read of a TLS library: f(to, from, size_t length)
    COPY = "copy", False
    # libcrypto: f(bio, buffer, int or size_t length, ...): are about to be written
    BIO_WRITE = "bio_write", False
    # NSPR: f(PRFileDesc *, buffer, int32 length [, flags, timeout]) → bytes moved (int32); any kind of file
    NSPR_READ = "nspr_read", True
    NSPR_WRITE = "nspr_write", True
    # NSPR: as NSPR_READ, and flags (4th) has PR_MSG_PEEK = 2 where the bytes stay
    NSPR_RECV = "nspr_recv", True
    # NSPR: f(PRFileDesc *, const PRIOVec *{char *, int}, int32 count, timeout) → bytes moved (int32)
    NSPR_WRITEV = "nspr_writev", True
    # NSPR: f(PRFileDesc *): closed
    NSPR_CLOSE = "nspr_close", False
    # NSS: f(PRFileDesc *model, PRFileDesc *) → the PRFileDesc * that has TLS from now on, or NULL
    NSS_IMPORT = "nss_import", True

    # rustls: f(result, key, message, sequence number): a record is opened, and its plaintext is in *result; one is made
    # of *message, a slice or, since 0.23, several. The layouts are found out as they are seen (bpf/rustls.bpf.h)
    RUSTLS_READ = "rustls_read", True
    RUSTLS_WRITE = "rustls_write", True
    RUSTLS_WRITE_CHUNKS = "rustls_write_chunks", True

    # libc: f(name, service, hints, struct addrinfo **) → 0 when it is resolved
    NAME_ADDRINFO = "name_addrinfo", False, True
    # libc: f(name, [family,] struct hostent *, buffer, size_t, struct hostent **, int *) → 0
    NAME_HOST = "name_host", False, True
    NAME_HOST2 = "name_host2", False, True

    # Go: in registers as capture.golang says; f(conn, buffer, length, capacity) → count and error
    GO_READ = "go_read", False, True
    GO_WRITE = "go_write", False, True
    # Go: a read whose code puts its arguments where its caller left room for them, above the return address: one
    # that was waiting before it had probes is understood by its return alone
    GO_READ_SPILLED = "go_read_spilled", False, True
    # Go: f(conn, context) → error (first word 0: the handshake is done)
    GO_HANDSHAKE = "go_handshake", False, True
    # Go: the same, of an object whose first member is the conn
    GO_READ_WRAPPED = "go_read_wrapped", False, True
    GO_WRITE_WRAPPED = "go_write_wrapped", False, True
    GO_HANDSHAKE_WRAPPED = "go_handshake_wrapped", False, True
    # Go: f(conn): closed
    GO_CLOSE = "go_close", False

    takes_return: bool
    has_results: bool

    def __new__(cls, value: str, takes_return: bool, has_results: bool = False) -> Call:
        """Keep ``takes_return`` (a uretprobe) and ``has_results`` (probes on each RET) beside the value."""
        member = object.__new__(cls)
        member._value_ = value
        member.takes_return = takes_return
        member.has_results = has_results
        return member


@dataclass(frozen=True, slots=True)
class ProbeSite:
    """A function to probe: its call shape, its name for messages, and file offsets (bytes).

    ``return_offset`` is for a uretprobe; ``results_offsets`` are the function's RET instructions, for
    probes of the plain kind on each, where there may be no uretprobe (Go; functions that threads are cancelled in, or
    whose first instruction takes no probe). ``pushed`` is how many words are on the stack where the entry is probed.
    """

    call: Call
    symbol: str
    entry_offset: int
    return_offset: int | None
    results_offsets: tuple[int, ...] = ()
    pushed: int = 0


@dataclass(frozen=True, slots=True)
class LibraryProbes:
    """The probes of one file; ``device`` and ``inode`` are fstat(2)'s, ``library`` is for people."""

    path: str
    device: int
    inode: int
    build_id: str | None
    library: str
    level: Level
    sites: tuple[ProbeSite, ...]
    notes: tuple[str, ...] = ()
