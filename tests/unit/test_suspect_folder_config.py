"""What a hub folder's configuration says, and what it may not say. Needs neither library."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.security.fuzz_hub import mutated
from tests.unit.hub_configs import FLAT, INPUT, PROCESSOR, TIMM, VIT
from uapfast.errors import ModelError
from uapfast.suspects.hub_config import describe, timm_input, transformers_input
from uapfast.suspects.hub_files import CONFIG, read_json
from uapfast.suspects.pixels import resized
from uapfast.suspects.preparation import MOST_SIZE, Preparation


def test_a_timm_folder_is_described() -> None:
    what = describe(TIMM)
    assert (what.library, what.network, what.classes, what.class_names) == (
        "timm",
        "resnet18",
        3,
        ("a", "b", "c"),
    )
    assert what.arguments == {"img_size": (32, 48), "in_chans": 3}
    assert set(what.about_input) == {*INPUT}, "no address reaches the library"
    how = timm_input(what.about_input)
    assert (how.channels, how.size, how.interpolation, how.mean) == (3, (32, 48), "bicubic", (0.5, 0.4, 0.3))
    assert any("crop_pct 0.9" in s and "not applied" in s for s in how.sentences())


def test_the_older_flat_form_says_the_same() -> None:
    what = describe(FLAT)
    assert (what.network, what.classes, what.class_names) == ("resnet18", 2, ("a", "b"))
    assert timm_input(what.about_input) == timm_input(INPUT)


@pytest.mark.parametrize("names", [{"1": "b", "0": "a", "2": "c"}, ["a", "b", "c"]])
def test_class_names_come_in_their_order(names: Any) -> None:
    assert describe({**TIMM, "label_names": names}).class_names == ("a", "b", "c")


@pytest.mark.parametrize("names", [{"0": "a", "2": "c"}, ["a", "b"], ["LABEL_0", "LABEL_1", "LABEL_2"], None])
def test_names_that_leave_a_class_out_or_say_nothing_are_none(names: Any) -> None:
    assert describe({**TIMM, "label_names": names}).class_names is None


def test_means_of_other_channels_are_averaged_as_timm_does() -> None:
    how = timm_input({**INPUT, "input_size": [1, 28, 28]})
    assert how.channels == 1 and how.mean == pytest.approx((0.4,))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "hf-hub:owner/net"}, "architecture"),
        ({"architecture": "local-dir:/tmp/net"}, "architecture"),
        ({"architecture": "https://host/net"}, "architecture"),
        ({"num_classes": 10**9}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"num_classes": 4, "model_args": {"num_classes": 5}}, "num_classes"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "pretrained"),
        ({"model_args": {"features_only": True}}, "features_only"),
        ({"model_args": {"depth": 10**6}}, "depth"),
        ({"model_args": {"depths": [2] * 65}}, "depths"),
        ({"model_args": {"act_layer": "os.system('id')"}}, "act_layer"),
        ({"model_args": {"qkv_bias": "yes"}}, "qkv_bias"),
        ({"model_args": ["depth"]}, "model_args"),
        ({"label_names": {"x": "a"}}, "label_names"),
        ({"pretrained_cfg": "a1_in1k"}, "pretrained_cfg"),
    ],
)
def test_what_timm_may_not_be_told(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        describe({**TIMM, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": [3, 32]},
        {"input_size": [3, 32, MOST_SIZE + 1]},
        {"input_size": [0, 32, 32]},
        {"std": [0.0, 0.1, 0.1]},
        {"mean": [1e30, 0, 0]},
        {"mean": "0.5"},
        {"interpolation": "random"},
        {"crop_pct": 0},
    ],
)
def test_what_an_input_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(change))):
        timm_input({**INPUT, **change})


def test_a_transformers_folder_is_described() -> None:
    what = describe(VIT)
    assert (what.library, what.network, what.classes) == ("transformers", "ViTForImageClassification", 2)
    assert what.class_names == ("cat", "dog")
    assert "torch_dtype" not in what.arguments and what.arguments["hidden_size"] == 32
    how = transformers_input(PROCESSOR, what.arguments, "p")
    assert (how.channels, how.size, how.mean, how.std) == (3, (32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        ({"do_normalize": False}, (0.0,), (1.0,)),
        ({"do_rescale": False}, (0.5 / 255,) * 3, (0.5 / 255,) * 3),  # the statistics are then of 0..255
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, (0.75,) * 3, (0.25,) * 3),
        ({"include_top": True}, (0.5,) * 3, (0.25,) * 3),
        ({"image_mean": 0.5, "image_std": 0.25}, (0.5,), (0.25,)),
    ],
)
def test_mean_and_std_are_those_of_images_in_0_to_1(change: Any, mean: Any, std: Any) -> None:
    how = transformers_input({**PROCESSOR, **change}, VIT, "p")
    assert how.mean == pytest.approx(mean) and how.std == pytest.approx(std)


THREE = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.2, 0.4, 0.5]}


@pytest.mark.parametrize(
    ("change", "mean", "std", "flip"),
    [
        ({"image_processor_type": "MobileViTImageProcessor"}, (0.0,), (1.0,), True),
        (
            {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False},
            (0.0,),
            (1.0,),
            False,
        ),
        ({"image_processor_type": "PPLCNetImageProcessor"}, (0.3, 0.2, 0.1), (0.5, 0.4, 0.2), True),
        ({"image_processor_type": "EfficientNetImageProcessor"}, (0.1, 0.2, 0.3), (0.04, 0.16, 0.25), False),
        (
            {"feature_extractor_type": "EfficientNetImageProcessor", "do_normalize": False},
            (0.0,) * 3,
            (0.2, 0.4, 0.5),
            False,
        ),
    ],
)
def test_processors_that_do_what_their_file_does_not_say(
    change: Any, mean: Any, std: Any, flip: bool
) -> None:
    plain = {k: v for k, v in PROCESSOR.items() if k != "image_processor_type"}
    how = transformers_input({**plain, **THREE, **change}, VIT, "p")
    got = torch.broadcast_to(torch.tensor(how.mean), (len(mean),)).tolist()
    assert (got, how.flip) == (pytest.approx(mean), flip) and how.std == pytest.approx(std)


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({"size": 24}, (24, 24)),
        ({"size": {"shortest_edge": 40}}, (40, 40)),
        ({"do_center_crop": True, "crop_size": {"height": 28, "width": 20}}, (28, 20)),
        ({"do_center_crop": True, "crop_size": 28}, (28, 28)),
        ({"do_resize": False}, (32, 32)),  # that of the network
    ],
)
def test_the_size_that_a_network_is_given(change: Any, size: tuple[int, int]) -> None:
    assert transformers_input({**PROCESSOR, **change}, VIT, "p").size == size


def test_a_folder_without_preprocessor_says_nothing_of_mean_and_std() -> None:
    how = transformers_input(None, VIT, "p")
    assert how.mean is None and how.size == (32, 32) and any("nothing of mean" in s for s in how.sentences())


def test_a_step_that_is_not_known_is_named() -> None:
    with pytest.raises(ModelError, match="do_sharpen"):
        transformers_input({**PROCESSOR, "do_sharpen": True}, VIT, "p")
    assert transformers_input({**PROCESSOR, "do_sharpen": False}, VIT, "p").size == (32, 32)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"auto_map": {"AutoModel": "evil.Net"}}, "auto_map"),
        ({"sub_config": {"deep": [{"auto_map": {"AutoModel": "evil.Net"}}]}}, "auto_map"),
        ({"quantization_config": {"quant_method": "x"}}, "quantization_config"),
        ({"backbone": "resnet50"}, "backbone"),
        ({"use_pretrained_backbone": True}, "use_pretrained_backbone"),
        ({"_attn_implementation": "owner/kernels"}, "attn_implementation"),
        ({"architectures": ["ViTModel"]}, "architectures"),
        ({"architectures": ["ViTForImageClassification", "BertModel"]}, "architectures"),
        ({"architectures": ["os.ForImageClassification"]}, "architectures"),
        ({"num_labels": 3}, "id2label"),
        ({"id2label": None, "num_labels": 10**9}, "num_labels"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"depths": [1] * 1001}, "depths"),
        ({"vocab": 10**12}, "vocab"),
        ({"__class__": "str"}, "plain names"),
        ({"deep": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}, "nested"),
    ],
)
def test_what_transformers_may_not_be_told(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        describe({**VIT, **change})


def test_a_thousand_mutated_configurations_give_typed_errors_or_a_sound_description(tmp_path: Path) -> None:
    rng, sound = random.Random(16), 0
    for number in range(1000):
        config = (TIMM, FLAT, VIT, PROCESSOR)[number % 4]
        (tmp_path / CONFIG).write_bytes(mutated(config, rng))
        try:
            read = read_json(tmp_path, CONFIG)
            if config is PROCESSOR:
                how = transformers_input(read, VIT, "p")
            else:
                what = describe(read)
                assert what.library in ("timm", "transformers")
                assert what.classes is None or 2 <= what.classes <= 100_000
                how = timm_input(what.about_input) if what.library == "timm" else transformers_input(
                    None, what.arguments, "p")  # fmt: skip
        except ModelError as exc:
            assert len(str(exc)) < 1500
            continue
        sound += 1
        assert how.size is None or max(how.size) <= MOST_SIZE
        assert how.at_a_time(64) * (how.size or (1, 1))[0] * (how.size or (1, 1))[1] <= 64 * 224 * 224
    assert 50 < sound < 700, sound


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_images_are_resized_as_pillow_does_it(mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    import numpy as np

    x = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    for size in ((32, 48), (7, 9)):
        pil = image.fromarray(x).resize(size[::-1], getattr(image.Resampling, mode.upper()))
        ours = resized(torch.from_numpy(x)[None, None] / 255, size, mode)[0, 0] * 255
        assert np.abs(ours.numpy() - np.asarray(pil, dtype=float)).max() < 1.01, (mode, size)


def test_statistics_out_of_bounds_are_refused() -> None:
    with pytest.raises(ModelError, match="std must be in"):
        Preparation(3, None, "bilinear", (0.5,), (0.0,))
