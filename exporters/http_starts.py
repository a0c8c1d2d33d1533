"""How HTTP begins on the wire: for the parsers, and for those that look at first bytes and read no HTTP."""

from __future__ import annotations

from typing import Final

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113 §3.4."""

KNOWN_METHODS: Final = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK "
    b"REPORT SEARCH QUERY PURGE".split()
)
"""The methods by which a request is recognised where its beginning is not known (RFC 9110 §9, RFC 5789, 4918, 3253
and 5323). Another token is a method only where a request must begin."""

REQUEST_STARTS: Final = tuple(method + b" " for method in sorted(KNOWN_METHODS))
RESPONSE_START: Final = b"HTTP/1."
"""RFC 9112 §3 and §4."""
