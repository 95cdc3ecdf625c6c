"""Answers brought to one confidence and one class balance before they become features."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from uapfast.method import scaling as scaling_module
from uapfast.method.fingerprint import probabilities_of
from uapfast.method.scaling import CLIP, EDGES, ROOT, Scaling, even_spread, without_floor
from uapfast.method.sequential import LOOKS
from uapfast.models.answers import Answers


def softmax(logits: np.ndarray) -> np.ndarray:
    out = np.exp(logits - logits.max(-1, keepdims=True))
    return out / out.sum(-1, keepdims=True)


def pool(seed: int = 0, models: int = 5, views: int = 3, blocks: int = 2, n: int = 40, k: int = 6):
    """Models that share an answer and differ by noise: logits ``[M,V,B,n,K]``."""
    rng = np.random.default_rng(seed)
    shared = 3.0 * rng.standard_normal((views, blocks, n, k))
    return shared + rng.standard_normal((models, *shared.shape))


def test_all_models_come_to_one_confidence_and_one_class_balance():
    p = softmax(pool(views=1, n=400)).astype(np.float32)
    scaling = Scaling.of(p)
    q = scaling.roots(p[1]).double() ** ROOT
    assert (q.amax(-1).mean(-1) - scaling.target).abs().max() < 2e-3
    assert (q.mean(-2) - scaling.prior).abs().max() < 5e-3


def test_another_temperature_and_other_preferences_give_the_same_features():
    logits = pool()
    scaling = Scaling.of(softmax(logits).astype(np.float32))
    bent = 2.5 * logits[1] + np.linspace(-1, 1, 6)
    plain, other = (scaling.features(softmax(x).astype(np.float32)) for x in (logits[1], bent))
    unscaled = np.abs(np.sqrt(softmax(logits[1])) - np.sqrt(softmax(bent))).mean()
    assert (plain - other).abs().mean() < 0.05 * unscaled


def test_what_is_asked_between_two_looks_does_not_depend_on_what_follows():
    p = softmax(pool(views=12)).astype(np.float32)
    scaling = Scaling.of(p)
    bounds = [0, *LOOKS, 12]
    parts = [scaling.features(p[2, a:b], first=a) for a, b in pairwise(bounds)]
    assert np.array_equal(scaling.features(p[2]), np.concatenate(parts))


def test_every_look_is_an_edge():
    assert set(LOOKS) <= set(EDGES)


def test_candidates_are_treated_alike():
    p = softmax(pool()).astype(np.float32)
    one, other = Scaling.of(p), Scaling.of(p[[3, 0, 4, 1, 2]])
    assert (one.features(p[0]) - other.features(p[0])).abs().max() < 1e-6


def test_a_plainly_wrong_point_counts_no_more_than_a_bound():
    p = softmax(pool()).astype(np.float32)
    found = Scaling.of(p).features(p[0, ..., ::-1].copy())
    lengths = np.linalg.norm(found.reshape(3, 2, 40, 6), axis=-1)
    assert lengths.max() < 1
    assert lengths.max() > 1 / np.sqrt(1 + CLIP**2) - 0.2  # as long as such a residual gets


@pytest.mark.parametrize("kind", ["flat", "one-hot", "one class", "two digits"])
def test_answers_without_spread_or_with_zeros_stay_finite(kind):
    p = softmax(pool()).astype(np.float32)
    scaling = Scaling.of(p)
    bad = {
        "flat": np.full_like(p[0], 1 / 6),
        "one-hot": np.eye(6, dtype=np.float32)[p[0].argmax(-1)],
        "one class": np.broadcast_to(np.eye(6, dtype=np.float32)[2], p[0].shape).copy(),
        "two digits": p[0].round(2),
    }[kind]
    assert scaling.features(bad).isfinite().all()


def test_small_probabilities_that_digits_cut_off_count_little(monkeypatch):
    logits = 2.0 * pool()
    moved = []
    for floor in (scaling_module.FLOOR, 0.0):
        monkeypatch.setattr(scaling_module, "FLOOR", floor)
        scaling = Scaling.of(softmax(logits).astype(np.float32))
        p = softmax(logits[1]).astype(np.float32)
        moved.append(float((scaling.features(p.round(2)) - scaling.features(p)).abs().mean()))
    assert moved[0] < 0.8 * moved[1]


def test_a_small_change_of_answers_changes_features_little():
    p = softmax(pool())
    scaling = Scaling.of(p.astype(np.float32))
    moved = softmax(np.log(p[1]) + 1e-4 * np.random.default_rng(1).standard_normal(p[1].shape))
    before, after = (scaling.features(x.astype(np.float32)) for x in (p[1], moved))
    assert (before - after).abs().max() < 2e-3


def logits(spread: float = 6.0) -> torch.Tensor:
    return spread * torch.randn(500, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.01, 100.0, 1e5])
def test_logits_of_any_scale_keep_what_they_say(scale):
    usual = logits()
    assert even_spread(usual) is usual and even_spread(torch.zeros(5, 3)).sum() == 0
    a, b = even_spread(usual * scale).softmax(-1), even_spread(usual * 1e-2).softmax(-1)
    assert torch.allclose(a, b, atol=1e-5) and (a > 0).all()
    assert torch.equal(a.argmax(-1), usual.argmax(-1))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_even_answers_that_were_mixed_in_are_taken_out(share):
    p = logits().softmax(-1)
    found = without_floor((1 - share) * p + share / 10)
    assert torch.allclose(found, p, atol=2e-3 * share / (1 - share) + 1e-5)


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0, 6.0, 50.0])
def test_a_networks_own_answers_have_no_common_floor(spread):
    p = logits(spread).softmax(-1)
    assert without_floor(p) is p


def test_flat_probabilities_are_read_as_the_logits_that_they_are():
    flat = probabilities_of(Answers("probabilities", (logits() / 40).softmax(-1), 10))
    assert torch.allclose(flat, even_spread(logits() / 40).softmax(-1), atol=1e-4)
    usual = logits().softmax(-1)
    assert probabilities_of(Answers("probabilities", usual, 10)) is usual
    silent = torch.zeros(20, 10)  # queries without an answer
    assert torch.equal(probabilities_of(Answers("probabilities", silent, 10)), silent)
