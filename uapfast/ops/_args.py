"""What the ops share in checking arguments and handing tensors to the core."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uapfast.errors import InputError

DTYPE_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.uint8: 4,
}
"""Element types as csrc/include/uapfast/dtype.h numbers them."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def show(tensor: Tensor) -> str:
    """A tensor in a message: ``float32 [3, 4] on cpu``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def need(condition: bool, op: str, argument: str, rule: str, got: object) -> None:
    """Raise InputError unless ``condition`` holds."""
    if not condition:
        raise InputError(op, argument, rule, show(got) if isinstance(got, Tensor) else got)


def need_tensor(
    op: str, argument: str, tensor: Tensor, axes: str, dtypes: tuple[torch.dtype, ...] = FLOATS
) -> None:
    """Raise InputError unless ``tensor`` has as many axes as ``axes`` names, and one of ``dtypes``."""
    if tensor.dim() != axes.count(",") + 1 or tensor.dtype not in dtypes:  # the message costs microseconds
        names = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        need(False, op, argument, f"{names} [{axes}]", tensor)


def need_like(
    op: str, argument: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, other: Tensor
) -> None:
    """Raise InputError unless ``tensor`` has this shape and dtype, and the device of ``other``."""
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or tensor.device != other.device:
        rule = f"{str(dtype).removeprefix('torch.')} {list(shape)} on {other.device}, as the others"
        need(False, op, argument, rule, tensor)


def need_norm(op: str, p: float, allowed: tuple[float, ...]) -> None:
    """Raise InputError unless ``p`` is one of ``allowed``."""
    if p not in allowed:
        names = ", ".join("inf" if math.isinf(a) else f"{a:g}" for a in allowed)
        need(False, op, "p", f"one of {names}", p)


def rows_of(tensor: Tensor) -> Tensor:
    """``tensor`` itself if its last axis has unit stride, else a copy: the one place where ops copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()


def cpu_floats_only(tensor: Tensor) -> str | None:
    """Why the compiled CPU kernels do not take ``tensor``; None if they do."""
    if tensor.device.type != "cpu":
        return "tensors on the CPU"
    return None if tensor.dtype in (torch.float32, torch.float64) else "float32 or float64"


def cuda_floats_only(tensor: Tensor) -> str | None:
    """Why the compiled CUDA kernels do not take ``tensor``; None if they do."""
    if tensor.device.type != "cuda":
        return "tensors on a CUDA device"
    return "float32, float16 or bfloat16" if tensor.dtype == torch.float64 else None


def place_of(tensor: Tensor) -> tuple[int, int]:
    """Device of a CUDA tensor, and the stream that the caller is on there, as the core takes them."""
    stream = torch.cuda.current_stream(tensor.device)
    return stream.device_index, stream.cuda_stream
