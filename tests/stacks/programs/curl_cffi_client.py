"""curl_cffi, whose wheel has a static BoringSSL: ``curl_cffi_client.py URL CERTIFICATE UPLOAD``."""

import sys
from pathlib import Path

from curl_cffi import requests

url, certificate, upload = sys.argv[1:]
with requests.Session(impersonate="chrome", verify=certificate) as session:
    session.get(f"{url}/download").raise_for_status()
    session.put(f"{url}/upload/body", data=Path(upload).read_bytes()).raise_for_status()
