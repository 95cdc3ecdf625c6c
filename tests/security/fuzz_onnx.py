"""Mutated ONNX files, opened and asked as a suspect is: bytes, and fields of well-formed messages.

python -m tests.security.fuzz_onnx --cases 1000 --seed 1
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.security import cases
from tests.security.onnx_forge import attribute, classifier, graph, looping, model, node, number, port, tensor
from uapfast.suspects.onnx import open_onnx

TIMEOUT, MEMORY = 5, 1 << 30
SLOW = (
    4 * TIMEOUT + 20
)  # seconds: loading, a batch, their grace, and the start of a process on a busy machine
WORDS = (
    "", "x", "logits", "label", "w", "Loop", "If", "Scan", "Constant", "ConstantOfShape", "Expand", "Tile",
    "Conv", "Gemm", "Reshape", "Cast", "SequenceEmpty", "Optional", "RandomNormal", "Einsum", "Resize",
    "NonZero", "StringNormalizer", "Multinomial", "com.microsoft", "ai.onnx.ml", "ai.onnx", "EPContext",
    "[[[", "{0: 'a'}", cases.CANARY, "../../etc/passwd", "http://127.0.0.1:9/x", "a" * 3000, "\0", "\u202e",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    10,
    16,
    64,
    255,
    1000,
    65_536,
    2**31 - 1,
    2**31,
    2**40,
    2**62,
    2**63 - 1,
    -1,
    -2,
    -(2**63),
)
MOST = 5  # copies that a repeated field may get at a time; now and then a thousand


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    ).eval()  # fmt: skip


def branching() -> bytes:
    """A classifier with subgraphs and a constant."""
    one = graph(
        [node("Mul", "flat two", "then")], [], [port("then", ["n", 64])], [tensor("two", np.float32(2))]
    )
    other = graph([node("Identity", "flat", "else")], [], [port("else", ["n", 64])])
    nodes = [
        node("Flatten", "x", "flat"),
        node("Constant", "", "yes", attribute("value", tensor("", np.bool_(True)), "tensor")),
        node(
            "If",
            "yes",
            "some",
            attribute("then_branch", one, "graph"),
            attribute("else_branch", other, "graph"),
        ),
        node("MatMul", "some w", "logits"),
    ]
    weights = [tensor("w", np.ones((64, 10), np.float32))]
    return model(graph(nodes, [port("x", ["n", 1, 8, 8])], [port("logits", ["n", 10])], weights))


def seeds() -> list[bytes]:
    """Right files of several forms."""
    return [
        classifier(net(), [1, 8, 8], outputs=("logits", "label"), metadata={"names": "a,b"}),
        classifier(net(), [1, 8, 8], layout="NHWC", dtype="uint8", batch=4, outputs=("probabilities",)),
        looping(3),
        branching(),
    ]


# -- bytes -----------------------------------------------------------------------------------------
def mutated(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, put in, left out or repeated; or numbers that stand in a field's length."""
    blob = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, kind = draw.randrange(len(blob)), draw.randrange(6)
        if kind == 0:
            blob[at] = draw.randrange(256)
        elif kind == 1:
            blob[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            blob[at:at] = draw.randbytes(draw.randrange(1, 6))
        elif kind == 3:
            del blob[at : at + draw.randrange(1, 9)]
        elif kind == 4:
            blob[at:at] = blob[at : at + draw.randrange(1, 60)]
        else:
            blob[at : at + 1] = number(draw.choice((2**31, 2**32 + 1, 2**63, 2**64 - 1, 10_000)))
    return bytes(blob)


SWAPS = [
    (b"Conv", b"Gemm"),
    (b"Gemm", b"Conv"),
    (b"Relu", b"Loop"),
    (b"Flatten", b"Reshape"),
    (b"Relu", b"Tanh"),
    (b"Identity", b"Optional"),
    (b"pads", b"axis"),
    (b"transB", b"transA"),
    (b"weight0", b"weight5"),
    (b"bias5", b"bias0"),
    (b"\x08\x01\x12", b"\x08\x07\x12"),
    (b"\x08\x04", b"\x08\x05"),
    (b"GlobalAveragePool", b"ReverseSequencexx"),
    (b"\x08\x01", b"\x08\x00"),
    (b"fed", b"v0\0"[:3]),
    (b"BatchNormalization", b"LayerNormalization"),
    (b"v2", b"v4"),
    (b"v1", b"v3"),
    (b"epsilon", b"momentu"),
]


def renamed(data: bytes, draw: random.Random) -> bytes:
    """Another operator, type or size in place of what stands there: well-formed nonsense."""
    for _ in range(draw.choice((1, 1, 2))):
        old, new = draw.choice(SWAPS)
        places = [i for i in range(len(data)) if data.startswith(old, i)]
        if places:
            at = draw.choice(places)
            data = data[:at] + new + data[at + len(old) :]
    return data


# -- fields ----------------------------------------------------------------------------------------
def messages(held: Any) -> Iterator[Any]:
    """A protobuf message and all that lie in it."""
    yield held
    for kind, value in held.ListFields():
        if kind.type == kind.TYPE_MESSAGE:
            for one in value if kind.is_repeated else [value]:
                yield from messages(one)


def restructured(data: bytes, draw: random.Random) -> bytes:
    """One to three fields of the messages changed, by the ``onnx`` package: what a library could write."""
    import onnx

    whole = onnx.ModelProto.FromString(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        if draw.random() < 0.15:
            _add(whole, draw)
            continue
        held = draw.choice(list(messages(whole)))
        there = [kind for kind, _ in held.ListFields()]
        fields = there if there and draw.random() < 0.75 else list(held.DESCRIPTOR.fields)
        _change(whole, held, draw.choice(fields), draw)
    return bytes(whole.SerializeToString())


def _change(whole: Any, held: Any, kind: Any, draw: random.Random) -> None:
    """Another value for one field: left out, doubled, moved, of another place, or out of bounds."""
    if draw.random() < 0.15:
        held.ClearField(kind.name)
    elif kind.is_repeated:
        _change_list(whole, getattr(held, kind.name), kind, draw)
    elif kind.type == kind.TYPE_MESSAGE:
        alike = [m for m in messages(whole) if m.DESCRIPTOR is kind.message_type]
        if alike:
            getattr(held, kind.name).CopyFrom(_copy(draw.choice(alike)))
    else:
        setattr(held, kind.name, _value(whole, kind, draw))


def _change_list(whole: Any, values: Any, kind: Any, draw: random.Random) -> None:
    what = draw.randrange(4)
    if what == 0 and len(values):
        del values[draw.randrange(len(values))]
        return
    count = draw.choice((1, 1, 1, MOST, 1000))
    if kind.type != kind.TYPE_MESSAGE:
        if what == 1 and len(values):
            values[draw.randrange(len(values))] = _value(whole, kind, draw)
        else:
            values.extend([_value(whole, kind, draw)] * count)
        return
    alike = [m for m in messages(whole) if m.DESCRIPTOR is kind.message_type and m.ByteSize() < 10_000]
    if what == 1 and len(values) > 1:
        one, other = draw.sample(range(len(values)), 2)
        held = _copy(values[one])
        values[one].CopyFrom(_copy(values[other]))
        values[other].CopyFrom(held)
    else:
        values.extend([_copy(draw.choice(alike))] * count if alike else [])


def _copy(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _value(whole: Any, kind: Any, draw: random.Random) -> Any:
    """A value for a field of plain type, odd or of another place in the file."""
    if kind.type == kind.TYPE_STRING:
        names = [
            n for m in messages(whole) if m.DESCRIPTOR.name == "NodeProto" for n in (*m.input, *m.output)
        ]
        return draw.choice(names) if names and draw.random() < 0.5 else draw.choice(WORDS)
    if kind.type == kind.TYPE_BYTES:
        return draw.choice((b"", b"\0", b"\xff" * 8, draw.randbytes(64), draw.choice(WORDS).encode()))
    if kind.type in (kind.TYPE_FLOAT, kind.TYPE_DOUBLE):
        return draw.choice((0.0, -1.0, 1e30, -1e30, float("inf"), float("nan"), 1e-30))
    if kind.type == kind.TYPE_ENUM:
        return draw.choice([v.number for v in kind.enum_type.values])
    low, high = (-(2**31), 2**31 - 1) if kind.type == kind.TYPE_INT32 else (-(2**63), 2**63 - 1)
    if kind.type in (kind.TYPE_UINT64, kind.TYPE_UINT32):
        low = 0
    return min(max(draw.choice(NUMBERS), low), high)


def _add(whole: Any, draw: random.Random) -> None:
    """What a hostile hand would put in."""
    import onnx

    what = draw.randrange(8)
    tensors = [m for m in messages(whole) if m.DESCRIPTOR.name == "TensorProto"]
    nodes = [m for m in messages(whole) if m.DESCRIPTOR.name == "NodeProto"]
    if what == 0 and tensors:
        away = draw.choice(tensors)
        entry = away.external_data.add()
        entry.key, entry.value = (
            "location",
            draw.choice((cases.CANARY, "../x", "w.bin", "*/_ORT_MEM_ADDR_/*")),
        )
        away.data_location = draw.choice((0, 1))
        if draw.random() < 0.5:
            away.ClearField("raw_data")
    elif what == 1:
        whole.functions.add().CopyFrom(onnx.FunctionProto(name="Relu", domain=draw.choice(("", "x"))))
    elif what == 2 and nodes:
        draw.choice(nodes).domain = draw.choice(("com.microsoft", "ai.onnx.ml", "evil"))
    elif what == 3:
        whole.opset_import.add().CopyFrom(onnx.OperatorSetIdProto(domain=draw.choice(WORDS), version=1))
    elif what == 4 and tensors:
        draw.choice(tensors).dims.extend([2**31, 2**31])
    elif what == 5:
        whole.metadata_props.add().CopyFrom(onnx.StringStringEntryProto(key="names", value="[" * 100_000))
    elif what == 6 and nodes:
        held = draw.choice(nodes)
        held.attribute.add().CopyFrom(onnx.helper.make_attribute("body", _copy(whole.graph)))
        held.op_type = draw.choice(("Loop", "If", "Scan", held.op_type))
    elif tensors:
        sparse = whole.graph.sparse_initializer.add()
        sparse.values.CopyFrom(draw.choice(tensors))
        sparse.dims.append(draw.choice(NUMBERS))


# -- all of them -----------------------------------------------------------------------------------
def population(count: int, seed: int = 16, fields: bool = True) -> list[bytes]:
    """Mutated files.

    Args:
        count: how many.
        seed: what they are drawn from.
        fields: also by :func:`restructured`, for which ``onnx`` is needed: half of them.
    """
    draw, whole = random.Random(seed), seeds()
    ways: tuple[Callable[[bytes, random.Random], bytes], ...] = (mutated, renamed)
    if fields:
        ways = (mutated, restructured, renamed, restructured)
    return [ways[i % len(ways)](draw.choice(whole), draw) for i in range(count)]


def ask(path: Path) -> str:
    """Open it, ask it for a few images, close it."""
    with open_onnx(path, timeout=TIMEOUT, memory=MEMORY) as suspect:
        shape = (2, 2) if suspect.file.inputs[0].shape == (None, 1, 2, 2) else (8, 8)
        answers = suspect.answers_to([torch.rand(3, 1, *shape)])
        return f"answers with {answers.kind}" + ("" if "seccomp" in suspect.tier else ", without a filter")


def opened(files: list[bytes], folder: Path) -> Iterator[Callable[[], str]]:
    """The cases, one file after the other in a folder; nothing else may come to lie there."""

    def case(data: bytes) -> str:
        path = folder / "m.onnx"
        path.write_bytes(data)
        try:
            return ask(path)
        finally:
            assert [p.name for p in folder.iterdir()] == ["m.onnx"]

    return (lambda data=data: case(data) for data in files)  # type: ignore[misc]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        cases.main(lambda count, seed: opened(population(count, seed), Path(place)), SLOW)
