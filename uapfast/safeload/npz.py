"""Arrays of an ``.npz`` as tensors by name. Headers are matched, not evaluated. Standard library only.

Format: numpy.lib.format, versions 1 to 3. Arrays of objects are pickles, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.header import byte_count
from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused, check_name, shown
from uapfast.safeload.torchpickle import Storage, Tensor
from uapfast.safeload.ziparchive import Archive, ArchiveMember

MAGIC, ENDING = b"\x93NUMPY", ".npy"
WHOLE = "a whole .npz file"
TYPES = "real or whole numbers, little-endian (numpy.savez of plain arrays)"
LONGEST = 4096  # bytes of an array's header; a shape of 64 numbers needs less
HEAD = re.compile(
    r"\{'descr': '([<>|=][a-zA-Z][0-9]{0,4})', 'fortran_order': (True|False), "
    r"'shape': \(((?:[0-9]{1,19}L?(?:, ?[0-9]{1,19}L?)*,?)?)\),? ?\} *\n?"
)
DESCR = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<u2": "U16", "<i2": "I16", "<u4": "U32", "<i4": "I32",
    "<u8": "U64", "<i8": "I64", "<f2": "F16", "<f4": "F32", "<f8": "F64",
}  # fmt: skip


def is_npz(names: Collection[str]) -> bool:
    """Whether an archive holds arrays of numpy alone."""
    return bool(names) and all(name.endswith(ENDING) for name in names)


def npz_tensors(archive: Archive, limits: Limits) -> dict[str, Tensor]:
    """Tensors of all arrays, by their names without ``.npy``.

    The storage of each is its record in the archive; the array begins behind the header.

    Raises:
        Refused: objects, text, complex or big-endian numbers; a header that contradicts its record.
    """
    if len(archive.records) > limits.tensors:
        raise Refused("too large", f"a file of at most {limits.tensors} tensors", str(len(archive.records)))
    found = {}
    for record in archive.records.values():
        name = check_name(record.name.removesuffix(ENDING), limits.name_chars)
        found[name] = _tensor(archive, record, name, limits)
    return found


def _broken(got: str) -> Refused:
    return Refused("corrupt", WHOLE, got)


def _tensor(archive: Archive, record: ArchiveMember, name: str, limits: Limits) -> Tensor:
    head = next(archive.chunks(record), b"")[: LONGEST + 12]
    wide = head[6:7] in (b"\2", b"\3")
    begin = 12 if wide else 10
    if head[:6] != MAGIC or len(head) < begin or head[6] not in (1, 2, 3):
        raise _broken(f"no array of numpy in {shown(record.name)}")
    length = int.from_bytes(head[8:begin], "little")
    if length > LONGEST or begin + length > len(head):
        raise _broken(f"a header of {length} bytes for array {shown(name)}")
    text = head[begin : begin + length].decode("latin-1")
    read = HEAD.fullmatch(text)
    if read is None:
        raise Refused("unsupported", TYPES, f"{shown(text.strip(), 80)} for array {shown(name)}")
    descr, fortran, sizes = read.groups()
    if descr == "|O":
        raise Refused("unsafe", "arrays without pickles in them", f"objects in array {shown(name)}")
    dtype = DESCR.get(descr)
    if dtype is None:
        raise Refused("unsupported", TYPES, f"{shown(descr)} for array {shown(name)}")
    shape = [int(n.strip(" L")) for n in sizes.split(",") if n.strip()]
    nbytes, item = byte_count(name, shape, DTYPES[dtype].size, limits), DTYPES[dtype].size
    if begin + length + nbytes != record.size:
        raise _broken(f"{record.size - begin - length} bytes for array {shown(name)} of {nbytes}")
    if (begin + length) % item:
        raise Refused("unsupported", "arrays that begin at a multiple of their items", shown(name))
    storage = Storage(record.name, dtype, record.size)
    strides = _strides(shape, fortran == "True")
    return Tensor(storage, dtype, (begin + length) // item, tuple(shape), strides, nbytes)


def _strides(shape: list[int], fortran: bool) -> tuple[int, ...]:
    out, step = [], 1
    for n in shape if fortran else reversed(shape):
        out.append(step)
        step *= n
    return tuple(out if fortran else reversed(out))


__all__ = ["is_npz", "npz_tensors"]
