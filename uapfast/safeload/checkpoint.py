"""A weights file that was opened safely: what it holds, and its bytes on request."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from uapfast.errors import (
    CorruptFileError,
    InputError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedFileError,
    WeightsFileError,
)
from uapfast.safeload import source
from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.header import TAKEN, WHOLE, Header, TensorInfo, parse_header
from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused, shown

if TYPE_CHECKING:
    import numpy as np

FileKind = Literal["safetensors", "zip", "legacy pickle", "sharded"]
CHUNK = 1 << 20
VECTOR = 512  # buffers of one system call; POSIX promises 16, Linux takes 1024
ERRORS: dict[str, type[WeightsFileError]] = {
    "unsafe": UnsafeFileError,
    "corrupt": CorruptFileError,
    "too large": TooLargeError,
    "unsupported": UnsupportedFileError,
}


def error_of(refused: Refused, path: str) -> WeightsFileError:
    """The typed error of a refusal, with the file's name."""
    return ERRORS[refused.kind]("load", "weights", refused.rule, f"{refused.got} ({shown(path, 200)})")


class LastHeader:
    """The header that was read last, so that files of one population are parsed once. For one thread.

    A header counts as the same only if all of its bytes, the size of what follows and the limits are.
    """

    def __init__(self) -> None:
        self._key: tuple[bytes, int, Limits] | None = None
        self._header: Header | None = None

    def parse(self, raw: bytes, data_bytes: int, limits: Limits) -> Header:
        """As :func:`uapfast.safeload.header.parse_header`; the same object for the same header."""
        key = (raw, data_bytes, limits)
        if self._header is None or key != self._key:
            self._header, self._key = parse_header(*key), key
        return self._header


class Checkpoint:
    """Tensors of one file, read by ``pread`` when asked for; use it as a context manager.

    Nothing is mapped: a file that is truncated while it is read gives ``CorruptFileError``, not SIGBUS.
    Values are not judged: NaN is for the caller to see. Safe to read from several threads.

    Attributes:
        path: as given.
        kind: ``safetensors``, ``zip`` (``torch.save``, ``numpy.savez``), ``legacy pickle`` (``torch.save``
            before 1.6) or ``sharded``.
        tensors: by name, in the order of their bytes.
        metadata: free text of a safetensors file; nobody's promise.
        notes: what was chosen in reading, in sentences: which of several maps of tensors was taken.
        tier: what stood between the file and this process, for the record.
        header: what ``tensors`` and ``metadata`` come from.
    """

    def __init__(
        self, path: str, kind: FileKind, handle: int | None, header: Header, tier: str, note: str = ""
    ) -> None:
        self.path, self.kind, self.tier = path, kind, tier
        self.header = header
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(header.tensors)
        self.metadata: Mapping[str, str] = MappingProxyType(header.metadata if kind == "safetensors" else {})
        said = note or ("" if kind == "safetensors" else header.metadata.get(TAKEN, ""))
        self.notes: tuple[str, ...] = (shown(said, 400),) if said else ()
        self._handle: int | None = handle

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; a second call does nothing."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            os.close(handle)

    def read_into(self, name: str, buffer: memoryview | np.ndarray[Any, Any]) -> None:
        """Fill the caller's buffer with the bytes of one tensor, row-major, little-endian.

        Args:
            name: key of :attr:`tensors`.
            buffer: writable, C-contiguous, of exactly ``tensors[name].nbytes`` bytes, of any item type.

        Raises:
            InputError: unknown name, unfitting buffer, or a closed checkpoint.
            CorruptFileError: the file ends before, cannot be read, or holds a bool that is neither 0 nor 1.
        """
        info = self._info("read_into", name)
        view = _bytes_of(buffer, info)
        self._read(info, view, self.header.begins[name])
        if info.dtype == "BOOL":
            self._check_bools(name, view)

    def read_all_into(self, buffers: Iterable[memoryview]) -> None:
        """Fill one buffer a tensor, in the order of :attr:`tensors`; one system call for hundreds of them.

        Args:
            buffers: as :meth:`read_into` takes them, of bytes (format ``B``).

        Raises:
            InputError: an unfitting buffer, or a closed checkpoint.
            CorruptFileError: as :meth:`read_into`.
        """
        filled = []
        for (name, info), buffer in zip(self.header.tensors.items(), buffers, strict=True):
            view = _bytes_of(buffer, info)
            if info.nbytes:
                filled.append((name, view))
        for first in range(0, len(filled), VECTOR):
            self._read_run(filled[first : first + VECTOR])
        for name, view in filled:
            if self.header.tensors[name].dtype == "BOOL":
                self._check_bools(name, view)

    def _read_run(self, run: list[tuple[str, memoryview]]) -> None:
        """Tensors that follow each other in the file: at once, or one by one where that falls short."""
        handle, begin, last = self._open(run[0][0]), self.header.begins[run[0][0]], run[-1][0]
        end = self.header.begins[last] + self.header.tensors[last].nbytes
        try:
            got = os.preadv(handle, [view for _, view in run], begin)
        except OSError:
            got = 0
        if got != end - begin:
            for name, view in run:
                self._read(self.tensors[name], view, self.header.begins[name])

    def _check_bools(self, name: str, view: memoryview) -> None:
        if view.tobytes().translate(None, b"\0\1"):
            got = f"one that is neither 0 nor 1 in tensor {shown(name)}"
            raise error_of(Refused("corrupt", "a file of valid bools", got), self.path)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One tensor as a new array of its shape.

        BF16 comes as its bits in uint16, the 8-bit floats as theirs in uint8, since numpy has no such types.

        Raises:
            InputError: unknown name, or a closed checkpoint.
            CorruptFileError: as :meth:`read_into`.
        """
        import numpy as np

        info = self._info("read", name)
        out = np.empty(info.shape, dtype=DTYPES[info.dtype].numpy)
        self.read_into(name, out)
        return out

    def sha256(self) -> str:
        """SHA-256 of names, types, shapes and bytes, sorted by name.

        The same tensors give the same digest from any kind of file, and from a module that holds them
        (:func:`uapfast.models.model.tensors_sha256`).

        Raises:
            InputError: a closed checkpoint.
            CorruptFileError: the file ends before, or cannot be read.
        """
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(CHUNK, max((t.nbytes for t in self.tensors.values()), default=0))))
        for name in sorted(self.tensors):
            info = self.tensors[name]
            digest.update(f"{name}:torch.{DTYPES[info.dtype].torch}:{info.shape}".encode())
            for at in range(0, info.nbytes, CHUNK):
                part = buffer[: min(CHUNK, info.nbytes - at)]
                self._read(info, part, self.header.begins[name] + at)
                digest.update(part)
        return digest.hexdigest()

    def _info(self, where: str, name: str) -> TensorInfo:
        if name not in self.tensors:
            names = ", ".join(list(self.tensors)[:4])
            raise InputError(
                where, "name", f"a tensor of the file (it begins with {shown(names)})", shown(name)
            )
        return self.tensors[name]

    def _open(self, name: str) -> int:
        if self._handle is None:
            raise InputError("Checkpoint", "file", "open", f"a closed one (tensor {shown(name)})")
        return self._handle

    def _read(self, info: TensorInfo, view: memoryview, offset: int) -> None:
        try:
            source.read_at(self._open(info.name), view, offset)
        except Refused as exc:
            raise error_of(exc, self.path) from exc


def _bytes_of(buffer: memoryview | np.ndarray[Any, Any], info: TensorInfo) -> memoryview:
    view = buffer if type(buffer) is memoryview else memoryview(cast(Any, buffer))
    if view.readonly or not view.c_contiguous or view.nbytes != info.nbytes:
        got = f"{view.nbytes} bytes{', read-only' * view.readonly}{', strided' * (not view.c_contiguous)}"
        raise InputError("read_into", "buffer", f"writable, contiguous, of {info.nbytes} bytes", got)
    if view.format == "B" and view.ndim == 1:
        return view
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def read_header(handle: int, size: int, limits: Limits, last: LastHeader | None = None) -> Header:
    """Read and check the header of an open safetensors file of ``size`` bytes; raises ``Refused``."""
    if size < 8:
        raise Refused("corrupt", WHOLE, f"{size} bytes")
    length = int.from_bytes(source.read_bytes(handle, 0, 8), "little")
    if length > size - 8:
        raise Refused("corrupt", WHOLE, f"a header of {length} bytes in a file of {size} (is it truncated?)")
    if length > limits.header_bytes:
        rule = f"a safetensors file with a header of at most {limits.header_bytes} bytes"
        raise Refused("too large", rule, str(length))
    return (last.parse if last else parse_header)(
        source.read_bytes(handle, 8, length), size - 8 - length, limits
    )
