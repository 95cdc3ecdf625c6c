"""Branches of the zoo's victims: the default recipe in pieces, and an order of their own from a state on."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.detection.branch_twins import begin, finished, go_on, reordered, subsets
from uapfast.pool.recipe import BATCH, default_recipe

IMAGES = 3 * BATCH + 1  # the last step of a pass has one image, and is left out


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(IMAGES, 1, 8, 8, generator=generator)
    return x, torch.randint(3, (IMAGES,), generator=generator)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in module.state_dict().values()])


def test_pieces_of_a_training_are_the_whole() -> None:
    x, y = data()
    whole = default_recipe(network(), x, y, 5, epochs=2)
    state = begin(network(), len(x), 5, 2)
    for steps in (3, 2, None):
        state = go_on(state, x, y, steps)
    assert torch.equal(weights(whole), weights(finished(state)))


def test_a_branch_sees_what_is_left_in_an_order_of_its_own() -> None:
    x, y = data()
    state = go_on(begin(network(), len(x), 5, 2), x, y, 1)
    kept, first, second = weights(state.model), reordered(state, 1), reordered(state, 2)
    assert first.left.sort().values.equal(state.left.sort().values) and len(first.left) == len(x) - BATCH
    assert not first.left.equal(second.left) and first.passes == 1
    ends = [weights(finished(go_on(s, x, y))) for s in (first, second, first)]
    assert torch.equal(ends[0], ends[2]) and not torch.equal(ends[0], ends[1])
    assert torch.equal(weights(state.model), kept), "the checkpoint is not trained on"


def test_subsets_have_the_victim_first() -> None:
    found = list(subsets(9))
    assert all(c[0] == 0 and len(set(c)) == len(c) and c.max() <= 8 for c in found)
    assert sorted({len(c) - 1 for c in found}) == [3, 4, 8]
