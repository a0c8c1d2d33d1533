"""``plaintap`` whose kernel side dawdles in every so many calls between its start and the bytes' place, as where an
interrupt comes or a hypervisor takes the processor away: what a busy machine does once in a million calls.
"""

from __future__ import annotations

from bpf import program
from capture.cli import main

BEFORE = "\tknow_ends(c, sk);\n"  # in moved()
# Longer than a call of another thread takes.
DAWDLE = """\
	if (!(bpf_get_prandom_u32() & 7)) {
		#pragma clang loop unroll(disable)
		for (int i = 0; i < 600; i++)
			bpf_ktime_get_ns();
	}
"""

_source = program.source


def source() -> str:
    """The kernel side's, with that in it."""
    before, found, after = _source().partition(BEFORE)
    assert found
    assert BEFORE not in after
    return before + DAWDLE + found + after


program.source = source
if __name__ == "__main__":
    main()
