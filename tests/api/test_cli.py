"""The commands on files, end to end: pool, generate, info, verify, encode; and what bad files get."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

from uapfast.cli import main, options
from uapfast.errors import InputError
from uapfast.reference import load

ROOT = Path(__file__).resolve().parents[2]
# So small a pool of so small networks carries no small p-value; here only the commands are tested.
ALPHA = "0.2"
FACTORY = """
import os
import torch
from torch import nn

print("a factory file may print")
os.write(1, b"so may compiled code\\n")


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))


def leaves():
    raise SystemExit(0)


def fails():
    raise RuntimeError("no such luck")
"""
# The pool's own shipped networks are convolutions; one recipe for all, short.
RECIPE = """
import torch


def train(model, images, labels, seed):
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(100):
        index = torch.randint(len(images), (64,), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(images[index]), labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model
"""


@dataclass(frozen=True)
class World:
    """Files of one small case. ``arch`` is the SPEC of all models."""

    folder: Path
    arch: str
    data: str
    victim: Path
    manifest: Path
    reference: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def suspect(
        self, weights: Path, *more: str, function: str = "net", reference: Path | None = None
    ) -> list[str]:
        spec = f"{self.folder / 'net.py'}:{function}"
        return [str(reference or self.reference), "--arch", spec, "--weights", str(weights), *more]


def make_data(folder: Path) -> str:
    digits = load_digits()
    path = folder / "data.npz"
    np.savez(path, x=(digits.images / 16).astype(np.float32)[:900], y=digits.target[:900])
    return str(path)


def run_ok(*arguments: str) -> None:
    assert main(list(arguments)) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cli")
    (folder / "net.py").write_text(FACTORY)
    (folder / "recipe.py").write_text(RECIPE)
    data = make_data(folder)
    loaded = np.load(data)
    x, y = torch.from_numpy(loaded["x"])[:, None], torch.from_numpy(loaded["y"])
    spaces: dict[str, object] = {}
    exec(RECIPE, spaces)

    def trained(seed: int, part: slice) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        return spaces["train"](net, x[part], y[part], seed)  # type: ignore[operator]

    victim = folder / "victim.safetensors"
    save_file(trained(0, slice(0, 900)).state_dict(), victim)
    save_file(trained(99, slice(300, 900)).state_dict(), folder / "honest.safetensors")
    arch = f"{folder / 'net.py'}:net"
    run_ok(
        "pool", "--arch", arch, "--weights", str(victim), "--data", data, "--out", str(folder / "pool"),
        "--init", "random", "--recipe", f"{folder / 'recipe.py'}:train", "--twins", "6", "--surrogates", "1",
        "--homologous", "10", "--epochs", "4",
    )  # fmt: skip
    manifest = folder / "pool" / "manifest.csv"
    reference = folder / "victim.uapref"
    run_ok(
        "generate", "--arch", arch, "--weights", str(victim), "--data", data, "--pool", str(manifest),
        "--out", str(reference), "--points", "20", "--views", "10", "--seed", "3", "--eps", "0.3",
        "--fooling", "0.3",
    )  # fmt: skip
    nan = load_file(victim)
    nan["1.weight"][0, 0] = float("nan")
    save_file(nan, folder / "nan.safetensors")
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    save_file(three.state_dict(), folder / "three.safetensors")
    return World(folder, arch, data, victim, manifest, reference)


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    got = capfd.readouterr()
    return code, got.out, got.err


def failed(got: tuple[int, str, str], *told: str) -> None:
    """Exit code 2, nothing on stdout, and a last line on stderr that tells what is wrong."""
    code, out, err = got
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in err
    for part in told:
        assert part in last, last


# -- the way through -------------------------------------------------------------------------------
def test_the_manifest_is_what_was_asked_for(world: World) -> None:
    with open(world.manifest, newline="") as stream:
        rows = list(csv.DictReader(stream))
    relations = [r["relation"] for r in rows]
    assert relations.count("twin") == 6 and relations.count("homologous") == 10
    assert relations.count("piracy") == 7  # one of every candidate
    assert all((world.manifest.parent / r["path"]).is_file() for r in rows)


def test_info_says_what_the_reference_holds(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capfd, "info", str(world.reference), "--json")
    summary = json.loads(out)
    assert code == 0 and summary["views"] == 10 and summary["points_per_view"] == 20
    assert summary["config"]["seed"] == 3 and summary["config"]["eps"] == 0.3
    assert summary["pool"] == {"twin": 6, "piracy": 7, "homologous": 10}
    code, out, _ = answer(capfd, "info", str(world.reference))
    assert code == 0 and summary["sha256"] in out


def test_a_copy_is_convicted_and_an_honest_model_is_not(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--alpha", ALPHA))
    verdict = json.loads(out)
    assert (code, verdict["decision"]) == (1, "piracy"), err
    assert verdict["rank"] == 1 and verdict["similarity"] > 0.5 and verdict["p_value"] <= float(ALPHA)
    assert out.count("\n") == 1
    code, out, _ = answer(capfd, "verify", *world.suspect(world.path("honest.safetensors"), "--json"))
    verdict = json.loads(out)
    assert verdict["decision"] in ("independent", "inconclusive")
    assert code == {"independent": 0, "inconclusive": 3}[verdict["decision"]]


def test_a_key_chooses_between_weights_in_one_file(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    both = world.path("both.pth")
    honest, victim = load_file(world.path("honest.safetensors")), load_file(world.victim)
    torch.save({"model": honest, "ema": {f"module.{k}": v for k, v in victim.items()}}, both)
    code, out, _ = answer(capfd, "verify", *world.suspect(both, "--json", "--alpha", ALPHA, "--key", "ema"))
    said = " ".join(json.loads(out)["reasons"])
    assert code == 1 and "under 'ema' was taken" in said and "begin with module." in said
    code, out, _ = answer(capfd, "verify", *world.suspect(both, "--json", "--alpha", ALPHA))
    assert code in (0, 3) and "'model' was taken, not what lies under ema" in out
    failed(answer(capfd, "verify", *world.suspect(both, "--key", "none")), "key='none'", "got one with ema")


def test_a_batch_size_is_for_networks_that_run_here(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--batch-size", "7"))
    plain = answer(capfd, "verify", *world.suspect(world.victim, "--json"))
    assert code == plain[0] and json.loads(out)["z"] == pytest.approx(json.loads(plain[1])["z"], rel=1e-3)
    assert "left" not in err, "no progress of what ends at once"
    failed(answer(capfd, "verify", *world.suspect(world.victim, "--batch-size", "0")), "batch_size")
    given = ["verify", str(world.reference), "--answers", "a.npz", "--batch-size", "7"]
    failed(answer(capfd, *given), "--answers must be given without", "batch_size")


def test_verdict_for_people(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capfd, "verify", *world.suspect(world.victim, "--alpha", ALPHA))
    assert code == 1 and out.startswith("PIRACY: ") and "candidate side" in out


def test_a_suspect_is_told_by_what_it_is(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    reference, weights = str(world.reference), str(world.victim)
    _, *options = world.suspect(world.victim, "--json", "--alpha", ALPHA)
    arch = options[options.index("--arch") + 1]
    code, out, _ = answer(capfd, "verify", reference, weights, "--arch", arch, "--json", "--alpha", ALPHA)
    same, expected, _ = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--alpha", ALPHA))
    assert code == same == 1 and json.loads(out) == json.loads(expected)
    failed(answer(capfd, "verify", reference, weights), "--arch must be given for a file of weights alone")
    folder = str(world.victim.parent)
    failed(
        answer(capfd, "verify", reference, folder, "--arch", arch), "--arch must be left out with a folder"
    )
    failed(answer(capfd, "verify", reference, weights, "--weights", weights), "got SUSPECT and --weights")
    for option in (["--budget", "5"], ["--dry-run"]):
        failed(answer(capfd, "verify", reference, weights, "--arch", arch, *option), "for an endpoint only")
    got = answer(capfd, "verify", reference, "http://user:pw@127.0.0.1/v2/models/m")
    failed(got, "without user, password or key")


def test_a_class_order_can_be_given(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = ",".join(map(str, [*range(1, 10), 0]))
    told = world.suspect(world.victim, "--json", "--alpha", ALPHA, "--class-order", wrong)
    code, out, _ = answer(capfd, "verify", *told)
    assert code == 4 and "agrees with" in json.loads(out)["reasons"][1]  # after whose tensors they are
    code, _, err = answer(capfd, "verify", *world.suspect(world.victim, "--class-order", "0,x"))
    assert code == 2 and "--class-order must be whole numbers" in err


def test_output_is_handed_on(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Of logits the labels can be taken; that they are probabilities is the asker's mistake, no verdict."""
    code, out, _ = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--output", "labels"))
    assert json.loads(out)["output"] == "labels" and code in (1, 3)
    got = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--output", "probabilities"))
    failed(got, "probabilities")


@pytest.mark.parametrize(("name", "function", "told"), [("nan", "net", "NaN"), ("three", "three", "3")])
def test_unusable_suspects_are_invalid(
    name: str, function: str, told: str, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = world.suspect(world.path(f"{name}.safetensors"), "--json", function=function)
    code, out, _ = answer(capfd, "verify", *arguments)
    verdict = json.loads(out)
    assert (code, verdict["decision"], verdict["p_value"]) == (4, "invalid", None)
    assert told in " ".join(verdict["reasons"])


def test_encode_writes_rows_of_unit_mean(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    path = world.path("z.npz")
    code, out, _ = answer(capfd, "encode", *world.suspect(world.victim, "--out", str(path)))
    with np.load(path) as found:
        assert code == 0 and found.files == ["z"]
        z = found["z"]
    assert z.dtype == np.float32 and z.shape[0] == 10
    np.testing.assert_allclose(np.linalg.norm(z.mean(0)), 1, atol=1e-5)


def test_encode_refuses_answers_that_cannot_be_used(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    path = world.path("never.npz")
    got = answer(capfd, "encode", *world.suspect(world.path("nan.safetensors"), "--out", str(path)))
    failed(got, "NaN")
    assert not path.exists()


def test_generate_again_gives_the_same_reference(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    again = world.path("again.uapref")
    code, out, err = answer(
        capfd, "generate", "--arch", world.arch, "--weights", str(world.victim), "--data", world.data,
        "--pool", str(world.manifest), "--out", str(again), "--points", "20", "--views", "10",
        "--seed", "3", "--eps", "0.3",
        "--fooling", "0.3",
    )  # fmt: skip
    assert code == 0 and again.read_bytes() == world.reference.read_bytes()
    told = out.splitlines()
    assert len(told) <= 8 and told[0] == f"wrote {again}" and told[-1].endswith(f"uapfast info {again}")
    assert "6 twins, 10 innocents (of 10 homologous models), 7 surrogates; exact p not below 0.013" in out
    assert "level 0.001: nobody" in out  # (6 + 1)(10 + 1) pairs are too few
    asked = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(asked) == len(set(asked)) and any("at least 8 twins, got 6" in line for line in asked)


def test_a_query_log_is_asked_if_it_is_blind(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.npz"
    np.savez(log, x=(load_digits().images[900:1500] / 16).astype(np.float32))
    given = [
        "generate", "--arch", world.arch, "--weights", str(world.victim), "--data", world.data, "--pool",
        str(world.manifest), "--out", str(tmp_path / "x.uapref"), "--points", "20", "--views", "6",
        "--ray", "0", "--overwrite",
    ]  # fmt: skip
    for blind, asked in (("--log-blind", 60), ("--log-adaptive", 0)):
        code, out, err = answer(capfd, *given, "--log", str(log), blind)
        assert code == 0, err
        log_told = load(tmp_path / "x.uapref").settings["log"]
        assert log_told["asked"] == asked and log_told["images"] == 600
        assert ("query log are not asked" in err) == (asked == 0)
        code, out, err = answer(
            capfd, "verify", *world.suspect(world.victim, reference=tmp_path / "x.uapref")
        )
        assert ("come from the owner's log" in out) == (
            asked > 0
        ) and "query log" in out + "query log" * asked
    failed(answer(capfd, *given, "--log-blind"), "log_blind must be None where there is no log")


def test_verify_in_a_process_of_its_own(world: World) -> None:
    """stdout is one JSON object though the factory file prints; the exit code is the decision."""
    code = "from uapfast.cli import main; import sys; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", *world.suspect(world.victim, "--json", "--alpha", ALPHA)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["decision"] == "piracy"
    assert "may print" in done.stderr and "compiled code" in done.stderr


# -- bad files ---------------------------------------------------------------------------------------
def test_the_result_is_refused_before_the_work(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(world.folder / "missing" / "x")]
    for command in (
        ["generate", "--arch", "none", "--weights", "none", "--data", "none", "--pool", "none", *out],
        ["encode", "none", "--arch", "none", "--weights", "none", *out],
    ):
        failed(answer(capfd, *command), "folder must be an existing one", "missing")


def test_means_are_read_with_commas_and_with_blanks() -> None:
    for text in ("0.5,0.25", "0.5 0.25", " 0.5, 0.25 ", "0.5;0.25"):
        assert options.numbers(text, "--mean") == (0.5, 0.25)
    for text in ("", " ", "a", "0.5,nan", "inf"):
        with pytest.raises(InputError, match="--mean must be finite numbers with commas or blanks between"):
            options.numbers(text, "--mean")


def test_pool_asks_where_the_victim_began(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["pool", "--arch", world.arch, "--weights", str(world.victim), "--out", str(tmp_path / "pool")]
    got = answer(capfd, *given, "--data", "not-even-read")
    failed(got, "init must be random", "public weights", "factory", "honest fine-tunings", "got None")
    few = ["--data", world.data, "--twins", "1", "--homologous", "2", "--surrogates", "0", "--epochs", "1"]
    got = answer(capfd, *given, *few, "--init", "random", "--ancestor", str(world.victim))
    failed(got, "ancestor must be left out with init=random")
    assert not (tmp_path / "pool").exists()
    honest = str(world.path("honest.safetensors"))
    few += ["--homologous-arch", "uapfast:mlp-small?size=8", "--device", "cpu"]
    code, out, err = answer(capfd, *given, *few, "--init", honest, "--mean", "0 ", "--std", "1.0")
    assert code == 0 and "init: models of the victim's architecture begin at 4 of 4 tensors" in out
    assert "weights have a cosine of" in err, "it is no ancestor, and that is said"
    manifest = (tmp_path / "pool" / "manifest.csv").read_text()
    assert "homologous-01.safetensors,uapfast:mlp-small?size=8," in manifest
    assert ",ancestor,ancestor,,0.0,1.0," in manifest and ",twin-00,twin,,0.0,1.0,ancestor" in manifest
    got = answer(
        capfd, "generate", "--arch", world.arch, "--weights", honest, "--data", world.data,
        "--pool", str(tmp_path / "pool" / "manifest.csv"), "--out", str(tmp_path / "x.uapref"),
        "--mean", "a b",
    )  # fmt: skip
    failed(got, "--mean must be finite numbers with commas or blanks between")


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
