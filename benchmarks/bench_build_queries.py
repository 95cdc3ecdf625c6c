"""uint8 images to normalised pairs: 1 byte read, and two floats written, per element."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common import callable_for, implementations, measure, size_of
from uapfast.ops.build_queries import reference

SHAPES = {"cpu": [(512, 3, 32, 32), (16, 3, 224, 224)], "cuda": [(4096, 3, 32, 32), (512, 3, 224, 224)]}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def eager(
    images: Tensor,
    uaps: Tensor,
    assign: Tensor,
    t: float,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
    channels_last: bool,
    clean: bool,
) -> Tensor:
    """What users write around torchvision's Normalize."""
    x = images.float() / 255
    both = torch.stack([x, (x + t * uaps[assign]).clamp(0, 1)])
    shape = (1, 1, -1, 1, 1)
    both = (both - both.new_tensor(mean).view(shape)) / both.new_tensor(std).view(shape)
    out = both.to(dtype).flatten(0, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return out.contiguous(memory_format=layout).unflatten(0, both.shape[:2])


@pytest.mark.benchmark(group="build_queries")
@pytest.mark.parametrize("implementation", implementations("build_queries"))
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", [0, 1], ids=["32px", "224px"])
def bench_build_queries(benchmark: Any, device: str, case: int, layout: str, implementation: str) -> None:
    shape = SHAPES[device.split(":")[0]][case]
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    uaps = torch.randn(13, *shape[1:], device=device) * 0.05
    assign = torch.arange(shape[0], device=device) % 13
    args = (images, uaps, assign, 1.0, MEAN, STD, dtype, layout == "nhwc", True)
    benchmark.group = f"build_queries {layout} {list(shape)} {str(dtype).removeprefix('torch.')}"
    part = reference(images[:8], uaps, assign[:8], *args[3:])

    def check(got: Tensor) -> None:
        tolerance = 4e-3 if dtype == torch.bfloat16 else 2e-6
        torch.testing.assert_close(got[:, :8], part, rtol=tolerance, atol=tolerance)

    work = callable_for("build_queries", implementation, args, eager)
    must_move = size_of(images, uaps) + 2 * images.numel() * dtype.itemsize
    measure(benchmark, work, check, nbytes=must_move)
