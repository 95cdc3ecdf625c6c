"""Answers are told by row with all of them in view: rounded, in percent, cut off, unanswered, or neither."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from uapfast.errors import OutputError, SuspectError
from uapfast.method.fingerprint import reduce_classes
from uapfast.method.scaling import Scaling
from uapfast.models.answers import Answers, detect


def logits(rows: int = 200, classes: int = 10, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))


def softmax() -> Tensor:
    return logits().softmax(-1)


def top(p: Tensor, count: int) -> Tensor:
    best = p.topk(count)
    return torch.zeros_like(p).scatter(1, best.indices, best.values)


def one_hot(p: Tensor) -> Tensor:
    return top(p, 1).sign()


def silenced(p: Tensor) -> Tensor:
    p = p.clone()
    p[::20] = 0
    return p


FORMS = {
    "softmax": (lambda: softmax(), "probabilities", None),
    "logits": (lambda: logits(), "logits", None),
    "logits of a flat head": (lambda: logits() * 1e-3, "logits", None),
    "log-probabilities": (lambda: logits().log_softmax(-1), "logits", None),
    "positive logits": (lambda: logits().exp() * 40, "logits", None),
    "one digit": (lambda: softmax().round(decimals=1), "probabilities", "of 1 digit"),
    "two digits": (lambda: softmax().round(decimals=2), "probabilities", "of 2 digits"),
    "percent": (lambda: softmax() * 100, "probabilities", "percentages: divided by 100$"),
    "whole percent": (lambda: (softmax() * 100).round().int(), "probabilities", "percentages.*of 2 digits"),
    "top-3": (lambda: top(softmax(), 3), "probabilities", "at most 3 classes an answer"),
    "top-3 percent": (lambda: top(softmax(), 3) * 100, "probabilities", "percentages.*at most 3 classes"),
    "some unanswered": (lambda: silenced(softmax()), "probabilities", "10 of 200 rows are zero"),
    "rounding below 0": (lambda: softmax() - 1e-8, "probabilities", None),
    "one-hot": (lambda: one_hot(softmax()), "labels", "one-hot rows: labels$"),
    "one-hot bool": (lambda: one_hot(softmax()) > 0, "labels", "one-hot"),
    "one-hot in percent": (lambda: one_hot(softmax()) * 100, "labels", "one-hot"),
    "top-1 score": (lambda: top(softmax(), 1), "labels", "top-1 scores: labels"),
    "top-1 percent": (lambda: top(softmax(), 1) * 100, "labels", "top-1 scores: labels"),
    "top-1, some unanswered": (lambda: silenced(top(softmax(), 1)), "labels", "top-1.*10 of 200 rows"),
    "nothing but zeros": (lambda: torch.zeros(200, 10), "logits", None),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    make, kind, note = FORMS[name]
    answers = detect(make(), "s", classes=10)
    assert answers.kind == kind
    if note is None:
        assert answers.note is None
    else:
        assert answers.note is not None and re.search(note, answers.note)
    right = softmax().argmax(-1)
    told = answers.labels() >= 0
    if name != "nothing but zeros":
        rounded = "digit" in name or "whole" in name  # ties
        assert (answers.labels() == right)[told].float().mean() > (0.9 if rounded else 0.999)
    assert float(answers.probabilities().max()) <= 1.001


def test_usual_answers_are_not_touched() -> None:
    z, p = logits(), softmax()
    assert all(detect(v, "s").values.data_ptr() == v.data_ptr() for v in (z, p))
    assert torch.equal(detect(z, "s").probabilities(), p)


def test_percentages_are_the_same_answers() -> None:
    torch.testing.assert_close(detect(softmax() * 100, "s").values, softmax())
    torch.testing.assert_close(detect(softmax() * 100, "s", output="probabilities").values, softmax())


def test_zeros_of_one_digit_are_small_and_not_nothing() -> None:
    p = detect(silenced(softmax().round(decimals=1)), "s").values
    rows = p.any(-1)
    assert float(p[rows].min()) > 0 and int((~rows).sum()) == 10
    torch.testing.assert_close(p[rows].sum(-1), torch.ones(190))


def test_nan_of_classes_not_shown() -> None:
    p = top(softmax(), 3)
    answers = detect(torch.where(p > 0, p, torch.nan), "s")
    assert torch.equal(answers.values, p) and "NaN: classes not shown" in str(answers.note)
    with pytest.raises(SuspectError, match="finite"):  # logits are no scores
        detect(torch.where(p > 0, logits(), torch.nan), "s")


ASKED = {
    "logits of some, probabilities of others": lambda: torch.cat([logits()[:150], softmax()[150:]]),
    "percent of some": lambda: torch.cat([softmax()[:100] * 100, softmax()[100:]]),
    "independent scores": lambda: logits().sigmoid(),
    "bytes": lambda: softmax() * 255,
    "top-3 logits": lambda: top(logits().abs() * 3, 3),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_cannot_be_told_is_asked(name: str) -> None:
    values = ASKED[name]()
    with pytest.raises(OutputError, match="told apart .give output=") as caught:
        detect(values, "s")
    assert not isinstance(caught.value, SuspectError)
    assert detect(values, "s", output="logits").kind == "logits"
    assert detect(values, "s", output="labels").kind == "labels"


def test_later_answers_are_read_as_the_first() -> None:
    first = detect(softmax() * 100, "s")
    few = torch.tensor([[3.0, 1.0] + [0.0] * 8])  # alone: scores of whatever kind
    assert torch.equal(detect(few, "s", like=first).values, few / 100)
    assert detect(top(softmax(), 3), "s", like=detect(top(softmax(), 1), "s")).kind == "labels"
    assert detect(softmax(), "s", like=detect(logits(), "s")).kind == "logits"
    with pytest.raises(SuspectError, match="probabilities, as the first answers were"):
        detect(logits(), "s", like=first)
    for kind, values in (("probabilities", softmax() * 100), ("labels", top(softmax(), 1))):
        whole = detect(values, "s")  # the kind alone does, too
        again = [detect(part, "s", output=kind) for part in values.split(50)]
        assert torch.equal(torch.cat([a.values for a in again]), whole.values)


def test_queries_without_an_answer_do_not_count() -> None:
    candidates = torch.stack([(logits() + i * logits(scale=1.0).roll(i, 0)).softmax(-1) for i in range(4)])
    scaling = Scaling.of(candidates.reshape(4, 1, 1, 200, 10).numpy())
    rows = torch.arange(200) % 20 > 0

    def features(answers: Answers) -> np.ndarray:
        shown = answers.probabilities().reshape(1, 1, 200, 10)
        make = scaling.label_features if answers.kind == "labels" else scaling.features
        return make(reduce_classes(shown, None).numpy()).reshape(200, 10)

    for form in (softmax(), one_hot(softmax())):
        whole, some = features(detect(form, "s")), features(detect(silenced(form), "s"))
        assert not some[~rows].any() and whole[~rows].any()
        # fitted to fewer rows, so not quite the same; with zeros in the fit this is .93
        assert np.corrcoef(some[rows].ravel(), whole[rows].ravel())[0, 1] > 0.99
    kept = torch.arange(3).expand(1, 1, 200, 3)
    assert not reduce_classes(torch.zeros(1, 1, 200, 10), kept).any()
