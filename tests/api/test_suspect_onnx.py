"""ONNX files as suspects: asked as the module that they were made from, whatever their form."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.api.onnx_asked import net, put, runs
from tests.security.onnx_forge import classifier, graph, layers, model, node, port
from uapfast.errors import InputError, MissingDependency, UnsupportedFileError, WeightsFileError
from uapfast.models.preprocessing import Preprocessing
from uapfast.safeload.limits import Limits
from uapfast.safeload.onnxfile import check_onnx
from uapfast.suspects import onnx_process
from uapfast.suspects.onnx import class_names, open_onnx
from uapfast.suspects.resolve import open_suspect


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 3, 8, 8)


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
    how = {"scale": 255, "channel_order": "bgr", "mean": (104, 117, 123), "std": (50, 51, 52)}
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
    "order": ({"channel_order": "grb"}, "'grb'"),
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
    with pytest.raises(InputError, match=r"output_name must be given \(--key\).*a float32.*b float32"):
        opened(tmp_path, two_heads())
    with pytest.raises(InputError, match="takes bytes"):
        opened(tmp_path, classifier(net(3), [3, 8, 8], dtype="uint8"), scale=255)


@runs
def test_a_key_names_the_output(tmp_path: Path, images: Tensor) -> None:
    path = put(tmp_path, two_heads())
    with open_suspect(path, key="b") as suspect, open_onnx(path, output_name="b") as named:
        assert torch.equal(suspect.answer(images), named.answer(images))
    with pytest.raises(InputError, match="one of the outputs .a float32"):
        open_suspect(path, key="c")


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
    with pytest.raises(MissingDependency, match=r"pip install .*'onnxruntime"):
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


@runs
def test_statistics_follow_the_order_of_colours(tmp_path: Path, images: Tensor) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    own = Preprocessing(mean, std)
    with open_onnx(put(tmp_path, classifier(net(3), [3, 8, 8])), channel_order="bgr") as suspect:
        got = suspect.with_preprocessing(own.ordered("bgr")).answer(images)
    fed = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(got, net(3)(fed.flip(1)), rtol=1e-4, atol=1e-4)
    with open_onnx(put(tmp_path, classifier(net(3), [3, 8, 8])), scale=255) as suspect:
        assert not suspect.bare
        with pytest.raises(InputError, match="left out .the suspect prepares images itself"):
            suspect.with_preprocessing(own)
