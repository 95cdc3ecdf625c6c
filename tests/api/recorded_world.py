"""Queries handed out of a reference on digits, and the models that answer them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import uapfast
from tests.api.owner import make_owner, train
from uapfast.models.checkpoint import save_weights
from uapfast.verbs.queries import write_queries

CONFIG = uapfast.GenerateConfig(points=25, views=8, ray=(0.0, 0.2), uap_images=100, min_fooling=0.0)
NAMES = [f"digit {i}" for i in range(10)]


@dataclass
class World:
    folder: Path
    reference: uapfast.Reference
    victim: nn.Module
    honest: nn.Module
    queries: dict[str, np.ndarray]

    def answers(self, model: nn.Module, x: np.ndarray | None = None) -> np.ndarray:
        return model(torch.as_tensor(self.queries["x"] if x is None else x)).numpy()

    def save(self, name: str, **arrays: np.ndarray) -> Path:
        path = self.folder / name
        np.savez(path, **arrays)
        return path


def make_world(folder: Path) -> World:
    owner = make_owner(12, CONFIG)
    reference, victim = owner.reference, owner.victim
    reference.save(folder / "r.uapref")
    save_weights(victim, folder / "victim.safetensors")
    write_queries(reference, folder / "out")
    with np.load(folder / "out" / "queries.npz") as found:
        queries = dict(found)
    return World(folder, reference, victim, train(owner.unseen, owner.unseen_labels, 60), queries)


def same(found: uapfast.Verdict, wanted: uapfast.Verdict) -> None:
    assert found.decision == wanted.decision and found.queries_used == wanted.queries_used
    assert found.similarity == pytest.approx(wanted.similarity, abs=1e-3)
    assert found.z == pytest.approx(wanted.z, abs=0.05) and found.reference_sha256 == wanted.reference_sha256


def table(world, form: str) -> pd.DataFrame:
    p = world.answers(world.victim)
    p = np.exp(p) / np.exp(p).sum(1, keepdims=True)
    ids = {"id": world.queries["id"]}
    order = np.argsort(-p, 1)
    match form:
        case "label":
            return pd.DataFrame({**ids, "label": p.argmax(1)})
        case "name":
            return pd.DataFrame({"file": "x.png", **ids, "label": [NAMES[i] for i in p.argmax(1)]})
        case "columns":
            return pd.DataFrame({**ids, **{f"p_{i}": p[:, i] for i in reversed(range(10))}})
        case "named columns":
            return pd.DataFrame({**{n: p[:, i] for i, n in reversed(list(enumerate(NAMES)))}, **ids})
    top = range({"top 3": 3, "top names": 10}[form])
    named = np.array(NAMES if form == "top names" else list(range(10)))
    columns = {f"label_{k + 1}": named[order[:, k]] for k in top}
    return pd.DataFrame(
        {**ids, **columns, **{f"score_{k + 1}": np.take_along_axis(p, order, 1)[:, k] for k in top}}
    )
