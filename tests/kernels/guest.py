#!/usr/bin/env python3
"""What `run` starts on another kernel: real programs, recorded by the real command, judged by hashes and tshark.

Prints a line a check, and ``ok every check`` if all of them hold.
"""

import base64
import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path

PLAINTAP = "/opt/plaintap/venv/bin/plaintap"
FOLDER = Path("/tmp/guest")
BODY = os.urandom(300_007)
NGINX = f"""
daemon off; user root; pid {FOLDER}/pid; error_log {FOLDER}/error.log; worker_processes 1;
events {{ }}
http {{
    access_log off; keepalive_requests 100000; root {FOLDER}/root;
    ssl_certificate {FOLDER}/certificate.pem; ssl_certificate_key {FOLDER}/key.pem;
    server {{ listen 127.0.0.1:8443 ssl http2; listen 127.0.0.1:8080; listen unix:{FOLDER}/socket; }}
}}
"""
PYTHON = (
    "import ssl, urllib.request as request; "
    "request.urlopen('https://localhost:8443/body', context=ssl._create_unverified_context()).read()"
)
NODE = "require('https').get('https://127.0.0.1:8443/body', {rejectUnauthorized: false}, r => r.resume())"
CURL = ("curl", "--silent", "--insecure", "--output", "/dev/null")
HTTPS, HTTP = "https://localhost:8443/body", "http://localhost:8080/body"
# What is recorded, with which options, and the server's address that the archive must have.
COMMANDS = {
    "curl, HTTP/2 (OpenSSL)": ((*CURL, HTTPS), (), "127.0.0.1"),
    "curl, cleartext": ((*CURL, HTTP), (), "127.0.0.1"),
    "wget (GnuTLS)": (("wget", "-q", "--no-check-certificate", "-O", "/dev/null", HTTPS), (), "127.0.0.1"),
    "Python": (("python3", "-c", PYTHON), (), "127.0.0.1"),
    "Node (memory BIOs)": (("node", "-e", NODE), (), "127.0.0.1"),
    "curl, Unix socket": (
        (*CURL, "--unix-socket", str(FOLDER / "socket"), "http://localhost/body"),
        ("--unix",),
        None,
    ),
}


def run(*command):
    """The command's output, whatever its exit code; the compiler of the kernel side says what it has to say."""
    environment = os.environ | {"PLAINTAP_BPF_LOG": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def prepare():
    """A certificate, the body that is served, nginx."""
    (FOLDER / "root").mkdir(parents=True)
    (FOLDER / "root/body").write_bytes(BODY)
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ),
            *("-keyout", FOLDER / "key.pem", "-out", FOLDER / "certificate.pem"),
        ],
        check=True,
        capture_output=True,
    )
    (FOLDER / "nginx.conf").write_text(NGINX)
    server = subprocess.Popen(["nginx", "-e", FOLDER / "error.log", "-c", FOLDER / "nginx.conf"])
    while subprocess.run([*CURL, HTTPS], check=False).returncode:
        time.sleep(0.2)
    return server


def problems(capture, stderr, count, address):
    """What is wrong with a recording of so many downloads."""
    for line in stderr.splitlines():
        if line.startswith("Warning: ") and "not held" not in line and ": no probes (" not in line:
            yield line
    done = run(PLAINTAP, "export", capture, "-o", FOLDER / "a.har")
    if done.returncode:
        yield done.stderr
        return
    entries = json.loads((FOLDER / "a.har").read_bytes())["log"]["entries"]
    if len(entries) != count:
        yield f"{len(entries)} exchanges"
    for entry in entries:
        content = entry["response"]["content"]
        body = base64.b64decode(content.get("text", ""))
        if hashlib.sha256(body).digest() != hashlib.sha256(BODY).digest():
            yield f"a body of {len(body)} bytes is not what was sent"
        if address and entry["serverIPAddress"] != address:
            yield f"the server is {entry['serverIPAddress']}"
    # A reset is shown as one.
    filters = "_ws.expert.severity >= 0x600000 && tcp.flags.reset == 0"
    shown = run("tshark", "-r", capture, "-Y", filters)
    if shown.stdout:
        yield shown.stdout


def of_command(name):
    """A command, recorded from its first byte."""
    command, options, address = COMMANDS[name]
    capture = FOLDER / "a.pcapng"
    done = run(PLAINTAP, "record", *options, "-w", capture, "--", *command)
    if done.returncode:
        yield f"exit code {done.returncode}: {done.stderr}"
        return
    yield from problems(capture, done.stderr, 1, address)


def of_server(server):
    """nginx, recorded by its pid."""
    capture, log = FOLDER / "b.pcapng", FOLDER / "b.log"
    with log.open("w") as stderr:
        recorder = subprocess.Popen([PLAINTAP, "record", "-w", capture, "-p", str(server.pid)], stderr=stderr)
    while "Recording" not in log.read_text() and recorder.poll() is None:
        time.sleep(0.2)
    for url in (HTTPS, HTTP):
        subprocess.run([*CURL, url], check=True)
    time.sleep(1)
    recorder.terminate()
    recorder.wait()
    yield from problems(capture, log.read_text(), 2, "127.0.0.1")


def main():
    print(f"\nkernel {platform.release()}", flush=True)  # the firmware leaves its line open
    server = prepare()
    checks = {name: of_command(name) for name in COMMANDS} | {"nginx, by its pid": of_server(server)}
    good = True
    for name, found in checks.items():
        wrong = list(found)
        good &= not wrong
        print("FAIL" if wrong else "ok  ", name, flush=True)
        for text in wrong:
            print(*(f"      {line}" for line in text.splitlines()), sep="\n", flush=True)
    server.terminate()
    if good:
        print("ok   every check")


main()
