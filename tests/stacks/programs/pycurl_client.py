"""pycurl's wheel, with its own libcurl and OpenSSL: ``pycurl_client.py URL CERTIFICATE UPLOAD``."""

import io
import sys
from pathlib import Path

import pycurl

url, certificate, upload = sys.argv[1:]
body = Path(upload).read_bytes()
curl = pycurl.Curl()
curl.setopt(pycurl.CAINFO, certificate)
curl.setopt(pycurl.FAILONERROR, True)
curl.setopt(pycurl.WRITEDATA, io.BytesIO())
curl.setopt(pycurl.URL, f"{url}/download")
curl.perform()
curl.setopt(pycurl.URL, f"{url}/upload/body")
curl.setopt(pycurl.UPLOAD, True)
curl.setopt(pycurl.READDATA, io.BytesIO(body))
curl.setopt(pycurl.INFILESIZE, len(body))
curl.perform()
curl.close()
