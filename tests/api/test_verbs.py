"""generate, encode, verify and the reference file, on real small models (scikit-learn's digits)."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

import uapfast
from tests.api.mlp import train
from uapfast.errors import (
    DataError,
    FoolingRateError,
    InputError,
    ModelError,
    PoolError,
    PoolWarning,
    ReferenceFileError,
    StorageError,
)
from uapfast.examination.calibration import summary
from uapfast.models.forms import LABELS
from uapfast.models.model import Model
from uapfast.reference_file import FORMAT

SMALL = uapfast.GenerateConfig(points=40, views=10, uap_images=200, eps=0.2, min_fooling=0.1, seed=0)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


@pytest.fixture(scope="module")
def world() -> dict:
    torch.set_num_threads(1)
    x, y = data()
    own, thief = slice(0, 700), slice(700, 1400)
    victim = train(x[own], y[own], 0)
    twins = [train(x[own], y[own], s) for s in range(1, 8)]
    homologous = [
        train(x[own if s % 2 else thief], y[own if s % 2 else thief], 20 + s, width=24 + 8 * (s % 4))
        for s in range(14)
    ]
    with torch.no_grad():
        soft = victim(x[thief]).softmax(-1)
    tuned = copy.deepcopy(victim)
    optimizer = torch.optim.Adam(tuned.parameters(), lr=2e-4)
    for _ in range(10):
        loss = nn.functional.cross_entropy(tuned(x[thief]), y[thief])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "x": x,
        "y": y,
        "victim": victim,
        "twins": twins,
        "homologous": homologous,
        "pool": uapfast.Pool.from_models(twins=twins, homologous=homologous),
        "extracted": train(x[thief], soft, 50, steps=600),
        "tuned": tuned.eval(),
        "innocents": [train(x[own], y[own], 60 + s, width=40) for s in range(3)],
    }


@pytest.fixture(scope="module")
def reference(world) -> uapfast.Reference:
    with pytest.warns(PoolWarning, match="at least 8 twins, got 7"):
        return uapfast.generate(world["victim"], world["x"], world["y"], pool=world["pool"], config=SMALL)


def test_copies_are_convicted_and_innocents_are_not(world, reference):
    for name in ("victim", "tuned"):
        verdict = uapfast.verify(reference, world[name], alpha={"victim": 0.01, "tuned": 0.05}[name])
        assert verdict.decision == "piracy", (name, verdict)
        sides = (verdict.p_candidate, verdict.p_suspect, verdict.p_joint)
        assert verdict.rank == 1 and verdict.p_value == max(sides)
    for innocent in world["innocents"]:
        verdict = uapfast.verify(reference, innocent)
        assert verdict.decision != "piracy", verdict
    assert uapfast.verify(reference, world["victim"]).similarity == pytest.approx(1, abs=1e-4)


def test_verdict_states_its_floors_and_settings(world, reference):
    verdict = uapfast.verify(reference, world["extracted"])
    assert verdict.p_candidate_floor == pytest.approx(1 / 8)
    assert verdict.p_suspect_floor == pytest.approx(1 / 15)
    assert verdict.p_joint_floor == pytest.approx(1 / 120)
    assert verdict.p_candidate_exact >= verdict.p_candidate_floor
    assert verdict.p_joint_exact >= verdict.p_joint_floor
    assert verdict.p_value >= verdict.p_joint_floor / 10 - 1e-12
    assert verdict.p_is_bound == (verdict.p_value <= verdict.p_joint_floor / 10)
    assert verdict.queries_used == reference.plan.queries and verdict.views_used == 10
    assert verdict.reference_sha256 == reference.sha256
    assert verdict.output == "logits" and len(verdict.suspect_sha256) == 64
    assert json.loads(verdict.to_json())["decision"] == verdict.decision
    assert verdict.decision in repr(verdict) and "p_value" in repr(verdict)


@pytest.mark.parametrize("kind", ["probabilities", "numpy", "labels", "rounded"])
def test_any_callable_can_be_a_suspect(world, reference, kind):
    victim = world["victim"]

    @torch.no_grad()
    def answer(x):
        assert x.dtype == torch.float32 and x.ndim == 4 and 0 <= float(x.min()) <= float(x.max()) <= 1
        p = victim(x).softmax(-1)
        return {
            "probabilities": p,
            "numpy": p.numpy(),
            "labels": p.argmax(-1),
            "rounded": p.mul(100).round() / 100,
        }[kind]

    verdict = uapfast.verify(reference, answer, alpha=0.05)
    assert verdict.decision == "piracy", verdict
    assert verdict.output == ("labels" if kind == "labels" else "probabilities")
    assert verdict.suspect_sha256 is not None


def test_logits_and_probabilities_give_the_same_verdict(world, reference):
    victim = world["extracted"]
    a = uapfast.verify(reference, victim)
    b = uapfast.verify(reference, lambda x: victim(x).detach().softmax(-1))
    assert b.p_value == pytest.approx(a.p_value, rel=1e-3) and b.decision == a.decision


def test_batch_size_does_not_change_the_verdict(world, reference):
    verdicts = [uapfast.verify(reference, Model(world["extracted"], batch_size=b)) for b in (7, 64, 1000)]
    for v in verdicts[1:]:
        assert v.z == pytest.approx(verdicts[0].z, abs=1e-3)


def test_encode_gives_rows_of_unit_mean_that_tell_a_copy_from_an_innocent(world, reference):
    z = uapfast.encode(reference, world["tuned"])
    assert z.dtype == torch.float32 and z.shape[0] == 10
    torch.testing.assert_close(z.mean(0).norm(), torch.tensor(1.0))
    base = uapfast.encode(reference, world["victim"]).mean(0)
    innocent = uapfast.encode(reference, world["innocents"][0]).mean(0)
    assert z.mean(0) @ base > 0.3 > innocent @ base + 0.1


@pytest.mark.parametrize("fault", ["nan", "inf", "classes", "rows"])
def test_unusable_answers_are_invalid_never_an_acquittal(world, reference, fault):
    def answer(x):
        p = world["victim"](x).detach().clone()
        if fault in ("nan", "inf"):
            p[0, 0] = float(fault)
        return {"classes": p[:, :9], "rows": p[:-1]}.get(fault, p)

    verdict = uapfast.verify(reference, answer)
    assert verdict.decision == "invalid" and verdict.exit_code == 4 and verdict.p_value is None
    assert verdict.reasons and json.loads(verdict.to_json())["p_value"] is None


def test_generation_is_a_function_of_the_seed(world, reference):
    with pytest.warns(PoolWarning):
        again = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=SMALL)
        other = uapfast.generate(
            world["victim"], world["x"], pool=world["pool"], config=dataclasses.replace(SMALL, seed=1)
        )
    assert again.sha256 == reference.sha256 != other.sha256


def test_a_reference_survives_its_file(world, reference, tmp_path):
    path = tmp_path / "v.uapref"
    reference.save(path)
    loaded = uapfast.load(path)
    assert loaded.sha256 == reference.sha256
    assert (
        uapfast.verify(loaded, world["extracted"]).to_dict()
        == uapfast.verify(reference, world["extracted"]).to_dict()
    )
    assert [p.name for p in tmp_path.iterdir()] == ["v.uapref"]
    assert summary(loaded)["pool"] == {"twin": 7, "piracy": 0, "homologous": 14}
    json.dumps(summary(loaded))


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000, -1])
def test_truncated_references_are_refused(reference, tmp_path, cut):
    path = tmp_path / "v.uapref"
    reference.save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ReferenceFileError, match="v.uapref"):
        uapfast.load(path)


def test_a_flipped_bit_is_noticed(reference, tmp_path):
    path = tmp_path / "v.uapref"
    reference.save(path)
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ReferenceFileError, match="SHA-256"):
        uapfast.load(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_refused_or_harmless(reference, tmp_path, draw):
    """Whatever bytes are overwritten, loading gives a typed error or the very same content."""
    path = tmp_path / "v.uapref"
    reference.save(path)
    blob = bytearray(path.read_bytes())
    first = draw.draw(st.one_of(st.integers(0, 8000), st.integers(0, len(blob) - 1)))
    patch = draw.draw(st.binary(min_size=1, max_size=16))[: len(blob) - first]
    blob[first : first + len(patch)] = patch
    path.write_bytes(blob)
    try:
        assert uapfast.load(path).sha256 == reference.sha256
    except ReferenceFileError as exc:
        assert "v.uapref" in str(exc)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_any_bytes_give_a_typed_error(tmp_path, blob):
    path = tmp_path / "x.uapref"
    path.write_bytes(blob)
    with pytest.raises(ReferenceFileError):
        uapfast.load(path)


def test_another_format_version_is_named(reference, tmp_path):
    path = tmp_path / "v.uapref"
    reference.save(path)
    blob, said = path.read_bytes(), b'\\"format\\": %d'
    assert blob.count(said % FORMAT) == 1
    path.write_bytes(blob.replace(said % FORMAT, said % 9))
    with pytest.raises(ReferenceFileError, match=f"version {FORMAT} .* got version 9"):
        uapfast.load(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ReferenceFileError, match=r"No such file"):
        uapfast.load(tmp_path / "none.uapref")
    (tmp_path / "x.uapref").write_bytes(b"\x10\0\0\0\0\0\0\0" + b"[" * 100)
    with pytest.raises(ReferenceFileError, match="uapfast generate"):
        uapfast.load(tmp_path / "x.uapref")


def test_saving_into_nowhere_leaves_nothing(reference, tmp_path):
    with pytest.raises(StorageError, match="missing"):
        reference.save(tmp_path / "missing" / "v.uapref")
    with pytest.raises(StorageError, match="folder"):
        reference.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_verification_agrees(world, reference):
    loaded = dataclasses.replace(reference, _cache={}, _lock=threading.RLock())
    results: list = [None] * 8

    def work(i: int) -> None:
        results[i] = uapfast.verify(loaded, world["innocents"][i % 3]).to_dict()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(8):
        assert results[i] == results[i % 3]


def test_the_papers_encoder_runs_end_to_end(world):
    surrogates = [
        train(world["x"][:700], world["victim"](world["x"][:700]).detach().softmax(-1), 80 + s)
        for s in range(3)
    ]
    pool = uapfast.Pool.from_models(homologous=world["homologous"], piracy={"victim": surrogates})
    with _quiet():
        ref = uapfast.generate(
            world["victim"], world["x"], pool=pool, config=dataclasses.replace(SMALL, encoder="paper")
        )
    assert ref.uaps.shape[0] == 1 and ref.plan.scale == (0.0, 1.0)
    trained = {r.name for r in ref.records if r.trains_encoder and r.relation == "homologous"}
    assert len(trained) == 7
    verdict = uapfast.verify(ref, world["tuned"])
    assert verdict.p_candidate is None and verdict.p_suspect is not None and verdict.p_view is not None
    assert verdict.similarity > uapfast.verify(ref, world["innocents"][0]).similarity - 0.2
    assert uapfast.encode(ref, world["tuned"]).shape == (10, 20)


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoolWarning)
        yield


def test_a_pool_without_twins_still_works_and_says_what_it_costs(world):
    pool = uapfast.Pool.from_models(homologous=world["homologous"])
    with pytest.warns(PoolWarning, match="suspect side decides alone"):
        ref = uapfast.generate(world["victim"], world["x"], pool=pool, config=SMALL)
    verdict = uapfast.verify(ref, world["victim"], alpha=0.01)
    assert verdict.decision == "inconclusive" and verdict.p_candidate is None and verdict.rank is None
    assert verdict.p_value == verdict.p_suspect < 0.01 and any("no twins" in r for r in verdict.reasons)
    assert any("the victim's own" in r for r in verdict.reasons)
    assert uapfast.verify(ref, world["innocents"][1]).decision != "piracy"


BAD = [
    ({"images": torch.zeros(0, 1, 8, 8)}, DataError, "not empty"),
    ({"images": torch.zeros(5)}, DataError, r"\[N,C,H,W\]"),
    ({"images": torch.rand(900, 1, 8, 8) * 255}, DataError, "0..1.*got .*25[45]"),
    ({"images": torch.full((900, 1, 8, 8), float("nan"))}, DataError, "finite"),
    ({"images": torch.rand(100, 1, 8, 8)}, DataError, "at least 400.*got 100"),
    ({"labels": torch.zeros(1797, dtype=torch.int64)}, DataError, "at least 2 classes"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, DataError, "1797"),
    ({"victim": lambda x: x}, ModelError, "nn.Module"),
    ({"victim": 3}, InputError, "int"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_named(world, change, error, message):
    given = {"victim": world["victim"], "images": world["x"], "labels": None} | change
    with pytest.raises(error, match=message), _quiet():
        uapfast.generate(given["victim"], given["images"], given["labels"], pool=world["pool"], config=SMALL)


def test_small_and_duplicated_pools_are_refused(world):
    few = uapfast.Pool.from_models(twins=world["twins"], homologous=world["homologous"][:4])
    with pytest.raises(PoolError, match="at least 5 homologous.*got 4 homologous, 7 twins"):
        uapfast.generate(world["victim"], world["x"], pool=few, config=SMALL)
    double = uapfast.Pool.from_models(
        twins=[*world["twins"], world["victim"]], homologous=world["homologous"]
    )
    with pytest.raises(PoolError, match="with the weights of victim"):
        uapfast.generate(world["victim"], world["x"], pool=double, config=SMALL)
    with pytest.raises(PoolError, match="piracy"):
        uapfast.generate(
            world["victim"],
            world["x"],
            pool=world["pool"],
            config=dataclasses.replace(SMALL, encoder="paper"),
        )


def test_twins_of_another_recipe_are_noticed(world):
    x, y = world["x"][:700], world["y"][:700]
    hasty = [train(x, y, 90 + s, steps=25) for s in range(7)]
    pool = uapfast.Pool.from_models(twins=hasty, homologous=world["homologous"])
    with pytest.warns(PoolWarning, match="victim's own recipe"):
        uapfast.generate(world["victim"], world["x"], pool=pool, config=SMALL)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=SMALL)
    assert not any("own recipe" in str(w.message) for w in seen)


def test_weak_uaps_warn_or_raise(world):
    config = dataclasses.replace(SMALL, eps=1e-4, min_fooling=0.5)
    with pytest.warns(uapfast.errors.FoolingRateWarning), _quiet():
        uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
    with pytest.raises(FoolingRateError), _quiet():
        uapfast.generate(
            world["victim"], world["x"], pool=world["pool"], config=dataclasses.replace(config, strict=True)
        )


@pytest.mark.parametrize(
    "field",
    [
        {"eps": 0.0},
        {"eps": -1},
        {"eps": float("nan")},
        {"norm": "l7"},
        {"uap": "magic"},
        {"points": 1},
        {"views": 0},
        {"encoder": "none"},
        {"seed": -1},
        {"fooling": 1.5},
        {"uap_images": 1},
        {"ray": ()},
        {"ray": (0.0, 2.0)},
        {"points": 2.5},
        {"views": True},
    ],
)
def test_bad_settings_are_named(field):
    name, value = next(iter(field.items()))
    with pytest.raises(InputError, match=f"GenerateConfig: {name} must be"):
        uapfast.GenerateConfig(**field)


@pytest.mark.parametrize(
    ("given", "images", "points", "ray"),
    [
        ({}, 10_000, 200, (0.0,)),
        ({}, 5_000, 200, (0.0,)),
        ({}, 4_999, 100, (0.0, 0.2)),
        ({}, 1_000, 40, (0.0, 0.2)),
        ({"views": 10}, 10_000, 400, (0.0,)),
        ({"points": 30}, 10_000, 30, (0.0,)),
        ({"ray": (0.0, 0.2, 1.0)}, 10_000, 66, (0.0, 0.2, 1.0)),
        ({"encoder": "paper"}, 10_000, 100, (0.0, 1.0)),
        ({}, 3, 2, (0.0, 0.2)),
    ],
)
def test_queries_are_as_many_as_images_allow(given, images, points, ray):
    settled = uapfast.GenerateConfig(**given).settled(images)
    assert (settled.points, settled.ray) == (points, ray)
    assert settled.settled(images) == settled


def test_clean_answers_alone_need_no_uap(world, tmp_path):
    config = dataclasses.replace(SMALL, ray=(0.0,))
    with _quiet():
        ref = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
        seen = dataclasses.replace(config, show_uap=True)
        shown = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=seen)
    assert ref.uaps.shape == (0, *ref.shape) and ref.settings["uap"] == []
    assert summary(ref)["uap"].startswith("none: every query is a clean point")
    assert len(shown.uaps) == 1 and [row["model"] for row in shown.settings["uap"]] == ["victim"]
    assert torch.equal(shown.points, ref.points) and torch.equal(shown.answers, ref.answers)
    ref.save(tmp_path / "r.uapref")
    assert uapfast.load(tmp_path / "r.uapref") == ref
    assert ref.plan.points.dtype == torch.float32, "digits lie off the 1/255 grid"
    assert ref.plan.queries == 400 and ref.settings["config"]["points"] == 40
    assert uapfast.verify(ref, world["tuned"], alpha=0.05).decision == "piracy"
    assert all(uapfast.verify(ref, one).decision != "piracy" for one in world["innocents"])


def test_labels_are_compared_with_all_that_the_candidates_answer(reference):
    """Innocents are seen as the suspect is; templates need not be."""
    full, seen = reference.statistic.pool_features(), reference.statistic.pool_features(LABELS)
    rows = np.array([r.relation == "homologous" for r in reference.records])
    np.testing.assert_array_equal(seen[~rows], full[~rows])
    mean = reference.answers[torch.from_numpy(~rows)].mean(0)  # no surrogates here
    shown = torch.from_numpy(seen[rows]).reshape(-1, *mean.shape) + mean
    labels = torch.nn.functional.one_hot(reference.labels[torch.from_numpy(rows)], mean.shape[-1])
    torch.testing.assert_close(shown, labels.float(), atol=1e-5, rtol=0)
    part = reference.statistic.features(labels[0, 2:5].float(), True, first=2)
    np.testing.assert_allclose(part, seen[rows][0, 2:5], atol=1e-6)


@pytest.mark.parametrize("uap", ["deepfool", "contrastive"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_uap_algorithm_makes_a_reference(world, uap, norm):
    config = dataclasses.replace(SMALL, uap=uap, norm=norm, eps=0.2 if norm == "linf" else 1.0, uap_images=64)
    with _quiet():
        ref = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
    assert [row["method"] for row in ref.settings["uap"]] == [uap] * 8
    size = ref.uaps.abs().amax((1, 2, 3)) if norm == "linf" else ref.uaps.flatten(1).norm(dim=1)
    assert (size <= config.eps + 1e-6).all() and (size > 0).all()
    assert uapfast.verify(ref, world["victim"]).similarity == pytest.approx(1, abs=1e-4)


def test_wire_safe_queries_survive_eight_bits(world):
    config = dataclasses.replace(SMALL, wire_safe=True, ray=(0.0, 0.2, 1.0))
    with _quiet():
        ref = uapfast.generate(world["victim"], world["x"], pool=world["pool"], config=config)
    for images in ref.plan.chunks():
        grid = images * 255
        assert (grid - grid.round()).abs().max() < 1e-3
    victim = world["victim"]
    uploaded = uapfast.verify(ref, lambda x: victim((x * 255).round().to(torch.uint8) / 255).detach())
    assert uploaded.z == pytest.approx(uapfast.verify(ref, victim).z, abs=1e-3)


def widen(module: nn.Module) -> nn.Module:
    """The same classifier with 30 classes more, all improbable."""
    wide = nn.Linear(10, 40)
    with torch.no_grad():
        wide.weight.zero_()
        wide.bias.fill_(-4.0)
        wide.weight[:10].copy_(torch.eye(10))
        wide.bias[:10].zero_()
    return nn.Sequential(module, wide)


def test_many_classes_are_reduced_to_those_the_pool_gives_weight(world):
    pool = uapfast.Pool.from_models(
        twins=[widen(m) for m in world["twins"]], homologous=[widen(m) for m in world["homologous"]]
    )
    with _quiet():
        ref = uapfast.generate(widen(world["victim"]), world["x"], pool=pool, config=SMALL)
    assert ref.classes == 40 and ref.keep.shape[-1] == 32 and ref.answers.shape[-1] == 33
    torch.testing.assert_close(ref.answers.sum(-1), torch.ones(ref.answers.shape[:-1]), atol=1e-5, rtol=0)
    assert uapfast.verify(ref, widen(world["victim"]), alpha=0.01).decision == "piracy"
    assert uapfast.verify(ref, widen(world["innocents"][0])).decision != "piracy"
    assert uapfast.verify(ref, world["victim"]).decision == "invalid"


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan"), "x", None])
def test_bad_levels_are_named(world, reference, alpha):
    with pytest.raises(InputError, match="alpha"):
        uapfast.verify(reference, world["victim"], alpha=alpha)


def test_progress_reaches_its_end(world):
    seen = []
    with pytest.warns(PoolWarning):
        uapfast.generate(
            world["victim"],
            world["x"],
            pool=world["pool"],
            config=SMALL,
            progress=lambda done, total, what: seen.append((done, total, what)),
        )
    assert np.all(np.diff([d for d, _, _ in seen]) > 0) and seen[0][0] > 0
    assert seen[-1][0] == seen[-1][1]
    assert np.all([t == seen[0][1] for _, t, _ in seen])
