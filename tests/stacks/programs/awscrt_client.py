"""AWS's common runtime for Python, whose TLS is s2n: awscrt_client.py URL CERTIFICATE UPLOAD."""

import sys
from pathlib import Path
from urllib.parse import urlsplit

from awscrt import http, io

URL, CERTIFICATE, UPLOAD = sys.argv[1:4]
TIMEOUT_S = 60


def exchange(connection, method, path, body=None):
    """One request, and its response to the end."""
    fields = [("Host", urlsplit(URL).netloc)]
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    stream = None if body is None else io.InputStream(__import__("io").BytesIO(body))
    request = http.HttpRequest(method, path, http.HttpHeaders(fields), stream)
    going = connection.request(request)
    going.activate()
    status = going.completion_future.result(TIMEOUT_S)
    assert status < 300, status


options = io.TlsContextOptions()
options.override_default_trust_store_from_path(None, CERTIFICATE)
secured = io.ClientTlsContext(options).new_connection_options()
secured.set_server_name("localhost")
connected = http.HttpClientConnection.new(
    "localhost", urlsplit(URL).port, tls_connection_options=secured
).result(TIMEOUT_S)
exchange(connected, "GET", "/download")
exchange(connected, "PUT", "/upload/body", Path(UPLOAD).read_bytes())
connected.close().result(TIMEOUT_S)
