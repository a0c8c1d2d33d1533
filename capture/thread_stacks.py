"""The calls that a waiting thread is in, as a debugger's backtrace has them, but without stopping anyone.

Of a thread that waits in a system call the kernel says where it is and where its stack is (/proc/PID/task/TID/syscall,
proc(5)); its memory has the rest, read by the unwind tables of the files that it runs (capture.call_frames). Registers
become known as soon as a function further down has put them on the stack. A thread that went on meanwhile has another
stack: who believes any of this asks again whether it waits still.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from capture import call_frames, x86
from capture.call_frames import RETURN_ADDRESS
from capture.elf import ElfError, ElfFile
from capture.processes import PROC, locate_mapping, mappings_of_code

if TYPE_CHECKING:
    from types import TracebackType

    from capture.call_frames import FrameRules
    from capture.processes import CodeMapping

# From a program's main loop down to the system call there are some ten or twenty; interpreters have more above.
MAX_FRAMES = 64
_MAX_PROLOGUE_BYTES = 128
# The largest of an interpreter are some ten thousand bytes.
_MAX_FUNCTION_BYTES = 1 << 17
# mov rbp, rsp in its two encodings; sub rsp, imm8 and imm32.
_SET_FRAME_POINTER = (b"\x48\x89\xe5", b"\x48\x8b\xec")
_TAKE_STACK = (b"\x48\x83\xec", b"\x48\x81\xec")


class Waiting(NamedTuple):
    """A thread in a system call: its number, arguments, stack pointer and instruction; and how often it has waited."""

    call: int
    arguments: tuple[int, ...]
    stack: int
    address: int
    times: str

    def is_elsewhere(self, before: Waiting) -> bool:
        """Whether this is another call than before; the same may have waited several times.

        Of its arguments there are more than the call has: what is behind them changes.
        """
        return (self.call, self.stack, self.address) != (before.call, before.stack, before.address)


def waiting(pid: int, tid: int) -> Waiting | None:
    """Where a thread waits; None for one that runs, is gone, or may not be asked."""
    folder = PROC / f"{pid}/task/{tid}"
    try:
        words = (folder / "syscall").read_text().split()
        status = (folder / "status").read_text(errors="replace")
    except OSError:
        return None
    if len(words) != 9:
        return None
    call, *rest = words
    numbers = [int(word, 16) for word in rest]
    return Waiting(int(call), tuple(numbers[:6]), numbers[6], numbers[7], status.partition("\nvoluntary_")[2])


@dataclass(frozen=True, slots=True)
class Frame:
    """A function that has called the one before it: ``address`` is where that returns to, ``place`` the same in the
    file, ``stack`` and ``registers`` (those that are known) as they will be there."""

    mapping: CodeMapping
    elf: ElfFile
    address: int
    place: int
    stack: int
    registers: dict[int, int]

    @property
    def bias(self) -> int:
        """What a process adds to the file's addresses."""
        return self.address - self.place

    def start(self, *, innermost: bool) -> int | None:
        """The address of its function's first instruction; ``innermost`` is what has called nobody."""
        function = self.elf.function_at(self.place if innermost else self.place - 1)
        return function.start + self.bias if function else None


class FunctionCode(NamedTuple):
    """A function; ``counts`` has how many instructions there are up to an address, ``labels`` where it jumps."""

    instructions: list[x86.Instruction]
    counts: dict[int, int]
    labels: frozenset[int]


class CodeMemory:
    """What files say of their code: functions of interpreters are long, and many processes wait at the same places."""

    def __init__(self) -> None:
        # By device, inode and address.
        self._functions: dict[tuple[bytes, int, int], FunctionCode | None] = {}
        self._rules: dict[tuple[bytes, int, int], FrameRules | None] = {}

    def function(self, frame: Frame) -> FunctionCode | None:
        """That of a frame; None where it cannot be decoded as a whole."""
        function = frame.elf.function_at(frame.place - 1)
        if function is None or function.end - function.start > _MAX_FUNCTION_BYTES:
            return None
        key = (frame.mapping.device, frame.mapping.inode, function.start)
        if key not in self._functions:
            code = frame.elf.read_at(function.start, function.end - function.start)
            found = list(x86.instructions(code, function.start))
            labels = frozenset(i.target for i in found if i.target is not None and not i.is_call)
            counts = {i.end: count for count, i in enumerate(found, 1)}
            whole = bool(found) and found[-1].end == function.end
            self._functions[key] = FunctionCode(found, counts, labels) if whole else None
        return self._functions[key]

    def rules(self, frame: Frame, *, innermost: bool) -> FrameRules | None:
        """Where a frame's caller is; ``innermost`` is what has called nobody."""
        # What is returned to may be behind the function's last instruction: the call itself is in it.
        asked = frame.place if innermost else frame.place - 1
        key = (frame.mapping.device, frame.mapping.inode, asked)
        if key not in self._rules:
            self._rules[key] = call_frames.frame_rules(frame.elf, asked)
        return self._rules[key]


class ProcessMemory:
    """Memory and code of one process. A context manager; reading raises OSError."""

    def __init__(self, pid: int, code: CodeMemory | None = None) -> None:
        self.pid = pid
        self._code = code or CodeMemory()
        self._open = ExitStack()
        self._files: dict[tuple[bytes, int], ElfFile | None] = {}
        self._memory = os.open(PROC / str(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
        self._open.callback(os.close, self._memory)
        self.code = mappings_of_code(pid)

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def word(self, address: int, size: int = 8) -> int | None:
        """The number at an address; None where nothing is mapped."""
        try:
            data = os.pread(self._memory, size, address)
        except (OSError, OverflowError):
            return None
        return int.from_bytes(data, "little") if len(data) == size else None

    def function_code(self, frame: Frame) -> FunctionCode | None:
        """The code of a frame's function; None where it is not understood."""
        return self._code.function(frame)

    def frames(self, at: Waiting) -> tuple[list[Frame], bool]:
        """The thread's callers, the innermost first, as far as they can be followed; first the system call itself.

        Also whether these are all: the last has been called by nobody.
        """
        found: list[Frame] = []
        frame = self._frame(at.address, at.stack, {})
        while frame and len(found) < MAX_FRAMES:
            found.append(frame)
            rules = self._code.rules(frame, innermost=len(found) == 1)
            if rules is None:
                break
            if RETURN_ADDRESS in rules.lost:
                return found, True
            frame = self._caller(frame, rules)
        return found, False

    def code_at(self, address: int) -> CodeMapping | None:
        """The mapping around an address of code."""
        return next((m for m in self.code if m.begin <= address < m.end), None)

    def _frame(self, address: int, stack: int, registers: dict[int, int]) -> Frame | None:
        mapping = self.code_at(address)
        elf = self._file(mapping) if mapping else None
        if not mapping or not elf or elf.machine != x86.MACHINE:
            return None
        place = elf.address_of(address - mapping.begin + mapping.offset)
        return Frame(mapping, elf, address, place, stack, registers) if place is not None else None

    def _file(self, mapping: CodeMapping) -> ElfFile | None:
        key = (mapping.device, mapping.inode)
        if key not in self._files:
            self._files[key] = None
            file = locate_mapping(self.pid, mapping)
            try:
                if file:
                    self._files[key] = self._open.enter_context(ElfFile(file.path))
            except ElfError:
                pass
        return self._files[key]

    def _caller(self, frame: Frame, rules: FrameRules) -> Frame | None:
        base = frame.stack if rules.register == x86.RSP else frame.registers.get(rules.register)
        guessed = base is None
        if base is None and rules.register == x86.RBP:
            size = frame_bytes(frame.elf, frame.place - 1)
            base = frame.stack + size if size is not None else None
        if base is None:
            return None
        top = base + rules.offset
        registers = {
            number: value
            for number, value in frame.registers.items()
            if number in x86.KEPT_REGISTERS - rules.lost - rules.saved.keys()
        }
        for number, offset in rules.saved.items():
            value = self.word(top + offset)
            if value is not None:
                registers[number] = value
        address = registers.pop(RETURN_ADDRESS, None)
        # Stacks grow down.
        found = self._frame(address, top, registers) if address and top > frame.stack else None
        return found if found and (not guessed or self._is_behind_call(found)) else None

    def _is_behind_call(self, frame: Frame) -> bool:
        code = self.function_code(frame)
        count = code.counts.get(frame.place) if code else None
        call = code.instructions[count - 1] if code and count else None
        return call is not None and (call.is_call or call.is_indirect_call)


def frame_bytes(elf: ElfFile, address: int) -> int | None:
    """How far below RBP the stack pointer is in a function's calls, if it begins by setting RBP up.

    A system call shows no RBP, and who makes one need not have it saved. Found by the function's first instructions,
    which may be mistaken: it may take more from the stack later.
    """
    function = elf.function_at(address)
    if function is None:
        return None
    code = elf.read_at(function.start, min(function.end - function.start, _MAX_PROLOGUE_BYTES))
    size: int | None = None
    for i in x86.instructions(code, function.start):
        if i.is_call or i.target is not None or i.is_return:
            break
        at = i.address - function.start
        if code[at : at + 3] in _SET_FRAME_POINTER:
            size = 0
        elif size is not None and i.is_push:
            size += 8
        elif size is not None and code[at : at + 3] in _TAKE_STACK:
            size += int.from_bytes(code[at + 3 : at + i.length], "little", signed=True)
    return size
