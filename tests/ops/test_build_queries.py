from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.ops.common import ON_A_DEVICE, backends, skip_if_refused
from uapfast import testing
from uapfast.errors import InputError
from uapfast.ops import build_queries
from uapfast.ops._registry import OPS

BACKENDS = backends("build_queries")
every_backend = pytest.mark.parametrize("backend", BACKENDS)
SHAPES = [
    (1, 1, 1, 1),
    (3, 1, 28, 28),
    (2, 3, 7, 5),
    (5, 3, 32, 32),
    (2, 4, 1, 65),
    (0, 3, 4, 4),
    (7, 1, 15, 17),
]
MEAN, STD = [0.1, 0.2, 0.3, 0.4], [0.5, 0.25, 0.125, 0.3]


def images_of(kind: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8) if kind == torch.uint8 else torch.rand(shape)


def plainly(
    images: torch.Tensor,
    moves: torch.Tensor | None,
    t: float,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    """What a user would write, at ``dtype``; ``moves`` broadcast against images or None."""
    x = images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)
    x = x if moves is None else x + t * moves.to(dtype)
    centre, scale = (torch.tensor(v, dtype=dtype).view(-1, 1, 1) for v in (mean, std))
    return (x.clamp(0, 1) - centre) / scale


@every_backend
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_matches_plain_torch(
    backend: str, shape: tuple[int, ...], kind: torch.dtype, assigned: bool, channels_last: bool
) -> None:
    images, uaps = images_of(kind, shape), torch.randn(3, *shape[1:]) * 0.3
    assign = torch.randint(0, 3, shape[:1]) if assigned else None
    mean, std = MEAN[: shape[1]], STD[: shape[1]]
    got = build_queries(
        images, uaps, assign, t=0.7, mean=mean, std=std, channels_last=channels_last, backend=backend
    )
    assert got.shape == (2 if assigned else 4, *shape) and got.dtype == torch.float32
    moves = [None, uaps[assign]] if assign is not None else [None, *uaps]
    for slot, move in enumerate(moves):
        plain = plainly(images, move, 0.7, mean, std, torch.float32)
        exact = plainly(images, move, 0.7, mean, std, torch.float64)
        testing.assert_as_exact_as(got[slot], plain, exact, atol=1.2e-7 * 8)  # one rounding of values up to 8
    if got.numel():
        flat = got.flatten(0, 1)
        assert flat.data_ptr() == got.data_ptr()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert flat.is_contiguous(memory_format=layout)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_are_rounded_once(backend: str, dtype: torch.dtype) -> None:
    images, uaps = images_of(torch.uint8, (4, 3, 9, 11)), torch.randn(2, 3, 9, 11) * 0.1
    skip_if_refused("build_queries", backend, images, uaps, None, 1.0, [], [], dtype)
    got = build_queries(images, uaps, mean=MEAN[:3], std=STD[:3], dtype=dtype, backend=backend)
    exact = torch.stack([plainly(images, m, 1.0, MEAN[:3], STD[:3], torch.float64) for m in (None, *uaps)])
    # Half a unit in the last place of the type, and what float32 arithmetic may add to it; the interpreter
    # of Triton cuts instead of rounding, for this type alone.
    units = 1 if backend == "triton" and dtype == torch.bfloat16 else 0.5
    torch.testing.assert_close(got.double(), exact, rtol=torch.finfo(dtype).eps * units + 1e-6, atol=1e-6)


@every_backend
def test_every_byte_value_is_exact(backend: str) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    got = build_queries(images, backend=backend)
    assert torch.equal(got[0, 0, 0].flatten(), torch.arange(256, dtype=torch.float32) / 255)


@every_backend
def test_clean_only_perturbed_only_and_the_ray(backend: str) -> None:
    images, uaps = torch.rand(4, 1, 5, 5), torch.randn(3, 1, 5, 5)
    assert torch.equal(build_queries(images, backend=backend)[0], images)
    both = build_queries(images, uaps, backend=backend)
    assert torch.equal(build_queries(images, uaps, clean=False, backend=backend), both[1:])
    still = build_queries(images, uaps, t=0.0, backend=backend)
    assert all(torch.equal(s, images) for s in still)


@every_backend
def test_clamping_and_nan(backend: str) -> None:
    images = torch.tensor([-1.0, 2.0, math.nan, 0.5]).view(1, 1, 2, 2)
    uap = torch.tensor([0.25, 9.0, 0.0, math.nan]).view(1, 1, 2, 2)
    got = build_queries(images, uap, backend=backend).flatten(1)
    assert got[0].tolist()[:2] == [0.0, 1.0] and got[0, 2].isnan() and got[0, 3] == 0.5
    assert got[1].tolist()[:2] == [0.25, 1.0] and got[1, 2:].isnan().all()


@every_backend
@pytest.mark.parametrize("channels_last", [False, True])
def test_strides_and_untouched_inputs(backend: str, channels_last: bool) -> None:
    base = torch.randint(0, 256, (6, 8, 10, 3), dtype=torch.uint8)
    cases = [
        base.permute(0, 3, 1, 2),
        base.permute(0, 3, 1, 2)[::2, :, ::2],
        base[..., :1].permute(0, 3, 1, 2),
    ]
    for images in cases:
        uaps = torch.randn(2, *images.shape[1:]).transpose(2, 3).contiguous().transpose(2, 3) * 0.1
        before = images.clone(), uaps.clone()
        got = build_queries(images, uaps, channels_last=channels_last, backend=backend)
        want = build_queries(*(b.contiguous() for b in before), backend="reference")
        torch.testing.assert_close(got, want)
        assert torch.equal(images, before[0]) and torch.equal(uaps, before[1])


@every_backend
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [1, 3, 7, 16, 33, 65])
def test_writes_the_buffer_given_and_no_more(backend: str, channels_last: bool, size: int) -> None:
    images, uaps = images_of(torch.uint8, (3, 2, size, 3)), torch.randn(2, 2, size, 3)
    want = build_queries(images, uaps, channels_last=channels_last, backend="reference")
    canary = testing.Canary(torch.full((3, 3, size, 3, 2) if channels_last else (3, 3, 2, size, 3), math.nan))
    out = canary.tensor.permute(0, 1, 4, 2, 3) if channels_last else canary.tensor
    got = build_queries(images, uaps, channels_last=channels_last, out=out, backend=backend)
    assert got is out and canary.intact()
    torch.testing.assert_close(out, want)


@every_backend
@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (
            {"images": torch.zeros(2, 3, 4)},
            "images must be uint8 or float32 [N, C, H, W], got float32 [2, 3, 4]",
        ),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, "got int64"),
        ({"uaps": torch.zeros(1, 1, 4, 4)}, "uaps must be [P, 3, 4, 4] on cpu, got float32 [1, 1, 4, 4]"),
        ({"assign": torch.tensor([0, 2])}, "assign must be in 0..1, got 2"),
        ({"assign": torch.tensor([-1, 1])}, "assign must be in 0..1, got -1"),
        ({"assign": torch.tensor([0])}, "assign must be [2], one per image"),
        ({"t": math.nan}, "t must be finite, got nan"),
        ({"mean": [0.5]}, "mean must be 3 finite numbers, one per channel, got [0.5]"),
        ({"std": [1.0, 0.0, 1.0]}, "std must be > 0, got [1.0, 0.0, 1.0]"),
        ({"dtype": torch.int8}, "dtype must be float32"),
        ({"uaps": None, "clean": False}, "clean must be true where there are no uaps"),
        ({"uaps": torch.zeros(2, 3, 4, 4, requires_grad=True)}, "uaps must be detached"),
        ({"out": torch.zeros(3, 2, 3, 4, 5)}, "out must be float32 [3, 2, 3, 4, 4]"),
        ({"out": torch.zeros(3, 2, 3, 4, 4).transpose(3, 4)}, "strides"),
    ],
)
def test_bad_input_is_named(backend: str, change: dict[str, Any], needle: str) -> None:
    good = {"images": torch.zeros(2, 3, 4, 4), "uaps": torch.zeros(2, 3, 4, 4)}
    with pytest.raises(InputError) as caught:
        build_queries(**{**good, **change}, backend=backend)
    assert needle in str(caught.value)


@pytest.mark.needs("cpu-extension")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 9])
def test_same_bits_for_any_threads_and_level(channels: int, channels_last: bool) -> None:
    images, uaps = images_of(torch.uint8, (37, channels, 33, 35)), torch.randn(2, channels, 33, 35)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results += [
                build_queries(images, uaps, channels_last=channels_last, backend=b.name)
                for b in OPS["build_queries"].backends
                if b.name not in {"reference", *ON_A_DEVICE} and b.why_off() is None
            ]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], r) for r in results[1:])
