"""The check by hand of ONNX files: what is refused, by which name, and that right files pass."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.security.fuzz_onnx import net, population
from tests.security.onnx_forge import (
    FLOAT,
    attribute,
    classifier,
    f,
    graph,
    looping,
    model,
    node,
    number,
    port,
    tensor,
)  # fmt: skip
from uapfast.safeload.limits import Limits
from uapfast.safeload.onnxfile import check_onnx
from uapfast.safeload.refusal import Refused

ONE = np.ones(4, np.float32)
X, Y = port("x", ["n", 3, 4, 4]), port("y", ["n", 4])
AWAY = f(13, f(1, "location") + f(2, "/etc/passwd"))


def small(*nodes: bytes, weights: tuple[bytes, ...] = (), extra: bytes = b"", **more) -> bytes:
    nodes = nodes or (node("Flatten", "x", "y"),)
    return model(graph(nodes, [X], [Y], weights, extra), **more)


def inside(held: bytes, op: str = "If", deep: int = 1) -> bytes:
    """A graph inside of subgraphs."""
    for _ in range(deep):
        held = graph([node(op, "c", "o", attribute("then_branch", held, "graph"))], [], [])
    return held


def test_what_a_file_holds() -> None:
    data = classifier(net(), [1, 8, 8], outputs=("logits", "label"), metadata={"names": "a,b"}, opset=18)
    found = check_onnx(data, Limits())
    assert [str(p) for p in found.inputs] == ["x float32[?, 1, 8, 8]"]
    assert [str(p) for p in found.outputs] == ["logits float32[?, 10]", "label int64[?]"]
    assert (found.opset, found.ir_version, found.producer) == (18, 8, "forge")
    assert found.metadata == {"names": "a,b"} and not found.training
    assert {"Conv", "BatchNormalization", "Gemm", "ArgMax"} <= found.ops
    state = net().state_dict()
    assert found.tensor_bytes == 4 * sum(v.numel() for v in state.values() if v.ndim)


def test_weights_that_are_listed_as_inputs_are_not_to_be_fed() -> None:
    held = graph([node("Add", "x w", "y")], [X, port("w", [4])], [Y], [tensor("w", ONE)])
    assert [p.name for p in check_onnx(model(held, ir=3), Limits()).inputs] == ["x"]


def test_subgraphs_pass_when_they_are_plain_and_training_mode_is_seen() -> None:
    assert "Loop" in check_onnx(looping(), Limits()).ops
    norm = node("BatchNormalization", "x a b c d", "y", attribute("training_mode", 1))
    assert check_onnx(small(node("If", "c", "o", attribute("then_branch", graph([norm], [], []), "graph"))),
                      Limits()).training  # fmt: skip


def test_values_outside_of_raw_data() -> None:
    floats = f(4, np.ones(3, np.float32).tobytes())  # packed
    single = b"".join(number(4 << 3 | 5) + b"\0\0\x80\x3f" for _ in range(2))  # one by one
    good = tensor("w", ONE, dims=[5], raw=None, extra=floats + single)
    integers = f(1, 3) + f(2, 7) + f(8, "i") + f(7, number(-1) + number(5) + number(300))
    assert check_onnx(small(weights=(good, integers)), Limits()).tensor_bytes == 20 + 24
    with pytest.raises(Refused, match="4 entries"):
        check_onnx(small(weights=(tensor("w", ONE, dims=[4], raw=None, extra=floats + single),)), Limits())


TOO_DEEP = inside(graph([], [], []), deep=30)
HOLE = tensor("w", ONE, dims=[2**31, 2**31], raw=b"")
SPARSE = f(1, tensor("w", ONE)) + f(2, tensor("", np.arange(4, dtype=np.int64))) + f(3, 2**39)
REFUSED: dict[str, tuple[str, str, bytes]] = {
    "external data": (
        "unsupported",
        "w in /etc/passwd",
        small(weights=(tensor("w", ONE, extra=AWAY + f(14, 1)),)),
    ),
    "a location without the flag": (
        "unsupported",
        "/etc/passwd",
        small(weights=(tensor("w", ONE, extra=AWAY),)),
    ),
    "the flag alone": ("unsupported", "external data", small(weights=(tensor("w", ONE, extra=f(14, 1)),))),
    "external data of a constant": (
        "unsupported",
        "/etc/passwd",
        small(node("Constant", "", "y", attribute("value", tensor("", ONE, extra=AWAY), "tensor"))),
    ),
    "external data in a subgraph": (
        "unsupported",
        "/etc/passwd",
        model(inside(graph([], [], [], [tensor("w", ONE, extra=AWAY)]), deep=3)),
    ),
    "external data in a sparse tensor": (
        "unsupported",
        "/etc/passwd",
        small(extra=f(15, f(1, tensor("w", ONE, extra=AWAY)) + f(2, b"") + f(3, 4))),
    ),
    "external data in a list of tensors": (
        "unsupported",
        "/etc/passwd",
        small(node("Constant", "", "y", f(1, "v") + f(10, tensor("", ONE, extra=AWAY)))),
    ),
    "functions": ("unsupported", "1 functions", small(extra=b"") + f(25, f(1, "fn"))),
    "training information": ("unsupported", "training_info", small() + f(20, b"")),
    "another domain": ("unsupported", "domain com.evil", small(node("Run", "x", "y", domain="com.evil"))),
    "another domain in a subgraph": (
        "unsupported",
        "EPContext of domain com.microsoft",
        model(inside(graph([node("EPContext", "x", "y", domain="com.microsoft")], [], []))),
    ),
    "zipmap": (
        "unsupported",
        "ZipMap of domain ai.onnx.ml",
        small(node("ZipMap", "x", "y", domain="ai.onnx.ml")),
    ),
    "an overload": ("unsupported", "overload", small(node("Add", "x", "y", extra=f(8, "v2")))),
    "an attribute by reference": (
        "corrupt",
        "by value",
        small(node("Add", "x", "y", f(1, "a") + f(21, "b"))),
    ),
    "an attribute twice": ("corrupt", "given once", small(node("Add", "x", "y", *[attribute("a", 1)] * 2))),
    "ort": ("unsupported", ".ort", b"\x1c\0\0\0ORTM" + b"\0" * 40),
    "no graph": ("corrupt", "with ir_version and graph", f(1, 8) + f(8, f(2, 17))),
    "no opset": ("corrupt", "one opset", f(1, 8) + f(7, graph([], [X], [Y]))),
    "two opsets": ("corrupt", "one opset", small() + f(8, f(2, 9))),
    "two graphs": ("corrupt", "Model.graph twice", small() + f(7, graph([], [X], [Y]))),
    "an unknown field": ("unsupported", "field 99 of Model", small() + f(99, 1)),
    "a wrong wire type": ("corrupt", "wire type 0 of Model.graph", f(1, 8) + f(7, 3)),
    "a group": ("corrupt", "wire type 3", f(1, 8) + number(7 << 3 | 3)),
    "a number too long": ("corrupt", "too long", b"\x08" + b"\xff" * 10 + b"\x01"),
    "a name that is no text": ("corrupt", "UTF-8", f(1, 8) + f(2, b"\xff\xfe")),
    "weights twice": ("corrupt", "w twice", small(weights=(tensor("w", ONE), tensor("w", ONE)))),
    "a tensor that claims more": ("corrupt", "16 in w", small(weights=(tensor("w", ONE, dims=[1000]),))),
    "2^62 values and no bytes": ("too large", "2147483648", small(weights=(HOLE,))),
    "sizes behind a zero": (
        "too large",
        "in w",
        small(weights=(tensor("w", ONE, dims=[2**39, 2**39, 0], raw=b""),)),
    ),
    "a negative size": ("corrupt", "-1 in w", small(weights=(tensor("w", ONE, dims=[-1]),))),
    "65 dimensions": ("too large", "65 in w", small(weights=(tensor("w", ONE[0], dims=[1] * 65),))),
    "an unknown type of values": (
        "unsupported",
        "data type 99",
        small(weights=(tensor("w", ONE, dtype=99),)),
    ),
    "complex values": ("unsupported", "data type 14", small(weights=(tensor("w", ONE, dtype=14),))),
    "values in two places": (
        "corrupt",
        "raw_data and float_data",
        small(weights=(tensor("w", ONE, extra=f(4, ONE.tobytes())),)),
    ),
    "values in a foreign place": (
        "corrupt",
        "int64_data",
        small(weights=(tensor("w", ONE, raw=None, extra=f(7, b"\1\1\1\1")),)),
    ),
    "a sparse tensor of a terabyte": ("too large", "tensors of at most", small(extra=f(15, SPARSE))),
    "a graph in a graph, 30 deep": ("too large", "nested", model(TOO_DEEP)),
    "an input of 65 dimensions": (
        "too large",
        "65 in x",
        model(graph([], [port("x", [1] * 65)], [Y])),
    ),
    "100,001 nodes": ("too large", "100001", small(*[b""] * 100_001)),
    "two types of one value": (
        "corrupt",
        "tensor_type and map_type",
        model(graph([], [f(1, "x") + f(2, f(1, f(1, FLOAT)) + f(5, b""))], [Y])),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    kind, said, data = REFUSED[case]
    with pytest.raises(Refused) as caught:
        check_onnx(data, Limits())
    text = f"{caught.value.rule}, got {caught.value.got}"
    assert caught.value.kind == kind and said in text, text
    assert text.isprintable() and len(text) < 600


def test_names_of_weights_are_compared_in_a_moment() -> None:
    """Every name with every other would be hours of work for a file of some megabytes."""
    names = [*range(40_000), 39_999]
    data = small(weights=tuple(tensor(f"w{i}", ONE[0]) for i in names))
    began = time.monotonic()
    with pytest.raises(Refused, match="w39999 twice"):
        check_onnx(data, Limits())
    assert time.monotonic() - began < 15


def test_the_limits_bind() -> None:
    data = small(weights=(tensor("w", ONE), tensor("v", ONE)))
    check_onnx(data, Limits(tensor_bytes=32, tensors=2))
    for limits in (Limits(tensor_bytes=31), Limits(tensors=1)):
        with pytest.raises(Refused, match="too large"):
            check_onnx(data, limits)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_file_that_is_cut(share: float) -> None:
    data = classifier(net(), [1, 8, 8])
    with pytest.raises(Refused) as caught:
        check_onnx(data[: int(len(data) * share)], Limits())
    assert caught.value.kind == "corrupt"


@pytest.mark.needs("onnx")
def test_a_thousand_mutated_files_are_read_or_refused() -> None:
    taken = 0
    for data in population(1000):
        try:
            check_onnx(data, Limits())
            taken += 1
        except Refused as refused:
            assert f"{refused.rule}{refused.got}".isprintable()
    assert 200 < taken < 900


@pytest.mark.needs("onnx")
def test_what_passes_is_what_onnx_itself_reads() -> None:
    """The official reader finds the same in each file that is taken: one reading."""
    import onnx

    for data in [*population(400), looping()]:
        try:
            found = check_onnx(data, Limits())
        except Refused:
            continue
        other = onnx.load_from_string(data)
        assert not other.functions and other.ir_version == found.ir_version
        given = {t.name for t in other.graph.initializer}
        assert [v.name for v in other.graph.input if v.name not in given] == [p.name for p in found.inputs]
        assert [v.name for v in other.graph.output] == [p.name for p in found.outputs]
        assert {n.op_type for n in other.graph.node} <= found.ops
        assert not any(n.domain not in ("", "ai.onnx") for n in other.graph.node)
        assert not any(t.external_data or t.data_location for t in other.graph.initializer)


def test_a_file_of_another_kind_is_not_mistaken(tmp_path: Path) -> None:
    from uapfast.suspects.onnx import is_onnx

    good, other = tmp_path / "a.bin", tmp_path / "b.onnx"
    good.write_bytes(classifier(net(), [1, 8, 8]))
    other.write_bytes(b"\x08\x01\x12" + b"\0" * 40)
    assert is_onnx(good) and not is_onnx(other) and not is_onnx(tmp_path / "none") and not is_onnx(tmp_path)
