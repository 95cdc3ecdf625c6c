"""Innocents are shown as the suspect shows its answers: the same for verify and for looks on the way."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import uapfast
from tests.api.mlp import train
from uapfast.examination.asking import as_suspect
from uapfast.examination.design import Design
from uapfast.examination.examination import Examination
from uapfast.method.sequential import Looks
from uapfast.models.forms import LABELS, WHOLE, Form
from uapfast.verbs.encode import features_of

CONFIG = uapfast.GenerateConfig(points=60, views=10, ray=(0.0,), uap_images=200, min_fooling=0.0)


@pytest.fixture(scope="module")
def world() -> dict:
    torch.set_num_threads(1)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    parts = (slice(0, 900), slice(900, 1797))
    honest = [train(x[parts[s % 2]], y[parts[s % 2]], 20 + s, 24 + 8 * (s % 4)) for s in range(14)]
    twins = [train(x[parts[0]], y[parts[0]], s) for s in range(1, 5)]
    victim = train(x[parts[0]], y[parts[0]], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = uapfast.Pool.from_models(twins=twins, homologous=honest)
        reference = uapfast.generate(victim, x[parts[1]], pool=pool, config=CONFIG)
    suspects = [train(x[parts[1]], y[parts[1]], 60 + s, 40) for s in range(2)]
    return {"reference": reference, "victim": victim, "twins": twins, "honest": honest, "suspects": suspects}


def rounded(f: nn.Module, parts: int) -> Callable[[Tensor], Tensor]:
    return lambda x: (f(x).softmax(-1) * parts).round() / parts


def top(f: nn.Module, count: int) -> Callable[[Tensor], Tensor]:
    def answer(x: Tensor) -> Tensor:
        found = f(x).softmax(-1).topk(count, dim=-1)
        return torch.zeros(len(x), 10).scatter(-1, found.indices, found.values)

    return answer


FORMS = {
    "probabilities of 2 digits": (lambda f: rounded(f, 100), Form(step=0.01)),
    "probabilities of 1 digit": (lambda f: rounded(f, 10), Form(step=0.1, fill=5e-4)),
    "at most 3 classes an answer": (lambda f: top(f, 3), Form(top=3)),
    "labels only": (lambda f: lambda x: f(x).argmax(-1), LABELS),
}


@pytest.mark.parametrize("said", FORMS)
def test_innocents_are_shown_alike_and_the_verdict_says_how(world, said: str) -> None:
    shown, form = FORMS[said]
    reference = world["reference"]
    verdict = uapfast.verify(reference, shown(world["suspects"][0]))
    assert any(f"it shows {said}: the innocents" in reason for reason in verdict.reasons)
    seen, whole = reference.statistic.pool_features(form), reference.statistic.pool_features()
    honest = np.array([r.relation == "homologous" for r in reference.records])
    np.testing.assert_array_equal(seen[~honest], whole[~honest])
    for row in np.flatnonzero(honest):  # as if it had been the suspect itself
        name = reference.records[row].name
        model = world["honest"][int(name.split("-")[1])]
        features, told = features_of(reference, as_suspect(reference, shown(model), "auto", "cpu"))
        assert told == form
        np.testing.assert_allclose(seen[row], features, atol=2e-3)


def test_whole_answers_change_nothing(world) -> None:
    reference = world["reference"]
    assert reference.statistic.scorer(WHOLE) is reference.statistic.scorer()
    for shown in (lambda x: world["victim"](x), lambda x: world["victim"](x).softmax(-1)):
        verdict = uapfast.verify(reference, shown)
        assert not any("it shows" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("said", FORMS)
def test_the_last_look_has_the_form_that_all_answers_have(world, said: str) -> None:
    """A copy is asked all views: what is decided in the end, and why, is what ``verify`` says."""
    reference = world["reference"]
    shown = FORMS[said][0](world["victim"])
    looks = Examination(Design(reference, Looks((1, 2, 5, 10))), alpha=0.001)
    while looks.open:
        part, _ = looks.due()
        assert part is not None
        looks.take(torch.cat([shown(x) for x in reference.plan.chunks(part)]))
    assert looks.views == 10, "it stands out at once"
    found, whole = looks.verdict(), uapfast.verify(reference, shown)
    assert (found.p_value, found.z, found.reasons) == (whole.p_value, whole.z, whole.reasons)


def test_a_form_follows_what_is_seen(world) -> None:
    reference, f = world["reference"], world["victim"]
    looks = Examination(Design(reference, Looks((5, 10))), alpha=0.001)
    forms = []
    for digits in (100, 10_000):  # the first views say less than the last ones
        part, _ = looks.due()
        looks.take(torch.cat([rounded(f, digits)(x) for x in reference.plan.chunks(part)]))
        forms.append(looks._form)
    assert forms == [Form(step=0.01), Form(step=1e-4)] and not looks.open
    assert any("probabilities of 4 digits" in reason for reason in looks.verdict().reasons)


def test_the_verdict_says_whether_the_suspect_side_is_exact(world) -> None:
    reference, suspect = world["reference"], world["suspects"][0]
    verdict = uapfast.verify(reference, suspect)
    assert verdict.settings["suspect_side_exact"] is True
    assert not any("no exact rank" in reason for reason in verdict.reasons)
    old = {k: v for k, v in reference.settings.items() if k != "suspect_side"}
    verdict = uapfast.verify(dataclasses.replace(reference, settings=old, _cache={}), suspect)
    assert verdict.settings["suspect_side_exact"] is False
    assert any("no exact rank here: the innocents helped" in reason for reason in verdict.reasons)


def test_no_innocent_has_a_say_in_the_points(world) -> None:
    """Other innocents, the same questions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = world["reference"]
        twins = world["twins"][:3]
        made = [
            uapfast.generate(
                world["victim"], reference.points[:700],
                pool=uapfast.Pool.from_models(twins=twins, homologous=world["honest"][a:b]),
                config=dataclasses.replace(CONFIG, points=20),
            )
            for a, b in ((0, 7), (7, 14))
        ]  # fmt: skip
    assert torch.equal(made[0].points, made[1].points)
