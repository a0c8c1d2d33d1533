"""The C library's resolver in shared and static form, and the return instructions of its functions."""

from __future__ import annotations

import subprocess

import pytest
from compiled import LIBC, compile_library, symbols

from capture.call_shapes import Call
from capture.elf import ElfFile
from capture.name_lookups import FUNCTIONS, find
from capture.tls_libraries import probes_for

SOURCE = """
#include <netdb.h>
int main(void) { struct addrinfo *found; return getaddrinfo("a", 0, 0, &found) || !gethostbyname("a"); }
"""


def sites_of(path):
    with ElfFile(str(path)) as elf:
        sites, notes = find(elf)
        assert notes == ()
        return {site.symbol: (site, elf.address_of(site.entry_offset)) for site in sites}


def returns_by_objdump(path, start, stop):
    """The addresses of the RET instructions between two addresses."""
    command = ["objdump", "-d", f"--start-address={start}", f"--stop-address={stop}", str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [
        int(line.split(":")[0], 16) for line in out.splitlines() if line.endswith("\tret") or "\tret " in line
    ]


@pytest.mark.skipif(not LIBC.exists(), reason="the C library is elsewhere")
def test_glibc():
    found = sites_of(LIBC)
    names = symbols(LIBC, "-D")
    assert {name: address for name, (_, address) in found.items()} == {
        name: names[name] for name in FUNCTIONS
    }
    with ElfFile(str(LIBC)) as elf:
        sizes = {name: symbol.size for name, symbol in elf.exported(FUNCTIONS).items()}
        for name, (site, address) in found.items():
            returns = [elf.address_of(offset) for offset in site.results_offsets]
            assert returns == returns_by_objdump(LIBC, address, address + sizes[name])
            assert returns
    probes = probes_for(str(LIBC))
    assert (probes.library, probes.level) == ("C library", "resolver")


# Assembled for x86-64 and called arm64's: nop, ret, nop and the given word.
ARM64 = """
.globl getaddrinfo
.type getaddrinfo, @function
getaddrinfo: .long 0xd503201f, 0xd65f03c0, 0xd503201f, {last}
.size getaddrinfo, . - getaddrinfo
"""


@pytest.mark.parametrize(
    ("last", "returns"),
    [(0xD65F03C0, [4, 12]), (0xD65F0BFF, None), (0xD65F0FFF, None)],
    ids=["ret", "retaa", "retab"],
)
def test_on_arm64_no_return_is_probed_that_takes_no_probe(tmp_path, last, returns):
    """The kernel would refuse it, and with it all that is asked for at once."""
    library = compile_library(tmp_path, ARM64.format(last=last), "-nostdlib", kind="s")
    content = bytearray(library.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")
    library.write_bytes(content)
    with ElfFile(str(library)) as elf:
        sites, notes = find(elf)
    assert notes == (() if returns else ("getaddrinfo can't be decoded",))
    assert [[offset - site.entry_offset for offset in site.results_offsets] for site in sites] == (
        [returns] if returns else []
    )


def test_a_static_program(tmp_path):
    program = compile_library(tmp_path, SOURCE, "-w", linkage=("-static",))
    found = sites_of(program)
    assert found["getaddrinfo"][0].call is Call.NAME_ADDRINFO
    assert found["gethostbyname_r"][0].call is Call.NAME_HOST
    assert found["getaddrinfo"][1] == symbols(program)["getaddrinfo"]


def test_a_program_that_only_calls_it_has_no_probes(tmp_path):
    program = compile_library(tmp_path, SOURCE, linkage=())
    assert sites_of(program) == {}
    assert probes_for(str(program)) is None


def test_a_function_that_cannot_be_decoded_is_left_alone(tmp_path):
    code = ".text\n.globl getaddrinfo\n.type getaddrinfo, @function\ngetaddrinfo: nop\n.byte 0x06\nret\n"
    code += ".size getaddrinfo, .-getaddrinfo\n"
    library = compile_library(tmp_path, code, kind="s")
    with ElfFile(str(library)) as elf:
        assert find(elf) == ((), ("getaddrinfo can't be decoded",))
