"""One model through every door: the same decision and similarity, whatever form a suspect comes in."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import uapfast
from tests.api.mlp import shipped
from tests.api.screen_world import COPY, MLP, World
from uapfast.models.checkpoint import load_model, read_weights, save_weights
from uapfast.models.registry import resolve_arch
from uapfast.suspects.callable import open_callable
from uapfast.suspects.resolve import open_suspect
from uapfast.testing import require
from uapfast.verbs.queries import write_queries
from uapfast.verbs.recorded import verify_recorded

SAME = 1e-3  # of similarity, from door to door
WHO = ("copy", "innocent")
TIMM = "timm:test_resnet?channels=1&classes=10"
VIT = """\
from transformers import ViTConfig, ViTForImageClassification

CONFIG = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
                   image_size=8, patch_size=4, num_channels=1, num_labels=10)

class Logits(ViTForImageClassification):
    def forward(self, x):
        return super().forward(x).logits

def make():
    return Logits(CONFIG)
"""


@dataclass
class Case:
    """A reference, a copy of its victim and an innocent of one architecture.

    Attributes:
        spec: of the architecture.
        files: weights of ``copy`` and ``innocent``.
        hub: writes a module into a folder as its library does; None where no library has it.
    """

    spec: str
    reference: uapfast.Reference
    files: dict[str, Path]
    folder: Path
    hub: Callable[[nn.Module, Path], None] | None = None

    def module(self, who: str) -> nn.Module:
        made = resolve_arch(self.spec)()
        made.load_state_dict(read_weights(self.files[who]))
        return made.eval().requires_grad_(False)

    def queries(self) -> Path:
        """What ``uapfast queries`` writes."""
        out = self.folder / "queries"
        if not out.exists():
            write_queries(self.reference, out)
        return out


def timm_folder(module: nn.Module, place: Path) -> None:
    from timm.models import save_for_hf

    about = {"input_size": [1, 8, 8], "mean": [0.0], "std": [1.0], "interpolation": "bicubic"}
    said = {"num_classes": 10, "model_args": {"in_chans": 1}, "pretrained_cfg": about}
    save_for_hf(module, str(place), model_config=said, safe_serialization=True)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **said}))


def vit_folder(module: nn.Module, place: Path) -> None:
    from transformers import ViTForImageClassification, ViTImageProcessor

    made = ViTForImageClassification(module.config)  # type: ignore[arg-type]
    made.load_state_dict(module.state_dict())
    made.save_pretrained(place)
    how = {"do_resize": False, "do_normalize": False, "size": {"height": 8, "width": 8}}
    ViTImageProcessor(**how).save_pretrained(place)


def made(spec: str, folder: Path, hub: Callable[[nn.Module, Path], None]) -> Case:
    """A small reference of an architecture that a library has."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    own, other = slice(0, 800), slice(800, 1600)
    victim = shipped(spec, x[own], y[own], 0)
    homologous = [shipped((spec, MLP)[s % 2], x[other], y[other], 20 + s) for s in range(9)]
    config = uapfast.GenerateConfig(points=30, views=20, ray=(0.0,), uap_images=100, min_fooling=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twins = [shipped(spec, x[own], y[own], s) for s in range(1, 8)]
        pool = uapfast.Pool.from_models(twins=twins, homologous=homologous)
        reference = uapfast.generate(victim, x[own], y[own], pool=pool, config=config)
    files = {who: folder / f"{who}.safetensors" for who in WHO}
    save_weights(victim, files["copy"])
    save_weights(shipped(spec, x[other], y[other], 60), files["innocent"])
    return Case(spec, reference, files, folder, hub)


@pytest.fixture(scope="module", params=["mlp", "timm", "transformers"])
def case(request: Any, world: World, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """An architecture that is nobody's, and one of each library that is installed."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "mlp":
        files = {"copy": Path(world.suspect(COPY).path), "innocent": Path(world.suspect("honest-3").path)}
        return Case(MLP, world.references["first"], files, folder)
    require(request.param)
    if request.param == "timm":
        return made(TIMM, folder, timm_folder)
    (folder / "net.py").write_text(VIT)
    return made(f"{folder / 'net.py'}:make", folder, vit_folder)


Door = Callable[[Case, str, Path], uapfast.Verdict]


def by_module(case: Case, who: str, place: Path) -> uapfast.Verdict:
    return uapfast.verify(case.reference, case.module(who))


def by_checkpoint(case: Case, who: str, place: Path) -> uapfast.Verdict:
    return uapfast.verify(case.reference, load_model(case.spec, case.files[who]))


def by_training_checkpoint(case: Case, who: str, place: Path) -> uapfast.Verdict:
    """As a trainer left it: nested, prefixed, with its optimiser."""
    module = case.module(who)
    state = {f"module.{k}": v for k, v in module.state_dict().items()}
    optimizer = torch.optim.Adam(module.parameters()).state_dict()
    torch.save({"epoch": 3, "state_dict": state, "optimizer": optimizer}, place / "last.ckpt")
    return uapfast.verify(case.reference, open_suspect(place / "last.ckpt", arch=case.spec))


def by_folder(case: Case, who: str, place: Path) -> uapfast.Verdict:
    if case.hub is None:
        pytest.skip("neither timm nor transformers has this architecture")
    case.hub(case.module(who), place / "net")
    return uapfast.verify(case.reference, open_suspect(place / "net"))


def by_onnx(case: Case, who: str, place: Path) -> uapfast.Verdict:
    require("onnx"), require("onnxruntime")
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["logits"]}
    names["dynamic_axes"] = {"x": {0: "n"}, "logits": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter needs no package but onnx, and says that it is old
        torch.onnx.export(
            case.module(who), (torch.rand(2, 1, 8, 8),), place / "m.onnx", dynamo=False, **names
        )
    with open_suspect(place / "m.onnx") as suspect:  # type: ignore[union-attr]
        return uapfast.verify(case.reference, suspect)


def by_callable(case: Case, who: str, place: Path) -> uapfast.Verdict:
    module = case.module(who)
    asked = open_callable(lambda x: module(torch.from_numpy(x)).numpy(), images="numpy")
    return uapfast.verify(case.reference, asked)


def served(form: str, path: str, **endpoint: Any) -> Door:
    """A door to a server on loopback, described by a URL or by a file."""

    def door(case: Case, who: str, place: Path) -> uapfast.Verdict:
        require("httpx2"), require("stamina")
        servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn")
        with servers.Server(getattr(servers, form), servers.Served(case.module(who))) as server:
            target = server.url + path
            if endpoint:
                file = place / "endpoint.toml"
                lines = [f'url = "{target}"', 'form = "template"', "batch_size = 50"]
                lines += [line for table, rows in endpoint.items() for line in (f"[{table}]", *rows)]
                file.write_text("\n".join(lines))
                target = str(file)
            with open_suspect(target) as suspect:  # type: ignore[union-attr]
                return uapfast.verify(case.reference, suspect)

    return door


TEMPLATE = {
    "image": ('encoding = "array"', 'layout = "nhwc"'),
    "request": ('body = {instances = "{images}"}',),
    "answer": ('scores = "predictions"',),
}


def by_npz(case: Case, who: str, place: Path) -> uapfast.Verdict:
    with np.load(case.queries() / "queries.npz") as asked:
        logits = case.module(who)(torch.from_numpy(asked["x"])).numpy()
        np.savez(place / "a.npz", id=asked["id"], logits=logits)
    return verify_recorded(case.reference, place / "a.npz")


def by_csv(case: Case, who: str, place: Path) -> uapfast.Verdict:
    """Labels and scores, the best first."""
    with np.load(case.queries() / "queries.npz") as asked:
        scores = case.module(who)(torch.from_numpy(asked["x"])).softmax(-1)
        columns: dict[str, Any] = {"id": asked["id"]}
    best = scores.sort(-1, descending=True)
    for k in range(10):
        columns |= {f"label_{k + 1}": best.indices[:, k].numpy(), f"score_{k + 1}": best.values[:, k].numpy()}
    pd.DataFrame(columns).sample(frac=1, random_state=0).to_csv(place / "a.csv", index=False)
    return verify_recorded(case.reference, place / "a.csv")


DOORS: dict[str, Door] = {
    "module": by_module,
    "checkpoint": by_checkpoint,
    "training checkpoint": by_training_checkpoint,
    "hub folder": by_folder,
    "ONNX": by_onnx,
    "callable": by_callable,
    "OIP": served("oip", "/v2/models/digits"),
    "template": served("v1", "/v1/models/digits:predict", **TEMPLATE),
    "recorded npz": by_npz,
    "recorded CSV": by_csv,
}
COSTLY = ("OIP", "template")  # asked look by look, and no more than is needed


def expected(case: Case, who: str, costly: bool = False) -> uapfast.Verdict:
    module = case.module(who)
    return uapfast.verify(case.reference, open_callable(lambda x: module(x), costly=costly))


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("door", DOORS)
def test_the_same_verdict_through_every_door(case: Case, tmp_path: Path, door: str, who: str) -> None:
    wanted = expected(case, who, door in COSTLY)
    assert wanted.decision == {"copy": "piracy", "innocent": "independent"}[who]
    found = DOORS[door](case, who, tmp_path)
    assert found.decision == wanted.decision and found.queries_used == wanted.queries_used
    assert found.similarity == pytest.approx(wanted.similarity, abs=SAME)
    assert found.z == pytest.approx(wanted.z, abs=0.05)


@pytest.mark.parametrize("who", WHO)
def test_pictures_are_answered_within_what_eight_bits_explain(case: Case, tmp_path: Path, who: str) -> None:
    """The same as a suspect that is asked with rounded queries, and near to one that is asked exactly."""
    module, rows = case.module(who), {}
    for path in (case.queries() / "png").iterdir():
        with Image.open(path) as image:
            rows[int(path.stem)] = np.asarray(image, np.float32)[None] / np.float32(255)
    logits = module(torch.from_numpy(np.stack(list(rows.values())))).numpy()
    np.savez(tmp_path / "a.npz", id=np.array(list(rows)), logits=logits)
    found, exact = verify_recorded(case.reference, tmp_path / "a.npz"), expected(case, who)
    rounded = uapfast.verify(case.reference, lambda x: module((x * 255).round() / 255))
    assert found.decision == exact.decision
    assert found.similarity == pytest.approx(rounded.similarity, abs=SAME)
    assert found.similarity == pytest.approx(exact.similarity, abs=0.03)
