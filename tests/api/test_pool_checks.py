"""The tests that ``generate`` makes of every pool, on small real models (scikit-learn's digits)."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import uapfast
from uapfast.errors import PoolError, PoolNote, PoolWarning
from uapfast.method.relatedness import Copy
from uapfast.models.model import Model
from uapfast.pool.pool import LEAST_RELATED, Pool, PoolModel, check_victim
from uapfast.reference import Record
from uapfast.verbs import pool_checks
from uapfast.verbs.trials import Trial, garbage, trials_summary, try_reference

CONFIG = uapfast.GenerateConfig(points=40, views=10, ray=(0.0,), uap_images=100, eps=0.2, min_fooling=0.0)
UNSEEN = slice(700, 1797)


def fit(x: torch.Tensor, y: torch.Tensor, seed: int, model: nn.Module | None = None, **how: Any) -> nn.Module:
    width, steps, rate = how.get("width", 48), how.get("steps", 120), how.get("rate", 0.01)
    torch.manual_seed(seed)
    net = copy.deepcopy(model) if model is not None else None
    net = net or nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(steps):
        rows = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    torch.set_num_threads(1)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    own = slice(0, 700)
    victim = fit(x[own], y[own], 0)
    parts = [torch.randperm(700, generator=torch.Generator().manual_seed(s))[:250] for s in range(12)]
    return {
        "x": x,
        "y": y,
        "victim": victim,
        "twins": [fit(x[own], y[own], s) for s in range(1, 9)],
        "homologous": [fit(x[p], y[p], 20 + s, width=24 + 8 * (s % 4)) for s, p in enumerate(parts)],
        "copies": [fit(x[900:1400], y[900:1400], 60 + s, victim, steps=20, rate=1e-3) for s in range(4)],
    }


def pool_of(world: dict[str, Any], **changed: Any) -> Pool:
    given = {"twins": world["twins"], "homologous": world["homologous"], "init": "random"} | changed
    return Pool.from_models(**given)


def made(
    world: dict[str, Any], pool: Pool, victim: nn.Module | None = None, **more: Any
) -> uapfast.Reference:
    labels = more.pop("labels", world["y"][UNSEEN])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return uapfast.generate(
            victim or world["victim"], world["x"][UNSEEN], labels, pool=pool, config=CONFIG, **more
        )


@pytest.fixture(scope="module")
def clean(world: dict[str, Any]) -> uapfast.Reference:
    return made(world, pool_of(world))


# -- pseudo-suspects -----------------------------------------------------------------------------------
def test_a_sound_reference_has_no_limits_and_records_its_trials(clean: uapfast.Reference) -> None:
    assert clean.limits == () and clean.settings["warnings"] == []
    trials = clean.settings["trials"]
    assert trials["convicted"] == [] and trials["smallest_p"] > 1e-3
    assert trials["count"] == 22 + 12 * 3 + 4 * 8  # garbage, innocents in three forms, twins in all
    assert all(record.counted for record in clean.records)


def test_where_the_victim_began_is_asked_for(world: dict[str, Any]) -> None:
    reference = made(world, pool_of(world, init=None))
    assert len(reference.warnings) == 1 and "training started" in reference.warnings[0]
    assert reference.settings["init"] is None
    assert any("training started" in r for r in uapfast.verify(reference, world["victim"]).reasons)
    with pytest.raises(PoolError, match="random, weights or factory"):
        pool_of(world, init="scratch")


def test_trials_are_the_same_every_time(clean: uapfast.Reference) -> None:
    assert trials_summary(try_reference(clean)) == clean.settings["trials"]


def test_garbage_has_the_shape_of_answers_and_says_nothing(clean: uapfast.Reference) -> None:
    found = list(garbage(clean))
    assert {answers.shape for _, answers, _ in found} == {clean.answers.shape[1:]}
    assert all(torch.allclose(a.sum(-1), torch.ones(()), atol=1e-4) for _, a, _ in found)
    right = clean.labels[0]
    for name, answers, hard in found:
        if hard or "random" in name:
            assert (answers.argmax(-1) == right).double().mean() < 0.3, name


def test_a_conviction_of_garbage_limits_the_reference(
    clean: uapfast.Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [Trial("even answers", 1e-5, True), Trial("random labels 1", 0.4, False)]
    monkeypatch.setattr(pool_checks, "try_reference", lambda *_: seen)
    findings = pool_checks.Findings()
    with pytest.warns(PoolWarning, match="will not convict"):
        tested = pool_checks.examine_pool(clean, {}, findings)
    assert "even answers; 1 of 2 trials" in findings.limits[0]
    assert tested.settings["trials"]["worst"] == "even answers"


def test_without_twins_a_reference_that_convicts_garbage_has_limits(world: dict[str, Any]) -> None:
    reference = made(world, pool_of(world, twins=[]))
    convicted = [t.name for t in try_reference(reference) if t.convicted]
    assert bool(reference.limits) == bool(convicted)
    assert reference.settings["trials"]["convicted"] == convicted


# -- copies and variants -------------------------------------------------------------------------------
@pytest.mark.parametrize("copies", [1, 4])
def test_copies_of_the_victim_among_the_innocents_are_named(world: dict[str, Any], copies: int) -> None:
    pool = pool_of(world, homologous=[*world["homologous"], *world["copies"][:copies]])
    with pytest.raises(PoolError, match="share an ancestor") as caught:
        made(world, pool)
    named = [f"homologous-{12 + i}" for i in range(copies)]
    assert all(name in caught.value.got for name in named)
    assert caught.value.got.count("homologous") == copies


def test_who_may_be_of_a_kind_that_varies_more_stays_and_is_warned_of(
    world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(*sure: bool) -> None:
        found = {9 + i: Copy(0, 5e-4, s) for i, s in enumerate(sure)}
        monkeypatch.setattr(pool_checks, "copies_among_innocents", lambda *_: found)

    named(False)
    reference = made(world, pool_of(world))
    (said,) = [w for w in reference.warnings if "may be copies, or of a kind that varies more" in w]
    assert "homologous-00 (like victim, p 0.0005)" in said and len(reference.innocents) == 12
    named(False, True)
    with pytest.raises(PoolError, match=r"--vouch homologous-01=.*perhaps also homologous-00") as caught:
        made(world, pool_of(world))
    assert caught.value.got.startswith("homologous-01")


def test_models_that_uapfast_trained_stay_and_are_warned_of(world: dict[str, Any]) -> None:
    """To remove the honest model that looks most like the victim would accuse the next one like it."""
    pool = pool_of(world, homologous=[*world["homologous"], *world["copies"][:2]])
    reference = made(world, replace(pool, trained=frozenset({"homologous-12", "homologous-13"})))
    assert len(reference.innocents) >= 13  # two copies of one network are variants, and count once
    (said,) = [w for w in reference.warnings if "uapfast trained look like copies" in w]
    assert "homologous-12 (like victim" in said and "homologous-13" in said
    with pytest.raises(PoolError, match="share an ancestor") as caught:
        made(world, replace(pool, trained=frozenset({"homologous-12"})))
    assert "homologous-13" in caught.value.got and "homologous-12" not in caught.value.got


def test_who_is_vouched_for_stays_and_is_warned_of(world: dict[str, Any]) -> None:
    pool = pool_of(world, homologous=[*world["homologous"], world["copies"][0]])
    reference = made(world, pool, vouched={"homologous-12": "sold to a partner"})
    assert reference.settings["vouched"] == {"homologous-12": "sold to a partner"}
    assert "homologous-12" in reference.warnings[0] and "sold to a partner" in reference.warnings[0]
    assert len(reference.innocents) == 13
    for wrong in ({"homologous-99": "who"}, {"twin-00": "no innocent"}, {"homologous-12": " "}):
        with pytest.raises(PoolError, match="vouched"):
            made(world, pool, vouched=wrong)


def test_variants_count_once_and_are_named(world: dict[str, Any], clean: uapfast.Reference) -> None:
    x, y = world["x"][:300], world["y"][:300]
    variant = fit(x, y, 5, world["homologous"][1], steps=5, rate=1e-3)
    pool = pool_of(world, homologous=[*world["homologous"], variant])
    reference = made(world, pool)
    assert any("homologous-01 and homologous-12" in text for text in reference.warnings)
    assert len(reference.innocents) == 12 and not reference.records[-1].counted
    declared = Pool(tuple(dataclasses.replace(m, parent="homologous-01") if m.name == "homologous-12" else m
                          for m in pool.models), pool.init)  # fmt: skip
    reference = made(world, declared)
    assert reference.warnings == () and len(reference.innocents) == 12
    assert reference.records[-1].parent == "homologous-01"


def test_a_twin_that_is_a_copy_is_refused(world: dict[str, Any]) -> None:
    near = fit(world["x"][:700], world["y"][:700], 3, world["victim"], steps=3, rate=1e-3)
    pool = pool_of(world, twins=[*world["twins"][:7], near])
    with pytest.raises(PoolError, match="twin-07 and victim"):
        made(world, pool)
    declared = tuple(
        dataclasses.replace(m, parent="victim") if m.name == "twin-07" else m for m in pool.models
    )
    with pytest.raises(PoolError, match="made alike, none from another"):
        Pool(declared)


def test_a_homologous_model_whose_parent_is_the_victim_is_refused(world: dict[str, Any]) -> None:
    pool = pool_of(world)
    models = tuple(
        dataclasses.replace(m, parent="twin-03") if m.name == "homologous-00" else m for m in pool.models
    )
    with pytest.raises(PoolError, match="relation piracy, with candidate twin-03"):
        made(world, Pool(models))


# -- kind, ancestor, accuracy, hashes --------------------------------------------------------------------
def test_twins_of_another_kind_and_an_ancestor_limit_the_reference(world: dict[str, Any]) -> None:
    x, y = world["x"], world["y"]
    public = fit(x[:350], y[:350], 70, steps=150)
    victim = fit(x[350:700], y[350:700], 71, public, steps=60, rate=2e-3)
    ancestor = PoolModel("public", "ancestor", None, "ancestor", Model(public))
    scratch = pool_of(world, twins=[fit(x[350:700], y[350:700], 80 + s) for s in range(8)])
    reference = made(world, Pool((*scratch.models, ancestor)), victim)
    assert any("not of the victim's kind" in text and "--init" in text for text in reference.limits)
    assert any("ancestor public" in text for text in reference.limits)
    tuned = [fit(x[350:700], y[350:700], 90 + s, public, steps=60, rate=2e-3) for s in range(8)]
    strangers = pool_of(world, twins=tuned, ancestor=public, init=None)
    (limit,) = made(world, strangers, victim).limits
    assert (
        "0 of the 12 homologous models that count did, not 8" in limit
        and "8 more trainings from there" in limit
    )
    parts = [torch.randperm(700, generator=torch.Generator().manual_seed(s))[:150] for s in range(12)]
    related = [fit(x[p], y[p], 110 + s, public, steps=60, rate=4e-3) for s, p in enumerate(parts)]
    reference = made(world, pool_of(world, twins=tuned, related=related, ancestor=public, init=None), victim)
    assert reference.limits == () and len(related) >= LEAST_RELATED
    assert reference.records[-1].relation == "ancestor" and "ancestor" not in reference.candidates


def test_what_twins_share_and_no_innocent_does_is_told_from_the_answers(world: dict[str, Any]) -> None:
    """Far from their beginning, which the owner calls random: nearer to each other than to any innocent."""
    x, y = world["x"], world["y"]
    public = fit(x[:350], y[:350], 70)
    tuned = [fit(x[350:700], y[350:700], 71 + s, public, steps=400, rate=0.02) for s in range(4)]
    (limit,) = made(world, pool_of(world, twins=tuned[1:]), tuned[0]).limits
    assert "something in common that no homologous model has" in limit and "say where the victim beg" in limit


class Shifted(nn.Module):
    """A model that is asked without its preprocessing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(-4.0 * x)


def test_a_pool_asked_without_its_preprocessing_is_noticed(world: dict[str, Any]) -> None:
    twins = [Shifted(m) for m in world["twins"]]
    reference = made(world, pool_of(world, twins=twins))
    assert any("twin-00 on" in text and "mean and std" in text for text in reference.limits)
    wrong = [Shifted(m) for m in world["homologous"]]
    reference = made(world, pool_of(world, homologous=[*world["homologous"], wrong[0]]))
    assert any("homologous-12 on" in text and "mean and std" in text for text in reference.warnings)
    with pytest.raises(PoolError, match="know the task.*mean and std"):
        made(world, pool_of(world, homologous=wrong))
    reference = made(world, pool_of(world), labels=world["y"][UNSEEN].roll(1))
    assert any("labels of other images" in text for text in reference.limits)


def test_a_pool_of_another_victim_is_refused(world: dict[str, Any]) -> None:
    other = Pool((PoolModel("victim", "victim", None, "victim", Model(world["twins"][0])),))
    with pytest.raises(PoolError, match="the pool's own victim"):
        check_victim(other, Model(world["victim"]))
    check_victim(other, Model(world["twins"][0]))
    with pytest.raises(PoolError, match="got mean 0 and std 1 in channel order bgr"):
        check_victim(other, Model(world["twins"][0], channel_order="bgr"))
    models = pool_of(world, twins=world["twins"][1:]).models
    with pytest.raises(PoolError, match="the pool's own victim"):
        made(world, Pool((*other.models, *models)))


# -- twins that are not what they say ---------------------------------------------------------------------
def near(world: dict[str, Any], model: nn.Module, seed: int) -> nn.Module:
    return fit(world["x"][:700], world["y"][:700], seed, model, steps=20, rate=1e-3)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_true_twins_however_few_are_taken(world: dict[str, Any], count: int) -> None:
    assert made(world, pool_of(world, twins=world["twins"][:count])).limits == ()


@pytest.mark.parametrize("count", [2, 3])
def test_one_copy_of_the_victim_among_few_twins_is_refused(world: dict[str, Any], count: int) -> None:
    twins = [*world["twins"][: count - 1], near(world, world["victim"], 90)]
    with pytest.raises(PoolError, match=f"twin-0{count - 1} and victim"):
        made(world, pool_of(world, twins=twins))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_twins_that_were_all_made_from_the_victim_do_not_convict(world: dict[str, Any], count: int) -> None:
    twins = [near(world, world["victim"], 90 + i) for i in range(count)]
    reference = made(world, pool_of(world, twins=twins))
    assert any("made from the victim, or all from one model" in text for text in reference.limits)
    assert uapfast.verify(reference, world["copies"][0], alpha=0.05).decision != "piracy"


@pytest.mark.parametrize("count", [2, 5])
def test_twins_that_are_copies_of_another_model_are_refused(world: dict[str, Any], count: int) -> None:
    twins = [near(world, world["twins"][7], 90 + i) for i in range(count)]
    with pytest.raises(PoolError, match="like the victim, none from another, got copies of each"):
        made(world, pool_of(world, twins=twins))


def strangers(world: dict[str, Any], count: int) -> list[nn.Module]:
    """Trained alike, but on other images than the victim: twins, but of somebody else's model."""
    return [fit(world["x"][900:1600], world["y"][900:1600], 90 + i) for i in range(count)]


def test_two_twins_of_another_model_are_refused(world: dict[str, Any]) -> None:
    with pytest.raises(PoolError, match="or two of another kind: twin-01 and twin-00"):
        made(world, pool_of(world, twins=strangers(world, 2)))


@pytest.mark.parametrize("count", [3, 5])
def test_twins_of_another_model_do_not_convict(world: dict[str, Any], count: int) -> None:
    twins = strangers(world, count)
    reference = made(world, pool_of(world, twins=twins))
    assert any("not of the victim's kind" in text and "0.5 is usual" in text for text in reference.limits)


def test_twins_of_another_network_are_refused(world: dict[str, Any]) -> None:
    wide = fit(world["x"][:700], world["y"][:700], 90, width=64)
    with pytest.raises(PoolError, match="twin-02 must be a model of the victim's architecture"):
        made(world, pool_of(world, twins=[*world["twins"][:2], wide]))


@pytest.mark.parametrize("count", [3, 5])
def test_twins_of_another_recipe_are_told_by_their_confidence(world: dict[str, Any], count: int) -> None:
    twins = [fit(world["x"][:700], world["y"][:700], 90 + i, rate=1e-3) for i in range(count)]
    reference = made(world, pool_of(world, twins=twins))
    assert any("made by the victim's own recipe; its mean confidence" in text for text in reference.limits)


@pytest.mark.parametrize(("trained", "kind"), [((), PoolWarning), (("weak",), PoolNote)])
def test_weak_models_of_the_owners_are_warned_of_and_those_of_uapfast_noted(
    trained: tuple[str, ...], kind: type[Warning]
) -> None:
    """In the reference both are said alike."""
    labels = torch.arange(400) % 10
    known = nn.functional.one_hot(labels, 10).double()
    answers = torch.stack([known, known, known, known.roll(1, -1)])
    names = (("victim", "victim"), ("a", "homologous"), ("b", "homologous"), ("weak", "homologous"))
    models = [(Record(name, relation, None, "", None), None) for name, relation in names]
    findings = pool_checks.Findings()
    with pytest.warns(PoolWarning, match="hardly know the task") as found:
        pool_checks.check_accuracy(answers, labels, models, findings, trained)  # type: ignore[arg-type]
    assert [w.category for w in found] == [kind] and "weak on 0%" in findings.warnings[0]
