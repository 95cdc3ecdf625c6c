"""What the Triton kernels promise on a device and no interpreter shows: sizes, configurations, memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.gpu.test_kernels_gpu import MEAN, SINGLE, STD, run, same
from tests.ops.test_triton_configs import CASES, each_config
from uapfast import testing
from uapfast.ops._registry import OPS
from uapfast.ops.similarity_moments import reference

pytestmark = [pytest.mark.gpu, pytest.mark.needs("triton"), pytest.mark.usefixtures("poison")]


def unit(*shape: int, spread: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    centre = torch.randn(shape[0], 1, shape[2], dtype=torch.float64)
    x = centre + spread * torch.randn(*shape, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1).to(dtype).cuda()


def on_device(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.cuda() if isinstance(a, torch.Tensor) else a for a in args)


def need_memory(gigabytes: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GB of GPU memory, {free >> 30} GB are free")


@pytest.mark.parametrize("case", [c for c in CASES if "moments" in c])  # others have no tensor cores
def test_every_configuration_gives_the_same_bits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, make = CASES[case]
    args = on_device(make())
    first, *others = [run(name, "triton", args) for _ in each_config(monkeypatch)]
    assert all(same(first, other) for other in others)


SHAPES = [
    (1, 1, 1, 1, 1),
    (65, 33, 20, 20, 128),
    (130, 17, 4, 12, 20),
    (33, 65, 3, 6, 77),
    (9, 50, 20, 20, 384),
]


@pytest.mark.parametrize(
    ("dtype", "pairs", "shapes"),
    [
        (torch.float32, "all", SHAPES),
        (torch.bfloat16, "all", SHAPES),
        (torch.float16, "all", SHAPES[1:2]),
        (torch.float32, "same", SHAPES[1:3]),
        (torch.bfloat16, "same", SHAPES[1:3]),
    ],
    ids=str,
)
def test_moments_over_sizes_types_and_strides(
    dtype: torch.dtype, pairs: str, shapes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One configuration: compiling takes a second each, and the test above holds them to the same bits."""
    tight = 1e-7 if dtype == torch.float32 else 6e-7  # sums in tensor cores are cut, not rounded
    next(each_config(monkeypatch))
    for s, r, v, w, d in shapes:
        w = v if pairs == "same" else w
        a, b = unit(s, v, d, dtype=dtype), unit(r, w, d, dtype=dtype)
        want = reference(a.double(), b.double(), pairs)
        wide = torch.stack([a, a], 2)[:, :, 0]
        swapped = b.transpose(0, 2).contiguous().transpose(0, 2)
        for views in ((a, b), (wide, swapped)):
            got = run("similarity_moments", "triton", (*views, pairs))
            torch.testing.assert_close(got[0].double(), want[0], rtol=tight, atol=tight)
            torch.testing.assert_close(got[1].double(), want[1], rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moments_do_not_depend_on_the_company(dtype: torch.dtype) -> None:
    a, b = unit(300, 20, 64, dtype=dtype), unit(70, 20, 64, dtype=dtype)
    together = run("similarity_moments", "triton", (a, b, "all"))
    alone = run("similarity_moments", "triton", (a[131:133], b[68:], "all"))
    assert all(torch.equal(x, y[131:133, 68:]) for x, y in zip(alone, together, strict=True))


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_moments_as_exact_as_plain_torch(spread: float) -> None:
    a = unit(40, 20, 64, spread=spread)
    b = a[:30].clone()
    want = reference(a.double(), b.double(), "all")
    similarity = torch.einsum("svd,rwd->srvw", a, b).flatten(2)
    variance, mean = torch.var_mean(similarity, dim=2, correction=0)
    got = run("similarity_moments", "triton", (a, b, "all"))
    testing.assert_as_exact_as(got[0], mean, want[0], 2.0**-24)
    testing.assert_as_exact_as(got[1], variance, want[1], float(want[1].max()) * 2.0**-22)
    torch.testing.assert_close(got[1].double(), want[1], rtol=1e-3, atol=0)


def test_moments_of_equal_views_do_not_vary() -> None:
    for dtype in SINGLE:
        a, b = (unit(n, 1, 24, dtype=dtype).expand(n, 10, 24) for n in (70, 20))
        assert float(run("similarity_moments", "triton", (a, b, "all"))[1].max()) <= 1e-30


@pytest.mark.parametrize("dtype", SINGLE, ids=str)
def test_moments_take_a_hundredth_of_the_memory_of_all_similarities(dtype: torch.dtype) -> None:
    s, r, v, d = 10_000, 200, 20, 128
    need_memory(4)
    a, b = unit(s, v, d, dtype=dtype), unit(r, v, d, dtype=dtype)
    run("similarity_moments", "triton", (a, b, "all"))  # the first call times its configurations
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = run("similarity_moments", "triton", (a, b, "all"))
    assert torch.cuda.max_memory_allocated() - before <= s * r * v * v * 4 / 100
    part = reference(a[-8:].double(), b.double(), "all")
    torch.testing.assert_close(got[1][-8:].double(), part[1], rtol=2e-5, atol=1e-12)


def test_moments_of_more_than_two_to_the_31_elements() -> None:
    need_memory(40)
    for dtype, s in ((torch.float16, 2**21 + 70), (torch.float32, 2**21 + 70)):
        a = torch.zeros(s, 8, 128, dtype=dtype, device="cuda")  # more than 2^31 elements of suspects
        a[-1], a[2**20] = unit(1, 8, 128, dtype=dtype)[0], unit(1, 8, 128, dtype=dtype)[0]
        b = unit(2, 8, 128, dtype=dtype)
        mean, variance = run("similarity_moments", "triton", (a, b, "all"))
        for i in (2**20, s - 1):
            want = reference(a[i : i + 1].double(), b.double(), "all")
            torch.testing.assert_close(mean[i : i + 1].double(), want[0], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(variance[i : i + 1].double(), want[1], rtol=1e-4, atol=1e-12)
        assert float(mean[:1000].abs().max()) == 0
        del a, mean, variance
    a, b = unit(70_000, 1, 16, dtype=torch.bfloat16), unit(32_000, 1, 16, dtype=torch.bfloat16)
    mean, variance = run("similarity_moments", "triton", (a, b, "all"))  # more than 2^31 results
    want = reference(a[-3:].double(), b.double(), "all")[0]
    torch.testing.assert_close(mean[-3:].double(), want, rtol=1e-6, atol=1e-6)
    assert float(variance[-3:].max()) == 0


@pytest.mark.parametrize("classes", [10, 1000])
def test_rows_of_more_than_two_to_the_31_logits(classes: int) -> None:
    need_memory(24)
    queries = 2**31 // classes + 1031
    logits = torch.zeros(1, queries, classes, dtype=torch.float16, device="cuda")
    logits[0, -1, classes - 3], logits[0, -2, 1] = 4.0, 3.0
    got = OPS["fingerprint_rows"].call(logits, 1, "triton")
    want = OPS["fingerprint_rows"].call(logits[:, -3:], 1, "reference")
    for mine, exact in zip(got, want, strict=True):
        torch.testing.assert_close(mine[:, -3:], exact, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("last", [False, True])
def test_queries_of_more_than_two_to_the_31_elements(last: bool) -> None:
    need_memory(16)
    count = 2**31 // (3 * 224 * 224) + 40
    images = torch.zeros(count, 3, 224, 224, dtype=torch.uint8, device="cuda")
    images[-2:] = torch.randint(0, 256, images[-2:].shape, dtype=torch.uint8, device="cuda")
    uaps = torch.randn(1, 3, 224, 224, device="cuda") * 0.1
    rest = (uaps, None, 1.0, MEAN, STD, torch.bfloat16, last, False)
    (got,) = run("build_queries", "triton", (images, *rest))
    want = OPS["build_queries"].call(images[-2:], *rest, "reference")
    torch.testing.assert_close(got[:, -2:], want, rtol=4e-3, atol=4e-3)


def test_rows_and_queries_take_nothing_and_odd_sizes() -> None:
    for shape in ((0, 4, 3), (2, 0, 3), (1, 1, 1), (2, 3, 8193), (1, 2, 20_001)):
        logits = torch.randn(shape, device="cuda") * 9
        got = run("fingerprint_rows", "triton", (logits, min(3, shape[2])))
        want = OPS["fingerprint_rows"].call(logits, min(3, shape[2]), "reference")
        for mine, exact in zip(got, want, strict=True):
            torch.testing.assert_close(mine, exact, rtol=3e-6, atol=3e-6)
    for a, b in ((unit(0 + 1, 3, 4)[:0], unit(2, 3, 4)), (unit(2, 3, 4), unit(1, 3, 4)[:0])):
        assert run("similarity_moments", "triton", (a, b, "all"))[0].shape == (len(a), len(b))
    empty = torch.zeros(2, 3, 0, device="cuda")
    mean, variance = run("similarity_moments", "triton", (empty, empty, "all"))
    assert not mean.any() and not variance.any() and math.prod(mean.shape) == 4
