"""Pseudo-suspects: answers that are no copy's, and must not be convicted by the reference that is tested.

Garbage, and degraded forms of the pool's own innocents and twins, each left out of what it is compared with.
No network is asked: everything is made of answers that the reference holds, and of its query images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from uapfast.config import ALPHA
from uapfast.method.decision import decide
from uapfast.method.fingerprint import reduce_classes
from uapfast.method.lineage import LineageScorer
from uapfast.method.statistic import Scorer
from uapfast.models import forms
from uapfast.models.forms import Form
from uapfast.reference import Reference

SEED = 1
CONSTANTS = 10  # labels that are tried as the only answer, at most
RANDOM = 3  # draws of random answers
UNTRAINED = (0.03, 0.3, 1.0, 3.0, 10.0)  # spread of an untrained network's logits
PIXELS = 16  # side to which images are brought before a random linear map
INNOCENTS, FORMS_EACH = 40, 3  # innocents that are tried, and in how many forms each, at most
TWINS = 4  # twins that are tried, at most; the whole pool is centred anew for each

Change = Callable[[Tensor, torch.Generator], Tensor]


def _even(p: Tensor, generator: torch.Generator) -> Tensor:
    """Random answers of the shape of ``p``: exponential variables, scaled to sum to 1."""
    drawn = -torch.rand(p.shape, generator=generator, dtype=torch.float32).clamp(min=1e-12).log()
    return drawn / drawn.sum(-1, keepdim=True)


def _top(p: Tensor, count: int) -> Tensor:
    found = p.topk(min(count, p.shape[-1]), dim=-1)
    return torch.zeros_like(p).scatter(-1, found.indices, found.values)


def _noisy(p: Tensor, generator: torch.Generator) -> Tensor:
    moved = (p + 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float32)).clamp(min=0.0)
    return moved / moved.sum(-1, keepdim=True).clamp(min=1e-6)


def _half_random(p: Tensor, generator: torch.Generator) -> Tensor:
    chosen = torch.rand(p.shape[:-1], generator=generator)[..., None] < 0.5
    return torch.where(chosen, _even(p, generator), p)


FORMS: dict[str, Change] = {
    "as it is": lambda p, g: p,
    "its top class with its score": lambda p, g: _top(p, 1),
    "rounded to one digit": lambda p, g: (p * 10).round() / 10,
    "its top three classes": lambda p, g: _top(p, 3),
    "with noise": _noisy,
    "mixed with even answers": lambda p, g: 0.5 * p + 0.5 / p.shape[-1],
    "half of it random": _half_random,
}
LABELS = "its labels"


@dataclass(frozen=True)
class Trial:
    """One pseudo-suspect: what it is, its p-value, and whether it was convicted."""

    name: str
    p: float
    convicted: bool


def try_reference(reference: Reference, alpha: float = ALPHA, skip: tuple[str, ...] = ()) -> list[Trial]:
    """Judge every pseudo-suspect at level ``alpha``.

    Args:
        reference: of the lineage encoder, complete but for what the trials say of it.
        alpha: level on each side.
        skip: names of innocents that are not tried.

    Returns:
        Trials in a fixed order; every random choice is seeded.
    """
    out = [
        _judge(reference.statistic.scorer, reference, name, answers, hard, alpha)
        for name, answers, hard in garbage(reference)
    ]
    innocents = [i for i in reference.innocents if reference.records[i].name not in skip]
    for turn, row in enumerate(_some(innocents, INNOCENTS)):
        rest = np.array([i for i in reference.innocents if i != row], dtype=np.int64)
        without = _scorers(reference, rest)
        names = [*FORMS, LABELS]
        wanted = {names[0]} | {names[1 + (turn * (FORMS_EACH - 1) + k) % (len(names) - 1)] for k in (0, 1)}
        out += _degraded(reference, row, wanted, without, alpha)
    twins = [i for i, r in enumerate(reference.records) if r.relation == "twin"]
    if len(twins) >= 3:
        for row in _some(twins, TWINS):
            smaller = _without(reference, row)
            out += _degraded(reference, row, {*FORMS, LABELS}, smaller.statistic.scorer, alpha, smaller)
    return out


def _some(rows: list[int], most: int) -> list[int]:
    """At most so many of them, spread evenly."""
    return rows if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]


def _lineage(scorer: Any) -> LineageScorer:
    assert isinstance(scorer, LineageScorer)
    return scorer


def _without(reference: Reference, row: int) -> Reference:
    """The reference as it would be without one twin and its surrogates: features are centred anew."""
    name = reference.records[row].name
    keep = [i for i, r in enumerate(reference.records) if i != row and r.candidate != name]
    records = tuple(reference.records[i] for i in keep)
    answers, labels = reference.answers[keep], reference.labels[keep]
    return replace(reference, records=records, answers=answers, labels=labels, _cache={})


def _scorers(reference: Reference, innocents: NDArray[np.int64]) -> Callable[[Form], LineageScorer]:
    """What suspects of a form are compared with where only these rows are innocents."""
    return lambda form: _lineage(reference.statistic.scorer(form)).with_innocents(innocents)


def _judge(
    scorers: Callable[[Form], Scorer],
    reference: Reference,
    name: str,
    answers: Tensor,
    hard: bool,
    alpha: float,
) -> Trial:
    """Beside innocents that are shown alike, as a verdict has it."""
    form = forms.LABELS if hard else forms.form_of(answers.flatten(0, -2))
    outcome = decide(scorers(form).assess(reference.statistic.features(answers, hard)), alpha)
    return Trial(name, outcome.p, outcome.decision == "piracy")


def _degraded(
    reference: Reference,
    row: int,
    wanted: set[str],
    scorers: Callable[[Form], Scorer],
    alpha: float,
    judged_by: Reference | None = None,
) -> list[Trial]:
    """One model of the pool, left out of what it is compared with, in the forms wanted."""
    judge = judged_by or reference
    generator = torch.Generator().manual_seed(SEED + row)
    out = []
    for form, change in FORMS.items():
        if form in wanted:
            answers = change(reference.answers[row], generator)
            name = f"{reference.records[row].name}, {form}"
            out.append(_judge(scorers, judge, name, answers, False, alpha))
    if LABELS in wanted:
        answers = one_hot(reference.labels[row], reference.answers.shape[-1]).to(torch.float32)
        name = f"{reference.records[row].name}, {LABELS}"
        out.append(_judge(scorers, judge, name, answers, True, alpha))
    return out


def garbage(reference: Reference) -> Iterator[tuple[str, Tensor, bool]]:
    """Answers ``[V,B,n,R]`` that say nothing: name, answers, whether they are labels only."""
    plan, classes = reference.plan, reference.classes
    shape = (plan.views, plan.blocks, plan.per_view)

    def shown(answers: Tensor) -> Tensor:
        return reduce_classes(answers.reshape(*shape, classes), reference.keep)

    def labelled(labels: Tensor) -> Tensor:
        return shown(one_hot(labels, classes).to(torch.float32))

    generator = torch.Generator().manual_seed(SEED)
    yield "even answers", shown(torch.full((*shape, classes), 1.0 / classes, dtype=torch.float32)), False
    for label in _some(list(range(classes)), CONSTANTS):
        yield f"class {label} to every query", labelled(torch.full(shape, label)), True
    for k in range(RANDOM):
        name = f"random labels {k + 1}"
        yield name, labelled(torch.randint(classes, shape, generator=generator)), True
    for k in range(RANDOM):
        answers = _even(torch.empty(*shape, classes, dtype=torch.float32), generator)
        yield f"random probabilities {k + 1}", shown(answers), False
    small = torch.cat([_shrunk(chunk) for chunk in plan.chunks()])  # view by view, block by block
    for spread in UNTRAINED:
        weight = torch.randn(small.shape[1], classes, generator=generator, dtype=torch.float32)
        logits = small @ weight
        logits = spread * logits / logits.std().clamp(min=1e-12) + torch.randn(
            classes, generator=generator, dtype=torch.float32
        )
        yield f"an untrained network, spread {spread:g}", shown(logits.softmax(-1)), False


def _shrunk(images: Tensor) -> Tensor:
    """Images as rows of at most ``PIXELS`` x ``PIXELS`` pixels a channel."""
    height, width = images.shape[2:]
    return adaptive_avg_pool2d(images, (min(PIXELS, height), min(PIXELS, width))).flatten(1)


def trials_summary(trials: list[Trial], alpha: float = ALPHA) -> dict[str, Any]:
    """What ``settings["trials"]`` holds; JSON types."""
    worst = min(trials, key=lambda t: t.p)
    return {
        "alpha": alpha,
        "count": len(trials),
        "smallest_p": worst.p,
        "worst": worst.name,
        "convicted": [t.name for t in trials if t.convicted],
    }


__all__ = ["FORMS", "Trial", "garbage", "trials_summary", "try_reference"]
