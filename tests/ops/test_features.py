from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.ops.common import backends, on_host, skip_if_refused
from uapfast.errors import InputError
from uapfast.ops import features
from uapfast.ops.features import reference

every_backend = pytest.mark.parametrize("backend", backends("features"))
HOW: dict[str, float] = {"floor": 1e-4, "root": 3.0, "clip": 0.4}
PLAIN = HOW | {"floor": 0.0, "clip": math.inf}


def problem(
    models: int = 2,
    groups: tuple[int, ...] = (1, 2),
    blocks: int = 1,
    points: int = 9,
    classes: int = 5,
    spread: float = 3.0,
    seed: int = 0,
) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    views, wanted = sum(groups), (len(groups), blocks)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    shape = (models, views, blocks, points, classes)
    logits = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    prior = 0.5 + rand(*wanted, classes)
    origin = rand(*shape[1:]).float()
    answers, prior = logits.softmax(-1).float(), prior / prior.sum(-1, keepdim=True)
    return [answers, 0.5 + 0.4 * rand(*wanted), prior, origin, list(groups)]


def probabilities(problem_: list[Any], backend: str = "") -> torch.Tensor:
    """What answers are brought to, before roots and residuals."""
    answers, target, prior, origin, groups = problem_
    how = PLAIN | {"root": 1.0}
    return features(answers, target, prior, torch.zeros_like(origin), groups, **how, backend=backend)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want.to(got.dtype), rtol=1e-4, atol=2e-6)


@every_backend
@pytest.mark.parametrize("classes", [1, 2, 10, 31, 33, 100, 128])
@pytest.mark.parametrize("spread", [0.5, 30.0])
def test_matches_float64(backend: str, classes: int, spread: float) -> None:
    given_ = problem(classes=classes, spread=spread)
    for how in (HOW, HOW | {"clip": math.inf}):
        got = features(*given_, **how, backend=backend)
        assert got.dtype == torch.float32 and got.is_contiguous()
        close(got, reference(given_[0].double(), *given_[1:], *how.values()))


@every_backend
@pytest.mark.parametrize("points", [0, 1, 15, 16, 17, 65])
def test_row_counts_blocks_groups_and_strides(backend: str, points: int) -> None:
    wide = problem(2, (1, 1, 3), 2, points, 8)
    answers, target, prior, origin, groups = wide
    for p in (answers[..., :4], answers[..., ::2], answers[:1].expand(2, 5, 2, points, 8)):
        whole, part = prior[..., : p.shape[-1]], origin[..., : p.shape[-1]]
        whole = (whole / whole.sum(-1, keepdim=True)).contiguous()
        before = p.clone()
        got = features(p, target, whole, part, groups, **HOW, backend=backend)
        close(got, reference(before, target, whole, part, groups, *HOW.values()))
        assert torch.equal(p, before)
    assert features(answers[:0], *wide[1:], **HOW, backend=backend).shape == (0, 5, 2, points, 8)


@every_backend
def test_no_answer_has_no_say_and_says_nothing(backend: str) -> None:
    given_ = problem(2, (2,), 1, 20)
    answers = given_[0].clone()
    answers[:, 1] = 0.0
    fewer = [answers[:, :1].contiguous(), *given_[1:3], given_[3][:1].contiguous(), [1]]
    got = features(answers, *given_[1:], **HOW, backend=backend)
    assert not got[:, 1].any()
    assert torch.equal(got[:, :1], features(*fewer, **HOW, backend=backend))


@every_backend
def test_a_model_has_the_same_features_in_any_company(backend: str) -> None:
    given_ = problem(3, (1, 2), 1, 20)
    together = features(*given_, **HOW, backend=backend)
    alone = features(given_[0][1:2], *given_[1:], **HOW, backend=backend)
    if backend == "reference":
        close(alone, together[1:2])
    else:
        assert torch.equal(alone, together[1:2])


@pytest.mark.parametrize("backend", [p for p in on_host("features") if p.id != "triton"])
def test_reaches_what_is_wanted(backend: str) -> None:
    given_ = problem(2, (2,), 1, 1000, 10)
    given_[2] = (given_[2] + 0.4) / (given_[2] + 0.4).sum(-1, keepdim=True)
    got = probabilities(given_, backend).double()
    torch.testing.assert_close(got.amax(-1).mean((1, 3)), given_[1].expand(2, 1), rtol=0, atol=5e-3)
    torch.testing.assert_close(got.mean((1, 3)), given_[2].expand(2, 1, 10), rtol=0, atol=5e-3)
    torch.testing.assert_close(got.sum(-1), torch.ones_like(got[..., 0]), rtol=0, atol=1e-5)


def test_is_undone_by_itself() -> None:
    """A model that is only more or less sure of itself, or leans to a class, comes out as it was."""
    given_ = problem(1, (2,), 1, 1000, 10, 2.0)
    p = given_[0].double()
    given_[1], given_[2] = p.amax(-1).mean((1, 3)), p.mean((1, 3))
    bent = (0.6 * p.log() + 0.5 * torch.arange(10) / 10).softmax(-1).float()
    near = (probabilities([bent, *given_[1:]]) - given_[0]).abs().mean()
    assert near < 0.02 * (bent - given_[0]).abs().mean()


@every_backend
def test_answers_without_spread_or_of_one_class(backend: str) -> None:
    given_ = problem(1, (1,), 1, 9, 4)
    for p in (torch.full((1, 1, 1, 9, 4), 0.25), torch.eye(4)[[2] * 9].view(1, 1, 1, 9, 4)):
        got = features(p, *given_[1:], **HOW, backend=backend)
        assert got.isfinite().all()
        torch.testing.assert_close(got, reference(p, *given_[1:], *HOW.values()), rtol=1e-3, atol=1e-5)


@every_backend
def test_nan_stays_in_its_model_group_and_block(backend: str) -> None:
    given_ = problem(2, (1, 2), 2, 7)
    given_[0][1, 2, 0, 3, 2] = torch.nan
    bad = features(*given_, **HOW, backend=backend).isnan()
    assert bad[1, 1:, 0].all() and bad.sum() == bad[1, 1:, 0].numel()


@pytest.mark.parametrize("backend", [p for p in on_host("features") if p.id not in ("triton", "reference")])
def test_same_bits_for_any_level_and_threads(backend: str) -> None:
    given_ = problem(3, (1, 1, 5), 1, 200, 33)
    skip_if_refused("features", backend, *given_, *HOW.values())
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(features(*given_, **HOW, backend=backend))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    assert torch.equal(found[0], features(*given_, **HOW, backend="scalar"))


@given(st.integers(0, 3), st.integers(0, 40), st.integers(1, 40), st.floats(0.1, 60), st.integers(0, 99))
def test_any_shape_and_spread(models: int, points: int, classes: int, spread: float, seed: int) -> None:
    got = features(*problem(models, (1, 2), 1, points, classes, spread, seed), **HOW)
    assert got.shape == (models, 3, 1, points, classes) and got.isfinite().all()
    assert (got.square().sum(-1) < 1).all()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (2, 1, 1, 7, 4), elements=st.floats(0, 1, width=32)), st.floats(0.3, 0.95))
def test_any_answers_become_probabilities(p: np.ndarray, target: float) -> None:
    given_ = [torch.from_numpy(p), torch.full((1, 1), target).double(), torch.full((1, 1, 4), 0.25).double(),
              torch.zeros(1, 1, 7, 4), [1]]  # fmt: skip
    got = probabilities(given_)
    assert got.isfinite().all() and (got >= 0).all()
    wanted = torch.from_numpy(p).any(-1).float()
    torch.testing.assert_close(got.sum(-1), wanted, rtol=0, atol=1e-5)


def test_other_types() -> None:
    p, *rest = problem()
    assert features(p.double(), *rest, **HOW).dtype == torch.float64
    half = features(p.half(), *rest, **HOW)
    assert half.dtype == torch.float32
    close(half, features(p.half().float(), *rest, **HOW))


@pytest.mark.parametrize(
    "change, message",
    [
        ({0: torch.rand(3, 4)}, r"answers.*\[M, V, B, n, K\]"),
        ({0: torch.ones(2, 3, 1, 9, 5, dtype=torch.int64)}, "answers.*int64"),
        ({0: torch.rand(2, 3, 1, 9, 0)}, "at least one class"),
        ({1: torch.rand(2, 1)}, "target.*float64.*float32"),
        ({1: torch.rand(3, 1).double()}, r"target.*\[2, 1\].*\[3, 1\]"),
        ({2: torch.rand(2, 1, 4).double()}, r"prior.*\[2, 1, 5\].*\[2, 1, 4\]"),
        ({3: torch.rand(3, 1, 9, 4)}, r"origin.*\[3, 1, 9, 5\].*\[3, 1, 9, 4\]"),
        ({4: [1, 1]}, r"groups must be positive, of 3 views together, got \[1, 1\]"),
        ({4: [3, 0]}, "groups must be positive"),
    ],
)
def test_bad_arguments_are_named(change: dict[int, Any], message: str) -> None:
    arguments = problem()
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(InputError, match=message):
        features(*arguments, **HOW)


@pytest.mark.parametrize(("name", "bad"), [("floor", -0.1), ("root", 0.0), ("clip", math.nan)])
def test_bad_numbers_are_named(name: str, bad: float) -> None:
    with pytest.raises(InputError, match=f"features: {name} must be .*, got {bad}"):
        features(*problem(), **(HOW | {name: bad}))


@pytest.mark.parametrize("bad", [-0.1, 0.0, float("nan")])
@pytest.mark.parametrize("which", [1, 2])
def test_what_is_wanted_must_be_positive(bad: float, which: int) -> None:
    given_ = problem()
    given_[which].view(-1)[-1] = bad
    with pytest.raises(InputError, match=f"must be of positive numbers, got {bad:g}"):
        features(*given_, **HOW)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@every_backend
def test_the_default_dtype_is_not_the_results(backend: str, dtype: torch.dtype) -> None:
    given_ = problem()
    expected = features(*given_, **HOW, backend=backend)
    torch.set_default_dtype(dtype)
    try:
        found = features(*given_, **HOW, backend=backend)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
