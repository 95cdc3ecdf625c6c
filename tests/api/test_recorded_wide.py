"""Recorded answers of a suspect with more classes, or with the names of the likeliest only."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import uapfast
from tests.api.recorded_world import World, same
from uapfast.cli import main
from uapfast.errors import InputError
from uapfast.suspects.callable import open_callable
from uapfast.verbs.recorded import verify_recorded

PLACES = (2, 5, 3, 4, 9, 6, 7, 13, 8, 12)  # of ours among its 14
MORE = [f"digit {PLACES.index(k)}" if k in PLACES else f"letter {k}" for k in range(14)]


@pytest.fixture(scope="session")
def world(recorded_world: World) -> World:
    return recorded_world


def wide(model: nn.Module):
    """The model, knowing four other classes, which it gives a little of everything."""

    def asked(x):
        logits = torch.full((len(x), 14), -6.0)
        logits[:, list(PLACES)] = model(x)
        return logits

    return asked


def top(p: torch.Tensor, count: int) -> torch.Tensor:
    return torch.where(p >= p.topk(count).values[:, -1:], p, 0.0)


def wide_table(world, form: str) -> pd.DataFrame:
    p = wide(world.victim)(torch.as_tensor(world.queries["x"])).softmax(-1).numpy()
    ids, order = {"id": world.queries["id"]}, np.argsort(-p, 1)
    match form:
        case "columns":
            return pd.DataFrame({**ids, **{f"p_{i}": p[:, i] for i in range(14)}})
        case "named columns":
            return pd.DataFrame({**ids, **{MORE[i]: p[:, i] for i in reversed(range(14))}})
        case "label":
            return pd.DataFrame({**ids, "label": p.argmax(1)})
        case "name":
            return pd.DataFrame({**ids, "label": [MORE[i] for i in p.argmax(1)]})
    named = np.array(MORE if form == "top names" else list(range(14)))
    labels = {f"label_{k + 1}": named[order[:, k]] for k in range(5)}
    scores = {f"score_{k + 1}": np.take_along_axis(p, order, 1)[:, k] for k in range(5)}
    return pd.DataFrame({**ids, **labels, **scores})


def live(form: str, model: nn.Module):
    """The same suspect, asked as it is."""
    asked = wide(model)
    if form in ("label", "name"):
        return lambda x: asked(x).argmax(-1)
    return lambda x: top(asked(x).softmax(-1), 5) if "top" in form else asked(x).softmax(-1)


@pytest.mark.parametrize("form", ["columns", "named columns", "label", "name", "top", "top names"])
def test_tables_of_a_suspect_with_more_classes(world, form):
    path, names = world.folder / "wide.csv", MORE if "name" in form else None
    wide_table(world, form).to_csv(path, index=False)
    found = verify_recorded(world.reference, path, class_names=names, class_order=PLACES)
    same(found, uapfast.verify(world.reference, live(form, world.victim), class_order=PLACES))
    assert any("read in the given class order" in reason for reason in found.reasons)
    if form in ("columns", "named columns"):
        same(found, uapfast.verify(world.reference, world.victim))
    # without an order nothing is assumed: an error, or no usable answers
    if names is not None:
        with pytest.raises(InputError, match="class order says which"):
            verify_recorded(world.reference, path, class_names=names)
    elif form == "columns":
        verdict = verify_recorded(world.reference, path)
        assert verdict.decision == "invalid" and "class order says which" in verdict.reasons[0]
    else:
        with pytest.raises(InputError, match=r"label must be a class 0\.\.9"):
            verify_recorded(world.reference, path)


@pytest.mark.parametrize("form", ["logits", "probabilities", "labels"])
def test_npz_of_a_suspect_with_more_classes(world, form):
    asked = {
        "logits": wide(world.victim),
        "probabilities": lambda x: wide(world.victim)(x).softmax(-1),
        "labels": lambda x: wide(world.victim)(x).argmax(-1),
    }[form]
    values = asked(torch.as_tensor(world.queries["x"])).numpy()
    path = world.save("wide.npz", id=world.queries["id"], **{form: values})
    for names in (None, MORE):
        found = verify_recorded(world.reference, path, class_order=PLACES, class_names=names)
        same(found, uapfast.verify(world.reference, asked, class_order=PLACES))
    assert found.decision == ("piracy" if form != "labels" else "inconclusive")


def test_five_of_a_thousand_names_a_picture(world):
    """As a pipeline for ImageNet answers; ours are somewhere among its classes."""
    names = [f"class {k}" for k in range(1000)]
    places = [(137 * k + 5) % 1000 for k in range(10)]

    def pipeline(images):
        p = torch.zeros(len(images), 1000)
        p[:, places] = world.victim(images).softmax(-1)
        p[:, 999] = 1e-7
        best = p.topk(5)
        return [
            [{"label": names[int(k)], "score": float(v)} for v, k in zip(row, at, strict=True)]
            for row, at in zip(best.values, best.indices, strict=True)
        ]

    suspect = open_callable(pipeline, class_names=names)
    with pytest.raises(InputError, match="class names must be 10.*class order says which.*got 1000"):
        uapfast.verify(world.reference, suspect)
    found = uapfast.verify(world.reference, suspect, class_order=places)
    same(found, uapfast.verify(world.reference, lambda x: top(world.victim(x).softmax(-1), 5)))
    assert found.decision == "piracy" and found.output == "probabilities"
    assert any("without a place in it were left out" in reason for reason in found.reasons)
    labels = open_callable(
        lambda x: [names[places[int(k)]] for k in world.victim(x).argmax(1)], class_names=names
    )
    same(
        uapfast.verify(world.reference, labels, class_order=places),
        uapfast.verify(world.reference, lambda x: world.victim(x).argmax(1)),
    )


def test_the_command_takes_more_classes(world, capfd, tmp_path):
    wide_table(world, "top names").to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "names.txt").write_text("\n".join(MORE))
    given = ["verify", str(world.folder / "r.uapref"), "--answers", str(tmp_path / "a.csv"), "--json"]
    given += ["--class-names", str(tmp_path / "names.txt")]
    assert main(given) == 2 and "class order says which" in capfd.readouterr().err
    assert main([*given, "--class-order", ",".join(map(str, PLACES))]) == 1
    assert json.loads(capfd.readouterr().out)["decision"] == "piracy"
