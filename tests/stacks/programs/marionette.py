"""Firefox, headless, with a profile of its own, driven by its Marionette protocol."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFERENCES = {
    "browser.chrome.site_icons": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "services.settings.server": "data:,",
}
SECONDS = 30


class Marionette:
    """Messages are ``length:JSON``; a command is [0, number, name, parameters], an answer [1, number, error, value]."""

    def __init__(self, port: int) -> None:
        end = time.monotonic() + SECONDS
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end, "Firefox does not listen"
                time.sleep(0.1)
        self.file = self.socket.makefile("rb")
        self.read()

    def read(self) -> list[Any]:
        """The next message."""
        length = b""
        while not length.endswith(b":"):
            length += self.file.read(1)
        message: list[Any] = json.loads(self.file.read(int(length[:-1])))
        return message

    def command(self, name: str, **parameters: object) -> Any:
        """Its value."""
        message = json.dumps([0, 1, name, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, value = self.read()
        assert error is None, error
        return value


@contextlib.contextmanager
def firefox(*options: str) -> Iterator[Marionette]:
    """A session; at its end Firefox quits."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    preferences = {**PREFERENCES, "marionette.port": port}
    with tempfile.TemporaryDirectory() as home:
        lines = (
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items()
        )
        Path(home, "user.js").write_text("".join(lines))
        command = ["firefox-esr", "--headless", "--no-remote", "--marionette", *options, "--profile", home]
        browser = subprocess.Popen(
            command, env={**os.environ, "HOME": home}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            marionette = Marionette(port)
            marionette.command("WebDriver:NewSession", acceptInsecureCerts=True)
            yield marionette
            marionette.command("Marionette:SetContext", value="content")
            marionette.command("Marionette:Quit")
            browser.wait(20)
        finally:
            browser.kill()
            browser.wait()
