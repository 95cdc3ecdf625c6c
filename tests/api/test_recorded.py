"""Answers that come back: the same verdict, whatever the file and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import uapfast
from tests.api.owner import MLP
from tests.api.recorded_world import NAMES, World, same, table
from uapfast.cli import main
from uapfast.errors import InputError
from uapfast.examination import Design, Examination
from uapfast.method.sequential import Looks
from uapfast.models.model import Model
from uapfast.suspects.callable import open_callable
from uapfast.verbs.queries import numbered
from uapfast.verbs.recorded import verify_recorded


@pytest.fixture(scope="session")
def world(recorded_world: World) -> World:
    return recorded_world


# -- what comes back -------------------------------------------------------------------------------
@pytest.mark.parametrize("who", ["victim", "honest"])
@pytest.mark.parametrize("form", ["logits", "probabilities", "labels"])
def test_npz_in_any_order(world, who, form):
    model = getattr(world, who)
    asked = {
        "logits": model,
        "probabilities": lambda x: model(x).softmax(-1),
        "labels": lambda x: model(x).argmax(-1),
    }[form]
    order = np.random.default_rng(1).permutation(len(world.queries["id"]))
    values = asked(torch.as_tensor(world.queries["x"])).numpy()
    path = world.save("a.npz", id=world.queries["id"][order], **{form: values[order]})
    found, wanted = verify_recorded(world.reference, path), uapfast.verify(world.reference, asked)
    same(found, wanted)
    assert found.p_value == pytest.approx(wanted.p_value, rel=1e-3) and found.output == form
    assert form != "labels" or found.suspect_sha256 == wanted.suspect_sha256  # of the answers
    assert found.decision != "invalid" and (found.decision == "piracy") == (
        who == "victim" and form != "labels"
    )


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
@pytest.mark.parametrize("form", ["label", "name", "columns", "named columns", "top 3", "top names"])
def test_tables(world, kind, form):
    frame, path = table(world, form).sample(frac=1, random_state=0), world.folder / f"a.{kind}"
    {
        "csv": lambda: frame.to_csv(path, index=False),
        "parquet": lambda: frame.to_parquet(path),
        "json": lambda: frame.to_json(path, orient="records", lines=True, double_precision=15),
    }[kind]()
    labels, model = form in ("label", "name"), world.victim

    def live(x):
        p = model(x).softmax(-1)
        if form == "top 3":
            return torch.where(p >= p.topk(3).values[:, -1:], p, 0.0)
        return p.argmax(-1) if labels else p

    found = verify_recorded(world.reference, path, class_names=NAMES if "name" in form else None)
    same(found, uapfast.verify(world.reference, live))
    assert found.output == ("labels" if labels else "probabilities")


def test_lists_in_json(world):
    path = world.folder / "lists.jsonl"
    rows = zip(world.queries["id"].tolist(), world.answers(world.victim).tolist(), strict=True)
    path.write_text("\n".join(json.dumps({"id": i, "logits": r}) for i, r in rows))
    same(verify_recorded(world.reference, path), uapfast.verify(world.reference, world.victim))


def test_pictures_answered(world):
    """8 bits cost as much as they cost a suspect that is asked with rounded queries, and no more."""
    ids, rows = [], []
    for path in (world.folder / "out" / "png").iterdir():
        with Image.open(path) as image:
            ids.append(int(path.stem))
            rows.append(np.asarray(image, np.float32)[None] / np.float32(255))
    path = world.save("png.npz", id=np.array(ids), logits=world.answers(world.victim, np.stack(rows)))
    found = verify_recorded(world.reference, path)
    same(found, uapfast.verify(world.reference, lambda x: world.victim((x * 255).round() / 255)))
    exact = uapfast.verify(world.reference, world.victim)
    assert found.decision == exact.decision == "piracy" and abs(found.similarity - exact.similarity) < 0.02


def test_answers_to_queries_of_another_order_of_classes(world):
    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
    values = world.answers(world.victim)[:, np.argsort(order)]
    path = world.save("order.npz", id=world.queries["id"], logits=values)
    wrong = verify_recorded(world.reference, path)
    assert wrong.decision == "invalid" and ",".join(map(str, order)) in wrong.reasons[0]
    found = verify_recorded(world.reference, path, class_order=order)
    same(found, uapfast.verify(world.reference, world.victim))


def test_a_function_that_answers_with_names(world):
    def pipeline(images):
        rows = world.victim(images).softmax(-1).tolist()
        return [[{"label": n, "score": p} for n, p in zip(NAMES, row, strict=True)] for row in rows]

    suspect = open_callable(pipeline, class_names=NAMES)
    same(uapfast.verify(world.reference, suspect), uapfast.verify(world.reference, world.victim))
    costly = open_callable(lambda x: world.honest(x), costly=True)
    found = uapfast.verify(world.reference, costly)
    assert found.decision == uapfast.verify(world.reference, world.honest).decision
    assert found.queries_used < world.reference.plan.queries
    with pytest.raises(InputError, match="class names must be 10.*fewer cannot be compared.*got 9"):
        uapfast.verify(world.reference, open_callable(pipeline, class_names=NAMES[:9]))


# -- a part ----------------------------------------------------------------------------------------
def part_of(world, keep: np.ndarray, name: str = "part.npz") -> Path:
    there = np.isin(world.queries["id"], keep)
    return world.save(name, id=world.queries["id"][there], logits=world.answers(world.victim)[there])


def test_whole_views_are_examined_as_a_reference_of_these_views_would_be(world):
    made, views = numbered(world.reference), [0, 1, 4, 5, 6]
    found = verify_recorded(world.reference, part_of(world, made.ids[views]))
    assert found.decision == "piracy" and found.views_used == 5 and found.queries_used == 5 * 2 * 25
    missing = world.reference.plan.queries - 250
    assert f"{missing} of {missing + 250} queries are not answered: judged by 5 of 8 views" in " ".join(
        found.reasons
    )
    few = verify_recorded(world.reference, part_of(world, made.ids[views[2:]]))
    assert few.decision == "inconclusive" and few.views_used == 3 and few.p_value <= few.alpha
    assert few.reasons[0].startswith("3 views convict nobody")
    # the first two views are what a look after two views sees
    first = verify_recorded(world.reference, part_of(world, made.ids[:2]))
    examination = Examination(Design(world.reference, Looks.single(2)), alpha=1e-3)
    examination.take(Model(world.victim).answers_to(examination.images(), 10))
    assert first.similarity == pytest.approx(examination.verdict().similarity, abs=1e-5)
    assert first.z == pytest.approx(examination.verdict().z, rel=1e-4)


def test_some_missing_queries_cost_some_points_of_every_view(world):
    made, rng = numbered(world.reference), np.random.default_rng(0)
    lost = rng.choice(made.ids.ravel(), 12, replace=False)
    keep = np.setdiff1d(world.queries["id"], lost)
    found = verify_recorded(world.reference, part_of(world, keep))
    assert found.decision == "piracy" and found.reference_sha256 == world.reference.sha256
    exact = uapfast.verify(world.reference, world.victim)
    assert found.queries_used > 0.75 * exact.queries_used and "12 of 400" in " ".join(found.reasons)
    assert found.similarity == pytest.approx(exact.similarity, abs=0.05)


def test_probes_need_no_answers(world):
    found = verify_recorded(world.reference, part_of(world, numbered(world.reference).ids))
    same(found, uapfast.verify(world.reference, world.victim))
    assert not any("not answered" in reason for reason in found.reasons)


def test_too_few_answers_are_refused_and_missing_ids_named(world):
    made = numbered(world.reference)
    with pytest.raises(InputError, match="one view's worth") as caught:
        verify_recorded(world.reference, part_of(world, made.ids[:, 0]))  # one block of two
    assert str(np.unique(made.ids[:, 1])[0]) in str(caught.value)


# -- what is refused -------------------------------------------------------------------------------
def test_foreign_and_double_ids_are_named(world):
    ids, values = world.queries["id"], world.answers(world.victim)
    with pytest.raises(InputError, match="id must be ids of this reference.*others: 7"):
        verify_recorded(
            world.reference, world.save("f.npz", id=np.append(ids, 7), logits=values[[0, *range(len(ids))]])
        )
    with pytest.raises(InputError, match=f"once, got 1 more than once: {ids[4]}"):
        verify_recorded(
            world.reference,
            world.save("d.npz", id=ids[[4, *range(len(ids))]], logits=values[[4, *range(len(ids))]]),
        )


def test_as_many_names_as_classes(world):
    path = world.save("c.npz", id=world.queries["id"], labels=world.answers(world.victim).argmax(1))
    order = range(10)
    with pytest.raises(InputError, match="class names must be 10.*fewer cannot be compared.*got 9"):
        verify_recorded(world.reference, path, class_names=NAMES[:9])
    with pytest.raises(InputError, match="class names must be 10.*fewer cannot be compared.*got 9"):
        verify_recorded(world.reference, path, class_names=NAMES[:9], class_order=order)
    with pytest.raises(InputError, match="class names must be 10.*class order says which.*got 11"):
        verify_recorded(world.reference, path, class_names=[*NAMES, "ten"])
    with pytest.raises(InputError, match=r"class order must be .*0\.\.10, got 11"):
        verify_recorded(world.reference, path, class_names=[*NAMES, "ten"], class_order=range(2, 12))
    with pytest.raises(InputError, match="10 different numbers.*fewer cannot be compared"):
        verify_recorded(world.reference, path, class_order=range(9))


def test_nan_is_the_suspects_answer(world):
    values = world.answers(world.victim)
    values[3, 2] = np.nan
    found = verify_recorded(world.reference, world.save("n.npz", id=world.queries["id"], logits=values))
    assert found.decision == "invalid" and "NaN" in found.reasons[0]


def test_the_commands(world, capfd, tmp_path):
    reference, out = str(world.folder / "r.uapref"), str(tmp_path / "q")
    assert main(["queries", reference, "--out", out]) == 0
    said = capfd.readouterr()
    assert "PNG rounds them by up to 0.002 of 0..1" in said.out and "[480/480]" in said.err
    with np.load(tmp_path / "q" / "queries.npz") as found:
        assert np.array_equal(found["id"], world.queries["id"]) and np.array_equal(
            found["x"], world.queries["x"]
        )
    frame = table(world, "top names")
    frame.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    arguments = ["verify", reference, "--answers", str(tmp_path / "a.csv")]
    code = main([*arguments, "--class-names", str(tmp_path / "names.txt"), "--json"])
    verdict = json.loads(capfd.readouterr().out)
    assert code == 1 and verdict["decision"] == "piracy" and verdict["output"] == "probabilities"
    weights = str(world.folder / "victim.safetensors")
    for given, said in (
        (arguments, "class names"),
        ([*arguments, "--weights", weights], "got --weights and --answers"),
        (["verify", reference], "one of SUSPECT, --weights, --answers, got none"),
        (["verify", reference, "--arch", MLP], "one of SUSPECT, --weights, --answers, got none"),
        (["verify", reference, "--arch", MLP, "--weights", weights, "--class-names", "x"], "--class-names"),
        ([*arguments, "--class-names", "nowhere"], "nowhere"),
        (["verify", reference, "--answers", "nowhere.csv"], "nowhere.csv"),
    ):
        assert main(given) == 2 and said in capfd.readouterr().err
