"""Scoring where the answers are: on a pretended GPU, from answers to the table of a screen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import uapfast
from benchmarks.score_world import Size, World
from tests.api.screen_rows import bare, table
from tests.pretended import PLACE, PretendedGpu, There
from uapfast.examination import Design, Examination
from uapfast.method.sequential import Looks
from uapfast.models.answers import Answers
from uapfast.reference import Reference
from uapfast.screening.asking.panel import PreparedReference

FORMS = ["scores", "labels", "top3", "digits"]


@pytest.fixture(scope="module")
def scored() -> World:
    return World(Size(candidates=4, innocents=12, kinds=1, views=10, points=30))


def shown_as(form: str, logits: Tensor) -> Tensor:
    """A suspect's answers to all queries ``[Q,K]``, as services show them."""
    p = logits.softmax(-1)
    if form == "labels":
        return torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).float()
    if form == "top3":
        return p * (p >= p.topk(3).values[:, -1:])
    return p.mul(100).round().div(100) if form == "digits" else p


def told(reference: Reference, answers: Tensor, looks: Looks, place: str) -> tuple[Any, ...]:
    """What an examination on ``place`` comes to."""
    examination = Examination(Design(reference, looks, place), alpha=0.01, name="x")
    done = 0
    while examination.open:
        count = examination.due()[1]
        examination.take(answers[done : done + count])
        done += count
    v = examination.verdict()
    numbers = [v.p_value, v.p_candidate, v.p_suspect, v.p_joint, v.p_view, v.similarity, v.z, v.z_pool]
    return (v.decision, v.rank, v.views_used, v.relation), numbers


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_an_examination_there_says_what_it_says_here(scored: World, form: str, early: bool) -> None:
    looks = Looks.default(10) if early else Looks.single(10)
    decisions = set()
    for logits in scored.suspects(4, 2):
        answers = shown_as(form, logits)
        want = told(scored.reference, answers, looks, "cpu")
        with PretendedGpu() as gpu:
            got = told(scored.reference, answers, looks, str(PLACE))
        assert got[0] == want[0]
        assert got[1] == [x if x is None else pytest.approx(x, rel=1e-4, abs=1e-6) for x in want[1]]
        ran = {name.split()[0] for name in gpu.used}
        assert ran == {"inner_products", "leave_one_out", *(["features"] if form != "labels" else [])}
        decisions.add(want[0][0])
    assert len(decisions) > 1 or form == "labels"


def test_the_table_of_a_screen_is_that_of_the_host(world, tmp_path, monkeypatch) -> None:
    """Every worker's thread has a pretended GPU while it scores."""
    plain, there = tmp_path / "plain.parquet", tmp_path / "there.parquet"
    how = {"alpha": 0.01, "fdr": 1.0, "workers": 2}
    uapfast.screen(world.references, world.suspects, out=plain, **how).finish()
    made, take, used = PreparedReference.__post_init__, Examination.take, []

    def asked(self: PreparedReference) -> None:
        made(self)
        self.design.place = str(PLACE)

    def taken(self: Examination, values: Tensor | Answers) -> None:
        with PretendedGpu() as gpu:
            take(self, values)
            used.append(gpu.used)

    monkeypatch.setattr(PreparedReference, "__post_init__", asked)
    monkeypatch.setattr(Examination, "take", taken)
    uapfast.screen(world.references, world.suspects, out=there, **how).finish()
    want, got = bare(table(plain)), bare(table(there))
    assert want.keys() == got.keys() and used and all(any("leave_one_out" in n for n in u) for u in used)
    for key, row in want.items():
        for column in ("decision", "rank", "views_used", "error_class", "relation"):
            assert got[key][column] == row[column], (key, column)
        for column in ("p_value", "z", "similarity"):
            exact = row[column] is None
            assert got[key][column] == (None if exact else pytest.approx(row[column], rel=1e-3, abs=1e-4))


def test_a_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with PretendedGpu():
        x = torch.ones(2, 3).to("cuda")
        assert isinstance(x, There) and x.is_cuda and x.device == PLACE
        assert isinstance(torch.zeros(3, device=x.device), There) and isinstance(x.new_zeros(3), There)
        for wrong in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(1, 3)])):
            with pytest.raises(RuntimeError, match="all tensors must be on cuda:0"):
                wrong()
        for wrong in (x.numpy, x.data_ptr, lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
                wrong()
        assert type(x.cpu()) is Tensor and float((2 * x).sum()) == 12 and x[0, 1:].tolist() == [1, 1]
        y = x.add_(1)
        assert y is x and x.cpu().sum() == 12


@pytest.mark.parametrize("broken", ["features", "products", "rounds"])
def test_it_notices_what_stays_on_the_host(scored: World, monkeypatch, broken: str) -> None:
    """Each of the three moves to the device left out: the examination above must fail."""
    from uapfast.method.lineage import LineageScorer
    from uapfast.method.rounds import Rounds
    from uapfast.method.scaling import Scaling

    if broken == "features":
        monkeypatch.setattr(Scaling, "to", lambda self, place: replace(self))
    elif broken == "rounds":
        monkeypatch.setattr(Rounds, "to", lambda self, place: self)
    else:
        wide = property(lambda self: torch.from_numpy(self.pool).flatten(1, 2).transpose(0, 1).contiguous())
        monkeypatch.setattr(LineageScorer, "_wide", wide)
    world = World(scored.size)  # nothing prepared
    answers = shown_as("scores", next(world.suspects(1)))
    with PretendedGpu(), pytest.raises((RuntimeError, uapfast.errors.InputError)):
        told(world.reference, answers, Looks.single(10), str(PLACE))
