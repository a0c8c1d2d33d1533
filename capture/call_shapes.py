"""What a probe on a TLS library's function means: its call shape, its place, and the places of one file.

The kernel side knows what a ``Call`` of each shape is given and returns; capture.tls_libraries and its kin say which
functions of a file have which shape. Nothing here knows how either is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

# How sure the places are, and what they are: OpenSSL's internal functions, proven; functions named by
# symbols; functions named by what their code does (capture.located_libraries), to be dropped if a call is
# implausible; no TLS at all, but the C library's look-up of host names (capture.name_lookups).
Level = Literal["internal", "exports", "located", "resolver"]


class Returns(Enum):
    """How a call's return is probed."""

    UNPROBED = "not at all: the entry tells everything"
    URETPROBE = "by a uretprobe"
    EACH_RET = "on each RET of the function, where there may be no uretprobe"


class Call(Enum):
    """A call shape; events.h has it under the same name (SHAPE_*).

    Arguments are given in order; ``tls`` is the library's object for one connection.
    """

    # f(tls, buffer, int length) → bytes moved (int, 32 bits), 0 or negative for none
    READ_INT = auto()
    WRITE_INT = auto()
    # f(tls, buffer, size_t length) → bytes moved (ssize_t, 64 bits), 0 or negative for none
    READ_LONG = auto()
    WRITE_LONG = auto()
    # OpenSSL: f(tls, int file, off_t offset, size_t length, flags) → bytes moved (ssize_t), by the kernel's TLS
    WRITE_FILE = auto()
    # GnuTLS: f(tls, gnutls_packet_t *) → bytes moved (ssize_t, 64 bits), which the packet holds
    READ_PACKET = auto()
    # BoringSSL's own: f(tls, {data, length} *opened, ...) → 0 and the content of a record, 3 where that is close_notify
    READ_OPENED = auto()
    # f(tls, buffer, size_t length, size_t *moved) → 1 for success
    READ_EX = auto()
    # OpenSSL's own: the same → 0 where it is over in order (close_notify), -1 for all other failures
    READ_INTERNAL = auto()
    WRITE_EX = auto()
    # f(tls, buffer, size_t length, flags, size_t *moved) → 1 for success
    WRITE_EX2 = auto()
    # f(tls, output, size_t *, size_t, const iovec *{base, length}, size_t count, size_t length, size_t
    # *moved): a record is made of the vectors; the 7th and 8th argument are on the stack
    WRITE_VECTORS = auto()
    # f(tls, ...): what earlier writes were given is sent, by calls of its own to functions that have rows
    WRITE_KEPT = auto()
    # f(tls) → 1 when the handshake is done
    HANDSHAKE = auto()
    # f(tls) → 0 when the handshake is done
    HANDSHAKE_ZERO = auto()
    # f(tls): the object is gone, or cleared: what comes next at its address is another connection's
    FREE = auto()
    # libc's memcpy, called in the read of a TLS library: f(to, from, size_t length)
    COPY = auto()
    # libcrypto: f(bio, buffer, int or size_t length, ...): these bytes are about to be written
    BIO_WRITE = auto()
    # f(tls, ...): a record is about to be handed to a function of the program. Where it begins is in the object: a word
    # less another one; a word and a half; the first of a queue of GnuTLS's packets (capture.record_places)
    RECORD_BEFORE = auto()
    RECORD_BEHIND = auto()
    RECORD_QUEUED = auto()
    # NSPR: f(PRFileDesc *, buffer, int32 length [, flags, timeout]) → bytes moved (int32); any kind of file
    NSPR_READ = auto()
    NSPR_WRITE = auto()
    # NSPR: as NSPR_READ, and flags (4th) has PR_MSG_PEEK = 2 where the bytes stay
    NSPR_RECV = auto()
    # NSPR: f(PRFileDesc *, const PRIOVec *{char *, int}, int32 count, timeout) → bytes moved (int32)
    NSPR_WRITEV = auto()
    # NSPR: f(PRFileDesc *): it is closed
    NSPR_CLOSE = auto()
    # NSS: f(PRFileDesc *model, PRFileDesc *) → the PRFileDesc * that has TLS from now on, or NULL
    NSS_IMPORT = auto()

    # rustls: f(result, key, message, sequence number): a record is opened, and its plaintext is in *result; one is made
    # of *message, a slice or, since 0.23, several. The layouts are found out as they are seen (bpf/rustls.bpf.h)
    RUSTLS_READ = auto()
    RUSTLS_WRITE = auto()
    RUSTLS_WRITE_CHUNKS = auto()

    # libc: f(name, service, hints, struct addrinfo **) → 0 when it is resolved
    NAME_ADDRINFO = auto()
    # libc: f(name, [family,] struct hostent *, buffer, size_t, struct hostent **, int *) → 0
    NAME_HOST = auto()
    NAME_HOST2 = auto()

    # Go: in registers as capture.golang says; f(conn, buffer, length, capacity) → count and error
    GO_READ = auto()
    GO_WRITE = auto()
    # Go: a read whose code puts its arguments where its caller left room for them, above the return address: one
    # that was waiting before it had probes is understood by its return alone
    GO_READ_SPILLED = auto()
    # Go: f(conn, context) → error (first word 0: the handshake is done)
    GO_HANDSHAKE = auto()
    # Go: the same, of an object whose first member is the conn
    GO_READ_WRAPPED = auto()
    GO_WRITE_WRAPPED = auto()
    GO_HANDSHAKE_WRAPPED = auto()
    # Go: f(conn): it is closed
    GO_CLOSE = auto()

    @property
    def returns(self) -> Returns:
        """How its return is probed."""
        return _RETURNS.get(self, Returns.URETPROBE)


_RETURNS = {
    **{call: Returns.EACH_RET for call in Call if call.name.startswith(("GO_", "NAME_"))},
    **{call: Returns.UNPROBED for call in Call if call.name.startswith("RECORD_")},
    **dict.fromkeys((Call.FREE, Call.COPY, Call.BIO_WRITE, Call.NSPR_CLOSE, Call.GO_CLOSE), Returns.UNPROBED),
}


@dataclass(frozen=True, slots=True)
class ProbeSite:
    """A function to probe: its call shape, its name for messages, and file offsets (bytes).

    ``return_offset`` is for a uretprobe; ``results_offsets`` are the function's RET instructions, for
    probes of the plain kind on each, where there may be no uretprobe (Go; functions that threads are cancelled in, or
    whose first instruction takes no probe). ``pushed`` is how many words are on the stack where the entry is probed.
    ``offsets`` are those of a RECORD_ shape's words in the object.
    """

    call: Call
    symbol: str
    entry_offset: int
    return_offset: int | None
    results_offsets: tuple[int, ...] = ()
    pushed: int = 0
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LibraryProbes:
    """The probes of one file; ``library`` is for people, and so are ``notes``: what could not be placed."""

    library: str
    level: Level
    sites: tuple[ProbeSite, ...]
    notes: tuple[str, ...] = ()
