"""What the Triton kernels promise on a device and no interpreter shows: sizes, configurations, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gpu.test_kernels_gpu import MEAN, STD, case, run, same
from tests.ops.test_triton_configs import CASES, each_config
from uapfast.ops._registry import OPS

pytestmark = [pytest.mark.gpu, pytest.mark.needs("triton"), pytest.mark.usefixtures("poison")]


def on_device(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.cuda() if isinstance(a, torch.Tensor) else a for a in args)


def need_memory(gigabytes: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GB of GPU memory, {free >> 30} GB are free")


@pytest.mark.parametrize("case", [c for c in CASES if "products" in c])  # others have no tensor cores
def test_every_configuration_gives_the_same_bits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, make = CASES[case]
    args = on_device(make())
    first, *others = [run(name, "triton", args) for _ in each_config(monkeypatch)]
    assert all(same(first, other) for other in others)


def test_scores_do_not_depend_on_the_company() -> None:
    rows, pool = torch.randn(300, 20, 640, device="cuda"), torch.randn(20, 70, 640, device="cuda")
    (together,) = run("inner_products", "triton", (rows, pool))
    (alone,) = run("inner_products", "triton", (rows[131:133], pool[:, 60:]))
    assert torch.equal(alone, together[131:133, :, 60:])
    answers, *rest = case("features")
    (several,) = run("features", "triton", (answers, *rest))
    assert torch.equal(run("features", "triton", (answers[1:2], *rest))[0], several[1:2])


def test_products_of_more_than_two_to_the_31_elements() -> None:
    need_memory(20)
    rows = torch.zeros(2**20 + 70, 2, 1100, device="cuda")
    rows[-1], rows[2**19] = 1.0, 2.0
    pool = torch.ones(2, 3, 1100, device="cuda")
    (got,) = run("inner_products", "triton", (rows, pool))
    assert got[-1].tolist() == [[1100.0] * 4] * 2 and got[2**19].tolist() == [[2200.0] * 3 + [4400.0]] * 2
    assert float(got[:1000].abs().max()) == 0


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
