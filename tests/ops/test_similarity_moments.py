from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory import peak_bytes, why_not
from tests.ops.common import ODD, backends
from uapfast import _native, testing
from uapfast.errors import InputError
from uapfast.ops import _triton, similarity_moments
from uapfast.ops._registry import OPS

BACKENDS = backends("similarity_moments")
HERE = [b.name for b in OPS["similarity_moments"].backends if b.why_off() is None]
NATIVE = [name for name in ("cpu", "scalar", "avx2", "avx512") if name in HERE]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
SLOW_INTERPRETED = [
    (3, 5, 65, 70, 41), (97, 1, 20, 20, 31), (219, 9, 9, 9, 33), (9, 130, 12, 11, 9), (180, 130, 5, 5, 16),
    (2, 2, 16, 16, 200),
]  # fmt: skip


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
        (9, 130, 12, 11, 9),
        (219, 9, 9, 9, 33),
        (180, 130, 5, 5, 16),
        (20, 3, 3, 5, 33),
        (1, 2, 3, 6, 140),
        (3, 5, 65, 70, 41),
        (3, 2, 1, 40, 97),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_float64(backend: str, pairs: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    s, r, v, w, d = shape
    w = v if pairs == "same" else w
    if backend == "triton" and _triton.INTERPRETED and shape in SLOW_INTERPRETED:
        pytest.skip("minutes in the interpreter")
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


def eager(a: torch.Tensor, b: torch.Tensor, pairs: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain torch at the dtype of the views."""
    equation = "svd,rwd->srvw" if pairs == "all" else "svd,rvd->srv"
    variance, mean = torch.var_mean(torch.einsum(equation, a, b).flatten(2), dim=2, correction=0)
    return mean, variance


@every_backend
@pytest.mark.parametrize("pairs", ["all", "same"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("v", "d"), [(20, 64), (20, 24), (5, 64), (2, 3)])
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5])
def test_as_exact_as_plain_torch(
    backend: str, pairs: str, dtype: torch.dtype, v: int, d: int, spread: float
) -> None:
    a, b = unit(6, v, d, spread=spread, dtype=dtype), unit(4, v, d, spread=spread, dtype=dtype)
    a[:4] = b  # near one, where there is a spread
    x, y = (t.numpy().astype(np.longdouble) for t in (a, b))
    sims = np.stack([[p @ q.T for q in y] for p in x])
    sims = sims.reshape(6, 4, -1) if pairs == "all" else np.diagonal(sims, axis1=2, axis2=3)
    centred = sims - sims.mean(-1, keepdims=True)
    exact = [torch.from_numpy(m.astype(np.float64)) for m in (sims.mean(-1), (centred**2).mean(-1))]
    # what float64 itself leaves of numbers near 1, and one rounding of the result
    room = [2.0**-52, 4 * 2.0**-52 * float(exact[1].max()) ** 0.5 + float(exact[1].max()) * 2.0**-24]
    if dtype == torch.float64:
        room[1] = 4 * 2.0**-52 * float(exact[1].max()) ** 0.5
    for got, plain, want, atol in zip(
        run(backend, a, b, pairs), eager(a, b, pairs), exact, room, strict=True
    ):
        testing.assert_as_exact_as(got, plain, want, atol)


sizes = st.integers(1, 12)


@given(st.integers(1, 6), st.integers(1, 6), sizes, sizes, st.integers(1, 40), st.integers(0, 2**31),
       st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from(["all", "same"]), st.booleans())  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_all_backends_meet_the_definition(
    s: int, r: int, v: int, w: int, d: int, seed: int, scale: float, pairs: str, double: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    w = v if pairs == "same" else w
    a = torch.randn(s, v, d, generator=draw, dtype=dtype) * scale
    b = torch.randn(r, w, d, generator=draw, dtype=dtype)
    want_mean, want_variance = by_the_definition(a, b, pairs)
    tight = 1e-6 if double else 1.0
    for backend in OPS["similarity_moments"].backends:
        if backend.why_off() is None and backend.refuses(a, b, pairs) is None:
            mean, variance = similarity_moments(a, b, pairs=pairs, backend=backend.name)
            np.testing.assert_allclose(mean.numpy(), want_mean, rtol=1e-5 * tight, atol=3e-6 * tight * scale)
            np.testing.assert_allclose(
                variance.numpy(), want_variance, rtol=1e-5 * tight, atol=1e-10 * tight * scale**2
            )
            assert (variance >= 0).all()


@every_backend
def test_equal_views_have_no_variance(backend: str) -> None:
    """Nothing varies, so nothing may come out of roundings but roundings."""
    a, b = unit(3, 1, 24).expand(3, 10, 24), unit(2, 1, 24).expand(2, 10, 24)
    _, variance = run(backend, a, b, "all")
    assert float(variance.max()) <= 1e-30


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
@pytest.mark.parametrize("pairs", ["all", "same"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_float32(backend: str, pairs: str, dtype: torch.dtype) -> None:
    for s, r, v, d in ((3, 2, 9, 20), (2, 19, 4, 33), (2, 1, 6, 130), (1, 2, 1, 5)):
        a, b = unit(s, v, d, dtype=dtype), unit(r, v, d, dtype=dtype)
        mean, variance = run(backend, a, b, pairs)
        assert mean.dtype == variance.dtype == torch.float32
        want_mean, want_variance = by_the_definition(a, b, pairs)
        np.testing.assert_allclose(mean.numpy(), want_mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(variance.numpy(), want_variance, rtol=1e-5, atol=1e-15)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_sizes_from_tiny_to_huge_keep_their_digits(backend: str, dtype: torch.dtype) -> None:
    """Scales that float16 halves, or squares in float32, would not hold."""
    for exponent in (-30, 0, 40):
        a, b = unit(2, 4, 12, dtype=dtype), unit(3, 4, 12, dtype=dtype)
        a[1] *= 2.0 ** (exponent if dtype != torch.float16 else exponent / 5)
        b[2] *= 2.0 ** (-exponent if dtype != torch.float16 else -exponent / 5)
        want_mean, want_variance = by_the_definition(a, b, "all")
        mean, variance = run(backend, a, b, "all")
        scale = a.double().norm(dim=2).amax(1)[:, None] * b.double().norm(dim=2).amax(1)[None]
        assert float(((mean.double() - torch.from_numpy(want_mean)).abs() / scale).max()) < 3e-7
        np.testing.assert_allclose(variance.numpy(), want_variance, rtol=1e-5)


@every_backend
def test_no_elements_and_infinities(backend: str) -> None:
    mean, variance = run(backend, torch.zeros(2, 3, 0), torch.zeros(4, 5, 0), "all")
    assert mean.shape == (2, 4) and not mean.any() and not variance.any()
    a, b = unit(3, 4, 8), unit(2, 4, 8)
    a[2, 1, 3] = math.inf
    mean, variance = run(backend, a, b, "all")
    assert mean[:2].isfinite().all() and variance[:2].isfinite().all()
    assert not mean[2].isfinite().any() and variance[2].isnan().all()


@pytest.mark.needs("cpu-extension")
@pytest.mark.parametrize("pairs", ["all", "same"])
@pytest.mark.parametrize("shape", [(60, 30, 20, 64), (300, 20, 3, 64), (30, 200, 7, 20)], ids=str)
def test_same_bits_for_any_threads_level_and_company(pairs: str, shape: tuple[int, ...]) -> None:
    s, r, v, d = shape
    a, b = unit(s, v, d, dtype=torch.float64), unit(r, v, d, dtype=torch.float64)
    before, found = torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            for level in NATIVE:
                got = torch.stack(similarity_moments(a, b, pairs=pairs, backend=level))
                assert torch.equal(found.setdefault(level, got), got)
    finally:
        torch.set_num_threads(before)
    for level, got in found.items():
        if level != "scalar":
            assert torch.equal(found["cpu"], got)
        torch.testing.assert_close(got, found["scalar"], rtol=1e-12, atol=1e-15)
    alone = torch.stack(similarity_moments(a[7:8], b[4:6], pairs=pairs, backend="cpu"))
    assert torch.equal(alone, found["cpu"][:, 7:8, 4:6])


@pytest.mark.needs("cpu-extension")
@pytest.mark.parametrize("level", [name for name in NATIVE if name != "cpu"])
@pytest.mark.parametrize("same", [False, True])
def test_native_writes_only_its_results_and_all_of_them(level: str, same: bool) -> None:
    for size in ODD[:-1]:
        s, r, v = 1 + size % 11, 1 + size % 9, 1 + size % 21
        a, b = testing.Canary(torch.randn(s, v, size)), testing.Canary(torch.randn(r, v, size))
        out = [testing.Canary(torch.full((s, r), math.nan)) for _ in range(2)]
        pointers = [c.tensor.data_ptr() for c in (a, b, *out)]
        _native.cpu().similarity_moments(*pointers, 0, s, r, v, v, size, same, 1, _native.LEVELS[level])
        assert all(c.intact() for c in (a, b, *out)) and all(c.tensor.isfinite().all() for c in out)


@pytest.mark.needs("cpu-extension")
def test_the_core_checks_what_it_is_given() -> None:
    core = _native.cpu().similarity_moments
    with pytest.raises(ValueError, match="sizes must be >= 0, views >= 1"):
        core(8, 8, 8, 8, 0, 1, 1, 0, 1, 1, False, 1, -1)
    with pytest.raises(ValueError, match="as many views"):
        core(8, 8, 8, 8, 0, 1, 1, 2, 3, 1, True, 1, -1)
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got code 3"):
        core(8, 8, 8, 8, 3, 1, 1, 1, 1, 1, False, 1, -1)
    with pytest.raises(ValueError, match="buffers must not be null"):
        core(8, 0, 8, 8, 0, 1, 1, 1, 1, 1, False, 1, -1)


@pytest.mark.needs("cpu-extension")
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_takes_a_tenth_of_the_memory_of_plain_torch_in_blocks() -> None:
    setup = """
from benchmarks.bench_similarity_moments import eager
from uapfast.ops import _triton, similarity_moments
def draw(s, r):
    return (torch.nn.functional.normalize(torch.randn(n, 20, 64), dim=-1) for n in (s, r))
eager(*draw(9, 3), "all")
similarity_moments(*draw(9, 3), backend="cpu")
a, b = draw(2000, 50)
"""
    ours = peak_bytes(setup, 'similarity_moments(a, b, backend="cpu")')
    plain = peak_bytes(setup, 'eager(a, b, "all")')
    assert plain > 8e6 and 0.8e6 < ours <= plain / 10, (ours, plain)  # 0.8 MB are the results


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
