"""What the commands say of bad files and settings: exit code 2 and one line that names it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.api.cli_world import World, answer, failed


@pytest.fixture(scope="session")
def world(cli_world: World) -> World:
    return cli_world


@pytest.mark.parametrize(("name", "function", "told"), [("nan", "net", "NaN"), ("three", "three", "3")])
def test_unusable_suspects_are_invalid(
    name: str, function: str, told: str, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = world.suspect(world.path(f"{name}.safetensors"), "--json", function=function)
    code, out, _ = answer(capfd, "verify", *arguments)
    verdict = json.loads(out)
    assert (code, verdict["decision"], verdict["p_value"]) == (4, "invalid", None)
    assert told in " ".join(verdict["reasons"])


def test_encode_refuses_answers_that_cannot_be_used(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    path = world.path("never.npz")
    got = answer(capfd, "encode", *world.suspect(world.path("nan.safetensors"), "--out", str(path)))
    failed(got, "NaN")
    assert not path.exists()


def test_the_result_is_refused_before_the_work(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(world.folder / "missing" / "x")]
    for command in (
        ["generate", "--arch", "none", "--weights", "none", "--data", "none", "--pool", "none", *out],
        ["encode", "none", "--arch", "none", "--weights", "none", *out],
    ):
        failed(answer(capfd, *command), "folder must be an existing one", "missing")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--eps", "0", "eps"), ("--eps", "nan", "eps"), ("--points", "1", "points"), ("--views", "0", "views"),
     ("--seed", "-1", "seed"), ("--fooling", "2", "fooling"), ("--device", "gpu", "--device"),
     ("--mean", "a", "--mean"), ("--batch-size", "0", "batch_size"), ("--crop", "x", "--crop"),
     ("--size", "9", "size and crop"),
     ("--data", "nowhere.npz", "nowhere.npz"), ("--data", "no-such-name", "no-such-name"),
     ("--pool", "nowhere.csv", "nowhere.csv"), ("--weights", "nowhere.pt", "nowhere.pt"),
     ("--arch", "nowhere.py:net", "nowhere.py"), ("--arch", "uapfast:no-such", "no-such"),
     ("--points", "100000", "100000"), ("--log", "nowhere.npz", "nowhere.npz")],
)  # fmt: skip
def test_generate_names_what_is_wrong(
    option: str, value: str, told: str, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {
        "--arch": world.arch, "--weights": str(world.victim), "--data": world.data,
        "--pool": str(world.manifest), "--out": str(tmp_path / "x.uapref"),
    } | {option: value}  # fmt: skip
    failed(answer(capfd, "generate", *[part for pair in given.items() for part in pair]), told)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_a_victim_fed_0_to_255_is_told(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((50, 8, 8)) * 255, y=np.arange(50) % 10)
    got = answer(
        capfd, "generate", "--arch", world.arch, "--weights", str(world.victim),
        "--data", str(tmp_path / "d.npz"), "--pool", str(world.manifest), "--out", str(tmp_path / "x"),
    )  # fmt: skip
    failed(got, "0..1", "25")


@pytest.mark.parametrize("function", ["fails", "leaves", "no_such"])
def test_a_factory_that_fails_is_an_error(
    function: str, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = answer(capfd, "verify", *world.suspect(world.victim, "--json", function=function))
    assert (code, out) == (2, "") and "error: " in err.splitlines()[-1]


def test_weights_of_another_architecture(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    failed(answer(capfd, "verify", *world.suspect(world.victim, function="three")), "3.weight")


@pytest.mark.parametrize("kind", ["cut", "text", "flipped", "empty", "missing", "folder"])
def test_a_damaged_reference_is_refused(
    kind: str, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.uapref"
    content = world.reference.read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        flipped = bytearray(content)
        flipped[-20] ^= 0xFF
        changed = {
            "cut": content[: len(content) // 2],
            "text": b"hello",
            "flipped": bytes(flipped),
            "empty": b"",
        }
        path.write_bytes(changed[kind])
    failed(answer(capfd, "verify", *world.suspect(world.victim, "--json", reference=path)), "broken.uapref")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [r | {"path": "gone.safetensors"} for r in rows], "gone.safetensors"),
        (lambda rows: [r | {"colour": "red"} for r in rows], "colour"),
        (lambda rows: [r | {"relation": "cousin"} for r in rows], "cousin"),
        (lambda rows: [r for r in rows if r["relation"] != "homologous"], "0 homologous"),
    ],
)
def test_a_bad_manifest_is_refused(
    change: object, told: str, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = world.folder / tmp_path.name  # beside the victim, whose path is relative to the manifest
    shutil.copytree(world.manifest.parent, folder)
    with open(folder / "manifest.csv", newline="") as stream:
        rows = change(list(csv.DictReader(stream)))  # type: ignore[operator]
    with open(folder / "manifest.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    got = answer(
        capfd, "generate", "--arch", world.arch, "--weights", str(world.victim), "--data", world.data,
        "--pool", str(folder / "manifest.csv"), "--out", str(tmp_path / "x.uapref"), "--points", "10",
    )  # fmt: skip
    failed(got, told)
    assert not (tmp_path / "x.uapref").exists()
