"""Suspects of a screen that are asked wrongly, or come without preprocessing: never a silent acquittal."""

from __future__ import annotations

import dataclasses

import pytest

import uapfast
from tests.api.screen_world import World, with_preprocessing
from uapfast.errors import InputError
from uapfast.models.checkpoint import load_model

WRONG = {"mean": (0.9,), "std": (0.05,)}


@pytest.mark.parametrize("early", [True, False])
def test_a_copy_that_is_asked_wrongly_is_not_acquitted(world: World, early: bool) -> None:
    victim = world.suspect("victim-1")
    wrong = dataclasses.replace(victim, name="wrong", **WRONG)
    with uapfast.screen(world.references["first"], [victim, wrong], early=early) as screening:
        summary = screening.finish()
        rows = {row.name: row for row in screening.rows()}
    row = rows["wrong"]
    assert row.decision == "invalid" and row.p_value is None and row.q_value is None
    assert row.error_class is None and "byte for byte" in row.reasons[0]
    assert "that most pool models give" in row.reasons[1] and "mean and std" in row.reasons[1]
    assert row.agreement < row.agreement_least and summary.decisions["invalid"] == 1
    assert rows["victim-1"].agreement > 0.8


def test_suspects_without_mean_and_std_are_asked_with_the_victims(world: World) -> None:
    plain = world.suspect("honest-1")
    named = dataclasses.replace(plain, name="named", mean=(0.1,), std=(0.9,))
    reference = with_preprocessing(world.references["first"], 0.1, 0.9)
    (row,) = uapfast.screen(reference, [plain], early=False)
    (expected,) = uapfast.screen(reference, [named], early=False)
    assert (row.z, row.p_value) == (expected.z, expected.p_value)
    assert any("victim's mean 0.1 and std 0.9" in r for r in row.reasons)
    assert not any("victim's mean" in r for r in expected.reasons)
    other = with_preprocessing(world.references["second"], 0.2, 0.9)
    with pytest.raises(InputError, match="given for every suspect.*none for honest-1"):
        uapfast.screen([reference, other], [plain]).finish()


@pytest.mark.parametrize("early", [True, False])
def test_a_copy_that_normalises_its_own_input_is_found_by_how_it_answers(world: World, early: bool) -> None:
    bare = world.suspect("victim-1")
    told = dataclasses.replace(bare, name="told", mean=(0.0,), std=(1.0,))
    reference = with_preprocessing(world.references["first"], 0.5, 0.2)
    with uapfast.screen(reference, [bare, told], early=early) as screening:
        screening.finish()
        rows = {row.name: row for row in screening.rows()}
    found, expected = rows[bare.name], rows["told"]
    assert found.decision == expected.decision == "piracy"
    assert (found.z, found.queries_used) == (expected.z, expected.queries_used)
    assert any("queried with mean 0 and std 1, since none were given" in r for r in found.reasons)
    assert not any("queried with mean 0 and std 1, since" in r for r in expected.reasons)


@pytest.mark.parametrize("first", ["bare", "told"])
def test_who_says_mean_and_std_is_asked_so_beside_the_same_file_that_says_none(
    world: World, first: str
) -> None:
    bare = dataclasses.replace(world.suspect("victim-1"), name="bare")
    told = dataclasses.replace(bare, name="told", mean=(0.5,), std=(0.2,))
    reference = with_preprocessing(world.references["first"], 0.5, 0.2)
    with uapfast.screen(reference, [bare, told] if first == "bare" else [told, bare]) as screening:
        screening.finish()
        rows = {row.name: row for row in screening.rows()}
    # asked wrongly it agrees with few models or with none, as the machine's last bits have it
    assert rows["bare"].decision == "piracy" and rows["told"].decision in ("invalid", "inconclusive")
    assert not any("since none were given" in reason for reason in rows["told"].reasons)


@pytest.mark.parametrize("order", [("task", "other"), ("other", "task")])
def test_how_a_suspect_is_asked_is_told_by_each_reference(world: World, order: tuple[str, str]) -> None:
    """A reference of another task says nothing of how a suspect answers rightly."""
    reference = with_preprocessing(world.references["first"], 0.5, 0.2)
    moved = {"answers": reference.answers.roll(1, -1), "labels": (reference.labels + 1) % 10}
    turned = dataclasses.replace(reference, **moved, _cache={})
    given = {name: {"task": reference, "other": turned}[name] for name in order}
    suspects = [world.suspect(name) for name in ("victim-1", "pruned-1", "honest-1")]
    with uapfast.screen(given, suspects, early=False) as screening:
        screening.finish()
        rows = {(row.name, row.reference): row for row in screening.rows()}
    for suspect in suspects:
        model = load_model(suspect.arch, suspect.path, name=suspect.name)
        for name, one in given.items():
            expected, row = uapfast.verify(one, model), rows[suspect.name, name]
            assert (row.decision, row.z, row.agreement) == (expected.decision, expected.z, expected.agreement)
            assert set(row.reasons) >= set(expected.reasons)  # and what a list adds
    assert rows["victim-1", "task"].decision == "piracy"
    assert any("with mean 0 and std 1, since" in r for r in rows["pruned-1", "task"].reasons)
    assert not any("with mean 0 and std 1, since" in r for r in rows["pruned-1", "other"].reasons)
