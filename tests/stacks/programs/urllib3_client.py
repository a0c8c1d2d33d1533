"""urllib3: ``urllib3_client.py URL CERTIFICATE UPLOAD``."""

import sys
from pathlib import Path

import urllib3

url, certificate, upload = sys.argv[1:]
with urllib3.PoolManager(ca_certs=certificate) as pool:
    assert pool.request("GET", f"{url}/download").status == 200
    assert pool.request("PUT", f"{url}/upload/body", body=Path(upload).read_bytes()).status < 300
