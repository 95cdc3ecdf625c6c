"""A suspect that never ends, or is too large, is one row; the run, its threads and its memory are spared."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.screen_world import MLP, World
from uapfast.errors import InputError, TimeLimitError
from uapfast.models.fitting import wanted
from uapfast.screening import run
from uapfast.screening.asking.budget import MemoryBudget
from uapfast.screening.asking.device import loader_for
from uapfast.screening.asking.panel import Panel, Settings
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.engine import local, worker
from uapfast.screening.engine.messages import Job, Request
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.stamps import holds, late
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.skeletons import Skeletons
from uapfast.suspects.networks.watch import Watch
from uapfast.threads import WorkerThread, abandoned_threads

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.6
NETS = """
import time
from pathlib import Path
from torch import nn
from uapfast.models.nets import mlp_small

HERE = Path(__file__).parent

def held():
    while not (HERE / "release").exists():
        time.sleep(0.02)

def built():
    (HERE / "built").touch()
    held()
    return mlp_small(1, 10, 8)

class answers(nn.Sequential):
    def __init__(self):
        super().__init__(*mlp_small(1, 10, 8))
    def forward(self, x):
        if float(self[1].bias[0]) > 7:  # as the weights of some suspects have it
            held()
        return super().forward(x)

class spins(answers):
    def forward(self, x):
        while not (HERE / "release").exists():
            pass
        return super().forward(x)
"""


@pytest.fixture
def nets(tmp_path: Path):
    """Folder with a factory file; threads that are held in it are let go at the end."""
    (tmp_path / "nets.py").write_text(NETS)
    yield tmp_path
    (tmp_path / "release").touch()
    until = time.monotonic() + 30
    while abandoned_threads() and time.monotonic() < until:
        time.sleep(0.02)
    assert not abandoned_threads()


def weights(world: World, path: Path, bias: float) -> str:
    state = load_file(world.suspect("honest-0").path)
    state["1.bias"] = state["1.bias"].clone()
    state["1.bias"][0] = bias
    save_file(state, path)
    return str(path)


def mixed(world: World, folder: Path, count: int, slow: int, factory: str = "answers") -> list[Entry]:
    """``count`` suspects of one architecture, of which ``slow`` do not end, and honest ones of another."""
    arch = f"{folder / 'nets.py'}:{factory}"
    made = [
        Entry(weights(world, folder / f"{i}.safetensors", 8.0 + i if i < slow else -0.01 * i), arch)
        for i in range(count)
    ]
    honest = [world.suspect(f"honest-{i}") for i in range(6)]
    return [s for pair in zip(made, honest * count, strict=False) for s in pair]


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_never_answers_is_a_row_and_the_others_are_asked(world, nets, workers):
    some = mixed(world, nets, 6, slow=2)
    start = time.monotonic()
    with uapfast.screen(world.references, some, workers=workers, timeout=LIMIT) as screening:
        rows = list(screening)
    assert time.monotonic() - start < 30 and len(rows) == 2 * len({s.identity for s in some})
    for row in rows:
        if row.name in ("0.safetensors", "1.safetensors"):
            assert row.decision == "invalid" and row.error_class == "TimeLimitError"
            assert row.error_message == f"screen: {row.name} must be asked within {LIMIT:g} s, got no result"
            assert row.sha256 is not None
        else:
            assert row.decision != "invalid", row
    lost = abandoned_threads()
    assert len(lost) == 2 and not any(t.name == worker.NAME and t not in lost for t in threading.enumerate())


def test_a_loop_that_holds_the_interpreter_is_given_up_too(world, nets):
    some = [Entry(weights(world, nets / "w.safetensors", 0.0), f"{nets / 'nets.py'}:spins")]
    # Beside the loop, what a process does once (imports, a reader, proofs) would take most of the limit.
    uapfast.screen(world.references["first"], world.suspects[:3]).finish()
    limit = 5 * LIMIT  # every call of the others waits for the loop's turn to end
    with uapfast.screen(world.references["first"], [*some, *world.suspects[:3]], timeout=limit) as screening:
        found = {row.name: row.error_class for row in screening}
    assert found.pop("w.safetensors") == "TimeLimitError" and set(found.values()) == {None}


def test_a_network_that_is_never_built_costs_one_thread_and_holds_up_nobody(world, nets):
    arch = f"{nets / 'nets.py'}:built"
    endless = [Entry(weights(world, nets / f"{i}.safetensors", float(i)), arch) for i in range(5)]
    some = [world.suspects[0], *endless, *world.suspects[1:8]]  # those need networks of other architectures
    start = time.monotonic()
    with uapfast.screen(world.references["first"], some, workers=2, timeout=LIMIT) as screening:
        rows = {row.name: row for row in screening}
    assert time.monotonic() - start < 20
    for suspect in endless:
        assert rows[suspect.name].error_class == "TimeLimitError"
        assert "must be built within" in str(rows[suspect.name].error_message)
    assert all(rows[s.name].decision != "invalid" for s in world.suspects[:8])
    assert len(abandoned_threads()) == 1


def test_the_same_tensors_are_not_waited_for_twice(world, nets):
    arch = f"{nets / 'nets.py'}:answers"
    path = weights(world, nets / "a.safetensors", 8.0)
    copies = []
    for i in range(12):
        copies.append(Entry(str(nets / f"copy-{i}.safetensors"), arch))
        (nets / f"copy-{i}.safetensors").write_bytes(Path(path).read_bytes())
    with uapfast.screen(world.references["first"], copies, workers=2, timeout=LIMIT) as screening:
        rows = list(screening)
    assert {row.error_class for row in rows} == {"TimeLimitError"} and len(rows) == 12
    assert len(abandoned_threads()) == 1


def test_too_many_end_the_run_and_the_next_one_goes_on_behind_them(world, nets, monkeypatch):
    monkeypatch.setattr(local, "LOST", 2)
    monkeypatch.setattr(local, "GRACE", 0.3)
    some, out = mixed(world, nets, 5, slow=3), nets / "t.parquet"
    with pytest.raises(TimeLimitError, match="suspects must be asked within 0.6 s.*got 2 that still run"):
        uapfast.screen(world.references, some, out=out, workers=1, timeout=LIMIT).finish()
    assert not out.exists()
    summary = uapfast.screen(world.references, some, out=out, workers=1, timeout=LIMIT).finish()
    assert summary.errors == {"TimeLimitError": 6}


def test_a_later_run_with_more_time_asks_again_and_one_with_less_does_not(world, nets):
    some, out = mixed(world, nets, 2, slow=1), nets / "t.parquet"
    first = uapfast.screen(world.references, some, out=out, timeout=LIMIT).finish()
    assert first.errors == {"TimeLimitError": 2}
    (nets / "release").touch()
    again = uapfast.screen(world.references, some, out=out, timeout=LIMIT / 2).finish()
    assert again.errors == {"TimeLimitError": 2}
    more = uapfast.screen(world.references, some, out=out, timeout=60).finish()
    assert not more.errors and more.rows == first.rows


def test_stamps_say_for_which_time_limit_they_hold():
    assert holds("1:2:3", "1:2:3", math.inf) and not holds("1:2:3", "1:2:4", 1.0)
    found = late("1:2:3", 0.1 + 0.2)
    assert holds(found, "1:2:3", 0.1 + 0.2) and holds(found, "1:2:3", 0.01)
    assert not holds(found, "1:2:3", 0.31) and not holds(found, "1:2:4", 0.01)
    assert holds(late("-", math.inf), "-", math.inf)


def test_breaking_off_does_not_wait_for_one_that_never_ends(world, nets, monkeypatch):
    monkeypatch.setattr(local, "GRACE", 0.3)
    monkeypatch.setattr(run, "COMMIT_SECONDS", 0.0)  # rows come one by one
    some = [world.suspects[0], *mixed(world, nets, 1, slow=1)]
    screening = uapfast.screen(world.references, some, workers=1, timeout=math.inf)
    start = time.monotonic()
    with screening:
        next(iter(screening))
    assert time.monotonic() - start < 20


def test_bad_limits_are_named(world):
    for bad in (0, -1.0, math.nan, True, "3"):
        with pytest.raises(InputError, match="timeout must be seconds above 0"):
            uapfast.screen(world.references, world.suspects, timeout=bad)


@pytest.mark.parametrize("factory", ["answers", "spins"])
def test_the_command_ends_although_a_thread_does_not(world, nets, factory):
    weights(world, nets / "models.safetensors", 8.0)
    out = nets / "t.parquet"
    command = [sys.executable, "-m", "tests.api.run_cli", "screen", str(world.folder / "first.uapref")]
    command += ["--dir", str(nets), "--arch", f"{nets / 'nets.py'}:{factory}", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--timeout", "1"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 4, done.stderr
    assert "TimeLimitError: 1" in done.stdout and out.exists() and "Traceback" not in done.stderr


# -- memory -----------------------------------------------------------------------------------------------


def test_a_network_that_is_too_large_is_refused_before_it_is_built(world):
    path = world.suspects[0].path
    huge = Entry(path, "uapfast:mlp-small?size=4096&channels=4096", "huge")  # 32 TiB
    with uapfast.screen(world.references["first"], [huge, world.suspects[0]]) as screening:
        found = {row.name: row for row in screening}
    assert found["huge"].error_class == "ModelError" and found["victim-1"].error_class is None
    assert "a network of at most 2147483648 bytes" in str(found["huge"].error_message)


def test_a_file_of_ones_own_is_measured_once_it_is_built(world, tmp_path, monkeypatch):
    from uapfast.suspects.networks import inplace

    monkeypatch.setattr(inplace, "MOST_BYTES", 1000)
    (tmp_path / "net.py").write_text("from uapfast.models.nets import mlp_small\nnet = mlp_small\n")
    suspect = Entry(world.suspects[0].path, f"{tmp_path / 'net.py'}:net")
    with uapfast.screen(world.references["first"], [suspect]) as screening:
        (row,) = screening
    assert row.error_class == "ModelError" and "at most 1000 bytes" in str(row.error_message)


def test_large_weights_wait_for_memory_and_give_it_back(tmp_path):
    watch = Watch()
    budget, order = MemoryBudget(watch, buffers=2, most=100), []
    budget.reserve(1, 90)
    held = threading.Thread(target=lambda: (watch.begin(), budget.reserve(2, 20), order.append("in")))
    held.start()
    until = time.monotonic() + 10
    while watch.since(held) != math.inf and time.monotonic() < until:
        time.sleep(0.01)
    assert not order and watch.since(held) == math.inf  # waiting does not count
    budget.release(1)
    held.join(10)
    assert order == ["in"] and watch.since(held) < math.inf
    budget.release(2)
    budget.reserve(3, 1000)  # whoever is alone in it gets what it needs
    save_file({"w": torch.zeros(1000)}, tmp_path / "w.safetensors")
    buffer = HostBuffer(budget=MemoryBudget(watch, buffers=4, most=8000))
    net = torch.nn.Module()
    net.w = torch.nn.Parameter(torch.zeros(1000))
    shapes = Shapes(wanted(net))
    for _ in range(2):
        read_checkpoint(Entry(str(tmp_path / "w.safetensors"), MLP), buffer, lambda _: shapes)
        assert buffer.size >= 4000
        buffer.leave()
        assert buffer.size == 0  # more than its share, 2000 bytes


def test_skeletons_of_a_thread_that_was_given_up_are_not_lent_again(world):
    skeletons, inside, ended = Skeletons(), threading.Event(), threading.Event()

    def borrow() -> None:
        with skeletons.borrow(world.suspects[0]):
            inside.set()
            ended.wait(20)

    thread = WorkerThread(borrow, "borrower")
    thread.start()
    assert inside.wait(20) and skeletons.building(thread) is None
    thread.abandoned = True
    skeletons.abandon(thread)
    ended.set()
    thread.join(20)
    assert not skeletons._idle
    with skeletons.borrow(world.suspects[0]):
        pass
    assert len(skeletons._idle) == 1


def test_a_read_that_ends_after_its_worker_was_abandoned_changes_nothing(world, monkeypatch):
    panel = Panel.of(world.references, Settings(1e-3, workers=1, timeout=LIMIT))
    inside, release = threading.Event(), threading.Event()
    loader = loader_for(panel.settings)
    real = loader.read

    def slow(*given):
        inside.set()
        release.wait(20)
        return real(*given)

    monkeypatch.setattr(loader, "read", slow)
    suspect = world.suspects[0]
    means = worker.WorkerSetup.of(panel, loader)
    one = worker.Worker(means)
    one.take(Request((Job(1, suspect, suspect.stamp()), Job(2, suspect, suspect.stamp()))))
    assert inside.wait(20)
    (thread,) = one.abandon()
    release.set()
    for each in one.threads:
        each.join(20)
        assert not each.is_alive()
    assert thread.abandoned and not one.has_news and not one.reply().updates


def test_a_network_that_was_never_built_is_not_tried_by_others(world, nets):
    skeletons, entry = Skeletons(), Entry(world.suspects[0].path, f"{nets / 'nets.py'}:built")
    thread = WorkerThread(lambda: skeletons.shapes(entry), "builder")
    thread.start()
    until = time.monotonic() + 20
    while not (nets / "built").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert skeletons.building(thread) == entry.network
    thread.abandoned = True
    skeletons.abandon(thread)
    with pytest.raises(TimeLimitError, match="nets.py:built must be built in time, got no result"):
        skeletons.shapes(entry)
    assert skeletons.shapes(world.suspects[1])
