"""Weights are loaded into a network that stays: no trace of the last suspect in the answers of the next."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import uapfast
from tests.api.screen_world import CNN, MLP, RESIDUAL
from uapfast.errors import SuspectError
from uapfast.models.batches import batch_size, batches
from uapfast.models.model import tensors_sha256
from uapfast.screening.asking.reader import HostBuffer, read_checkpoint
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks.skeletons import Skeleton, Skeletons


def loaded(suspect: Entry, skeletons: Skeletons):
    return read_checkpoint(suspect, HostBuffer(), skeletons.shapes)


@pytest.mark.parametrize("arch", [MLP, CNN, RESIDUAL])
def test_zero_weights_give_zero_logits(arch, tmp_path):
    """The canary: were the copy not in the memory that answers, the old weights would answer."""
    skeleton = Skeleton(Entry("x", arch))
    assert skeleton.in_place
    x = torch.rand(5, 1, 8, 8)
    state = {k: v.clone() for k, v in skeleton.module.state_dict().items()}
    skeleton.load(state, "x")
    before = skeleton.answer([x], 5, "x")
    assert float(before.abs().max()) > 0
    skeleton.load({k: torch.zeros_like(v) for k, v in state.items()}, "x")
    assert not skeleton.answer([x], 5, "x").any()
    skeleton.load(state, "x")
    assert torch.equal(skeleton.answer([x], 5, "x"), before)


def test_huge_but_finite_weights_pass_and_every_infinity_is_seen():
    skeleton = Skeleton(Entry("x", MLP))
    state = {k: torch.full_like(v, 3e38) for k, v in skeleton.module.state_dict().items()}
    skeleton.load(state, "x")
    for value in (float("inf"), float("-inf"), float("nan")):
        broken = state | {"3.bias": torch.full((10,), value)}
        with pytest.raises(SuspectError, match="weights 3.bias must be finite"):
            skeleton.load(broken, "x")


def test_memory_of_the_weights_never_moves(world):
    skeletons = Skeletons()
    places = []
    for name in ("honest-2", "honest-5", "honest-2", "honest-5"):
        suspect = world.suspect(name)
        found = loaded(suspect, skeletons)
        with skeletons.borrow(suspect) as skeleton:
            skeleton.load(found.tensors, name)
            places.append(tuple(t.data_ptr() for t in skeleton.module.parameters()))
            for key, tensor in load_file(suspect.path).items():
                assert torch.equal(skeleton.module.state_dict()[key], tensor)
    assert len(set(places[1:])) == 1  # the first was asked on a network made as for verify


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.weight = self.a.weight
        self.register_buffer("mask", torch.ones(64), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.out = nn.Linear(64, 10).double()

    def forward(self, x):
        return self.out((self.b(self.a(x.flatten(1)).relu()) * self.mask).double())


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen += 1
        return self.out(x.flatten(1)) * self.seen


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.scale = 1.0

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        self.scale = float(state_dict[prefix + "out.bias"][0])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x):
        return self.out(x.flatten(1)) * self.scale


class Scribbler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(x.mul_(2).sub_(1).flatten(1))


@pytest.mark.parametrize("kind", [Tied, Stateful, Hooked, Scribbler])
def test_odd_networks_answer_as_they_do_alone(world, tmp_path, kind):
    names = []
    for seed in range(4):
        torch.manual_seed(seed)
        state = {k: v.contiguous().clone() for k, v in kind().state_dict().items()}
        save_file(state, tmp_path / f"{seed}.safetensors")
        names.append(tmp_path / f"{seed}.safetensors")
    factory = tmp_path / "net.py"
    factory.write_text(f"from {__name__} import {kind.__name__}\n")
    sys.modules.setdefault(__name__, sys.modules[kind.__module__])
    arch = f"{factory}:{kind.__name__}"
    reference = world.references["first"]
    with uapfast.screen(reference, names, arch=arch, early=False, workers=1) as screening:
        rows = {row.path: row for row in screening}
    for path in names:
        model = uapfast.models.checkpoint.load_model(arch, path)
        row, verdict = rows[str(path)], uapfast.verify(reference, model)
        if (
            kind is Stateful
        ):  # its answers depend on how queries are cut into batches; its state must not leak
            assert row.error_class is None
            continue
        assert (row.p_value, row.z) == (verdict.p_value, verdict.z), row


def test_a_network_that_keeps_state_leaks_none_of_it(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "s.safetensors"
    save_file(Stateful().state_dict(), path)
    (tmp_path / "net.py").write_text(f"from {__name__} import Stateful\n")
    sys.modules.setdefault(__name__, sys.modules[Stateful.__module__])
    skeleton = Skeleton(Entry(str(path), f"{tmp_path / 'net.py'}:Stateful"))
    x, answers = torch.rand(5, 1, 8, 8), []
    for _ in range(3):
        skeleton.load(load_file(path), path)
        first = skeleton.answer([x], 5, "s")
        if not skeleton.settled():
            skeleton.load(load_file(path), path)
            first = skeleton.answer([x], 5, "s")
        answers.append(first)
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[1], answers[2])


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 511, 600, 4000])
def test_batches_have_one_size_and_lose_nothing(count):
    x = torch.arange(count, dtype=torch.float32)[:, None]
    size = batch_size(count)
    found = list(batches(torch.split(x, 7), size))
    assert size <= 256 and {len(b) for b, _ in found} == {size} and len(found) == -(-count // 256)
    assert torch.equal(torch.cat([b[:rows] for b, rows in found]), x)


def test_state_hash_is_what_a_module_has(world):
    skeletons = Skeletons()
    suspect = world.suspect("honest-5")
    module = uapfast.models.checkpoint.load_model(suspect.arch, suspect.path).module
    assert module is not None and loaded(suspect, skeletons).sha256 == tensors_sha256(module)
    assert replace(suspect, name="x").network == suspect.network


@pytest.mark.parametrize("kind", [Tied, Stateful, Scribbler])
def test_all_weights_in_one_copy_are_those_of_one_by_one(tmp_path, kind):
    (tmp_path / "net.py").write_text(f"from {__name__} import {kind.__name__}\n")
    sys.modules.setdefault(__name__, sys.modules[kind.__module__])
    arch, slot, skeletons = f"{tmp_path / 'net.py'}:{kind.__name__}", HostBuffer(), Skeletons()
    for seed, dtype in enumerate((torch.float32, torch.float32, torch.float16, torch.float32)):
        torch.manual_seed(seed)
        state = {k: v.clone().contiguous() for k, v in kind().state_dict().items()}
        state = {k: v.to(dtype) if v.dtype == torch.float32 else v for k, v in state.items()}
        path = tmp_path / f"{seed}.safetensors"
        save_file(state, path)
        suspect = Entry(str(path), arch)
        found = read_checkpoint(suspect, slot, skeletons.shapes)
        assert (found.flat is None) == (dtype == torch.float16)
        module = kind()
        module.load_state_dict({k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()})
        with skeletons.borrow(suspect) as skeleton:
            assert found.fits is skeleton.shapes
            skeleton.load(found.tensors, path, found.fits, found.flat)
            for name, tensor in module.state_dict().items():
                assert torch.equal(skeleton.module.state_dict()[name], tensor), (seed, name)


def test_what_lay_between_weights_before_is_no_nan_of_the_next(world, tmp_path):
    slot, skeletons = HostBuffer(), Skeletons()
    state = load_file(world.suspect("honest-2").path)
    nan = {k: v * torch.nan if v.is_floating_point() else v for k, v in state.items()}
    save_file(nan, tmp_path / "nan.safetensors")
    for path, arch in ((tmp_path / "nan.safetensors", RESIDUAL), (Path(world.suspects[0].path), MLP)):
        found = read_checkpoint(Entry(str(path), arch), slot, skeletons.shapes)
    assert found.flat is not None and bool(torch.isfinite(found.flat).all())
