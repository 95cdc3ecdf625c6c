"""Builds the CUDA kernels for the host and calls them; see emulated_machine.h."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from uapfast.ops import _args

ROOT = Path(__file__).resolve().parents[2]
HALVES = [torch.float16, torch.bfloat16]
NORM_CODES = {1.0: 1, 2.0: 2, math.inf: 0}


def build(place: Path, *flags: str) -> Path:
    """The kernels as a shared library of the host; not optimised: waiting at barriers takes the time."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = place / "emulate.so"
    command = [compiler, "-std=c++20", "-pthread", "-fPIC", "-shared", "-ffp-contract=off"]
    command += [*flags, *(f"-I{ROOT / p}" for p in ("csrc/include", "csrc/cuda", "tests/build"))]
    done = subprocess.run(
        [*command, str(ROOT / "tests/build/emulate.cpp"), "-o", str(library)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return library


def load(place: Path) -> ctypes.CDLL:
    """The library, ready to be called."""
    found = ctypes.CDLL(str(build(place)))
    found.emulate_largest_not_above.restype = ctypes.c_double
    return found


@dataclass(frozen=True)
class Device:
    """What the launcher is told of the device; small limits make small rows take every path."""

    shared: int = 200_000
    clusters: bool = False
    comfortable: int = 75_000
    blocks: int = 0


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def project_lp(
    library: ctypes.CDLL,
    x: torch.Tensor,
    eps: float,
    p: float,
    device: Device,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, tuple[int, int, bool]]:
    """The result, and cluster size, threads and whether the row is held in shared memory."""
    if out is None:
        out = torch.full(x.shape, math.nan, dtype=x.dtype)
    packed = library.emulate_project_lp(
        address(x),
        address(out),
        _args.DTYPE_CODES[x.dtype],
        *(ctypes.c_int64(v) for v in (*x.shape, x.stride(0), out.stride(0))),
        ctypes.c_double(eps),
        NORM_CODES[p],
        device.shared,
        int(device.clusters),
        ctypes.c_int64(device.comfortable),
        ctypes.c_int64(device.blocks),
    )
    return out, (packed // 10_000, packed % 10_000 // 10, bool(packed % 2))


def deepfool_step(
    library: ctypes.CDLL,
    logits: torch.Tensor,
    grads: torch.Tensor,
    labels: torch.Tensor,
    p: float,
    *,
    fused: int = -1,
    blocks: int = 0,
    step: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, bool, bool]]:
    """Step and nearest classes; chunks of a row, whether rows are aligned, whether a block did a sample."""
    batch, classes, size = grads.shape
    if step is None:
        step = torch.full((batch, size), math.inf, dtype=grads.dtype)
    nearest = torch.full((batch,), -113)
    packed = library.emulate_deepfool_step(
        *(address(t) for t in (logits, grads, labels, step, nearest)),
        _args.DTYPE_CODES[grads.dtype],
        *(ctypes.c_int64(v) for v in (batch, classes, size, logits.stride(0), *grads.stride()[:2])),
        NORM_CODES[p],
        132,
        fused,
        ctypes.c_int64(blocks),
    )
    return step, nearest, (packed // 4, bool(packed & 2), bool(packed & 1))
