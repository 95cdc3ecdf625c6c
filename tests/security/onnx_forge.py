"""ONNX files written by hand, field by field: right ones, and whatever no library would write."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

FLOAT, UINT8, INT64, BOOL, FLOAT16 = 1, 2, 7, 9, 10
TYPES = {"float32": FLOAT, "uint8": UINT8, "int64": INT64, "bool": BOOL, "float16": FLOAT16}
Shape = Sequence[int | str] | None


def number(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def f(field: int, value: int | bytes | str | float) -> bytes:
    """One field: a number, a float of 4 bytes, text, bytes or a message."""
    if isinstance(value, float):
        return number(field << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return number(field << 3) + number(value)
    raw = value.encode() if isinstance(value, str) else value
    return number(field << 3 | 2) + number(len(raw)) + raw


def tensor(name: str, values: Any, **more: Any) -> bytes:
    """A TensorProto with raw data; ``more`` overrides ``dims``, ``dtype``, ``raw``, ``extra``."""
    array = np.asarray(values)
    dims = more.get("dims", array.shape)
    raw = more.get("raw", np.ascontiguousarray(array).tobytes())
    dtype = more.get("dtype", TYPES[str(array.dtype)] if array.dtype.name in TYPES else FLOAT)
    out = b"".join(f(1, int(n)) for n in dims) + f(2, dtype) + f(8, name)
    return out + (f(9, raw) if raw is not None else b"") + more.get("extra", b"")


def attribute(name: str, value: int | float | str | Sequence[int] | bytes, kind: str = "") -> bytes:
    """``kind`` ``tensor`` or ``graph`` says what bytes are."""
    if kind:
        at, tag = {"tensor": (5, 4), "graph": (6, 5)}[kind]
        assert isinstance(value, bytes)
        return f(1, name) + f(at, value) + f(20, tag)
    if isinstance(value, float):
        return f(1, name) + f(2, value) + f(20, 1)
    if isinstance(value, int):
        return f(1, name) + f(3, value) + f(20, 2)
    if isinstance(value, str):
        return f(1, name) + f(4, value) + f(20, 3)
    return f(1, name) + b"".join(f(8, int(v)) for v in value) + f(20, 7)


def node(
    op: str, inputs: str, outputs: str, *attributes: bytes, domain: str = "", extra: bytes = b""
) -> bytes:
    """Inputs and outputs by name, with blanks between."""
    out = b"".join(f(1, n) for n in inputs.split()) + b"".join(f(2, n) for n in outputs.split()) + f(4, op)
    return out + b"".join(f(5, a) for a in attributes) + (f(7, domain) if domain else b"") + extra


def port(name: str, shape: Shape, dtype: str = "float32") -> bytes:
    dims = b"".join(f(1, f(2, n) if isinstance(n, str) else f(1, n)) for n in shape or ())
    held = f(1, TYPES[dtype]) + (f(2, dims) if shape is not None else b"")
    return f(1, name) + f(2, f(1, held))


def graph(
    nodes: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes], weights: Iterable[bytes] = (),
    extra: bytes = b"",
) -> bytes:  # fmt: skip
    parts = [(1, nodes), (5, weights), (11, inputs), (12, outputs)]
    return b"".join(f(at, part) for at, some in parts for part in some) + f(2, "g") + extra


def model(
    held: bytes, opset: int = 17, metadata: dict[str, str] | None = None, extra: bytes = b"", ir: int = 8
) -> bytes:
    entries = b"".join(f(14, f(1, k) + f(2, v)) for k, v in (metadata or {}).items())
    return f(1, ir) + f(2, "forge") + f(7, held) + f(8, f(2, opset)) + entries + extra


def layers(net: nn.Sequential, name: str = "x") -> tuple[list[bytes], list[bytes], str]:
    """Nodes, weights and the last name of a network of plain layers."""
    nodes, weights = [], []
    for i, layer in enumerate(net):
        after, held = f"v{i}", {k: v.detach().numpy() for k, v in layer.state_dict().items() if v.ndim}
        keys = ("weight", "bias", "running_mean", "running_var")
        used = " ".join(f"{k}{i}" for k in keys if k in held)
        weights += [tensor(f"{k}{i}", held[k]) for k in keys if k in held]
        if isinstance(layer, nn.Linear):
            nodes.append(node("Gemm", f"{name} {used}", after, attribute("transB", 1)))
        elif isinstance(layer, nn.Conv2d):
            pads = [int(p) for p in layer.padding] * 2
            nodes.append(node("Conv", f"{name} {used}", after, attribute("pads", pads)))
        elif isinstance(layer, nn.BatchNorm2d):
            nodes.append(node("BatchNormalization", f"{name} {used}", after, attribute("epsilon", layer.eps)))
        else:
            op = {nn.Flatten: "Flatten", nn.ReLU: "Relu", nn.AdaptiveAvgPool2d: "GlobalAveragePool"}[
                type(layer)
            ]
            nodes.append(node(op, name, after))
        name = after
    return nodes, weights, name


def classifier(
    net: nn.Sequential, image: Sequence[int | str], *, batch: int | str = "n", classes: int = 10,
    layout: str = "NCHW", dtype: str = "float32", outputs: Sequence[str] = ("logits",), **more: Any,
) -> bytes:  # fmt: skip
    """An ONNX file of ``net`` for images ``[C,H,W]``: as it takes them, transposed, or as bytes."""
    nodes, weights, last = layers(net, "fed")
    shape = [batch, *image] if layout == "NCHW" else [batch, image[1], image[2], image[0]]
    at = "x"
    if dtype != "float32":
        weights.append(tensor("most", np.float32(255 if dtype == "uint8" else 1)))
        nodes[:0] = [node("Cast", at, "real", attribute("to", FLOAT)), node("Div", "real most", "unit")]
        at = "unit"
    turn = "Identity" if layout == "NCHW" else "Transpose"
    head = node(turn, at, "fed", *([] if layout == "NCHW" else [attribute("perm", [0, 3, 1, 2])]))
    nodes.insert(2 if dtype != "float32" else 0, head)
    ends = {"logits": "Identity", "probabilities": "Softmax", "label": "ArgMax"}
    for name in outputs:
        extra = [attribute("axis", 1), attribute("keepdims", 0)] if name == "label" else []
        nodes.append(node(ends[name], last, name, *extra))
    ports = [port(n, [batch] if n == "label" else [batch, classes], "int64" if n == "label" else "float32")
             for n in outputs]  # fmt: skip
    return model(graph(nodes, [port("x", shape, dtype)], ports, weights), **more)


def looping(rounds: int = 2**40) -> bytes:
    """A classifier that counts to ``rounds`` first."""
    body = graph(
        [node("Identity", "go", "on"), node("Add", "before one", "after")],
        [port("i", [], "int64"), port("go", [], "bool"), port("before", [])],
        [port("on", [], "bool"), port("after", [])],
        [tensor("one", np.float32(1))],
    )
    nodes = [
        node("Loop", "rounds yes zero", "sum", attribute("body", body, "graph")),
        node("Flatten", "x", "flat"),
        node("Add", "flat sum", "logits"),
    ]
    weights = [
        tensor("rounds", np.int64(rounds)),
        tensor("yes", np.bool_(True)),
        tensor("zero", np.float32(0)),
    ]
    return model(graph(nodes, [port("x", ["n", 1, 2, 2])], [port("logits", ["n", 4])], weights))
