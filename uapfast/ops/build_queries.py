"""From images and perturbations to the batches that a classifier is asked with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from uapfast import _native
from uapfast.errors import InputError
from uapfast.ops import _args, _triton
from uapfast.ops._registry import AUTO, Backend, define, native_backends

NAME = "build_queries"
IMAGES = (torch.uint8, torch.float32)
OUTPUTS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def build_queries(
    images: Tensor,
    uaps: Tensor | None = None,
    assign: Tensor | None = None,
    *,
    t: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    clean: bool = True,
    out: Tensor | None = None,
    backend: str = AUTO,
) -> Tensor:
    """Clean and perturbed images, clamped to 0..1, normalised, cast and laid out, in one pass.

    Slot 0 of the result holds the clean images ``x``, the others ``clamp(x + t * v, 0, 1)``; both then
    become ``(value - mean) / std`` by channel. ``result.flatten(0, 1)`` is a view: one batch for a model.

    Args:
        images: ``[N, C, H, W]`` uint8 (0..255, divided by 255) or float32 (0..1; clamped, NaN stays).
        uaps: ``[P, C, H, W]`` float32, perturbations in units of 0..1; None: clean images only.
        assign: int64 ``[N]`` in 0..P-1: the perturbation of each image (two slots: pairs); None: every
            image with every perturbation (1 + P slots). Its range is checked on the CPU only.
        t: how far along the perturbations; finite.
        mean: C numbers in units of 0..1; None: 0.
        std: C numbers > 0; None: 1.
        dtype: of the result: float32, float16, bfloat16, float64.
        channels_last: lay C innermost, as ``torch.channels_last`` of the flattened batch.
        clean: whether slot 0 is the clean images; without it the slots are the perturbations alone.
        out: buffer to write: the result's shape and dtype, strides as ``channels_last`` says. A fresh one
            is allocated if left out.
        backend: ``cpu``, ``scalar``, ``avx2``, ``avx512``, ``triton``, ``reference``; left out, the fastest
            that applies.

    Returns:
        ``[slots, N, C, H, W]``, or ``out``. Not differentiable: inputs must not require gradients.

    Raises:
        InputError: an argument breaks the above.
    """
    for name, tensor in (("images", images), ("uaps", uaps)):
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise InputError(NAME, name, "detached: the op has no gradient", "a tensor that requires one")
    options = (float(t), list(mean or []), list(std or []), dtype, channels_last, clean)
    if out is None:
        return _OP.call(images, uaps, assign, *options, backend)  # type: ignore[no-any-return]
    _OP_OUT.call(images, uaps, assign, *options, out, backend)
    return out


def _check(
    images: Tensor,
    uaps: Tensor | None,
    assign: Tensor | None,
    t: float,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
    clean: bool,
) -> None:
    need = _args.need
    _args.need_tensor(NAME, "images", images, "N, C, H, W", IMAGES)
    need(math.isfinite(t), NAME, "t", "finite", t)
    need(dtype in OUTPUTS, NAME, "dtype", "float32, float16, bfloat16 or float64", dtype)
    channels = images.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        good = len(values) in (0, channels) and all(math.isfinite(v) for v in values)
        need(good, NAME, name, f"{channels} finite numbers, one per channel", list(values))
    need(all(v > 0 for v in std), NAME, "std", "> 0", list(std))
    if uaps is None:
        need(assign is None, NAME, "assign", "left out where there are no uaps", "a tensor")
        need(clean, NAME, "clean", "true where there are no uaps", clean)
        return
    _args.need_tensor(NAME, "uaps", uaps, "P, C, H, W", (torch.float32,))
    same = uaps.shape[1:] == images.shape[1:] and uaps.device == images.device
    need(same, NAME, "uaps", f"[P, {', '.join(map(str, images.shape[1:]))}] on {images.device}", uaps)
    if assign is not None:
        _args.need_tensor(NAME, "assign", assign, "N", (torch.int64,))
        same = assign.shape[0] == images.shape[0] and assign.device == images.device
        need(same, NAME, "assign", f"[{images.shape[0]}], one per image, on {images.device}", assign)


def _slots(uaps: Tensor | None, assign: Tensor | None, clean: bool) -> int:
    perturbed = 0 if uaps is None else (uaps.shape[0] if assign is None else 1)
    return int(clean) + perturbed


def _empty(images: Tensor, slots: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    n, c, h, w = images.shape
    if channels_last:
        shape = (slots, n, h, w, c)
        return torch.empty(shape, dtype=dtype, device=images.device).permute(0, 1, 4, 2, 3)
    return torch.empty((slots, n, c, h, w), dtype=dtype, device=images.device)


def _fake(images: Tensor, uaps: Tensor | None, assign: Tensor | None, *options: Any) -> Tensor:
    dtype, channels_last, clean = options[-3:]
    return _empty(images, _slots(uaps, assign, clean), dtype, channels_last)


def check_assign(assign: Tensor | None, uaps: Tensor | None) -> None:
    """Raise InputError for an index outside 0..P-1; on a GPU that would wait for the device, so not there."""
    if assign is not None and uaps is not None and assign.device.type == "cpu" and assign.numel():
        low, high = (int(v) for v in assign.aminmax())
        bad = low if low < 0 else high
        _args.need(0 <= bad < uaps.shape[0], NAME, "assign", f"in 0..{uaps.shape[0] - 1}", bad)


def _write(
    images: Tensor,
    uaps: Tensor | None,
    assign: Tensor | None,
    t: float,
    mean: Sequence[float],
    std: Sequence[float],
    clean: bool,
    out: Tensor,
) -> None:
    """The op in float64 and plain torch, one slot at a time; any device."""
    check_assign(assign, uaps)

    def channel(values: Sequence[float], default: float) -> Tensor:
        numbers = list(values) or [default] * images.shape[1]
        return torch.tensor(numbers, dtype=torch.float64, device=images.device).view(1, -1, 1, 1)

    centre, scale = channel(mean, 0.0), channel(std, 1.0)
    x = images.double() / 255 if images.dtype == torch.uint8 else images.double().clamp(0, 1)
    slot = 0
    if clean:
        out[0] = (x - centre) / scale
        slot = 1
    if uaps is None:
        return
    moves = uaps.unsqueeze(1) if assign is None else uaps[assign].unsqueeze(0)
    for move in moves:
        out[slot] = ((x + t * move.double()).clamp(0, 1) - centre) / scale
        slot += 1


def reference(
    images: Tensor,
    uaps: Tensor | None,
    assign: Tensor | None,
    t: float,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
    clean: bool,
) -> Tensor:
    """The op in float64 and plain torch into a fresh result."""
    out = _empty(images, _slots(uaps, assign, clean), dtype, channels_last)
    _write(images, uaps, assign, t, mean, std, clean, out)
    return out


def _check_out(*args: object) -> None:
    *arguments, out = args
    _check(*arguments)  # type: ignore[arg-type]
    images, uaps, assign, _, _, _, dtype, channels_last, clean = arguments
    assert isinstance(images, Tensor) and isinstance(out, Tensor)
    slots = _slots(uaps, assign, bool(clean))  # type: ignore[arg-type]
    n, c, h, w = images.shape
    inner = (1, w * c, c) if channels_last else (h * w, w, 1)
    strides = (n * c * h * w, c * h * w, *inner)
    shape = (slots, n, c, h, w)
    laid = out.numel() == 0 or all(
        s == want or size == 1 for s, want, size in zip(out.stride(), strides, shape, strict=False)
    )
    good = tuple(out.shape) == shape and out.dtype == dtype and out.device == images.device and laid
    name = str(dtype).removeprefix("torch.")
    rule = f"{name} {list(shape)} on {images.device} with strides {list(strides)}"
    _args.need(good, NAME, "out", rule, f"{_args.show(out)} with strides {list(out.stride())}")


def _reference_out(*args: Any) -> None:
    write: Any = _write
    *rest, _, _, clean, out = args
    write(*rest, clean, out)


def _native_out(
    level: int,
    images: Tensor,
    uaps: Tensor | None,
    assign: Tensor | None,
    t: float,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    channels_last: bool,
    clean: bool,
    out: Tensor,
) -> None:
    check_assign(assign, uaps)
    count, channels, height, width = images.shape
    source = images.contiguous()
    moves = None if uaps is None else uaps.contiguous()
    which = None if assign is None else assign.contiguous()
    centre = torch.tensor(list(mean) or [0.0] * channels, dtype=torch.float64)
    scale = torch.tensor(list(std) or [1.0] * channels, dtype=torch.float64)
    addresses = [0 if x is None else x.data_ptr() for x in (source, moves, which, out, centre, scale)]
    _native.cpu().build_queries(
        *addresses,
        _args.DTYPE_CODES[source.dtype],
        count,
        0 if moves is None else moves.shape[0],
        channels,
        height * width,
        t,
        channels_last,
        clean,
        torch.get_num_threads(),
        level,
    )


def _fresh(write: Callable[..., None]) -> Callable[..., Tensor]:
    """The op with a result of its own, from what fills the one that it is given last."""

    def run(*args: Any) -> Tensor:
        *level, images, uaps, assign, _, _, _, dtype, channels_last, clean = args
        out = _empty(images, _slots(uaps, assign, clean), dtype, channels_last)
        write(*args, out)
        return out

    return run


def _refuses(images: Tensor, *args: Any) -> str | None:
    good = images.device.type == "cpu" and args[5] == torch.float32
    return None if good else "a float32 result on the CPU"


def _triton_out(*args: Any) -> None:
    *rest, _, channels_last, clean, out = args
    check_assign(args[2], args[1])
    _triton.kernels(NAME).build_queries(*rest, channels_last, clean, out)


def _triton_refuses(images: Tensor, *args: Any) -> str | None:
    if images[0:1].numel() > 2**31 - 4096:
        return "images of fewer than 2^31 - 4096 elements"
    return "float32, float16 or bfloat16 results" if args[5] == torch.float64 else None


_ARGUMENTS = (
    "Tensor images, Tensor? uaps, Tensor? assign, float t, float[] mean, float[] std, "
    "ScalarType dtype, bool channels_last, bool clean"
)
_OP = define(
    NAME,
    f"{_ARGUMENTS} -> Tensor",
    check=_check,
    fake=_fake,
    backends=[
        *native_backends(_fresh(_native_out), _refuses, ("scalar", "avx2", "avx512")),
        _triton.backend(_fresh(_triton_out), _triton_refuses),
        Backend("reference", reference),
    ],
)
_OP_OUT = define(
    f"{NAME}_out",
    f"{_ARGUMENTS}, Tensor(a!) out -> ()",
    check=_check_out,
    fake=lambda *_: None,
    backends=[
        *native_backends(_native_out, _refuses, ("scalar", "avx2", "avx512")),
        _triton.backend(_triton_out, _triton_refuses),
        Backend("reference", _reference_out),
    ],
    mutates=True,
)
