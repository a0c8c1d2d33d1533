"""Samples as the kernel side writes them, packed by the header's own layout."""

from __future__ import annotations

from dataclasses import dataclass, field

from bpf import abi

ABI = abi.header()
FAMILIES = {4: 2, 16: 10}  # AF_INET and AF_INET6, by the length of an address


def packed(layout: str, **members: int | bytes) -> bytes:
    """A struct of events.h; members that are not named are nought."""
    form = ABI.layouts[layout]
    unknown = set(members) - set(form.names)
    assert not unknown, f"{layout} has no {unknown}"
    blank = form.codec.unpack(bytes(form.codec.size))
    values = [members.get(name, nothing) for name, nothing in zip(form.names, blank, strict=True)]
    return form.codec.pack(*values)


def kind(name: str) -> int:
    """A kind of sample, by its name without the prefix."""
    return ABI.constants[f"SAMPLE_{name}"]


@dataclass(slots=True)
class Samples:
    """A batch of samples, each where the ring would have put it: 8 bytes after a multiple of 8."""

    buffer: bytes = b""
    starts: list[int] = field(default_factory=list)

    def add(self, record: bytes, room: int = 0) -> Samples:
        """One more; ``room`` is that of its class, of which it fills a part."""
        self.buffer += bytes(8)
        self.starts.append(len(self.buffer))
        self.buffer += record.ljust(room, b"\xee")
        self.buffer += bytes(-len(self.buffer) % 8)
        return self
