"""What torch.save writes comes back bit for bit, in both of its formats; anything else is refused by name."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import os
import pickle
import threading
import types
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.security.forge import ONE, archive, integer, legacy, numbers, tensor, text
from tests.security.reading import FORMATS, check, put
from uapfast.errors import (
    CorruptFileError,
    TooLargeError,
    UnsupportedFileError,
)
from uapfast.models.checkpoint import read_weights
from uapfast.models.model import tensors_sha256
from uapfast.safeload import Limits, open_checkpoint
from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.ziparchive import CHUNK


@pytest.mark.parametrize("new", FORMATS)
def test_views_types_and_containers(tmp_path: Path, new: bool) -> None:
    base = torch.arange(2 * 3 * 4 * 5.0)
    right = {
        "whole": base,
        "view": base[7:13],
        "transposed": base.view(24, 5).t(),
        "channels last": base.view(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "steps": base[::3],
        "expanded": torch.tensor([1.0, 2.0]).view(1, 2, 1).expand(3, 2, 4),
        "one for all": torch.tensor(3.0).expand(4, 5),
        "diagonal": base[:100].view(10, 10).diagonal(),
        "windows": base.unfold(0, 4, 2),
        "scalar": torch.tensor(-7),
        "none": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.randn(3, 2)),
        "ünïcode.名": torch.ones(1),
    }
    for name, dtype in DTYPES.items():
        if new or dtype.torch not in {"uint16", "uint32", "uint64"}:
            made = torch.randint(0, 2 if name == "BOOL" else 100, (5, 3)).to(getattr(torch, dtype.torch))
            right[f"of.{name}"] = made.t()
    torch.save(right, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    check(tmp_path / "a.pt", right)
    with open_checkpoint(tmp_path / "a.pt") as found:
        assert found.kind == ("zip" if new else "legacy pickle")
        assert found.tier.startswith("worker+rlimits")
    for protocol in (2, 3, 4, 5):
        torch.save(right, tmp_path / "b.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
        check(tmp_path / "b.pt", right)


@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("wrap", ["plain", "ordered", "nested", "training", "deeper"])
def test_a_state_dict_is_found(tmp_path: Path, new: bool, wrap: str) -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    optimiser = torch.optim.Adam(module.parameters())
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    right = module.state_dict()
    content: Any = {
        "plain": dict(right),
        "ordered": right,
        "nested": {"state_dict": right, "epoch": 3, "best": 0.5, "name": "x", "none": None, "on": True},
        "training": {
            "model": right,
            "optimizer": optimiser.state_dict(),
            "size": torch.Size([2]),
            "at": [1, (2,)],
        },
        "deeper": {"a": {"b": {"net": right}}, "device": torch.device("cpu"), "type": torch.float32},
    }[wrap]
    torch.save(content, tmp_path / "w.bin", _use_new_zipfile_serialization=new)
    check(tmp_path / "w.bin", right)
    with open_checkpoint(tmp_path / "w.bin") as found:
        assert found.sha256() == tensors_sha256(module)


def beside() -> dict[str, Any]:
    """What honest checkpoints keep beside their tensors."""
    step = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    return {
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(step, [1, 3]).state_dict(),
        "sets": [{1, 2}, frozenset({3}), {(1, 2)}, set()],
        "bytes": [b"abc", b"", bytearray(b"abc")],
        "numbers": [
            1j,
            2**100,
            float("nan"),
            range(3),
            slice(1, 2),
            decimal.Decimal("0.5"),
            fractions.Fraction(1),
        ],
        "containers": [
            collections.defaultdict(list, {"a": [1]}),
            collections.deque([1]),
            collections.Counter("ab"),
        ],
        "arguments": argparse.Namespace(a=1, path=Path("/x")),
        "namespace": types.SimpleNamespace(a=1),
        "times": [datetime.datetime.now(datetime.UTC), datetime.date.today(), uuid.uuid4()],
        "numpy": [np.float64(3), np.ones((2, 3)), np.bool_(1), np.str_("x"), np.dtype("f4")],
        "random": [np.random.get_state(), np.random.RandomState(0), torch.get_rng_state()],
        "torch": [
            torch.strided,
            torch.qint8,
            torch.per_tensor_affine,
            torch.device("cuda:1"),
            torch.Size([1]),
        ],
        "keys": {(1, "a"): 1, 2: 3, b"x": 4, None: 5},
        "others": [
            torch.eye(2).to_sparse(),
            torch.zeros(2, dtype=torch.complex128),
            torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
            torch.zeros(2, device="meta"),
        ],
        "values": [..., None, int, dict],
    }


BESIDE = beside()


@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("protocol", [1, 2, 4, 5])
def test_plain_data_beside_the_tensors(tmp_path: Path, new: bool, protocol: int) -> None:
    right = {"a": torch.randn(3), "naïve.名": torch.ones(2)}
    settings = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
    torch.save({**BESIDE, "state_dict": right}, tmp_path / "w.pt", **settings)
    check(tmp_path / "w.pt", right)


@pytest.mark.parametrize("kind", BESIDE)
def test_each_kind_of_plain_data_by_itself(tmp_path: Path, kind: str) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "x": BESIDE[kind]}, tmp_path / "w.pt")
    check(tmp_path / "w.pt", {"a": torch.ones(2)})


@pytest.mark.parametrize("name", sorted(n for n in dir(torch) if isinstance(getattr(torch, n), torch.dtype)))
def test_every_type_of_torch_is_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, name)
    torch.save({"state_dict": {"a": torch.ones(2)}, "type": dtype}, tmp_path / "v.pt")
    check(tmp_path / "v.pt", {"a": torch.ones(2)})
    try:
        made = torch.zeros(2).to(dtype) if not name.startswith("q") else torch.empty(0, dtype=dtype)
        torch.save({"a": made}, tmp_path / "w.pt")
    except (RuntimeError, NotImplementedError, KeyError, TypeError):
        return  # torch makes or writes no such tensors
    if str(dtype).removeprefix("torch.") in {d.torch for d in DTYPES.values()}:
        check(tmp_path / "w.pt", {"a": made})
        return
    with pytest.raises(UnsupportedFileError, match="tensors of type|dense tensors, got .* named a"):
        open_checkpoint(tmp_path / "w.pt")


def test_tensors_with_attributes_are_tensors(tmp_path: Path) -> None:
    right = {"a": nn.Parameter(torch.ones(2)), "b": torch.ones(3), "c": nn.Buffer(torch.zeros(2))}
    right["a"].kept, right["b"].note = 1, "x"  # type: ignore[attr-defined]
    torch.save(right, tmp_path / "w.pt")
    check(tmp_path / "w.pt", right)


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        ({"state_dict": 1, "state_dict_ema": 2}, "state_dict"),
        ({"ema": 2, "model": 1, "head": 3}, "model"),
        ({"model": 2, "state_dict": 1}, "state_dict"),
        ({"model": 1, "ema": {"state_dict": 2}}, "model"),
        ({"optimizer": {"state_dict": 2}, "model": 1}, "model"),
    ],
)
def test_of_several_maps_the_model_is_taken_and_told(tmp_path: Path, content: Any, taken: str) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return {"a": torch.full((2,), float(value))}

    torch.save(filled(content), tmp_path / "w.pt")
    check(tmp_path / "w.pt", {"a": torch.ones(2)})
    (said,) = read_weights(tmp_path / "w.pt").notes
    assert (
        f"under '{taken}' was taken, not what lies under" in said
        and read_weights(tmp_path / "w.pt").left_out == {}
    )
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 1}, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").notes == ()


@pytest.mark.parametrize("new", FORMATS)
def test_protocol_0_is_refused_by_name(tmp_path: Path, new: bool) -> None:
    """torch writes no references to storages there that anybody, itself included, can read."""
    torch.save({"ä": torch.ones(2)}, tmp_path / "w.pt", pickle_protocol=0, _use_new_zipfile_serialization=new)
    with pytest.raises(UnsupportedFileError, match="a pickle of protocol 2 .*PERSID"):
        open_checkpoint(tmp_path / "w.pt")


def test_text_of_old_protocols(tmp_path: Path) -> None:
    script = b"}(V\\u00fc\\u540d\n" + tensor([4], [1]) + b"S'it\\'s'\n" + tensor([4], [1]) + b"u."
    check(put(tmp_path, archive(script)), {"ü名": torch.zeros(4), "it's": torch.zeros(4)})
    with pytest.raises(CorruptFileError, match="without its quotes"):
        open_checkpoint(put(tmp_path, archive(b"Sopen\n.")))


def test_a_checksum_that_was_not_computed(tmp_path: Path) -> None:
    right = {"a": torch.randn(300)}
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(right, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    check(tmp_path / "w.pt", right)


def test_tensors_larger_than_a_piece(tmp_path: Path) -> None:
    """Views anywhere in a storage that is read in pieces, strided ones among them."""
    base = torch.arange(3 * CHUNK // 4 + 5, dtype=torch.int32)
    cuts = {
        "whole": base,
        "head": base[:7],
        "across": base[CHUNK // 4 - 3 : CHUNK // 4 + 3],
        "tail": base[-9:],
    }
    cuts["most"] = base[5:-5]
    for new in (True, False):
        torch.save(cuts, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        check(tmp_path / "w.pt", cuts)
    torch.save({**cuts, "steps": base[::3]}, tmp_path / "w.pt")
    check(tmp_path / "w.pt", {**cuts, "steps": base[::3]})
    limits = Limits(memory_bytes=96 << 20)
    torch.save({"a": torch.zeros(40 << 20)}, tmp_path / "w.pt")
    with open_checkpoint(tmp_path / "w.pt", limits) as found:
        assert found.tensors["a"].nbytes == 160 << 20
    torch.save({"a": torch.zeros(2, 20 << 20).t()}, tmp_path / "w.pt")
    with pytest.raises(TooLargeError, match="100663296 bytes of memory, got more .*save it contiguous"):
        open_checkpoint(tmp_path / "w.pt", limits)


def test_an_archive_that_was_packed_again(tmp_path: Path) -> None:
    right = {"a": torch.randn(300), "b": torch.zeros(5, dtype=torch.int64)}
    torch.save(right, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    check(tmp_path / "b.pt", right)


def test_one_process_a_file(tmp_path: Path) -> None:
    """Files read at once, and many in turn, by a few workers; no descriptor is lost."""
    for i in range(8):
        torch.save({"a": torch.full((1000,), float(i))}, tmp_path / f"{i}.pt")
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(4):
            if read_weights(tmp_path / f"{i}.pt")["a"][-1] != i:
                wrong.append(i)

    work(0)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = len(os.listdir("/proc/self/fd"))
    for i in range(8):
        work(i)
    assert not wrong and len(os.listdir("/proc/self/fd")) == before


def test_a_fork_of_this_process_starts_its_own_worker(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pt")
    read_weights(tmp_path / "w.pt")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with open_checkpoint(tmp_path / "w.pt") as found:
                code = 0 if found.read("a").tolist() == [1, 1, 1] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    check(tmp_path / "w.pt", {"a": torch.ones(3)})


def test_the_forge_makes_good_files_too(tmp_path: Path) -> None:
    """Otherwise every refusal above might be for another reason."""
    for blob in (archive(), legacy(), archive(method=zipfile.ZIP_DEFLATED)):
        check(put(tmp_path, blob), {"a": torch.zeros(4)})
        assert torch.load(tmp_path / "w.pt", weights_only=True)["a"].shape == (4,)


def test_laughing_lists_and_circles_cost_nothing(tmp_path: Path) -> None:
    """10^40 nodes to who walks them; here every container is met once."""
    laugh = b"]q\1" + (b"0](" + b"h\1" * 10 + b"eq\1") * 40
    net = text("state_dict") + ONE[2:-1] + b"s"
    check(put(tmp_path, archive(b"\x80\x02}" + net + text("x") + laugh + b"s.")), {"a": torch.zeros(4)})
    circle = b"\x80\x02}q\0" + text("self") + b"h\0s" + net + b"."
    check(put(tmp_path, archive(circle)), {"a": torch.zeros(4)})
    laugh = b"}q\1" + (b"0}(" + b"".join(text(c) + b"h\1" for c in "abcdefghij") + b"uq\1") * 40
    check(put(tmp_path, archive(b"\x80\x02}" + net + text("x") + laugh + b"s.")), {"a": torch.zeros(4)})


def test_aliases_count_as_often_as_they_are_copied(tmp_path: Path) -> None:
    script = b"\x80\x02}(" + text("a") + tensor([4], [1]) + b"q\0" + b"".join(
        text(f"n{i}") + b"h\0" for i in range(2000)) + b"u."  # fmt: skip
    path = put(tmp_path, archive(script))
    with open_checkpoint(path, Limits(tensor_bytes=16 * 2001)) as found:
        assert len(found.tensors) == 2001
    with pytest.raises(TooLargeError, match="share memory"):
        open_checkpoint(path, Limits(tensor_bytes=16 * 2001 - 1))
    with pytest.raises(TooLargeError, match="at most 2000 tensors"):
        open_checkpoint(path, Limits(tensors=2000))


def test_helpers_encode_what_they_say() -> None:
    for value in (0, 1, 127, 128, 255, 2**31, 2**62, -1, -128, -129, -(2**40)):
        assert pickle.loads(b"\x80\x02" + integer(value) + b".") == value
    assert pickle.loads(b"\x80\x02" + numbers([1, -2, 2**40]) + b".") == (1, -2, 2**40)
    assert pickle.loads(b"\x80\x02" + text("ü") + b".") == "ü"
