"""From what ``torch.save`` wrote to safetensors, inside the worker. Standard library only."""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from uapfast.safeload.choose import INSTEAD, find_tensors
from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.header import TAKEN
from uapfast.safeload.limits import Limits
from uapfast.safeload.npz import is_npz, npz_tensors
from uapfast.safeload.opcodes import Machine
from uapfast.safeload.recognise import RULES, as_onnx
from uapfast.safeload.refusal import Refused, check_name, shown
from uapfast.safeload.torchpickle import SAVE, Storage, Tensor, Torch
from uapfast.safeload.ziparchive import Archive, pieces, pread

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before 1.6
WHOLE = "a whole state dict"
SMALL = 32 << 20  # a file below this may grow like one of this size
ROWS = 2 << 20  # of a strided tensor, each copied by a step of ours
Fetch = Callable[[Storage], Iterator[bytes]]


def convert(
    source: int, size: int, target: int, legacy: bool, limits: Limits, key: str | None = None
) -> None:
    """Write the tensors of a ``torch.save`` file, or the arrays of an ``.npz``, as safetensors.

    Args:
        source: file descriptor of the file.
        size: of it.
        target: file descriptor of an empty file.
        legacy: the format before torch 1.6 instead of the zip.
        limits: bounds.
        key: which map of tensors is taken, as :func:`uapfast.safeload.choose.find_tensors`.

    Raises:
        Refused: anything but a state dict of plain tensors.
    """
    state, fetch = (_legacy if legacy else _zip)(source, size, limits)
    room = min(limits.tensor_bytes, limits.growth * max(size, SMALL))
    found, taken = find_tensors(state, limits, key)
    write(found, fetch, target, room, limits, {TAKEN: taken} if taken else {})


def _zip(source: int, size: int, limits: Limits) -> tuple[Any, Fetch]:
    archive = Archive(source, size, limits)
    if is_npz(archive.records):
        return npz_tensors(archive, limits), lambda storage: archive.chunks(archive.records[storage.key])
    root = _root(archive.records.keys())
    order = archive.records.get(f"{root}byteorder")
    if order and (order.size > 8 or archive.read(order) != b"little"):
        raise Refused(
            "unsupported", f"a little-endian file ({SAVE} on another machine)", "another byte order"
        )
    script = archive.records[f"{root}data.pkl"]
    if script.size > limits.header_bytes:
        rule = f"a state dict whose pickle has at most {limits.header_bytes} bytes"
        raise Refused("too large", rule, str(script.size))
    torch = Torch(limits)
    data = archive.read(script)
    machine = Machine(data, limits, torch.resolve, torch.persistent)
    state = machine.run()
    if machine.at != len(data):
        raise Refused("corrupt", WHOLE, f"{len(data) - machine.at} bytes after the pickle")

    def fetch(storage: Storage) -> Iterator[bytes]:
        record = archive.records.get(f"{root}data/{storage.key}")
        if record is None or record.size != storage.nbytes:
            has = "none" if record is None else f"{record.size} bytes"
            got = f"{has} in the archive for storage {shown(storage.key)} of {storage.nbytes}"
            raise Refused("corrupt", WHOLE, got)
        return archive.chunks(record)

    return state, fetch


def _root(names: Any) -> str:
    """The folder of ``data.pkl``; or what else the archive is."""
    roots = [n.removesuffix("data.pkl") for n in names if n.count("/") == 1 and n.endswith("/data.pkl")]
    root = roots[0] if len(roots) == 1 else ""
    tops = {n.split("/", 1)[1] if n.count("/") else n for n in names}
    tail = {n.rsplit("/", 1)[-1] for n in names}
    if f"{root}constants.pkl" in names or any(n.startswith("code/") for n in tops):
        raise Refused("unsafe", as_onnx("script", INSTEAD), "a TorchScript program")
    if tail & {"archive_format", "serialized_exported_program.json", "serialized_state_dict.pt"}:
        raise Refused("unsafe", as_onnx("exported", INSTEAD), "an exported program (torch.export, .pt2)")
    if root:
        return str(root)
    kinds = {
        "model.weights.h5": "a Keras model (.keras)", "saved_model.pb": "a TensorFlow SavedModel",
        "MANIFEST.json": "a TorchServe archive (.mar)", "MANIFEST.MF": "a Java archive",
        "[Content_Types].xml": "an Office document", "META-INF": "a Java archive",
    }  # fmt: skip
    for name, what in kinds.items():
        if name in tail:
            made = {"model.weights.h5": "keras", "saved_model.pb": "tensorflow"}.get(name)
            raise Refused("unsupported", RULES[made or "other"], what)
    few = ", ".join(sorted(names)[:3])
    got = f"{len(roots)} of them" if roots else f"a zip archive of {shown(few) or 'nothing'}"
    raise Refused("unsupported", f"an archive with one data.pkl in its folder ({SAVE})", got)


def _legacy(source: int, size: int, limits: Limits) -> tuple[Any, Fetch]:
    data = pread(source, min(size, limits.header_bytes), 0)
    at = 0
    torch = Torch(limits)

    def next_pickle() -> Any:
        nonlocal at
        machine = Machine(data, limits, torch.resolve, torch.persistent, at)
        found = machine.run()
        at = machine.at
        return found

    if next_pickle() != MAGIC:
        rule = f"a file that torch.save or safetensors wrote ({SAVE})"
        raise Refused("unsupported", rule, "a pickle that torch.save did not write")
    if next_pickle() != PROTOCOL:
        raise Refused("unsupported", f"a file of protocol {PROTOCOL}", "another")
    system = next_pickle()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("unsupported", "a file from a little-endian machine", "another")
    state = next_pickle()
    places = _storages(source, size, next_pickle, lambda: at, torch.storages)

    def fetch(storage: Storage) -> Iterator[bytes]:
        if storage.key not in places:
            raise Refused("corrupt", WHOLE, f"no bytes for storage {shown(storage.key)}")
        return pieces(source, storage.nbytes, places[storage.key])

    return state, fetch


def _storages(
    source: int,
    size: int,
    next_pickle: Callable[[], Any],
    where: Callable[[], int],
    known: Mapping[str, Storage],
) -> dict[str, int]:
    """Where the bytes of each storage begin: a list of keys, then length and bytes of each in turn."""
    keys = next_pickle()
    if not isinstance(keys, list) or not all(isinstance(k, str) and k in known for k in keys):
        raise Refused("corrupt", WHOLE, "a list of storages that the state dict does not name")
    at, places = where(), {}
    for key in keys:
        storage = known[key]
        if key in places or int.from_bytes(pread(source, 8, at), "little") * storage.item != storage.nbytes:
            raise Refused("corrupt", WHOLE, f"storage {shown(key)} twice, or of another size")
        places[key] = at + 8
        at += 8 + storage.nbytes
        if at > size:
            raise Refused("corrupt", WHOLE, f"{size} bytes for storages that end at {at} (is it truncated?)")
    if at != size:
        raise Refused("corrupt", WHOLE, f"{size - at} bytes after the last storage")
    return places


def write(
    state: Mapping[str, Tensor],
    fetch: Fetch,
    target: int,
    room: int,
    limits: Limits,
    metadata: Mapping[str, str],
) -> None:
    """Tensors of at most ``room`` bytes as a safetensors file, storage by storage."""
    if len(state) > limits.tensors:
        raise Refused("too large", f"a file of at most {limits.tensors} tensors", str(len(state)))
    total, header, by_storage = 0, {}, {}  # type: int, dict[str, Any], dict[str, list[tuple[Tensor, int]]]
    for name, tensor in state.items():
        check_name(name, limits.name_chars)
        if name == "__metadata__":
            raise Refused("unsupported", "tensors under other names", name)
        end = total + tensor.nbytes
        if end > room:
            rule = f"a file that grows at most {limits.growth}-fold, to at most {room} bytes of tensors"
            raise Refused("too large", rule, f"more, when views that share memory are copied ({shown(name)})")
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [total, end]}
        if tensor.nbytes:
            by_storage.setdefault(tensor.storage.key, []).append((tensor, total))
        total = end
    if metadata:
        header["__metadata__"] = dict(metadata)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > limits.header_bytes:
        rule = f"a file whose names and shapes take at most {limits.header_bytes} bytes"
        raise Refused("too large", rule, str(len(text)))
    _put(target, struct.pack("<Q", len(text)) + text, 0)
    start = 8 + len(text)
    for users in by_storage.values():
        storage = users[0][0].storage
        places = [(tensor, start + at) for tensor, at in users]
        if all(_in_a_row(tensor) for tensor, _ in places):
            _stream(fetch(storage), places, target)
            continue
        raw = memoryview(_joined(fetch(storage), storage.nbytes))
        for tensor, place in places:
            _put(target, flat(raw, tensor), place)


def _stream(chunks: Iterable[bytes], users: list[tuple[Tensor, int]], target: int) -> None:
    """Tensors that lie in a row in their storage, whatever their size, with little of it in memory."""
    spans = []
    for tensor, place in users:
        begin = tensor.offset * DTYPES[tensor.dtype].size
        spans.append((begin, begin + tensor.nbytes, place - begin))
    spans.sort(reverse=True)
    open_now: list[tuple[int, int, int]] = []
    at = 0
    for chunk in chunks:  # to the end, for the checksum
        view, end = memoryview(chunk), at + len(chunk)
        while spans and spans[-1][0] < end:
            open_now.append(spans.pop())
        for begin, stop, shift in open_now:
            low, high = max(begin, at), min(stop, end)
            _put(target, view[low - at : high - at], low + shift)
        open_now = [span for span in open_now if span[1] > end]
        at = end


def _joined(chunks: Iterable[bytes], size: int) -> bytearray:
    out, at = bytearray(size), 0
    for chunk in chunks:
        out[at : at + len(chunk)] = chunk
        at += len(chunk)
    return out


def _put(target: int, data: bytes | memoryview | bytearray, offset: int) -> None:
    view, done = memoryview(data), 0
    try:
        while done < len(view):
            done += os.pwrite(target, view[done:], offset + done)
    except OSError as exc:
        rule = "a file whose tensors fit into the temporary folder (TMPDIR names another)"
        raise Refused("too large", rule, exc.strerror or str(exc)) from None


def _in_a_row(tensor: Tensor) -> bool:
    """Whether a view's elements lie in its storage as they do in the file that is written."""
    step = 1
    for n, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


def flat(raw: memoryview, tensor: Tensor) -> memoryview:
    """The bytes of a view, row-major; its bounds were checked when it was made."""
    item = DTYPES[tensor.dtype].size
    dims = [(n, step) for n, step in zip(tensor.shape, tensor.strides, strict=True) if n != 1]
    steps = [math.prod(n for n, _ in dims[i + 1 :]) for i in range(len(dims))]
    begin = tensor.offset * item
    if _in_a_row(tensor):
        return raw[begin : begin + tensor.nbytes]
    code: Any = {1: "B", 2: "H", 4: "I", 8: "Q"}[item]
    whole: memoryview = raw[: len(raw) // item * item].cast(code)
    out: memoryview = memoryview(bytearray(tensor.nbytes)).cast(code)
    axes = list(zip([n for n, _ in dims], [s for _, s in dims], steps, strict=True))
    inner = max(axes, key=lambda a: (a[1] > 0, a[0]))
    axes.remove(inner)
    count, step, stride = inner
    if math.prod(n for n, _, _ in axes) > ROWS:
        rule = f"strided tensors of at most {ROWS} rows (save tensor.contiguous())"
        raise Refused("too large", rule, f"one of shape {shown(list(tensor.shape))}")
    froms = itertools.product(*([i * s for i in range(n)] for n, s, _ in axes))
    tos = itertools.product(*([i * s for i in range(n)] for n, _, s in axes))
    span, reach = (count - 1) * stride + 1, (count - 1) * step + 1
    for parts, places in zip(froms, tos, strict=True):
        a, b = tensor.offset + sum(parts), sum(places)
        if step:
            out[b : b + span : stride] = whole[a : a + reach : step]
        else:  # the whole view is one element
            out[b : b + span : stride] = memoryview(whole[a : a + 1].tobytes() * count).cast(code)
    return out.cast("B")
