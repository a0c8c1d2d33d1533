"""The rows of servers, by how much they are used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stacks import Stack, python_version
from stacks_clients import BORINGSSL, GNUTLS, GO, OPENSSL, RUSTC, RUSTLS

if TYPE_CHECKING:
    from collections.abc import Mapping

NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / { proxy_pass http://127.0.0.1:{backend}; }
    }
}
"""
APACHE = """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.log
DefaultRuntimeDir {folder}
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
Listen 127.0.0.1:{port} https
StartServers 1
ServerLimit 1
ThreadsPerChild 4
MaxRequestWorkers 4
Protocols h2 http/1.1
SSLEngine on
SSLCertificateFile {certificate}
SSLCertificateKeyFile {key}
ProxyPass / http://127.0.0.1:{backend}/
"""
HAPROXY = """
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend tls
    bind 127.0.0.1:{port} ssl crt {both} alpn h2,http/1.1
    default_backend nginx
backend nginx
    server nginx 127.0.0.1:{backend}
"""
LIGHTTPD = """
server.modules = ( "mod_%s", "mod_proxy" )
server.port = {port}
server.bind = "127.0.0.1"
server.document-root = "{root}"
server.upload-dirs = ( "{folder}" )
ssl.engine = "enable"
ssl.pemfile = "{certificate}"
ssl.privkey = "{key}"
proxy.server = ( "" => ( ( "host" => "127.0.0.1", "port" => {backend} ) ) )
"""
STUNNEL = """
foreground = yes
pid =
[https]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{backend}
cert = {certificate}
key = {key}
"""
_FILES = ("{port}", "{certificate}", "{key}", "{download}")
_DOWNLOAD = ("/download",)


def _http2(stack: Stack) -> tuple[Stack, Stack]:
    """The row, and the same once more over HTTP/2."""
    return stack, replace(stack, name=f"{stack.name}, HTTP/2", http2=True, quick=False)


def _python(name: str, package: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Stack:
    return Stack(name, ("{python}", *arguments), OPENSSL, python_version(package), environment or {})


def _uvicorn(name: str, package: str, loop: str) -> Stack:
    application = ("--app-dir", "{programs}", "asgi:application")
    options = ("--port", "{port}", "--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}")
    return _python(
        name, package, "-m", "uvicorn", *application, *options, "--loop", loop, "--log-level", "warning"
    )


def _lighttpd(library: str, label: str) -> Stack:
    command = ("lighttpd", "-D", "-f", "{configuration}")
    return Stack(f"lighttpd, {library}", command, label, ("lighttpd", "-v"), configuration=LIGHTTPD % library)


SERVERS: tuple[Stack, ...] = (
    *_http2(
        Stack(
            "nginx",
            ("nginx", "-e", "{folder}/error.log", "-p", "{folder}", "-c", "{configuration}"),
            OPENSSL,
            ("nginx", "-v"),
            configuration=NGINX,
            quick=True,
        )
    ),
    *_http2(
        Stack(
            "Apache",
            ("apache2", "-D", "FOREGROUND", "-f", "{configuration}"),
            OPENSSL,
            ("apache2", "-v"),
            configuration=APACHE,
        )
    ),
    *_http2(
        Stack(
            "haproxy",
            ("haproxy", "-f", "{configuration}"),
            OPENSSL,
            ("haproxy", "-v"),
            configuration=HAPROXY,
        )
    ),
    _lighttpd("openssl", OPENSSL),
    _lighttpd("gnutls", GNUTLS),
    _lighttpd("mbedtls", r"^mbedTLS"),
    _lighttpd("nss", r"^NSS"),
    _lighttpd("wolfssl", r"^wolfSSL"),
    Stack(
        "stunnel", ("stunnel4", "{configuration}"), OPENSSL, ("stunnel4", "-version"), configuration=STUNNEL
    ),
    Stack(
        "openssl s_server",
        (
            "openssl",
            "s_server",
            "-WWW",
            "-quiet",
            "-accept",
            "{port}",
            "-cert",
            "{certificate}",
            "-key",
            "{key}",
        ),
        OPENSSL,
        ("openssl", "version"),
        exchanges=_DOWNLOAD,
    ),
    _uvicorn("uvicorn", "uvicorn", "asyncio"),
    _uvicorn("uvicorn on uvloop", "uvloop", "uvloop"),
    *_http2(
        _python(
            "hypercorn",
            "Hypercorn",
            "-m",
            "hypercorn",
            "--bind",
            "127.0.0.1:{port}",
            "--certfile",
            "{certificate}",
            "--keyfile",
            "{key}",
            "asgi:application",
            environment={"PYTHONPATH": "{programs}"},
        )
    ),
    # Memory BIOs, in its own C.
    Stack(
        "Puma",
        (
            "puma",
            "-b",
            "ssl://127.0.0.1:{port}?key={key}&cert={certificate}&verify_mode=none",
            "{programs}/config.ru",
        ),
        OPENSSL,
        ("puma", "--version"),
        {"DOWNLOAD": "{download}"},
    ),
    _python("Python http.server", "python", "{programs}/servers.py", "threads", *_FILES),
    _python("aiohttp.web", "aiohttp", "{programs}/servers.py", "aiohttp", *_FILES),
    _python("tornado", "tornado", "{programs}/servers.py", "tornado", *_FILES),
    _python("gevent.pywsgi", "gevent", "{programs}/servers.py", "gevent", *_FILES),
    *_http2(
        Stack(
            "Node http2 with HTTP/1",
            ("node", "{programs}/server.cjs", *_FILES),
            OPENSSL,
            ("node", "--version"),
        )
    ),
    Stack("Node https", ("node", "{programs}/server.cjs", *_FILES, "1"), OPENSSL, ("node", "--version")),
    Stack(
        "Bun.serve",
        ("{node_modules}/bun/bin/bun.exe", "{programs}/bun_server.mjs", *_FILES),
        BORINGSSL,
        ("{node_modules}/bun/bin/bun.exe", "--version"),
    ),
    *_http2(Stack("Go net/http", ("{built}/go_server", *_FILES), GO, ("go", "version"))),
    Stack("hyper", ("{built}/rustls/target/release/rustls_hyper", *_FILES), RUSTLS, RUSTC),
)
