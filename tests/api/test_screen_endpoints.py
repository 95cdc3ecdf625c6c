"""Endpoints as suspects of a screen: from a manifest, away for a while, without a secret not allowed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import uapfast
from tests.api.http_servers import Served, Server, oip
from tests.api.mixed_suspects import as_manifest, rows_of
from tests.api.screen_world import MLP, World
from uapfast.errors import ManifestError
from uapfast.models.checkpoint import load_model
from uapfast.suspects.http import open_http


@pytest.fixture
def served(world: World) -> Iterator[Server]:
    module = load_model(MLP, world.suspect("victim-1").path).module
    assert isinstance(module, nn.Module)
    with Server(oip, Served(module)) as server:
        yield server


@pytest.mark.needs("httpx2")
def test_an_endpoint_of_a_manifest(world: World, served: Server, tmp_path: Path) -> None:
    url = f"{served.url}/v2/models/digits"
    listed = as_manifest(tmp_path, {"path": url, "kind": "endpoint", "name": "theirs"})
    with pytest.raises(ManifestError, match="--endpoints"):
        uapfast.screen(world.references["first"], listed)
    (row,) = uapfast.screen(world.references["first"], listed, endpoints=True, fdr=1.0)
    with open_http(url) as suspect:
        verdict = uapfast.verify(world.references["first"], suspect)
    assert (row.decision, row.kind, row.path, row.sha256) == ("piracy", "endpoint", url, None)
    assert row.z == pytest.approx(verdict.z) and row.queries_used == verdict.queries_used


@pytest.mark.needs("httpx2")
def test_an_endpoint_that_is_away_is_asked_again(world: World, served: Server, tmp_path: Path) -> None:
    listed = as_manifest(
        tmp_path,
        {"path": f"{served.url}/v2/models/digits", "name": "theirs"},
        {"path": world.suspect("honest-0").path, "name": "file", "arch": MLP},
    )
    given: dict[str, Any] = {"out": tmp_path / "t.parquet", "endpoints": True, "fdr": 1.0}
    conduct = {"cache": str(tmp_path / "answers"), "budget": 100}
    rows = {row.name: row for row in rows_of(world, listed, conduct=conduct, **given)}
    assert rows["theirs"].decision == "unavailable" and rows["file"].decision != "unavailable"
    sent = served.served.images
    assert 0 < sent <= 100
    again = uapfast.screen(world.references["first"], listed, conduct=conduct | {"budget": None}, **given)
    with again:
        (row,) = again  # and not the file
    assert (row.name, row.decision) == ("theirs", "piracy") and again.summary is not None
    assert again.summary.decisions["piracy"] == 1 and again.summary.exit_code == 1


def test_an_address_that_nobody_answers(world: World, tmp_path: Path) -> None:
    entry = uapfast.Entry("http://127.0.0.1:9/v2/models/digits", kind="endpoint", name="gone")
    conduct = {"attempts": 1, "timeout": 1.0}
    screening = uapfast.screen(world.references["first"], [entry], conduct=conduct)
    with screening:
        (row,) = screening
    assert row.decision == "unavailable" and screening.summary is not None
    assert screening.summary.exit_code == 5


def test_a_manifests_endpoint_reads_no_secret(
    world: World, served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "s3cret")
    url = f"{served.url}/v2/models/digits"
    (tmp_path / "m.toml").write_text(f'url = "{url}"\n[headers]\nX-Trace = "${{TOKEN_OF_MINE}}"\n')
    listed = as_manifest(tmp_path, {"path": "m.toml", "kind": "endpoint"})
    (row,) = rows_of(world, listed, endpoints=True)
    assert row.error_class == "EndpointError" and "--secret" in str(row.error_message)
    assert not served.served.headers
    (row,) = rows_of(world, listed, endpoints=True, conduct={"secrets": ["TOKEN_OF_MINE"]})
    assert row.error_class is None and "s3cret" not in row.to_json()


def test_a_pipe_is_no_description_of_an_endpoint(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.toml")
    (row,) = rows_of(world, [tmp_path / "m.toml"])
    assert row.error_class == "EndpointError" and "regular file" in str(row.error_message)
