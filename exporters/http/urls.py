"""The URL of a request (RFC 9110 §7.1, RFC 9112 §3.2): what the client meant, as far as it can be known."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from exporters.remembered import remembered

if TYPE_CHECKING:
    from capture.streams import Endpoint
    from exporters.http.messages import Connection, Exchange, Request

NOT_RECORDED_PATH = "/(not-recorded)"
"""Stands for a target that was not captured; marked as unknown beside it."""

MAX_LABEL_CHARACTERS = 63
"""Of a host name's part (RFC 1035 §2.3.4)."""

_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}
_SOCKET_SCHEMES = {"https": "wss", "http": "ws"}
_AUTHORITY = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%@\[\]\-]+")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=\-]+")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)(.*)", re.DOTALL)
_UNSAFE = re.compile(r"[^\x21\x24-\x3b\x3d\x3f-\x7e]")
_UNSAFE_IN_PATH = re.compile(r"[^\x21\x24-\x3b\x3d\x3f-\x5b\x5d-\x7e]")


def exchange_url(exchange: Exchange) -> str:
    """The URL of an exchange; of one without a request, with NOT_RECORDED_PATH in the place of the path.

    It is one that browsers take for a URL, whatever was sent: they refuse an archive as a whole for one that is none.
    Where the request's words are no host, the connection tells it.
    """
    connection = exchange.connection
    request = exchange.request
    if request is None:
        scheme = _scheme(connection)
        if exchange.socket_messages is not None:
            scheme = _SOCKET_SCHEMES[scheme]
        return f"{scheme}://{_authority_of(connection)}{NOT_RECORDED_PATH}"
    target = request.target
    if target is not None and request.method == b"CONNECT" and request.protocol is None:
        return _connect_url(target, connection)
    scheme = _scheme_of(request, connection)
    if target is not None and (absolute := _ABSOLUTE.match(target)):
        if _authority_text(absolute[2], "") is not None:
            return f"{target[: absolute.start(3)].decode('latin-1')}{_escape(absolute[3])}"
        scheme, target = absolute[1].decode("latin-1").lower(), absolute[3] or b"/"
    authority = _authority(request, connection, scheme)
    if target is None:
        return f"{scheme}://{authority}{NOT_RECORDED_PATH}"
    if target == b"*":
        return f"{scheme}://{authority}"  # RFC 9112 §3.3: the asterisk form has neither path nor query
    path = _escape(target)
    return f"{scheme}://{authority}{path}" if path.startswith("/") else f"{scheme}://{authority}/{path}"


def unusable_target(request: Request) -> bytes | None:
    """A request's target that names a host which is none, so that its URL cannot be that."""
    target = request.target
    if target is None:
        return None
    if request.method == b"CONNECT" and request.protocol is None:
        return target if _authority_text(target, "") is None else None
    absolute = _ABSOLUTE.match(target)
    return target if absolute and _authority_text(absolute[2], "") is None else None


def address_text(endpoint: Endpoint) -> str:
    """An address as text; IPv6 in the form of RFC 5952, an IPv4-mapped one as the IPv4 address that it is."""
    return _address_text(endpoint.address)


@lru_cache(maxsize=1024)
def _address_text(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _scheme(connection: Connection) -> str:
    return "https" if connection.tls is not None else "http"


def _scheme_of(request: Request, connection: Connection) -> str:
    named = request.scheme
    scheme = _scheme(connection)
    if named is not None and _SCHEME.fullmatch(named):
        scheme = named.decode("latin-1").lower()
    return _SOCKET_SCHEMES.get(scheme, scheme) if request.asks_for_websocket else scheme


def _authority(request: Request, connection: Connection, scheme: str) -> str:
    named = request.authority or request.fields.get(b"host")
    text = None if named is None else _authority_text(named, scheme)
    return _authority_of(connection) if text is None else text


@remembered(1024)
def _authority_text(named: bytes, scheme: str) -> str | None:
    """Host and port as a URL of ``scheme`` has them; None where they are none (URL Standard, host parsing)."""
    if _AUTHORITY.fullmatch(named) is None:
        return None
    text = named.decode("latin-1")
    host, colon, port = text.rpartition("@")[2].rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text.rpartition("@")[2], ""
    if not _is_host(host) or (port and not (port.isdigit() and len(port) <= 5 and int(port) <= 0xFFFF)):
        return None
    return text.removesuffix(_DEFAULT_PORTS.get(scheme, ":")).removesuffix(":")


def _is_host(host: str) -> bool:
    try:
        if host.startswith("["):
            return host.endswith("]") and bool(ipaddress.IPv6Address(host[1:-1])) and "%" not in host
        if _HOST.fullmatch(host) is None:
            return False
        labels = host.lower().removesuffix(".").split(".")
        if _NUMBER.fullmatch(labels[-1]):
            return bool(ipaddress.IPv4Address(host))
        for label in labels:
            if label.startswith("xn--"):
                if len(label) > MAX_LABEL_CHARACTERS:  # decoding takes the square of them
                    return False
                label.encode().decode("idna")
    except ValueError:
        return False
    return True


def _authority_of(connection: Connection) -> str:
    """Whom the connection is to, where no request says so: the tunnel's target, the SNI, or the address."""
    default = _DEFAULT_PORTS[_scheme(connection)]
    named = connection.authority
    if named is not None and (text := _authority_text(named, _scheme(connection))) is not None:
        return text
    server = connection.opened.server
    host = connection.tls.server_name if connection.tls is not None else None
    if host is None or not _is_host(host):
        host = address_text(server)
        if ":" in host:
            host = f"[{host}]"
    return f"{host}:{server.port}".removesuffix(default)


def _connect_url(target: bytes, connection: Connection) -> str:
    """CONNECT has no URL, only an authority (RFC 9110 §9.3.6); its port tells what the tunnel is for."""
    authority = _authority_text(target, "") or _authority_of(connection)
    return f"https://{authority}" if authority.endswith(":443") else f"http://{authority}"


def _escape(target: bytes) -> str:
    """As it was sent, but for bytes that end or change a URL where it is read again, which are percent-encoded.

    Browsers send, and show, more than RFC 3986 §2 allows: ``[]{}|^`` and backticks, and backslashes in a query; in a
    path these would be slashes. No fragment is ever sent: a ``#``
    is one of the path's or the query's (RFC 9112 §3.2).
    """
    text = target.decode("latin-1")
    if text.startswith("#"):
        text = f"/{text}"
    if _UNSAFE_IN_PATH.search(text) is None:
        return text
    path, mark, query = text.partition("?")
    return _UNSAFE_IN_PATH.sub(_percent, path) + mark + _UNSAFE.sub(_percent, query)


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"
