"""Firefox, driven by its Marionette protocol: ``firefox_client.py URL CERTIFICATE UPLOAD``.

A page of the server's fetches the download and puts the upload: both are the same connection's.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

url, certificate, upload = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
PREFERENCES = {
    "marionette.port": port,
    "browser.chrome.site_icons": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "services.settings.server": "data:,",
}
SCRIPT = """
const [body, done] = arguments;
const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
(async () => {
  await (await fetch("/download")).arrayBuffer();
  return (await fetch("/upload/body", { method: "PUT", body: bytes })).status;
})().then(done, (error) => done(String(error)));
"""


class Marionette:
    """Messages are ``length:JSON``; a command is [0, number, name, parameters], an answer [1, number, error, value]."""

    def __init__(self) -> None:
        end = time.monotonic() + 30
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), 30)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end, "Firefox does not listen"
                time.sleep(0.1)
        self.file = self.socket.makefile("rb")
        self.read()

    def read(self) -> list:
        length = b""
        while not length.endswith(b":"):
            length += self.file.read(1)
        return json.loads(self.file.read(int(length[:-1])))

    def command(self, name: str, **parameters: object) -> object:
        message = json.dumps([0, 1, name, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, value = self.read()
        assert error is None, error
        return value


with tempfile.TemporaryDirectory() as home:
    lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items())
    Path(home, "user.js").write_text("".join(lines))
    command = ["firefox-esr", "--headless", "--no-remote", "--marionette", "--profile", home]
    browser = subprocess.Popen(
        command, env={**os.environ, "HOME": home}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        marionette = Marionette()
        marionette.command("WebDriver:NewSession", acceptInsecureCerts=True)
        marionette.command("WebDriver:Navigate", url=f"{url}/tell")
        body = base64.b64encode(Path(upload).read_bytes()).decode()
        status = marionette.command("WebDriver:ExecuteAsyncScript", script=SCRIPT, args=[body])
        assert status["value"] < 300, status
        marionette.command("Marionette:Quit")
        browser.wait(20)
    finally:
        browser.kill()
        browser.wait()
