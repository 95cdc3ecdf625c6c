"""Workers of a cluster in threads of this process: what is sent, what is told, what is held back."""

from __future__ import annotations

import socket
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.api.screen_world import CNN, MLP, World
from tests.api.thread_backend import Threads
from uapfast.errors import ClusterError, InputError
from uapfast.screening.asking.judge import failed_rows
from uapfast.screening.asking.panel import Panel, Settings
from uapfast.screening.engine import ray as ray_engine
from uapfast.screening.engine import worker as worker_module
from uapfast.screening.engine.local import run as run_local
from uapfast.screening.engine.messages import BACKLOG, BUFFERS, Job, Request
from uapfast.screening.engine.ray import Share
from uapfast.screening.engine.remote import pack_panel, unpack_panel
from uapfast.screening.engine.scheduler import Scheduler
from uapfast.screening.engine.supervisor import Supervisor
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import SECONDS, Row


def bare(rows: list[Row]) -> list[dict]:
    found = [{k: v for k, v in row.to_dict().items() if k not in (*SECONDS, "same_as")} for row in rows]
    return sorted(found, key=lambda r: (r["reference"], r["name"]))


def variants(world: World, folder: Path, count: int) -> list[Entry]:
    state = load_file(world.suspect("honest-1").path)
    for i in range(count):
        save_file({k: v + 1e-3 * (i // 2) for k, v in state.items()}, folder / f"{i:03d}.safetensors")
    return [Entry(str(folder / f"{i:03d}.safetensors"), CNN) for i in range(count)]


def test_a_panel_arrives_as_it_was_sent(world):
    panel = Panel.of(world.references, Settings(0.01, early=False))
    back = unpack_panel(pack_panel(panel))
    assert back.versions == panel.versions and back.keys() == panel.keys()
    for mine, sent in zip(back.asked, panel.asked, strict=True):
        assert mine.name == sent.name and mine.told() == sent.told()
        fresh = type(sent.reference)(
            **{f.name: getattr(mine.reference, f.name) for f in fields(sent.reference) if f.name[0] != "_"}
        )
        assert fresh.sha256 == sent.reference.sha256  # computed anew from what arrived
        for view in range(sent.design.views):
            assert view in mine.kept and torch.equal(mine.images(view), sent.images(view))


def test_the_papers_encoder_is_sent_too(world):
    reference = world.references["first"]
    weights = {"w": torch.arange(6.0).reshape(2, 3).T}
    odd = type(reference)(
        reference.plan, reference.records, reference.answers, reference.labels, None, 10, "paper", weights,
        dict(reference.settings),
    )  # fmt: skip
    panel = Panel.of({"odd": odd}, Settings(0.01))
    (back,) = unpack_panel(pack_panel(panel)).asked
    assert torch.equal(back.reference.weights["w"], weights["w"]) and back.reference.encoder == "paper"


def test_workers_in_threads_give_what_local_gives(world, tmp_path, make):
    panel = Panel.of(world.references, Settings(0.01, workers=1))
    suspects = [(s, s.stamp()) for s in (*world.suspects, *variants(world, tmp_path, 120))]
    local = [row for one in run_local(panel, iter(suspects), lambda s, h: None) for row in one.rows]
    stored: dict[tuple[str, str], list[Row]] = {}
    scheduler = Scheduler(
        iter(suspects),
        lambda s, sha256: stored.get((s.network, sha256)),
        lambda s, error, sha256: failed_rows(panel, s, error, sha256),
    )
    backend, rows = Threads(make, pack_panel(panel)), []
    for one in Supervisor(backend, scheduler, 2, panel.versions).run():
        rows += one.rows
        stored[one.suspect.network, str(one.rows[0].sha256)] = list(one.rows)
    backend.pool.shutdown()
    assert bare(rows) == bare(local)
    # two files each; one of honest-1's own stands among the suspects besides
    assert sum(row.same_as is not None for row in rows if row.reference == "first") >= 60


def test_a_worker_holds_back_only_so_much(world, tmp_path, make):
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    worker = make(pack_panel(panel))
    bad = [Job(i, Entry(str(tmp_path / "none"), MLP, f"{i}"), "-") for i in range(100)]
    worker.exchange(Request(tuple(bad)))
    time.sleep(0.3)
    assert len(worker._worker._updates) <= BACKLOG
    told = []
    while worker._worker._open or worker._worker._updates:
        told += worker.exchange(Request()).updates
    assert {t.number for t in told} >= set(range(20, 100)) and all(t.rows for t in told)
    assert worker.exchange(Request()).updates == ()  # nothing in hand: at once


def test_a_worker_reads_no_further_than_its_memory(world, tmp_path, make):
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    worker, some = make(pack_panel(panel)), variants(world, tmp_path, 10)
    told = list(worker.exchange(Request(tuple(Job(i, s, "x") for i, s in enumerate(some)))).updates)
    deadline = time.monotonic() + 10
    while len(told) < BUFFERS and time.monotonic() < deadline:
        told += worker.exchange(Request()).updates
    time.sleep(0.2)
    assert (
        [t.number for t in told] == list(range(BUFFERS))
        and not worker._worker._updates
        and len(worker._worker._held) == BUFFERS
    )
    told = list(worker.exchange(Request((), ask=(1,), drop=(0, 2))).updates)
    while len(told) < 4 and time.monotonic() < deadline:
        told += worker.exchange(Request()).updates
    assert sorted(t.number for t in told) == [1, 3, 4, 5]
    assert [t.number for t in told if t.rows is not None] == [1]


def test_a_node_without_the_files_is_the_clusters_fault(world, tmp_path, make):
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    for home, stamp, error in (("elsewhere", "5:5:5", "ClusterError"), ("elsewhere", "-", "CorruptFileError"),
                               (socket.gethostname(), "5:5:5", "CorruptFileError")):  # fmt: skip
        worker = make(pack_panel(panel), home)
        job = Job(1, Entry(str(tmp_path / "none.safetensors"), MLP), stamp)
        (told,) = worker.exchange(Request((job,))).updates
        assert told.rows is not None and told.rows[0].error_class == error
        assert told.retry == (error == "ClusterError")
    job = Job(2, Entry(world.suspect("honest-0").path, f"{tmp_path / 'none.py'}:net"), "5:5:5")
    (told,) = make(pack_panel(panel), "elsewhere").exchange(Request((job,))).updates
    assert told.rows is not None and "none.py" in str(told.rows[0].error_message)
    assert told.rows[0].error_class == "ClusterError"


def test_shares_of_a_cluster(world, monkeypatch):
    def share(resources, device="cpu", workers=None) -> tuple[int, int, float]:
        panel = Panel.of(world.references, Settings(0.01, device=device, workers=workers), "cpu")
        found = Share.of(panel, resources)
        return found.workers, found.threads, found.gpu

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert share({"CPU": 64.0}) == (64, 1, 0.0)
    assert share({"CPU": 64.0}, workers=4) == (4, 2, 0.0)
    assert share({"CPU": 4.0}, workers=4) == (4, 1, 0.0)
    assert share({"CPU": 64.0, "GPU": 8.0}, "cuda") == (16, 1, 0.5)
    workers, _, gpu = share({"CPU": 64.0, "GPU": 2.0}, "cuda", 5)
    assert workers == 5 and gpu == 1 / 3  # 0.4 would fit only twice on either
    assert share({"CPU": 64.0}, "cuda", 4)[2] == 0.25  # a cluster that grows
    assert share(None, workers=2) == (2, 4, 0.0) and share(None, "cuda", 3)[2] == 1 / 3
    with pytest.raises(ClusterError, match="--workers must be given for a cluster without a GPU"):
        share({"CPU": 64.0}, "cuda")


def test_one_gpu_of_several_cannot_be_named(world):
    with pytest.raises(InputError, match="device must be cpu or cuda with engine ray"):
        panel = Panel.of(world.references, Settings(0.01, device="cuda:1"), "cpu")
        list(ray_engine.run(panel, iter([]), lambda s, h: None))


def test_what_is_under_way_is_told_with_its_time(world, tmp_path, make, monkeypatch):
    monkeypatch.setattr(worker_module, "POLL", 0.3)
    (tmp_path / "net.py").write_text("import time\ndef net():\n    time.sleep(1.0)\n    raise RuntimeError\n")
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    worker = make(pack_panel(panel))
    path = world.suspect("honest-0").path
    reply = worker.exchange(Request((Job(7, Entry(path, f"{tmp_path / 'net.py'}:net"), "x"),)))
    ((number, seconds, building),) = reply.busy
    assert number == 7 and 0.2 < seconds < 1.0 and building and not reply.updates
    told = reply.updates
    while not told:
        reply = worker.exchange(Request())
        told = reply.updates
    assert told[0].rows is not None and not reply.busy
