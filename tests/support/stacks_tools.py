"""More clients: tools and libraries that share a TLS library with others, and use it in ways of their own."""

from __future__ import annotations

from stacks import Stack
from stacks_clients import OPENSSL

_PROGRAM = ("{url}", "{certificate}", "{upload}")
_DOWNLOAD = ("/download",)
_REQUEST = "printf 'GET /download HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n'"
_NODE = {"NODE_EXTRA_CA_CERTS": "{certificate}", "STACKS_NODE": "{built}/node"}


def _package(name: str) -> tuple[str, ...]:
    return ("sh", "-c", f"grep '\"version\"' {{node_modules}}/{name}/package.json")


def _shell(name: str, command: str, version: str, *, http2: bool = False) -> Stack:
    return Stack(
        name,
        ("sh", "-c", f"{command} > /dev/null"),
        OPENSSL,
        (version, "--version"),
        exchanges=_DOWNLOAD,
        http2=http2,
    )


TOOLS: tuple[Stack, ...] = (
    Stack(
        "git",
        ("git", "ls-remote", "{url}/repository.git"),
        r"^GnuTLS",
        ("git", "--version"),
        {"GIT_SSL_CAINFO": "{certificate}"},
        exchanges=("/repository.git/info/refs?service=git-upload-pack", "/repository.git/HEAD"),
        http2=True,
    ),
    Stack(
        "nghttp",
        (
            "sh",
            "-c",
            "nghttp -n {url}/download && nghttp -n -d {upload} -H ':method: PUT' {url}/upload/body",
        ),
        OPENSSL,
        ("nghttp", "--version"),
        http2=True,
    ),
    _shell("h2load", "h2load -n 1 -c 1 {url}/download", "h2load", http2=True),
    # It may find its input at an end before it has written all of its output, and call that an error.
    _shell("ncat", f"{_REQUEST} | (ncat --ssl localhost {{port}} || true)", "ncat"),
    _shell("socat", f"{_REQUEST} | socat -t5 - OPENSSL:localhost:{{port}},cafile={{certificate}}", "openssl"),
    _shell("w3m", "w3m -o ssl_ca_file={certificate} -dump_source {url}/download", "w3m"),
    Stack(
        "LuaSec",
        ("lua5.4", "{programs}/client.lua", "{port}", "{certificate}", "{upload}"),
        OPENSSL,
        ("dpkg-query", "--show", "lua-sec"),
    ),
    Stack("PHP, curl", ("php", "{programs}/curl.php", *_PROGRAM), OPENSSL, ("php", "--version"), http2=True),
    Stack("got", ("node", "{programs}/got.mjs", *_PROGRAM), OPENSSL, _package("got"), _NODE),
    Stack(
        "got, HTTP/2", ("node", "{programs}/got.mjs", *_PROGRAM), OPENSSL, _package("got"), _NODE, http2=True
    ),
    Stack("axios", ("node", "{programs}/axios.mjs", *_PROGRAM), OPENSSL, _package("axios"), _NODE),
    Stack(
        "Erlang httpc",
        (
            "erl",
            "-noshell",
            "-eval",
            'ssl:start(), inets:start(), {ok, _} = httpc:request(get, {"{url}/download?1", []}, '
            '[{ssl, [{verify, verify_none}]}], []), {ok, _} = httpc:request(get, {"{url}/download?2", []}, '
            "[{ssl, [{verify, verify_none}]}], []), timer:sleep(200), halt().",
        ),
        r"^Erlang's ssl",
        ("dpkg-query", "--show", "erlang-ssl"),
        readable=False,
    ),
)
