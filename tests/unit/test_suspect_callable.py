"""Functions as suspects: every form of answer comes to the same rows; class names are told, never guessed."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from uapfast.errors import InputError, MissingDependency, OutputError
from uapfast.models.labels import ClassNames, read_class_names
from uapfast.suspects.callable import open_callable

NAMES = ["cat", "dog", "owl", "fox"]
IMAGES = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(3))


def logits(images):
    x = torch.as_tensor(images).flatten(1)
    return 8 * torch.stack([x[:, :4].mean(1), x[:, 4:8].mean(1), x[:, 8:12].mean(1), x[:, 12:].mean(1)], 1)


WANTED = logits(IMAGES).softmax(-1)
LABELS = WANTED.argmax(-1)


def scored(row, top: int = 4):
    order = row.argsort(descending=True)[:top].tolist()
    return [{"label": NAMES[i], "score": float(row[i])} for i in order]


FORMS = {
    "logits": logits,
    "probabilities": lambda x: logits(x).softmax(-1),
    "numpy": lambda x: logits(x).softmax(-1).numpy(),
    "mapping": lambda x: {"logits": logits(x)},
    "lists": lambda x: logits(x).softmax(-1).tolist(),
    "pipeline": lambda x: [scored(row) for row in logits(x).softmax(-1)],
    "tuples": lambda x: tuple(tuple(scored(row)) for row in logits(x).softmax(-1)),
}
LABEL_FORMS = {
    "integers": lambda x: logits(x).argmax(-1),
    "list of integers": lambda x: logits(x).argmax(-1).tolist(),
    "strings": lambda x: [NAMES[i] for i in logits(x).argmax(-1)],
    "array of strings": lambda x: np.array(NAMES)[logits(x).argmax(-1).numpy()],
    "bytes": lambda x: np.array(NAMES).astype("S")[logits(x).argmax(-1).numpy()],
    "objects": lambda x: np.array(NAMES, dtype=object)[logits(x).argmax(-1).numpy()],
}


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_scores(form, batch):
    suspect = open_callable(FORMS[form], class_names=NAMES, batch_size=batch)
    answers = suspect.answers_to([IMAGES], 4)
    torch.testing.assert_close(answers.probabilities(), WANTED, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("form", LABEL_FORMS)
def test_every_form_of_labels(form, batch):
    answers = open_callable(LABEL_FORMS[form], class_names=NAMES, batch_size=batch).answers_to([IMAGES], 4)
    assert answers.kind == "labels" and torch.equal(answers.labels(), LABELS)


def test_a_plain_string_answers_one_picture():
    suspect = open_callable(lambda x: NAMES[int(logits(x).argmax())], class_names=NAMES, batch_size=1)
    assert torch.equal(suspect.answers_to([IMAGES], 4).labels(), LABELS)


def test_top_k_leaves_the_other_classes_out():
    two = open_callable(lambda x: [scored(r, 2) for r in logits(x).softmax(-1)], class_names=NAMES)
    answers = two.answers_to([IMAGES], 4)
    assert answers.kind == "probabilities" and ((answers.values > 0).sum(-1) == 2).all()
    one = open_callable(lambda x: [scored(r, 1)[0] for r in logits(x).softmax(-1)], class_names=NAMES)
    answers = one.answers_to([IMAGES], 4)
    assert answers.kind == "labels" and torch.equal(answers.labels(), LABELS)


def test_logits_of_a_pipeline_have_to_be_whole():
    signed = [[{"label": n, "score": s} for n, s in zip(NAMES, (-1.5, 0.5, -3.0, 2.0), strict=True)]] * 9
    answers = open_callable(lambda x: signed, class_names=NAMES).answers_to([IMAGES], 4)
    assert answers.kind == "logits" and answers.values[0].tolist() == [-1.5, 0.5, -3.0, 2.0]
    with pytest.raises(OutputError, match="2 of 4 classes"):
        open_callable(lambda x: [row[:2] for row in signed], class_names=NAMES).answers_to([IMAGES], 4)


@pytest.mark.parametrize("form", ["numpy", "pil"])
def test_how_images_are_handed_over(form):
    seen = []

    def function(images):
        seen.append(images)
        arrays = images if form == "numpy" else np.stack([np.asarray(i) for i in images])[:, None] / 255.0
        return logits(torch.tensor(arrays, dtype=torch.float32))

    on_grid = (IMAGES * 255).round() / 255
    suspect = open_callable(function, images=form)
    found = suspect.answers_to([on_grid], 4).probabilities()
    torch.testing.assert_close(found, logits(on_grid).softmax(-1))
    assert isinstance(seen[0], np.ndarray if form == "numpy" else list)
    assert ("rounded" in " ".join(suspect.notes)) == (form == "pil")


def test_a_function_may_write_into_what_it_is_handed():
    images = IMAGES.clone()
    open_callable(lambda x: logits(x.mul_(0.5))).answers_to([images], 4)
    open_callable(lambda x: logits(np.multiply(x, 0.5, out=x)), images="numpy").answers_to([images], 4)
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize(
    ("answer", "names", "said"),
    [
        (["cat"] * 8 + ["wolf"], NAMES, "'wolf'"),
        (["cat"] * 9, None, "class names"),
        (["cat"] * 8, NAMES, "9, one per image"),
        ([[{"label": "wolf", "score": 1.0}]] * 9, NAMES, "'wolf'"),
        ([[{"label": "cat", "score": "high"}]] * 9, NAMES, "'high'"),
        ([[{"label": "cat", "score": 0.5}, {"label": "cat", "score": 0.5}]] * 9, NAMES, "'cat' twice"),
        ([[{"label": "cat", "score": 1.0}]] * 8 + [0.5], NAMES, "0.5"),
        (["cat"] * 9, NAMES[:3], "class names must be 4"),
    ],
)
def test_what_cannot_be_read_is_named(answer, names, said):
    with pytest.raises(InputError, match=said):
        open_callable(lambda x: answer, class_names=names).answers_to([IMAGES], 4)


def test_an_empty_list_is_no_answer():
    answer = [scored(row) for row in WANTED]
    answer[2] = []
    found = open_callable(lambda x: answer, class_names=NAMES).answers_to([IMAGES], 4)
    assert found.labels().tolist() == [-1 if i == 2 else int(c) for i, c in enumerate(LABELS)]


def test_two_classes_of_one_name_share_their_scores_and_a_note_says_so():
    names = ClassNames(["crane", "owl", "crane"])
    rows = names.rows([[("crane", 0.6), ("owl", 0.3), ("crane", 0.1)], [("owl", 1.0)]], "test")
    torch.testing.assert_close(rows, torch.tensor([[0.35, 0.3, 0.35], [0, 1.0, 0]]))
    assert names.labels(["crane", "owl"], "test").tolist() == [0, 1] and "crane" in names.notes[0]
    with pytest.raises(OutputError, match="twice"):
        names.rows([[("crane", 0.6), ("crane", 0.3), ("crane", 0.1)]], "test")


@pytest.mark.parametrize(
    "settings",
    [
        {"output": "scores"},
        {"images": "jpeg"},
        {"batch_size": 0},
        {"class_names": ["one"]},
        {"class_names": [1, 2]},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(InputError, match=next(iter(settings)).replace("class_names", "class names")):
        open_callable(logits, **settings)


def test_no_function_and_no_module():
    for target in (3, torch.nn.Identity()):
        with pytest.raises(InputError, match=type(target).__name__):
            open_callable(target)


def test_pictures_need_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependency, match="Pillow"):
        open_callable(logits, images="pil")


def test_errors_of_the_function_pass_as_they_are():
    def broken(images):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        open_callable(broken).answers_to([IMAGES], 4)


def test_names_from_a_file(tmp_path):
    path = tmp_path / "names"
    numbered = {str(i): n for i, n in reversed(list(enumerate(NAMES)))}
    for text in ("cat\ndog\nowl \nfox\n\n", json.dumps(NAMES), json.dumps(numbered),
                 json.dumps({"id2label": numbered, "x": 1})):  # fmt: skip
        path.write_text(text)
        assert read_class_names(path) == NAMES
    for text in ("", "cat\n", '{"0": "cat", "2": "dog"}', "[1, 2]", "[" * 10_000, "{", '{"id2label": 3}'):
        path.write_text(text)
        with pytest.raises(InputError):
            read_class_names(path)
    with pytest.raises(InputError, match="nowhere"):
        read_class_names(tmp_path / "nowhere")
