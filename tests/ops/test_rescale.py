from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.ops.common import backends, on_host, skip_if_refused
from uapfast.errors import InputError
from uapfast.ops import rescale
from uapfast.ops.rescale import reference

every_backend = pytest.mark.parametrize("backend", backends("rescale"))


def problem(
    items: int, rows: int, classes: int, spread: float = 3.0, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(items, rows, classes, generator=generator, dtype=torch.float64)
    target = 0.5 + 0.4 * torch.rand(items, generator=generator, dtype=torch.float64)
    prior = 0.5 + torch.rand(items, classes, generator=generator, dtype=torch.float64)
    return logits.softmax(-1).float(), target, prior / prior.sum(-1, keepdim=True)


@every_backend
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 31, 32, 33, 100, 1000])
@pytest.mark.parametrize("spread", [0.5, 3.0, 30.0])
def test_matches_float64(backend: str, classes: int, spread: float) -> None:
    given = problem(2, 37, classes, spread)
    got = rescale(*given, backend=backend)
    assert got.dtype == torch.float32 and got.is_contiguous()
    torch.testing.assert_close(got, reference(given[0].double(), *given[1:]).float(), rtol=2e-4, atol=2e-6)
    torch.testing.assert_close(got.sum(-1), torch.ones(2, 37), rtol=0, atol=1e-5)


@every_backend
@pytest.mark.parametrize("rows", [0, 1, 2, 15, 16, 17, 33, 200])
def test_row_counts_and_strides(backend: str, rows: int) -> None:
    wide, target, prior = problem(3, rows, 22)
    for p in (wide[..., :10], wide[..., ::2], wide[:1].expand(3, rows, 22)):
        whole = prior[:, : p.shape[-1]].contiguous()
        whole = whole / whole.sum(-1, keepdim=True)
        before = p.clone()
        got = rescale(p, target, whole, backend=backend)
        torch.testing.assert_close(got, reference(before, target, whole), rtol=2e-4, atol=2e-6)
        assert torch.equal(p, before)
    assert rescale(wide[:0], target[:0], prior[:0], backend=backend).shape == (0, rows, 22)


@every_backend
def test_reaches_what_is_wanted(backend: str) -> None:
    p, target, prior = problem(4, 2000, 10)
    prior = (prior + 0.4) / (prior + 0.4).sum(-1, keepdim=True)
    got = rescale(p, target, prior, backend=backend).double()
    torch.testing.assert_close(got.max(-1).values.mean(-1), target, rtol=0, atol=5e-3)
    torch.testing.assert_close(got.mean(1), prior, rtol=0, atol=5e-3)


@every_backend
def test_is_undone_by_itself(backend: str) -> None:
    """A model that is only more or less sure of itself, or leans to a class, comes out as it was."""
    p, _, _ = problem(1, 2000, 10, 2.0)
    target, prior = p.double().max(-1).values.mean(-1), p.double().mean(1)
    bent = (0.6 * p.double().log() + 0.5 * torch.arange(10) / 10).softmax(-1).float()
    far, near = (bent - p).abs().mean(), (rescale(bent, target, prior, backend=backend) - p).abs().mean()
    assert near < 0.02 * far


@every_backend
def test_answers_without_spread_or_of_one_class(backend: str) -> None:
    flat, one = torch.full((1, 9, 4), 0.25), torch.eye(4)[[2] * 9][None]
    target, prior = torch.tensor([0.7]).double(), torch.full((1, 4), 0.25).double()
    for p in (flat, one, torch.zeros(1, 9, 4)):
        got = rescale(p, target, prior, backend=backend)
        assert got.isfinite().all()
        torch.testing.assert_close(got, reference(p, target, prior), rtol=1e-3, atol=1e-5)


@every_backend
def test_nan_stays_in_its_item(backend: str) -> None:
    p, target, prior = problem(3, 20, 5)
    p[1, 3, 2] = torch.nan
    got = rescale(p, target, prior, backend=backend)
    assert got[1].isnan().all() and not got[[0, 2]].isnan().any()


@pytest.mark.parametrize("backend", on_host("rescale"))
def test_same_bits_for_any_level_and_threads(backend: str) -> None:
    given = problem(5, 700, 33)
    skip_if_refused("rescale", backend, *given)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(rescale(*given, backend=backend))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    if backend != "reference":
        assert torch.equal(found[0], rescale(*given, backend="scalar"))


@given(st.integers(0, 3), st.integers(0, 40), st.integers(1, 40), st.floats(0.1, 60), st.integers(0, 99))
def test_any_shape_and_spread(items: int, rows: int, classes: int, spread: float, seed: int) -> None:
    problem_ = problem(items, rows, classes, spread, seed)
    got = rescale(*problem_)
    assert got.shape == (items, rows, classes) and got.isfinite().all()
    assert ((got.sum(-1) - 1).abs() < 1e-4).all()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (2, 7, 4), elements=st.floats(0, 1, width=32)), st.floats(0.3, 0.95))
def test_any_answers_become_probabilities(p: np.ndarray, target: float) -> None:
    wanted, prior = torch.full((2,), target).double(), torch.full((2, 4), 0.25).double()
    got = rescale(torch.from_numpy(p), wanted, prior)
    assert got.isfinite().all() and (got >= 0).all()
    torch.testing.assert_close(got.sum(-1), torch.ones(2, 7), rtol=0, atol=1e-5)


def test_other_types() -> None:
    p, target, prior = problem(2, 9, 5)
    assert rescale(p.double(), target, prior).dtype == torch.float64
    half = rescale(p.half(), target, prior)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, rescale(p.half().float(), target, prior), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({0: torch.rand(3, 4)}, r"probabilities.*\[L, N, K\]"),
        ({0: torch.ones(2, 5, 3, dtype=torch.int64)}, "probabilities.*int64"),
        ({0: torch.rand(2, 5, 0), 2: torch.rand(2, 0).double()}, "at least one class"),
        ({1: torch.rand(2)}, "target.*float64.*float32"),
        ({1: torch.rand(3).double()}, r"target.*\[2\].*\[3\]"),
        ({2: torch.rand(2, 4).double()}, r"prior.*\[2, 3\].*\[2, 4\]"),
        ({2: torch.rand(2, 3)}, "prior.*float64"),
    ],
)
def test_bad_arguments_are_named(change: dict[int, torch.Tensor], message: str) -> None:
    arguments = list(problem(2, 5, 3))
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(InputError, match=message):
        rescale(*arguments)


@every_backend
@pytest.mark.parametrize("bad", [-0.1, 0.0, float("nan")])
@pytest.mark.parametrize("which", ["target", "prior"])
def test_what_is_wanted_must_be_positive(backend: str, bad: float, which: str) -> None:
    p, target, prior = problem(2, 5, 3)
    (target if which == "target" else prior)[-1] = bad
    with pytest.raises(InputError, match=f"rescale: {which} must be of positive numbers, got {bad:g}"):
        rescale(p, target, prior, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@every_backend
def test_the_default_dtype_is_not_the_results(backend: str, dtype: torch.dtype) -> None:
    given_ = problem(2, 50, 10)
    expected = rescale(*given_, backend=backend)
    torch.set_default_dtype(dtype)
    try:
        found = rescale(*given_, backend=backend)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
