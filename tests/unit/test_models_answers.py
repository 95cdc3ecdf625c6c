"""Logits, probabilities and labels are told apart, and what cannot be used is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uapfast.errors import InputError, OutputError, SuspectError
from uapfast.models.answers import detect


def logits(rows: int = 40, classes: int = 5, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def test_kinds() -> None:
    z = logits()
    assert detect(z, "s").kind == "logits"
    assert detect(z.softmax(-1), "s").kind == "probabilities"
    assert detect(z.argmax(-1), "s").kind == "labels"
    assert detect(z.double().numpy(), "s").values.dtype == torch.float32
    assert detect(z.argmax(-1).to(torch.int32).numpy(), "s").values.dtype == torch.int64


@given(st.integers(0, 10_000), st.integers(2, 30), st.sampled_from([1, 2, 3]))
@settings(deadline=None, max_examples=60)
def test_rounded_and_truncated_probabilities_are_probabilities(seed: int, classes: int, digits: int) -> None:
    """Two digits, or the top 5 classes only, is what remote services give."""
    p = logits(8, classes, seed=seed).softmax(-1)
    if digits > 1 or classes < 5:
        assert detect(torch.round(p, decimals=max(2, digits)), "s").kind == "probabilities"
    top = p.topk(min(5, classes))
    cut = torch.zeros_like(p).scatter(1, top.indices, top.values)
    if bool((cut.sum(-1) >= 0.5).all()):
        assert detect(cut, "s").kind == "probabilities"


@given(st.integers(0, 10_000), st.integers(2, 50), st.floats(0.5, 30))
@settings(deadline=None, max_examples=60)
def test_probabilities_and_labels_of_each_kind_agree(seed: int, classes: int, scale: float) -> None:
    z = logits(30, classes, scale, seed)
    a, p, y = detect(z, "s"), detect(z.softmax(-1), "s"), detect(z.argmax(-1), "s", classes=classes)
    assert torch.equal(a.labels(), y.labels())
    for answers in (a, p, y):
        rows = answers.probabilities()
        assert rows.shape == (30, classes) and rows.dtype == torch.float32
        assert torch.allclose(rows.sum(-1), torch.ones(30), atol=1e-5)
    assert torch.allclose(a.probabilities(), p.probabilities(), atol=1e-6)


def test_said_kind_wins_over_looks() -> None:
    p = logits().softmax(-1)
    assert detect(p, "s", output="logits").kind == "logits"
    assert torch.equal(detect(logits(), "s", output="labels").labels(), logits().argmax(-1))
    assert detect([1.0, 0.0, 2.0], "s", output="labels", classes=5).labels().tolist() == [1, 0, 2]
    with pytest.raises(OutputError, match=r"must be probabilities .* got -\d") as caught:
        detect(logits(), "s", output="probabilities")
    assert not isinstance(caught.value, SuspectError)
    with pytest.raises(OutputError, match=r"\[N\] integer labels, got \[2\]"):
        detect([0.5, 1.0], "s", output="labels")


BAD = {
    "nan": (torch.full((3, 4), float("nan")), "finite, got NaN or infinity"),
    "infinity": (torch.tensor([[0.0, float("inf")]]), "finite"),
    "one nan among many": (torch.where(torch.eye(9) > 0, float("nan"), torch.zeros(9, 9))[:, :4], "finite"),
    "three axes": (torch.zeros(3, 4, 1), r"\[3, 4, 1\]"),
    "scalar": (torch.tensor(1.0), r"\[\]"),
    "complex": (torch.zeros(3, 4, dtype=torch.complex64), r"\[3, 4\]"),
    "negative label": (torch.tensor([0, -1, 2]), "-1"),
    "a number": ({"logits": 1}, r"\[\]"),
}
UNREADABLE = {
    "one column": (torch.zeros(3, 1), r"\[3, 1\] torch.float32"),
    "float vector": (torch.zeros(3), r"\[3\] torch.float32"),
    "words": (
        np.array(["cat", "dog"]),
        "got ndarray of str, 'cat' first .names of classes need .*open_callable with class_names",
    ),
    "a list of words": (
        ["cat", "dog"],
        "got list of str, 'cat' first .names of classes need .*open_callable",
    ),
    "objects": (np.array([None, {}], dtype=object), "an array of numbers"),
    "none": (None, "an array of numbers, got NoneType"),
    "ragged": ([[1.0, 2.0], [3.0]], "an array of numbers, got list"),
    "another dict": ({"out": torch.zeros(3, 4)}, "under one of logits, .* got dict of out"),
    "two entries": ({"logits": logits(), "scores": logits()}, "got dict of logits, scores"),
    "an empty dict": ({}, "got dict of nothing"),
    "no table": ((torch.zeros(3, 4, 5), torch.zeros(2)), r"got tuple of \[\[3, 4, 5\], \[2\]\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used(name: str) -> None:
    values, said = BAD[name]
    with pytest.raises(SuspectError, match=said) as caught:
        detect(values, "the-suspect")
    assert caught.value.where == "the-suspect"


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_the_askers(name: str) -> None:
    values, said = UNREADABLE[name]
    with pytest.raises(OutputError, match=said) as caught:
        detect(values, "the-suspect")
    assert not isinstance(caught.value, SuspectError)


def test_counts_are_checked() -> None:
    with pytest.raises(SuspectError, match=r"41 rows, one per query, got \[40, 5\]"):
        detect(logits(), "s", rows=41)
    with pytest.raises(
        SuspectError, match=r"of 7 classes \(one that knows fewer cannot be compared\), got 5"
    ):
        detect(logits(), "s", classes=7)
    with pytest.raises(
        SuspectError, match=r"labels in 0\.\.3 \(of one that knows more, .* mean ours\), got 0\.\.4"
    ):
        detect(torch.arange(5), "s", classes=4)


@given(
    st.one_of(
        st.none(),
        st.text(),
        st.integers(),
        st.lists(st.floats()),
        st.lists(st.lists(st.integers(), max_size=3)),
    )
)
@settings(deadline=None, max_examples=150)
def test_anything_returned_gives_answers_or_a_typed_error(values: object) -> None:
    try:
        answers = detect(values, "s")
    except InputError:
        return
    assert torch.isfinite(answers.probabilities()).all()
