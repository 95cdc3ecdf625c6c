"""Mean and variance, over views, of the similarities of suspects and candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from uapfast import _native
from uapfast.errors import InputError
from uapfast.ops import _args, _triton
from uapfast.ops._registry import AUTO, Backend, define, native_backends

NAME = "similarity_moments"
PAIRS = ("all", "same")
_BLOCK = 1 << 22  # similarities held at a time


def similarity_moments(
    a: Tensor, b: Tensor, *, pairs: str = "all", backend: str = AUTO
) -> tuple[Tensor, Tensor]:
    """Mean and population variance of the dot products of the views of ``a[s]`` and ``b[r]``.

    For unit rows the dot products are cosines. ``all``: over the V * W pairs of views; ``same``: over the
    V pairs of equal index. Nothing of the size ``[S, R, V, W]`` is ever held.

    Args:
        a: ``[S, V, d]`` floating: V views of each of S suspects.
        b: ``[R, W, d]``, same dtype and device: W views of each of R candidates; W = V for ``same``.
        pairs: ``all`` or ``same``.
        backend: ``cpu``, ``scalar``, ``avx2``, ``avx512``, ``triton``, ``moments``, ``reference``; left out,
            the fastest that applies.

    Returns:
        ``mean [S, R]`` and ``variance [S, R]`` >= 0: float32, or float64 for float64 views. NaN spreads to
        the pairs of its model and no others.

    Raises:
        InputError: an argument breaks the above.

    The variance keeps its digits where all similarities are near 0.999: no backend subtracts squares of them
    (see ``moments`` here, csrc/cpu/similarity_moments.cpp and kernels/similarity_moments.py). All sum in
    float64 but ``triton``, which for half precision sums its exact products in float32 (1e-7 of the norms),
    and for float32 the products of deviations alone (1e-7 of the deviations); its results do not depend on
    the choice among its launches, nor on the other models asked about.
    """
    mean, variance = _OP.call(a, b, pairs, backend)
    return mean, variance


def _check(a: Tensor, b: Tensor, pairs: str) -> None:
    _args.need(pairs in PAIRS, NAME, "pairs", "all or same", repr(pairs))
    _args.need_tensor(NAME, "a", a, "S, V, d")
    _args.need_tensor(NAME, "b", b, "R, W, d", (a.dtype,))
    _args.need(a.shape[1] >= 1, NAME, "a", "of at least one view, [S, V >= 1, d]", a)
    _args.need(b.shape[1] >= 1, NAME, "b", "of at least one view, [R, W >= 1, d]", b)
    same = a.shape[2] == b.shape[2] and a.device == b.device
    _args.need(same, NAME, "b", f"[R, W, {a.shape[2]}] on {a.device}, as a", b)
    if pairs == "same" and a.shape[1] != b.shape[1]:
        raise InputError(NAME, "b", f"of {a.shape[1]} views, as a, for pairs of the same view", _args.show(b))


def result_dtype(a: Tensor) -> torch.dtype:
    """Of the moments: float64 for float64 views, else float32."""
    return torch.float64 if a.dtype == torch.float64 else torch.float32


def _fake(a: Tensor, b: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    shape, dtype = (a.shape[0], b.shape[0]), result_dtype(a)
    return a.new_empty(shape, dtype=dtype), a.new_empty(shape, dtype=dtype)


def reference(a: Tensor, b: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    """The op in float64 and plain torch, a few suspects at a time; any device."""
    dtype = result_dtype(a)
    each = max(1, b.shape[0] * b.shape[1] * (a.shape[1] if pairs == "all" else 1))
    means, variances = [], []
    for part in torch.split(a.double(), max(1, _BLOCK // each)):
        equation = "svd,rwd->srvw" if pairs == "all" else "svd,rvd->srv"
        similarity = torch.einsum(equation, part, b.double()).flatten(2)
        mean = similarity.mean(dim=2)
        means.append(mean)
        variances.append((similarity - mean.unsqueeze(2)).square().mean(dim=2))
    return torch.cat(means).to(dtype), torch.cat(variances).to(dtype)


def moments(a: Tensor, b: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    """The op from the first two moments of each side's views: GEMMs of the library, no view pairs at all.

    With ``a_i = A + x_i``, ``b_j = B + y_j`` (A, B the mean views, so that the x and the y add to 0)

        a_i . b_j - A . B = x_i . B + A . y_j + x_i . y_j

    and the three parts are uncorrelated over all pairs, so that

        variance = B' Cx B + A' Cy A + <Cx, Cy>      (C: covariance of the views, d x d)
                 = <Cx, B B' + Cy> + <A A', Cy>

    which is one product of ``[S, 2 d^2]`` by ``[2 d^2, R]``: d^2 / (V W d) of the work of all pairs, and
    only parts >= 0 are added, in float64.
    """
    dtype = result_dtype(a)
    right = b.double()
    b_mean = right.mean(dim=1)
    right = right - b_mean.unsqueeze(1)
    b_cov = torch.bmm(right.mT, right) / b.shape[1]
    b_second = b_cov + b_mean.unsqueeze(2) * b_mean.unsqueeze(1)
    upper = torch.triu_indices(a.shape[2], a.shape[2], device=a.device)
    twice = torch.where(upper[0] == upper[1], 1.0, 2.0).double()

    def packed(matrix: Tensor) -> Tensor:
        return matrix[:, upper[0], upper[1]]

    kernel = torch.cat([packed(b_second), packed(b_cov)], dim=1) * twice.repeat(2)
    means, variances = [], []
    for part in torch.split(a.double(), max(1, _BLOCK // max(1, 2 * a.shape[2] ** 2))):
        mean = part.mean(dim=1)
        rest = part - mean.unsqueeze(1)
        covariance = torch.bmm(rest.mT, rest) / a.shape[1]
        features = torch.cat([packed(covariance), packed(mean.unsqueeze(2) * mean.unsqueeze(1))], dim=1)
        means.append(mean @ b_mean.mT)
        variances.append((features @ kernel.mT).clamp(min=0))
    return torch.cat(means).to(dtype), torch.cat(variances).to(dtype)


def _moments_refuses(a: Tensor, b: Tensor, pairs: str) -> str | None:
    if pairs != "all":
        return "pairs='all'"
    pays = a.shape[2] + 1 <= a.shape[1] * b.shape[1]
    return None if pays else "d + 1 <= V * W: with fewer pairs of views than that the pairs cost less"


def _native_run(level: int, a: Tensor, b: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    dtype = result_dtype(a)
    left, right = a.to(dtype).contiguous(), b.to(dtype).contiguous()
    mean, variance = (torch.empty((a.shape[0], b.shape[0]), dtype=dtype, device="cpu") for _ in range(2))
    _native.cpu().similarity_moments(
        *(t.data_ptr() for t in (left, right, mean, variance)),
        _args.DTYPE_CODES[dtype],
        *(a.shape[0], b.shape[0], a.shape[1], b.shape[1], a.shape[2], pairs == "same"),
        torch.get_num_threads(),
        level,
    )
    return mean, variance


def _native_refuses(a: Tensor, b: Tensor, pairs: str) -> str | None:
    return None if a.device.type == "cpu" else "tensors on the CPU"


def _triton_run(a: Tensor, b: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    mean, variance = _fake(a, b, pairs)
    _triton.kernels(NAME).similarity_moments(a, b, pairs, mean, variance)
    return mean, variance


def _triton_refuses(a: Tensor, b: Tensor, pairs: str) -> str | None:
    if a.dtype == torch.float64:
        return "float32, float16 or bfloat16"
    if a.dtype == torch.float32 and a.is_cuda and torch.cuda.get_device_capability(a.device)[0] not in (8, 9):
        return "float16 or bfloat16 here: Triton has float64 products for compute capability 8 and 9 alone"
    return None


_OP = define(
    NAME,
    "Tensor a, Tensor b, str pairs -> (Tensor, Tensor)",
    check=_check,
    fake=_fake,
    backends=[
        *native_backends(_native_run, _native_refuses, ("scalar", "avx2", "avx512")),
        _triton.backend(_triton_run, _triton_refuses),
        Backend("moments", moments, refuses=_moments_refuses),
        Backend("reference", reference),
    ],
)
