"""Suspects without mean and std that normalise their own input: what tells how they are asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import uapfast
from tests.api.screen_world import World, with_preprocessing
from uapfast.errors import InputError
from uapfast.examination.preprocessing import reading_of
from uapfast.examination.reading_replay import check_told
from uapfast.method.consensus import Majority
from uapfast.models.answers import Answers
from uapfast.models.checkpoint import load_model
from uapfast.models.model import Model
from uapfast.models.preprocessing import Preprocessing

ORDER = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


@pytest.fixture(scope="module")
def reference(world: World) -> uapfast.Reference:
    return with_preprocessing(world.references["first"], 0.5, 0.2)


@pytest.fixture(scope="module")
def copy_(world: World) -> nn.Module:
    """The victim's network, for images in 0..1."""
    suspect = world.suspect("victim-1")
    module = load_model(suspect.arch, suspect.path).module
    assert module is not None
    return module


@pytest.fixture(scope="module")
def expected(reference: uapfast.Reference, copy_: nn.Module) -> uapfast.Verdict:
    found = uapfast.verify(reference, Model(copy_, mean=[0.0], std=[1.0]))
    assert found.decision == "piracy"
    return found


class Picky(nn.Module):
    """A network that fails at images which it is not made for."""

    def __init__(self, inner: nn.Module, low: float, high: float, how: str) -> None:
        super().__init__()
        self.inner, self.low, self.high, self.how = inner, low, high, how

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if self.low <= x.min() and x.max() <= self.high:
            return out
        if self.how == "raises":
            raise ValueError("images of another range")
        return out * torch.nan if self.how == "NaN" else out.sigmoid()  # which nobody can read


@pytest.mark.parametrize("how", ["raises", "NaN", "unclear"])
@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-4.0, 4.0)])
def test_a_way_to_ask_that_a_network_fails_at_says_nothing_of_the_others(
    reference: uapfast.Reference,
    copy_: nn.Module,
    expected: uapfast.Verdict,
    low: float,
    high: float,
    how: str,
) -> None:
    found = uapfast.verify(reference, Picky(copy_, low, high, how))
    assert (found.decision, found.z) == ("piracy", expected.z)


class Renamed(nn.Module):
    """Answers in ``ORDER``, and above all for a class that the victim does not have."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.back = inner, torch.argsort(torch.tensor(ORDER))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.inner(x)[:, self.back]
        return torch.cat([values, values.amax(-1, keepdim=True) + 1], 1)


def test_how_a_suspect_of_another_class_order_is_asked_is_told_by_its_order(
    reference: uapfast.Reference, copy_: nn.Module, expected: uapfast.Verdict
) -> None:
    found = uapfast.verify(reference, Renamed(copy_), class_order=ORDER)
    assert found.decision == "piracy" and found.z == pytest.approx(expected.z, rel=1e-6)
    with pytest.raises(InputError, match="class order must be 10 different numbers"):
        uapfast.verify(reference, copy_, class_order=[0, 1])


@pytest.mark.parametrize(
    "right, expected",
    [
        ((20, 60, 62), 1.0),  # labels of ReLUs hardly change with the scale of an image; scores lose much
        ((20, 30, 62), 1 / 255),
        ((62, 64, 64), 0.2),  # as most models answer
        ((56, 62, 20), 0.2),  # not clearly
        ((5, 25, 5), 0.2),  # clearly better, and yet nearer to who guesses
    ],
)
def test_which_way_to_ask_is_taken(
    reference: uapfast.Reference, monkeypatch: pytest.MonkeyPatch, right: tuple[int, ...], expected: float
) -> None:
    wanted = torch.arange(64) % 10
    known = Majority(np.arange(64), wanted.numpy(), 0.1, 0.97)
    monkeypatch.setattr(uapfast.Reference, "others", (known, known))
    shares = dict(zip((0.2, 1.0, 1 / 255), right, strict=True))

    def ask(way: Preprocessing, images: Tensor) -> Answers:
        good = torch.arange(len(images)) < shares[way.std[0]]
        return Answers("labels", torch.where(good, wanted, (wanted + 1) % 10), 10)

    found = reading_of(reference, ask)
    assert found is not None and found.preprocessing.std[0] == expected
    assert found.otherwise == (expected != 0.2) and len(found.tried) == 3
    told = found.to_dict()
    assert check_told(reference, told, found.preprocessing.to_dict()) == len(found.tried)
    for changed in (
        {"taken": 5},
        {"ways": told["ways"][:1]} if found.otherwise else {"taken": 1},
        {"ways": []},
    ):
        with pytest.raises(ValueError, match=r"follows|other than|other ways"):
            check_told(reference, told | changed, found.preprocessing.to_dict())
