"""Tensors that say they are on ``cuda:0`` and are host memory: what a GPU refuses is refused here as well.

Inside of ``with PretendedGpu():``, in that thread, ``to("cuda")`` and ``device="cuda"`` make such tensors,
and functions compute on the memory behind them. Tensors of the host beside them, but single numbers, raise,
as do ``numpy()`` and addresses. Our own ops run as a GPU would run them: never the C++ for CPUs, but
``triton`` where its interpreter is on and the arguments suit, else the reference. It knows of no streams:
that is ``tests/lazy.py``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from uapfast.ops._registry import OPS

PLACE = torch.device("cuda", 0)
OWN = {Tensor.device.__get__, Tensor.is_cuda.__get__, Tensor.is_cpu.__get__, Tensor.get_device}  # type: ignore[attr-defined]
HOST_ONLY = {Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.untyped_storage, torch.from_numpy}
MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.copy_, torch.as_tensor}  # between devices, as asked for


class There(Tensor):
    """A tensor on the pretended GPU; ``memory`` is where its numbers are."""

    memory: Tensor

    @staticmethod
    def __new__(cls, memory: Tensor) -> There:  # noqa: D102
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, memory.shape, strides=memory.stride(), dtype=memory.dtype, device=PLACE
        )
        made.memory = memory
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Outside of the mode too."""
        return run(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Whatever got past the functions would need a kernel."""
        raise RuntimeError(f"{func} was called on {PLACE} itself")


def memory_of(value: Any) -> Any:
    """``value`` with the memory of tensors that are there."""
    return tree_map_only(There, lambda t: t.memory, value)


def asked_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call names."""
    if func in (Tensor.cpu, Tensor.cuda):
        return torch.device(func.__name__)
    named = [kwargs.get("device"), *(args[1:] if func is Tensor.to else ())]
    return next((torch.device(d) for d in named if isinstance(d, str | torch.device)), None)


def taken(name: str, args: tuple[Any, ...]) -> str:
    """The backend of our op that a GPU would take."""
    for backend in OPS[name].backends:
        if backend.name == "triton" and backend.why_off() is None and backend.refuses(*args) is None:
            return "triton"
    return "reference"


def run(func: Any, args: Any, kwargs: dict[str, Any], used: Counter[str] | None = None) -> Any:
    """What ``func`` gives, on the pretended GPU if it was there or is asked to be."""
    there = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, There)]
    if func in OWN:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    if there and func in HOST_ONLY:
        raise TypeError(f"can't convert {PLACE} device type tensor to numpy: {func.__name__}")
    if there and func not in MOVES:
        flat = [
            t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor) and not isinstance(t, There)
        ]
        strangers = [list(t.shape) for t in flat if t.dim()]
        if strangers:
            raise RuntimeError(f"{func}: all tensors must be on {PLACE}, but {strangers} are on the CPU")
    wanted = asked_device(func, args, kwargs)
    out_there = bool(there) if wanted is None else wanted.type == PLACE.type
    if func is Tensor.copy_:
        out_there = isinstance(args[0], There)
    args, kwargs = memory_of(args), memory_of(kwargs)
    if wanted is not None:
        host = torch.device("cpu")
        args = tuple(host if isinstance(a, str | torch.device) and i else a for i, a in enumerate(args))
        kwargs = {k: host if k == "device" else v for k, v in kwargs.items()}
        func = Tensor.cpu if func is Tensor.cuda else func
    if there and isinstance(func, torch._ops.OpOverload) and func.namespace == "uapfast":
        name = func.overloadpacket.__name__
        args = (*args[:-1], args[-1] or taken(name, args[:-1]))
        if used is not None:
            used[f"{name} {args[-1]}"] += 1
    with torch._C.DisableTorchFunctionSubclass():
        found = func(*args, **kwargs)
    if not out_there:
        return found
    known = {id(t.memory): t for t in there}  # in place: the tensor that was given
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else There(t), found)


class PretendedGpu(TorchFunctionMode):
    """See the module; ``used`` counts which backends of our ops ran there."""

    def __init__(self) -> None:
        super().__init__()
        self.used: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it here or there."""
        return run(func, args, kwargs or {}, self.used)


__all__ = ["PLACE", "PretendedGpu", "There"]
