"""Leave-one-out scores over random worlds, against one whitening after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.one_by_one import one_by_one
from tests.ops.common import backends, on_host
from uapfast.errors import InputError
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.method.whitening import ROUNDING, SHRINK
from uapfast.ops import leave_one_out
from uapfast.ops.leave_one_out import Tables

every_backend = pytest.mark.parametrize("backend", backends("leave_one_out"))


def world(
    seed: int, twins: int, innocents: int, kinds: int, views: int, blocks: int = 1, alike: float = 1.0
) -> tuple[LineageScorer, np.ndarray, np.random.Generator]:
    """A pool, and suspects ``[A,V,B,F]``: honest, a copy, the victim, an innocent again, nothing, far off."""
    rng, candidates = np.random.default_rng(seed), twins + 1
    shape, first = (views, blocks, 30), twins + 1 + innocents
    base, ways = rng.normal(size=shape), 0.5 * rng.normal(size=(2, *shape))

    def innocent(wide: float = 1.0) -> np.ndarray:
        way = np.tensordot(rng.normal(size=2), ways, 1)
        return base + alike * wide * way + 0.3 * alike * rng.normal(size=shape)

    own = [innocent(0.1) for _ in range(candidates)]
    rest = [innocent() for _ in range(innocents)]
    students = [innocent() + 0.7 * (c - base) for _ in range(kinds) for c in own]
    pool = np.stack([*own, *rest, *students]).astype(np.float32)
    table = np.arange(first, len(pool)).reshape(kinds, candidates)
    copy = innocent() + 0.6 * (own[0] - base)
    suspects = [innocent(), copy, own[0], rest[0], np.zeros(shape), 30.0 * innocent()]
    roster = Roster(np.arange(candidates), np.arange(candidates, first), table)
    return LineageScorer(pool, roster), np.stack(suspects).astype(np.float32), rng


def arguments(
    scorer: LineageScorer, suspects: Any, alone: bool = False
) -> tuple[torch.Tensor, Tables, dict[str, Any]]:
    products = scorer._products(suspects)
    rounds = scorer.rounds(products.shape[1], alone)
    return (
        products,
        rounds._tables,
        {"freed": rounds._freed, "alone": alone, "shrink": SHRINK, "rounding": ROUNDING},
    )


WORLDS = [
    (7, 12, 0, 3, 2),
    (7, 12, 2, 20, 1),
    (0, 8, 0, 3, 1),
    (1, 6, 1, 2, 1),
    (2, 3, 0, 1, 1),
    (3, 4, 1, 2, 1),
]


@every_backend
@pytest.mark.parametrize(("twins", "innocents", "kinds", "views", "blocks"), WORLDS)
def test_every_backend_says_what_one_round_after_another_says(
    backend: str, twins: int, innocents: int, kinds: int, views: int, blocks: int
) -> None:
    scorer, suspects, _ = world(1, twins, innocents, kinds, views, blocks)
    products, tables, how = arguments(scorer, suspects)
    got = leave_one_out(products, tables, **how, backend=backend).numpy()
    for found, suspect in zip(got, suspects, strict=True):
        own, rest = one_by_one(scorer, suspect)
        np.testing.assert_allclose(found[-1], own, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found[:-1], rest, rtol=1e-6, atol=1e-8)


@every_backend
@pytest.mark.parametrize("twins", [0, 5])
def test_innocents_among_themselves(backend: str, twins: int) -> None:
    scorer, suspects, _ = world(2, twins, 7, 1, 4)
    products, tables, how = arguments(scorer, suspects[:1], alone=True)
    got = leave_one_out(products, tables, **how, backend=backend)[0].numpy()
    roster = scorer.roster
    for place, row in enumerate(roster.innocents):  # each as a suspect before the others
        fewer = scorer.with_innocents(np.delete(roster.innocents, place))
        own, _ = fewer.scores(scorer.pool[row])
        if twins:
            np.testing.assert_allclose(got[place], own, rtol=1e-6, atol=1e-8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 9999), st.integers(0, 6), st.integers(2, 9), st.integers(0, 2), st.integers(1, 20),
    st.integers(1, 2), st.sampled_from([1.0, 0.3, 1e-3, 1e-5, 1e-7, 0.0]),
)  # fmt: skip
def test_any_world(
    seed: int, twins: int, innocents: int, kinds: int, views: int, blocks: int, alike: float
) -> None:
    """Few twins and none, few innocents, any number of views, innocents that hardly differ or not at all."""
    scorer, suspects, rng = world(seed, twins, innocents, kinds, views, blocks, alike)
    seen = int(rng.integers(1, views + 1))
    products, tables, how = arguments(scorer, suspects[:, :seen])
    native, plain = (leave_one_out(products, tables, **how, backend=b).numpy() for b in ("", "reference"))
    # Also where models lie so close that rounding of their products is all that is left of some lengths.
    assert all(np.isfinite(found).all() for found in (native, plain))
    assert all(np.abs(found.mean(2)).max() <= 1 + 1e-6 for found in (native, plain))
    if alike < 0.1:  # which lengths are taken as none is chance at the border
        return
    np.testing.assert_allclose(native, plain, rtol=1e-6, atol=1e-6)
    for found, suspect in list(zip(native, suspects, strict=True))[:4]:
        own, rest = one_by_one(scorer, suspect, seen)
        np.testing.assert_allclose(found[-1], own, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[:-1], rest, rtol=1e-6, atol=1e-6)


@every_backend
@pytest.mark.parametrize("how", ["repeated", "all the same", "all nothing", "one nothing", "one the victim"])
@pytest.mark.parametrize("innocents", [2, 4, 12])
def test_innocents_that_are_no_others(backend: str, innocents: int, how: str) -> None:
    """A round may be left without any variation: what its ridge keeps is not lost beside rounding."""
    scorer, suspects, _ = world(1, 5, innocents, 0, 4)
    pool, rows = scorer.pool.copy(), scorer.roster.innocents
    if how == "repeated":
        pool[rows[innocents // 2 :]] = pool[rows[: innocents - innocents // 2]]
    elif how == "all the same":
        pool[rows] = pool[rows[0]]
    elif how == "one the victim":
        pool[rows[0]] = pool[0]
    else:
        pool[rows if how == "all nothing" else rows[:1]] = 0.0
    scorer = LineageScorer(pool, scorer.roster)
    suspects[3] = pool[rows[0]]
    products, tables, how_ = arguments(scorer, suspects)
    got = leave_one_out(products, tables, **how_, backend=backend).numpy()
    for found, suspect in zip(got, suspects, strict=True):
        own, rest = one_by_one(scorer, suspect)
        np.testing.assert_allclose(found[-1], own, atol=1e-4)  # one by one errs by 5e-5
        np.testing.assert_allclose(found[:-1], rest, atol=1e-4)
        assert np.abs(found.mean(1)).max() <= 1 + 1e-6


@pytest.mark.parametrize("backend", [p for p in on_host("leave_one_out") if p.id != "reference"])
def test_same_bits_in_any_company_and_with_any_threads(backend: str) -> None:
    scorer, suspects, _ = world(3, 6, 9, 1, 20)
    products, tables, how = arguments(scorer, np.concatenate([suspects] * 4))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(leave_one_out(products, tables, **how, backend=backend))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    assert torch.equal(found[0][9:10], leave_one_out(products[9:10], tables, **how, backend=backend))


def test_nobody_is_asked_about_nobody() -> None:
    scorer, suspects, _ = world(3, 6, 9, 1, 2)
    products, tables, how = arguments(scorer, suspects)
    assert leave_one_out(products[:0], tables, **how).shape == (0, 10, 2, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"products": torch.zeros(1, 2)}, r"products.*\[A, V, N\]"),
        ({"products": torch.zeros(1, 2, 24)}, "products must be float64"),
        ({"mean": torch.zeros(3, 23).double()}, r"mean must be float64 \[2, 23\].*\[3, 23\]"),
        ({"some": torch.zeros(9)}, "some must be int64"),
        ({"weights": torch.zeros(5).double()}, "weights must be a divisor of 14 parts"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    scorer, suspects, _ = world(3, 6, 9, 1, 2)
    products, tables, how = arguments(scorer, suspects)
    given_ = {"products": products} | change
    tables = tables._replace(**{k: v for k, v in change.items() if k != "products"})
    with pytest.raises(InputError, match=message):
        leave_one_out(given_["products"], tables, **how)
