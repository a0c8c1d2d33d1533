"""Coverage-guided fuzzing of one parser, or of all in turn, with atheris (libFuzzer).

    make fuzz                                                                            all, ten minutes each
    build/fuzz/bin/python tests/fuzz/run.py http2 --seconds 60                           one
    build/fuzz/bin/python tests/fuzz/run.py http2 build/fuzz/findings/http2/crash-…      one input again

Inputs that reach new code are kept in build/fuzz/corpus, those that break something in build/fuzz/findings.
An input that takes longer than MAX_INPUT_S, or a process of more than MAX_MEMORY_MIB, is a finding too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "fuzz"
# Instrumented Python is ten times slower than Python, and what runs beside it takes its share.
MAX_INPUT_S = 10
# A process begins at 150 MiB; the limits of the targets allow for some copies of 256 KiB.
MAX_MEMORY_MIB = 700
MAX_INPUT_BYTES = 16_384


def main() -> int:
    """Run; 1 where anything was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("input", nargs="?", type=Path)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
    if options.inside or options.input:
        fuzz(options.target, options.seconds, options.input)
        return 0
    from fuzz_seeds import SEEDS

    names = list(SEEDS) if options.target == "all" else [options.target]
    found = 0
    for name in names:
        command = [sys.executable, __file__, name, "--seconds", str(options.seconds), "--inside"]
        found += subprocess.run(command, check=False).returncode != 0
    return bool(found)


def fuzz(name: str, seconds: int, again: Path | None) -> None:
    """One target, in this process; atheris ends it."""
    import atheris

    with atheris.instrument_imports(include=["exporters", "capture"]):
        from fuzz_targets import TARGETS

    from fuzz_seeds import SEEDS

    corpus, findings = FOLDER / "corpus" / name, FOLDER / "findings" / name
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]()):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [
        f"-max_total_time={seconds}", f"-timeout={MAX_INPUT_S}", f"-rss_limit_mb={MAX_MEMORY_MIB}",
        f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={findings}/", "-print_final_stats=1",
    ]  # fmt: skip
    places = [str(again)] if again else [*limits, str(corpus)]
    atheris.Setup([sys.argv[0], *places], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
