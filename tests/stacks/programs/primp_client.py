"""primp, whose wheel has rustls: ``primp_client.py URL CERTIFICATE UPLOAD``."""

import sys
from pathlib import Path

import primp

url, _, upload, *_ = sys.argv[1:]
client = primp.Client(verify=False)
assert client.get(f"{url}/download").content
assert client.put(f"{url}/upload/body", content=Path(upload).read_bytes()).content is not None
