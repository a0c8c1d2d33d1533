"""libsoup, whose TLS is glib-networking's: libsoup_client.py URL CERTIFICATE UPLOAD."""

import sys
from pathlib import Path

import gi

gi.require_version("Soup", "3.0")
from gi.repository import Gio, GLib, Soup  # noqa: E402

url, certificate, upload = sys.argv[1:]
session = Soup.Session()
session.set_tls_database(Gio.TlsFileDatabase.new(certificate))
for method, path in (("GET", "/download"), ("PUT", "/upload/body")):
    message = Soup.Message.new(method, url + path)
    if method == "PUT":
        message.set_request_body_from_bytes(None, GLib.Bytes.new(Path(upload).read_bytes()))
    session.send_and_read(message, None)
    assert message.get_status() < 300, message.get_status()
