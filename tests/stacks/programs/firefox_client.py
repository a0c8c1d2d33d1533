"""Firefox as a client: ``firefox_client.py URL CERTIFICATE UPLOAD``.

A page of the server's fetches the download and puts the upload: both are the same connection's.
"""

import base64
import sys
from pathlib import Path

from marionette import firefox

SCRIPT = """
const [body, done] = arguments;
const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
(async () => {
  await (await fetch("/download")).arrayBuffer();
  return (await fetch("/upload/body", { method: "PUT", body: bytes })).status;
})().then(done, (error) => done(String(error)));
"""

url, certificate, upload = sys.argv[1:]
with firefox() as marionette:
    marionette.command("WebDriver:Navigate", url=f"{url}/tell")
    body = base64.b64encode(Path(upload).read_bytes()).decode()
    status = marionette.command("WebDriver:ExecuteAsyncScript", script=SCRIPT, args=[body])
    assert status["value"] < 300, status
