"""Clients that bring their TLS library along: wheels, npm packages, browsers, and what the newest Go compiles."""

from __future__ import annotations

from dataclasses import replace

from stacks import Stack, python_version
from stacks_clients import BORINGSSL, GO, OPENSSL, RUSTLS

_PROGRAM = ("{url}", "{certificate}", "{upload}")
_BUN = "{node_modules}/bun/bin/bun.exe"
# As Makefile unpacks it.
_BROWSER = "{built}/chromium"
_DOTNET = "{built}/python/lib/python3*/site-packages/dnv/net/runtime/.net/shared/Microsoft.NETCore.App"
_NEWEST_GO = ("{built}/python/bin/go", "version")


def _wheel(
    package: str,
    program: str,
    library: str,
    *,
    module: str = "",
    http2: bool = True,
    readable: bool = True,
) -> Stack:
    command = ("{python}", f"{{programs}}/{program}_client.py", *_PROGRAM, module or package)
    return Stack(package, command, library, python_version(package), http2=http2, readable=readable)


def _dotnet(name: str, version: str, *, http2: bool = False) -> Stack:
    command = ("{python}", "{programs}/dotnet_client.py", *_PROGRAM, version)
    return Stack(name, command, OPENSSL, ("sh", "-c", f"ls {_DOTNET}"), http2=http2)


BUNDLED: tuple[Stack, ...] = (
    _wheel("rnet", "emulating", BORINGSSL),
    _wheel("wreq", "emulating", BORINGSSL),
    _wheel("tls-client", "utls", GO),
    _wheel("nb-curl", "wheels", BORINGSSL, module="nb_curl"),
    _wheel("dartio-tls", "wheels", BORINGSSL, module="dartio_tls", http2=False),
    replace(_wheel("rqsession", "wheels", BORINGSSL), exchanges=("/download",)),
    _wheel("utls", "streams", BORINGSSL, http2=False),
    replace(
        _wheel("utls", "streams", BORINGSSL, module="utls-bio", http2=False), name="utls, BIOs in memory"
    ),
    _wheel("primp", "primp", r"^rustls \d", readable=False),
    _wheel("obstore", "obstore", RUSTLS, module="1", http2=False),
    replace(_wheel("obstore", "obstore", RUSTLS, module="2"), name="obstore, HTTP/2"),
    Stack(
        "awscrt",
        ("{python}", "{programs}/awscrt_client.py", *_PROGRAM),
        r"^s2n-tls",
        python_version("awscrt"),
    ),
    _dotnet(".NET HttpClient", "1.1"),
    _dotnet(".NET HttpClient, HTTP/2", "2.0", http2=True),
    Stack("Bun https", (_BUN, "{programs}/https.cjs", *_PROGRAM), BORINGSSL, (_BUN, "--version")),
    Stack("Bun http2", (_BUN, "{programs}/http2.cjs", *_PROGRAM), BORINGSSL, (_BUN, "--version"), http2=True),
    Stack(
        "Firefox ESR",
        ("{python}", "{programs}/firefox_client.py", *_PROGRAM),
        r"^NSS",
        ("firefox-esr", "--version"),
        exchanges=("/tell", "/download", "/upload/body"),
        http2=True,
    ),
    Stack(
        "Chromium, optimised as a whole (@sparticuz/chromium)",
        ("node", "{programs}/puppeteer.mjs", *_PROGRAM, _BROWSER),
        BORINGSSL,
        (_BROWSER, "--version"),
        {"STACKS_NODE": "{built}/node"},
        exchanges=("/tell", "/download", "/upload/body"),
        http2=True,
    ),
    Stack("Go net/http, newest", ("{built}/go_client_newest", *_PROGRAM, "1"), GO, _NEWEST_GO),
    Stack("Go net/http, newest, HTTP/2", ("{built}/go_client_newest", *_PROGRAM), GO, _NEWEST_GO, http2=True),
    Stack(
        "Go, newest, PIE, stripped", ("{built}/go_client_newest_pie", *_PROGRAM), GO, _NEWEST_GO, http2=True
    ),
)
