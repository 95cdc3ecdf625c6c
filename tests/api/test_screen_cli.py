"""``uapfast screen`` on files: exit codes, messages, and a run that is killed again and again."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.api.screen_world import CNN, MLP, World
from uapfast.cli import main
from uapfast.screening.engine.registry import ENGINES
from uapfast.screening.table.rows import SECONDS

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("--alpha", "0.01", "--fdr", "1")


def manifest(world: World, folder: Path, *names: str) -> str:
    path = folder / "list.csv"
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "arch", "name"))
        for name in names:
            suspect = world.suspect(name)
            writer.writerow((suspect.path, suspect.arch, name))
    return str(path)


def reference(world: World, name: str = "first") -> str:
    return str(world.folder / f"{name}.uapref")


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(["screen", *arguments])
    got = capfd.readouterr()
    return code, got.out, got.err


def test_a_manifest_and_two_references(world, tmp_path, capfd):
    out = tmp_path / "t.parquet"
    some = manifest(world, tmp_path, "victim-1", "honest-0", "honest-1")
    code, said, progress = run(
        capfd, reference(world), reference(world, "second"), "--manifest", some, "--out", str(out), *SETTINGS,
        "--profile",
    )  # fmt: skip
    assert code == 1 and "3 suspects, 6 rows" in said and f"wrote {out}" in said and "queries: " in said
    assert "[3/3]" in progress and "/s, 0:00:00 left" in progress
    rows = pq.read_table(out).to_pylist()
    assert [r["reference"] for r in rows] == ["first"] * 3 + ["second"] * 3
    assert [r["decision"] for r in rows if r["name"] == "victim-1"][0] == "piracy"
    assert (tmp_path / "t.parquet.store").exists()
    stages = {"read": 3, "load": 3, "forward": 3, "score": 6}  # what references share counts once
    for stage, some_rows in stages.items():
        spent = sum(r[f"seconds_{stage}"] for r in rows[:some_rows])
        assert re.search(rf"\n  {stage} +{spent:.1f} s +\d+%\n", said), said


def test_exit_codes_follow_the_worst_row(world, tmp_path, capfd):
    honest = manifest(world, tmp_path, "honest-1")
    out = ("--out", str(tmp_path / "t.parquet"))
    assert run(capfd, reference(world), "--manifest", honest, *out)[0] in (0, 3)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.safetensors").write_bytes(b"no model")
    code, said, _ = run(capfd, reference(world), "--dir", str(tmp_path / "bad"), "--arch", MLP, *out)
    assert code == 4 and "invalid" in said and "CorruptFileError: 1" in said


def test_the_convicted_are_named_on_the_screen(world, tmp_path, capfd):
    some = manifest(world, tmp_path, "victim-1", "honest-1")
    out = str(tmp_path / "t.parquet")
    code, said, _ = run(capfd, reference(world), "--manifest", some, "--out", out, "--alpha", "0.01")
    row = next(r for r in pq.read_table(out).to_pylist() if r["name"] == "victim-1")
    assert code == 1 and row["decision"] == "piracy"
    (named,) = re.findall(r"\n  (\S+) +p (\S+), p_holm (\S+)", said)
    assert named == ("victim-1", f"{row['p_value']:.4g}", f"{row['p_holm']:.4g}")


def test_an_fdr_turns_convictions_of_many_into_questions(world, tmp_path, capfd):
    some = manifest(world, tmp_path, "victim-1")
    out = str(tmp_path / "t.parquet")
    code, said, _ = run(
        capfd, reference(world), "--manifest", some, "--out", out, "--alpha", "0.01", "--fdr", "1e-12"
    )
    assert code == 3 and "inconclusive" in said
    (row,) = pq.read_table(out).to_pylist()
    assert "among so many suspects" in row["reasons"][0]


def test_what_is_wrong_is_said_in_one_line(world, tmp_path, capfd, monkeypatch):
    some, out = manifest(world, tmp_path, "honest-1"), ("--out", str(tmp_path / "t.parquet"))
    first, folder = reference(world), str(tmp_path)
    monkeypatch.setitem(ENGINES, "ray", ("uapfast.screening.none_such", "none_such", "ray"))
    for arguments, told in (
        ((first, *out), "--manifest or --dir must be given, and not both, got neither"),
        ((first, "--manifest", some, "--dir", folder, *out), "not both"),
        ((first, "--dir", folder, *out), "--dir must be a folder with models"),
        ((first, "--dir", some, *out), "existing folder"),
        ((first, "--manifest", folder, *out), "a CSV file"),
        ((first, "--manifest", some, "--arch-dir", folder, *out), "1 to 500 factories"),
        ((first, "--manifest", str(tmp_path / "none"), *out), "none"),
        ((first, "--manifest", some, "--out", str(tmp_path / "no" / "t.parquet")), "existing"),
        ((some, "--manifest", some, *out), "reference must be"),
        ((first, first, "--manifest", some, *out), "different from each other"),
        ((first, "--manifest", some, "--engine", "ray", *out), "pip install 'ray>=2.50'"),
        ((first, "--manifest", some, "--engine", "abacus", *out), "'abacus'"),
        ((first, "--manifest", some, "--queries", "3", *out), "queries must be at least"),
        ((first, "--manifest", some, "--fdr", "0", *out), "fdr"),
        ((first, "--manifest", some, "--device", "teapot", *out), "'teapot'"),
    ):
        code, said, err = run(capfd, *arguments)
        assert code == 2 and not said and told in err.splitlines()[-1], (arguments, err)
    assert not (tmp_path / "t.parquet").exists()


KILLER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import uapfast.screening.engine.local, uapfast.screening.run
from uapfast.cli import main

chance, kills, wanted = random.Random(5), 0, {kills}
while True:
    child = os.fork()  # before any computation, so that no thread is lost by it
    if child == 0:
        os._exit(main(sys.argv[1:]))
    wait = chance.uniform(0.1, 0.5) if kills < wanted else 300  # all of it takes two seconds or more
    end = time.monotonic() + wait
    done = 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.002)
    if done:
        print(kills, os.waitstatus_to_exitcode(status), flush=True)
        break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
"""


def test_killed_again_and_again_the_table_is_that_of_an_uninterrupted_run(world, tmp_path):
    population = tmp_path / "population"
    population.mkdir()
    base = load_file(world.suspect("honest-1").path)
    generator = torch.Generator().manual_seed(0)
    for i in range(150):
        noise = {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in base.items()}
        save_file(base if i % 30 == 29 else noise, population / f"{i:03d}.safetensors")
    (population / "bad.safetensors").write_bytes(b"no model")
    common = [reference(world), reference(world, "second"), "--dir", str(population), "--arch", CNN]
    common += ["--workers", "2"]
    assert main(["screen", *common, "--out", str(tmp_path / "whole.parquet")]) in (3, 4)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER.format(kills=8), "screen", *common]
    found = subprocess.run(
        [*command, "--out", str(tmp_path / "killed.parquet")],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    kills, code = map(int, found.stdout.splitlines()[-1].split())
    assert kills >= 5 and code in (3, 4), (found.stdout, found.stderr)
    whole, killed = (
        pq.read_table(tmp_path / f"{n}.parquet").drop_columns([*SECONDS, "same_as"])
        for n in ("whole", "killed")
    )
    assert whole.num_rows == 302 and killed.equals(whole)
