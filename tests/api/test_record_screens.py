"""A screen records every suspect that it asks, as ``verify`` does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import uapfast
from tests.api.evidence_world import World
from tests.api.owner import MLP
from uapfast.cli import main
from uapfast.suspects.record_reader import is_record
from uapfast.verbs.replay import verify_record


@pytest.fixture(scope="session")
def world(evidence_world: World) -> World:
    return evidence_world


def test_a_screen_records_every_suspect_it_asks(world, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder, records = tmp_path / "suspects", tmp_path / "records"
    folder.mkdir()
    for name in ("copy", "honest"):
        shutil.copy(world.files[name], folder / f"{name}.safetensors")
    shutil.copy(world.files["copy"], folder / "again.safetensors")  # asked once
    huge = {k: 1e38 * torch.ones_like(v) for k, v in world.copy.state_dict().items()}
    save_file(huge, folder / "nan answers.safetensors")  # weights are finite, its answers are not
    screening = uapfast.screen(
        world.ref, folder, arch=MLP, out=tmp_path / "t.parquet", record=records, workers=2
    )
    with screening:
        rows = {Path(row.name).stem: row for row in screening}
        screening.finish()
    made = sorted(records.iterdir())
    assert len(made) == 3 and all(is_record(path) for path in made)
    for path in made:
        verdict, recording = verify_record(world.ref, path)
        row = rows[Path(recording.suspect["name"]).stem]
        for name in ("decision", "p_value", "similarity", "z", "views_used", "queries_used", "agreement"):
            assert getattr(row, name) == getattr(verdict, name), name
        assert row.sha256 == verdict.suspect_sha256 == recording.suspect["subject"]["digest"]["tensorsSha256"]
    assert {rows[n].decision for n in ("copy", "again")} == {"piracy"} and rows["honest"].views_used < 6
    assert rows["nan answers"].decision == "invalid"
    with pytest.raises(uapfast.errors.InputError, match="record must be left out with another engine"):
        uapfast.screen(world.ref, folder, arch=MLP, record=records, engine="ray")


@pytest.mark.needs("httpx2", "stamina", "onnx", "onnxruntime")
def test_a_screen_records_endpoints_as_verify_does(world, tmp_path):
    servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
    with servers.Server(servers.oip, servers.Served(world.copy)) as server:
        url = f"{server.url}/v2/models/digits"
        manifest = tmp_path / "m.csv"
        manifest.write_text(f"path,kind,name\n{url},endpoint,served\n")
        out, records = tmp_path / "t.parquet", tmp_path / "records"
        assert main(["screen", str(world.ref), "--manifest", str(manifest), "--endpoints", "--out", str(out),
                     "--record", str(records), "--workers", "1"]) == 1  # fmt: skip
    (path,) = records.iterdir()
    verdict, recording = verify_record(world.ref, path)
    assert verdict.decision == "piracy" and path.name.startswith("served-")
    assert set(recording.suspect["subject"]["digest"]) == {"urlSha256", "endpointSha256"}
