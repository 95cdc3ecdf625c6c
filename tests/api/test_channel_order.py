"""Suspects that take their channels in another order than the victim: told, found out, recorded."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import uapfast
from tests.api.mlp import shipped
from tests.api.onnx_asked import net, put, runs
from tests.security.onnx_forge import classifier
from uapfast.cli.run import main
from uapfast.errors import InputError, ManifestError, RecordError
from uapfast.models.checkpoint import save_weights
from uapfast.models.model import Model
from uapfast.models.preprocessing import Preprocessing
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.http_images import ImageEncoding
from uapfast.suspects.record_reader import is_record
from uapfast.suspects.record_writer import Recorder, line_of
from uapfast.verbs.replay import verify_record

ARCH = "uapfast:mlp-small?size=8&channels=3"
MEAN, STD = (0.6, 0.4, 0.2), (0.2, 0.15, 0.1)
HOW = {"mean": MEAN, "std": STD}


class Turned(nn.Module):
    """A network for images whose channels are turned round."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.flip(1))
        return out


class Normalising(nn.Module):
    """A network that takes pixels in 0..1, no others, and normalises them itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.own = inner, Preprocessing(MEAN, STD)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(self.own.applied(x.clamp(0.0, 1.0)))
        return out


@dataclass
class Colours:
    victim: nn.Module
    honest: list[nn.Module]
    reference: uapfast.Reference
    plain: uapfast.Verdict


def tinted(seed: int) -> tuple[Tensor, Tensor]:
    """Digits of 8 px, red for the first five classes and blue for the others, more or less."""
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    draw = torch.Generator().manual_seed(seed)
    red = (0.15 + 0.7 * (y < 5) + 0.1 * torch.randn(len(y), generator=draw)).clamp(0, 1).view(-1, 1, 1)
    return torch.stack([x[:, 0] * red, x[:, 0] * 0.5, x[:, 0] * (1 - red)], 1), y


def colours(**how: Any) -> Colours:
    """A victim, honest models and a reference, all of whose models are prepared as ``how`` says."""
    torch.set_num_threads(1)
    x, y = tinted(0)
    own, other = slice(0, 900), slice(900, 1797)
    way = Preprocessing.given(**how)
    inner = x if way is None else way.applied(x)
    made = [shipped(ARCH, inner[own], y[own], s) for s in range(7)]
    honest = [shipped(ARCH, inner[(own, other)[s % 2]], y[(own, other)[s % 2]], 20 + s) for s in range(14)]
    twins = [Model(m, **how) for m in made[1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = uapfast.Pool.from_models(twins=twins, homologous=[Model(m, **how) for m in honest[:12]])
        config = uapfast.GenerateConfig(points=40, uap_images=100, min_fooling=0.0)
        found = uapfast.generate(Model(made[0], **how), x[other], y[other], pool=pool, config=config)
    reference = dataclasses.replace(found, settings={**found.settings, "limits": []}, _cache={})
    plain = uapfast.verify(reference, Model(made[0], **how), alpha=0.01)
    assert plain.decision == "piracy"
    return Colours(made[0], honest[12:], reference, plain)


@pytest.fixture(scope="module")
def world() -> Colours:
    return colours(**HOW)


def judged(world: Colours, suspect: Any, **how: Any) -> uapfast.Verdict:
    return uapfast.verify(world.reference, suspect, alpha=0.01, **how)


@pytest.mark.parametrize(
    "how, said",
    [
        ("turned", "with mean 0.2 0.4 0.6 and std 0.1 0.15 0.2 in channel order bgr"),
        ("turned and normalising", "with mean 0 and std 1 in channel order bgr"),
        ("normalising", "with mean 0 and std 1, since"),
        ("as the victim", "with the victim's mean 0.6 0.4 0.2 and std 0.2 0.15 0.1, since"),
    ],
)
def test_a_copy_is_asked_as_it_answers_best(world: Colours, how: str, said: str) -> None:
    network = Normalising(world.victim) if "normalising" in how else world.victim
    found = judged(world, Turned(network) if "turned" in how else network)
    assert found.decision == "piracy" and found.z == pytest.approx(world.plain.z, rel=1e-4)
    assert said in " ".join(found.reasons)


def test_honest_suspects_that_are_asked_otherwise_are_not_accused(world: Colours) -> None:
    for network in world.honest:
        plain = judged(world, Model(network, **HOW))
        for suspect in (Turned(network), Normalising(network), Turned(Normalising(network))):
            found = judged(world, suspect)
            assert found.decision == plain.decision != "piracy"
            assert found.z == pytest.approx(plain.z, abs=1e-3)


@pytest.mark.parametrize("mean", [None, MEAN[::-1]])
def test_what_is_said_is_never_tried(
    world: Colours, monkeypatch: pytest.MonkeyPatch, mean: tuple[float, ...] | None
) -> None:
    said = Model(Turned(world.victim), mean=mean, std=mean and STD[::-1], channel_order="bgr")
    asked: list[Preprocessing] = []
    real = Model.with_preprocessing

    def watched(self: Model, way: Preprocessing) -> Model:
        asked.append(way)
        return real(self, way)

    monkeypatch.setattr(Model, "with_preprocessing", watched)
    found = judged(world, said)
    assert found.decision == "piracy" and found.z == pytest.approx(world.plain.z, rel=1e-4)
    assert all(way.channel_order == "bgr" for way in asked) and bool(asked) == (mean is None)


def test_a_victim_without_mean_and_std_is_asked_in_the_order_that_is_said(images: Tensor) -> None:
    network = net(3)
    plain = Model(network).answers(images).values
    assert torch.equal(Model(Turned(network), channel_order="bgr").answers(images).values, plain)
    assert torch.equal(Model(network, channel_order="rgb").answers(images).values, plain)


@pytest.mark.parametrize("how", [HOW, {"mean": None, "std": None}])
def test_a_victim_that_takes_another_order_says_so_in_its_reference(
    how: dict[str, Any], tmp_path: Path
) -> None:
    turned = colours(**how, channel_order="bgr")
    turned.reference.save(tmp_path / "victim.uapref")
    read = dataclasses.replace(turned, reference=uapfast.load(tmp_path / "victim.uapref"))
    own = read.reference.preprocessing
    assert own is not None and Preprocessing.told(own).channel_order == "bgr"
    for suspect in (turned.victim, Turned(turned.victim)):
        assert judged(read, suspect).z == pytest.approx(turned.plain.z, rel=1e-4)
    for suspect in (turned.honest[0], Turned(turned.honest[0])):
        assert judged(read, suspect).decision == "independent"


def test_only_colours_have_an_order() -> None:
    images = torch.rand(2, 4, 8, 8)
    with pytest.raises(InputError, match="channel_order must be left out for images of 2 or of 4 channels"):
        Model(net(4), channel_order="bgr").answers(images)
    grey = torch.rand(2, 1, 8, 8)
    assert torch.equal(
        Model(net(1), channel_order="bgr").answers(grey).values, Model(net(1)).answers(grey).values
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_no_other_order_is_taken(images: Tensor) -> None:
    for wrong in ("BGR", "gbr", 1):
        with pytest.raises(InputError, match=f"channel_order must be rgb or bgr, got {wrong!r}"):
            Model(net(3), channel_order=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="for modules only"):
        Model(lambda x: x.mean((2, 3)), channel_order="bgr")
    with pytest.raises(InputError, match="channel_order must be rgb or bgr"):
        Entry("net.pt", ARCH, channel_order="rbg")


# -- in a screen -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(world: Colours, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("colours")
    world.reference.save(place / "victim.uapref")
    save_weights(world.victim, place / "copy.safetensors")
    net = "import uapfast.models.registry as r\nfrom torch import nn\n\n\nclass Turned(nn.Module):\n"
    net += "    def __init__(self):\n        super().__init__()\n"
    net += f"        self.inner = r.resolve_arch({ARCH!r})()\n\n"
    net += "    def forward(self, x):\n        return self.inner(x.flip(1))\n"
    (place / "net.py").write_text(net)
    save_weights(Turned(world.victim), place / "turned.safetensors")
    save_weights(Turned(world.honest[0]), place / "honest.safetensors")
    return place


def test_rows_of_a_screen_are_the_verdicts(world: Colours, folder: Path, tmp_path: Path) -> None:
    arch = f"{folder / 'net.py'}:Turned"
    entries = [
        Entry(str(folder / "turned.safetensors"), arch, "found"),
        Entry(str(folder / "turned.safetensors"), arch, "said", channel_order="bgr"),
        Entry(str(folder / "turned.safetensors"), arch, "wrong", channel_order="rgb"),
        Entry(str(folder / "copy.safetensors"), ARCH, "plain"),
        Entry(str(folder / "honest.safetensors"), arch, "honest"),
    ]
    how: dict[str, Any] = {"alpha": 0.01, "early": False, "record": tmp_path / "records"}
    with uapfast.screen(world.reference, entries, **how) as screening:
        rows = {row.name: row for row in screening}
    for name in ("found", "said", "plain"):
        assert rows[name].decision == "piracy" and rows[name].z == pytest.approx(world.plain.z, rel=1e-4)
    assert rows["wrong"].decision == "invalid" and rows["honest"].decision == "independent"
    assert "in channel order bgr, since" in " ".join(rows["found"].reasons)
    assert rows["found"].reasons == judged(world, Turned(world.victim)).reasons
    records = sorted((tmp_path / "records").iterdir())
    assert len(records) == 5 and all(map(is_record, records))
    for record in records:
        verdict = verify_record(world.reference, record).verdict
        row = next(row for name, row in rows.items() if record.name.startswith(name))
        assert (verdict.decision, verdict.z, verdict.reasons) == (row.decision, row.z, row.reasons)


def test_a_manifest_says_it(world: Colours, folder: Path) -> None:
    manifest = folder / "suspects.csv"
    lines = ["path,arch,name,mean,std,channel_order", "turned.safetensors,,a,0.2 0.4 0.6,0.1 0.15 0.2,bgr"]
    manifest.write_text("\n".join([*lines, "turned.safetensors,,b,,,rgb", ""]))
    arch = f"{folder / 'net.py'}:Turned"
    with uapfast.screen(world.reference, manifest, arch=arch, alpha=0.01) as screening:
        rows = {row.name: row.decision for row in screening}
    assert rows["a"] == "piracy" and rows["b"] != "piracy"
    with uapfast.screen(
        world.reference, [folder / "turned.safetensors"], arch=arch, alpha=0.01, channel_order="bgr"
    ) as screening:
        assert [row.decision for row in screening] == ["piracy"]
    manifest.write_text("path,channel_order\nturned.safetensors,brg\n")
    with pytest.raises(ManifestError, match=r"channel_order must be rgb or bgr, got 'brg' \(line 2"):
        uapfast.screen(world.reference, manifest, arch=arch, alpha=0.01)


def test_the_commands_take_it(folder: Path, tmp_path: Path) -> None:
    given = [str(folder / "victim.uapref"), "--arch", f"{folder / 'net.py'}:Turned", "--device", "cpu"]
    weights = ["--weights", str(folder / "turned.safetensors")]
    asked = ["verify", *given, *weights, "--alpha", "0.01"]
    assert main([*asked, "--channel-order", "bgr"]) == main(asked) == 1
    assert main([*asked, "--channel-order", "rgb"]) == 4
    assert main([*asked, "--channel-order", "gbr"]) == 2
    made = {}
    for order in ("bgr", "rgb"):
        out = tmp_path / f"{order}.npz"
        assert main(["encode", *given, *weights, "--out", str(out), "--channel-order", order]) == 0
        made[order] = np.load(out)["z"]
    assert not np.allclose(made["bgr"], made["rgb"])
    table = str(tmp_path / "table.parquet")
    listed = ["screen", given[0], "--out", table, "--dir", str(folder), *given[1:], "--alpha", "0.01"]
    assert main([*listed, "--channel-order", "bgr"]) == 1


# -- on record ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["taken", "labels", "ways", "asked", "kind"])
def test_a_record_holds_what_the_order_was_told_by(world: Colours, tmp_path: Path, change: str) -> None:
    path = tmp_path / "record.jsonl"
    with Recorder(path) as record:
        verdict = judged(world, Turned(world.victim), record=record)
    assert verify_record(world.reference, path).verdict == verdict
    first, *rest = path.read_bytes().splitlines(keepends=True)
    told = json.loads(first)
    settings = told["suspect"]["settings"]
    tried = settings["tried"]
    assert len(tried["ways"]) == 6 and tried["ways"][tried["taken"]]["channel_order"] == "bgr"
    if change == "taken":
        tried["taken"] = 0
    elif change == "labels":
        tried["ways"][0]["labels"] = tried["ways"][tried["taken"]]["labels"]
    elif change == "ways":
        tried["ways"] = "many"
    elif change == "asked":
        settings["preprocessing"]["std"] = [0.2, 0.3, 0.5]
    else:
        settings["tried"] = [1]
    path.write_bytes(line_of(told) + b"".join(rest))
    with pytest.raises(RecordError, match="tried must be the preprocessing that follows"):
        verify_record(world.reference, path)


def _way(settings: dict[str, Any], place: int, **told: Any) -> None:
    settings["tried"]["ways"][place].update(told)


NEVER_WRITTEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "asked with null": lambda s: s["preprocessing"].update(mean=[None] * 3),
    "asked with lists": lambda s: s["preprocessing"].update(mean=[[1], [2], [3]]),
    "asked with too large a number": lambda s: s["preprocessing"].update(mean=[10**400]),
    "asked with true": lambda s: s["preprocessing"].update(std=[True] * 3),
    "another way than the victim's first": lambda s: _way(s, 0, mean=[0.1, 0.2, 0.3]),
    "an invented way": lambda s: (
        _way(s, s["tried"]["taken"], mean=[0.1, 0.2, 0.3]),
        s["preprocessing"].update(mean=[0.1, 0.2, 0.3]),
    ),
    "fewer ways": lambda s: s["tried"].update(
        ways=[s["tried"]["ways"][place] for place in (0, s["tried"]["taken"])], taken=1
    ),
    "more ways": lambda s: s["tried"]["ways"].extend(s["tried"]["ways"][:1] * 20_000),
    "no order of channels": lambda s: _way(s, 0, channel_order=5),
    "labels as text": lambda s: _way(s, 0, labels=[str(k) for k in s["tried"]["ways"][0]["labels"]]),
    "labels between numbers": lambda s: _way(s, 0, labels=[k + 0.5 for k in s["tried"]["ways"][0]["labels"]]),
    "more labels than are asked": lambda s: _way(s, 1, labels=[0] * 256),
    "taken by a float": lambda s: s["tried"].update(taken=float(s["tried"]["taken"])),
}


@pytest.fixture(scope="module")
def record(world: Colours, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "record.jsonl"
    with Recorder(path) as record:
        judged(world, Turned(world.victim), record=record)
    return path


@pytest.mark.parametrize("change", NEVER_WRITTEN)
def test_a_record_of_what_is_never_tried_is_refused(
    world: Colours, record: Path, tmp_path: Path, change: str
) -> None:
    first, *rest = record.read_bytes().splitlines(keepends=True)
    told = json.loads(first)
    NEVER_WRITTEN[change](told["suspect"]["settings"])
    path = tmp_path / "record.jsonl"
    path.write_bytes(line_of(told) + b"".join(rest))
    with pytest.raises(RecordError, match="tried must be the preprocessing that follows"):
        verify_record(world.reference, path)


# -- other kinds -------------------------------------------------------------------------------------


@runs
def test_an_onnx_file_is_asked_in_its_order(images: Tensor, tmp_path: Path) -> None:
    path = put(tmp_path, classifier(net(3), [3, 8, 8]))
    how = {"mean": list(MEAN[::-1]), "std": list(STD[::-1]), "channel_order": "bgr"}
    with uapfast.open_suspect(path, **how) as suspect:
        got = suspect.answer(images)
    wanted = net(3)(Preprocessing(MEAN, STD).applied(images).flip(1))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_an_endpoint_gets_numbers_in_its_order_and_files_as_they_are(images: Tensor) -> None:
    (sent,) = ImageEncoding(channel_order="bgr").encode(images[:1])
    assert torch.equal(
        torch.frombuffer(bytearray(sent), dtype=torch.float32).view(3, 8, 8), images[0].flip(0)
    )
    with pytest.raises(InputError, match="channel_order must be left out where images are sent as files"):
        ImageEncoding("png", channel_order="bgr")
    with pytest.raises(InputError, match="channel_order must be one of rgb, bgr, got 'brg'"):
        ImageEncoding(channel_order="brg")
