"""First light: the whole method on Fashion-MNIST, by the command line, from files.

    python -m benchmarks.first_light --out DIR [--jobs 2] [--encoder lineage|paper]

Makes three disjoint sets of images (the owner's, the thief's, held-out query images), trains a residual
victim, a pool (``uapfast pool``), suspects that are in no pool, a reference (``uapfast generate``), verifies
every suspect (``uapfast verify --json``) and writes ``benchmarks/results/first_light.{md,json}``.
Everything follows from seeds; what is in DIR already is not made again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score

import uapfast as uapfast_package
from benchmarks.suspects import Suspect, make_suspect, plan_suspects, train_victim
from uapfast.data import load_data
from uapfast.files import write_text

RESULTS = Path(__file__).parent / "results"
VICTIM = "uapfast:resnet-small"
OTHERS = ("uapfast:vgg-small", "uapfast:cnn-small")
LABELS = {
    "direct": "direct modification",
    "retrained": "last layer drawn anew, trained 2 or 20 epochs",
    "extracted": "extraction, soft labels",
    "innocent": "innocent",
}
console = Console(stderr=True)


def split_data(out: Path) -> None:
    """owner.npz (victim, twins), thief.npz (attacker's own images), heldout.npz (query points)."""
    train, test = load_data("fashion-mnist:train"), load_data("fashion-mnist:test")
    x, y = train.images.numpy(), train.labels.numpy()
    for name, images, labels in (
        ("owner", x[:30_000], y[:30_000]),
        ("thief", x[30_000:], y[30_000:]),
        ("heldout", test.images.numpy(), test.labels.numpy()),
    ):
        if not (out / f"{name}.npz").exists():
            np.savez(out / f"{name}.npz", x=images, y=labels)


def run_cli(out: Path, *words: str) -> tuple[int, str]:
    """Run ``uapfast`` as a user would, in ``out``; its exit code and standard output."""
    command = [sys.executable, "-c", "import sys; from uapfast.cli import main; sys.exit(main())", *words]
    root = str(Path(uapfast_package.__file__).parents[1])  # the package in use, installed or not
    env = os.environ | {"PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(command, cwd=out, env=env, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout


def need(code: int, what: str) -> None:
    if code != 0:
        raise SystemExit(f"{what} failed with exit code {code}")


def build(out: Path, args: argparse.Namespace) -> list[str]:
    """Victim, pool, suspects, reference; returns the command lines that were run."""
    split_data(out)
    torch.set_num_threads(2)
    if not (out / "victim.safetensors").exists():
        console.print("training the victim")
        train_victim(VICTIM, out / "owner.npz", out / "victim.safetensors", seed=0, epochs=args.epochs)
    pool = [
        "pool",
        "--arch",
        VICTIM,
        "--weights",
        "victim.safetensors",
        "--data",
        "owner.npz",
        "--out",
        "pool",
        "--init",
        "random",
        "--twins",
        str(args.twins),
        "--surrogates",
        str(args.surrogates),
        "--homologous",
        str(args.homologous),
        "--epochs",
        str(args.epochs),
        "--jobs",
        str(args.jobs),
    ]
    need(run_cli(out, *pool)[0], "uapfast pool")
    (out / "suspects").mkdir(exist_ok=True)
    todo = [s for s in plan_suspects(VICTIM, OTHERS) if not (out / s.path).exists()]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, spawn, torch.set_num_threads, (1,)) as workers:
        results = workers.map(make_suspect, todo, [out] * len(todo), [args.epochs] * len(todo))
        for n, name in enumerate(results):
            console.print(f"suspect {n + 1}/{len(todo)}: {name}")
    generate = [
        "generate",
        "--show-uap",
        "--arch",
        VICTIM,
        "--weights",
        "victim.safetensors",
        "--data",
        "heldout.npz",
        "--pool",
        "pool/manifest.csv",
        "--out",
        f"{args.encoder}.uapref",
        "--encoder",
        args.encoder,
    ]
    if not (out / f"{args.encoder}.uapref").exists():
        need(run_cli(out, *generate)[0], "uapfast generate")
    return [shlex.join(["uapfast", *words]) for words in (pool, generate)]


def judge(out: Path, suspects: list[Suspect], encoder: str) -> list[dict[str, Any]]:
    rows = []
    for suspect in suspects:
        words = ["verify", f"{encoder}.uapref", "--arch", suspect.arch, "--weights", suspect.path, "--json"]
        start = time.perf_counter()
        code, text = run_cli(out, *words)
        verdict = json.loads(text)
        rows.append(
            {
                "name": suspect.name,
                "group": suspect.group,
                "arch": suspect.arch,
                "code": code,
                "seconds": round(time.perf_counter() - start, 2),
                "verdict": verdict,
            }
        )
        console.print(f"{suspect.name}: {verdict['decision']}")
    return rows


def auc(rows: list[dict[str, Any]], group: str) -> float:
    """AUC of z, a group's suspects against the innocents."""
    kept = [r for r in rows if r["group"] in (group, "innocent")]
    return float(roc_auc_score([r["group"] == group for r in kept], [r["verdict"]["z"] for r in kept]))


def table(rows: list[dict[str, Any]]) -> str:
    columns = ["suspect", "architecture", "decision", "exit", "p", "p_candidate", "p_suspect", "p_view"]
    columns += ["similarity", "z", "rank"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for r in rows:
        v = r["verdict"]
        p = [v[k] for k in ("p_value", "p_candidate", "p_suspect", "p_view")]
        cells = [r["name"], r["arch"].removeprefix("uapfast:"), f"**{v['decision']}**", str(r["code"])]
        cells += ["-" if x is None else f"{x:.1e}" for x in p]
        cells += [f"{v['similarity']:.3f}", f"{v['z']:.1f}", str(v["rank"] or "-")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    columns = ["group", "n", "AUC of z against the innocents", "piracy", "inconclusive", "independent"]
    columns += ["p_view < 1e-4"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for group, label in LABELS.items():
        kept = [r["verdict"] for r in rows if r["group"] == group]
        count = [sum(v["decision"] == d for v in kept) for d in ("piracy", "inconclusive", "independent")]
        paper = sum(v["p_view"] is not None and v["p_view"] < 1e-4 for v in kept)
        score = "-" if group == "innocent" else f"{auc(rows, group):.3f}"
        lines.append("| " + " | ".join([label, str(len(kept)), score, *map(str, count), str(paper)]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", choices=("lineage", "paper"), default="lineage")
    for name, value in (("twins", 8), ("surrogates", 2), ("homologous", 16), ("epochs", 6), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    commands = build(args.out, args)
    suspects = plan_suspects(VICTIM, OTHERS)
    rows = judge(args.out, suspects, args.encoder)
    info = json.loads(run_cli(args.out, "info", f"{args.encoder}.uapref", "--json")[1])
    accuracy = json.loads((args.out / "victim.json").read_text())["test_accuracy"]
    suffix = "" if args.encoder == "lineage" else f"_{args.encoder}"
    text = TEXT.format(
        command=f"python -m benchmarks.first_light --out DIR --encoder {args.encoder}",
        accuracy=accuracy,
        commands="\n".join(commands),
        summary=summary(rows),
        table=table(rows),
        ray=info["ray"],
        queries=info["queries"],
        uap=info["uap"][0],
        encoder=args.encoder,
    )
    write_text(RESULTS / f"first_light{suffix}.md", text)
    write_text(
        RESULTS / f"first_light{suffix}.json", json.dumps({"info": info, "rows": rows}, indent=1) + "\n"
    )
    console.print(summary(rows))


TEXT = """# First light, encoder `{encoder}`

Made by `{command}`. Fashion-MNIST: 30,000 training
images are the owner's (victim, twins), 30,000 others the thief's, the 10,000 test images are held out for
the queries. No suspect is in the pool; the thief never sees the owner's images.
Victim: residual network, test accuracy {accuracy:.4f}.

```
{commands}
uapfast verify {encoder}.uapref --arch SPEC --weights suspects/NAME.safetensors --json      # once a suspect
```

Queries per suspect: {queries}; ray: {ray}. UAP of the victim: {uap[method]}, {uap[norm]} {uap[eps]},
fooling rate {uap[fooling_rate]:.2f} on held-out points (random signs of that norm:
{uap[random_sign_rate]:.2f}).

## By group

{summary}

`p_view < 1e-4` is what the paper's view-level test would have called piracy at its "99.99 %".

## Every suspect

{table}
"""

if __name__ == "__main__":
    main()
