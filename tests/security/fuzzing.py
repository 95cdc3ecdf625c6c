"""What the fuzz drivers share: atheris where it is installed, else plain mutation of seeds.

    python -m tests.security.fuzz_pickle [--seconds 60] [--plain] [FOLDER]

FOLDER keeps the inputs that reached something new (atheris only). Ends with the number of executions;
anything but ``Refused`` out of a reader is a finding: atheris writes it to crash-*, the plain loop shows it.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# The first import of the readers is the one that can be instrumented.
try:
    import atheris

    instrumented = atheris.instrument_imports(include=["uapfast.safeload"])
except ImportError:
    atheris, instrumented = None, contextlib.nullcontext()
with contextlib.nullcontext() if "pytest" in sys.modules else instrumented:
    from uapfast.safeload import choose, convert, header, opcodes, torchpickle, ziparchive
    from uapfast.safeload.limits import Limits
    from uapfast.safeload.refusal import Refused

__all__ = [
    "SMALL",
    "Refused",
    "choose",
    "convert",
    "header",
    "main",
    "opcodes",
    "plain",
    "torchpickle",
    "ziparchive",
]
Target = Callable[[bytes], None]
SMALL = Limits(
    file_bytes=1 << 20, tensor_bytes=1 << 20, tensors=200, header_bytes=1 << 16, name_chars=64,
    operations=20_000, depth=50, growth=1, seconds=5, memory_bytes=1 << 30,
)  # fmt: skip
SLOW = 1.0  # seconds that one small input may take


def plain(target: Target, seeds: Sequence[bytes], seconds: float, seed: int = 0) -> int:
    """Mutate seeds for some time; returns the number of executions."""
    draw = random.Random(seed)
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        blob = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 2, 4, 8))):
            at = draw.randrange(len(blob) + 1)
            kind = draw.randrange(5)
            if kind == 0 and blob:
                blob[at % len(blob)] = draw.randrange(256)
            elif kind == 1:
                blob[at:at] = draw.randbytes(draw.randrange(1, 9))
            elif kind == 2:
                del blob[at : at + draw.randrange(1, 17)]
            elif kind == 3:
                other = draw.choice(seeds)
                begin = draw.randrange(len(other))
                blob[at:at] = other[begin : begin + draw.randrange(1, 33)]
            elif blob:
                blob[at % len(blob)] ^= 1 << draw.randrange(8)
        try:
            begin_at = time.monotonic()
            target(bytes(blob))
            assert time.monotonic() - begin_at < SLOW, "too slow"
        except BaseException:
            sys.stderr.write(f"after {count} executions: {bytes(blob)!r}\n")
            raise
        count += 1
    return count


def main(target: Target, seeds: Sequence[bytes]) -> None:
    """Run a driver from its command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--plain", action="store_true", help="mutate without coverage, even if atheris is there"
    )
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args()
    if options.plain or atheris is None:
        sys.stdout.write(f"{plain(target, seeds, options.seconds)} executions, no finding\n")
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    for i, blob in enumerate(seeds):
        (folder / f"seed-{i}").write_bytes(blob)
    arguments = [f"-max_total_time={int(options.seconds)}", "-max_len=8192", f"-timeout={int(SLOW * 10)}",
                 "-rss_limit_mb=2048", "-print_final_stats=1", str(folder)]  # fmt: skip
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()
