"""A command line without the secrets in its arguments, for titles that are shared.

Which option takes a secret is each program's own affair, so this errs on the side of hiding: the names of options
stay, and of their values what is plainly a file, a number, a host or a URL.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from exporters.text_redaction import USER_INFO, NamedValues

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is in the name of an option that takes a secret: --password, --oauth2-bearer, --data-raw, --cookie-jar.
_SECRET_NAME: Final = re.compile(
    r"auth|bearer|cert|cookie|cred|data|form|header|json|key|login|pass|pw|secret|sid|sign|token|user",
    re.IGNORECASE,
)
# Options of one letter that take one with some common program: curl, wget, mysql, psql, sshpass, redis-cli, ldapsearch.
_SECRET_LETTERS: Final = frozenset("abdEFHpuUw")
_LONG_VALUE_OPTIONS: Final = frozenset(("-jar", "-cp", "-m"))  # that look like letters in a row
_LETTERS: Final = re.compile(r"-[A-Za-z0-9]{1,4}")
_URL: Final = re.compile(r"\w[\w+.-]*://")
_PAIR: Final = re.compile(r"[\w.-]+(?:=|:(?!\d+(?:/|$)))")
_OPTION: Final = re.compile(r"\s-{1,2}\w")
_PLAIN: Final = re.compile(r"[\w./:+,@%~*-]+")
# A word of that length that is no path, host or sentence: a token, most likely; so is what is base64 (its slashes make
# it look like a path, which is rarely written in both cases with a number), or a JWT (RFC 7519).
_LONG: Final = re.compile(
    r"(?=.*\d)[A-Za-z0-9_-]{20,}"
    r"|(?=.*\d)(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9+_-][A-Za-z0-9+/_-]{19,}={0,2}"
    r"|eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_.-]+"
)
# What is a password with many programs, in the same word: no port, and no letters in a row.
_PASSWORD: Final = re.compile(r"-p(?!\d+$)\S{3,}")


def redacted_command(text: str, redacted: str, names: frozenset[str]) -> str:
    """``text`` (as a shell would take it) with ``redacted`` for what may be secret; ``names`` are secret, too."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    # Chromium's processes have their command line in one word, nginx's a part of it.
    if len(words) == 1 and _OPTION.search(words[0]):
        words = words[0].split()
    return " ".join(_words(words, redacted, names))


def _words(words: list[str], redacted: str, names: frozenset[str]) -> Iterator[str]:
    if not words:
        return
    # A title that a program gave itself is one word.
    yield words[0] if len(words) == 1 else shlex.quote(words[0])
    secret = False
    for word in words[1:]:
        if secret and not word.startswith("-"):
            yield _header_name(word) + redacted
            secret = False
            continue
        secret = _takes_secret(word, names)
        yield _word(word, redacted, names)


def _takes_secret(word: str, names: frozenset[str]) -> bool:
    """Whether the word after this option is its secret."""
    if not word.startswith("-") or word in _LONG_VALUE_OPTIONS or "=" in word:
        return False
    if word.startswith("--"):
        return bool(_SECRET_NAME.search(word)) or word[2:].lower() in names
    return bool(_LETTERS.fullmatch(word)) and word[-1] in _SECRET_LETTERS


def _word(word: str, redacted: str, names: frozenset[str]) -> str:
    if _URL.match(word):
        word = USER_INFO.sub("", word)
        return NamedValues(names).url(word) if names else shlex.quote(word)
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        if not equals or (
            not _SECRET_NAME.search(name) and name[2:].lower() not in names and _harmless(value)
        ):
            return shlex.quote(word)
        return f"{name}={redacted}"
    if word.startswith("-"):
        plain = word in _LONG_VALUE_OPTIONS or (_LETTERS.fullmatch(word) and not _PASSWORD.fullmatch(word))
        return word if plain else word[:2] + redacted
    if _harmless(word):
        return shlex.quote(word)
    pair = _PAIR.match(word)
    return (pair[0] if pair else "") + redacted


def _harmless(word: str) -> bool:
    """Whether a word of no option is plainly no secret."""
    return bool(_PLAIN.fullmatch(word)) and not _PAIR.match(word) and not _LONG.fullmatch(word)


def _header_name(word: str) -> str:
    """``Name: `` where the value of an option is a header."""
    name, colon, _ = word.partition(": ")
    return f"{name}: " if colon and re.fullmatch(r"[\w-]+", name) else ""
