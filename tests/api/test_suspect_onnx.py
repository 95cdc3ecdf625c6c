"""ONNX files as suspects: asked as the module that they were made from, whatever their form."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import uapfast
from tests.security.onnx_forge import classifier, graph, layers, model, node, port
from uapfast.errors import InputError, MissingDependency, UnsupportedFileError, WeightsFileError
from uapfast.safeload.limits import Limits
from uapfast.safeload.onnxfile import check_onnx
from uapfast.suspects import onnx_process
from uapfast.suspects.onnx import class_names, open_onnx

runs = pytest.mark.needs("onnxruntime")
LEVEL = 0.01  # a pool of a few models convicts nobody at a finer one
SMALL = uapfast.GenerateConfig(points=24, views=6, ray=(0.0,), uap_images=60, min_fooling=0.0)


def net(channels: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 10),
    ).eval().requires_grad_(False)  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 3, 8, 8)


def put(folder: Path, data: bytes, name: str = "m.onnx") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def ask(path: Path, x: Tensor, **how: Any) -> Tensor:
    with open_onnx(path, **how) as suspect:
        return suspect.answers_to([x]).values


@runs
def test_it_answers_as_the_module_does(tmp_path: Path, images: Tensor) -> None:
    data = classifier(net(3), [3, 8, 8], metadata={"names": "{0: 'a', 1: \"b\"}"})
    with open_onnx(put(tmp_path, data)) as suspect:
        answers = suspect.answers_to([images[:4], images[4:]], 10)
        assert (answers.kind, answers.classes) == ("logits", 10)
        torch.testing.assert_close(answers.values, net(3)(images), rtol=1e-4, atol=1e-5)
        assert suspect.sha256 == hashlib.sha256(data).hexdigest()
        assert suspect.class_names == ("a", "b") and suspect.name == "m.onnx" and suspect.batch_size == 64
        assert "scale=255" in suspect.notes[0] and suspect.source["opset"] == 17


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "batch of 4": ({"batch": 4}, {}, 1e-5),
    "batch of 1": ({"batch": 1}, {}, 1e-5),
    "free height and width": ({"image": [3, "h", "w"]}, {}, 1e-5),
    "free channels, layout given": ({"image": ["c", "h", "w"]}, {"layout": "NCHW"}, 1e-5),
    "NHWC": ({"layout": "NHWC"}, {}, 1e-5),
    "NHWC, free size, batch of 3": ({"layout": "NHWC", "image": [3, "h", "w"], "batch": 3}, {}, 1e-5),
    "bytes": ({"dtype": "uint8"}, {}, 1e-5),
    "bytes, NHWC": ({"dtype": "uint8", "layout": "NHWC"}, {}, 1e-5),
    "half precision": ({"dtype": "float16"}, {}, 1e-3),
    "logits and probabilities": ({"outputs": ("probabilities", "logits")}, {}, 1e-5),
    "a label beside the logits": ({"outputs": ("label", "logits")}, {}, 1e-5),
    "another output by name": ({"outputs": ("probabilities", "logits")}, {"output_name": "logits"}, 1e-5),
}


@runs
@pytest.mark.parametrize("case", CASES)
def test_forms_of_input_and_output(tmp_path: Path, images: Tensor, case: str) -> None:
    made, how, tolerance = CASES[case]
    images = (images * 255).round() / 255
    data = classifier(net(3), **{"image": [3, 8, 8], **made})
    got = ask(put(tmp_path, data), images, **how)
    torch.testing.assert_close(got, net(3)(images), rtol=tolerance, atol=tolerance)


@runs
def test_probabilities_and_labels(tmp_path: Path, images: Tensor) -> None:
    path = put(tmp_path, classifier(net(3), [3, 8, 8], outputs=("label", "logits", "probabilities")))
    expected = net(3)(images)
    with open_onnx(path, output="probabilities") as suspect:
        answers = suspect.answers_to([images])
        assert answers.kind == "probabilities" and "label" in " ".join(suspect.notes)
        torch.testing.assert_close(answers.values, expected.softmax(1))
    with open_onnx(path, output_name="label") as suspect:
        assert torch.equal(suspect.answers_to([images], 10).values, expected.argmax(1))


@runs
def test_preparation_is_what_is_said(tmp_path: Path, images: Tensor) -> None:
    path = put(tmp_path, classifier(net(3), [3, 8, 8]))
    how = {"scale": 255, "order": "bgr", "mean": (104, 117, 123), "std": (50, 51, 52)}
    fed = (images.flip(1) * 255 - torch.tensor(how["mean"])[:, None, None]) / torch.tensor(how["std"])[
        :, None, None
    ]
    with open_onnx(path, **how) as suspect:
        torch.testing.assert_close(suspect.answer(images), net(3)(fed), rtol=1e-4, atol=1e-4)
        assert "bgr images times 255, less 104, 117, 123, divided by 50, 51, 52" in suspect.notes[0]


@runs
def test_another_size_is_resized_and_said(tmp_path: Path) -> None:
    x = torch.rand(3, 3, 20, 12)
    small = nn.functional.interpolate(x, (8, 8), mode="bilinear", antialias=True).clamp(0, 1)
    fixed = put(tmp_path, classifier(net(3), [3, 8, 8]), "fixed.onnx")
    free = put(tmp_path, classifier(net(3), [3, "h", "w"]), "free.onnx")
    torch.testing.assert_close(ask(fixed, x), net(3)(small))
    torch.testing.assert_close(ask(free, x), net(3)(x))
    torch.testing.assert_close(ask(free, x, size=(8, 8)), net(3)(small))
    with open_onnx(fixed) as suspect:
        assert any("resized (bilinear, antialiased)" in note for note in suspect.notes)


def opened(folder: Path, data: bytes, **how: Any) -> None:
    open_onnx(put(folder, data), **how).close()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "layout": ({"layout": "NWHC"}, "'NWHC'"),
    "order": ({"order": "grb"}, "'grb'"),
    "scale": ({"scale": 0}, "got 0"),
    "mean alone": ({"mean": [0.5]}, "given together"),
    "mean and std of other lengths": ({"mean": [0.5] * 3, "std": [0.5]}, "got 3 and 1"),
    "std of zero": ({"mean": [0.5], "std": [0.0]}, "above 0"),
    "size": ({"size": (9, 9)}, r"got \(9, 9\)"),
    "timeout": ({"timeout": -1}, "-1"),
    "memory": ({"memory": 1}, "got 1"),
    "output": ({"output": "scores"}, "'scores'"),
    "output_name": ({"output_name": "nothing"}, "logits float32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_are_checked_before_anything_starts(tmp_path: Path, case: str) -> None:
    how, said = WRONG[case]
    with pytest.raises(InputError, match=said):
        opened(tmp_path, classifier(net(3), [3, 8, 8]), **how)


def test_what_only_the_asker_can_tell_is_asked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="output_name must be given.*a float32.*b float32"):
        opened(tmp_path, two_heads())
    with pytest.raises(InputError, match="takes bytes"):
        opened(tmp_path, classifier(net(3), [3, 8, 8], dtype="uint8"), scale=255)


def two_heads() -> bytes:
    nodes, weights, last = layers(net(3))
    ends = [node("Identity", last, name) for name in "ab"]
    held = graph(nodes + ends, [port("x", ["n", 3, 8, 8])], [port(n, ["n", 10]) for n in "ab"], weights)
    return model(held)


@runs
def test_images_that_do_not_tell_the_layout(tmp_path: Path, images: Tensor) -> None:
    with open_onnx(put(tmp_path, classifier(net(3), ["c", "h", "w"]))) as suspect:
        with pytest.raises(InputError, match="layout must be given"):
            suspect.answer(images)
    with open_onnx(put(tmp_path, classifier(net(3), [3, 8, 8]))) as suspect:
        with pytest.raises(InputError, match="of channels that the input x"):
            suspect.answer(torch.rand(2, 1, 8, 8))


X, Y = port("x", ["n", 3, 8, 8]), port("y", ["n", 4])
UNFIT: dict[str, tuple[bytes, str]] = {
    "two inputs": (model(graph([], [X, port("z", [1])], [Y])), "2 inputs: x float32"),
    "a flat input": (model(graph([], [port("x", ["n", 192])], [Y])), r"x float32\[\?, 192\]"),
    "an input of integers": (model(graph([], [port("x", ["n", 3, 8, 8], "int64")], [Y])), "x int64"),
    "no output of numbers": (model(graph([], [X], [b"\x0a\x01y"])), "outputs are arrays of numbers"),
    "ort": (b"\x1c\0\0\0ORTM" + b"\0" * 40, r"\.ort"),
    "text": (b"hello, this is text", "begins with"),
    "safetensors": (b"\x02\0\0\0\0\0\0\0{}", "needs an architecture"),
    "TensorFlow": (b"\x08\x01\x12" + b"\0" * 40, "tf2onnx"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_files_that_are_no_classifiers_of_images(tmp_path: Path, case: str) -> None:
    data, said = UNFIT[case]
    with pytest.raises(WeightsFileError, match=said):
        opened(tmp_path, data)


def test_a_machine_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = onnx_process.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_process.importlib.util, "find_spec", lambda n: None if n == "onnxruntime" else find(n)
    )
    with pytest.raises(MissingDependency, match=r"uapfast\[onnx\]"):
        opened(tmp_path, classifier(net(3), [3, 8, 8]))


@runs
def test_an_opset_to_come_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFileError, match="export with an older one.*opset"):
        opened(tmp_path, classifier(net(3), [3, 8, 8], opset=900))
    with pytest.raises(UnsupportedFileError, match="(?i)ir.version"):
        opened(tmp_path, classifier(net(3), [3, 8, 8], ir=31))


def test_class_names_in_the_forms_that_are_about() -> None:
    forms = {
        '["cat", "dog"]': ("cat", "dog"),
        '{"0": "cat", "1": "dog"}': ("cat", "dog"),
        "{1: 'dog', 0: 'cat'}": ("cat", "dog"),
        "cat\ndog": ("cat", "dog"),
        "cat, dog": ("cat", "dog"),
        "{0: 'cat', 2: 'dog'}": None,
        "[" * 100_000: None,
        "[1, 2]": None,
        "": None,
    }
    for text, expected in forms.items():
        data = classifier(net(3), [3, 8, 8], metadata={"class_names": text})
        assert class_names(check_onnx(data, Limits())) == expected, text


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
def with_normalisation(module: nn.Sequential) -> nn.Sequential:
    """The same network for images in 0..1: what an export of the whole pipeline holds."""
    front = nn.BatchNorm2d(1, eps=0.0, affine=False)
    front.running_mean[:], front.running_var[:] = MEAN[0], STD[0] ** 2
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


@runs
def test_statistics_follow_the_order_of_colours(tmp_path: Path, images: Tensor) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    with open_onnx(put(tmp_path, classifier(net(3), [3, 8, 8])), order="bgr") as suspect:
        got = suspect.with_preprocessing(mean, std).answer(images)
    fed = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(got, net(3)(fed.flip(1)), rtol=1e-4, atol=1e-4)
    with open_onnx(put(tmp_path, classifier(net(3), [3, 8, 8])), scale=255) as suspect:
        assert not suspect.bare
        with pytest.raises(InputError, match="left to the suspect itself"):
            suspect.with_preprocessing(mean, std)


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
