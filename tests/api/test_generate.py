"""``generate`` on real small models: its settings, its warnings, and what it refuses."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import uapfast
from tests.api.mlp import train
from tests.api.verbs_world import SMALL, quiet
from uapfast.errors import DataError, FoolingRateError, InputError, ModelError, PoolError, PoolWarning
from uapfast.examination.calibration import reference_summary


@pytest.fixture(scope="session")
def world(verbs_world: dict) -> dict:
    return verbs_world


@pytest.fixture(scope="session")
def reference(verbs_reference: uapfast.Reference) -> uapfast.Reference:
    return verbs_reference


def test_generation_is_a_function_of_the_seed(world, reference):
    with pytest.warns(PoolWarning):
        again = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=SMALL)
        other = uapfast.generate(
            world["victim"], world["x"], pool=world["pool"], config=dataclasses.replace(SMALL, seed=1)
        )
    assert again.sha256 == reference.sha256 != other.sha256


def test_the_papers_encoder_runs_end_to_end(world):
    surrogates = [
        train(world["x"][:700], world["victim"](world["x"][:700]).detach().softmax(-1), 80 + s)
        for s in range(3)
    ]
    pool = uapfast.Pool.from_models(homologous=world["homologous"], piracy={"victim": surrogates})
    with quiet():
        ref = uapfast.generate(
            world["victim"], world["x"], pool=pool, config=dataclasses.replace(SMALL, encoder="paper")
        )
    assert ref.uaps.shape[0] == 1 and ref.plan.scale == (0.0, 1.0)
    trained = {r.name for r in ref.records if r.trains_encoder and r.relation == "homologous"}
    assert len(trained) == 7
    verdict = uapfast.verify(ref, world["tuned"])
    assert verdict.p_candidate is None and verdict.p_suspect is not None and verdict.p_view is not None
    assert verdict.similarity > uapfast.verify(ref, world["innocents"][0]).similarity - 0.2
    assert uapfast.encode(ref, world["tuned"]).shape == (10, 20)


class Noisy(nn.Module):
    """A network that adds noise to its logits, in whatever mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.inner(x)
        return values + 0.3 * torch.randn_like(values)


def test_models_that_answer_at_random_are_named(world: dict, reference: uapfast.Reference) -> None:
    twins = [Noisy(m) if i < 4 else m for i, m in enumerate(world["twins"])]
    pool = uapfast.Pool.from_models(twins=twins, homologous=world["homologous"])
    said = "other answers to the same images each time: victim, twin-00, twin-01, .... Switch off"
    with pytest.warns(PoolWarning, match=said):
        found = uapfast.generate(Noisy(world["victim"]), world["x"], pool=pool, config=SMALL)
    assert any(said in text for text in found.warnings)
    assert not any("other answers" in text for text in reference.warnings)


def test_repeated_images_are_told(world: dict, reference: uapfast.Reference) -> None:
    images = world["x"][:40].repeat(len(world["x"]) // 40, 1, 1, 1)
    with pytest.warns(PoolWarning, match=r"only \d+ of the \d+ query points are different images"):
        uapfast.generate(world["victim"], images, pool=world["pool"], config=SMALL)
    assert not any("different images" in text for text in reference.warnings)


def test_a_pool_without_twins_still_works_and_says_what_it_costs(world):
    pool = uapfast.Pool.from_models(homologous=world["homologous"])
    with pytest.warns(PoolWarning, match="suspect side decides alone"):
        ref = uapfast.generate(world["victim"], world["x"], pool=pool, config=SMALL)
    verdict = uapfast.verify(ref, world["victim"], alpha=0.01)
    assert verdict.decision == "inconclusive" and verdict.p_candidate is None and verdict.rank is None
    assert verdict.p_value == verdict.p_suspect < 0.01 and any("no twins" in r for r in verdict.reasons)
    assert any("the victim's own" in r for r in verdict.reasons)
    assert uapfast.verify(ref, world["innocents"][1]).decision != "piracy"


BAD = [
    ({"images": torch.zeros(0, 1, 8, 8)}, DataError, "not empty"),
    ({"images": torch.zeros(5)}, DataError, r"\[N,C,H,W\]"),
    ({"images": torch.rand(900, 1, 8, 8) * 255}, DataError, "0..1.*got .*25[45]"),
    ({"images": torch.full((900, 1, 8, 8), float("nan"))}, DataError, "finite"),
    ({"images": torch.rand(100, 1, 8, 8)}, DataError, "at least 400.*got 100"),
    ({"labels": torch.zeros(1797, dtype=torch.int64)}, DataError, "at least 2 classes"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, DataError, "1797"),
    ({"victim": lambda x: x}, ModelError, "nn.Module"),
    ({"victim": 3}, InputError, "int"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_named(world, change, error, message):
    given = {"victim": world["victim"], "images": world["x"], "labels": None} | change
    with pytest.raises(error, match=message), quiet():
        uapfast.generate(given["victim"], given["images"], given["labels"], pool=world["pool"], config=SMALL)


def test_small_and_duplicated_pools_are_refused(world):
    few = uapfast.Pool.from_models(twins=world["twins"], homologous=world["homologous"][:4])
    with pytest.raises(PoolError, match="at least 5 homologous.*got 4 homologous, 7 twins"):
        uapfast.generate(world["victim"], world["x"], pool=few, config=SMALL)
    double = uapfast.Pool.from_models(
        twins=[*world["twins"], world["victim"]], homologous=world["homologous"]
    )
    with pytest.raises(PoolError, match="with the weights of victim"):
        uapfast.generate(world["victim"], world["x"], pool=double, config=SMALL)
    with pytest.raises(PoolError, match="piracy"):
        uapfast.generate(
            world["victim"],
            world["x"],
            pool=world["pool"],
            config=dataclasses.replace(SMALL, encoder="paper"),
        )


def test_twins_of_another_recipe_are_noticed(world):
    x, y = world["x"][:700], world["y"][:700]
    hasty = [train(x, y, 90 + s, steps=25) for s in range(7)]
    pool = uapfast.Pool.from_models(twins=hasty, homologous=world["homologous"])
    with pytest.warns(PoolWarning, match="victim's own recipe"):
        uapfast.generate(world["victim"], world["x"], pool=pool, config=SMALL)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=SMALL)
    assert not any("own recipe" in str(w.message) for w in seen)


def test_weak_uaps_warn_or_raise(world):
    config = dataclasses.replace(SMALL, eps=1e-4, min_fooling=0.5)
    with pytest.warns(uapfast.errors.FoolingRateWarning), quiet():
        uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
    with pytest.raises(FoolingRateError), quiet():
        uapfast.generate(
            world["victim"], world["x"], pool=world["pool"], config=dataclasses.replace(config, strict=True)
        )


@pytest.mark.parametrize(
    "field",
    [
        {"eps": 0.0},
        {"eps": -1},
        {"eps": float("nan")},
        {"norm": "l7"},
        {"uap": "magic"},
        {"points": 1},
        {"views": 0},
        {"encoder": "none"},
        {"seed": -1},
        {"fooling": 1.5},
        {"uap_images": 1},
        {"ray": ()},
        {"ray": (0.0, 2.0)},
        {"points": 2.5},
        {"views": True},
    ],
)
def test_bad_settings_are_named(field):
    name, value = next(iter(field.items()))
    with pytest.raises(InputError, match=f"GenerateConfig: {name} must be"):
        uapfast.GenerateConfig(**field)


@pytest.mark.parametrize(
    ("given", "images", "points", "ray"),
    [
        ({}, 10_000, 200, (0.0,)),
        ({}, 5_000, 200, (0.0,)),
        ({}, 4_999, 100, (0.0, 0.2)),
        ({}, 1_000, 40, (0.0, 0.2)),
        ({"views": 10}, 10_000, 400, (0.0,)),
        ({"points": 30}, 10_000, 30, (0.0,)),
        ({"ray": (0.0, 0.2, 1.0)}, 10_000, 66, (0.0, 0.2, 1.0)),
        ({"encoder": "paper"}, 10_000, 100, (0.0, 1.0)),
        ({}, 3, 2, (0.0, 0.2)),
    ],
)
def test_queries_are_as_many_as_images_allow(given, images, points, ray):
    settled = uapfast.GenerateConfig(**given).settled(images)
    assert (settled.points, settled.ray) == (points, ray)
    assert settled.settled(images) == settled


def test_clean_answers_alone_need_no_uap(world, tmp_path):
    config = dataclasses.replace(SMALL, ray=(0.0,))
    with quiet():
        ref = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
        seen = dataclasses.replace(config, show_uap=True)
        shown = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=seen)
    assert ref.uaps.shape == (0, *ref.shape) and ref.settings["uap"] == []
    assert reference_summary(ref)["uap"].startswith("none: every query is a clean point")
    assert len(shown.uaps) == 1 and [row["model"] for row in shown.settings["uap"]] == ["victim"]
    assert torch.equal(shown.points, ref.points) and torch.equal(shown.answers, ref.answers)
    ref.save(tmp_path / "r.uapref")
    assert uapfast.load(tmp_path / "r.uapref") == ref
    assert ref.plan.points.dtype == torch.float32, "digits lie off the 1/255 grid"
    assert ref.plan.queries == 400 and ref.settings["config"]["points"] == 40
    assert uapfast.verify(ref, world["tuned"], alpha=0.05).decision == "piracy"
    assert all(uapfast.verify(ref, one).decision != "piracy" for one in world["innocents"])


@pytest.mark.parametrize("uap", ["deepfool", "contrastive"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_uap_algorithm_makes_a_reference(world, uap, norm):
    config = dataclasses.replace(SMALL, uap=uap, norm=norm, eps=0.2 if norm == "linf" else 1.0, uap_images=64)
    with quiet():
        ref = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
    assert [row["method"] for row in ref.settings["uap"]] == [uap] * 8
    size = ref.uaps.abs().amax((1, 2, 3)) if norm == "linf" else ref.uaps.flatten(1).norm(dim=1)
    assert (size <= config.eps + 1e-6).all() and (size > 0).all()
    assert uapfast.verify(ref, world["victim"]).similarity == pytest.approx(1, abs=1e-4)


def test_wire_safe_queries_survive_eight_bits(world):
    config = dataclasses.replace(SMALL, wire_safe=True, ray=(0.0, 0.2, 1.0))
    with quiet():
        ref = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
    for images in ref.plan.chunks():
        grid = images * 255
        assert (grid - grid.round()).abs().max() < 1e-3
    victim = world["victim"]
    uploaded = uapfast.verify(ref, lambda x: victim((x * 255).round().to(torch.uint8) / 255).detach())
    assert uploaded.z == pytest.approx(uapfast.verify(ref, victim).z, abs=1e-3)


def widen(module: nn.Module) -> nn.Module:
    """The same classifier with 30 classes more, all improbable."""
    wide = nn.Linear(10, 40)
    with torch.no_grad():
        wide.weight.zero_()
        wide.bias.fill_(-4.0)
        wide.weight[:10].copy_(torch.eye(10))
        wide.bias[:10].zero_()
    return nn.Sequential(module, wide)


def test_many_classes_are_reduced_to_those_the_pool_gives_weight(world):
    pool = uapfast.Pool.from_models(
        twins=[widen(m) for m in world["twins"]], homologous=[widen(m) for m in world["homologous"]]
    )
    with quiet():
        ref = uapfast.generate(widen(world["victim"]), world["x"], pool=pool, config=SMALL)
    assert ref.classes == 40 and ref.keep.shape[-1] == 32 and ref.answers.shape[-1] == 33
    torch.testing.assert_close(ref.answers.sum(-1), torch.ones(ref.answers.shape[:-1]), atol=1e-5, rtol=0)
    assert uapfast.verify(ref, widen(world["victim"]), alpha=0.01).decision == "piracy"
    assert uapfast.verify(ref, widen(world["innocents"][0])).decision != "piracy"
    assert uapfast.verify(ref, world["victim"]).decision == "invalid"


def test_progress_reaches_its_end(world):
    seen = []
    with pytest.warns(PoolWarning):
        uapfast.generate(
            world["victim"],
            world["x"],
            pool=world["pool"],
            config=SMALL,
            progress=lambda done, total, what: seen.append((done, total, what)),
        )
    assert np.all(np.diff([d for d, _, _ in seen]) > 0) and seen[0][0] > 0
    assert seen[-1][0] == seen[-1][1]
    assert np.all([t == seen[0][1] for _, t, _ in seen])
