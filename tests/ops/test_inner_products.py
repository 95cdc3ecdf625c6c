from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ops.common import ODD, backends, on_host
from uapfast.errors import InputError
from uapfast.ops import inner_products
from uapfast.ops.inner_products import reference

every_backend = pytest.mark.parametrize("backend", backends("inner_products"))


def problem(suspects: int, models: int, size: int, views: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((suspects, views, size), (views, models, size))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def by_definition(rows: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
    wide = rows.double()
    found = torch.einsum("svf,vmf->svm", wide, pool.double())
    return torch.cat([found, torch.einsum("svf,svf->sv", wide, wide)[..., None]], -1)


@every_backend
@pytest.mark.parametrize("size", ODD)
def test_matches_the_definition_without_losing_digits(backend: str, size: int) -> None:
    for suspects, models in ((1, 1), (3, 7), (9, 4)):
        rows, pool = problem(suspects, models, size)
        got = inner_products(rows, pool, backend=backend)
        assert got.dtype == torch.float64 and got.is_contiguous()
        torch.testing.assert_close(got, by_definition(rows, pool), rtol=1e-12, atol=1e-13 * max(size, 1))


@every_backend
@pytest.mark.parametrize(("suspects", "models", "views"), [(0, 3, 2), (2, 0, 2), (2, 3, 0), (17, 33, 1)])
def test_counts(backend: str, suspects: int, models: int, views: int) -> None:
    rows, pool = problem(suspects, models, 40, views)
    got = inner_products(rows, pool, backend=backend)
    assert got.shape == (suspects, views, models + 1)
    torch.testing.assert_close(got, by_definition(rows, pool), rtol=1e-12, atol=1e-12)


@every_backend
def test_strides(backend: str) -> None:
    rows, pool = problem(3, 5, 40)
    want = by_definition(rows[..., ::2], pool[..., ::2])
    swapped = rows.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(inner_products(rows[..., ::2], pool[..., ::2], backend=backend), want)
    torch.testing.assert_close(inner_products(swapped, pool, backend=backend), by_definition(rows, pool))


@pytest.mark.parametrize(
    "backend", [p for p in on_host("inner_products") if p.id not in ("triton", "reference")]
)
def test_same_bits_in_any_company_at_any_level_with_any_threads(backend: str) -> None:
    rows, pool = problem(19, 23, 1000, 5)
    got = inner_products(rows, pool, backend=backend)
    assert torch.equal(got, inner_products(rows, pool, backend="scalar"))
    assert torch.equal(got[7:8, :, 3:5], inner_products(rows[7:8], pool[:, 3:5], backend=backend)[..., :2])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(got, inner_products(rows, pool, backend=backend))
    finally:
        torch.set_num_threads(before)
    same = inner_products(pool.transpose(0, 1), pool, backend=backend)
    assert torch.equal(
        same[..., :-1], same[..., :-1].transpose(0, 2)
    )  # and a model's own square is its product
    assert torch.equal(torch.diagonal(same[..., :-1], dim1=0, dim2=2).T, same[..., -1])


@every_backend
def test_nan_and_infinity_spread_to_their_own_results_alone(backend: str) -> None:
    rows, pool = problem(3, 4, 20)
    rows[1, 0, 3] = torch.nan
    bad = inner_products(rows, pool, backend=backend).isnan()
    assert bad[1, 0].all() and bad.sum() == 5


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 70), st.integers(0, 3), st.integers(0, 99))
def test_any_sizes(suspects: int, models: int, size: int, views: int, seed: int) -> None:
    rows, pool = problem(suspects, models, size, views, seed)
    torch.testing.assert_close(inner_products(rows, pool), by_definition(rows, pool), rtol=1e-12, atol=1e-11)


def test_float64_goes_to_the_reference() -> None:
    rows, pool = (t.double() for t in problem(3, 4, 20))
    assert torch.equal(inner_products(rows, pool), reference(rows, pool))


@pytest.mark.parametrize(
    ("rows", "pool", "message"),
    [
        (torch.rand(3, 4), torch.rand(2, 3, 4), r"rows.*\[S, V, F\]"),
        (torch.rand(1, 2, 3).half(), torch.rand(2, 3, 3).half(), "rows must be float32 or float64"),
        (torch.rand(1, 2, 3), torch.rand(2, 3, 3).double(), "pool must be float32"),
        (torch.rand(1, 2, 3), torch.rand(3, 3, 3), r"pool must be \[2, M, 3\] on cpu"),
        (torch.rand(1, 2, 3), torch.rand(2, 3, 4), r"pool must be \[2, M, 3\] on cpu"),
    ],
)
def test_bad_arguments_are_named(rows: Any, pool: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inner_products(rows, pool)
