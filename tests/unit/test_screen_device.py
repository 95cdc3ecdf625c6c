"""Screening with streams: what the ring, recorded forwards and events promise, in any order of running."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.lazy import LazyDevice
from uapfast.errors import ModelError, SuspectError
from uapfast.models.registry import resolve_arch
from uapfast.screening.asking.device import DeviceLoader, HostLoader, MirroredBuffer, loader_for
from uapfast.screening.asking.panel import Settings
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.listing.entry import Entry
from uapfast.streams import Host
from uapfast.suspects.networks.arriving import Arriving
from uapfast.suspects.networks.device import FORWARDS, DeviceSkeleton
from uapfast.suspects.networks.skeletons import Skeleton

MLP, RESIDUAL = (f"uapfast:{n}-small?size=8" for n in ("mlp", "resnet"))
SEEDS = range(6)


def state(seed: int, arch: str = MLP, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    found = resolve_arch(arch)().state_dict()
    return {
        k: (v + 0.1 * torch.rand_like(v)).to(dtype) if v.is_floating_point() else v for k, v in found.items()
    }


def saved(folder: Path, seed: int, arch: str = MLP, **given: Any) -> Entry:
    path = folder / f"{seed}.safetensors"
    save_file(state(seed, arch, **given), path)
    return Entry(str(path), arch)


def queries(count: int, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return list(torch.split(torch.rand(count, 1, 8, 8), 37))


def loader(device: Any) -> DeviceLoader:
    return DeviceLoader(Settings(1e-3), device)


# -- the ring -----------------------------------------------------------------------------------------


def through_the_ring(folder: Path, device: Any, count: int = 8, slots: int = 2) -> list[dict[str, Tensor]]:
    """Checkpoints of two layouts through few slots; each is used late, on a stream of its own."""
    made = loader(device)
    ring, reader = [made.buffer() for _ in range(slots)], device.stream()
    shapes = {a: Skeleton(Entry("x", a)).shapes for a in (MLP, RESIDUAL)}
    found: list[dict[str, Tensor]] = []
    for i in range(count):
        suspect = saved(folder, i, (MLP, RESIDUAL)[i // 3 % 2])
        loaded = made.read(suspect, ring[i % slots], lambda s: shapes[s.arch])
        assert isinstance(loaded.tensors, Arriving)
        reader.wait(loaded.tensors.ready)
        kept = {k: torch.full_like(t, 7) for k, t in loaded.tensors.items()}
        reader.wait(device.main().record())  # for what was just filled there
        for name, tensor in loaded.tensors.items():
            reader.do(lambda to=kept[name], of=tensor: to.copy_(of))
        if i % 5 != 4:  # some are never used, as copies of others are not
            loaded.tensors.taken = reader.record()
            found.append(kept)
    device.settle()
    return found


def expected(count: int = 8) -> list[dict[str, Tensor]]:
    return [state(i, (MLP, RESIDUAL)[i // 3 % 2]) for i in range(count) if i % 5 != 4]


def equal(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_checkpoint_arrives_whole_in_any_order(tmp_path, seed):
    assert equal(through_the_ring(tmp_path, LazyDevice(seed)), expected())


def test_without_waiting_some_would_not(tmp_path):
    bad = 0
    for seed in SEEDS:
        device = LazyDevice(seed, deaf=True)
        device.eagerness = 0.0
        bad += not equal(through_the_ring(tmp_path, device), expected())
    assert bad


def test_a_pinned_buffer_is_not_overwritten_before_it_has_left(tmp_path):
    device = LazyDevice()
    device.eagerness = 0.0
    copies = device.stream()
    buffer = MirroredBuffer(device, copies)
    shapes = Skeleton(Entry("x", MLP)).shapes
    loaded = buffer.send(read_checkpoint(saved(tmp_path, 1), buffer, lambda _: shapes))
    assert copies.done == 0
    buffer.free()
    assert copies.done == 1
    read_checkpoint(saved(tmp_path, 2), buffer, lambda _: shapes)
    assert equal([dict(loaded.tensors)], [state(1)])


def test_a_cpu_goes_the_plain_way():
    assert isinstance(loader_for(Settings(1e-3)), HostLoader)
    made = loader_for(Settings(1e-3, precision="bf16"))
    assert type(made.buffer()) is HostBuffer and made.skeleton(Entry("x", MLP)).precision == "bf16"
    assert made.readers == 1


# -- skeletons ----------------------------------------------------------------------------------------


def ask_all(skeleton: Skeleton, suspects: list[dict[str, Tensor]], counts: tuple[int, ...]) -> list[Any]:
    """As ``judge`` goes: load, ask in stages, and see whether the network stayed as it was."""
    out: list[Any] = []
    for number, tensors in enumerate(suspects):
        try:
            skeleton.load(tensors, "x")
            found = [skeleton.answer(iter(queries(c, number)), c, "x") for c in counts]
            if not skeleton.settled():
                skeleton.load(tensors, "x")
                found = [skeleton.answer(iter(queries(c, number)), c, "x") for c in counts]
            out.append(found)
        except (ModelError, SuspectError) as exc:
            out.append((type(exc), str(exc)))
    return out


def same(a: list[Any], b: list[Any]) -> bool:
    def one(x: Any, y: Any) -> bool:
        if isinstance(x, tuple) or isinstance(y, tuple):
            return bool(x == y)
        return all(torch.equal(i, j) and i.dtype == j.dtype for i, j in zip(x, y, strict=True))

    return len(a) == len(b) and all(one(x, y) for x, y in zip(a, b, strict=True))


def population() -> list[dict[str, Tensor]]:
    nan, inf = state(3), state(4)
    nan["1.weight"][5, 5] = torch.nan
    inf["3.bias"][0] = torch.inf
    large = {k: v.double() * (1e300 if k == "1.weight" else 1) for k, v in state(5).items()}
    wrong = state(6)
    wrong["1.weight"] = wrong["1.weight"][:, :-1].contiguous()
    missing = state(7)
    del missing["3.bias"]
    half = state(8, dtype=torch.float16)
    return [state(0), state(1), nan, state(2), inf, large, wrong, state(9), missing, half, state(10)]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "device", [Host(), *map(LazyDevice, SEEDS)], ids=["host", *(f"late-{seed}" for seed in SEEDS)]
)
def test_answers_and_errors_are_those_of_a_plain_skeleton(device, precision):
    suspect = Entry("x", MLP)
    want = ask_all(Skeleton(suspect, precision=precision), population(), (100, 300, 700))
    got = ask_all(DeviceSkeleton(suspect, precision, device), population(), (100, 300, 700))
    assert sum(isinstance(w, tuple) for w in want) == 5
    assert same(want, got)


def test_weights_change_under_one_graph_a_shape():
    device = LazyDevice(3)
    skeleton = DeviceSkeleton(Entry("x", RESIDUAL, mean=(0.5,), std=(0.2,)), "float32", device)
    suspects = [state(s, RESIDUAL) for s in range(5)]
    got = ask_all(skeleton, suspects, (64, 300))
    assert device.captures == 2 and device.replays >= 2 + 4 * 3
    plain = Skeleton(Entry("x", RESIDUAL, mean=(0.5,), std=(0.2,)))
    assert same(ask_all(plain, suspects, (64, 300)), got)
    zero = {k: torch.zeros_like(v) for k, v in suspects[0].items()}
    assert not bool(ask_all(skeleton, [zero], (64,))[0][0].any())  # the graph reads the weights, not a copy


def test_few_shapes_are_kept():
    skeleton = DeviceSkeleton(Entry("x", MLP), "float32", LazyDevice(1))
    counts = tuple(range(10, 10 + FORWARDS + 3))
    got = ask_all(skeleton, [state(0), state(1)], counts)
    assert len(skeleton._forwards) == FORWARDS
    assert same(ask_all(Skeleton(Entry("x", MLP)), [state(0), state(1)], counts), got)


def test_what_cannot_be_recorded_is_asked_plainly(caplog):
    device = LazyDevice(capture=False)
    with caplog.at_level(logging.WARNING):
        got = ask_all(DeviceSkeleton(Entry("x", MLP), "float32", device), population(), (100,))
    assert "screen: a forward: runs without a graph" in caplog.text
    assert same(ask_all(Skeleton(Entry("x", MLP)), population(), (100,)), got)


NETS = """
import itertools
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Counts(Base):
    '''Changes a buffer while it answers.'''
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, x):
        self.seen += 1
        return self.inner(x) + self.seen

class Writes(Base):
    '''Writes into its images.'''
    def forward(self, x):
        return self.inner(x.mul_(2).sub_(0.5))

class Lists(Base):
    def forward(self, x):
        return self.inner(x).tolist()

class Short(Base):
    def forward(self, x):
        return self.inner(x)[:-1]

class Fails(Base):
    def forward(self, x):
        if float(self.inner[1].weight.flatten()[0]) > 0.05:
            raise ValueError("too much")
        return self.inner(x)

class Alternates(Base):
    '''A graph of it would not be the network.'''
    turn = itertools.count(1)  # that it counts cannot be seen
    def forward(self, x):
        return self.inner(x) * next(self.turn)

class Reads(Base):
    def forward(self, x):
        return self.inner(x) * (2 if float(x.mean()) > 0 else 1)

class Hooked(Base):
    def _load_from_state_dict(self, state_dict, prefix, *rest):
        return super()._load_from_state_dict({k: v * 2 for k, v in state_dict.items()}, prefix, *rest)
    def forward(self, x):
        return self.inner(x)
"""


@pytest.mark.parametrize("name", ["Counts", "Writes", "Lists", "Short", "Fails", "Reads", "Hooked"])
def test_networks_that_go_their_own_way(tmp_path, name):
    (tmp_path / "net.py").write_text(NETS)
    suspect = Entry("x", f"{tmp_path / 'net.py'}:{name}")
    plain = Skeleton(suspect)
    suspects = []
    for seed in range(4):
        torch.manual_seed(seed)
        suspects.append({k: torch.rand(s) * 0.1 for k, s in plain.shapes.items()})
    want = ask_all(plain, suspects, (40, 300))
    for seed in SEEDS:
        assert same(want, ask_all(DeviceSkeleton(suspect, "float32", LazyDevice(seed)), suspects, (40, 300)))


def test_a_network_that_reads_on_the_host_is_not_even_tried(tmp_path, caplog):
    (tmp_path / "net.py").write_text(NETS)
    device = LazyDevice()
    skeleton = DeviceSkeleton(Entry("x", f"{tmp_path / 'net.py'}:Reads"), "float32", device)
    weights = {k: torch.rand(s) for k, s in skeleton.shapes.items()}
    with caplog.at_level(logging.WARNING):
        ask_all(skeleton, [weights, weights], (40,))
    assert device.captures == 0 and "runs without a graph (it calls _local_scalar_dense" in caplog.text


def test_a_forward_that_does_not_repeat_itself_gets_no_graph(tmp_path, caplog):
    (tmp_path / "net.py").write_text(NETS)
    suspect = Entry("x", f"{tmp_path / 'net.py'}:Alternates")
    skeleton = DeviceSkeleton(suspect, "float32", LazyDevice())
    weights = {k: torch.rand(s) for k, s in skeleton.shapes.items()}
    with caplog.at_level(logging.WARNING):
        ask_all(skeleton, [weights, weights], (40,))
    (forward,) = skeleton._forwards.values()
    assert forward is not None and not forward.run.recorded and "does not repeat itself" in caplog.text


def test_an_odd_module_state_does_not_leave_the_lane(tmp_path):
    """A half-loaded suspect (wrong shapes) leaves a mirror that may be used again."""
    device = LazyDevice(2)
    made = loader(device)
    buffer, skeleton = made.buffer(), made.skeleton(Entry("x", MLP))
    shapes = Skeleton(Entry("x", MLP)).shapes
    for seed in range(4):
        loaded = made.read(saved(tmp_path, seed), buffer, lambda _: shapes)
        if seed == 2:
            with pytest.raises(ModelError):
                skeleton.load({k: t for k, t in loaded.tensors.items() if k != "3.bias"}, "x")
            continue
        found = ask_all(skeleton, [loaded.tensors], (50,))[0]
        plain = ask_all(Skeleton(Entry("x", MLP)), [state(seed)], (50,))[0]
        assert same([plain], [found]) and loaded.tensors.taken is not None


def test_module_of_a_suspect_is_an_nn_module():
    assert isinstance(DeviceSkeleton(Entry("x", MLP), "float32", Host()).module, nn.Module)


def test_a_skeleton_that_is_dropped_is_gone_at_once():
    """With its graphs: a garbage collector knows nothing of a device's memory."""
    import gc
    import weakref

    skeleton = DeviceSkeleton(Entry("x", MLP), "float32", LazyDevice())
    ask_all(skeleton, [state(0), state(1)], (64,))
    watched = [
        weakref.ref(skeleton),
        weakref.ref(skeleton.module),
        *map(weakref.ref, skeleton._forwards.values()),
    ]
    gc.disable()
    try:
        del skeleton
        assert all(w() is None for w in watched)
    finally:
        gc.enable()
