"""verify and encode on real small models (scikit-learn's digits)."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch

import uapfast
from uapfast.errors import InputError
from uapfast.models.forms import LABELS
from uapfast.models.model import Model


@pytest.fixture(scope="session")
def world(verbs_world: dict) -> dict:
    return verbs_world


@pytest.fixture(scope="session")
def reference(verbs_reference: uapfast.Reference) -> uapfast.Reference:
    return verbs_reference


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


def test_the_hash_of_answers_does_not_depend_on_a_machine_s_softmax(world, reference, monkeypatch):
    from uapfast.examination import examination

    def otherwise(answers):
        return probabilities_of(answers) * (1 + 1e-5)  # more than last bits, for there are few answers here

    probabilities_of = examination.probabilities_of
    stated = uapfast.verify(reference, lambda x: world["victim"](x).detach(), alpha=0.05)
    monkeypatch.setattr(examination, "probabilities_of", otherwise)
    found = uapfast.verify(reference, lambda x: world["victim"](x).detach(), alpha=0.05)
    assert found.suspect_sha256 == stated.suspect_sha256 and stated.output == "logits"
    other = uapfast.verify(reference, lambda x: world["extracted"](x).detach(), alpha=0.05)
    assert other.suspect_sha256 != stated.suspect_sha256


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


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan"), "x", None])
def test_bad_levels_are_named(world, reference, alpha):
    with pytest.raises(InputError, match="alpha"):
        uapfast.verify(reference, world["victim"], alpha=alpha)
