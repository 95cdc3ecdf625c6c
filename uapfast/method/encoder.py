"""The paper's encoder: fingerprint to unit vector, by supervised contrastive learning.

As the first author's code has it (docs/method.md): in-50-20 with ReLU, cosine over tau 0.2, Adam
5e-4, batch 512, 10 epochs. Three of its slips are not copied: the victim belongs to the piracy
class, models (never views) are split, and victim and suspect are compared view by view after
encoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from uapfast.arrays import Float32Array, Float64Array
from uapfast.method.decision import Assessment
from uapfast.method.standing import assessment

TAU = 0.2
LEARNING_RATE = 5e-4
BATCH = 512
EPOCHS = 10
HIDDEN, WIDTH = 50, 20


def make_network(inputs: int) -> nn.Sequential:
    """Linear(in,50)-ReLU-Linear(50,20)-ReLU, float32."""
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH), nn.ReLU())


def contrastive_loss(embeddings: Tensor, labels: Tensor, tau: float = TAU) -> Tensor:
    """``-log(sum_same exp(cos/tau) / sum_all exp(cos/tau))``, mean over rows, self-pairs included.

    Args:
        embeddings: ``[R,d]``.
        labels: ``[R]`` class of each row.
        tau: temperature.
    """
    unit = nn.functional.normalize(embeddings, dim=-1)
    similarity = unit @ unit.T / tau
    same = labels[:, None] == labels[None]
    return (similarity.logsumexp(-1) - similarity.masked_fill(~same, -torch.inf).logsumexp(-1)).mean()


def train_encoder(fingerprints: Tensor, labels: Tensor, seed: int, epochs: int = EPOCHS) -> nn.Sequential:
    """Train the encoder.

    Args:
        fingerprints: float32 ``[M,V,F]``, models of the training split only.
        labels: ``[M]``, 1 for the victim and its piracy models, 0 for homologous models.
        seed: of initialisation and order.
        epochs: passes over all views.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(fingerprints.shape[-1])
    rows, targets = fingerprints.flatten(0, 1), labels.repeat_interleave(fingerprints.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(rows), generator=generator), BATCH):
            loss = contrastive_loss(network(rows[batch]), targets[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class PaperScorer:
    """Scores suspects with the paper's encoder.

    Attributes:
        network: from :func:`train_encoder`.
        victim: ``[V,F]`` fingerprints of the victim.
        innocents: ``[n,V,F]`` fingerprints of homologous models that the training never saw.
    """

    network: nn.Sequential
    victim: Float32Array
    innocents: Float32Array

    def embed(self, fingerprints: Tensor | Float32Array) -> Float32Array:
        """Unit embeddings ``[...,V,20]`` of fingerprints ``[...,V,F]``."""
        with torch.no_grad():
            out = self.network(torch.as_tensor(fingerprints))
            unit: Float32Array = nn.functional.normalize(out, dim=-1).numpy()
        return unit

    has_twins = False

    def scores(
        self, suspect: Tensor | Float32Array, views: int | None = None
    ) -> tuple[Float64Array, Float64Array]:
        """Cosines with the victim, view by view: of a suspect ``[V,1]``, and of the innocents ``[n,V,1]``.

        A suspect ``[V,F]`` that was asked fewer views than the pool is compared on those. Of several
        ``[A,V,F]`` they are ``[A,V,1]`` and ``[A,n,V,1]``.
        """
        part = slice(0, suspect.shape[-2] if views is None else views)
        victim = self.embed(self.victim[part])
        own = (victim * self.embed(suspect[..., part, :])).sum(-1).astype(np.float64)
        rest = (victim[None] * self.embed(self.innocents[:, part])).sum(-1).astype(np.float64)
        return own[..., None], np.broadcast_to(rest[..., None], (*own.shape[:-1], *rest.shape, 1))

    def assess(self, suspect: Tensor | Float32Array, views: int | None = None) -> Assessment:
        """What :meth:`scores` say of one suspect; the suspect side decides alone (module docstring)."""
        return assessment(*self.scores(suspect, views), twins=False)
