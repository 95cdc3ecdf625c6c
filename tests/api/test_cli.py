"""The commands on files, end to end: pool, generate, info, verify, encode."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from tests.api.cli_world import ALPHA, World, answer, failed
from uapfast.cli import options
from uapfast.errors import InputError
from uapfast.reference import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def world(cli_world: World) -> World:
    return cli_world


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


def test_a_suspect_is_told_by_what_it_is(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reference, weights = str(world.reference), str(world.victim)
    _, *options = world.suspect(world.victim, "--json", "--alpha", ALPHA)
    arch = options[options.index("--arch") + 1]
    code, out, _ = answer(capfd, "verify", reference, weights, "--arch", arch, "--json", "--alpha", ALPHA)
    same, expected, _ = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--alpha", ALPHA))
    assert code == same == 1 and json.loads(out) == json.loads(expected)
    failed(answer(capfd, "verify", reference, weights), "--arch must be given for a file of weights alone")
    several = answer(capfd, "verify", reference, str(world.victim.parent), "--arch", arch)
    failed(several, "several models in it: uapfast screen --dir")
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "resnet18", "num_classes": 10}')
    got = answer(capfd, "verify", reference, str(folder), "--arch", arch)
    failed(got, "--arch must be left out with a folder")
    failed(answer(capfd, "verify", reference, weights, "--weights", weights), "got SUSPECT and --weights")
    for option in (["--budget", "5"], ["--dry-run"]):
        failed(answer(capfd, "verify", reference, weights, "--arch", arch, *option), "for an endpoint only")
    got = answer(capfd, "verify", reference, "http://user:pw@127.0.0.1/v2/models/m")
    failed(got, "without user, password or key")


def test_a_class_order_can_be_given(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = ",".join(map(str, [*range(1, 10), 0]))
    told = world.suspect(world.victim, "--json", "--alpha", ALPHA, "--class-order", wrong)
    code, out, _ = answer(capfd, "verify", *told)
    assert (
        code == 4 and "that most pool models give" in json.loads(out)["reasons"][1]
    )  # after whose tensors they are
    code, _, err = answer(capfd, "verify", *world.suspect(world.victim, "--class-order", "0,x"))
    assert code == 2 and "--class-order must be whole numbers" in err


def test_output_is_handed_on(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Of logits the labels can be taken; that they are probabilities is the asker's mistake, no verdict."""
    code, out, _ = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--output", "labels"))
    assert json.loads(out)["output"] == "labels" and code in (1, 3)
    got = answer(capfd, "verify", *world.suspect(world.victim, "--json", "--output", "probabilities"))
    failed(got, "probabilities")


def test_encode_writes_rows_of_unit_mean(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    path = world.path("z.npz")
    code, out, _ = answer(capfd, "encode", *world.suspect(world.victim, "--out", str(path)))
    with np.load(path) as found:
        assert code == 0 and found.files == ["z"]
        z = found["z"]
    assert z.dtype == np.float32 and z.shape[0] == 10
    np.testing.assert_allclose(np.linalg.norm(z.mean(0)), 1, atol=1e-5)


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
        assert ("query log are not used" in err) == (asked == 0)
        code, out, err = answer(
            capfd, "verify", *world.suspect(world.victim, reference=tmp_path / "x.uapref")
        )
        assert ("come from the owner's query log" in out) == (
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


def test_means_are_read_with_commas_and_with_blanks() -> None:
    for text in ("0.5,0.25", "0.5 0.25", " 0.5, 0.25 ", "0.5;0.25"):
        assert options.numbers(text, "--mean") == (0.5, 0.25)
    for text in ("", " ", "a", "0.5,nan", "inf"):
        with pytest.raises(InputError, match="--mean must be finite numbers separated by commas or blanks"):
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
    failed(got, "--mean must be finite numbers separated by commas or blanks")
