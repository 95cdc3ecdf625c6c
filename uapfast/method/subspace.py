"""How consistent the UAP subspaces of models are (the key insight of Peng et al., CVPR 2022, measured).

The paper's claim: UAPs of a model span a low-dimensional subspace, and a piracy model's lies closer to the
victim's than an independently trained model's does. Here many UAPs are made for every model, from different
images and seeds, and compared by singular value decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import subspace_angles
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from uapfast.arrays import Float64Array
from uapfast.config import Norm, UapMethod, check
from uapfast.method.uap import universal_perturbation


@dataclass(frozen=True)
class SubspaceReport:
    """What was measured.

    Attributes:
        rank: dimensions of the victim's subspace, r.
        per_model: UAPs of each model.
        relations: name to ``victim``, ``twin``, ``piracy`` or ``homologous``.
        captured: name to the share (0..1) of the energy of the model's UAPs that lies in the span of the
            victim's first r singular vectors. For the victim: of its second half of UAPs in the span of the
            first, so that it is no comparison with itself.
        angles: name to the r principal angles between the two subspaces, degrees, rising.
        spectra: name to the model's singular values, as shares of their sum of squares.
        chance: share that a random direction would have captured, r / dimensions.
        auc: share of (piracy, twin or homologous) pairs of models in which the piracy model's ``captured`` is
            larger; None without both.
        fooling_rate: name to the mean held-out fooling rate of the model's own UAPs.
    """

    rank: int
    per_model: int
    relations: dict[str, str]
    captured: dict[str, float]
    angles: dict[str, list[float]]
    spectra: dict[str, list[float]]
    chance: float
    auc: float | None
    fooling_rate: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)


def singular_basis(rows: Float64Array, rank: int) -> tuple[Float64Array, Float64Array]:
    """First ``rank`` right singular vectors ``[r,D]`` of rows ``[P,D]`` at unit length, and energy shares."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    _, values, vectors = np.linalg.svd(unit, full_matrices=False)
    energy: Float64Array = values**2 / np.sum(values**2)
    return vectors[:rank], energy


def captured_share(rows: Float64Array, basis: Float64Array) -> float:
    """Share (0..1) of the energy of unit-length rows ``[P,D]`` inside the span of ``basis`` ``[r,D]``."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return float(np.square(unit @ basis.T).sum() / len(unit))


def uap_subspaces(
    models: Mapping[str, tuple[str, nn.Module]],
    images: Tensor,
    *,
    per_model: int = 10,
    rank: int = 4,
    eps: float = 0.1,
    norm: Norm = "linf",
    method: UapMethod = "margin",
    max_passes: int = 5,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> SubspaceReport:
    """Make ``per_model`` UAPs of every model and compare their subspaces with the victim's.

    Args:
        models: name to (relation, white-box module); the first is the victim.
        images: float32 ``[N >= 32,C,H,W]`` in 0..1; every UAP sees a random half of them, drawn alike
            for all models.
        per_model: UAPs of each model; at least twice ``rank``.
        rank: dimensions of the victim's subspace.
        eps: radius of the ball, input units.
        norm: ``linf`` or ``l2``.
        method: algorithm of the UAPs.
        max_passes: passes over the images for each UAP.
        seed: of halves and UAPs.
        progress: called as ``progress(done, total, what)`` after each model.

    Raises:
        InputError: fewer UAPs than twice the rank, or too few images.
    """
    check(rank >= 1, "subspace", "rank", "a whole number >= 1", rank)
    check(per_model >= 2 * rank, "subspace", "per_model", f"at least twice the rank, {2 * rank}", per_model)
    check(len(images) >= 32, "subspace", "images", "at least 32", len(images))
    rows: dict[str, Float64Array] = {}
    fooling: dict[str, float] = {}
    for number, (name, (_, module)) in enumerate(models.items(), 1):
        made = []
        for i in range(per_model):
            generator = torch.Generator().manual_seed(seed + i)
            half = torch.randperm(len(images), generator=generator)[: len(images) // 2]
            made.append(
                universal_perturbation(
                    module,
                    images[half],
                    eps=eps,
                    norm=norm,
                    method=method,
                    max_passes=max_passes,
                    seed=seed + i,
                )
            )
        rows[name] = torch.stack([u.v.flatten() for u in made]).double().cpu().numpy()
        fooling[name] = float(np.mean([u.fooling_rate for u in made]))
        if progress is not None:
            progress(number, len(models), name)
    return _compare(rows, {n: r for n, (r, _) in models.items()}, fooling, rank)


def _compare(
    rows: dict[str, Float64Array], relations: dict[str, str], fooling: dict[str, float], rank: int
) -> SubspaceReport:
    victim = next(iter(rows))
    per_model = len(rows[victim])
    first, _ = singular_basis(rows[victim][: per_model // 2], rank)
    captured, angles, spectra = {}, {}, {}
    for name, own in rows.items():
        other = own[per_model // 2 :]  # the same number of UAPs for everybody
        captured[name] = captured_share(other, first)
        basis, _ = singular_basis(other, rank)
        angles[name] = sorted(np.degrees(subspace_angles(first.T, basis.T)).round(2).tolist())
        spectra[name] = singular_basis(own, rank)[1].round(5).tolist()
    piracy = [captured[n] for n, r in relations.items() if r == "piracy"]
    honest = [captured[n] for n, r in relations.items() if r in ("twin", "homologous")]
    auc = None
    if piracy and honest:
        auc = float(roc_auc_score([1] * len(piracy) + [0] * len(honest), piracy + honest))
    chance = rank / rows[victim].shape[1]
    return SubspaceReport(rank, per_model, relations, captured, angles, spectra, chance, auc, fooling)
