"""``python -m uapfast``: what is installed, what was built, and why each backend of each op is on or off.

With arguments it is the command line, ``uapfast``.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "pybind11",
    "timm",
    "torchvision",
)


def packages() -> Iterator[tuple[str, str]]:
    """Name and version of ours and of what we use."""
    from uapfast._version import __version__

    yield "uapfast", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "machine", f"{platform.machine()}, {os.cpu_count()} cores"
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def compiled() -> Iterator[tuple[str, str]]:
    """What the compiled modules say of themselves and of the machine."""
    from uapfast import _native
    from uapfast.errors import NativeUnavailable

    missing = _native.why_missing("_cpu")
    if missing:
        yield "CPU kernels", f"off: {missing}"
    else:
        core = _native.cpu()
        forced = os.environ.get("UAPFAST_SIMD")
        try:
            level = f"{core.simd_level()}{f' (UAPFAST_SIMD={forced})' if forced else ''}"
        except NativeUnavailable as exc:
            level = f"none: {exc}"
        yield "CPU kernels", f"on, compiler {core.compiler()}"
        levels = ", ".join(core.simd_levels())
        yield "SIMD level", f"{level} (a kernel uses the highest it has up to that); available: {levels}"
    missing = _native.why_missing("_cuda")
    if missing:
        yield "CUDA build", f"off: {missing}"
        return
    core = _native.cuda()
    driver, runtime = core.versions()
    yield (
        "CUDA build",
        f"runtime {runtime // 1000}.{runtime % 1000 // 10} (static), for {core.architectures()}",
    )
    yield "driver", f"CUDA {driver // 1000}.{driver % 1000 // 10}" if driver else "none"
    try:
        for index in range(core.device_count()):
            info = core.device_info(index)
            yield f"device {index}", f"{info['name']}, sm_{info['capability'][0]}{info['capability'][1]}"
    except NativeUnavailable as exc:
        yield "devices", f"none: {exc}"


def torch_side() -> Iterator[tuple[str, str]]:
    """What torch sees, and whether Triton kernels can run."""
    import torch

    from uapfast.errors import how_to_install

    yield "torch threads", str(torch.get_num_threads())
    yield "torch CUDA", f"{torch.version.cuda or 'CPU build'}; devices: {torch.cuda.device_count()}"
    if importlib.util.find_spec("triton") is None:
        yield "Triton", f"off: not installed ({how_to_install('triton')})"
    elif os.environ.get("TRITON_INTERPRET") == "1":
        yield "Triton", "on the CPU through its interpreter (TRITON_INTERPRET=1)"
    else:
        yield "Triton", "on" if torch.cuda.is_available() else "installed, but there is no CUDA device"


def backends() -> Iterator[tuple[str, str, str]]:
    """Op, backend, and whether and when it runs."""
    import uapfast.ops  # noqa: F401  (registers them)
    from uapfast.ops._registry import OPS

    for op in OPS.values():
        for backend in op.backends:
            why = backend.why_off()
            state = f"off: {why}" if why else ("on" if backend.automatic else "on, by name only")
            yield op.name, backend.name, f"{state}{f' ({backend.note})' if backend.note else ''}"


def main() -> int:
    """Print the report; 0 unless something raises. Who closes the pipe has seen enough."""
    if len(sys.argv) > 1:
        from uapfast.cli import main as command_line

        return command_line()
    try:
        _print()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
    return 0


def _print() -> None:
    print("Versions")
    for name, value in packages():
        print(f"  {name:14} {value}")
    print("\nBuild and machine")
    for name, value in compiled():
        print(f"  {name:14} {value}")
    try:
        import torch  # noqa: F401
    except ImportError as exc:
        print(f"  {'torch':14} off, and every op with it: {exc}")
        return
    for name, value in torch_side():
        print(f"  {name:14} {value}")
    print("\nBackends of the ops, in order of choice")
    last = ""
    for op, backend, state in backends():
        print(f"  {op if op != last else '':20} {backend:18} {state}")
        last = op


if __name__ == "__main__":
    sys.exit(main())
