from __future__ import annotations

import numpy as np
import pytest
import torch

from uapfast.method.encoder import TAU, PaperScorer, contrastive_loss, make_network, train_encoder


def test_loss_is_the_authors_formula():
    torch.manual_seed(0)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 1, 0])
    unit = x / x.norm(dim=1, keepdim=True)
    e = torch.exp(unit @ unit.T / TAU)
    expected = sum(-torch.log(e[i, y == y[i]].sum() / e[i].sum()) for i in range(6)) / 6
    assert contrastive_loss(x, y).item() == pytest.approx(expected.item(), rel=1e-12)


def test_network_is_in_50_20_with_relu():
    shapes = [tuple(p.shape) for p in make_network(30).parameters()]
    assert shapes == [(50, 30), (50,), (20, 50), (20,)]
    assert (make_network(30)(torch.randn(8, 30)) >= 0).all()


def fingerprints(seed: int, models: int, offset: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(0).normal(size=(12, 40))
    return (base + offset + 0.3 * rng.normal(size=(models, 12, 40))).astype(np.float32)


def test_training_pulls_piracy_to_the_victim_on_models_it_never_saw():
    piracy, innocent = fingerprints(1, 5, 0.0), fingerprints(2, 5, 0.8)
    rows = torch.from_numpy(np.concatenate([piracy, innocent]))
    network = train_encoder(rows, torch.tensor([1] * 5 + [0] * 5), seed=0, epochs=60)
    scorer = PaperScorer(network, piracy[0], fingerprints(3, 6, 0.8))
    new_piracy, new_innocent = fingerprints(4, 1, 0.0)[0], fingerprints(5, 1, 0.8)[0]
    thief, honest = scorer.assess(new_piracy), scorer.assess(new_innocent)
    assert thief.similarity > 0.9 > honest.similarity
    assert thief.candidates is None and thief.innocents.shape == (6,)
    np.testing.assert_allclose(np.linalg.norm(scorer.embed(new_piracy), axis=-1), 1, atol=1e-5)
    assert scorer.assess(new_piracy, views=5).views.shape == (5,)


def test_training_depends_on_the_seed_alone():
    rows, labels = torch.from_numpy(fingerprints(1, 4, 0.0)), torch.tensor([1, 1, 0, 0])
    torch.manual_seed(5)
    first = train_encoder(rows, labels, seed=7, epochs=2)
    state = torch.random.get_rng_state()
    second = train_encoder(rows, labels, seed=7, epochs=2)
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(
        next(train_encoder(rows, labels, seed=8, epochs=2).parameters()), next(first.parameters())
    )
