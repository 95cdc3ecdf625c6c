"""What is no state dict is refused by name: foreign objects, calls, other formats, pickles that lie."""

from __future__ import annotations

import io
import os
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.security.forge import ONE, archive, legacy, state, tensor, text
from tests.security.reading import FORMATS, check, put
from uapfast.errors import (
    CorruptFileError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedFileError,
    WeightsFileError,
)
from uapfast.safeload import open_checkpoint


class Own:
    pass


class Mine(torch.Tensor):
    pass


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


REFUSED: dict[str, tuple[type[WeightsFileError], str, Any]] = {
    "a program": (UnsafeFileError, "names posix.system", {"a": Calls(os.system, "true")}),
    "eval": (UnsafeFileError, r"names (builtins|__builtin__).eval", Calls(eval, "1")),
    "module": (
        UnsafeFileError,
        r"a pickled module that names torch\.nn\.modules\.linear\.Linear",
        nn.Linear(2, 2),
    ),
    "an object of foreign code": (
        UnsafeFileError,
        r"an object of foreign code that names tests\.security\.test_pickle_refused\.Own",
        {"a": torch.ones(1), "o": Own()},
    ),
    "an object of foreign code alone": (
        UnsafeFileError,
        r"an object of foreign code that names tests\.security\.test_pickle_refused\.Own",
        Own(),
    ),
    "quantised modules": (
        UnsupportedFileError,
        r"the state of torch's quantised modules \(0\._packed_params",
        lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2))).state_dict(),
    ),
    "a call of foreign code": (
        UnsafeFileError,
        r"a call of tests\.security\.forge\.archive",
        {"s": {"a": torch.ones(1)}, "o": Calls(archive, b"x")},
    ),
    "a function": (UnsafeFileError, "a program that names", {"s": {"a": torch.ones(1)}, "o": len}),
    "a subclass": (UnsupportedFileError, "a tensor subclass, .*Mine", {"a": torch.ones(1).as_subclass(Mine)}),
    "numpy": (UnsupportedFileError, "b, a number of numpy, among", {"a": torch.ones(1), "b": np.float32(3)}),
    "sparse": (UnsupportedFileError, "sparse tensor .* named a", {"a": torch.eye(3).to_sparse()}),
    "quantised": (
        UnsupportedFileError,
        "a quantised tensor .* named a",
        {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
    ),
    "complex": (
        UnsupportedFileError,
        "a complex tensor named b",
        {"a": torch.ones(1), "b": torch.zeros(2, dtype=torch.complex64)},
    ),
    "a sparse tensor alone": (UnsupportedFileError, "a sparse tensor .* alone", torch.eye(3).to_sparse()),
    "meta": (UnsupportedFileError, "meta", {"a": torch.zeros(2, device="meta")}),
    "nothing": (UnsupportedFileError, "got a NoneType", None),
    "a tensor": (UnsupportedFileError, "a tensor alone", torch.ones(2)),
    "a list": (UnsupportedFileError, "got a list", [torch.ones(2)]),
    "mixed": (
        UnsupportedFileError,
        "a map of tensors with epoch among them",
        {"a": torch.ones(2), "epoch": 3},
    ),
    "numbered": (UnsupportedFileError, "with 0 among them", {0: torch.ones(2), "a": torch.ones(1)}),
    "two": (
        UnsupportedFileError,
        "2 of them: ema, teacher",
        {"teacher": {"a": torch.ones(1)}, "ema": {"a": torch.ones(2)}},
    ),
    "two of one rank": (
        UnsupportedFileError,
        "2 of them: d.state_dict, g.state_dict",
        {k: {"state_dict": {"a": torch.ones(1)}} for k in "gd"},
    ),
    "tuple as a key": (UnsupportedFileError, "got a dict without", {(1, 2): torch.ones(1)}),
    "tuple in a tuple as a key": (UnsupportedFileError, "got a tuple", {(1, (2,)): torch.ones(1)}),
    "no name to show": (CorruptFileError, "printable", {"a\nb": torch.ones(1)}),
    "dead name": (UnsupportedFileError, "__metadata__", {"__metadata__": torch.ones(1)}),
}


@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_foreign_classes_beside_the_tensors_are_never_made(
    tmp_path: Path, new: bool, protocol: int
) -> None:
    """Their parts, containers and keys of tensors among them, are dropped; what calls is refused."""
    made, weight = Own(), nn.Parameter(torch.ones(1))
    made.inner, made.kind, made.tensor = [Own(), {"x": 3}], Own, torch.ones(2)
    optimiser = torch.optim.SGD([weight], 0.1, momentum=0.9)
    weight.sum().backward()
    optimiser.step()
    content = {"s": {"a": torch.ones(1)}, "o": made, "optim": optimiser, "best": torch.tensor(3.0)}
    torch.save(content, tmp_path / "w.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    check(tmp_path / "w.pt", {"a": torch.ones(1)})
    content["call"] = Calls(archive)
    torch.save(content, tmp_path / "w.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    with pytest.raises(UnsafeFileError, match=r"a call of tests\.security\.forge\.archive"):
        open_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("new", FORMATS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_state_dict(tmp_path: Path, case: str, new: bool) -> None:
    error, said, content = REFUSED[case]
    content = content() if isinstance(content, types.FunctionType) else content
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(error, match=said) as caught:
        open_checkpoint(tmp_path / "w.pt")
    shown = str(caught.value)
    assert type(caught.value) is error and "w.pt" in shown and shown.isprintable() and len(shown) < 800


def test_other_formats_by_name(tmp_path: Path) -> None:
    zipped = io.BytesIO()
    np.savez(zipped, a=np.array([None]))
    keras = archive(files={}).replace(b"archive/data.pkl", b"model.weights.h5")
    exported = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), exported)
    script = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), script)
    cases: dict[str, tuple[bytes, str]] = {
        "m.pt": (script.getvalue(), "a TorchScript program"),
        "m.pt2": (exported.getvalue(), "an exported program"),
        "m.npz": (zipped.getvalue(), "objects in array a"),
        "m.json": (b'{"weight_map": {"a": "b.bin"}}', r"an index of shards is named \*\.index\.json"),
        "m.keras": (keras, "a Keras model"),
        "m.h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "Keras .h5"),
        "m.npy": (b"\x93NUMPY\1\0" + b"\0" * 100, "NumPy .npy"),
        "m.gguf": (b"GGUF\3\0\0\0" + b"\0" * 100, "GGUF"),
        "m.onnx": (b"\x08\x08\x12\x07pytorch" + b"\0" * 100, "an ONNX model"),
        "saved_model.pb": (b"\x08\x01\x12" + b"\0" * 100, "TensorFlow SavedModel"),
        "m.tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 100, "TensorFlow Lite"),
        "x.index": (b"\0" * 90 + bytes.fromhex("57fb808b247547db"), "the index of a TensorFlow checkpoint"),
        "m.joblib": (b"\x78\x9c" + b"\1" * 50, "joblib"),
        "m.pkl": (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
        "m.bin": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "m.html": (b"<!DOCTYPE html>", "an HTML page"),
        "m.tar": (b"\0" * 257 + b"ustar" + b"\0" * 300, "tar archive"),
        "m.gz": (b"\x1f\x8b" + b"\0" * 30, "gzip"),
        "m.txt": (b"hello, this is text", "begins with"),
    }
    for name, (blob, said) in cases.items():
        with pytest.raises(WeightsFileError, match=said) as caught:
            open_checkpoint(put(tmp_path, blob, name))
        if name in MADE_ONNX:
            assert MADE_ONNX[name] in str(caught.value)


MADE_ONNX = {
    "m.pt": "torch.onnx.export(torch.jit.load(FILE)",
    "m.pt2": "torch.onnx.export(torch.export.load(FILE)",
    "m.keras": "keras.models.load_model(FILE).export",
    "m.h5": "keras.models.load_model(FILE).export",
    "saved_model.pb": "tf2onnx.convert --saved-model FOLDER",
    "m.tflite": "tf2onnx.convert --tflite FILE",
    "m.onnx": "uapfast.suspects.onnx.open_onnx",
}


BAD_PICKLES: dict[str, tuple[type[WeightsFileError], str, bytes]] = {
    "4 TiB by stride 0": (TooLargeError, "shape", state(("a", tensor([2**20, 2**20], [0, 0])))),
    "beyond its storage": (
        CorruptFileError,
        "needs 20 bytes of storage 0 of 16",
        state(("a", tensor([5], [1]))),
    ),
    "offset beyond": (CorruptFileError, "needs 20 bytes", state(("a", tensor([1], [1], offset=4)))),
    "stride beyond": (CorruptFileError, "needs 28 bytes", state(("a", tensor([4], [2])))),
    "negative shape": (CorruptFileError, "not sizes", state(("a", tensor([-4], [1])))),
    "negative stride": (CorruptFileError, "negative strides", state(("a", tensor([4], [-1], offset=3)))),
    "negative offset": (CorruptFileError, "not sizes", state(("a", tensor([4], [1], offset=-1)))),
    "more strides": (CorruptFileError, "not sizes", state(("a", tensor([4], [1, 1])))),
    "huge numbers": (TooLargeError, "shape", state(("a", tensor([2**61], [2**61])))),
    "beyond 64 bits": (CorruptFileError, "not sizes", state(("a", tensor([2**80], [1])))),
    "65 dimensions": (TooLargeError, "dimensions", state(("a", tensor([1] * 65, [1] * 65)))),
    "storage of another size": (
        CorruptFileError,
        "16 bytes in the archive",
        state(("a", tensor([4], [1], numel=5))),
    ),
    "no such storage": (
        CorruptFileError,
        "none in the archive",
        state(("a", tensor([4], [1], key="../../x"))),
    ),
    "storage of two types": (
        CorruptFileError,
        "two sizes or types",
        state(("a", tensor([4], [1])), ("b", tensor([4], [1], storage="IntStorage"))),
    ),
    "no storage": (CorruptFileError, "other form|storage", b"(" + text("storage") + b"NNNNtQ."),
    "quantised": (
        UnsupportedFileError,
        "quantised",
        b"}" + text("a") + b"ctorch._utils\n_rebuild_qtensor\n)Rs.",
    ),
    "NEWOBJ of a tensor's maker": (
        UnsafeFileError,
        "NEWOBJ of torch._utils",
        b"ctorch._utils\n_rebuild_tensor_v2\n)\x81.",
    ),
    "an object of no plain class": (
        UnsafeFileError,
        "call of copyreg._reconstructor",
        b"ccopyreg\n_reconstructor\nctorch\nSize\ncbuiltins\nobject\nN\x87R.",
    ),
    "bytes by another code": (
        UnsafeFileError,
        "call of _codecs.encode",
        b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R.",
    ),
    "a factory of text": (
        UnsafeFileError,
        "call of collections.defaultdict",
        b"ccollections\ndefaultdict\n" + text("os.system") + b"\x85R.",
    ),
    "a reference as text": (UnsupportedFileError, "protocol 0", b"Pstorage\n."),
    "call of a storage type": (UnsafeFileError, r"call of torch\.FloatStorage", b"ctorch\nFloatStorage\n)R."),
    "call of text": (UnsafeFileError, "call of a str", text("os.system") + b")R."),
    "BUILD on a tensor": (UnsafeFileError, "BUILD on Tensor", tensor([4], [1]) + b"}b."),
    "INST": (UnsafeFileError, r"opcode INST of os\.system", b"(" + text("x") + b"ios\nsystem\n."),
    "OBJ": (UnsafeFileError, "opcode OBJ", b"(" + text("x") + b"o."),
    "NEWOBJ": (UnsafeFileError, "opcode NEWOBJ", b"ctorch\nSize\n)\x81."),
    "EXT1": (UnsafeFileError, "opcode EXT1", b"\x82\1."),
    "STACK_GLOBAL": (
        UnsafeFileError,
        r"os\.system",
        text("os") + text("system") + b"\x93" + text("x") + b"\x85R.",
    ),
    "global that climbs": (
        UnsafeFileError,
        r"torch\._utils\.os\.system",
        b"\x80\x04" + text("torch._utils") + text("os.system") + b"\x93.",
    ),
    "unknown opcode": (CorruptFileError, "opcode 0xff", b"\x80\x02\xff."),
    "no STOP": (CorruptFileError, "truncated", ONE[:-1]),
    "two objects left": (CorruptFileError, "other than one object", b"NN."),
    "empty stack": (CorruptFileError, "empty stack", b"s."),
    "wrong memo": (CorruptFileError, "KeyError", b"h\7."),
    "items for a tensor": (CorruptFileError, "names and values for a Tensor", tensor([4], [1]) + b"NNs."),
    "items for text": (CorruptFileError, "items for a str", text("a") + b"Na."),
    "text beyond the end": (CorruptFileError, "truncated", b"X\xff\xff\xff\xffabc"),
    "text of 2^63": (CorruptFileError, "truncated", b"\x8d" + b"\xff" * 8 + b"abc"),
    "integer of 2^31 bytes": (TooLargeError, "integers", b"\x8b\xff\xff\xff\x7f1."),
    "a line without end": (CorruptFileError, "a line without end", b"I" + b"1" * 100_000),
    "deep groups": (TooLargeError, "levels", b"(" * 100_000 + b"."),
    "bytes after the pickle": (CorruptFileError, "bytes after the pickle", ONE + b"xx"),
    "laughing tuples as a key": (
        UnsupportedFileError,
        "got a tuple",
        b"}" + text("ha") + b"\x85" + b"q\0h\0\x86" * 60 + b"Ns.",
    ),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_bad_pickles(tmp_path: Path, case: str) -> None:
    error, said, script = BAD_PICKLES[case]
    with pytest.raises(error, match=said):
        open_checkpoint(put(tmp_path, archive(script)))


@pytest.mark.parametrize(
    ("blob", "error", "said"),
    [
        (legacy(tail=b"\4" + b"\0" * 22), CorruptFileError, "truncated"),
        (legacy(tail=b"\4" + b"\0" * 24), CorruptFileError, "1 bytes after"),
        (legacy(tail=b"\5" + b"\0" * 27), CorruptFileError, "another size"),
        (legacy(keys=("0", "0"), tail=(b"\4" + b"\0" * 23) * 2), CorruptFileError, "twice"),
        (legacy(keys=("1",)), CorruptFileError, "does not name"),
        (legacy(keys=(), tail=b""), CorruptFileError, "no bytes for storage 0"),
        (legacy(b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R."), UnsafeFileError, r"os\.system"),
    ],
)
def test_bad_legacy_files(tmp_path: Path, blob: bytes, error: type[WeightsFileError], said: str) -> None:
    with pytest.raises(error, match=said):
        open_checkpoint(put(tmp_path, blob))
