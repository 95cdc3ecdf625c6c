"""``generate`` with a query log, what verdicts say of it, and who is convicted; small models on digits."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import uapfast
from tests.api.mlp import train
from uapfast.errors import DataError, PoolWarning, UapfastWarning
from uapfast.verbs.queries import numbered
from uapfast.verbs.recorded import answered_part

CONFIG = uapfast.GenerateConfig(points=20, views=10, ray=(0.0,), seed=0)


@pytest.fixture(scope="module")
def world() -> dict:
    torch.set_num_threads(1)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    own, thief, unseen = slice(0, 500), slice(500, 1000), slice(1000, 1797)
    victim = train(x[own], y[own], 0)
    twins = [train(x[own], y[own], s) for s in range(1, 8)]
    honest = [train(x[own], y[own], 20 + s, width=24 + 8 * (s % 4)) for s in range(14)]
    with torch.no_grad():
        answers = victim(x[thief]).softmax(-1)
    return {
        "victim": victim,
        "unseen": x[unseen],
        "log": x[thief],
        "pool": uapfast.Pool.from_models(twins=twins, homologous=honest),
        "student": train(x[thief], answers, 50, steps=600),
        "customers": [train(x[thief], y[thief], 60 + s, width=32 + 8 * s, steps=400) for s in range(3)],
    }


def made(world: dict, **more: object) -> uapfast.Reference:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UapfastWarning)
        more = {"config": CONFIG, "log_blind": True if "log" in more else None} | more
        return uapfast.generate(world["victim"], world["unseen"], pool=world["pool"], **more)


@pytest.fixture(scope="module")
def logged(world: dict) -> uapfast.Reference:
    return made(world, log=world["log"])


def test_logged_images_fill_the_first_half_of_the_views(world: dict, logged: uapfast.Reference) -> None:
    told, plan = logged.settings["log"], logged.plan
    assert (told["images"], told["asked"], told["views"], told["blind"]) == (500, 100, 5, True)
    assert (plan.views, len(plan.points)) == (10, 200)
    of_log = (logged.points[:, None] == world["log"][None]).flatten(2).all(-1).any(1)
    assert of_log[:100].all() and not of_log[100:].any()
    assert len(torch.unique(logged.points.flatten(1), dim=0)) == 200


def test_the_rest_is_as_without_a_log(world: dict, logged: uapfast.Reference) -> None:
    own = made(world, config=replace(CONFIG, views=5))
    assert torch.equal(own.points, logged.points[100:])
    assert own.settings["log"] is None


def test_a_student_shows_more_where_it_asked(world: dict, logged: uapfast.Reference) -> None:
    plain = uapfast.verify(made(world), world["student"])
    found = uapfast.verify(logged, world["student"])
    assert found.z > plain.z
    assert found.settings["logged_points"] == 100 and plain.settings["logged_points"] == 0
    assert any("100 of the 200 query points come from the owner's query log" in r for r in found.reasons)
    assert not any("owner's query log" in r for r in plain.reasons)


def test_customers_with_labels_of_their_own_are_not_convicted(world: dict, logged: uapfast.Reference) -> None:
    for customer in world["customers"]:
        assert uapfast.verify(logged, customer, alpha=0.01).decision != "piracy"


def test_a_log_is_kept_in_the_file_and_screened(
    world: dict, logged: uapfast.Reference, tmp_path: Path
) -> None:
    logged.save(tmp_path / "logged.uapref")
    again = uapfast.load(tmp_path / "logged.uapref")
    assert again == logged and again.settings["log"] == logged.settings["log"]
    first = uapfast.verify(again, world["student"])
    assert first.to_dict() == uapfast.verify(logged, world["student"]).to_dict()


@pytest.mark.parametrize("blind", [None, False])
def test_an_adaptive_log_changes_nothing_but_what_is_said(world: dict, blind: bool | None) -> None:
    with pytest.warns(PoolWarning, match="500 images of the query log are not used"):
        found = uapfast.generate(
            world["victim"], world["unseen"], pool=world["pool"], config=CONFIG, log=world["log"],
            log_blind=blind,
        )  # fmt: skip
    assert torch.equal(found.points, made(world).points)
    verdict = uapfast.verify(found, world["customers"][0])
    assert any("query log are not used" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (np.zeros((30, 1, 8, 8), np.int64), "log: images must be uint8, or float in 0..1"),
        (np.full((30, 1, 8, 8), np.nan, np.float32), "log: images must be finite"),
        (np.full((30, 1, 8, 8), 7.0, np.float32), "log: images must be in 0..1"),
        (np.zeros((0, 1, 8, 8), np.uint8), "log: images must be .* not empty"),
        (np.zeros((30, 3, 8, 8), np.uint8), r"log must be of the owner's images' shape \[1, 8, 8\]"),
        (np.zeros((30, 8, 8), np.uint8), "log must be of at least 20 different images"),
    ],
)
def test_bad_logs_are_refused_before_any_model_is_asked(world: dict, log: np.ndarray, said: str) -> None:
    asked: list[str] = []
    with pytest.raises(DataError, match=said):
        made(world, log=log, progress=lambda done, total, what: asked.append(what))
    assert not asked


def test_images_that_everybody_answers_alike_are_refused(world: dict) -> None:
    noise = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e-9
    with pytest.raises(DataError, match="log must be at least 20 .*distinct outputs"):
        made(world, log=noise)


def test_a_part_of_the_queries_knows_which_of_its_views_are_logged(
    world: dict, logged: uapfast.Reference
) -> None:
    """More of the log than of the owner's images convicts nobody, whatever p is."""
    made_of = numbered(logged)

    def part(views: slice) -> uapfast.Reference:
        return answered_part(logged, made_of, np.unique(made_of.ids[views]))[0]

    log_alone, most, own = part(slice(0, 5)), part(slice(0, 8)), part(slice(3, 10))
    assert [p.statistic.pool.logged for p in (log_alone, most, own)] == [5, 5, 2]
    assert [p.settings["log"]["asked"] for p in (log_alone, most, own)] == [100, 100, 40]
    assert part(slice(5, 10)).statistic.pool.logged == 0 and logged.settings["log"]["views"] == 5
    for reference, views in ((log_alone, 5), (most, 8)):
        verdict = uapfast.verify(reference, world["victim"], alpha=0.01)
        assert verdict.p_value <= 0.01 and verdict.decision == "inconclusive"
        assert any(
            f"5 of the {views} views that were asked are of the query log" in r for r in verdict.reasons
        )
    verdict = uapfast.verify(own, world["victim"], alpha=0.01)
    assert verdict.decision == "piracy"
    assert any("40 of the 140 query points come from the owner's query log" in r for r in verdict.reasons)
