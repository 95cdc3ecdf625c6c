"""Hypothesis: what is written comes back; what is damaged is refused, or harmless."""

from __future__ import annotations

import io
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.security.forge import archive, legacy
from tests.security.reading import same
from uapfast.errors import WeightsFileError
from uapfast.models.checkpoint import read_weights
from uapfast.safeload import Limits, open_checkpoint
from uapfast.safeload.convert import flat
from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.header import parse_header
from uapfast.safeload.refusal import Refused
from uapfast.safeload.torchpickle import Storage, Tensor

LIMITS = Limits()
OLD = sorted(set(DTYPES) - {"U16", "U32", "U64"})
NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12).filter(
    lambda n: n.isprintable() and n != "__metadata__"
)
NUMBER = itertools.count()


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def tensors(draw: st.DrawFn, types: list[str]) -> torch.Tensor:
    """Any type and shape, and any view that torch has a way to make."""
    dtype = draw(st.sampled_from(types))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    high = 2 if dtype == "BOOL" else 100
    made = torch.randint(0, high, shape).to(getattr(torch, DTYPES[dtype].torch))
    for _ in range(draw(st.integers(0, 2))):
        step = draw(st.sampled_from(["transpose", "slice", "expand", "narrow"]))
        if step == "transpose" and made.dim() > 1:
            made = made.transpose(0, -1)
        elif step == "slice" and made.dim():
            made = made[:: draw(st.integers(1, 3))]
        elif step == "narrow" and made.dim() and made.shape[0] > 1:
            made = made[1:]
        elif step == "expand":
            made = made.unsqueeze(0).expand(draw(st.integers(1, 3)), *made.shape)
    return made


def states(types: list[str]) -> st.SearchStrategy[dict[str, torch.Tensor]]:
    return st.dictionaries(NAMES, tensors(types), max_size=5)


@given(states(sorted(DTYPES)), st.sampled_from([2, 4, 5]))
@settings(deadline=None, max_examples=60)
def test_torch_save_round_trip(state: dict[str, torch.Tensor], protocol: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "w.pt"
        torch.save(state, path, pickle_protocol=protocol)
        found = read_weights(path)
        theirs = torch.load(path, weights_only=True) if protocol == 2 else state  # it reads no newer one
        assert found.keys() == theirs.keys() == state.keys()
        for name in state:
            assert same(found[name], theirs[name]) and same(found[name], state[name]), name


@given(states(OLD))
@settings(deadline=None, max_examples=40)
def test_legacy_round_trip(state: dict[str, torch.Tensor]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "w.pt"
        torch.save({"state_dict": state, "n": 1}, path, _use_new_zipfile_serialization=False)
        if not state:
            with pytest.raises(WeightsFileError):
                read_weights(path)
            return
        found = read_weights(path)
        assert found.keys() == state.keys() and all(same(found[n], state[n]) for n in state)


@given(states(sorted(DTYPES)))
@settings(deadline=None, max_examples=60)
def test_safetensors_round_trip_and_one_digest(state: dict[str, torch.Tensor]) -> None:
    state = {n: t.contiguous().clone() for n, t in state.items()}
    with tempfile.TemporaryDirectory() as place:
        a, b = Path(place) / "w.safetensors", Path(place) / "w.pt"
        safetensors.torch.save_file(state, a)
        torch.save(state, b)
        found, theirs = read_weights(a), safetensors.torch.load_file(a)
        assert found.keys() == theirs.keys()
        assert all(same(found[n], theirs[n]) for n in theirs)
        with open_checkpoint(a) as one, open_checkpoint(b) as two:
            assert one.sha256() == two.sha256()


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_views_are_torchs(data: st.DataObject) -> None:
    """``flat`` against ``as_strided`` for any strides within bounds, repeats and overlaps among them."""
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [data.draw(st.integers(0, 7)) for _ in shape]
    offset = data.draw(st.integers(0, 5))
    base = torch.arange(offset + 1 + sum(max(n - 1, 0) * s for n, s in zip(shape, strides, strict=True)))
    name = data.draw(st.sampled_from(["U8", "I16", "F32", "F64"]))
    base = base.to(getattr(torch, DTYPES[name].torch))
    right = base.as_strided(shape, strides, offset).contiguous()
    view = Tensor(
        Storage("0", name, base.nbytes),
        name,
        offset,
        tuple(shape),
        tuple(strides),
        right.numel() * base.itemsize,
    )
    raw = memoryview(base.numpy().tobytes())
    if right.numel():
        assert flat(raw, view).tobytes() == right.numpy().tobytes()


def seeds() -> dict[str, bytes]:
    """One good file of each kind, as torch and safetensors write them."""
    state = {"layer.weight": torch.randn(4, 3), "layer.bias": torch.randn(4), "n": torch.tensor(3)}
    out = {"w.safetensors": safetensors.torch.save(state), "forged.pt": archive(), "forged.bin": legacy()}
    for name, new in (("zip.pt", True), ("legacy.bin", False)):
        stream = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, stream, _use_new_zipfile_serialization=new)
        out[name] = stream.getvalue()
    return out


SEEDS = seeds()


@pytest.mark.parametrize("name", SEEDS)
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_damage_is_refused_or_harmless(folder: Path, name: str, data: st.DataObject) -> None:
    blob = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        kind = data.draw(st.sampled_from(["set", "insert", "delete", "copy"]))
        if kind == "set":
            blob[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            blob[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif kind == "delete":
            del blob[at : at + data.draw(st.integers(1, 16))]
        else:
            other = data.draw(st.integers(0, len(blob) - 1))
            blob[at : at + 8] = blob[other : other + 8]
        if not blob:
            break
    path = folder / f"{next(NUMBER)}{name}"
    path.write_bytes(bytes(blob))
    try:
        with open_checkpoint(path) as found:
            total = sum(len(found.read(n).tobytes()) for n in found.tensors)
            assert total <= LIMITS.growth * max(len(blob), 32 << 20)
    except WeightsFileError as exc:
        assert str(exc).isprintable() and len(str(exc)) < 1000
        assert "does not understand" not in str(exc), "no check foresaw this form"
    finally:
        path.unlink()


@given(st.binary(max_size=200), st.integers(0, 100))
@settings(deadline=None, max_examples=300)
def test_any_header_is_parsed_or_refused(raw: bytes, size: int) -> None:
    for text in (raw, b"{" + raw, b'{"a":' + raw + b"}"):
        try:
            parse_header(text, size, LIMITS)
        except Refused as exc:
            assert exc.got.isprintable()
