"""The numbers of system calls, by the kernel's own headers; arm64's are those of every newer architecture."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from bpf.system_calls import (
    DATAGRAM_CALLS,
    MOVING_CALLS,
    OTHER_CALLS,
    WAITING_CALLS,
    call_number_flags,
    call_numbers,
)

HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
# The kernel's tracepoint has the function's name.
IN_HEADERS = {"sendfile64": "sendfile"}


@pytest.fixture(params=HEADERS)
def numbers(request, monkeypatch):
    text = Path(HEADERS[request.param]).read_text()
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return {name: int(number) for name, number in found}


def test_the_kernel_side_has_each(numbers):
    calls = MOVING_CALLS | DATAGRAM_CALLS | OTHER_CALLS
    wanted = {call: numbers[IN_HEADERS.get(call, call)] for call in calls}
    assert call_number_flags() == [f"-DNR_{call}={number}" for call, number in wanted.items()]


def test_what_a_thread_may_wait_in(numbers):
    for call in MOVING_CALLS | WAITING_CALLS:
        name = IN_HEADERS.get(call, call)
        assert call_numbers(call) == ({numbers[name]} if name in numbers else set())
    assert len(call_numbers("read", "poll", "ppoll")) == (3 if "poll" in numbers else 2)
