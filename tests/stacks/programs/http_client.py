"""Python's own http.client: ``http_client.py URL CERTIFICATE UPLOAD``."""

import http.client
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

url, certificate, upload = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
context.set_alpn_protocols(["http/1.1"])
connection = http.client.HTTPSConnection(urlsplit(url).netloc, context=context)
for method, path, body in (("GET", "/download", None), ("PUT", "/upload/body", Path(upload).read_bytes())):
    connection.request(method, path, body)
    response = connection.getresponse()
    response.read()
    assert response.status < 300, response.status
connection.close()
