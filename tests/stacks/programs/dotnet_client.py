""".NET's HttpClient, in a Python that has the runtime inside: ``dotnet_client.py URL CERTIFICATE UPLOAD VERSION``."""

import json
import os
import sys
import tempfile
from pathlib import Path

import dnv.net
import pythonnet
from clr_loader import get_coreclr

url, certificate, upload, version = sys.argv[1:]
root = Path(dnv.net.__path__[0]) / "runtime/.net"
(found,) = (root / "shared/Microsoft.NETCore.App").iterdir()
framework = {"name": "Microsoft.NETCore.App", "version": found.name}
options = {
    "tfm": "net" + ".".join(found.name.split(".")[:2]),
    "framework": framework,
    "configProperties": {"System.Globalization.Invariant": True},
}
os.environ["SSL_CERT_FILE"] = certificate
with tempfile.TemporaryDirectory() as folder:
    config = Path(folder) / "runtimeconfig.json"
    config.write_text(json.dumps({"runtimeOptions": options}))
    pythonnet.set_runtime(get_coreclr(runtime_config=str(config), dotnet_root=str(root)))
    import clr

    clr.AddReference("System.Net.Http")
    import System
    from System.Net import Http

    client = Http.HttpClient()
    client.DefaultRequestVersion = System.Version(*map(int, version.split(".")))
    response = client.GetAsync(f"{url}/download").Result
    response.EnsureSuccessStatusCode()
    assert response.Content.ReadAsByteArrayAsync().Result.Length
    content = Http.ByteArrayContent(System.IO.File.ReadAllBytes(upload))
    client.PutAsync(f"{url}/upload/body", content).Result.EnsureSuccessStatusCode()
