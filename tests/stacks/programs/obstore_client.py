"""obstore, whose wheel has rustls with its symbols: ``obstore_client.py URL CERTIFICATE UPLOAD HTTP``."""

import sys
from pathlib import Path

import obstore
from obstore.store import HTTPStore

url, _, upload, http = sys.argv[1:]
# Its peer's certificate is its own authority, which webpki does not take.
store = HTTPStore.from_url(
    url, client_options={"allow_invalid_certificates": True, "http1_only": http == "1"}
)
obstore.get(store, "download").bytes()
obstore.put(store, "upload/body", Path(upload).read_bytes(), use_multipart=False)
