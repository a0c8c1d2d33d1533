"""HPACK's Huffman code (RFC 7541 §5.2 and Appendix B), decoded four bits at a time.

The code is canonical: codes of one length count up in the order of their symbols, and begin where the shorter
ones end. Its 257 lengths are therefore the whole table.
"""

from __future__ import annotations

from functools import cache, lru_cache

CODE_LENGTHS = """
    13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28
    28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28
    6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6
    5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10
    13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7
    7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6
    15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5
    6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28
    20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23
    24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24
    22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23
    21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23
    26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25
    19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27
    20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23
    26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26
    30
"""
"""The length in bits of each symbol's code, from 0 to 255, and last of EOS (Appendix B)."""

MAX_CACHED_BYTES = 128
"""Longer strings, such as cookies and tokens, come once: keeping them would only cost memory."""

_EOS = 256
_DEAD = -1

Transition = tuple[int, bytes]
"""The next state and what is emitted on the way; the state is _DEAD after EOS, which must not occur."""


class HuffmanError(ValueError):
    """A string that is no code of anything (RFC 7541 §5.2)."""


@cache
def _machine() -> tuple[list[list[Transition]], frozenset[int]]:
    """Per state (a node inside the tree) and four bits: the transition. And the states that may end a string.

    At the end only the first bits of EOS, all ones and fewer than eight, may be left over.
    """
    lengths = [int(length) for length in CODE_LENGTHS.split()]
    tree: list[list[int | None]] = [[None, None]]  # a node: children by bit; a leaf is the symbol, as ~symbol
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - previous
        previous = length
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            child = tree[node][bit]
            if child is None:
                child = len(tree)
                tree.append([None, None])
                tree[node][bit] = child
            node = child
        tree[node][code & 1] = ~symbol
        code += 1
    states = [[_transition(tree, node, nibble) for nibble in range(16)] for node in range(len(tree))]
    endings, node = {0}, 0
    for _ in range(7):
        node = tree[node][1] or 0
        endings.add(node)
    return states, frozenset(endings)


def _transition(tree: list[list[int | None]], node: int, nibble: int) -> Transition:
    emitted = bytearray()
    for shift in (3, 2, 1, 0):
        child = tree[node][nibble >> shift & 1]
        if child is None or child == ~_EOS:
            return _DEAD, b""
        if child < 0:
            emitted.append(~child)
            child = 0
        node = child
    return node, bytes(emitted)


def decode(data: bytes) -> bytes:
    """The string that ``data`` is the code of; HuffmanError where it is none."""
    return _decode_cached(data) if len(data) <= MAX_CACHED_BYTES else _decode(data)


def _decode(data: bytes) -> bytes:
    states, endings = _machine()
    decoded = bytearray()
    state = 0
    for byte in data:
        state, emitted = states[state][byte >> 4]
        if state == _DEAD:
            raise HuffmanError("the end-of-string symbol is inside a string")
        decoded += emitted
        state, emitted = states[state][byte & 15]
        if state == _DEAD:
            raise HuffmanError("the end-of-string symbol is inside a string")
        decoded += emitted
    if state not in endings:
        raise HuffmanError("a string ends inside a code")
    return bytes(decoded)


_decode_cached = lru_cache(maxsize=4096)(_decode)
