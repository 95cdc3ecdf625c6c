from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.common import backends
from uapfast.errors import InputError
from uapfast.ops import similarity_moments
from uapfast.ops._registry import OPS

BACKENDS = backends("similarity_moments")
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def unit(*shape: int, spread: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Unit rows; small ``spread``: all views of one model point nearly the same way."""
    centre = torch.randn(shape[0], 1, shape[2], dtype=torch.float64)
    x = centre + spread * torch.randn(*shape, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1).to(dtype)


def by_the_definition(a: torch.Tensor, b: torch.Tensor, pairs: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = a.double().numpy(), b.double().numpy()
    s = np.einsum("svd,rwd->srvw", x, y)
    s = s.reshape(*s.shape[:2], -1) if pairs == "all" else np.diagonal(s, axis1=2, axis2=3)
    return s.mean(-1), s.var(-1)


def run(backend: str, a: torch.Tensor, b: torch.Tensor, pairs: str) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = next(x for x in OPS["similarity_moments"].backends if x.name == backend)
    reason = chosen.refuses(a, b, pairs)
    if reason is not None:
        pytest.skip(f"{backend} takes only {reason}")
    return similarity_moments(a, b, pairs=pairs, backend=backend)


@every_backend
@pytest.mark.parametrize("pairs", ["all", "same"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1),
        (2, 3, 2, 2, 3),
        (5, 4, 7, 7, 16),
        (3, 2, 20, 20, 64),
        (33, 17, 5, 5, 15),
        (4, 65, 3, 3, 7),
        (2, 2, 16, 16, 200),
        (97, 1, 20, 20, 31),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_float64(backend: str, pairs: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    s, r, v, w, d = shape
    a, b = unit(s, v, d, dtype=dtype), unit(r, w, d, dtype=dtype)
    mean, variance = run(backend, a, b, pairs)
    assert mean.shape == variance.shape == (s, r) and mean.dtype == variance.dtype == dtype
    want_mean, want_variance = by_the_definition(a, b, pairs)
    tight = 1e-13 if dtype == torch.float64 else 2e-7
    np.testing.assert_allclose(mean.numpy(), want_mean, rtol=tight, atol=tight)
    np.testing.assert_allclose(
        variance.numpy(), want_variance, rtol=2e-6 if tight > 1e-9 else 1e-11, atol=1e-15
    )


@every_backend
@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_the_variance_survives_similarities_near_one(backend: str, spread: float) -> None:
    """E[x^2] - E[x]^2 in float32 is wrong by a factor here; the design asks for digits."""
    a = unit(4, 20, 32, spread=spread)
    mean, variance = run(backend, a, a, "all")
    want_mean, want_variance = by_the_definition(a, a, "all")
    assert float(mean.diagonal().min()) > 0.9
    np.testing.assert_allclose(variance.numpy(), want_variance, rtol=1e-4)
    np.testing.assert_allclose(mean.numpy(), want_mean, rtol=2e-7, atol=1e-7)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 12),
       st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 1e3]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_all_backends_meet_the_definition(
    s: int, r: int, v: int, w: int, d: int, seed: int, scale: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(s, v, d, generator=draw) * scale, torch.randn(r, w, d, generator=draw)
    want_mean, want_variance = by_the_definition(a, b, "all")
    for backend in OPS["similarity_moments"].backends:
        if backend.why_off() is None and backend.refuses(a, b, "all") is None:
            mean, variance = similarity_moments(a, b, backend=backend.name)
            np.testing.assert_allclose(mean.numpy(), want_mean, rtol=1e-5, atol=3e-6 * scale)
            np.testing.assert_allclose(variance.numpy(), want_variance, rtol=1e-5, atol=1e-10 * scale**2)
            assert (variance >= 0).all()


@every_backend
def test_different_numbers_of_views_and_strides(backend: str) -> None:
    a, b = unit(3, 18, 8)[:, ::2], unit(8, 5, 11).transpose(0, 2)
    mean, variance = run(backend, a, b, "all")
    want_mean, want_variance = by_the_definition(a, b, "all")
    np.testing.assert_allclose(mean.numpy(), want_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance.numpy(), want_variance, rtol=1e-5, atol=1e-8)


@every_backend
def test_order_of_views_does_not_matter(backend: str) -> None:
    a, b = unit(3, 20, 8), unit(2, 20, 8)
    mean, variance = run(backend, a, b, "all")
    again = run(backend, a[:, torch.randperm(20)], b, "all")
    torch.testing.assert_close(again, (mean, variance), rtol=1e-5, atol=1e-7)


@every_backend
def test_nan_spreads_to_its_pairs_alone_and_empty_works(backend: str) -> None:
    a, b = unit(3, 20, 8), unit(2, 20, 8)
    a[1, 4, 2] = math.nan
    for got in run(backend, a, b, "all"):
        assert got[1].isnan().all() and got[[0, 2]].isfinite().all()
    for got in run(backend, a[:0], b, "all"):
        assert got.shape == (0, 2)
    for got in run(backend, a, b[:0], "all"):
        assert got.shape == (3, 0)


@every_backend
@pytest.mark.parametrize(
    ("a", "b", "pairs", "needle"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, 4), "all", "a must be float32"),
        (
            torch.zeros(2, 3, 4),
            torch.zeros(2, 3, 5),
            "all",
            "b must be [R, W, 4] on cpu, as a, got float32 [2, 3, 5]",
        ),
        (
            torch.zeros(2, 3, 4),
            torch.zeros(2, 3, 4, dtype=torch.float64),
            "all",
            "b must be float32 [R, W, d]",
        ),
        (torch.zeros(2, 0, 4), torch.zeros(2, 3, 4), "all", "at least one view"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 2, 4), "same", "3 views"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), "some", "pairs must be all or same, got 'some'"),
    ],
)
def test_bad_input_is_named(backend: str, a: Any, b: Any, pairs: str, needle: str) -> None:
    with pytest.raises(InputError) as caught:
        similarity_moments(a, b, pairs=pairs, backend=backend)
    assert needle in str(caught.value)
