"""How a copy was made: said of convicted suspects alone, the same wherever a suspect is asked."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

import uapfast
from tests.api.screen_world import MLP
from uapfast.cli import main
from uapfast.examination.design import Design
from uapfast.method.sequential import Looks
from uapfast.models.checkpoint import load_model
from uapfast.models.forms import LABELS, WHOLE
from uapfast.models.registry import resolve_arch
from uapfast.pool import attacks
from uapfast.pool.recipe import default_recipe
from uapfast.types import HOW_MADE
from uapfast.verbs.verify import verify

KINDS = {"modification", "extraction", "unclear"}


def said(verdict: uapfast.Verdict) -> list[str]:
    return [reason for reason in verdict.reasons if reason.startswith(HOW_MADE)]


def module_of(world, name: str) -> torch.nn.Module:
    suspect = world.suspect(name)
    module = load_model(suspect.arch, suspect.path).module
    assert module is not None
    return module


def student_of(world, name: str) -> torch.nn.Module:
    """Trained on its probabilities, on images that the victim did not see."""
    images = torch.rand(600, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    source = module_of(world, name)
    torch.manual_seed(0)
    fresh = resolve_arch(MLP)()
    return attacks.extract(
        lambda x: source(x).softmax(-1),
        fresh,
        images,
        recipe=lambda *given: default_recipe(*given, epochs=20),
    )


def test_what_was_made_from_the_weights_is_called_so(world):
    for name in ("victim-1", "pruned-1"):
        verdict = world.verify("first", name)
        assert (verdict.decision, verdict.relation) == ("piracy", "modification")
        assert len(said(verdict)) == 1 and "modification" in said(verdict)[0]
        assert verdict.to_dict()["relation"] == "modification"


def test_nothing_is_said_of_whoever_is_not_convicted(world):
    for reference in world.references:
        for suspect in world.suspects:
            verdict = world.verify(reference, suspect.name)
            assert (verdict.relation in KINDS) == (verdict.decision == "piracy"), suspect.name
            assert len(said(verdict)) == (verdict.decision == "piracy")
    quantised = attacks.quantise(module_of(world, "victim-1"), 8)
    doubtful = verify(world.references["first"], quantised, alpha=1e-6)  # a level that no such pool reaches
    assert doubtful.decision == "inconclusive" and doubtful.relation is None and not said(doubtful)


def test_a_reference_that_may_not_convict_says_nothing(world):
    reference = world.references["first"]
    limited = replace(reference, settings=reference.settings | {"limits": ["a test"]}, _cache={})
    verdict = verify(limited, module_of(world, "victim-1"))
    assert verdict.decision == "inconclusive" and verdict.relation is None and not said(verdict)


def test_a_model_trained_on_answers_is_never_called_a_modification(world):
    for labels in ("auto", "labels"):
        verdict = verify(world.references["first"], student_of(world, "victim-1"), alpha=0.01, output=labels)
        assert verdict.relation != "modification"


class Renamed(torch.nn.Module):
    """The same network with its classes in another order."""

    def __init__(self, module: torch.nn.Module, order: list[int]) -> None:
        super().__init__()
        self.module, self.order = module, order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.module(x)[:, self.order]
        return out


def test_names_of_classes_scale_and_adapter_change_nothing(world):
    module, reference = module_of(world, "pruned-1"), world.references["first"]
    plain = verify(reference, module)
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]  # the suspect's class i is ours order[i]
    named = verify(reference, Renamed(module, order), class_order=[order.index(i) for i in range(10)])
    function = verify(reference, lambda x: module(x).softmax(-1))
    for other in (named, function):
        assert other.relation == plain.relation == "modification" and said(other) == said(plain)


def test_by_labels_it_is_told_or_unclear(world):
    verdict = verify(world.references["first"], module_of(world, "victim-1"), output="labels", alpha=0.01)
    assert verdict.output == "labels" and (verdict.relation in KINDS) == (verdict.decision == "piracy")
    reference = world.references["first"]
    labels = torch.nn.functional.one_hot(reference.labels[0], reference.answers.shape[-1]).float()
    features = reference.statistic.features(labels, True)
    told = Design(reference, Looks.single(reference.plan.views)).tell(features, LABELS)
    assert told.share == pytest.approx(1.0) and told.relation != "extraction"


def test_the_table_has_it_and_takes_it_back_with_the_conviction(world, tmp_path):
    names = ("victim-1", "pruned-1", "honest-0")
    suspects = [world.suspect(name) for name in names]
    for fdr, kept in ((0.05, True), (1e-12, False)):
        path = tmp_path / f"{kept}.parquet"
        uapfast.screen(
            {"first": world.references["first"]}, suspects, out=path, fdr=fdr, resume=False
        ).finish()
        rows = {row["name"]: row for row in pq.read_table(path).to_pylist()}
        assert rows["honest-0"]["relation"] is None
        for name in names[:2]:
            row = rows[name]
            assert row["relation"] == ("modification" if kept else None)
            assert any(r.startswith(HOW_MADE) for r in row["reasons"]) == kept
            assert row["decision"] == ("piracy" if kept else "inconclusive")


def test_without_twins_it_is_unclear_and_says_why(world):
    reference = world.references["first"]
    keep = [i for i, r in enumerate(reference.records) if r.relation != "twin"]
    bare = replace(
        reference,
        records=tuple(reference.records[i] for i in keep),
        answers=reference.answers[keep],
        labels=reference.labels[keep],
        _cache={},
    )
    design = Design(bare, Looks.single(bare.plan.views))
    features = bare.statistic.features(bare.answers[0], False)
    told = design.tell(features, WHOLE)
    assert told.relation == "unclear" and "twins" in told.why


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_line_shows_it(world, as_json, capfd):
    s = world.suspect("victim-1")
    given = ["verify", str(world.folder / "first.uapref"), s.path, "--arch", s.arch]
    code, out = main([*given, *(["--json"] if as_json else [])]), capfd.readouterr().out
    assert code == 1
    assert '"relation": "modification"' in out if as_json else "how it was made  modification" in out
