"""requests, on one session: ``requests_client.py URL CERTIFICATE UPLOAD``."""

import sys
from pathlib import Path

import requests

url, certificate, upload = sys.argv[1:]
with requests.Session() as session:
    session.trust_env = False  # a bundle that REQUESTS_CA_BUNDLE names would come first
    session.verify = certificate
    session.get(f"{url}/download", timeout=30).raise_for_status()
    session.put(f"{url}/upload/body", data=Path(upload).read_bytes(), timeout=30).raise_for_status()
