"""What the user chooses of an export: redaction, bodies, filters and formats."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import har_schema
import pytest
from archives import write_har
from h2_by_hand import CONNECT, END_HEADERS, END_STREAM, HEADERS, OK, PINGS, field, fields, frame
from h2_by_hand import GET as H2_GET
from h2_by_hand import talk as h2_talk
from http_streams import Conversation, read, read_in_splits
from hypothesis import given
from hypothesis import strategies as st

from capture.errors import UsageError
from capture.streams import Process, Side, Tls
from exporters.entry_writers import EXPORTERS
from exporters.filters import ExchangeFilter
from exporters.har import EntryMaker
from exporters.har_redaction import CREDENTIAL_HEADERS, REDACTED, Redaction
from exporters.http import Limits
from exporters.text_redaction import NamedValues

if TYPE_CHECKING:
    from pathlib import Path

    from exporters.http import Exchange

SECRET = "s3cr3t"


def exchange(
    target: str = "/",
    fields: str = "",
    body: bytes = b"",
    kind: str = "",
    answer: bytes = b"",
    answer_fields: str = "",
) -> list[Exchange]:
    """A request, with a body if there is one, and its response."""
    head = f"{'POST' if body else 'GET'} {target} HTTP/1.1\r\nHost: a\r\n{fields}"
    if body:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    response = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n{answer_fields}\r\n"
    return read(Conversation().client(head.encode() + b"\r\n", body).server(response.encode(), answer).items)


def socket(message: bytes) -> list[Exchange]:
    """A WebSocket that says something."""
    upgrade = b"Upgrade: websocket\r\n\r\n"
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade)
    return read(talk.server(b"HTTP/1.1 101 S\r\n" + upgrade, message).items)


def exported(found: list[Exchange], redaction: Redaction, bodies: bool = True) -> dict[str, Any]:
    """The only entry; the archive passes the schema."""
    output = io.BytesIO()
    write_har(found, output, EntryMaker(redaction=redaction, bodies=bodies))
    archive = json.loads(output.getvalue())
    assert har_schema.problems(archive) == []
    (entry,) = archive["log"]["entries"]
    return dict(entry)


def json_body(text: str) -> list[Exchange]:
    """A request that posts JSON."""
    return exchange(body=text.encode(), kind="application/json")


def grpc_refusal(message: str) -> list[Exchange]:
    """A gRPC call that fails with a message."""
    answer = f"Content-Type: application/grpc\r\ngrpc-status: 16\r\ngrpc-message: {message}\r\n"
    return exchange("/a.B/C", body=b"\0\0\0\0\0", kind="application/grpc", answer_fields=answer)


IN_A_FORM = b"%7B%22n%22%3A+1%2C+%22token%22%3A+%22s3cr3t%22%7D"
"""JSON as a form or a URL has it."""


# Redaction.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "token", "b"]), inner, max_size=3)
    ),
)


def replaced(value: Any) -> Any:
    """``value`` with what is called token replaced."""
    if isinstance(value, list):
        return [replaced(each) for each in value]
    if isinstance(value, dict):
        return {key: REDACTED if key == "token" else replaced(each) for key, each in value.items()}
    return value


def test_credentials_are_redacted_by_default() -> None:
    found = exchange(
        fields="".join(f"{name.title()}: {SECRET}\r\n" for name in sorted(CREDENTIAL_HEADERS - {"cookie"}))
        + f"Cookie: session={SECRET}; theme={SECRET}\r\nX-Other: shown\r\n",
        answer_fields=f"Set-Cookie: session={SECRET}; Path=/\r\n",
    )
    entry = exported(found, Redaction.of())
    assert SECRET not in json.dumps(entry)
    headers = {header["name"]: header["value"] for header in entry["request"]["headers"]}
    assert headers["Authorization"] == headers["Cookie"] == REDACTED
    assert headers["X-Other"] == "shown"
    assert [cookie["name"] for cookie in entry["request"]["cookies"]] == ["session", "theme"]
    flags = {"httpOnly": False, "secure": False}
    assert entry["response"]["cookies"] == [{"name": "session", "value": REDACTED, **flags, "path": "/"}]


def test_sensitive_keeps_them() -> None:
    found = exchange(fields=f"Authorization: {SECRET}\r\nCookie: session={SECRET}\r\n")
    entry = exported(found, Redaction.of(sensitive=True))
    assert json.dumps(entry).count(SECRET) == 3


def test_a_password_in_a_url_is_redacted() -> None:
    found = exchange(f"http://user:{SECRET}@b/x", answer_fields=f"Location: http://u:{SECRET}@c/@y\r\n")
    entry = exported(found, Redaction.of())
    assert SECRET not in json.dumps(entry)
    assert entry["request"]["url"] == f"http://{REDACTED}@b/x"
    assert entry["response"]["redirectURL"] == f"http://{REDACTED}@c/@y"


JSON_BODY = (
    '{"Token": "s3cr3t", "deep": [{"token":{"a":["s3cr3t"]}, "n": 1.50}], "x-token": "kept", '
    '"text": "\\"token\\": no key", "token" : s3cr3t'
)


@pytest.mark.parametrize(
    "found",
    [
        exchange(f"/?a=1&token={SECRET}&b=2"),
        exchange(f"/?Token={SECRET}", fields=f"Referer: http://a/?token={SECRET}#f\r\n"),
        exchange(fields=f"Token: {SECRET}\r\n"),
        exchange(body=f"a=1&token={SECRET}".encode(), kind="application/x-www-form-urlencoded"),
        exchange(
            body=f'--X\r\nContent-Disposition: form-data; name="token"\r\n\r\n{SECRET}\r\n--X--'.encode(),
            kind="multipart/form-data; boundary=X",
        ),
        exchange(
            body=f'--X\nContent-Disposition: form-data;\n name="token"\n\n{SECRET}\n--X--'.encode(),
            kind="multipart/form-data; boundary=X",
        ),
        exchange(body=JSON_BODY.encode(), kind="application/json"),
        exchange(answer=JSON_BODY.encode(), answer_fields="Content-Type: application/json\r\n"),
        exchange(
            answer=f'{{"token":"{SECRET}"}}'.encode("utf-16"),
            answer_fields="Content-Type: application/json; charset=utf-16\r\n",
        ),
        exchange(
            answer=f'data: {{"token":"{SECRET}"}}\n\n'.encode(),
            answer_fields="Content-Type: text/event-stream\r\n",
        ),
        exchange(answer_fields=f"X: y\r\nToken: {SECRET}\r\n"),
        exchange("/?%74oken=" + SECRET),
        exchange("/a;token=" + SECRET),
        exchange("/?" + "a&" * 10_000 + "token=" + SECRET),
        exchange(answer_fields=f"Location: http://b/#x=1&token={SECRET}\r\n"),
        exchange(answer_fields=f"Link: <http://b/?token={SECRET}>; rel=next, </?token={SECRET}>\r\n"),
        exchange(body=b"%74oken=" + SECRET.encode(), kind="application/x-www-form-urlencoded"),
        exchange(body=f"token={SECRET}&a=\xe9".encode("latin-1"), kind="application/x-www-form-urlencoded"),
        exchange(body=b"a=1&" * 10_001 + b"token=s3cr3t", kind="application/x-www-form-urlencoded"),
        exchange(
            answer=f"token={SECRET}&scope=a".encode(),
            answer_fields="Content-Type: application/x-www-form-urlencoded\r\n",
        ),
        exchange(
            body=f'--X\r\nContent-Disposition: form-data; name="token"; filename="f"\r\n\r\n{SECRET}\r\n--X--'.encode(),
            kind="multipart/form-data; boundary=X",
        ),
        exchange(
            body=f'--X\r\nContent-Disposition: form-data; name="token"\r\n\r\n{SECRET}\xff\r\n--X--'.encode(
                "latin-1"
            ),
            kind="multipart/form-data; boundary=X",
        ),
        exchange(
            body=b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\n{"token":"s3cr3t"}\r\n--X--',
            kind="multipart/form-data; boundary=X",
        ),
        exchange(body=f'{{"token":"{SECRET}"}}'.encode(), kind="text/plain"),
        exchange(body=b'{"\\u0054ok\\u0065n":"s3cr3t"}', kind="application/json"),
        exchange(
            answer=f'call({{"token":"{SECRET}"}})'.encode(), answer_fields="Content-Type: text/javascript\r\n"
        ),
        exchange(
            answer=f"x={{\"token\":'{SECRET}'}}".encode(), answer_fields="Content-Type: text/javascript\r\n"
        ),
        exchange(answer=f'\0{{"token":"{SECRET}"}}'.encode()),
        socket(b'\x82\x12{"token":"s3cr3t"}'),
        socket(b'\x81\x13{"token":"s3cr3t\xff"}'),
        # Texts inside of texts.
        json_body(json.dumps({"body": json.dumps({"token": SECRET})})),
        json_body(json.dumps({"body": json.dumps({"Body": json.dumps({"a": 1, "token": {"x": SECRET}})})})),
        json_body('{"body":"{\\u0022token\\u0022:\\u0022s3cr3t\\u0022}"}'),
        json_body(json.dumps({"body": f"a=1&token={SECRET}&b=2"})),
        json_body(f'{{"body":"a=1\\u0026token={SECRET}"}}'),
        json_body(json.dumps({"url": f"https://a/?token={SECRET}"})),
        json_body(json.dumps({"query": f'{{ login(token: "{SECRET}") {{ id }} }}'})),
        json_body(
            json.dumps({"query": f'{{ login(token: """{SECRET}""") }}', "variables": {"token": SECRET}})
        ),
        exchange(
            answer=b'it"s JSON.parse("{\\"token\\":\\"s3cr3t\\"}")',
            answer_fields="Content-Type: text/html\r\n",
        ),
        exchange(answer=b"x={token:'s3cr3t'}", answer_fields="Content-Type: text/javascript\r\n"),
        exchange(answer=b"{'token': 's3cr3t'}"),
        exchange(body=b'{"token":"s3cr3t"}', kind="application/x-www-form-urlencoded"),
        exchange(body=b"payload=" + IN_A_FORM, kind="application/x-www-form-urlencoded"),
        exchange(body=b"token=s3cr3t\r\nb=2", kind="text/plain"),
        exchange(f"/?a=1&filter={IN_A_FORM.decode()}&b=2"),
        exchange('/?{"token":"s3cr3t"}'),
        exchange("/?next=https%3A%2F%2Fb%2F%3Ftoken%3Ds3cr3t"),
        exchange(fields=f"X-Forwarded-Uri: /x?token={SECRET}\r\n"),
        exchange(fields=f"Next-Router-State: {IN_A_FORM.decode()}\r\n"),
        exchange(
            answer=f'data: {{"token":\ndata: "{SECRET}"}}\n\n'.encode(),
            answer_fields="Content-Type: text/event-stream\r\n",
        ),
        exchange(
            body=b'--X\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'
            + json.dumps({"body": json.dumps({"token": SECRET})}).encode()
            + b"\r\n--X--",
            kind="multipart/form-data; boundary=X",
        ),
        exchange(body=b'\0\xff{"body":"{\\"token\\":\\"s3cr3t\\"}"}', kind="application/grpc"),
        exchange("/?" + "a=" + "%5C" * 300 + "&token=" + SECRET),
        socket(b'\x81\x1ba["{\\"token\\":\\"s3cr3t\\"}"]'),
        grpc_refusal("token=s3cr3t"),
    ],
)
def test_names_are_redacted_wherever_they_are(found: list[Exchange]) -> None:
    entry = exported(found, Redaction.of(names=["TOKEN"]))
    shown = json.dumps(entry)
    for content in (entry["request"].get("postData", {}), entry["response"]["content"]):
        if content.get("encoding") == "base64":
            shown += base64.b64decode(content["text"]).decode("latin-1")
    assert SECRET not in shown
    assert REDACTED in shown or "left out" in shown


def test_a_script_keeps_what_is_behind_a_redacted_value() -> None:
    script = b'f({"token":t.value,"b":1});g({"token":\'it\\\'s\',"c":2})'
    found = exchange(answer=script, answer_fields="Content-Type: text/javascript\r\n")
    shown = exported(found, Redaction.of(names=["token"]))["response"]["content"]["text"]
    assert shown == f'f({{"token":"{REDACTED}","b":1}});g({{"token":"{REDACTED}","c":2}})'


@pytest.mark.parametrize(
    "name",
    [
        "Private-Token",
        "X-CSRFToken",
        "Api-Key",
        "apikey",
        "X-Vault-Token",
        "X-Shopify-Access-Token",
        "DPoP",
        "Ocp-Apim-Subscription-Key",
        "Cookie2",
        "Authorization\t",
        "X-Auth",
        "Authentication",
        "Mcp-Session-Id",
        "X-SessionID",
        "X-Api-Key",
        "X-Goog-Api-Key",
        "X-Auth-Token",
        "X-CSRF-Token",
        "X-XSRF-Token",
        "X-Amz-Security-Token",
    ],
)
def test_fields_that_are_called_like_credentials(name: str) -> None:
    entry = exported(exchange(fields=f"{name}: {SECRET}\r\n"), Redaction.of())
    assert entry["request"]["headers"][1] == {"name": name.strip(), "value": REDACTED}


@pytest.mark.parametrize(
    "name",
    [
        "Access-Control-Allow-Credentials",
        "Idempotency-Key",
        "Sec-WebSocket-Key",
        "Surrogate-Key",
        "X-Author",
        "X-Auth-Method",
        "X-Session-Count",
        "X-RateLimit-Tokens-Left",
    ],
)
def test_fields_that_are_not(name: str) -> None:
    entry = exported(exchange(fields=f"{name}: shown\r\n"), Redaction.of())
    assert entry["request"]["headers"][1] == {"name": name, "value": "shown"}


def test_an_address_for_mail_has_no_password() -> None:
    entry = exported(exchange(answer_fields="Location: mailto:me@b\r\n"), Redaction.of())
    assert entry["response"]["redirectURL"] == "mailto:me@b"


def test_what_is_no_field_is_no_name() -> None:
    found = exchange(fields=f"Authorization\0: Bearer {SECRET}\r\n{SECRET} {SECRET}\r\n")
    entry = exported(found, Redaction.of())
    assert [header["name"] for header in entry["request"]["headers"]][:2] == ["Host", "Authorization"]
    assert f"Bearer {SECRET}" not in json.dumps(entry)
    assert SECRET in json.dumps(exported(found, Redaction.of(sensitive=True)))


def test_a_field_whose_name_was_not_recorded_may_be_a_credential() -> None:
    block = b"\x82\x84\x87" + field(b":authority", b"a") + b"\x7f\x00" + b"\x06s3cr3t" + b"\xbf"
    talk = Conversation(handshake_seen=False, tls=Tls(alpn="h2"))
    talk.client(frame(HEADERS, END_STREAM | END_HEADERS, 1, block) + PINGS)
    found = read(talk.server(frame(HEADERS, END_STREAM | END_HEADERS, 1, OK) + PINGS).items)
    headers = exported(found, Redaction.of())["request"]["headers"]
    assert headers[-2:] == [
        {"name": "(not recorded)", "value": REDACTED},
        {"name": "(not recorded)", "value": "(not recorded)"},
    ]


@pytest.mark.parametrize(
    "found",
    [
        exchange(answer_fields=f"Location: //u:{SECRET}@b/\r\n"),
        exchange(answer_fields=f"Refresh: 0; url=https://u:{SECRET}@b/\r\n"),
        exchange(fields=f"Origin: https://u:{SECRET}@b\r\n"),
        read(Conversation().client(f"GET / HTTP/1.1\r\nHost: u:{SECRET}@a\r\n\r\n".encode()).items),
        read(Conversation().client(f"CONNECT u:{SECRET}@a:443 HTTP/1.1\r\nHost: a\r\n\r\n".encode()).items),
        exchange(
            fields=f"Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{SECRET}, v4.k8s\r\n"
        ),
    ],
)
def test_credentials_in_other_places(found: list[Exchange]) -> None:
    shown = json.dumps(exported(found, Redaction.of()))
    assert SECRET not in shown
    assert REDACTED in shown


MARKUP = [
    "<a><token>{}</token><b>x</b></a>",
    "<n:token xmlns:n='x' a='b'>{}</n:token>",
    "<Token><![CDATA[{}]]></Token>",
    "<token><user>{}</user><c/></token>x",
    "<token>{}",  # cut off
    '<b token="{}" c="d"/>',
    "<b c=d token={}>",
    '<input type=hidden name="token" value="{}">',
    "<input value='{}' name='token' />",
    '<meta name="token" content="{}">',
    '<add key="token" value="{}" />',
    '<textarea name="token">{}</textarea>',
    '<string name="token">{}</string>',
    'var token = "{}"; x',
    "window.token='{}'",
    '{{"html": "<input name=\\"token\\" value=\\"{}\\">"}}',
    "a=%3Ctoken%3E{}%3C%2Ftoken%3E",
]


@pytest.mark.parametrize("template", MARKUP)
def test_names_are_redacted_in_markup_and_scripts(template: str) -> None:
    shown = NamedValues(frozenset(["token"])).text(template.format(SECRET))
    assert SECRET not in shown
    assert "(redacted)" in shown
    rest = re.split("[<>'\"&]|%3C", template.format("("))[0]
    assert shown.startswith(rest.partition("(")[0])


@pytest.mark.parametrize(
    "text",
    [
        '<form name="token"><input name="a" value="b"></form>',
        "<tokens>a</tokens><b token-type='c'>d</b>",
        'if (token == "a" || token === "b") c',
        "<token></token><token/><token  >\n</token>",
        '<input name="other" value="token">',
    ],
)
def test_markup_without_the_names_is_as_it_was(text: str) -> None:
    assert NamedValues(frozenset(["token"])).text(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "<token>",
        "<token ",
        '<a "',
        "<a b=' ",
        "<token><![CDATA[",
        "<a token",
        "</token",
        "token=",
        "%2F%2Fa",
        "%2F%2F%40",
    ],
)
def test_markup_that_never_ends_takes_time_by_its_length(piece: str) -> None:
    values = NamedValues(frozenset(["token"]))

    def seconds(length: int) -> float:
        text = f"token {piece * (length // len(piece))}"
        began = time.process_time()
        values.url(text)
        return time.process_time() - began

    assert min(seconds(400_000) for _ in range(3)) < 40 * min(seconds(40_000) for _ in range(3)) + 0.05


@pytest.mark.parametrize(
    "target",
    [
        "/?next=https://u:{}@h/",
        "/?next=https%3A%2F%2Fu%3A{}%40h%2F",
        "http://u:{}@a/b",
        "/?a=b&next=//u:{}@h",
    ],
)
def test_passwords_of_urls_in_urls_are_redacted(target: str) -> None:
    archive = exported(
        exchange(target.format(SECRET), f"Referer: http://a{target.format(SECRET)}\r\n"), Redaction.of()
    )
    assert SECRET not in json.dumps(archive)


def test_the_rest_of_redacted_json_is_as_it_was() -> None:
    redacted = NamedValues(frozenset(["token"])).text(JSON_BODY)
    assert redacted == (
        f'{{"Token": "{REDACTED}", "deep": [{{"token":"{REDACTED}", "n": 1.50}}], "x-token": "kept", '
        f'"text": "\\"token\\": \\"{REDACTED}\\" key", "token" : "{REDACTED}"'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            '{"a":"{\\"token\\":1,\\"b\\":\\"\\/\\"}"}',
            '{"a":"{\\"token\\":\\"(redacted)\\",\\"b\\":\\"\\/\\"}"}',
        ),
        ('{"a":"{\\u0022token\\u0022:1}"}', '{"a":"{\\u0022token\\u0022:\\"(redacted)\\"}"}'),
        ('{"a":"b=1&token=x y&c"}', '{"a":"b=1&token=(redacted) y&c"}'),
        (f"b=+1&a={IN_A_FORM.decode()}", "b=+1&a=%7B%22n%22%3A+1%2C+%22token%22%3A+%22(redacted)%22%7D"),
        ("var token=f();x.token = 1;token==2", "var token=f();x.token = 1;token==2"),
        ('{"mytoken":1,"a":"token"}', '{"mytoken":1,"a":"token"}'),
        ('{a:{token:"x\\x41\\"","b":1}}', '{a:{token:"(redacted)","b":1}}'),
    ],
)
def test_nothing_else_of_a_text_is_changed(text: str, shown: str) -> None:
    values = NamedValues(frozenset(["token"]))
    assert values.text(text) == shown
    assert values.text(shown) == shown


@given(VALUES, st.integers(1, 4))
def test_json_is_redacted_inside_of_strings(value: Any, depth: int) -> None:
    text = json.dumps(value)
    for _ in range(depth):
        text = json.dumps({"a": text})
    shown: Any = NamedValues(frozenset(["token"])).text(text)
    for _ in range(depth):
        shown = json.loads(shown)["a"]
    assert json.loads(shown) == replaced(value)


def test_cookies_by_name() -> None:
    found = exchange(
        fields=f"Cookie: a=1; sid={SECRET}; b=2\r\n", answer_fields=f"Set-Cookie: sid={SECRET}; Path=/\r\n"
    )
    entry = exported(found, Redaction.of(sensitive=True, names=["sid"]))
    assert SECRET not in json.dumps(entry)
    assert entry["request"]["headers"][1]["value"] == f"a=1; sid={REDACTED}; b=2"
    assert entry["response"]["headers"][1]["value"] == f"sid={REDACTED}; Path=/"


@given(VALUES)
def test_json_is_redacted_at_any_depth(value: Any) -> None:
    text = NamedValues(frozenset(["token"])).text(json.dumps(value))
    assert json.loads(text) == replaced(value)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            f"curl -H 'Authorization: Bearer {SECRET}' -s https://a/",
            f"curl -H Authorization: {REDACTED} -s https://a/",
        ),
        (f"curl -H 'PRIVATE-TOKEN: {SECRET}' https://a/", f"curl -H PRIVATE-TOKEN: {REDACTED} https://a/"),
        (f"curl --user me:{SECRET} https://a/", f"curl --user {REDACTED} https://a/"),
        (f"curl --user 'a:b {SECRET}' https://a/", f"curl --user {REDACTED} https://a/"),
        (f"curl -sku admin:{SECRET} https://a/", f"curl -sku {REDACTED} https://a/"),
        (f"curl -uadmin:{SECRET} https://a/", f"curl -u{REDACTED} https://a/"),
        (f"curl -b 'theme=dark; sid={SECRET}' https://a/", f"curl -b {REDACTED} https://a/"),
        (f"curl -d password={SECRET} --cert c:{SECRET} h:80", f"curl -d {REDACTED} --cert {REDACTED} h:80"),
        (f"tool --api-key={SECRET} --token {SECRET} -v", f"tool --api-key={REDACTED} --token {REDACTED} -v"),
        (f"mysql -p{SECRET} -h db", f"mysql -p{REDACTED} -h db"),
        (f"git clone https://me:{SECRET}@a/b", "git clone https://a/b"),
        (f"git clone https://me:p@{SECRET}@a/b", "git clone https://a/b"),
        (f"http a/ token={SECRET}", f"http a/ token={REDACTED}"),
        (f"http 'https://a/?token={SECRET}&b=1'", f"http https://a/?token={REDACTED}&b=1"),
        ("login 0123456789abcdef0123456789abcdef", f"login {REDACTED}"),
        ("tool eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmN", f"tool {REDACTED}"),
        ("aws set k wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", f"aws set k {REDACTED}"),
        ("mysql -pfoo -h db", f"mysql -p{REDACTED} -h db"),
        ("ssh -p22 -p 2222", f"ssh -p22 -p {REDACTED}"),
        (f"ldapsearch -w {SECRET} -x", f"ldapsearch -w {REDACTED} -x"),
        (f"app --login {SECRET}", f"app --login {REDACTED}"),
        ("node src/components2/some-file.js", "node src/components2/some-file.js"),
        ("java com.example.v2.MyMainClass", "java com.example.v2.MyMainClass"),
        ("tar xf /srv/Data2/Archive/BigFile.tar", "tar xf /srv/Data2/Archive/BigFile.tar"),
        ("curl https://a/cookies -o authorization.txt", "curl https://a/cookies -o authorization.txt"),
        ("python3 -m http.server 8000", "python3 -m http.server 8000"),
        ("java -jar app.jar --port=80", "java -jar app.jar --port=80"),
        ("'nginx: worker process'", "nginx: worker process"),
        ("'postgres: me db 10.0.0.1(1) idle'", "postgres: me db 10.0.0.1(1) idle"),
        (f"'/usr/bin/browser --type=a --token={SECRET}'", f"/usr/bin/browser --type=a --token={REDACTED}"),
        (f"'server: master /usr/bin/server -p {SECRET}'", f"server: master /usr/bin/server -p {REDACTED}"),
        ("curl -o 'unclosed", "curl -o " + REDACTED),
    ],
)
def test_command_lines_tell_no_credentials(command: str, shown: str) -> None:
    assert Redaction.of(names=["token"]).command_line(command) == shown
    assert SECRET not in shown
    assert Redaction.of(sensitive=True).command_line(command) == command


def test_shared_headers_are_not_changed() -> None:
    found = exchange(fields=f"Authorization: {SECRET}\r\n")
    exported(found, Redaction.of())
    assert SECRET in json.dumps(exported(found, Redaction.of(sensitive=True)))


# Bodies.


def test_no_bodies() -> None:
    found = exchange(body=b"up", kind="text/plain", answer=b"down")
    entry = exported(found, Redaction.of(), bodies=False)
    assert entry["response"]["content"] == {
        "size": 4,
        "mimeType": "x-unknown",
        "comment": "left out (--no-bodies)",
    }
    assert entry["request"]["postData"]["text"] == ""
    assert entry["request"]["bodySize"] == 2


def test_a_limit_for_bodies_is_no_loss() -> None:
    limits = Limits(body_bytes=4, decoded_bytes=4)
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")
    (found,) = read(talk.items, limits)
    entry = exported([found], Redaction.of())
    assert entry["response"]["content"]["text"] == "0123"
    assert entry["response"]["content"]["size"] == 10
    assert entry["response"]["_omittedBytes"] == 6
    assert "_lostBytes" not in entry
    assert found.lost_bytes == 0


# Filters.


def varied() -> list[Exchange]:
    """Exchanges that differ in all that can be asked for."""
    items = []
    rows = [
        (1, "api.example.com", "GET", "/v1/a?x=1", 200, 10),
        (2, "www.example.com", "POST", "/v1/b", 404, 11),
        (3, "example.org:8080", "GET", "/v2/c", 503, 11),
    ]
    for stream, host, method, target, status, pid in rows:
        talk = Conversation(stream, process=Process(pid, "p"), tls=Tls() if stream == 1 else None, port=8080)
        talk.client(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        talk.server(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
        items += talk.items
    items += (
        Conversation(4, process=None)
        .client(b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
        .closes(Side.SERVER)
        .items
    )
    return read_in_splits(items)


@pytest.mark.parametrize(
    ("criteria", "wanted"),
    [
        ({}, [1, 2, 3, 4]),
        ({"hosts": ["API.example.com"]}, [1]),
        ({"hosts": [".example.com"]}, [1, 2]),
        ({"hosts": ["*.example.com", "example.org"]}, [1, 2, 3]),
        ({"hosts": ["10.0.0.0/8"]}, []),
        ({"hosts": ["127.0.0.0/8"]}, [1, 2, 3, 4]),
        ({"hosts": ["10.0.0.0/8", "example.org"]}, [3]),
        ({"urls": ["*/v1/*"]}, [1, 2]),
        ({"urls": ["https://*"]}, [1]),
        ({"statuses": ["404"]}, [2]),
        ({"statuses": ["4xx", "500-599"]}, [2, 3]),
        ({"methods": ["post"]}, [2]),
        ({"pids": [11]}, [2, 3]),
        ({"pids": [11], "methods": ["GET"]}, [3]),
    ],
)
def test_filters(criteria: dict[str, Any], wanted: list[int]) -> None:
    chosen = ExchangeFilter.of(**criteria)
    assert [each.connection.opened.stream for each in varied() if chosen(each)] == wanted


def test_what_is_no_network() -> None:
    with pytest.raises(UsageError, match="is no network"):
        ExchangeFilter.of(hosts=["10.0.0.0/33"])


@pytest.mark.parametrize("status", ["", "ok", "6xx", "40", "200-", "99", "500-400"])
def test_what_is_no_status(status: str) -> None:
    with pytest.raises(UsageError, match="is no HTTP status"):
        ExchangeFilter.of(statuses=[status])


# Formats.


def written(found: list[Exchange], name: str, maker: EntryMaker | None = None) -> str:
    """What an exporter writes."""
    output = io.BytesIO()
    writer = EXPORTERS[name](output, maker or EntryMaker())
    for each in found:
        writer.write(each)
        writer.flush()
    writer.close()
    return output.getvalue().decode()


def test_json_lines_are_the_entries() -> None:
    found = varied()
    entries = json.loads(written(found, "har"))["log"]["entries"]
    lines = [json.loads(line) for line in written(found, "jsonl").splitlines()]
    assert lines == [{key: value for key, value in entry.items() if key != "pageref"} for entry in entries]


def test_every_format_is_redacted_and_filtered() -> None:
    found = exchange(fields=f"Authorization: {SECRET}\r\n") + varied()
    maker = EntryMaker(wanted=ExchangeFilter.of(hosts=["a"]))
    for name in EXPORTERS:
        text = written(found, name, maker)
        assert SECRET not in text
        assert REDACTED in text
        assert "www.example.com" not in text


def curl_arguments(command: str, folder: Path) -> list[str]:
    """What a shell gives to curl when it runs the command."""
    curl = folder / "curl"
    curl.write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n[[ "$*" == *@-* ]] && cat\nexit 0\n')
    curl.chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    script = folder / "script"
    script.write_text(command)
    done = subprocess.run(["sh", script], env={"PATH": path}, capture_output=True, check=True)
    return done.stdout.decode("latin-1").split("\0")


def test_curl_commands_say_what_was_sent(tmp_path: Path) -> None:
    body = b'it\'s "quoted" $HOME `id` \\ \n'
    found = exchange(
        "/a?b='c'&d=$e", "X-Odd: a'b $(c)\r\nEmpty:\r\nAccept-Encoding: gzip\r\n", body, "text/plain"
    )
    found += exchange(body=b"\x00\xff\x01", kind="application/octet-stream")
    text, binary = written(found[:1], "curl"), written(found[1:], "curl")
    arguments = curl_arguments(text, tmp_path)
    assert "--globoff" in arguments
    assert arguments[-3:-1] == ["--url", "http://a/a?b='c'&d=$e"]
    assert arguments[arguments.index("--data-raw") + 1] == body.decode()
    assert {"X-Odd: a'b $(c)", "Empty;", "Accept-Encoding: gzip", "--compressed", "--http1.1"} <= set(
        arguments
    )
    assert "--request" not in arguments
    assert "\0".join(curl_arguments(binary, tmp_path)).endswith("\0\x00\xff\x01")


@pytest.mark.parametrize("body", [b"long text, " * 20_000, b'{"a":"\0b"}\n', b"<\xc3\xa9>" * 40_000])
def test_a_body_that_is_no_argument_goes_through_a_pipe(tmp_path: Path, body: bytes) -> None:
    arguments = curl_arguments(written(exchange(body=body, kind="application/json"), "curl"), tmp_path)
    at = arguments.index("@-")
    assert arguments[at + 1 : at + 3] == ["--url", "http://a/"]
    assert "\0".join(arguments[at + 3 :]).encode("latin-1") == body


def test_a_body_of_no_type_is_sent_without_one(tmp_path: Path) -> None:
    talk = Conversation().client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    found = read(talk.server(b"HTTP/1.1 204 N\r\n\r\n").items)
    arguments = curl_arguments(written(found, "curl"), tmp_path)
    assert arguments[arguments.index("Content-Type:") - 1] == "--header"


def test_what_a_client_sent_is_no_option_of_curl(tmp_path: Path) -> None:
    def get(scheme: bytes, name: bytes, value: bytes) -> str:
        head = fields((b":method", b"GET"), (b":path", b"/x"), (b":scheme", scheme), (b":authority", b"a"))
        talk = h2_talk().client(frame(HEADERS, END_STREAM | END_HEADERS, 1, head + field(name, value)))
        return written(read(talk.server(frame(HEADERS, END_STREAM | END_HEADERS, 1, OK)).items), "curl")

    for scheme, name, value in (
        (b"-o/tmp/x", b"a", b"b"),
        (b"https", b"@/etc/hostname", b""),
        (b"https", b"x", b"a\r\nHost: b"),
    ):
        arguments = curl_arguments(get(scheme, name, value), tmp_path)
        assert not any("hostname" in argument or "Host" in argument for argument in arguments)
        assert arguments[-3:] == ["--url", "https://a/x", ""]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_curl_command_is_one_that_curl_understands() -> None:
    command = written(exchange("/x", "A: b\r\n"), "curl").replace("http://a/x", "http://127.0.0.1:9/x")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr  # there is nobody to talk to, and nothing else to object to


@pytest.mark.parametrize(
    ("path", "option"),
    [("/run/a b.sock", "--unix-socket '/run/a b.sock'"), ("@name", "--abstract-unix-socket name")],
)
def test_a_curl_command_goes_to_the_unix_socket(path: str, option: str) -> None:
    talk = Conversation(unix_path=path).client(b"GET /v1/x HTTP/1.1\r\nHost: docker\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    command = written(read(talk.items), "curl")
    assert f" {option} " in command
    assert command.endswith("--url http://docker/v1/x\n")


def test_what_cannot_be_sent_again_says_so() -> None:
    cut = Conversation().client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    only_head = Conversation().client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    only_fields = h2_talk().client(frame(HEADERS, END_HEADERS, 1, H2_GET))
    orphan = Conversation(handshake_seen=False).server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    long = Conversation().client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123456789")
    zipped = gzip.compress(b"abc" * 100)[:-9]
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(zipped)
    broken = Conversation().client(head, zipped)
    for talk, reason in (
        (cut, "not complete"),
        (only_head, "not complete"),
        (only_fields, "not complete"),
        (long, "not complete"),
        (broken, "not complete"),
        (orphan, "not all of the request"),
    ):
        line = written(read(talk.items, Limits(body_bytes=6 if talk is long else 1000)), "curl")
        assert line.startswith("#")
        assert reason in line
    for answered in (exchange(body=b"amount=10", kind="text/plain"), exchange(body=b"\0", kind="a/b")):
        line = written(answered, "curl", EntryMaker(bodies=False))
        assert line == "# POST http://a/: the request's body is left out or redacted\n"
    assert written(exchange(), "curl", EntryMaker(bodies=False)).startswith("curl ")
    part = b'--X\r\nContent-Disposition: form-data; name="token"\r\n\r\ns3cr3t\r\n--X--'
    for form in EXPORTERS:
        found = exchange(body=part, kind="multipart/form-data; boundary=X")
        shown = written(found, form, EntryMaker(redaction=Redaction.of(names=["token"])))
        assert SECRET not in shown
        assert "redacted" in shown


def test_a_tunnel_s_request_has_no_body_that_is_missing() -> None:
    talk = (
        h2_talk().client(frame(HEADERS, END_HEADERS, 1, CONNECT)).server(frame(HEADERS, END_HEADERS, 1, OK))
    )
    entry = json.loads(written(read(talk.items), "jsonl"))
    assert "_complete" not in entry["request"]


def test_a_host_that_is_none_is_sent_again_as_it_was() -> None:
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: [\r\n\r\n")
    talk.server(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
    assert written(read(talk.items), "curl").endswith("--header 'Host: [' --url http://127.0.0.1/\n")


def test_a_transcript() -> None:
    text = written(exchange("/a", "X: y\r\n", b"up\nload", "text/plain", b"down\x1b[2J", "Z: w\r\n"), "text")
    assert re.search(
        r"^\* 2023-11-14T22:13:20\.000000Z curl\[4242\] 127\.0\.0\.1 port 80, 3\.0 ms$", text, re.M
    )
    assert "> POST http://a/a HTTP/1.1\n> Host: a\n> X: y\n" in text
    assert ">\n> up\n> load\n< HTTP/1.1 200 OK\n" in text
    assert "< Z: w\n<\n< down\\x1b[2J\n" in text


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("text/plain; charset=windows-31j", b"\x87\x40", "①"),
        ("text/plain; charset=iso-8859-1", b"\x80\xe9\r\nb", "€é"),
        (
            "text/html",
            '<meta charset="x-user-defined">€'.encode("cp1252"),
            '<meta charset="x-user-defined">€',
        ),
        ("text/plain; charset=utf-8", b"\xe9", "[1 bytes of text/plain; charset=utf-8]"),
        ("image/png; charset=latin1", b"\xe9", "[1 bytes of image/png; charset=latin1]"),
    ],
)
def test_a_transcript_reads_other_charsets(kind: str, body: bytes, shown: str) -> None:
    text = written(
        exchange(body=body, kind=kind, answer=body, answer_fields=f"Content-Type: {kind}\r\n"), "text"
    )
    assert f">\n> {shown}\n" in text
    assert f"<\n< {shown}\n" in text


@pytest.mark.parametrize("codec", ["rot13", "base64", "zlib", "undefined"])
def test_a_transcript_of_what_is_called_a_charset_and_is_none(codec: str) -> None:
    text = written(
        exchange(answer=b"\xe9", answer_fields=f"Content-Type: text/html; charset={codec}\r\n"), "text"
    )
    assert "<\n< [1 bytes of text/html]\n" in text


def lossy_socket(lost: int) -> list[Exchange]:
    """A WebSocket of which ``lost`` bytes are missing after the first four of a message of ten, then another one."""
    upgrade = b"Upgrade: websocket\r\n\r\n"
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade)
    talk.server(b"HTTP/1.1 101 S\r\n" + upgrade, b"\x81\x050123\n\x81\x0a0123").gap(Side.SERVER, lost)
    if lost < 6:
        talk.server(b"456789"[lost:])
    return read(talk.server(b"\x81\x04more").closes(Side.SERVER).closes(Side.CLIENT).items)


def test_a_transcript_says_what_a_message_lacks() -> None:
    shown = written(lossy_socket(5), "text")
    assert "< [1] 0123\\x0a\n< [1] MDEyMzk=\n< [5 bytes were lost]\n< [1] more\n" in shown
    assert "* 5 bytes of its messages lost (ring-full)\n" in shown
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n")
    talk.server(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x0a0123").gap(Side.SERVER, 5)
    shown = written(read(talk.items), "text")
    assert "< [it is not whole: the recording ended; 5 bytes were lost]\n" in shown


def test_an_archive_says_that_a_sockets_messages_are_lost() -> None:
    entry = exported(lossy_socket(5000), Redaction.of())
    assert entry["_lostBytes"] == 5000
    assert entry["_lostRanges"] == [{"offset": 13, "length": 5000, "reason": "ring-full"}]
    assert entry["_outcome"] == "bytes were lost"
    assert "_error" not in entry["response"]
    assert [message.get("_lostBytes") for message in entry["_webSocketMessages"]] == [None, 6]


def test_what_a_sockets_limit_left_out_is_no_loss() -> None:
    upgrade = b"Upgrade: websocket\r\n\r\n"
    talk = Conversation().client(b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade)
    talk.server(b"HTTP/1.1 101 S\r\n" + upgrade, b"\x81\x0a0123456789")
    entry = exported(read(talk.items, Limits(socket_bytes=4)), Redaction.of())
    (message,) = entry["_webSocketMessages"]
    assert message["_omittedBytes"] == 6
    assert message["comment"] == "cut: 6 bytes are over the limit and were left out"
    assert "_lostBytes" not in entry | message
