"""ONNX files that nobody trusts: what one holds, or why it is refused, before a runtime sees it.

Standard library only, no part of the file is copied but its names. onnx/onnx.proto, IR version 14.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType

from uapfast.safeload.limits import Limits
from uapfast.safeload.protobuf import ProtobufMessage, ProtobufReader, Schema
from uapfast.safeload.refusal import Refused, check_name, shown

FIELDS = 1_500_000  # read at most: about two seconds
NODES = 100_000
GRAPHS = 1_000  # subgraphs
DEPTH = 60  # of messages; a graph within a graph is three
KNOWN_DOMAINS = ("", "ai.onnx")
_TENSOR_TYPE = {1: ("elem_type", "int"), 2: ("shape", "Shape")}
SCHEMA: Schema = {
    "Model": {
        1: ("ir_version", "int"), 2: ("producer_name", "text"), 3: ("producer_version", "text"),
        4: ("domain", "text"), 5: ("model_version", "int"), 6: ("doc_string", "blob"), 7: ("graph", "Graph"),
        8: ("opset_import", "Opset*"), 14: ("metadata_props", "Entry*"), 20: ("training_info", "blobs"),
        25: ("functions", "blobs"), 26: ("configuration", "blobs"),
    },
    "Opset": {1: ("domain", "text"), 2: ("version", "int")},
    "Entry": {1: ("key", "text"), 2: ("value", "blob")},
    "Graph": {
        1: ("node", "Node*"), 2: ("name", "text"), 5: ("initializer", "Tensor*"), 10: ("doc_string", "blob"),
        11: ("input", "Value*"), 12: ("output", "Value*"), 13: ("value_info", "Value*"),
        14: ("quantization_annotation", "blobs"), 15: ("sparse_initializer", "Sparse*"),
        16: ("metadata_props", "Entry*"),
    },
    "Node": {
        1: ("input", "texts"), 2: ("output", "texts"), 3: ("name", "text"), 4: ("op_type", "text"),
        5: ("attribute", "Attribute*"), 6: ("doc_string", "blob"), 7: ("domain", "text"),
        8: ("overload", "text"), 9: ("metadata_props", "Entry*"), 10: ("device_configurations", "blobs"),
    },
    "Attribute": {
        1: ("name", "text"), 2: ("f", "float"), 3: ("i", "int"), 4: ("s", "blob"), 5: ("t", "Tensor"),
        6: ("g", "Graph"), 7: ("floats", "floats"), 8: ("ints", "ints"), 9: ("strings", "blobs"),
        10: ("tensors", "Tensor*"), 11: ("graphs", "Graph*"), 13: ("doc_string", "blob"), 14: ("tp", "Type"),
        15: ("type_protos", "Type*"), 20: ("type", "int"), 21: ("ref_attr_name", "text"),
        22: ("sparse_tensor", "Sparse"), 23: ("sparse_tensors", "Sparse*"),
    },
    "Tensor": {
        1: ("dims", "ints"), 2: ("data_type", "int"), 3: ("segment", "blob"), 4: ("float_data", "floats"),
        5: ("int32_data", "varints"), 6: ("string_data", "blobs"), 7: ("int64_data", "varints"),
        8: ("name", "text"), 9: ("raw_data", "blob"), 10: ("double_data", "doubles"),
        11: ("uint64_data", "varints"), 12: ("doc_string", "blob"), 13: ("external_data", "Entry*"),
        14: ("data_location", "int"), 16: ("metadata_props", "Entry*"),
    },
    "Sparse": {1: ("values", "Tensor"), 2: ("indices", "Tensor"), 3: ("dims", "ints")},
    "Value": {1: ("name", "text"), 2: ("type", "Type"), 3: ("doc_string", "blob"),
              4: ("metadata_props", "Entry*")},
    "Type": {
        1: ("tensor_type", "TensorType"), 4: ("sequence_type", "Holder"), 5: ("map_type", "Map"),
        6: ("denotation", "text"), 7: ("opaque_type", "blob"), 8: ("sparse_tensor_type", "TensorType"),
        9: ("optional_type", "Holder"),
    },
    "TensorType": _TENSOR_TYPE,
    "Holder": {1: ("elem_type", "Type")},
    "Map": {1: ("key_type", "int"), 2: ("value_type", "Type")},
    "Shape": {1: ("dim", "Dimension*")},
    "Dimension": {1: ("dim_value", "int"), 2: ("dim_param", "text"), 3: ("denotation", "text")},
}  # fmt: skip
# TensorProto.DataType: its name; bits of a value; the field, if not raw_data, and values in one entry of it
DTYPES: dict[int, tuple[str, int, str, int]] = {
    1: ("float32", 32, "float_data", 1), 2: ("uint8", 8, "int32_data", 1), 3: ("int8", 8, "int32_data", 1),
    4: ("uint16", 16, "int32_data", 1), 5: ("int16", 16, "int32_data", 1), 6: ("int32", 32, "int32_data", 1),
    7: ("int64", 64, "int64_data", 1), 8: ("string", 0, "string_data", 1), 9: ("bool", 8, "int32_data", 1),
    10: ("float16", 16, "int32_data", 1), 11: ("float64", 64, "double_data", 1),
    12: ("uint32", 32, "uint64_data", 1), 13: ("uint64", 64, "uint64_data", 1),
    16: ("bfloat16", 16, "int32_data", 1), 17: ("float8_e4m3fn", 8, "int32_data", 1),
    18: ("float8_e4m3fnuz", 8, "int32_data", 1), 19: ("float8_e5m2", 8, "int32_data", 1),
    20: ("float8_e5m2fnuz", 8, "int32_data", 1), 21: ("uint4", 4, "int32_data", 2),
    22: ("int4", 4, "int32_data", 2), 23: ("float4_e2m1", 4, "int32_data", 2),
    24: ("float8_e8m0", 8, "int32_data", 1), 25: ("uint2", 2, "int32_data", 4),
    26: ("int2", 2, "int32_data", 4),
}  # fmt: skip
STORES = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
TYPES = ("tensor_type", "sequence_type", "map_type", "opaque_type", "sparse_tensor_type", "optional_type")
RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli".split()
)
INLINE = "onnx.inliner.inline_local_functions(model)"
EXTERNAL = (
    "an ONNX file that holds its weights (torch.onnx.export(..., external_data=False), or "
    "onnx.save(onnx.load(FILE), NEW))"
)
PLAIN = "an ONNX file of plain operators (domain ai.onnx)"
REMEDIES = {
    "ai.onnx.ml": "a pipeline of scikit-learn, say: ask it as a function of images",
    "com.microsoft": "take the file as exported, not what onnxruntime's optimiser wrote",
}


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: of it.
        dtype: of its values, as numpy calls it; or what it is if no tensor (``a sequence``).
        shape: sizes, None where one is free; None if nothing is known of it.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "" if self.shape is None else [n if n is not None else "?" for n in self.shape]
        return f"{shown(self.name)} {self.dtype}{sizes}".replace("'", "")


@dataclass(frozen=True)
class OnnxFile:
    """What a checked file holds.

    Attributes:
        ir_version: of the format.
        opset: version of the operators.
        producer: who wrote it; nobody's promise.
        inputs: those that are to be fed.
        outputs: in the file's order.
        metadata: free text; nobody's promise.
        ops: types of operators in it, subgraphs included.
        training: whether a batch normalisation or a dropout is in training mode.
        nodes: how many, subgraphs included.
        tensor_bytes: of all weights and constants.
    """

    ir_version: int
    opset: int
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: MappingProxyType[str, str]
    ops: frozenset[str]
    training: bool
    nodes: int
    tensor_bytes: int


@dataclass
class _Sums:
    """What was seen so far."""

    limits: Limits
    nodes: int = 0
    graphs: int = 0
    tensors: int = 0
    tensor_bytes: int = 0
    training: bool = False
    ops: set[str] = field(default_factory=set)


def check_onnx(data: bytes | bytearray, limits: Limits) -> OnnxFile:
    """Read a whole ONNX file and hold it to the rules; nothing in it is run, no other file opened.

    Refused are, wherever in the file they stand: weights in other files, functions, operators of other
    domains than ONNX's own, training information, tensors that claim more than they hold, fields that are
    given twice or that the format does not know, and what goes beyond ``limits``. Subgraphs (If, Loop, Scan)
    are checked like the graph itself.

    Raises:
        Refused: for one of these reasons.
    """
    view = memoryview(data)
    if data[4:8] == b"ORTM":
        rule = "an ONNX file (take the .onnx that this one was converted from)"
        raise Refused("unsupported", rule, "a model in onnxruntime's own format (.ort)")
    model = ProtobufReader(view, SCHEMA, FIELDS, DEPTH).read("Model")
    if "functions" in model:
        got = f"{len(model['functions'])} functions"
        raise Refused("unsupported", f"an ONNX file without functions ({INLINE} unfolds them)", got)
    for name in ("training_info", "configuration"):
        if name in model:
            raise Refused("unsupported", "an ONNX file that is made to answer", f"one with {name}")
    graph = model.get("graph")
    if graph is None or "ir_version" not in model:
        raise Refused("corrupt", "an ONNX model with ir_version and graph", "one without")
    versions = [
        o.get("version", 0) for o in model.get("opset_import", []) if o.get("domain", "") in KNOWN_DOMAINS
    ]
    if len(versions) != 1 or versions[0] < 1:
        raise Refused("corrupt", "an ONNX model with one opset of domain ai.onnx", shown(versions))
    sums = _Sums(limits)
    _check_graph(graph, sums)
    given = {t.get("name", "") for t in graph.get("initializer", [])}
    given |= {s.get("values", {}).get("name", "") for s in graph.get("sparse_initializer", [])}
    inputs = tuple(port for port in _ports(graph, "input", limits) if port.name not in given)
    outputs = tuple(_ports(graph, "output", limits))
    return OnnxFile(
        model["ir_version"], versions[0], model.get("producer_name", ""), inputs, outputs,
        MappingProxyType(_metadata(model)), frozenset(sums.ops), sums.training, sums.nodes, sums.tensor_bytes,
    )  # fmt: skip


def _metadata(model: ProtobufMessage) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in model.get("metadata_props", []):
        found.setdefault(entry.get("key", ""), bytes(entry.get("value", b"")).decode("utf-8", "replace"))
    return found


def _check_graph(graph: ProtobufMessage, sums: _Sums) -> None:
    sums.graphs += 1
    sums.nodes += len(graph.get("node", []))
    for name, count, most in (("graphs", sums.graphs, GRAPHS), ("nodes", sums.nodes, NODES)):
        if count > most:
            raise Refused("too large", f"an ONNX file of at most {most} {name}", str(count))
    sparse = graph.get("sparse_initializer", [])
    names = [t.get("name", "") for t in graph.get("initializer", [])]
    names += [s.get("values", {}).get("name", "") for s in sparse]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise Refused("corrupt", "weights that are named once", f"{shown(twice)} twice")
    for tensor in graph.get("initializer", []):
        _check_tensor(tensor, sums)
    for tensor in sparse:
        _check_sparse(tensor, sums)
    for where in ("input", "output", "value_info"):
        _ports(graph, where, sums.limits)
    for node in graph.get("node", []):
        _check_node(node, sums)


def _check_node(node: ProtobufMessage, sums: _Sums) -> None:
    op, domain = node.get("op_type", ""), node.get("domain", "")
    if domain not in KNOWN_DOMAINS:
        remedy = REMEDIES.get(domain)
        rule = f"{PLAIN[:-1]}; {remedy})" if remedy else PLAIN
        raise Refused("unsupported", rule, f"operator {shown(op)} of domain {shown(domain)}")
    if node.get("overload") or "device_configurations" in node:
        raise Refused("unsupported", PLAIN, f"a {shown(op)} with an overload or a device configuration")
    sums.ops.add(check_name(op, sums.limits.name_chars))
    seen: set[str] = set()
    for attribute in node.get("attribute", []):
        name = attribute.get("name", "")
        if name in seen or "ref_attr_name" in attribute:
            rule = "attributes that are given once, by value"
            raise Refused("corrupt", rule, f"{shown(name)} of a {shown(op)}")
        seen.add(name)
        if name == "training_mode" and attribute.get("i"):
            sums.training = True
        for tensor in [*_one(attribute, "t"), *attribute.get("tensors", [])]:
            _check_tensor(tensor, sums)
        for tensor in [*_one(attribute, "sparse_tensor"), *attribute.get("sparse_tensors", [])]:
            _check_sparse(tensor, sums)
        for graph in [*_one(attribute, "g"), *attribute.get("graphs", [])]:
            _check_graph(graph, sums)


def _one(message: ProtobufMessage, name: str) -> list[ProtobufMessage]:
    return [message[name]] if name in message else []


def _check_sparse(sparse: ProtobufMessage, sums: _Sums) -> None:
    where = shown(sparse.get("values", {}).get("name", ""))
    count = _count(sparse.get("dims", []), where, sums.limits)
    for part in ("values", "indices"):
        if part not in sparse:
            raise Refused("corrupt", "sparse tensors of values and indices", f"{where} without {part}")
        _check_tensor(sparse[part], sums)
    bits = DTYPES[sparse["values"]["data_type"]][1]
    _add(count * bits // 8, where, sums)  # as it lies in memory when spread out


def _check_tensor(tensor: ProtobufMessage, sums: _Sums) -> None:
    name = tensor.get("name", "")
    where = shown(name) or "a constant"
    if tensor.get("external_data") or tensor.get("data_location"):
        places = [
            bytes(e.get("value", b"")) for e in tensor.get("external_data", []) if e.get("key") == "location"
        ]
        got = f"{where} in {shown(places[0].decode('utf-8', 'replace'))}" if places else where
        raise Refused("unsupported", EXTERNAL, f"{got} (external data)")
    if len(name) > sums.limits.name_chars:
        raise Refused("too large", f"names of at most {sums.limits.name_chars} characters", str(len(name)))
    if "segment" in tensor:
        raise Refused("unsupported", "weights in one piece", f"{where} in segments")
    known = DTYPES.get(tensor.get("data_type", 0))
    if known is None:
        got = f"{where} of data type {tensor.get('data_type', 0)}"
        raise Refused("unsupported", "weights of real numbers, integers, bool or text", got)
    dtype, bits, store, per_entry = known
    count = _count(tensor.get("dims", []), where, sums.limits)
    stores = [s for s in STORES if tensor.get(s) and (s != "raw_data" or len(tensor[s]))]
    if len(stores) > 1 or (stores and stores[0] not in ("raw_data", store)):
        raise Refused(
            "corrupt", f"values of {dtype} in raw_data or {store}", f"{where} in {' and '.join(stores)}"
        )
    if stores == ["raw_data"]:
        has, wants = len(tensor["raw_data"]), -(-count * bits // 8) if bits else -1
    else:
        held = tensor.get(store, 0)
        has, wants = len(held) if isinstance(held, list) else held, -(-count // per_entry)
    if has != wants:
        what = "bytes" if stores == ["raw_data"] else "entries"
        rule = f"{wants} {what} for {dtype} {shown(tensor.get('dims', []))}"
        raise Refused("corrupt", f"tensors that hold what they claim ({rule})", f"{has} in {where}")
    sums.tensors += 1
    if sums.tensors > sums.limits.tensors:
        raise Refused("too large", f"an ONNX file of at most {sums.limits.tensors} tensors", "more")
    _add(count * bits // 8, where, sums)


def _add(size: int, where: str, sums: _Sums) -> None:
    sums.tensor_bytes += size
    if sums.tensor_bytes > sums.limits.tensor_bytes:
        rule = f"tensors of at most {sums.limits.tensor_bytes} bytes together"
        raise Refused("too large", rule, f"{sums.tensor_bytes} with {where}")


def _count(dims: list[int], where: str, limits: Limits) -> int:
    """How many values; every size counts, also where another is 0."""
    if len(dims) > limits.dimensions:
        raise Refused(
            "too large", f"tensors of at most {limits.dimensions} dimensions", f"{len(dims)} in {where}"
        )
    count, sizes = 1, 1
    for n in dims:
        if not 0 <= n < 1 << 40:
            raise Refused("corrupt", "sizes of 0 and more", f"{n} in {where}")
        count, sizes = count * n, sizes * max(n, 1)
        if sizes > 1 << 48:
            raise Refused("too large", "tensors that fit in memory", f"{shown(dims)} in {where}")
    return count


def _ports(graph: ProtobufMessage, where: str, limits: Limits) -> list[Port]:
    found = [_port(value) for value in graph.get(where, [])]
    for port in found:
        if len(port.shape or ()) > limits.dimensions:
            rule = f"values of at most {limits.dimensions} dimensions"
            raise Refused("too large", rule, f"{len(port.shape or ())} in {shown(port.name)}")
    return found


def _port(value: ProtobufMessage) -> Port:
    name, kind = value.get("name", ""), value.get("type", {})
    given = [t for t in TYPES if t in kind]
    if len(given) > 1:
        raise Refused("corrupt", "a type a value", f"{' and '.join(given)} for {shown(name)}")
    if given != ["tensor_type"]:
        return Port(name, f"a {given[0].removesuffix('_type')}" if given else "unknown", None)
    tensor = kind["tensor_type"]
    known = DTYPES.get(tensor.get("elem_type", 0))
    dtype = known[0] if known else f"data type {tensor.get('elem_type', 0)}"
    if "shape" not in tensor:
        return Port(name, dtype, None)
    shape: list[int | None] = []
    for dim in tensor["shape"].get("dim", []):
        if "dim_value" in dim and "dim_param" in dim:
            raise Refused("corrupt", "sizes that are a number or a name", f"both for {shown(name)}")
        n = dim.get("dim_value", 0)
        shape.append(n if n > 0 else None)
    return Port(name, dtype, tuple(shape))


__all__ = ["RANDOM", "OnnxFile", "Port", "check_onnx"]
