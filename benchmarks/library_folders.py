"""Folders that timm and transformers write themselves, opened and asked beside the library's own network.

    python -m benchmarks.library_folders [--only NAME ...]

needs both libraries (and the torchvision that fits torch), makes every network with random weights, fetches
nothing, and prints a table: the largest difference of logits on two images that need no resizing.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.errors import UapfastError
from uapfast.suspects.folder import OTHER_INPUT, FolderModel, open_folder

CLASSES, MOST_PARAMETERS, IMAGES = 7, 130_000_000, 2
SAME = 1e-5  # of logits, relative to the largest
SPREAD = 1e-4  # from image to image, without which being the same says nothing
# one or two of each family
TIMM = """
resnet18 resnet50d resnext50_32x4d wide_resnet50_2 seresnet50 resnetv2_50 resnetrs50 regnety_002
res2net50_26w_4s ecaresnet26t skresnet18 densenet121 dla34 dpn68 vgg11_bn hrnet_w18_small inception_v3
inception_v4
xception41
efficientnet_b0 tf_efficientnet_lite0 tf_efficientnetv2_b0 mobilenetv2_100 mobilenetv3_small_100
mobilenetv4_conv_small mnasnet_100 fbnetc_100 ghostnet_100 lcnet_050 rexnet_100 nfnet_l0 repvgg_a0
mobileone_s0 convnext_atto convnextv2_atto convmixer_768_32 vit_tiny_patch16_224 vit_small_patch32_224
vit_base_patch32_clip_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224
beit_base_patch16_224 eva02_tiny_patch14_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224 levit_128s
levit_conv_128s cait_xxs24_224 coat_tiny convit_tiny crossvit_tiny_240 xcit_nano_12_p16_224 mixer_s32_224
gmlp_ti16_224 resmlp_12_224 poolformer_s12 edgenext_xx_small mobilevit_xxs mobilevitv2_050 efficientformer_l1
efficientformerv2_s0 efficientvit_b0 fastvit_t8 tiny_vit_5m_224 twins_svt_small visformer_tiny volo_d1_224
pit_ti_224 tnt_s_patch16_224 sequencer2d_s maxvit_rmlp_pico_rw_256 coatnet_nano_rw_224 nest_tiny
hiera_tiny_224 inception_next_tiny repghostnet_050 starnet_s1 test_resnet test_vit
""".split()
Made = tuple[nn.Module, Callable[[Tensor], Tensor]]


def shaken(network: nn.Module) -> nn.Module:
    """With weights that let through what they are given, and none of zero: a wrong reading then shows."""
    draw = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if parameter.ndim in (2, 4):
            nn.init.kaiming_normal_(parameter, generator=draw)
        else:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw)
    return network.eval()


def of_timm(name: str, place: Path) -> Made:
    """A folder by timm, and its network behind its own mean and std."""
    import timm
    from timm.models import save_for_hf

    network = shaken(timm.create_model(name, pretrained=False, num_classes=CLASSES))
    save_for_hf(network, str(place), safe_serialization=True)
    about: Any = network.pretrained_cfg
    mean, std = (torch.tensor(about[k]).reshape(-1, 1, 1) for k in ("mean", "std"))
    return network, lambda x: network((x - mean) / std)


def of_transformers(name: str, place: Path) -> Made:
    """The same by transformers; images are prepared by the processor that belongs to the network."""
    import transformers

    kind = getattr(transformers, name)
    config = kind.config_class(num_labels=CLASSES)
    with torch.device("meta"):
        count = sum(p.numel() for p in kind(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f} million parameters: not tried")
    network = shaken(kind(config))
    network.save_pretrained(place)
    processor = processor_of(config.model_type)
    processor.save_pretrained(place)

    def own(x: Tensor) -> Tensor:
        given = list((x * 255).round().to(torch.uint8))
        made = processor(given, do_resize=False, do_center_crop=False, return_tensors="pt")
        out = network(made["pixel_values"])
        logits: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
        return logits

    return network, own


def processor_of(model_type: str) -> Any:
    """The image processor of a kind of network, as transformers pairs them."""
    import transformers

    auto = importlib.import_module("transformers.models.auto.image_processing_auto")
    found = auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, "ViTImageProcessor")
    found = list(found.values()) if isinstance(found, dict) else found
    names = [found] if isinstance(found, str) else list(found)
    for one in names:
        made = getattr(transformers, one, None) if one else None
        if made is not None:
            return made()
    return transformers.ViTImageProcessor()


def images(channels: int, height: int, width: int) -> Tensor:
    """Large patches of strong colours, a dark image and a bright one, on the grid of 8 bits."""
    patches = torch.rand(IMAGES, channels, 4, 4, generator=torch.Generator().manual_seed(2))
    patches = patches * torch.linspace(0.3, 1, IMAGES).reshape(-1, 1, 1, 1)
    return (nn.functional.interpolate(patches, (height, width)) * 255).round() / 255


def brief(exc: Exception, place: str) -> str:
    """An error on one short line."""
    return " ".join(f"{type(exc).__name__}: {exc}".replace(place, "FOLDER").split())[:160]


def tried(made: Callable[[str, Path], Made], name: str) -> dict[str, Any]:
    """One network: how far the folder's answers are from the library's own, or why there are none."""
    torch.manual_seed(0)
    row: dict[str, Any] = {"library": made.__name__.removeprefix("of_"), "network": name}
    with tempfile.TemporaryDirectory() as place:
        try:
            network, own = made(name, Path(place))
        except Exception as exc:  # of the library: it does not build, or does not save
            return {**row, "said": "not made by the library: " + brief(exc, place)}
        row["million"] = sum(p.numel() for p in network.parameters()) / 1e6
        try:
            model: FolderModel = open_folder(place)
            how = model.preparation
            row["shape"] = [how.channels, *(how.size or (224, 224))]
            x = images(*row["shape"])
            with torch.no_grad():
                wanted = own(x)
            got = model.answers(x, CLASSES).values
        except Exception as exc:
            return {
                **row,
                "said": ("" if isinstance(exc, UapfastError) else "the library: ") + brief(exc, place),
            }
    far = float((got - wanted).abs().max() / wanted.abs().max())
    spread = float((wanted[0] - wanted[1]).abs().max() / wanted.abs().max())
    return {**row, "far": far, "spread": spread}


def classes_of_transformers() -> list[str]:
    """Image classifiers of transformers that take images."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    found: list[str] = []
    for names in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        found += [names] if isinstance(names, str) else names
    return [name for name in found if not name.startswith(OTHER_INPUT)]


def rows(only: list[str]) -> Iterator[dict[str, Any]]:
    """One after the other."""
    kinds = ((of_timm, TIMM), (of_transformers, classes_of_transformers()))
    for made, names in kinds:
        for name in names:
            if not only or name in only:
                yield tried(made, name)


def line(row: dict[str, Any]) -> str:
    """A row of the table, Markdown."""
    if "said" in row:
        return f"| {row['library']} | {row['network']} | {row.get('million', 0):.1f} | | {row['said']} |"
    said = "same" if row["far"] <= SAME else "DIFFERS"
    if row["spread"] < SPREAD:
        said += ", but alike for all images"
    size = "x".join(map(str, row["shape"]))
    head = f"| {row['library']} | {row['network']} | {row['million']:.1f} | {size} |"
    return f"{head} {said} ({row['far']:.0e}) |"


def main() -> None:
    """Try all, print as they come."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.library_folders")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    given = parser.parse_args()
    sys.stdout.write("| library | network | million parameters | image | logits |\n|---|---|---|---|---|\n")
    for row in rows(given.only):
        sys.stdout.write(line(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
