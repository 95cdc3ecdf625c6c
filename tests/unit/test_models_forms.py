"""In which form answers are shown, and whole answers brought to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uapfast.method.fingerprint import reduce_classes
from uapfast.models.answers import detect, joint_form
from uapfast.models.forms import LABELS, WHOLE, Form, form_of


def logits(rows: int = 300, classes: int = 10, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator)


def softmax(rows: int = 300, classes: int = 10, seed: int = 0, scale: float = 3.0) -> Tensor:
    return logits(rows, classes, seed, scale).softmax(-1)


def top(p: Tensor, count: int) -> Tensor:
    kept = p.topk(count, dim=-1)
    return torch.zeros_like(p).scatter(-1, kept.indices, kept.values)


def in_steps(p: Tensor, parts: float) -> Tensor:
    return (p * parts).round() / parts


SHOWN: dict[str, tuple[Callable[[Tensor], Tensor], Form, str]] = {
    "one digit": (lambda p: in_steps(p, 10), Form(step=0.1), "probabilities of 1 digit"),
    **{
        f"{d} digits": (
            lambda p, d=d: in_steps(p, 10**d), Form(step=10.0**-d), f"probabilities of {d} digits",
        )
        for d in (2, 3, 4, 6)
    },
    "8 bits": (lambda p: in_steps(p, 255), Form(step=1 / 255), "probabilities in steps of 1/255"),
    "4,096 levels": (lambda p: in_steps(p, 4095), Form(step=1 / 4095), "probabilities in steps of 1/4095"),
    "top 3": (lambda p: top(p, 3), Form(top=3), "at most 3 classes an answer"),
    "top 3, scaled": (
        lambda p: top(p, 3) / top(p, 3).sum(-1, keepdim=True), Form(top=3, scaled=True),
        "at most 3 classes an answer",
    ),
    "top 2 of 2 digits": (
        lambda p: in_steps(top(p, 2), 100), Form(top=2, step=0.01),
        "at most 2 classes an answer, probabilities of 2 digits",
    ),
    "from .05": (lambda p: torch.where(p >= 0.05, p, 0.0), Form(above=0.05), "classes of 0.05 or more"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_form_is_told_and_what_is_brought_to_it_is_what_would_have_been_shown(name: str) -> None:
    show, form, said = SHOWN[name]
    found = form_of(show(softmax()))
    assert found == form and str(found) == said
    other = softmax(seed=1, scale=2.0)
    away = (found.apply(other) - show(other)).abs()  # what lies between two steps may go either way
    assert (away <= 5e-7).float().mean() > 0.8 and float(away.max()) <= 1.2 * (form.step or 1e-7)


@pytest.mark.parametrize("name", SHOWN)
def test_a_form_leaves_the_answers_that_it_was_told_from_as_they_are(name: str) -> None:
    shown = SHOWN[name][0](softmax(seed=2))
    torch.testing.assert_close(form_of(shown).apply(shown), shown, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0, 60.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("rows", [4, 40, 400])
def test_floats_are_whole(scale: float, classes: int, rows: int) -> None:
    """Saturated ones, too, which have zeros; and what half a precision leaves is no digits."""
    z = logits(rows, classes, scale=scale)
    assert form_of(z.softmax(-1)).step is None
    assert form_of(z.double().softmax(-1).float()).step is None
    step = form_of(z.half().softmax(-1).float()).step
    assert step is None or step < 1e-3, "a float of 16 bits is finer where it is small"
    assert form_of(z.softmax(-1)).top is None or scale >= 10.0
    assert form_of(z.softmax(-1)).above is None


def test_percentages_and_fills_are_told_from_what_was_given() -> None:
    whole = detect((softmax() * 100).round(), "s")
    assert whole.form == Form(step=0.01)
    digit = detect(in_steps(softmax(), 10), "s")
    assert digit.form == Form(step=0.1, fill=5e-4)
    torch.testing.assert_close(digit.form.apply(softmax()), digit.values)
    assert detect(logits(), "s").form == WHOLE and detect(softmax(), "s").form == WHOLE
    assert detect(logits().argmax(-1), "s", classes=10).form == LABELS
    assert detect(top(softmax(), 1), "s").form == LABELS
    p = top(softmax(), 3)
    assert detect(torch.where(p > 0, p, torch.nan), "s").form == Form(top=3)


def test_a_step_that_is_no_part_of_one() -> None:
    shown = (softmax() / 0.003917).round() * 0.003917
    found = form_of(shown)
    assert found.step == pytest.approx(0.003917, rel=1e-4)
    torch.testing.assert_close(found.apply(shown), shown, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(parts=st.sampled_from([100, 255, 4096, 10_000]), seed=st.integers(0, 99), cut=st.integers(20, 280))
def test_more_answers_take_less_away(parts: int, seed: int, cut: int) -> None:
    """So that the last of several looks, which sees all, has the form of all at once."""
    p = in_steps(softmax(seed=seed), parts)
    parts_of_it = [detect(x, "s", output="probabilities") for x in p.split([cut, 300 - cut])]
    assert joint_form(parts_of_it) == form_of(p)
    first, both = form_of(p[:cut]), form_of(p)
    assert both.step is not None and (first.step is None or first.step >= both.step * (1 - 1e-9))


def test_few_numbers_are_no_grid() -> None:
    assert form_of(torch.tensor([[0.5, 0.5], [0.5, 0.5]])) == WHOLE
    assert form_of(torch.zeros(5, 4)) == WHOLE and form_of(torch.zeros(0, 4)) == WHOLE


@pytest.mark.parametrize("name", ["2 digits", "one digit", "4 digits"])
def test_hidden_classes_are_what_is_left(name: str) -> None:
    """Where classes were summed up before, the other columns say what a suspect's would."""
    p, keep = softmax(200, 50), softmax(200, 50).topk(8, dim=-1).indices
    show = SHOWN[name][0]
    answers = detect(show(p), "s", output="probabilities")
    found = answers.form.apply(reduce_classes(p, keep), hidden=50 - 8)
    away = (found - reduce_classes(answers.values, keep)).abs().amax(-1)
    few = answers.form.fill > 0  # then a hidden class that is shown is not known of
    assert (away <= 2e-5).float().mean() > (0.7 if few else 0.99)


def test_rows_without_an_answer_stay() -> None:
    p = softmax()
    p[::3] = 0.0
    for form in (Form(step=0.1, fill=5e-4), Form(top=2), Form(top=2, scaled=True), LABELS, Form(above=0.2)):
        found = form.apply(p)
        assert not found[::3].any() and found[1::3].any(-1).all()
