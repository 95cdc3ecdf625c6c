"""Plain data that honest checkpoints keep beside their tensors, by the names that pickle gives it.

Nothing here is made: an object of such a class is one constant that says what it is, and what it would hold
is dropped. So arguments, a scheduler's milestones, a best score of numpy's or a path do not make a program
of a checkpoint. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uapfast.safeload.opcodes import FROZENSET, SET, Inert, Named, Ordered
from uapfast.safeload.refusal import Refused, shown

PLAIN = "a pickle of tensors and plain data"
BUILTINS = ("builtins", "__builtin__")  # protocols 0 to 2 write Python 2's name
TYPES = "list dict tuple int float str bool type object unicode long NoneType Ellipsis NotImplemented".split()
ARRAY, SCALAR, RANDOM = "an array of numpy", "a number of numpy", "a random state of numpy"
OBJECTS = {
    "argparse.Namespace": "arguments", "types.SimpleNamespace": "a namespace", "collections.deque": "a deque",
    "datetime.datetime": "a time", "datetime.date": "a date", "datetime.time": "a time",
    "datetime.timedelta": "a duration", "datetime.timezone": "a time zone", "decimal.Decimal": "a decimal",
    "fractions.Fraction": "a fraction", "uuid.UUID": "a UUID",
} | {f"pathlib.{place}{kind}": "a path"
     for place in ("", "_local.")
     for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
}  # fmt: skip
CALLED = {  # functions and types that build plain data: what, and of how many arguments at least
    "builtins.range": ("a range", 1), "builtins.xrange": ("a range", 1), "builtins.slice": ("a slice", 1),
    "builtins.complex": ("a complex number", 0), "builtins.bytearray": ("bytes", 0),
    "numpy.dtype": ("a type of numpy", 1), "torch.serialization._get_layout": ("a layout", 1),
} | {f"numpy.{core}.{name}": (what, least)
     for core in ("core", "_core")
     for name, what, least in (("multiarray.scalar", SCALAR, 2), ("multiarray._reconstruct", ARRAY, 3),
                               ("numeric._frombuffer", ARRAY, 4))}  # fmt: skip
NUMPY_RANDOM = ("__randomstate_ctor", "__bit_generator_ctor", "__generator_ctor")
NUMPY_TYPES = (
    "ndarray bool_ float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 str_".split()
)
GENERATORS = {"_mt19937": "MT19937", "_pcg64": "PCG64", "_philox": "Philox", "_sfc64": "SFC64"}
TORCH_VALUES = """
strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc jagged _mkldnn
channels_last channels_last_3d contiguous_format legacy_contiguous_format preserve_format
per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric
per_channel_affine_float_qparams
""".split()


def plain_names() -> dict[str, Named]:
    """What stands for each name of plain data; the whole table, so that nothing else is taken for it."""
    found: dict[str, Named] = {}
    for name, what in OBJECTS.items():
        made = Inert(what)
        found[name] = Named(name, _given(name, made, 0), made=made)
    for name, (what, least) in CALLED.items():
        found[name] = Named(name, _given(name, Inert(what), least))
    random = Inert(RANDOM)
    for name in NUMPY_RANDOM:
        full = f"numpy.random._pickle.{name}"
        found[full] = Named(full, _given(full, random, 0))
    for place, kind in GENERATORS.items():
        found[f"numpy.random.{place}.{kind}"] = Named(f"numpy.random.{place}.{kind}", made=random)
    torch = (f"{place}.{v}" for v in TORCH_VALUES for place in ("torch", "torch._utils.torch"))
    for name in (*(f"numpy.{t}" for t in NUMPY_TYPES), *torch):  # protocol 4 finds the second kind there
        found[name] = Named(name)
    found["typing.Any"] = Named("typing.Any")  # omegaconf's, beside every value
    for kind, made in (("set", SET), ("frozenset", FROZENSET)):
        found[f"builtins.{kind}"] = Named(f"builtins.{kind}", _given(f"builtins.{kind}", made, 0))
    for kind in TYPES:
        found[f"builtins.{kind}"] = Named(f"builtins.{kind}")
    for name in [n for n in found if n.startswith("builtins.")]:
        found[name.replace("builtins", "__builtin__", 1)] = found[name]
    found["builtins.bytes"] = found["__builtin__.bytes"] = Named("builtins.bytes", _no_bytes)
    for place in ("copyreg", "copy_reg"):
        found[f"{place}._reconstructor"] = Named(f"{place}._reconstructor", _reconstructed)
    found["_codecs.encode"] = Named("_codecs.encode", _encoded)
    found["collections.Counter"] = Named("collections.Counter", _counted)
    found["collections.defaultdict"] = Named("collections.defaultdict", _defaulting)
    return found


def _given(name: str, what: Inert, least: int) -> Callable[..., Inert]:
    def give(*arguments: Any) -> Inert:
        if len(arguments) < least:
            raise _call(name)
        return what

    return give


def _call(name: str) -> Refused:
    return Refused("unsafe", PLAIN, f"a call of {shown(name)} with arguments of another form")


def _reconstructed(kind: Any = None, base: Any = None, state: Any = None) -> Inert:
    """How protocols 0 and 1 write objects."""
    plain = isinstance(kind, Named) and kind.made is not None and state is None
    if not plain or not isinstance(base, Named) or base.name != "builtins.object":
        raise _call("copyreg._reconstructor")
    made: Inert = kind.made
    return made


def _encoded(text: Any = None, code: Any = None) -> bytes:
    """How protocols below 3 write bytes."""
    if not isinstance(text, str) or code not in ("latin1", "latin-1"):
        raise _call("_codecs.encode")
    return text.encode("latin-1")


def _no_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise _call("builtins.bytes")
    return b""


def _counted(counts: Any = None) -> dict[Any, Any]:
    if counts is None:
        return Ordered()
    if not isinstance(counts, dict):
        raise _call("collections.Counter")
    return counts


def _defaulting(factory: Any = None) -> Ordered:
    if factory is not None and not isinstance(factory, Named):
        raise _call("collections.defaultdict")
    return Ordered()
