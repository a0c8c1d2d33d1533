"""Wheels of one make each, with a TLS library inside: ``wheels_client.py URL CERTIFICATE UPLOAD PACKAGE``."""

import sys
from pathlib import Path

url, _, upload, package = sys.argv[1:]
body = Path(upload).read_bytes()

if package == "dartio_tls":
    from dartio_tls import Client

    with Client(verify=False) as client:
        client.get(f"{url}/download")
        client.put(f"{url}/upload/body", content=body)
elif package == "nb_curl":
    from nb_curl import requests

    with requests.Session() as session:
        session.get(f"{url}/download", verify=False)
        session.put(f"{url}/upload/body", data=body, verify=False)
elif package == "rqsession":
    from rqsession.rust_session import BrowserSession, Chrome120

    with BrowserSession(Chrome120, verify=False) as session:
        session.get(f"{url}/download")
else:
    raise SystemExit(package)
