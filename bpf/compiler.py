"""Compiles the kernel side with bcc, in a process of its own: ``python -m bpf.compiler``.

So a recorder has neither bcc's libraries in its memory (a hundred megabytes of LLVM) nor bcc's habits in its process:
it changes the working directory while it compiles, takes its headers from the environment, and writes the compiler's
log, pages that help no user, to descriptor 2. PLAINTAP_BPF_LOG set in the environment lets that through.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from bpf import compiled, system
from bpf.bcc_module import load_bcc
from bpf.compiled import Compiled
from bpf.maps import Declaration
from capture.errors import PlaintapError

_HEADERS = Path(__file__).parent.resolve() / "headers"
# The kernel kills where a control group has no more; LLVM aborts.
_ENDS_WITHOUT_MEMORY = frozenset((signal.SIGKILL, signal.SIGABRT))
_NO_MEMORY = os.strerror(errno.ENOMEM).encode()


class CompilerError(PlaintapError):
    """The kernel side could not be compiled: what bcc said, or that it is not there."""


def compile_source(text: str, flags: list[str]) -> Compiled:
    """Compile a translation unit. Raises CompilerError; MemoryError where that needs more than there is."""
    done = subprocess.run(
        # -P: not from the working directory, which may be anyone's.
        [sys.executable, "-P", "-m", "bpf.compiler"],
        input=json.dumps({"text": text, "flags": flags}).encode(),
        stdout=subprocess.PIPE,
        stderr=None if "PLAINTAP_BPF_LOG" in os.environ else subprocess.PIPE,
        env=os.environ | {"BCC_KERNEL_SOURCE": str(_HEADERS)},
        check=False,
    )
    if done.returncode == 0:
        return compiled.from_json(done.stdout)
    if -done.returncode in _ENDS_WITHOUT_MEMORY or _NO_MEMORY in done.stdout + (done.stderr or b""):
        raise MemoryError
    if done.returncode < 0:
        raise CompilerError(
            f"The compiler of the kernel side was ended by {signal.Signals(-done.returncode).name}."
        )
    raise CompilerError(done.stdout.decode() or "The compiler of the kernel side ended without a word.")


def headers() -> str:
    """What it includes, for the key under which its result is kept."""
    return "".join(path.read_text("utf-8") for path in sorted(_HEADERS.rglob("*.h")))


def _main() -> None:
    # Nothing but the result goes to stdout, whoever writes.
    result = os.dup(1)
    os.dup2(2, 1)
    wanted = json.load(sys.stdin)
    try:
        bcc = load_bcc()
        answer, status = compiled.to_json(_compile(bcc, wanted["text"], wanted["flags"])), 0
    except PlaintapError as error:
        answer, status = str(error), 1
    except MemoryError:
        answer, status = os.strerror(errno.ENOMEM), 1
    except Exception as error:  # noqa: BLE001 - bcc raises bare Exception for all that can go wrong
        answer, status = f"The kernel side cannot be compiled: {error}", 1
    with os.fdopen(result, "w") as out:
        out.write(answer)
    sys.exit(status)


def _compile(bcc: Any, text: str, flags: list[str]) -> Compiled:
    module = bcc.BPF(text=text.encode(), cflags=flags)
    library, handle = bcc.libbcc.lib, ctypes.c_void_p(module.module)
    names = [library.bpf_function_name(handle, i) for i in range(library.bpf_num_functions(handle))]
    code = {name.decode(): bytes(module.dump_func(name)) for name in names}
    # bcc's Python does not declare all of these.
    for function, result in (
        (library.bpf_num_tables, ctypes.c_size_t),
        (library.bpf_table_name, ctypes.c_char_p),
        (library.bpf_table_fd_id, ctypes.c_int),
        (library.bpf_table_key_desc_id, ctypes.c_char_p),
        (library.bpf_table_leaf_desc_id, ctypes.c_char_p),
    ):
        function.restype = result
    maps = {}
    for number in map(ctypes.c_size_t, range(library.bpf_num_tables(handle))):
        descriptor = int(library.bpf_table_fd_id(handle, number))
        maps[descriptor] = Declaration(
            library.bpf_table_name(handle, number).decode(),
            *system.map_shape(descriptor),
            (library.bpf_table_key_desc_id(handle, number) or b"").decode(),
            (library.bpf_table_leaf_desc_id(handle, number) or b"").decode(),
        )
    return Compiled.of(code, maps)


if __name__ == "__main__":
    _main()
