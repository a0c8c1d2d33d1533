"""A program with the table that Go leaves in its programs, and functions that begin and return as Go's do.

Written in assembler, so that tests need no Go: each layout of the table (1.2, 1.16, 1.18, 1.20, and 1.26 without
the text's start), at fixed addresses or position independent, and broken ones.
"""

from __future__ import annotations

from dataclasses import dataclass

MAGIC_2, MAGIC_16, MAGIC_18, MAGIC_20 = 0xFFFFFFFB, 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
READ, WRITE = "crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"

# Name: body. The stack check, work with two returns, and the restart with more stack.
SMALL = """
    cmp 16(%r14), %rsp
    jbe 9f
    sub $24, %rsp
    test %rcx, %rcx
    jz 1f
    mov %rcx, %rax
    add $24, %rsp
    ret
1:  xor %eax, %eax
    add $24, %rsp
    ret
9:  call restart
    jmp {name}
"""
LARGE = """
    lea -512(%rsp), %r12
    cmp 16(%r14), %r12
    jbe 9f
    xor %eax, %eax
    ret
9:  call restart
    jmp {name}
"""
# A method of what is embedded, as Go 1.18 has it in shared libraries: no stack of its own, and a jump to the function.
PROMOTED = """
    mov %rbx, 16(%rsp)
    mov (%rax), %rax
    jmp f0
"""
# Go to 1.16 finds its goroutine in thread-local storage.
OLD = """
    mov %fs:-8, %rcx
    cmp 16(%rcx), %rsp
    jbe 9f
    ret
9:  call restart
    jmp {name}
"""
UNDECODABLE = """
    cmp 16(%r14), %rsp
    jbe 9f
    ret
    .byte 0x06
9:  call restart
    jmp {name}
"""


@dataclass(frozen=True, slots=True)
class GoLike:
    """What to put into the program."""

    magic: int = MAGIC_20
    text_in_header: bool = True
    module: bool = False
    functions: tuple[tuple[str, str], ...] = ((READ, SMALL), (WRITE, LARGE), ("main.main", SMALL))
    build_info: str | None = "go1.21.3"
    table_section: str = ".gopclntab"

    def source(self) -> str:
        """The assembler source."""
        text = ".text\n.globl _start\n_start: ret\n.p2align 5\ntext_start:\n"
        for index, (_, body) in enumerate(self.functions):
            text += f"f{index}:{body.replace('{name}', f'f{index}')}.p2align 5, 0xcc\n"
        text += "text_end:\nrestart: ret\n"
        table = self._table_to_15() if self.magic == MAGIC_2 else self._table()
        return text + table + self._module() + self._build_info()

    def _table_head(self) -> str:
        return f"""
.section {self.table_section}, "aw"
.p2align 5
table:
.long {self.magic}
.byte 0, 0, 1, 8"""

    def _table_to_15(self) -> str:
        count = len(self.functions)
        table = "".join(f".quad f{i}, r{i}-table\n" for i in range(count))
        records = "".join(
            f'r{i}: .quad f{i}\n.long n{i}-table, 0\n.quad 0, 0\nn{i}: .asciz "{name}"\n.p2align 3\n'
            for i, (name, _) in enumerate(self.functions)
        )
        return f"""{self._table_head()}
.quad {count}
{table}.quad text_end, files-table
{records}files: .long 0
"""

    def _table(self) -> str:
        wide = self.magic == MAGIC_16
        word, pointer = (".quad", "") if wide else (".long", "-text_start")
        count = len(self.functions)
        start = "" if wide else (".quad text_start\n" if self.text_in_header else ".quad 0\n")
        names = "".join(f'n{i}: .asciz "{name}"\n' for i, (name, _) in enumerate(self.functions))
        table = "".join(f"{word} f{i}{pointer}\n{word} r{i}-functions\n" for i in range(count))
        records = "".join(f"r{i}: {word} f{i}{pointer}\n.long n{i}-names, 0, 0\n" for i in range(count))
        return f"""{self._table_head()}
.quad {count}, 1
{start}.quad names-table, units-table, units-table, units-table, functions-table
names: .byte 0
{names}
.p2align 3
units: .long 0, 0
.p2align 3
functions:
{table}{word} text_end{pointer}
{records}
.zero 64
"""

    def _module(self) -> str:
        words = ".quad 0\n" * 21
        return f'.section .go.module, "aw"\n.p2align 3\n.quad table\n{words}.quad text_start\n' * self.module

    def _build_info(self) -> str:
        if self.build_info is None:
            return ""
        return (
            '.section .go.buildinfo, "aw"\n.p2align 4\n.ascii "\\377 Go buildinf:"\n.byte 8, 2\n.zero 16\n'
            f'.byte {len(self.build_info)}\n.ascii "{self.build_info}"\n.zero 32\n'
        )
