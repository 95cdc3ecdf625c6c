"""Examinations that are recorded, and what their tests read of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import uapfast
from tests.api.evidence_world import World
from uapfast.suspects.record_writer import Recorder
from uapfast.types import Verdict

NAMES = [f"digit {i}" for i in range(10)]


def softmax(x: torch.Tensor, net: nn.Module) -> torch.Tensor:
    return net(x).softmax(-1)


def recorded(world: World, suspect: Any, path: Path, **how: Any) -> Verdict:
    with Recorder(path) as record:
        return uapfast.verify(world.reference, suspect, record=record, **how)


def same(first: Verdict, second: Verdict) -> None:
    a, b = first.to_dict(), second.to_dict()
    assert {k: v for k, v in a.items() if v != b[k]} == {}
    assert first.to_json() == second.to_json()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
