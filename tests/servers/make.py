"""Makes the venvs that real servers run in, each with its own: ``python -m tests.servers.make [NAME ...]``.

They lie in ``--into``, else in ``UAPFAST_SERVERS``, else in ``~/.cache/uapfast/servers``; what is there
is not made again. ``--torch`` adds torch, which ``benchmarks/bench_http.py`` serves a network with.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from uapfast.testing import servers_dir

NEEDED = {
    "tritonserver": ("nvidia-pytriton==0.7.0", "numpy<2"),  # holds the server, and tritonclient
    "mlserver": ("mlserver==1.7.1", "numpy"),
    "litserve": ("litserve==0.2.19", "numpy"),
    "huggingface-hub": ("huggingface_hub==2.4.0",),
}
TORCH = "torch>=2.11"
MADE = "made"  # written last, with what was installed


def make(name: str, into: Path, torch: bool = False) -> bool:
    """Make the venv ``into/NAME``; False if it was there."""
    place, needed = into / name, {*NEEDED[name], *([TORCH] if torch else [])}
    told = place / MADE
    there = set(told.read_text().split("\n")) if told.exists() else set()
    if needed <= there:
        return False
    if not there >= set(NEEDED[name]):  # begun, or of another version
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *sorted(needed)], check=True)
    if name == "tritonserver":
        _backend(place)
    told.write_text("\n".join(sorted(needed)))
    return True


def triton_in(place: Path) -> Path:
    """The folder of Triton in its venv."""
    return next(place.glob("lib/python*/site-packages/pytriton/tritonserver"))


def _backend(place: Path) -> None:
    """A copy of Triton's python backend with the stub for this version of Python."""
    server = triton_in(place)
    version = "{}.{}".format(*sys.version_info)
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        sys.exit(f"Triton has no stub for Python {version}: {stub}")
    copy = place / "backends" / "python"
    shutil.copytree(server / "backends" / "python", copy, dirs_exist_ok=True)
    shutil.copy2(stub, copy)


def main() -> None:
    """Make those that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NEEDED))
    parser.add_argument("--into", type=Path, default=servers_dir())
    parser.add_argument("--torch", action="store_true")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(NEEDED))
    if unknown:
        parser.error(f"NAME must be one of {', '.join(NEEDED)}, got {unknown[0]}")
    for name in args.names or NEEDED:
        made = make(name, args.into, args.torch)
        print(f"{args.into / name}: {'made' if made else 'is there'}", flush=True)


if __name__ == "__main__":
    main()
