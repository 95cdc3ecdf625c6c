"""What a state dict's pickle may mention: tensors, their storages, plain containers. Standard library only.

The names are those of ``torch.save`` (torch/_utils.py, torch/serialization.py). A name that is not in the
table is refused; the commonest are refused with what to do about them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from uapfast.safeload.dtypes import DTYPES
from uapfast.safeload.limits import Limits
from uapfast.safeload.opcodes import Foreign, Named, Ordered, Unread
from uapfast.safeload.plaindata import plain_names
from uapfast.safeload.refusal import Refused, shown

SAVE = "save the state dict alone: torch.save(model.state_dict(), path), or safetensors"
WHOLE = "a whole state dict"
DENSE = "a state dict of plain dense tensors"
DEQUANTISED = f"{DENSE} (save t.dequantize() in place of every t that is quantised)"
PYTHON_2 = ("__builtin__", "commands")
STORAGES = {
    "BoolStorage": "BOOL", "ByteStorage": "U8", "CharStorage": "I8", "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64", "HalfStorage": "F16", "BFloat16Storage": "BF16", "FloatStorage": "F32",
    "DoubleStorage": "F64",
}  # fmt: skip
BY_TORCH = {d.torch: name for name, d in DTYPES.items()} | {
    "half": "F16", "float": "F32", "double": "F64", "long": "I64", "int": "I32", "short": "I16"
}  # fmt: skip
# Kinds of tensors that are known and not read: the functions that make them,
OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor (without values)",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
}
# their storages, with the bytes of an element,
COMPLEX, QUANTISED = "a complex tensor", "a quantised tensor"
OTHER_STORAGES = {
    "ComplexFloatStorage": (COMPLEX, 8),
    "ComplexDoubleStorage": (COMPLEX, 16),
    "QInt8Storage": (QUANTISED, 1),
    "QUInt8Storage": (QUANTISED, 1),
    "QInt32Storage": (QUANTISED, 4),
    "QUInt4x2Storage": (QUANTISED, 1),
    "QUInt2x4Storage": (QUANTISED, 1),
}
# and their types, which may stand in a checkpoint as plain values too.
OTHER_DTYPES = (
    dict.fromkeys("complex32 complex64 complex128 chalf cfloat cdouble".split(), COMPLEX)
    | dict.fromkeys("qint8 quint8 qint32 quint4x2 quint2x4".split(), QUANTISED)
    | {"float8_e8m0fnu": "a tensor of scales without sign or fraction"}
    | {
        name: "a tensor of elements of less than a byte, or of bits"
        for name in (*(f"{sign}int{n}" for sign in ("", "u") for n in range(1, 8)), "float4_e2m1fn_x2",
                     "bit", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2")
    }
)  # fmt: skip
TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
SUBCLASS = ("torch._tensor._rebuild_from_type_v2", "torch._utils._rebuild_wrapper_subclass")


class Storage:
    """Bytes that tensors share.

    Its key in the file, safetensors type (None: untyped, or not read), size in bytes, bytes of an element,
    and what its tensors are where they are not read.
    """

    __slots__ = ("dtype", "item", "key", "nbytes", "unread")

    def __init__(
        self, key: str, dtype: str | None, nbytes: int, item: int | None = None, unread: str | None = None
    ) -> None:
        self.key, self.dtype, self.nbytes, self.unread = key, dtype, nbytes, unread
        self.item = item or (DTYPES[dtype].size if dtype else 1)


class Tensor:
    """A view of a storage: type, offset, sizes, strides (in elements), size in bytes when contiguous."""

    __slots__ = ("dtype", "nbytes", "offset", "shape", "storage", "strides")

    def __init__(
        self,
        storage: Storage,
        dtype: str,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        nbytes: int,
    ) -> None:
        self.storage, self.dtype, self.offset = storage, dtype, offset
        self.shape, self.strides, self.nbytes = shape, strides, nbytes


class Torch:
    """The table of names for one file, and the storages that it mentioned."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.storages: dict[str, Storage] = {}
        self.tensors = 0
        table: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": _ordered,
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.tensor_v3,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._tensor._rebuild_from_type_v2": self.typed,
            "torch.Size": lambda sizes=(): tuple(sizes),
            "torch.device": _plain,
        }
        self.makers = [
            call for name, call in table.items() if "_rebuild_tensor" in name or "_parameter" in name
        ]
        self.recent: list[str] = []
        self.names = plain_names() | {name: Named(name, call) for name, call in table.items()}
        for place in ("torch", "torch.cuda"):
            for name, dtype in STORAGES.items():
                self._name(f"{place}.{name}", ("storage", dtype, DTYPES[dtype].size, None))
            for name, (unread, item) in OTHER_STORAGES.items():
                self._name(f"{place}.{name}", ("storage", None, item, unread))
        for name in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
            self._name(name, ("storage", None, 1, None))
        for name, dtype in BY_TORCH.items():
            self._name(f"torch.{name}", ("dtype", dtype, None))
        for name, unread in OTHER_DTYPES.items():
            self._name(f"torch.{name}", ("dtype", None, unread))
        for name in TENSOR_CLASSES:
            self._name(name, ("tensor",))
        for name, unread in OTHER_TENSORS.items():
            self.names[name] = Named(name, partial(_unread, f"{unread} ({name})"))

    def _name(self, name: str, value: tuple[Any, ...]) -> None:
        self.names[name] = Named(name, value=value)

    def resolve(self, module: str, name: str) -> Named:
        """What stands for ``module.name``.

        A class of foreign code stands for objects that are never made and hold nothing; a call of it is
        refused, and so is an object of it where tensors are. Raises ``Refused`` for names of Python's own
        library and for networks.
        """
        full = f"{module}.{name}"
        before, self.recent = self.recent, [*self.recent[-1:], full]
        if full in self.names:
            return self.names[full]
        root = module.partition(".")[0]
        if module.startswith(("torch.nn", "torchvision", "timm")):
            what = "a pickled module"
        elif root in sys.stdlib_module_names or root in PYTHON_2:
            what = "a program"
        elif not set(SUBCLASS).isdisjoint(before):
            raise Refused("unsupported", DENSE, f"a tensor subclass, {shown(full)}")
        else:
            what = "an object of foreign code"
            if "." not in name and (root != "torch" or module.startswith("torch.optim.")):
                return Named(full, made=Foreign(f"{what} that names {shown(full)}"))
        raise Refused("unsafe", f"tensors without code ({SAVE})", f"{what} that names {shown(full)}")

    def persistent(self, pid: Any) -> Storage:
        """``("storage", type, key, location, numel[, view])``; the location does not matter here."""
        if isinstance(pid, tuple) and pid[:1] == ("module",):
            raise Refused("unsafe", f"tensors without code ({SAVE})", "a pickled module with its source")
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not isinstance(pid[0], str):
            raise _bad("a persistent id of another form")
        kind, named, key, _, numel = pid[:5]
        if (
            kind != "storage"
            or not isinstance(named, Named)
            or not named.value
            or named.value[0] != "storage"
        ):
            raise _bad(f"a persistent id that names no storage type ({shown(kind)})")
        if not isinstance(key, str) or len(key) > 64 or not _size(numel):
            raise _bad("a storage without a key or a size")
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("unsupported", f"a file by torch 0.4 or newer ({SAVE})", "a view of a storage")
        _, dtype, item, unread = named.value
        made = Storage(key, dtype, numel * item, item, unread)
        found = self.storages.setdefault(key, made)
        if (found.dtype, found.nbytes, found.item) != (dtype, made.nbytes, item):
            raise _bad(f"storage {shown(key)} with two sizes or types")
        return found

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Tensor | Unread:
        """``_rebuild_tensor_v2``: requires_grad and hooks do not matter; metadata must be empty."""
        if isinstance(storage, Storage) and storage.unread:
            return Unread(storage.unread)
        if not isinstance(storage, Storage) or storage.dtype is None:
            raise _bad("a tensor without a typed storage")
        return self._view(storage, storage.dtype, offset, size, stride, more[2:])

    def tensor_v3(self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Tensor | Unread:
        """``_rebuild_tensor_v3``: bytes, and the type beside them."""
        dtype = more[2].value if len(more) > 2 and isinstance(more[2], Named) else None
        if not isinstance(storage, Storage) or not dtype or dtype[0] != "dtype":
            raise _bad("a tensor without a storage or a type")
        if dtype[2]:
            return Unread(f"{dtype[2]} ({more[2].name})")
        return self._view(storage, dtype[1], offset, size, stride, more[3:])

    def typed(self, make: Any = None, kind: Any = None, arguments: Any = None, *_: Any) -> Any:
        """``_rebuild_from_type_v2``: a tensor with attributes, which are dropped."""
        known = isinstance(make, Named) and make.call in self.makers and isinstance(arguments, tuple)
        if not known or not isinstance(kind, Named) or kind.value != ("tensor",):
            return Unread("a tensor subclass, or a tensor with attributes")
        return make.call(*arguments)

    def _view(
        self, storage: Storage, dtype: str, offset: Any, size: Any, stride: Any, metadata: Any
    ) -> Tensor | Unread:
        if any(metadata):
            return Unread("a tensor with conjugate or negative bits")
        self.tensors += 1
        if self.tensors > 2 * self.limits.tensors:
            raise Refused(
                "too large", f"a file of at most {self.limits.tensors} tensors", "more than twice that"
            )
        sizes = isinstance(size, tuple | list) and all(map(_size, size))
        if not sizes or not isinstance(stride, tuple | list) or len(stride) != len(size) or not _size(offset):
            raise _bad("a tensor with a shape, strides or offset that are not sizes")
        if not all(map(_size, stride)):
            raise _bad("a tensor with negative strides")
        if len(size) > self.limits.dimensions:
            raise Refused(
                "too large", f"tensors of at most {self.limits.dimensions} dimensions", str(len(size))
            )
        item = DTYPES[dtype].size
        nbytes, span, last = item, item, offset
        for n, step in zip(size, stride, strict=True):
            nbytes, span, last = nbytes * n, span * max(n, 1), last + max(n - 1, 0) * step
            if span > self.limits.tensor_bytes:
                rule = f"tensors of at most {self.limits.tensor_bytes} bytes"
                raise Refused("too large", rule, f"one of shape {shown(list(size))}")
        if nbytes and (last + 1) * item > storage.nbytes:
            needs, has = (last + 1) * item, storage.nbytes
            got = f"a tensor that needs {needs} bytes of storage {shown(storage.key)} of {has}"
            raise Refused("corrupt", WHOLE, got)
        return Tensor(storage, dtype, offset, tuple(size), tuple(stride), nbytes)


def _bad(got: str) -> Refused:
    return Refused("corrupt", WHOLE, got)


def _size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _plain(*arguments: Any) -> None:
    """A device: inert."""


def _unread(what: str, *arguments: Any) -> Unread:
    return Unread(what)


def _ordered(pairs: Any = ()) -> Ordered:
    made = Ordered()
    if not isinstance(pairs, tuple | list):
        raise _bad("an OrderedDict of something other than pairs")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str | int):
            raise _bad("an OrderedDict of something other than pairs")
        made[pair[0]] = pair[1]
    return made


def _parameter(data: Any = None, *_: Any) -> Tensor | Unread:
    if not isinstance(data, Tensor | Unread):
        raise _bad("a parameter without a tensor")
    return data
