"""What each part of a fingerprint adds, on the models of first light.

    python -m benchmarks.ablation --zoo DIR

DIR is the folder that ``benchmarks.first_light`` filled. Every row is a reference made with other settings
from the same pool, and the same suspects judged by it; writes ``benchmarks/results/ablation.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score

import uapfast
from benchmarks.first_light import OTHERS, RESULTS, VICTIM
from benchmarks.suspects import plan_suspects
from uapfast.data import load_data
from uapfast.files import write_text
from uapfast.method.fingerprint import QueryPlan, ask
from uapfast.models.checkpoint import load_model
from uapfast.models.model import Model
from uapfast.pool.manifest import load_pool
from uapfast.pool.pool import Pool
from uapfast.reference import Reference

BASE = uapfast.GenerateConfig()
SETTINGS: dict[str, dict[str, Any]] = {
    "default (the pool chooses the ray)": {},
    "clean answers only": {"ray": (0.0,)},
    "clean and x + 0.2 v": {"ray": (0.0, 0.2)},
    "clean and x + v": {"ray": (0.0, 1.0)},
    "x + v only": {"ray": (1.0,)},
    "clean and x + v, eps 0.02": {"ray": (0.0, 1.0), "eps": 0.02, "min_fooling": 0.0},
    "deepfool, clean and x + 0.2 v": {"ray": (0.0, 0.2), "uap": "deepfool"},
    "contrastive, clean and x + 0.2 v": {"ray": (0.0, 0.2), "uap": "contrastive", "min_fooling": 0.0},
    "contrastive, clean and x + v": {"ray": (0.0, 1.0), "uap": "contrastive", "min_fooling": 0.0},
    "20 points x 20 views": {"points": 20},
    "10 points x 20 views": {"points": 10},
    "encoder paper": {"encoder": "paper"},
}
console = Console(stderr=True)


def victims_alone(reference: Reference, pool: Pool, victim: Model) -> Reference:
    """The same reference with the victim's UAP at every point, as the paper has it."""
    plan = reference.plan
    alone = QueryPlan(plan.points, plan.uaps, torch.zeros_like(plan.assign), plan.scale, plan.views)
    models = {m.name: m.model for m in pool.models} | {reference.records[0].name: victim}
    answers = torch.stack([ask(models[r.name], alone, reference.classes)[0] for r in reference.records])
    return replace(reference, plan=alone, answers=answers, labels=answers.argmax(-1), _cache={})


def row(reference: Reference, suspects: list[tuple[str, Model]], output: str = "auto") -> dict[str, Any]:
    """Scores of every suspect by group, and what follows from them."""
    z: dict[str, list[float]] = {}
    decisions: dict[str, list[str]] = {}
    for group, model in suspects:
        shown: Any = model
        if output == "labels":
            shown = lambda x, m=model: m.answers(x).labels()  # noqa: E731
        verdict = uapfast.verify(reference, shown)
        z.setdefault(group, []).append(float(verdict.z or 0.0))
        decisions.setdefault(group, []).append(verdict.decision)
    found: dict[str, Any] = {"ray": list(reference.plan.scale), "queries": reference.plan.queries, "z": z}
    for group in ("direct", "extracted"):
        truth = [1] * len(z[group]) + [0] * len(z["innocent"])
        found[f"auc_{group}"] = round(float(roc_auc_score(truth, z[group] + z["innocent"])), 3)
        found[f"convicted_{group}"] = decisions[group].count("piracy")
        found[f"median_z_{group}"] = round(float(np.median(z[group])), 1)
    found["convicted_innocent"] = decisions["innocent"].count("piracy")
    found["largest_z_innocent"] = round(max(z["innocent"]), 1)
    return found


def table(rows: dict[str, dict[str, Any]], counts: dict[str, int]) -> str:
    lines = [
        "| fingerprint | queries | ray | AUC direct | AUC extracted | median z direct | median z extracted "
        f"| largest z of {counts['innocent']} innocents | convicted: direct of {counts['direct']} "
        f"| extracted of {counts['extracted']} | innocents |",
        "|" + "---|" * 11,
    ]
    for name, r in rows.items():
        ray = ", ".join(f"{t:g}" for t in r["ray"])
        lines.append(
            f"| {name} | {r['queries']} | {ray} | {r['auc_direct']:.3f} | {r['auc_extracted']:.3f} "
            f"| {r['median_z_direct']} | {r['median_z_extracted']} | {r['largest_z_innocent']} "
            f"| {r['convicted_direct']} | {r['convicted_extracted']} | {r['convicted_innocent']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True)
    zoo = parser.parse_args().zoo
    warnings.simplefilter("ignore", uapfast.errors.UapfastWarning)
    pool, victim = load_pool(zoo / "pool" / "manifest.csv"), load_model(VICTIM, zoo / "victim.safetensors")
    images = load_data(str(zoo / "heldout.npz")).x()
    plan = plan_suspects(VICTIM, OTHERS)
    suspects = [(s.group, load_model(s.arch, zoo / s.path)) for s in plan]
    rows: dict[str, dict[str, Any]] = {}
    for name, settings in SETTINGS.items():
        reference = uapfast.generate(victim, images, pool=pool, config=replace(BASE, **settings))
        rows[name] = row(reference, suspects)
        if not settings:
            rows["default, labels only"] = row(reference, suspects, "labels")
        if settings == {"ray": (0.0, 1.0)}:
            rows["clean and x + v, the victim's v alone"] = row(
                victims_alone(reference, pool, victim), suspects
            )
        console.print(name, rows[name])
    counts = {g: sum(s.group == g for s in plan) for g in ("direct", "extracted", "innocent")}
    text = TEXT.format(table=table(rows, counts), alpha=uapfast.verify.__kwdefaults__["alpha"])
    write_text(RESULTS / "ablation.md", text)
    write_text(RESULTS / "ablation.json", json.dumps(rows, indent=1) + "\n")


TEXT = """# What each part of a fingerprint adds

Made by `python -m benchmarks.ablation --zoo DIR` on the models of first light (DIR as `first_light.md`
made it): one victim, so these figures choose a default and prove nothing. Encoder `lineage` unless named;
UAPs by `margin`, Linf, eps 0.1 unless named; alpha {alpha:g}. z counts standard deviations of the twins'
scores (of the innocents' similarities for the encoder `paper`, which has no candidate side).

{table}
"""

if __name__ == "__main__":
    main()
