"""Every fuzz driver for a while, one after the other or side by side; a finding ends it with its output.

    python -m tests.security.fuzz --seconds 3600 [--jobs 3] [--plain] [FOLDER]

FOLDER (``fuzz-corpus`` by default) keeps a corpus and a log a driver; findings lie there as crash-*,
timeout-* or oom-*. Needs atheris for coverage (``pip install atheris``); ``--plain`` mutates without.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = ("fuzz_pickle", "fuzz_zip", "fuzz_safetensors")
GRACE = 120.0  # seconds beyond its time after which a driver counts as hanging


def start(driver: str, seconds: float, plain: bool, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    place = folder / driver
    (place / "corpus").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"tests.security.{driver}", "--seconds", str(seconds)]
    command += ["--plain"] * plain + [str(place / "corpus")]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with open(place / "log", "wb") as log:  # libFuzzer writes findings where it runs
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    return process, place


def run(seconds: float, folder: Path, *, jobs: int = 1, plain: bool = False) -> dict[str, str]:
    """What became of each driver: ``no finding``, or what was found."""
    waiting, running, found = list(DRIVERS), {}, {}
    while waiting or running:
        while waiting and len(running) < jobs:
            driver = waiting.pop(0)
            running[driver] = (*start(driver, seconds, plain, folder), time.monotonic() + seconds + GRACE)
        for driver, (process, place, until) in list(running.items()):
            if process.poll() is None and time.monotonic() < until:
                continue
            hangs = process.poll() is None
            process.kill()
            code = process.wait()
            left = [p.name for kind in ("crash-*", "timeout-*", "oom-*") for p in sorted(place.glob(kind))]
            ended = "it hangs" if hangs else f"exit code {code}" if code else ""
            found[driver] = ", ".join(filter(None, [ended, *left])) or "no finding"
            del running[driver]
        time.sleep(0.2)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each driver")
    parser.add_argument("--jobs", type=int, default=1, help="drivers at a time")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("fuzz-corpus"))
    given = parser.parse_args()
    found = run(given.seconds, given.folder.resolve(), jobs=given.jobs, plain=given.plain)
    for driver, said in found.items():
        log = (given.folder / driver / "log").read_text(errors="replace").strip().splitlines()
        print(f"{driver}: {said}", *(f"    {line[:200]}" for line in log[-3:]), sep="\n")
    return int(any(said != "no finding" for said in found.values()))


if __name__ == "__main__":
    sys.exit(main())
