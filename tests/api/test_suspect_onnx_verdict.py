"""The verdict on an ONNX file is that of the module it was made from, and a wrong guess clears nobody."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import uapfast
from tests.api.onnx_asked import net, put, runs
from tests.security.onnx_forge import classifier
from uapfast.errors import InputError
from uapfast.suspects.onnx import open_onnx

LEVEL = 0.01  # a pool of a few models convicts nobody at a finer one
SMALL = uapfast.GenerateConfig(points=24, views=6, ray=(0.0,), uap_images=60, min_fooling=0.0)


MEAN, STD = (0.13,), (0.31,)


def make_reference(
    mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> tuple[uapfast.Reference, nn.Sequential, nn.Sequential]:
    """A reference, its victim and an honest network; of random images in ten groups.

    All of them take (x - mean) / std, where these are given.
    """
    torch.set_num_threads(1)
    centres = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.arange(900) % 10
    x = (centres[y] + 0.35 * torch.randn(900, 1, 8, 8, generator=torch.Generator().manual_seed(2))).clamp(
        0, 1
    )
    fed = x if mean is None or std is None else (x - mean[0]) / std[0]

    def train(seed: int, part: slice, width: int = 24) -> nn.Sequential:
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
        for _ in range(60):
            batch = torch.randint(part.start, part.stop, (96,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(fed[batch]), y[batch]).backward()
            optimizer.step()
        return made.eval().requires_grad_(False)

    def owned(module: nn.Sequential) -> uapfast.Model:
        return uapfast.Model(module, mean=mean, std=std)

    own, others = slice(0, 450), slice(450, 900)
    victim = train(0, own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = uapfast.Pool.from_models(
            twins=[owned(train(s, own)) for s in range(1, 6)],
            homologous=[owned(train(20 + s, others, 16 + 4 * (s % 3))) for s in range(8)],
        )
        made = uapfast.generate(owned(victim), x[others], pool=pool, config=SMALL)
    return made, victim, train(50, others)


@pytest.fixture(scope="module")
def reference() -> tuple[uapfast.Reference, nn.Sequential, nn.Sequential]:
    """Of networks that take images in 0..1."""
    return make_reference()


@pytest.fixture(scope="module")
def normalised() -> tuple[uapfast.Reference, nn.Sequential, nn.Sequential]:
    """Of networks that take (x - mean) / std."""
    return make_reference(MEAN, STD)


@runs
@pytest.mark.parametrize("who", ["victim", "honest"])
def test_the_verdict_is_that_of_the_module(reference: Any, tmp_path: Path, who: str) -> None:
    ref, victim, honest = reference
    module = victim if who == "victim" else honest
    expected = uapfast.verify(ref, module)
    assert expected.similarity is not None and expected.decision != "invalid"
    with open_onnx(put(tmp_path, classifier(module, [1, 8, 8]))) as suspect:
        got = uapfast.verify(ref, suspect)
    assert got.decision == expected.decision and got.suspect_sha256 == suspect.sha256
    assert got.similarity == pytest.approx(expected.similarity, abs=1e-3)
    assert got.z == pytest.approx(expected.z, rel=1e-3)
    assert any("ONNX" in reason for reason in got.reasons)
    assert dataclasses.asdict(got).keys() == dataclasses.asdict(expected).keys()


@runs
def test_an_innocent_excuse_is_no_acquittal(reference: Any, tmp_path: Path) -> None:
    """NaN out of it is ``invalid``; images that it cannot take are an error of whoever asks."""
    ref = reference[0]
    with open_onnx(put(tmp_path, classifier(net(3), [3, 8, 8]))) as suspect:
        with pytest.raises(InputError, match="of channels that the input"):
            uapfast.verify(ref, suspect)
    bad = net(1)
    bad[5].bias[:] = float("nan")
    with open_onnx(put(tmp_path, classifier(bad, [1, 8, 8]))) as suspect:
        verdict = uapfast.verify(ref, suspect)
    assert verdict.decision == "invalid" and "NaN" in verdict.reasons[0]


# -- normalisation: of the file, or of the asker ------------------------------------------------------
def with_normalisation(module: nn.Sequential, top: float = 1.0) -> nn.Sequential:
    """The same network for images in 0..``top``: what an export of the whole pipeline holds."""
    front = nn.BatchNorm2d(1, eps=0.0, affine=False)
    front.running_mean[:], front.running_var[:] = top * MEAN[0], (top * STD[0]) ** 2
    ones = {"weight": torch.ones(1), "bias": torch.zeros(1)}
    front.weight, front.bias = (nn.Parameter(v, requires_grad=False) for v in ones.values())
    return nn.Sequential(front, *module).eval()


@runs
@pytest.mark.parametrize("who", ["victim", "honest"])
def test_a_bare_export_is_asked_as_the_bare_module(normalised: Any, tmp_path: Path, who: str) -> None:
    ref, victim, honest = normalised
    module = victim if who == "victim" else honest
    expected = uapfast.verify(ref, module, alpha=LEVEL)
    with open_onnx(put(tmp_path, classifier(module, [1, 8, 8]))) as suspect:
        before = suspect.notes
        got = uapfast.verify(ref, suspect, alpha=LEVEL)
        again = uapfast.verify(ref, suspect, alpha=LEVEL)
        assert suspect.notes == before and suspect.bare  # the caller's is as it was
    assert got.decision == again.decision == ("piracy" if who == "victim" else expected.decision)
    assert got.z == pytest.approx(expected.z, rel=1e-3)
    assert sum("victim's mean 0.13 and std 0.31, since none were given" in r for r in got.reasons) == 1
    assert any("less 0.13, divided by 0.31" in r for r in got.reasons)


@runs
def test_an_export_that_normalises_is_asked_as_it_is_said(normalised: Any, tmp_path: Path) -> None:
    ref, victim, _ = normalised
    expected = uapfast.verify(ref, victim, alpha=LEVEL)
    path = put(tmp_path, classifier(with_normalisation(victim), [1, 8, 8]))
    with open_onnx(path, mean=(0.0,), std=(1.0,)) as suspect:
        got = uapfast.verify(ref, suspect, alpha=LEVEL)
    assert got.decision == "piracy" and got.z == pytest.approx(expected.z, rel=1e-3)
    assert not any("victim's mean" in r for r in got.reasons)
    assert any("0..1 as they are: mean 0 and std 1 say so" in r for r in got.reasons)


@runs
def test_an_export_for_images_in_0_255_is_found_by_how_it_answers(normalised: Any, tmp_path: Path) -> None:
    ref, victim, _ = normalised
    expected = uapfast.verify(ref, victim, alpha=LEVEL)
    with open_onnx(put(tmp_path, classifier(with_normalisation(victim, 255.0), [1, 8, 8]))) as suspect:
        got = uapfast.verify(ref, suspect, alpha=LEVEL)
        assert suspect.bare and not any("none were given" in note for note in suspect.notes)
    assert got.decision == "piracy" and got.z == pytest.approx(expected.z, rel=1e-3)
    assert sum("mean 0 and std 0.00392157, since none were given" in r for r in got.reasons) == 1


@runs
@pytest.mark.parametrize("wrong", ["normalised twice", "not normalised"])
def test_a_wrong_guess_clears_nobody(normalised: Any, tmp_path: Path, wrong: str) -> None:
    ref, victim, _ = normalised
    twice = wrong == "normalised twice"
    path = put(tmp_path, classifier(with_normalisation(victim) if twice else victim, [1, 8, 8]))
    with open_onnx(path, **({} if twice else {"mean": (0.0,), "std": (1.0,)})) as suspect:
        assert uapfast.verify(ref, suspect).decision != "independent"


@runs
def test_bytes_are_never_normalised_by_a_guess(normalised: Any, tmp_path: Path) -> None:
    ref, victim, _ = normalised
    data = classifier(with_normalisation(victim), [1, 8, 8], dtype="uint8")
    with open_onnx(put(tmp_path, data)) as suspect:
        assert not suspect.bare
        verdict = uapfast.verify(ref, suspect)
    assert verdict.decision == uapfast.verify(ref, victim).decision
    assert any("it takes bytes" in r for r in verdict.reasons)
    assert not any("victim's mean" in r for r in verdict.reasons)


# -- classes --------------------------------------------------------------------------------------------
def of_classes(module: nn.Sequential, places: list[int], count: int) -> nn.Sequential:
    """The network with its classes at these places among ``count``; the others are unlikely."""
    last = nn.Linear(module[3].in_features, count)
    last.weight.data.zero_()
    last.bias.data.fill_(-20.0)
    last.weight.data[places], last.bias.data[places] = module[3].weight, module[3].bias
    return nn.Sequential(*module[:3], last).eval().requires_grad_(False)


@runs
def test_a_file_with_more_classes_needs_a_class_order(reference: Any, tmp_path: Path) -> None:
    ref, victim, _ = reference
    places = [7 * k % 23 for k in range(10)]
    path = put(tmp_path, classifier(of_classes(victim, places, 23), [1, 8, 8], classes=23))
    with open_onnx(path) as suspect:
        refused = uapfast.verify(ref, suspect)
        assert refused.decision == "invalid" and "class order says which" in refused.reasons[0]
    with open_onnx(path) as suspect:
        got = uapfast.verify(ref, suspect, class_order=places)
    expected = uapfast.verify(ref, victim)
    assert got.decision == expected.decision and got.z == pytest.approx(expected.z, rel=1e-3)


@runs
def test_a_file_with_fewer_classes_is_said_to_have_fewer(reference: Any, tmp_path: Path) -> None:
    ref, victim, _ = reference
    fewer = nn.Sequential(*victim[:3], nn.Linear(victim[3].in_features, 9)).requires_grad_(False)
    path = put(tmp_path, classifier(fewer, [1, 8, 8], classes=9))
    with open_onnx(path) as suspect:
        verdict = uapfast.verify(ref, suspect)
        assert verdict.decision == "invalid"
        assert "of 10 classes (one that knows fewer cannot be compared), got 9" in verdict.reasons[0]
        with pytest.raises(InputError, match=r"0\.\.8 \(one that knows fewer cannot be compared\), got 9"):
            uapfast.verify(ref, suspect, class_order=range(10))
