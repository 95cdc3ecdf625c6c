"""Branch twins: reruns of the victim's training from a checkpoint, from the pool to the verdict (digits)."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import uapfast
from uapfast.data import Dataset
from uapfast.errors import InputError, ModelError, PoolError, PoolWarning
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.models.userfile import load_function
from uapfast.pool.attacks import quantise
from uapfast.pool.build import build_pool
from uapfast.pool.degraded import FORMS, with_degraded
from uapfast.pool.manifest import load_pool
from uapfast.pool.origin import fresh_model
from uapfast.pool.pool import Pool

CONFIG = uapfast.GenerateConfig(points=40, views=10, ray=(0.0,), uap_images=100, eps=0.2, min_fooling=0.0)
NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
"""
RECIPE = """
import torch
from torch.nn.functional import cross_entropy

STEPS, SAVED = 150, 75


def train(model, images, labels, seed, checkpoint=None, save=None):
    optimiser, first = torch.optim.Adam(model.parameters(), lr=0.01), 0
    if checkpoint is not None:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    generator = torch.Generator().manual_seed(seed)
    for step in range(first, STEPS):
        if step == SAVED and save is not None:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            torch.save(state, save)
        rows = torch.randint(len(images), (128,), generator=generator)
        loss = cross_entropy(model(images[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def from_scratch(model, images, labels, seed, checkpoint=None):
    return train(model, images, labels, seed)


def without(model, images, labels, seed):
    return train(model, images, labels, seed)


def same_again(model, images, labels, seed, checkpoint=None):
    return train(model, images, labels, 7, checkpoint)
"""
SMALL: dict[str, Any] = {
    "init": "random", "twins": 6, "surrogates": 1, "homologous": 12, "epochs": 4, "branch_at": 0.5,
    "other_archs": ("uapfast:mlp-small?size=8", "uapfast:cnn-small?size=8"),
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """The owner's files, data, and images that nobody was trained on."""

    folder: Path
    data: Dataset
    unseen: torch.Tensor

    @property
    def arch(self) -> str:
        return f"{self.folder}/net.py:make"

    def recipe(self, name: str = "train") -> str:
        return f"{self.folder}/train.py:{name}"

    def trained(self, seed: int, rows: slice = slice(None), **more: Any) -> nn.Module:
        train = load_function(self.folder / "train.py", "train", where="test", argument="recipe")
        with torch.enable_grad():
            model: nn.Module = train(
                fresh_model(self.arch, seed), self.data.x()[rows], self.data.labels[rows], seed, **more
            )
        return model

    def pool(self, out: Path, **settings: Any) -> Path:
        given = {"recipe": self.recipe(), "branch": self.folder / "half.pt", **SMALL, **settings}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "pool should hold", PoolWarning)
            return build_pool(self.arch, self.folder / "victim.safetensors", self.data, out, **given)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    folder, digits = tmp_path_factory.mktemp("owner"), load_digits()
    (folder / "net.py").write_text(NET)
    (folder / "train.py").write_text(RECIPE)
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    made = World(folder, Dataset(x[:700], torch.tensor(digits.target[:700]), "digits", 10), x[700:])
    save_weights(made.trained(3, save=folder / "half.pt"), folder / "victim.safetensors")
    return made


@pytest.fixture(scope="module")
def manifest(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.pool(tmp_path_factory.mktemp("pool"))


def made(world: World, pool: Pool | Path) -> uapfast.Reference:
    victim = load_model(world.arch, world.folder / "victim.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return uapfast.generate(victim, world.unseen, pool=pool, config=CONFIG)


@pytest.fixture(scope="module")
def reference(world: World, manifest: Path) -> uapfast.Reference:
    return made(world, manifest)


# -- the pool -----------------------------------------------------------------------------------------
def test_branches_go_on_from_the_checkpoint_each_by_its_own_seed(world: World, manifest: Path) -> None:
    assert manifest.name == "branches.csv"
    record = json.loads((manifest.parent / "branches.json").read_text())
    assert record["twins"]["kind"] == "branch" and record["twins"]["at"] == 0.5 and not record["warnings"]
    twins = [m for m in record["models"] if m["relation"] == "twin"]
    assert [m["name"] for m in twins] == [f"branch-{i:02d}" for i in range(6)]
    assert all(m["how"] == m["kind"] == "branch" and 0.5 < m["likeness"] < 1 for m in twins)
    pool = load_pool(manifest)
    alone = world.trained(twins[0]["seed"], checkpoint=world.folder / "half.pt")
    x = world.unseen[:50]
    got = pool.twins[0].model.answers(x).probabilities()
    assert torch.allclose(got, alone(x).softmax(-1), atol=1e-4), "what the recipe makes of the checkpoint"
    with open(manifest, newline="") as stream:
        parents = {row["name"]: row["parent"] for row in csv.DictReader(stream)}
    assert {parents[n] for n in ("victim", "branch-00", "branch-05")} == {"checkpoint"}
    assert parents["homologous-00"] == "" and pool.made == record["twins"]


def test_a_pool_of_full_twins_in_the_same_folder_is_another_manifest(world: World, manifest: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in (manifest.parent / "models").iterdir()}
    full = world.pool(manifest.parent, branch=None, branch_at=None, twins=2)
    after = {p.name: p.stat().st_mtime_ns for p in (manifest.parent / "models").iterdir()}
    assert before.items() <= after.items(), "the models that both hold are made once"
    assert {m.name for m in load_pool(full).twins} == {"twin-00", "twin-01"}
    assert load_pool(full).twins_told["kind"] == "full" and len(load_pool(manifest).twins) == 6


def test_another_checkpoint_does_not_mix(world: World, manifest: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    world.trained(3, save=other)
    other.write_bytes(other.read_bytes() + b"\0")
    with pytest.raises(PoolError, match="branch-00 was made with other checkpoint"):
        world.pool(manifest.parent, branch=other)


def test_a_recipe_that_starts_from_scratch_is_told(world: World, tmp_path: Path) -> None:
    few = {"twins": 2, "surrogates": 0, "homologous": 0}
    with pytest.warns(PoolWarning, match=r"show nothing of it: branch-00 -?0\.\d\d, .*start from scratch"):
        world.pool(tmp_path, recipe=world.recipe("from_scratch"), **few)
    assert "from scratch" in load_pool(tmp_path / "branches.csv").warnings[0]


def test_a_recipe_that_does_not_go_by_its_seed_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="branch-01 with the weights of branch-00"):
        world.pool(tmp_path, recipe=world.recipe("same_again"), homologous=0)
    assert not (tmp_path / "models" / "branch-02.json").exists(), "said at once"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"branch_at": None}, InputError, "branch_at must be the share .* got None"),
        ({"branch_at": 1.0}, InputError, "branch_at must be the share .* below 1, got 1.0"),
        ({"branch": None}, InputError, "branch_at must be left out without branch, got 0.5"),
        ({"recipe": None}, InputError, "recipe must be given with branch"),
        ({"branch": "none.pt"}, PoolError, "branch must be a readable file, got none.pt"),
    ],
)
def test_what_does_not_fit(
    world: World, tmp_path: Path, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        world.pool(tmp_path / "pool", **change)
    assert not (tmp_path / "pool").exists()


def test_a_recipe_that_does_not_resume_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"recipe must be one that resumes, .*without the argument checkpoint"
    ):
        world.pool(tmp_path / "pool", recipe=world.recipe("without"))


# -- the reference -------------------------------------------------------------------------------------
def test_degraded_innocents_take_their_parents_places(reference: uapfast.Reference) -> None:
    degraded = [r for r in reference.records if r.kind.startswith("degraded")]
    assert {r.kind for r in degraded} == {f"degraded-{form}" for form in FORMS}
    parents = {r.parent for r in degraded}
    counted = {reference.records[i].name for i in reference.innocents}
    assert {r.name for r in degraded} <= counted and not parents & counted
    assert len(counted) == 12, "each still counts once"


def test_degraded_innocents_are_of_their_parents(manifest: Path) -> None:
    pool = load_pool(manifest)
    more = with_degraded(pool, 0)
    new = {m.name: m for m in more.models[len(pool.models) :]}
    assert len(new) == 3 and with_degraded(more, 0) is more
    rounded = next(m for m in new.values() if m.kind == "degraded-4-bit")
    parent = next(m for m in pool.models if m.name == rounded.parent)
    assert parent.model.module is not None
    x = torch.rand(20, 1, 8, 8)
    got = rounded.model.answers(x).probabilities()
    assert torch.allclose(got, quantise(parent.model.module, 4)(x).softmax(-1), atol=1e-5)
    full = replace(pool, models=tuple(m for m in pool.models if m.relation != "twin" and not m.candidate))
    assert with_degraded(replace(full, made=None), 0).models == full.models


def test_verdicts_say_which_question_was_asked(world: World, reference: uapfast.Reference) -> None:
    assert reference.limits == ()
    verdict = uapfast.verify(reference, quantise(world.trained(3), 6), alpha=0.01)
    assert verdict.decision == "piracy" and verdict.settings["twins_made"] == "branch"
    told = json.loads(json.dumps(reference.settings["twins"]))
    said = [r for r in verdict.reasons if r.startswith("asked: does it come from the last 50%")]
    assert len(said) == 1 and told["checkpoint_sha256"] in said[0]
    continued = world.trained(99, checkpoint=world.folder / "half.pt")
    found = uapfast.verify(reference, continued, alpha=0.01)
    assert found.decision != "piracy", "it is a branch like the others"


def test_full_twins_ask_for_the_whole_training(world: World, manifest: Path) -> None:
    whole = made(world, world.pool(manifest.parent, branch=None, branch_at=None, twins=6))
    verdict = uapfast.verify(whole, quantise(world.trained(3), 6), alpha=0.01)
    assert any(r.startswith("asked: does it come from this training?") for r in verdict.reasons)
    assert verdict.settings["twins_made"] == "full" and verdict.decision == "piracy"
    continued = world.trained(99, checkpoint=world.folder / "half.pt")
    found = uapfast.verify(whole, continued)
    assert found.rank == 1 and found.z is not None and found.z > 4, "it shares half of this training"


def test_without_modules_to_degrade_branches_do_not_convict(world: World, manifest: Path) -> None:
    pool = load_pool(manifest)
    honest = tuple(
        replace(m, model=uapfast.Model(m.model.module.forward)) if m.relation == "homologous" else m  # type: ignore[union-attr]
        for m in pool.models
    )
    reference = made(world, replace(pool, models=honest))
    assert any("degraded honest models look like copies" in text for text in reference.limits)
    verdict = uapfast.verify(reference, quantise(world.trained(3), 6), alpha=0.01)
    assert verdict.decision == "inconclusive" and "may not convict" in verdict.reasons[0]
