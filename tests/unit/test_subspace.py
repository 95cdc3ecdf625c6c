from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from uapfast.errors import DataError, InputError, ModelError
from uapfast.method.subspace import captured_share, singular_basis, uap_subspaces
from uapfast.models.model import Model
from uapfast.pool.pool import Pool
from uapfast.report.subspace_plot import subspace_png
from uapfast.verbs.subspace import subspace


def test_captured_share_is_the_energy_inside_the_span():
    basis = np.eye(6)[:2]
    rows = np.array([[2.0, 0, 0, 0, 0, 0], [0, 0, 3.0, 0, 0, 0], [1.0, 0, 1.0, 0, 0, 0]])
    assert captured_share(rows, basis) == pytest.approx((1 + 0 + 0.5) / 3)


def test_singular_basis_finds_a_planted_plane_whatever_the_lengths():
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(30, 2)))[0].T
    rows = rng.normal(size=(20, 2)) @ plane * rng.uniform(0.1, 100, size=(20, 1))
    basis, energy = singular_basis(rows, 2)
    assert energy[:2].sum() == pytest.approx(1)
    assert captured_share(plane, basis) == pytest.approx(1)


class Planted(nn.Module):
    """A linear classifier whose sensitive directions are known: UAPs follow its weights."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


@pytest.fixture(scope="module")
def planted() -> tuple[nn.Module, Pool, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(4, 64, generator=generator)  # noqa: E731
    base = draw()
    pool = Pool.from_models(
        homologous=[Planted(draw()) for _ in range(4)],
        piracy={"victim": [Planted(base + 0.2 * draw()) for _ in range(3)]},
    )
    return Planted(base), pool, torch.rand(200, 1, 8, 8, generator=generator)


def test_copies_share_the_subspace_and_strangers_do_not(planted):
    victim, pool, images = planted
    seen = []
    report = subspace(
        victim, images, pool=pool, per_model=8, rank=2, eps=0.3, norm="l2", progress=lambda *a: seen.append(a)
    )
    kinds = {n: report.captured[n] for n in report.relations}
    piracy = [v for n, v in kinds.items() if report.relations[n] == "piracy"]
    strangers = [v for n, v in kinds.items() if report.relations[n] == "homologous"]
    assert min(piracy) > max(strangers) and report.auc == 1.0
    assert report.captured["victim"] > max(strangers)
    assert report.chance == pytest.approx(2 / 64)
    assert len(report.angles["victim"]) == 2 and len(report.spectra["victim"]) == 8
    assert [a[:2] for a in seen] == [(i, 8) for i in range(1, 9)]
    assert subspace_png(report).startswith(b"\x89PNG")
    again = subspace(victim, images, pool=pool, per_model=8, rank=2, eps=0.3, norm="l2")
    assert again.to_dict() == report.to_dict()


def test_bad_input_is_named(planted):
    victim, pool, images = planted
    with pytest.raises(InputError, match="at least twice the rank, 8.*got 4"):
        subspace(victim, images, pool=pool, per_model=4, rank=4)
    with pytest.raises(InputError, match="at least 32.*got 20"):
        uap_subspaces({"victim": ("victim", victim)}, images[:20])
    with pytest.raises(DataError, match="0..1"):
        subspace(victim, images * 255, pool=pool)
    with pytest.raises(ModelError, match="white-box"):
        subspace(Model(lambda x: x.flatten(1)), images, pool=pool)
