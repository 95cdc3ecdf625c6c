"""docs/evidence.md: every command in it runs, in its order, on files of a copy; and fails where it has to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.evidence_world import World

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
pytestmark = [pytest.mark.needs("cryptography", "rfc8785", "openssl"), pytest.mark.slow]


def blocks() -> list[str]:
    return BLOCK.findall((ROOT / "docs" / "evidence.md").read_text(encoding="utf-8"))


def place(world: World, folder: Path) -> Path:
    """The files that the page begins with, and ``uapfast`` as a command."""
    shutil.copy(world.ref, folder / "victim.uapref")
    shutil.copy(world.files["copy"], folder / "suspect.safetensors")
    shutil.copy(world.files["honest"], folder / "honest.safetensors")
    tool = folder / "bin" / "uapfast"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m tests.api.run_cli "$@"\n')
    tool.chmod(0o755)
    return folder


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """As if it was pasted into a shell, with a ``python3`` that knows nothing of ours."""
    start = 'set -euo pipefail; PATH="$PWD/bin:$PATH"; export OMP_NUM_THREADS=1\n'
    return subprocess.run(
        ["bash", "-c", start + script], cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.mark.timeout(1200)  # seven processes that import torch
def test_every_command_runs_and_a_changed_byte_is_found(evidence_world: World, tmp_path: Path) -> None:
    folder, found = place(evidence_world, tmp_path), blocks()
    assert len(found) >= 7
    for block in found:
        got = run(folder, block)
        assert got.returncode == 0, f"{block}\n{got.stdout}\n{got.stderr}"
    assert (folder / "page.html").exists() and (folder / "bom.json").exists()
    # what the other side computes without our code notices what was changed
    (alone,) = (b for b in found if "DSSEv1" in b)
    audit = next(b for b in found if b.startswith("uapfast audit"))
    record = folder / "record.jsonl"
    before = record.read_bytes()
    record.write_bytes(before.replace(b'"answer":[', b'"answer":[ ', 1))
    assert record.read_bytes() != before
    assert run(folder, alone).returncode != 0 and run(folder, audit).returncode == 1
    record.write_bytes(before)
    assert run(folder, alone).returncode == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    commands = re.findall(r'<code class="command">(.*?)</code>', page, re.S)
    assert len(commands) == 3 and run(folder, commands[0]).returncode == 0
    assert commands[1].split() == audit.replace("\\\n", " ").partition("--trust")[0].split()
    assert run(folder, commands[2]).returncode == 1  # it convicts once more
