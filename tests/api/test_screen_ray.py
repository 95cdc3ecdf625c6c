"""``screen`` on a real Ray cluster of this machine: the table of ``local``, whoever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.bad_suspects import bad_suspects
from tests.api.screen_rows import bare, table
from tests.api.screen_world import MLP, World
from uapfast.errors import ClusterError, InputError, MissingDependency
from uapfast.screening.engine import ray as ray_engine
from uapfast.screening.engine import registry
from uapfast.screening.engine.messages import Hello
from uapfast.screening.engine.supervisor import Supervisor, Timeouts
from uapfast.screening.listing.entry import Entry

pytestmark = [pytest.mark.needs("ray"), pytest.mark.slow]
# a network of its own file, as a user names it on the call
FACTORY = """
import os, time
from uapfast.models.nets import mlp_small
from torch import nn
class slow(nn.Sequential):
    def __init__(self):
        super().__init__(*mlp_small(1, 10, 8))
    def forward(self, x):
        time.sleep(0.03)
        return super().forward(x)
class endless(slow):
    def forward(self, x):
        time.sleep(1e6)
class killer(slow):
    def forward(self, x):
        os._exit(1)
"""


@pytest.fixture(scope="module", autouse=True)
def no_ray_afterwards() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def cluster() -> None:
    """Two CPUs, started once: most tests find a Ray that runs already, and have to leave it running."""
    import ray

    if not ray.is_initialized():
        ray_engine._init(ray, "local", num_cpus=2, include_dashboard=False)


def without_origin(rows: dict) -> dict:
    """Which of several equal suspects was asked is chance."""
    return {key: {c: v for c, v in row.items() if c != "same_as"} for key, row in bare(rows).items()}


def variants(world: World, folder: Path, count: int) -> list[Path]:
    """Weights of one architecture, all different."""
    state = load_file(world.suspect("honest-0").path)
    paths = [folder / f"v{i:02d}.safetensors" for i in range(count)]
    for number, path in enumerate(paths):
        save_file({k: v + 1e-3 * number for k, v in state.items()}, path)
    return paths


def hellos(monkeypatch) -> list[Hello]:
    """Of all workers that come up."""
    seen: list[Hello] = []
    real = Supervisor._check
    monkeypatch.setattr(Supervisor, "_check", lambda self, hello: seen.append(hello) or real(self, hello))
    return seen


def test_a_cluster_of_its_own_gives_the_table_of_local_and_is_gone_afterwards(world, tmp_path):
    import ray

    ray.shutdown()
    copies = []
    for i in range(4):
        shutil.copy(world.suspect("honest-0").path, tmp_path / f"copy-{i}.safetensors")
        copies.append(Entry(str(tmp_path / f"copy-{i}.safetensors"), MLP))
    (tmp_path / "exits.py").write_text("def net():\n    raise SystemExit(0)\n")
    (tmp_path / "fails.py").write_text("def net():\n    raise RuntimeError('no')\n")
    suspects = [*world.suspects, *copies, *bad_suspects(world, tmp_path)]
    tables = {}
    for engine in ("local", "ray"):
        out = tmp_path / f"{engine}.parquet"
        uapfast.screen(world.references, suspects, out=out, workers=2, engine=engine).finish()
        tables[engine] = table(out)
    assert without_origin(tables["ray"]) == without_origin(tables["local"])
    same = world.suspect("honest-0").name
    for found in tables.values():
        equal = [r for r in found.values() if r["sha256"] == found["first", same]["sha256"]]
        assert len(equal) == 10 and sum(r["same_as"] is None for r in equal) == 2
    assert not ray.is_initialized() and "RAY_USAGE_STATS_ENABLED" not in os.environ


def test_a_killed_worker_loses_no_row_and_a_broken_off_run_goes_on(
    world, tmp_path, cluster, monkeypatch, caplog
):
    import ray

    caplog.set_level("INFO")
    (tmp_path / "net.py").write_text(FACTORY)
    paths, arch = variants(world, tmp_path, 60), f"{tmp_path / 'net.py'}:slow"
    whole, out = tmp_path / "whole.parquet", tmp_path / "t.parquet"
    uapfast.screen(world.references, paths, arch=arch, out=whole, workers=2).finish()
    seen = hellos(monkeypatch)
    screening = uapfast.screen(world.references, paths, arch=arch, out=out, workers=2, engine="ray")
    rows = []
    for row in screening:
        rows.append(row)
        if len(rows) == 2:
            os.kill(seen[0].process, signal.SIGKILL)
        if len(rows) > 60:
            break
    assert len({(r.reference, r.name) for r in rows}) == len(rows)
    screening.close()
    assert not out.exists() and ray.is_initialized()
    assert any("is lost" in r.message for r in caplog.records)
    uapfast.screen(world.references, paths, arch=arch, out=out, workers=2, engine="ray").finish()
    assert bare(table(out)) == bare(table(whole)) and len(table(out)) == 120


def test_who_kills_or_never_ends_is_one_row_with_an_error(world, tmp_path, cluster, monkeypatch):
    (tmp_path / "net.py").write_text(FACTORY)
    paths = variants(world, tmp_path, 8)
    kinds = {1: "killer", 5: "endless"}
    suspects = [
        Entry(str(path), f"{tmp_path / 'net.py'}:{kinds.get(number, 'slow')}", f"{number}")
        for number, path in enumerate(paths)
    ]
    seen = hellos(monkeypatch)
    monkeypatch.setattr(ray_engine, "run", partial(ray_engine.run, timeouts=Timeouts(suspect=5.0)))
    out = tmp_path / "t.parquet"
    run = uapfast.screen(world.references["first"], suspects, out=out, workers=2, engine="ray")
    assert run.finish().decisions["invalid"] == 2
    errors = {name: row["error_class"] for (_, name), row in table(out).items()}
    assert errors == {str(n): None for n in range(8)} | {"1": "WorkerLostError", "5": "TimeLimitError"}
    assert 4 <= len(seen) <= 8


def test_an_address_where_no_cluster_is(world, tmp_path):
    screen = partial(uapfast.screen, world.references, world.suspects[:1], engine="ray")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ClusterError, match=f"must be that of a Ray cluster, got 127.0.0.1:{port}"):
            screen(address=f"127.0.0.1:{port}").finish()
        other.listen()
        answer = threading.Thread(target=lambda: other.accept()[0].sendall(b"HTTP/1.1 400 Bad\r\n"))
        answer.start()
        with pytest.raises(ClusterError, match="another service at 127.0.0.1"):
            screen(address=f"127.0.0.1:{port}").finish()
        answer.join()
    for address in ("nowhere", "127.0.0.1:", "ray://127.0.0.1:1", ""):
        with pytest.raises(InputError, match="address must be HOST:PORT"):
            screen(address=address).finish()


def test_a_running_cluster_is_found_at_its_address(world, tmp_path, cluster):
    import ray

    address = ray.get_runtime_context().gcs_address
    run = uapfast.screen(world.references, world.suspects[:2], engine="ray", address=address, workers=1)
    assert run.finish().rows == 4 and ray.is_initialized()


def test_without_ray_the_extra_is_named(world, monkeypatch):
    real = registry.find_spec
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "ray" else real(name))
    with pytest.raises(MissingDependency, match=r"pip install 'ray>=2.50'"):
        uapfast.screen(world.references, world.suspects[:1], engine="ray")
