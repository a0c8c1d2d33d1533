"""tls-client, a shared library of Go with uTLS: ``utls_client.py URL CERTIFICATE UPLOAD``."""

import sys
from pathlib import Path

import tls_client

url, _, upload, *_ = sys.argv[1:]
session = tls_client.Session(client_identifier="chrome_120", random_tls_extension_order=True)
for answer in (
    session.get(f"{url}/download", insecure_skip_verify=True),
    session.put(f"{url}/upload/body", data=Path(upload).read_bytes(), insecure_skip_verify=True),
):
    assert answer.status_code < 300, answer.status_code
