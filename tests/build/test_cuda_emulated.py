"""The CUDA kernels run on the host, thread by thread, against the reference: see emulated_machine.h.

This shows what does not need a GPU: indexing, tails, clusters, the arithmetic of the threshold search,
the order of sums. Races show in the run under ThreadSanitizer.
"""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.build.emulated import HALVES, Device, build, load
from tests.build.emulated import project_lp as emulate
from uapfast import testing
from uapfast.ops import _args, project_lp
from uapfast.ops.project_lp import NORMS, largest_not_above, reference

every_norm = pytest.mark.parametrize("p", NORMS)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load(tmp_path_factory.mktemp("emulated"))


ONE_BLOCK, STREAMED = Device(), Device(shared=1_000)
CLUSTER, CLUSTER_STREAMED = Device(clusters=True, comfortable=100), Device(1_000, True, 100)
DEVICES = [ONE_BLOCK, STREAMED, CLUSTER, CLUSTER_STREAMED]
every_device = pytest.mark.parametrize("device", DEVICES, ids=["one", "streamed", "cluster", "both"])


@every_norm
@every_device
@pytest.mark.parametrize("size", [1, 3, 17, 65, 127, 1025])
def test_matches_float64(library: ctypes.CDLL, device: Device, p: float, size: int) -> None:
    x = torch.randn(3, size)
    got, (cluster, _, held) = emulate(library, x, 0.7, p, device)
    if size == 1025 and not math.isinf(p):
        assert (cluster, held) == (8 if device.clusters else 1, device in (ONE_BLOCK, CLUSTER))
    exact = reference(x.double(), 0.7, p)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=1.7e-7)


@every_norm
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [1, 9, 65, 127, 1025])
def test_half_precision(library: ctypes.CDLL, dtype: torch.dtype, p: float, size: int) -> None:
    x = torch.randn(3, size).to(dtype)
    room = torch.finfo(dtype).eps
    for device in DEVICES:
        got, _ = emulate(library, x, 0.5, p, device)
        torch.testing.assert_close(got.double(), reference(x.double(), 0.5, p), rtol=2 * room, atol=room)


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e12, 1e30])
def test_inside_and_idempotent(library: ctypes.CDLL, p: float, scale: float) -> None:
    x = (torch.randn(3, 301) * scale).float()
    for eps in (0.1, 8 / 255, 1.0):
        once, _ = emulate(library, x, eps, p, CLUSTER)
        sizes = [math.fsum(abs(v) ** min(p, 2) for v in r) ** (1 / min(p, 2)) for r in once.double().tolist()]
        if math.isinf(p):
            sizes = [float(once.abs().max())]
        assert max(sizes) <= eps
        assert torch.equal(emulate(library, once, eps, p, CLUSTER)[0], once)


def sampled(kind: str, size: int) -> torch.Tensor:
    if kind == "cauchy":
        return torch.randn(2, size) / torch.randn(2, size)
    if kind == "signs":  # a finished perturbation: every value at the bound
        return torch.randn(2, size).sign() * 8 / 255
    if kind == "spike":  # the sample never sees the one value that counts
        x = torch.randn(2, size) * 1e-3
        x[:, size // 2 + 1] = 100.0
        return x
    return torch.randn(2, size) * (1 if kind == "normal" else 1e-30)


@pytest.mark.parametrize("kind", ["normal", "cauchy", "signs", "spike", "tiny"])
@pytest.mark.parametrize("share", [1e-6, 1e-3, 0.05, 0.9])
def test_long_rows_start_from_a_sample(library: ctypes.CDLL, kind: str, share: float) -> None:
    x = sampled(kind, 9_001)
    eps = share * float(x.abs().sum(1).min())
    got, (_, threads, _) = emulate(library, x, eps, 1.0, ONE_BLOCK)
    assert threads == 256  # and 2,251 groups: enough for a sample, as plan.h and the kernel have it
    want = reference(x.double(), eps, 1.0)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=2e-7 * eps)


@pytest.mark.slow
def test_the_shape_of_an_image_on_the_device_it_is_meant_for(library: ctypes.CDLL) -> None:
    x = torch.randn(1, 150_528) * 0.1
    got, plan = emulate(library, x, 50.0, 1.0, Device(shared=232_448, clusters=True, comfortable=75_648))
    assert plan == (8, 256, True)
    torch.testing.assert_close(got.double(), reference(x.double(), 50.0, 1.0), rtol=0, atol=6e-6)


@every_norm
@every_device
def test_special_rows(library: ctypes.CDLL, device: Device, p: float) -> None:
    x = torch.randn(6, 70)
    x[0, 69], x[1, 3], x[2, 5] = math.nan, math.inf, -math.inf
    x[3] *= 1e-4
    x[4] = -2.0
    x[5] = 0.0
    got, _ = emulate(library, x, 0.7, p, device)
    torch.testing.assert_close(got, reference(x, 0.7, p), equal_nan=True, rtol=0, atol=1.7e-7)
    assert torch.equal(got[3], x[3])
    got, _ = emulate(library, x[3:], 0.0, p, device)
    assert (got == 0).all()


def test_signs_of_zeros_are_those_of_the_cpu(library: ctypes.CDLL) -> None:
    x = torch.tensor([[1.0, -1e-3, 1e-3, -0.0, 0.0, -2.0]])
    for p in NORMS:
        got, _ = emulate(library, x, 0.5, p, ONE_BLOCK)
        want = project_lp(x, 0.5, p, backend="scalar")
        assert torch.equal(torch.signbit(got), torch.signbit(want)), p


def test_ties_and_a_single_survivor(library: ctypes.CDLL) -> None:
    for size in (1e-3, 1.0, 1e6, 1e20):
        got, _ = emulate(library, torch.full((1, 1000), size), 0.5, 1.0, CLUSTER)
        torch.testing.assert_close(got, torch.full((1, 1000), 5e-4))
    got, _ = emulate(library, torch.tensor([[1e20, 1.0, -1.0]]), 0.5, 1.0, ONE_BLOCK)
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.0, 0.0]]))


@every_norm
@every_device
def test_same_bits_for_any_layout_batch_and_grid(library: ctypes.CDLL, device: Device, p: float) -> None:
    """Aligned and not, in one row or many, in place, by fewer blocks than rows; nothing beside is touched."""
    rows, size = 5, 133
    x = torch.randn(rows, size)
    want, _ = emulate(library, x, 0.5, p, device)
    for pad in (0, 1, 3, 4):
        source = testing.Canary(torch.randn(rows, size + pad))
        target = testing.Canary(
            torch.full((rows, size + pad), 7.0), margin=65
        )  # misaligns float32 by 4 bytes
        source.tensor[:, :size] = x
        got, _ = emulate(
            library,
            source.tensor[:, :size],
            0.5,
            p,
            Device(**{**vars(device), "blocks": 2}),
            target.tensor[:, :size],
        )
        assert torch.equal(got, want) and source.intact() and target.intact()
        assert (target.tensor[:, size:] == 7).all() and torch.equal(source.tensor[:, :size], x)
    one, _ = emulate(library, x[3:4], 0.5, p, device)
    assert torch.equal(one, want[3:4])
    here = x.clone()
    assert torch.equal(emulate(library, here, 0.5, p, device, here)[0], want)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_the_bound_is_that_of_the_reference(library: ctypes.CDLL, dtype: torch.dtype) -> None:
    code = _args.DTYPE_CODES[dtype]
    for eps in (0.0, 1e-9, 3e-8, 6e-5, 8 / 255, 0.1, 0.3, 1.0, 65504.0, 65520.0, 1e6, 3.5e38, 1e300):
        got = library.emulate_largest_not_above(ctypes.c_double(eps), code)
        assert got == largest_not_above(eps, dtype), eps


RACES = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
long = ctypes.c_int64
fill = lambda n: (ctypes.c_float * n)(*[(i * 7919 % 1000 - 500) / 250 for i in range(n)])
for norm in (1, 2, 0):
    for rows, size, shared in ((3, 133, 200000), (2, 1025, 1000)):
        library.emulate_project_lp(
            fill(rows * size), fill(rows * size), 0, *map(long, (rows, size, size, size)),
            ctypes.c_double(0.5), norm, shared, 1, long(100), long(1))
for norm in (2, 0):
    for fused in (1, 0):
        labels, nearest = (long * 3)(0, 4, 9), (long * 3)()
        library.emulate_deepfool_step(
            fill(30), fill(30 * 600), labels, fill(3 * 600), nearest, 0,
            *map(long, (3, 10, 600, 10, 6000, 600)), norm, 132, fused, long(1))
"""


def test_no_race_that_a_sanitizer_sees(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "c++")
    runtime = subprocess.run([compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True).stdout
    if not Path(runtime.strip()).is_absolute():
        pytest.skip("the compiler has no ThreadSanitizer")
    library = build(tmp_path, "-fsanitize=thread")
    done = subprocess.run(
        [sys.executable, "-c", RACES, str(library)],
        env={**os.environ, "LD_PRELOAD": runtime.strip(), "TSAN_OPTIONS": "exitcode=66"},
        timeout=250,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
