"""README's eight lines, on what ``make demo`` left: they run as they stand, and say what README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = "UAPFAST_DEMO"  # the folder that the demo wrote; where it is set, the test does not skip


def test_the_first_lines_run_and_say_what_stands_there(tmp_path: Path) -> None:
    demo = Path(os.environ.get(DEMO, ROOT / "demo-out")).resolve()
    if DEMO not in os.environ and not (demo / "report.html").exists():
        pytest.skip("make demo was not run")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", text, re.M | re.S)
    assert found is not None
    code, said = found.groups()
    assert len([line for line in code.splitlines() if line.strip()]) <= 8
    (tmp_path / "demo-out").symlink_to(demo)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    got = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (got.returncode, got.stdout) == (0, said), got.stderr
