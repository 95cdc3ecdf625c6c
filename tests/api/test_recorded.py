"""Queries handed out and answers that come back: the same verdict, whatever the file and what is missing."""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import uapfast
from tests.api.mlp import shipped
from uapfast.cli import main
from uapfast.errors import InputError, StorageError
from uapfast.examination import Design, Examination
from uapfast.method.sequential import Looks
from uapfast.models.checkpoint import save_weights
from uapfast.models.model import Model
from uapfast.suspects.callable import open_callable
from uapfast.verbs.queries import numbered, write_queries
from uapfast.verbs.recorded import verify_recorded

MLP = "uapfast:mlp-small?size=8"
CONFIG = uapfast.GenerateConfig(points=25, views=8, ray=(0.0, 0.2), uap_images=100, min_fooling=0.0)
NAMES = [f"digit {i}" for i in range(10)]


def train(x, y, seed: int) -> nn.Module:
    return shipped(MLP, x, y, seed).requires_grad_(False)


@dataclass
class World:
    folder: Path
    reference: uapfast.Reference
    victim: nn.Module
    honest: nn.Module
    queries: dict[str, np.ndarray]

    def answers(self, model: nn.Module, x: np.ndarray | None = None) -> np.ndarray:
        return model(torch.as_tensor(self.queries["x"] if x is None else x)).numpy()

    def save(self, name: str, **arrays: np.ndarray) -> Path:
        path = self.folder / name
        np.savez(path, **arrays)
        return path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("recorded")
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    own, other = slice(0, 900), slice(900, 1797)
    victim = train(x[own], y[own], 0)
    homologous = [train(x[(own, other)[s % 2]], y[(own, other)[s % 2]], 20 + s) for s in range(12)]
    twins = [train(x[own], y[own], s) for s in range(1, 9)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = uapfast.Pool.from_models(twins=twins, homologous=homologous)
        reference = uapfast.generate(victim, x[other], y[other], pool=pool, config=CONFIG)
    reference = dataclasses.replace(reference, settings={**reference.settings, "limits": []}, _cache={})
    reference.save(folder / "r.uapref")
    save_weights(victim, folder / "victim.safetensors")
    write_queries(reference, folder / "out")
    with np.load(folder / "out" / "queries.npz") as found:
        queries = dict(found)
    return World(folder, reference, victim, train(x[other], y[other], 60), queries)


def same(found: uapfast.Verdict, wanted: uapfast.Verdict) -> None:
    assert found.decision == wanted.decision and found.queries_used == wanted.queries_used
    assert found.similarity == pytest.approx(wanted.similarity, abs=1e-3)
    assert found.z == pytest.approx(wanted.z, abs=0.05) and found.reference_sha256 == wanted.reference_sha256


# -- what is handed out ----------------------------------------------------------------------------
def test_every_query_and_probe_is_there_once(world):
    plan = world.reference.plan
    wanted = torch.cat([*plan.chunks(), world.reference.probe_images])
    assert {i.tobytes() for i in world.queries["x"]} == {i.numpy().tobytes() for i in wanted}
    ids = world.queries["id"]
    assert len(np.unique(ids)) == len(ids) == len({i.numpy().tobytes() for i in wanted})
    assert world.queries["x"].dtype == np.float32 and ids.dtype == np.int64 and ids.min() >= 0
    assert ids.max() < 2**53  # what JSON's readers keep


def test_ids_tell_nothing_of_the_order(world):
    made = numbered(world.reference)
    place = np.argsort(np.argsort(made.ids.ravel())).reshape(made.ids.shape)
    for axis in range(3):  # views, blocks, points: mean places differ by chance alone
        rest = tuple(a for a in range(3) if a != axis)
        means = place.mean(rest)
        chance = place.size / np.sqrt(12 * place.size / place.shape[axis])
        assert np.abs(means - means.mean()).max() < 4.5 * chance
    assert np.abs(np.corrcoef(place.ravel(), np.arange(place.size))[0, 1]) < 0.2
    assert list(world.queries["id"]) == sorted(world.queries["id"])


def test_ids_belong_to_the_reference_and_are_not_made_of_its_public_hash(world):
    again = uapfast.load(world.folder / "r.uapref")
    assert np.array_equal(numbered(again).ids, numbered(world.reference).ids)
    other = dataclasses.replace(again, answers=again.answers.flip(0), _cache={"sha256": again.sha256})
    assert not np.isin(numbered(other).ids, numbered(again).ids).any()


def test_equal_queries_have_one_id_and_work(world, tmp_path):
    plan = world.reference.plan
    points = world.reference.points.clone()
    points[3], points[40] = points[0], points[0]
    double = dataclasses.replace(world.reference, plan=dataclasses.replace(plan, points=points), _cache={})
    write_queries(double, tmp_path / "out")
    with np.load(tmp_path / "out" / "queries.npz") as found:
        ids, x = found["id"], found["x"]
    assert len(ids) == len(world.queries["id"]) - 2 - sum(
        int(plan.assign[1, i] == plan.assign[1, 0]) for i in (3, 40)
    )
    np.savez(tmp_path / "a.npz", id=ids, logits=world.answers(world.victim, x))
    same(verify_recorded(double, tmp_path / "a.npz"), uapfast.verify(double, world.victim))


def test_the_owner_is_told_of_probes_and_the_other_side_is_not(world, tmp_path):
    found = write_queries(world.reference, tmp_path / "out")
    probes = len(world.reference.probe_images)
    assert found.asked == world.reference.plan.queries == 400 and found.probes == probes > 0
    assert f"{found.queries} images [1, 8, 8], float32: 400 queries and {probes} probes" in found.lines()[0]
    assert (found.queries < 400 + probes) == ("occur twice" in found.lines()[0])
    handed = (tmp_path / "out" / "queries.json").read_text() + (tmp_path / "out" / "README.txt").read_text()
    assert "probes" not in handed and "asked" not in handed


def test_pictures_and_what_is_said_of_them(world):
    out = world.folder / "out"
    assert len(list((out / "png").iterdir())) == len(world.queries["id"])
    worst = 0.0
    for id_, x in zip(world.queries["id"], world.queries["x"], strict=True):
        with Image.open(out / "png" / f"{id_}.png") as image:
            assert image.mode == "L"
            worst = max(worst, float(np.abs(np.asarray(image) / 255.0 - x[0]).max()))
    about = json.loads((out / "queries.json").read_text())
    assert about["png_rounds"] == pytest.approx(worst, abs=1e-6) and about["dtype"] == "float32"
    assert f"{about['png_rounds']:.2g}" in (out / "README.txt").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["README.txt", "png", "queries.json", "queries.npz"]


@pytest.mark.parametrize("channels", [2, 3])
def test_queries_on_the_grid_are_bytes(world, tmp_path, channels):
    plan = world.reference.plan
    points = (world.reference.points * 255).round().expand(-1, channels, -1, -1) / 255
    points = points * torch.linspace(0, 1, channels).view(1, -1, 1, 1)
    points = (points * 255).round() / 255
    grid = dataclasses.replace(
        plan, points=points, uaps=plan.uaps.expand(-1, channels, -1, -1), wire_safe=True
    )
    made = dataclasses.replace(world.reference, plan=grid, probes=None, probe_labels=None, _cache={})
    found = write_queries(made, tmp_path / "out")
    assert found.dtype == "uint8" and found.png_rounds == 0.0
    with np.load(tmp_path / "out" / "queries.npz") as file:
        ids, x = file["id"], file["x"]
    wanted = {(i * 255).round().byte().numpy().tobytes() for i in torch.cat([*grid.chunks()])}
    assert x.dtype == np.uint8 and {i.tobytes() for i in x} == wanted
    if channels == 3:
        with Image.open(tmp_path / "out" / "png" / f"{ids[5]}.png") as image:
            assert image.mode == "RGB" and np.array_equal(np.asarray(image), x[5].transpose(1, 2, 0))
    else:
        assert found.png == 0 and not (tmp_path / "out" / "png").exists() and "2 channels" in found.lines()[1]


def test_written_whole_or_not_at_all(world, tmp_path, monkeypatch):
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").write_text("x")
    with pytest.raises(StorageError, match="empty"):
        write_queries(world.reference, used)
    with pytest.raises(StorageError, match="existing"):
        write_queries(world.reference, tmp_path / "no" / "where")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="No space"):
        write_queries(world.reference, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["used"]


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


def table(world, form: str) -> pd.DataFrame:
    p = world.answers(world.victim)
    p = np.exp(p) / np.exp(p).sum(1, keepdims=True)
    ids = {"id": world.queries["id"]}
    order = np.argsort(-p, 1)
    match form:
        case "label":
            return pd.DataFrame({**ids, "label": p.argmax(1)})
        case "name":
            return pd.DataFrame({"file": "x.png", **ids, "label": [NAMES[i] for i in p.argmax(1)]})
        case "columns":
            return pd.DataFrame({**ids, **{f"p_{i}": p[:, i] for i in reversed(range(10))}})
        case "named columns":
            return pd.DataFrame({**{n: p[:, i] for i, n in reversed(list(enumerate(NAMES)))}, **ids})
    top = range({"top 3": 3, "top names": 10}[form])
    named = np.array(NAMES if form == "top names" else list(range(10)))
    columns = {f"label_{k + 1}": named[order[:, k]] for k in top}
    return pd.DataFrame(
        {**ids, **columns, **{f"score_{k + 1}": np.take_along_axis(p, order, 1)[:, k] for k in top}}
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
    with pytest.raises(InputError, match="10 different classes.*fewer cannot be compared"):
        verify_recorded(world.reference, path, class_order=range(9))


# -- a suspect that knows more classes -----------------------------------------------------------------
PLACES = (2, 5, 3, 4, 9, 6, 7, 13, 8, 12)  # of ours among its 14
MORE = [f"digit {PLACES.index(k)}" if k in PLACES else f"letter {k}" for k in range(14)]


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
    assert any("read in the class order that was given" in reason for reason in found.reasons)
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
    assert any("no place in it were left out" in reason for reason in found.reasons)
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
