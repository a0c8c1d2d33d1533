"""The rows of clients, by how much they are used."""

from __future__ import annotations

from stacks import Stack, python_version

OPENSSL = r"^OpenSSL [1-4]\.\d"
GNUTLS = r"^GnuTLS 3\.\d"
BORINGSSL = r"^BoringSSL"
RUSTLS = r"^rustls 0\.\d+\.\d+$"
GO = r"^Go go[\d.]+ crypto/tls|^Go [\d.]+ crypto/tls"
RUSTC = ("/usr/bin/rustc", "--version")
_RUST = "{built}/rustls/target/release"
_PROGRAM = ("{url}", "{certificate}", "{upload}")
_BY_HAND = ("{port}", "{certificate}", "{upload}")
_CURL = ("--silent", "--show-error", "--fail", "--cacert", "{certificate}", "--output", "/dev/null")
_DOWNLOAD = ("/download",)
_UNDICI = ("sh", "-c", "grep '\"version\"' {node_modules}/undici/package.json")


def _python(name: str, module: str, *arguments: str, http2: bool = False, **fields: object) -> Stack:
    package, _, program = module.partition(":")
    command = ("{python}", f"{{programs}}/{program}_client.py", *_PROGRAM, *arguments)
    values: dict[str, object] = {"library": OPENSSL, **fields}
    return Stack(name, command, version=python_version(package), http2=http2, **values)  # type: ignore[arg-type]  # a row's fields


def _node(
    name: str,
    program: str,
    *,
    http2: bool = False,
    quick: bool = False,
    version: tuple[str, ...] = ("node", "--version"),
) -> Stack:
    environment = {"NODE_EXTRA_CA_CERTS": "{certificate}", "STACKS_NODE": "{built}/node"}
    command = ("node", f"{{programs}}/{program}", *_PROGRAM)
    return Stack(name, command, OPENSSL, version, environment, http2=http2, quick=quick)


CLIENTS: tuple[Stack, ...] = (
    Stack(
        "curl",
        (
            "curl",
            *_CURL,
            "{url}/download",
            "--next",
            *_CURL,
            "--upload-file",
            "{upload}",
            "{url}/upload/body",
        ),
        OPENSSL,
        ("curl", "--version"),
        http2=True,
    ),
    Stack("libcurl-gnutls", ("{built}/libcurl-gnutls", *_PROGRAM), GNUTLS, ("curl", "--version"), http2=True),
    Stack("libcurl-nss", ("{built}/libcurl-nss", *_PROGRAM), r"^NSS", ("curl", "--version"), http2=True),
    Stack(
        "wget",
        (
            "sh",
            "-c",
            "wget -q --ca-certificate={certificate} -O /dev/null {url}/download && wget -q -O /dev/null "
            "--ca-certificate={certificate} --method=PUT --body-file={upload} {url}/upload/body",
        ),
        GNUTLS,
        ("wget", "--version"),
    ),
    Stack(
        "wget2",
        ("wget2", "-q", "--ca-certificate={certificate}", "-O", "/dev/null", "{url}/download"),
        GNUTLS,
        ("wget2", "--version"),
        exchanges=_DOWNLOAD,
    ),
    Stack(
        "aria2",
        (
            "aria2c",
            "-q",
            "--ca-certificate={certificate}",
            "--allow-overwrite=true",
            "-d",
            "{folder}",
            "-o",
            "aria2.out",
            "{url}/download",
        ),
        GNUTLS,
        ("aria2c", "--version"),
        exchanges=_DOWNLOAD,
    ),
    Stack(
        "openssl s_client",
        (
            "{programs}/pipe_client.sh",
            "{address}",
            "{upload}",
            "openssl",
            "s_client",
            "-quiet",
            "-CAfile",
            "{certificate}",
            "-connect",
            "{address}",
            "-servername",
            "localhost",
        ),
        OPENSSL,
        ("openssl", "version"),
    ),
    Stack(
        "gnutls-cli",
        (
            "{programs}/pipe_client.sh",
            "{address}",
            "{upload}",
            "gnutls-cli",
            "--logfile=/dev/null",
            "--x509cafile={certificate}",
            "-p",
            "{port}",
            "localhost",
        ),
        GNUTLS,
        ("gnutls-cli", "--version"),
        quick=True,
    ),
    Stack(
        "tstclnt",
        (
            "sh",
            "-c",
            "{programs}/requests.sh {address} {upload} > {folder}/requests && "
            "tstclnt -h localhost -p {port} -D -o -4 -A {folder}/requests > /dev/null",
        ),
        r"^NSS",
        ("dpkg-query", "--show", "libnss3"),
        quick=True,
    ),
    _python("Python http.client", "python:http"),
    _python("requests", "requests:requests"),
    _python("urllib3", "urllib3:urllib3"),
    _python("httpx", "httpx:httpx", "sync", "1"),
    _python("httpx, HTTP/2", "httpx:httpx", "sync", "2", http2=True),
    _python("httpx on asyncio, HTTP/2", "httpx:httpx", "async", "2", http2=True),
    _python("aiohttp", "aiohttp:aiohttp", "asyncio"),
    _python("aiohttp on uvloop", "uvloop:aiohttp", "uvloop"),
    _python("asyncio streams", "python:streams", "asyncio"),
    _python("uvloop streams", "uvloop:streams", "uvloop"),
    _python("trio", "trio:streams", "trio"),
    _python("gevent", "gevent:streams", "gevent"),
    _python("pyOpenSSL (cryptography's wheel)", "pyOpenSSL:streams", "pyopenssl"),
    _python("tornado", "tornado:tornado"),
    _python("pycurl's wheel", "pycurl:pycurl", http2=True),
    _python("curl_cffi", "curl_cffi:curl_cffi", http2=True, library=BORINGSSL),
    _node("Node https", "https.cjs"),
    _node("Node http2", "http2.cjs", http2=True),
    _node("Node fetch", "fetch.mjs", quick=True),
    _node("undici", "undici.mjs", version=_UNDICI),
    Stack(
        "Bun fetch",
        ("{node_modules}/bun/bin/bun.exe", "{programs}/fetch.mjs", *_PROGRAM),
        BORINGSSL,
        ("{node_modules}/bun/bin/bun.exe", "--version"),
    ),
    Stack(
        "Deno fetch",
        (
            "{node_modules}/deno/deno",
            "run",
            "-A",
            "--unsafely-ignore-certificate-errors",
            "{programs}/fetch.mjs",
            *_PROGRAM,
        ),
        r"^rustls \d",
        ("{node_modules}/deno/deno", "--version"),
        readable=False,
    ),
    Stack("Go net/http", ("{built}/go_client", *_PROGRAM, "1"), GO, ("go", "version")),
    Stack("Go net/http, HTTP/2", ("{built}/go_client", *_PROGRAM), GO, ("go", "version"), http2=True),
    Stack(
        "Go, stripped",
        ("{built}/go_client_stripped", *_PROGRAM),
        GO,
        ("go", "version"),
        http2=True,
        quick=True,
    ),
    Stack("ureq", (f"{_RUST}/rustls_ureq", *_PROGRAM), RUSTLS, RUSTC),
    Stack("reqwest", (f"{_RUST}/rustls_reqwest", *_PROGRAM), RUSTLS, RUSTC),
    Stack("reqwest, HTTP/2", (f"{_RUST}/rustls_reqwest", *_PROGRAM), RUSTLS, RUSTC, http2=True),
    Stack("Go, PIE", ("{built}/go_client_pie", *_PROGRAM), GO, ("go", "version"), http2=True),
    Stack(
        "Java HttpClient",
        (
            "java",
            "-Djdk.internal.httpclient.disableHostnameVerification",
            "{programs}/JavaClient.java",
            *_PROGRAM,
        ),
        r"^Java's JSSE",
        ("java", "--version"),
        readable=False,
    ),
    Stack("Perl LWP", ("perl", "{programs}/client.pl", *_PROGRAM), OPENSSL, ("perl", "--version")),
    Stack("PHP", ("php", "{programs}/client.php", *_PROGRAM), OPENSSL, ("php", "--version")),
    Stack("Ruby net/http", ("ruby", "{programs}/client.rb", *_PROGRAM), OPENSSL, ("ruby", "--version")),
    # Their own transports below GnuTLS, and OpenSSL's memory BIOs in Qt's event loop.
    Stack(
        "libsoup",
        ("/usr/bin/python3", "{programs}/libsoup_client.py", *_PROGRAM),
        GNUTLS,
        ("dpkg-query", "--show", "libsoup-3.0-0"),
    ),
    Stack(
        "Qt",
        ("/usr/bin/python3", "{programs}/qt_client.py", *_PROGRAM),
        OPENSSL,
        ("dpkg-query", "--show", "libqt6network6"),
    ),
    Stack("OpenSSL's BIO_f_ssl (C)", ("{built}/openssl_bio", *_BY_HAND), OPENSSL, ("openssl", "version")),
    Stack(
        "OpenSSL's early data, key updates, SSL_peek (C)",
        ("{built}/openssl_early", *_BY_HAND),
        OPENSSL,
        ("openssl", "version"),
        quick=True,
    ),
    Stack(
        "mbedTLS (C)",
        ("{built}/mbedtls", *_BY_HAND),
        r"^mbedTLS",
        ("dpkg-query", "--show", "libmbedtls-dev"),
    ),
    Stack(
        "GnuTLS's early data, key updates, corks, packets, writes in parts (C)",
        ("{built}/gnutls_packets", *_BY_HAND),
        GNUTLS,
        ("dpkg-query", "--show", "libgnutls28-dev"),
        quick=True,
    ),
    Stack(
        "wolfSSL (C)", ("{built}/wolfssl", *_BY_HAND), r"^wolfSSL", ("dpkg-query", "--show", "libwolfssl-dev")
    ),
    Stack(
        "Android's BoringSSL (C)",
        ("{built}/boringssl", *_BY_HAND),
        BORINGSSL,
        ("dpkg-query", "--show", "android-libboringssl"),
        quick=True,
    ),
)
