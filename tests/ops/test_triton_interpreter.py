"""The op tests once more with their Triton backends, on the CPU: Triton's interpreter runs the kernels.

It must be asked for before a kernel is imported, so these run in a process of their own, a file at a time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uapfast.ops import _triton

ROOT = Path(__file__).resolve().parents[2]
LEAST = {
    "build_queries": 85,
    "features": 25,
    "inner_products": 22,
    "triton_configs": 8,
}  # tests that must have passed: an empty run proves nothing

pytestmark = [
    pytest.mark.needs("triton"),
    pytest.mark.skipif(_triton.INTERPRETED, reason="this process is the interpreter's already"),
]


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All of them at once: each is a single thread."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "UAPFAST_REQUIRE": "triton", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "triton"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = {
        op: subprocess.Popen([*command, f"tests/ops/test_{op}.py"], cwd=ROOT, env=environment, **pipes)
        for op in LEAST
    }
    yield started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("op", LEAST)
def test_op_tests_pass_under_the_interpreter(op: str, runs: dict[str, subprocess.Popen[str]]) -> None:
    shown, _ = runs[op].communicate()
    assert runs[op].returncode == 0, shown[-6000:]
    passed = re.search(r"(\d+) passed", shown)
    assert passed is not None and int(passed[1]) >= LEAST[op], shown[-500:]


def test_the_op_never_chooses_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import torch, uapfast.ops\n"
        "from uapfast.ops._registry import OPS\n"
        "found = [b for op in OPS.values() for b in op.backends if b.name == 'triton']\n"
        "assert found and not any(b.automatic or b.why_off() for b in found), found\n"
        "assert OPS['build_queries'].choose('', (torch.zeros(1, 1, 1, 1), None, None, 1.0, [], [],\n"
        "    torch.float16, False, True)).name == 'reference'\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_ops_are_imported_without_triton() -> None:
    code = (
        "import sys, uapfast.ops; assert 'triton' not in sys.modules and 'uapfast.kernels' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
