"""Suspects that are asked wrongly, or answer oddly: never a silent verdict."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import uapfast
from tests.api.mlp import train
from uapfast.errors import InputError, ModelError, PoolWarning, UnavailableError
from uapfast.examination import Design, Examination
from uapfast.examination.asking import as_suspect, examine
from uapfast.examination.calibration import reference_summary
from uapfast.method.fingerprint import answers_of
from uapfast.method.sequential import Looks
from uapfast.models.model import Model

CONFIG = uapfast.GenerateConfig(points=60, views=10, ray=(0.0,), uap_images=200, min_fooling=0.0)
ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


@pytest.fixture(scope="module")
def world() -> dict:
    torch.set_num_threads(1)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    own, thief = slice(0, 900), slice(900, 1797)
    victim = train(x[own], y[own], 0)
    homologous = [
        train(x[(own, thief)[s % 2]], y[(own, thief)[s % 2]], 20 + s, 24 + 8 * (s % 4)) for s in range(16)
    ]
    tuned = copy.deepcopy(victim)
    with torch.no_grad():
        tuned[3].weight += 0.02 * torch.randn(10, 48)
    return {
        "x": x[thief], "victim": victim, "tuned": tuned, "homologous": homologous,
        "twins": [train(x[own], y[own], s) for s in range(1, 13)],
        "honest": [train(x[thief], y[thief], 60 + s, 40) for s in range(3)],
    }  # fmt: skip


def make(world: dict, twins: int, victim: object = None, **pool: object) -> uapfast.Reference:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = uapfast.Pool.from_models(twins=world["twins"][:twins], homologous=world["homologous"])
        return uapfast.generate(victim or world["victim"], world["x"], pool=found, config=CONFIG)


@pytest.fixture(scope="module")
def reference(world) -> uapfast.Reference:
    return make(world, 12)


@pytest.fixture(scope="module")
def without_twins(world) -> uapfast.Reference:
    return make(world, 0)


def test_asked_rightly(world, reference):
    assert uapfast.verify(reference, world["victim"]).decision == "piracy"
    assert uapfast.verify(reference, world["tuned"]).decision == "piracy"
    for honest in world["honest"]:
        verdict = uapfast.verify(reference, honest)
        assert verdict.decision in ("independent", "inconclusive") and verdict.agreement > 0.85
        assert reference.consensus.least <= verdict.agreement


@pytest.mark.parametrize(("views", "decision"), [(4, "inconclusive"), (10, "piracy")])
def test_rows_without_an_answer_are_no_views(world, reference, views, decision):
    """Fewer than five views convict nobody, be it that the others hold no answers."""
    plan = reference.plan
    with torch.no_grad():
        answers = torch.cat([world["victim"](x).softmax(-1) for x in plan.chunks()])
    answers[views * plan.blocks * plan.per_view :] = 0.0
    found = Examination(Design(reference, Looks.single(plan.views)), alpha=0.01)
    found.take(answers)
    verdict = found.verdict()
    assert verdict.p_value <= 0.01 and verdict.decision == decision
    assert any("4 views convict nobody" in reason for reason in verdict.reasons) == (views == 4)


@pytest.mark.parametrize("looks", [Looks.single, Looks.default])
@pytest.mark.parametrize("views", [1, 2, 4, 5, 10])
def test_fewer_than_five_views_convict_nobody(world, reference, views, looks):
    """A copy before a budget of so many views, at a level that its p-value reaches."""
    design = Design(reference, looks(views))
    found = examine(design, as_suspect(reference, world["tuned"]), alpha=0.01).verdict()
    assert found.p_value <= 0.01 and found.views_used == views  # and all views that there are
    if views < 5:
        assert found.decision == "inconclusive"
        assert "nobody, however small p is: it takes 5" in found.reasons[0]
    else:
        assert found.decision == "piracy"


def test_no_conviction_rests_on_fewer_than_all_views(world, reference):
    """Whoever is asked look by look: what is convicted saw everything, whoever left is not convicted."""
    left = []
    for suspect in (world["victim"], world["tuned"], *world["honest"], *world["twins"][:6]):
        examination = examine(
            Design(reference, Looks.default(10)), as_suspect(reference, suspect), alpha=0.01
        )
        found = examination.verdict()
        assert found.decision != "piracy" or found.views_used == 10
        left.append(found.views_used)
    assert left[:2] == [10, 10] and min(left) < 10


def test_an_examination_that_loses_its_suspect_convicts_nobody(world, reference):
    """A budget that ends between two looks, though every look so far would convict."""
    examination = Examination(Design(reference, Looks.default(10)), alpha=0.01)
    model = as_suspect(reference, world["victim"])
    while examination.views < 5:
        count = examination.due()[1]
        examination.take(answers_of(model, examination.images(), count, 10))
    assert examination.open
    examination.lose(UnavailableError("the budget of 300 queries is spent"))
    found = examination.verdict()
    assert found.decision == "unavailable" and found.p_value is None and found.views_used == 5


def test_a_reference_of_few_views_is_made_and_says_that_it_will_not_convict(world):
    few = dataclasses.replace(CONFIG, points=150, views=4)
    with pytest.warns(PoolWarning, match="will not convict: 4 views convict nobody"):
        pool = uapfast.Pool.from_models(twins=world["twins"], homologous=world["homologous"])
        made = uapfast.generate(world["victim"], world["x"], pool=pool, config=few)
    assert any("it takes 5" in limit for limit in made.limits)
    found = uapfast.verify(made, world["tuned"])
    assert found.decision == "inconclusive" and "this reference may not convict" in found.reasons[0]


Wrong = Callable[[nn.Module], Callable[[Tensor], Tensor]]
WRONG: dict[str, Wrong] = {
    "inverted": lambda f: lambda x: f(1 - x),
    "transposed": lambda f: lambda x: f(x.transpose(2, 3)),
    "as 0..255": lambda f: lambda x: f((x * 255 - 120) / 60),
    "divided twice": lambda f: lambda x: f(x / 255),
    "mean and std of other images": lambda f: lambda x: f((x - 0.9) / 0.1),
    "rows shuffled": lambda f: lambda x: f(x)[torch.randperm(len(x), generator=torch.Generator())],
    "random": lambda f: lambda x: torch.rand(len(x), 10, generator=torch.Generator()) * 5,
}


@pytest.mark.parametrize("way", WRONG)
def test_an_exact_copy_that_is_asked_wrongly_is_not_acquitted(world, reference, way):
    verdict = uapfast.verify(reference, WRONG[way](world["victim"]))
    assert verdict.decision == "invalid" and verdict.p_value is None and verdict.exit_code == 4
    said = f"it gives the label that most pool models give for {verdict.agreement:.0%} of the queries"
    assert verdict.reasons[0].startswith(said) and "preprocessing" in verdict.reasons[0]
    assert verdict.agreement < verdict.agreement_least


@pytest.mark.parametrize("way", WRONG)
@pytest.mark.parametrize("twins", [0, 12])
def test_innocents_are_not_pushed_towards_piracy(world, reference, without_twins, way, twins):
    ref = reference if twins else without_twins
    for honest in world["honest"]:
        assert uapfast.verify(ref, WRONG[way](honest)).decision in ("invalid", "inconclusive")


def test_rows_that_stand_one_place_off_are_named(world, reference):
    verdict = uapfast.verify(reference, lambda x: world["victim"](x).roll(1, 0))
    assert verdict.decision == "invalid" and "rows are 1 too late" in verdict.reasons[0]


@pytest.mark.parametrize("answer", ["logits", "labels"])
def test_classes_in_another_order_are_told_and_the_order_is_offered(world, reference, answer):
    def suspect(x: Tensor) -> Tensor:
        out = world["victim"](x)[:, list(ORDER)]
        return out if answer == "logits" else out.argmax(1)

    offered = tuple(ORDER.index(k) for k in range(10))  # our class k is theirs at this place
    verdict = uapfast.verify(reference, suspect)
    assert verdict.decision == "invalid"
    assert f"by class order {','.join(map(str, offered))}: use that order" in verdict.reasons[0]
    assert verdict.queries_used == reference.plan.queries + len(reference.probes)
    right = uapfast.verify(reference, suspect, class_order=offered, alpha=0.02)
    plain = world["victim"] if answer == "logits" else lambda x: world["victim"](x).argmax(1)
    expected = uapfast.verify(reference, plain, alpha=0.02)
    assert right.decision == expected.decision == "piracy" and right.z == pytest.approx(expected.z)


def test_the_order_is_not_learnt_from_what_is_scored(reference):
    queries = {row.numpy().tobytes() for row in reference.points}
    assert not any(row.numpy().tobytes() in queries for row in reference.probe_images)
    assert len(reference.probe_labels.unique()) >= 9  # of few images points come first


@pytest.mark.parametrize("order", [(0, 1), (0,) * 10, range(-1, 9)])
def test_a_class_order_names_every_class_once(world, reference, order):
    with pytest.raises(InputError, match="10 different numbers"):
        uapfast.verify(reference, world["victim"], class_order=order)


@pytest.mark.parametrize("answer", ["logits", "probabilities", "labels"])
def test_a_suspect_with_more_classes_is_compared_on_ours(world, reference, answer):
    """Ours are its classes 2..11; it knows four others."""

    def suspect(x: Tensor) -> Tensor:
        logits = torch.full((len(x), 14), -8.0)
        logits[:, 2:12] = world["victim"](x)
        return {"logits": logits, "probabilities": logits.softmax(1), "labels": logits.argmax(1)}[answer]

    plain = world["victim"] if answer != "labels" else lambda x: world["victim"](x).argmax(1)
    assert uapfast.verify(reference, suspect).decision == "invalid"  # never assumed
    found = uapfast.verify(reference, suspect, class_order=range(2, 12), alpha=0.02)
    expected = uapfast.verify(reference, plain, alpha=0.02)
    assert found.decision == expected.decision == "piracy" and found.z == pytest.approx(expected.z, abs=1e-3)
    if answer != "labels":
        with pytest.raises(InputError, match="0..13"):
            uapfast.verify(reference, suspect, class_order=range(5, 15))


GARBAGE = {
    "uniform": lambda x: torch.full((len(x), 10), 0.1),
    "constant logits": lambda x: torch.arange(10.0).expand(len(x), 10),
    **{f"always {k}": lambda x, k=k: torch.full((len(x),), k) for k in range(10)},
}


@pytest.mark.parametrize("what", GARBAGE)
def test_answers_that_say_nothing_are_inconclusive(reference, without_twins, what):
    for ref in (reference, without_twins):
        verdict = uapfast.verify(ref, GARBAGE[what])
        assert verdict.decision == "inconclusive" and verdict.p_value is None
        assert "same answer to every query" in verdict.reasons[0]


@pytest.mark.parametrize("seed", range(4))
def test_without_twins_nobody_is_convicted(world, without_twins, seed):
    torch.manual_seed(seed)
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10)).eval()
    for suspect in (untrained, world["honest"][seed % 3], world["tuned"]):
        assert uapfast.verify(without_twins, suspect).decision != "piracy"


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e2, 1e4])
def test_the_scale_of_logits_says_nothing(world, reference, scale):
    for suspect in (world["victim"], world["honest"][0]):
        plain = uapfast.verify(reference, suspect)
        scaled = uapfast.verify(reference, lambda x, f=suspect: f(x) * scale)
        assert scaled.decision == plain.decision and scaled.z == pytest.approx(plain.z, abs=0.05)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_even_answers_mixed_in_hide_nothing(world, reference, share):
    for suspect in (world["victim"], world["tuned"], world["honest"][0]):
        plain = uapfast.verify(reference, suspect)
        mixed = uapfast.verify(reference, lambda x, f=suspect: (1 - share) * f(x).softmax(1) + share / 10)
        assert mixed.decision == plain.decision and mixed.z == pytest.approx(plain.z, abs=0.2)


def labels_of(x: Tensor, net: nn.Module) -> Tensor:
    return nn.functional.one_hot(net(x).argmax(1), 10).float()


DRESSED = {
    "smoothed": lambda x, f: 0.01 + 0.9 * labels_of(x, f),
    "saturated": lambda x, f: (f(x) * 1e3).softmax(1),
    "as logits": lambda x, f: 10 * labels_of(x, f) - 3,
    "random rest": lambda x, f: labels_of(x, f) + 1e-4 * torch.rand(len(x), 10, generator=torch.Generator()),
}


@pytest.mark.parametrize("dress", DRESSED)
def test_labels_in_the_dress_of_scores_do_not_acquit(world, reference, dress):
    plain = uapfast.verify(reference, lambda x: world["victim"](x).argmax(1), alpha=0.02)
    assert plain.decision == "piracy" and plain.output == "labels"
    found = uapfast.verify(reference, lambda x: DRESSED[dress](x, world["victim"]), alpha=0.02)
    assert found.decision != "independent"
    if found.decision == "inconclusive" and found.p_value > 0.05:
        assert "its labels alone give p" in found.reasons[0]
    for honest in world["honest"]:
        assert uapfast.verify(reference, lambda x, f=honest: DRESSED[dress](x, f)).decision != "piracy"


def test_a_suspect_that_declines_most_queries_is_not_cleared(world, reference):
    def declines(x: Tensor) -> Tensor:
        drop = torch.rand(len(x), generator=torch.Generator()) < 0.95
        return world["victim"](x).softmax(1) * ~drop[:, None]

    found = uapfast.verify(reference, declines)
    assert found.decision == "inconclusive" and "it answers only" in found.reasons[0]


@pytest.mark.parametrize("total", [255, 1000])
def test_whole_numbers_of_one_sum_are_shares(world, reference, total):
    found = uapfast.verify(reference, lambda x: (world["victim"](x).softmax(1) * total).round())
    assert found.decision == "piracy" and any(f"sum to about {total}" in r for r in found.reasons)


def test_every_conviction_says_what_else_could_explain_it(world, reference):
    assert any("in the victim's order" in r for r in uapfast.verify(reference, world["victim"]).reasons)
    assert not any("order (the same" in r for r in uapfast.verify(reference, world["honest"][0]).reasons)


def test_verdicts_do_not_depend_on_the_default_dtype(world, reference):
    model = Model(world["victim"])
    expected = uapfast.verify(reference, model)
    torch.set_default_dtype(torch.float64)
    try:
        found = uapfast.verify(reference, model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.z == expected.z and found.p_value == expected.p_value


class Centred(nn.Module):
    """Answers relative to the rest of the batch; nothing in it tells so."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        z = self.net(x)
        return z - 0.5 * z.mean(0)


class Drops(nn.Module):
    """Drops out in evaluation as well."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.net(x), 0.5, training=True)


def test_answers_that_depend_on_the_batch_or_do_not_repeat_are_told(world, reference):
    found = uapfast.verify(reference, Centred(world["victim"]))
    assert any("depend on the other queries" in r for r in found.reasons)
    found = uapfast.verify(reference, Drops(world["victim"]))
    assert any("differently each time" in r for r in found.reasons)


def test_a_copy_that_convicts_though_it_agrees_little_is_warned_of(world, reference):
    odd = copy.deepcopy(reference.consensus)
    strict = dataclasses.replace(
        reference, _cache={"consensus": dataclasses.replace(odd, least=1.0, usual=1.0)}
    )
    verdict = uapfast.verify(strict, world["tuned"])
    assert verdict.decision == "piracy" and "that most pool models give" in verdict.reasons[0]
    honest = uapfast.verify(strict, world["honest"][0])
    assert honest.decision == "invalid"


def test_a_limited_reference_does_not_convict_and_warnings_are_repeated(world, reference):
    told = reference.settings | {"limits": ["its twins are of another recipe"], "warnings": ["few twins"]}
    verdict = uapfast.verify(dataclasses.replace(reference, settings=told, _cache={}), world["victim"])
    assert verdict.decision == "inconclusive" and verdict.p_value < 1e-3
    assert verdict.reasons[0].startswith("its tensors are the victim's own, byte for byte")
    assert verdict.reasons[1] == "this reference may not convict: its twins are of another recipe"
    assert verdict.reasons[-1] == "the reference warns: few twins"


# -- preprocessing -------------------------------------------------------------------------------------------


def test_the_victims_preprocessing_is_the_suspects_unless_told(world, tmp_path):
    inner = nn.Sequential(_Shift(0.4, 0.2), world["victim"])  # wants (x - 0.4) / 0.2
    ref = make(world, 12, Model(inner, mean=[0.4], std=[0.2]))
    ref.save(tmp_path / "a.uapref")
    ref = uapfast.load(tmp_path / "a.uapref")
    assert reference_summary(ref)["preprocessing"] == {"mean": [pytest.approx(0.4)], "std": [0.2]}
    bare = uapfast.verify(ref, inner)
    assert bare.decision == "piracy" and any("victim's mean 0.4 and std 0.2" in r for r in bare.reasons)
    own = uapfast.verify(ref, Model(world["victim"], mean=[0.0], std=[1.0]))
    assert own.decision == "piracy" and not any("victim's mean" in r for r in own.reasons)
    assert uapfast.verify(ref, lambda x: world["victim"](x)).z == pytest.approx(own.z, abs=1e-3)
    found = uapfast.verify(ref, world["victim"])  # bare, and yet it takes 0..1: told by its answers
    assert found.z == own.z and any("queried with mean 0 and std 1, since none" in r for r in found.reasons)


class _Shift(nn.Module):
    """Takes images that were normalised back to 0..1."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


@pytest.mark.parametrize(("mean", "std"), [([73.0], [90.0]), ([0.5], [70.0]), ([-0.2], [0.5])])
def test_statistics_that_no_images_in_0_1_have_are_refused(world, mean, std):
    with pytest.raises(ModelError, match="divide by 255"):
        Model(world["victim"], mean=mean, std=std)
