"""A trained lineage encoder: a small network that weighs query points, learnt from the pool's lineages.

It sees five figures of each point (how much innocents, candidates, and all of them together disagree, in
probabilities and in labels, and how sure they are on average), all symmetric in the candidates, and gives a
weight. It is trained by a contrastive loss over lineages: a surrogate, its kind left out of the templates,
must be nearest to the candidate that it derives from. Weighted features then go through the linear lineage
score. The table shows whether it gains anything over weights of one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from uapfast.method.lineage import SURROGATE_WEIGHT, LineageScorer, Roster
from uapfast.method.whitening import SHRINK
from uapfast.reference import Reference

STEPS, RATE, DECAY, TEMPERATURE, HIDDEN = 150, 0.03, 1e-3, 0.03, 8
Floats = NDArray[np.float32]


def statistics(pool: Floats, roster: Roster) -> Tensor:
    """Five standardised figures of each point: ``[Q,5]`` from root probabilities ``[M,Q,K]``."""
    both = np.r_[roster.candidates, roster.innocents]
    spread = [pool[rows].var(0).sum(-1) for rows in (both, roster.innocents, roster.candidates)]
    labels = np.eye(pool.shape[-1])[pool[both].argmax(-1)].var(0).sum(-1)
    found = np.stack([*(np.log(s + 1e-4) for s in spread), labels, pool[both].mean(0).max(-1)], axis=1)
    scaled = (found - found.mean(0)) / np.maximum(found.std(0), 1e-9)
    return torch.tensor(scaled, dtype=torch.float32)


def _scores(gram: Tensor, roster: Roster) -> Tensor:
    """Cosines ``[kinds,C,C]`` of every surrogate with every candidate, its kind left out of the templates."""
    fit, candidates = (torch.from_numpy(i) for i in (roster.innocents, roster.candidates))
    kinds = torch.from_numpy(roster.surrogates)
    mean = gram[:, fit].mean(1)
    gram = gram - mean[:, None] - mean[None, :] + mean[fit].mean()
    inner = gram[fit][:, fit]
    ridge = SHRINK * torch.trace(inner) * torch.eye(len(fit), dtype=gram.dtype)
    metric = gram - gram[:, fit] @ torch.linalg.solve(inner + ridge, gram[fit])

    def unit(rows: Tensor) -> Tensor:
        length: Tensor = ((rows @ metric) * rows).sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
        return rows / length

    every = torch.eye(len(gram), dtype=gram.dtype)
    origin = every[candidates].mean(0)
    own = unit(every[candidates] - origin)
    particular = [unit(every[k] - every[k].mean(0)) for k in kinds]
    out = []
    for i, rows in enumerate(kinds):
        others = [p for j, p in enumerate(particular) if j != i]
        added = SURROGATE_WEIGHT / len(others) * torch.stack(others).sum(0) if others else 0.0
        out.append(unit(every[rows] - origin) @ metric @ unit(own + added).T)
    return torch.stack(out)


def train_weights(pool: Floats, roster: Roster, seed: int = 0) -> Floats:
    """Weights of points ``[Q]``, mean 1, from root probabilities ``[M,Q,K]`` of a pool with surrogates."""
    given = statistics(pool, roster)
    rows = torch.from_numpy(np.ascontiguousarray(pool.transpose(1, 0, 2)))
    grams = (rows @ rows.mT).flatten(1)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(given.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
        optimiser = torch.optim.Adam(network.parameters(), lr=RATE, weight_decay=DECAY)
        for _ in range(STEPS):
            weight = network(given)[:, 0].clamp(-4, 4).exp()
            weight = weight / weight.mean()
            scores = _scores((weight @ grams).view(len(pool), len(pool)).double(), roster)
            truth = torch.arange(scores.shape[1]).repeat(len(scores))
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(F.cross_entropy(scores.flatten(0, 1) / TEMPERATURE, truth))
            optimiser.step()
    found: Floats = weight.detach().numpy()
    return found


class TrainedScorer:
    """The linear lineage score on weighted points of one reference."""

    def __init__(self, reference: Reference) -> None:
        pool = reference.statistic.pool_features()
        shape = (len(pool), -1, reference.answers.shape[-1])
        roster = reference.roster()
        weight = np.sqrt(train_weights(pool.reshape(shape), roster)).repeat(shape[-1])
        self._weight = weight.reshape(pool.shape[1:])
        self.scorer = LineageScorer(self.weigh(pool), roster)

    def weigh(self, features: Floats) -> Floats:
        """Features ``[...,V,B,F]``, each point by the root of its weight."""
        out: Floats = features * self._weight
        return out
