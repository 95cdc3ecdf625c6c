"""Every op is measured, and what is measured is an op: lists in scripts and tables outlive what they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import uapfast.ops  # noqa: F401  (registers them)
from uapfast.ops._registry import OPS

# one that writes into memory given is measured as the other
NAMES = {name for name in OPS if not (name.endswith("_out") and name.removesuffix("_out") in OPS)}
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_op_has_a_benchmark() -> None:
    assert not [name for name in NAMES if not (BENCHMARKS / f"bench_{name}.py").is_file()]


@pytest.mark.parametrize("script", ["cpu.sh", "gpu.sh"])
def test_a_script_takes_the_benchmarks_of_all_ops(script: str) -> None:
    lists = re.findall(r"^ops=\((.*)\)$", (BENCHMARKS / script).read_text(), re.MULTILINE)
    assert lists and set(lists[0].split()) - {"ceilings"} == NAMES


def test_the_table_of_a_cpu_has_no_other_ops() -> None:
    rows = re.findall(r"^### (\w+)", (BENCHMARKS / "results" / "cpu_ops.md").read_text(), re.MULTILINE)
    assert rows and set(rows) <= NAMES
