"""Workers of a cluster in threads of this process: what is sent, what is told, what is held back."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.api.screen_world import CNN, MLP, World
from uapfast.errors import ClusterError, InputError
from uapfast.screening import ray_engine, remote
from uapfast.screening.dispatch import Board
from uapfast.screening.entry import Entry
from uapfast.screening.errands import BACKLOG, SLOTS, Errand, News, Orders
from uapfast.screening.judge import failed_rows
from uapfast.screening.panel import Panel, Settings
from uapfast.screening.pipeline import run as run_local
from uapfast.screening.ray_engine import Share
from uapfast.screening.remote import Packed, Worker, pack, unpack
from uapfast.screening.rows import SECONDS, Row
from uapfast.screening.shift import Shift


@pytest.fixture
def make(request, monkeypatch):
    """Makes workers; the process gets its threads back afterwards."""
    before, folder = torch.get_num_threads(), os.getcwd()
    made: list[Worker] = []

    def one(packed: Packed, home: str = socket.gethostname()) -> Worker:
        made.append(Worker(packed, "cpu", 1, os.getcwd(), home))
        return made[-1]

    yield one
    for worker in reversed(made):
        worker._limits.restore_original_limits()
    torch.set_num_threads(before)
    os.chdir(folder)


class Threads:
    """A crew of workers in this process."""

    def __init__(self, make, packed: Packed) -> None:
        self.make, self.packed, self.pool = make, packed, ThreadPoolExecutor(8)
        self.workers: list[Worker] = []
        self.calls: dict[Future, int] = {}

    def hire(self) -> int:
        self.workers.append(self.make(self.packed))
        number = len(self.workers) - 1
        self.calls[self.pool.submit(self.workers[number].hello)] = number
        return number

    def send(self, worker: int, orders: Orders) -> None:
        self.calls[self.pool.submit(self.workers[worker].exchange, orders)] = worker

    def wait(self, seconds: float) -> list[tuple[int, News]]:
        done, _ = wait(self.calls, seconds, FIRST_COMPLETED)
        return [(self.calls.pop(call), call.result()) for call in done]

    def fire(self, worker: int) -> None:
        raise AssertionError("nobody dies here")


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
    back = unpack(pack(panel))
    assert back.versions == panel.versions and back.keys() == panel.keys()
    for mine, sent in zip(back.asked, panel.asked, strict=True):
        assert mine.name == sent.name and mine.told() == sent.told()
        fresh = type(sent.reference)(
            **{f.name: getattr(mine.reference, f.name) for f in fields(sent.reference) if f.name[0] != "_"}
        )
        assert fresh.sha256 == sent.reference.sha256  # computed anew from what arrived
        for view in range(sent.design.views):
            assert view in mine._kept and torch.equal(mine.images(view), sent.images(view))


def test_the_papers_encoder_is_sent_too(world):
    reference = world.references["first"]
    weights = {"w": torch.arange(6.0).reshape(2, 3).T}
    odd = type(reference)(
        reference.plan, reference.records, reference.answers, reference.labels, None, 10, "paper", weights,
        dict(reference.settings),
    )  # fmt: skip
    panel = Panel.of({"odd": odd}, Settings(0.01))
    (back,) = unpack(pack(panel)).asked
    assert torch.equal(back.reference.weights["w"], weights["w"]) and back.reference.encoder == "paper"


def test_workers_in_threads_give_what_local_gives(world, tmp_path, make):
    panel = Panel.of(world.references, Settings(0.01, workers=1))
    suspects = [(s, s.stamp()) for s in (*world.suspects, *variants(world, tmp_path, 120))]
    local = [row for one in run_local(panel, iter(suspects), lambda s, h: None) for row in one.rows]
    stored: dict[tuple[str, str], list[Row]] = {}
    board = Board(
        iter(suspects),
        lambda s, sha256: stored.get((s.network, sha256)),
        lambda s, error, sha256: failed_rows(panel, s, error, sha256),
    )
    crew, rows = Threads(make, pack(panel)), []
    for one in Shift(crew, board, 2, panel.versions).run():
        rows += one.rows
        stored[one.suspect.network, str(one.rows[0].sha256)] = list(one.rows)
    crew.pool.shutdown()
    assert bare(rows) == bare(local)
    # two files each; one of honest-1's own stands among the suspects besides
    assert sum(row.same_as is not None for row in rows if row.reference == "first") >= 60


def test_a_worker_holds_back_only_so_much(world, tmp_path, make):
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    worker = make(pack(panel))
    bad = [Errand(i, Entry(str(tmp_path / "none"), MLP, f"{i}"), "-") for i in range(100)]
    worker.exchange(Orders(tuple(bad)))
    time.sleep(0.3)
    assert len(worker._told) <= BACKLOG
    told = []
    while worker._mine or worker._told:
        told += worker.exchange(Orders()).told
    assert {t.number for t in told} >= set(range(20, 100)) and all(t.rows for t in told)
    assert worker.exchange(Orders()).told == ()  # nothing in hand: at once


def test_a_worker_reads_no_further_than_its_memory(world, tmp_path, make):
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    worker, some = make(pack(panel)), variants(world, tmp_path, 10)
    told = list(worker.exchange(Orders(tuple(Errand(i, s, "x") for i, s in enumerate(some)))).told)
    deadline = time.monotonic() + 10
    while len(told) < SLOTS and time.monotonic() < deadline:
        told += worker.exchange(Orders()).told
    time.sleep(0.2)
    assert [t.number for t in told] == list(range(SLOTS)) and not worker._told and len(worker._held) == SLOTS
    told = list(worker.exchange(Orders((), ask=(1,), drop=(0, 2))).told)
    while len(told) < 4 and time.monotonic() < deadline:
        told += worker.exchange(Orders()).told
    assert sorted(t.number for t in told) == [1, 3, 4, 5]
    assert [t.number for t in told if t.rows is not None] == [1]


def test_a_node_without_the_files_is_the_clusters_fault(world, tmp_path, make):
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    for home, stamp, error in (("elsewhere", "5:5:5", "ClusterError"), ("elsewhere", "-", "CorruptFileError"),
                               (socket.gethostname(), "5:5:5", "CorruptFileError")):  # fmt: skip
        worker = make(pack(panel), home)
        errand = Errand(1, Entry(str(tmp_path / "none.safetensors"), MLP), stamp)
        (told,) = worker.exchange(Orders((errand,))).told
        assert told.rows is not None and told.rows[0].error_class == error
        assert told.again == (error == "ClusterError")
    errand = Errand(2, Entry(world.suspect("honest-0").path, f"{tmp_path / 'none.py'}:net"), "5:5:5")
    (told,) = make(pack(panel), "elsewhere").exchange(Orders((errand,))).told
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
    monkeypatch.setattr(remote, "POLL", 0.3)
    (tmp_path / "net.py").write_text("import time\ndef net():\n    time.sleep(1.0)\n    raise RuntimeError\n")
    panel = Panel.of({"first": world.references["first"]}, Settings(0.01))
    worker = make(pack(panel))
    path = world.suspect("honest-0").path
    reply = worker.exchange(Orders((Errand(7, Entry(path, f"{tmp_path / 'net.py'}:net"), "x"),)))
    ((number, seconds, building),) = reply.at
    assert number == 7 and 0.2 < seconds < 1.0 and building and not reply.told
    told = reply.told
    while not told:
        reply = worker.exchange(Orders())
        told = reply.told
    assert told[0].rows is not None and not reply.at
