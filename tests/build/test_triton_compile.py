"""Every configuration of every Triton kernel compiles without a device, and spills no register."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.build.triton_cases import CASES, needed
from tests.build.triton_offline import compile_for, launches, resources
from uapfast.ops import _triton

pytestmark = [
    pytest.mark.needs("triton"),
    pytest.mark.skipif(_triton.INTERPRETED, reason="TRITON_INTERPRET=1 leaves nothing to compile"),
]
PRINCIPAL = ("build_queries torch.bfloat16 0", "features 10", "features 33")
SHARED = {80: 163, 90: 227, 100: 227}  # KB of a block at most
Needed = list[tuple[str, dict[str, int]]]


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, int], Future[Needed]]]:
    """All cases that will be asked for, compiled side by side: one takes a second of one core."""
    asked = [i.callspec.params for i in request.session.items if "compiled" in getattr(i, "fixturenames", ())]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        keys = [(p["case"], p["capability"]) for p in asked]
        yield {key: pool.submit(needed, *key) for key in keys}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    ("case", "capability"),
    [(c, a) for c in CASES for a in (80, 90)] + [(c, 100) for c in CASES if c in PRINCIPAL],
)
def test_compiles_without_spills(case: str, capability: int, compiled: dict[Any, Future[Needed]]) -> None:
    made = compiled[case, capability].result()
    assert made
    for what, used in made:
        assert used["STACK"] == used["LOCAL"] == 0, (what, used)
        assert used["REG"] <= 255 and used["SHARED"] <= SHARED[capability] * 1024, (what, used)


def test_the_report_would_show_a_spill(tmp_path: Path) -> None:
    """The same kernel held to 16 registers must be reported, or the test above can see nothing."""
    launch = launches(CASES["build_queries float images"], 90)[0]
    tight = type(launch.tuned.configs[0])(launch.tuned.configs[0].kwargs, num_warps=1, maxnreg=24)
    used = resources(compile_for(launch, tight, 90), tmp_path)
    assert used["STACK"] + used["LOCAL"] > 0, used


def test_the_tensor_cores_are_used() -> None:
    """Those for float64, without which the product would take ten times as long."""
    launch = launches(CASES["products"], 90)[-1]
    ptx = compile_for(launch, launch.tuned.configs[0], 90).asm["ptx"]
    assert re.search(r"mma\.sync.*\.f64", ptx)
