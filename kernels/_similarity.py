"""Device code of similarity_moments: all pairs of views, pairs of the same view, and the candidates' halves.

Three ways to a dot product. ``RAW``: half-precision views as they lie, float32 sums (their products are exact).
``SPLIT``: float32 suspects and centred candidates, either scaled by a power of two and split in two float16
numbers that keep 22 bits of it: three products on the tensor cores. ``DOUBLE``: float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from uapfast.kernels._launch import INTERPRETED

RAW, SPLIT, DOUBLE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_WIDEN: tl.constexpr = tl.constexpr(INTERPRETED)  # numpy knows no bfloat16, and the interpreter multiplies its bits


@triton.jit
def _load(pointer, k, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Elements ``k`` < D of some rows, zeros behind."""
    if D % BLOCK_K == 0:
        x = tl.load(pointer)
    else:
        x = tl.load(pointer, mask=k < D, other=0.0)
    return x


@triton.jit
def _left(pointer, k, scale, KIND: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Suspects' views as operands: one, or two that add up to it."""
    x = _load(pointer, k, D, BLOCK_K)
    if KIND == SPLIT:
        x = x * scale
        high = x.to(tl.float16)
        parts = (high, (x - high.to(tl.float32)).to(tl.float16))
    elif KIND == DOUBLE:
        parts = (x.to(tl.float64),)
    elif _WIDEN:
        parts = (x.to(tl.float32),)
    else:
        parts = (x,)
    return parts


@triton.jit
def _right(pointer, k, plane, KIND: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Candidates' views as operands; the halves of ``SPLIT`` lie ``plane`` apart."""
    x = _load(pointer, k, D, BLOCK_K)
    if KIND == SPLIT:
        parts = (x, _load(pointer + plane, k, D, BLOCK_K))
    elif KIND == DOUBLE:
        parts = (x.to(tl.float64),)
    elif _WIDEN:
        parts = (x.to(tl.float32),)
    else:
        parts = (x,)
    return parts


@triton.jit
def _dot(x, y, total, KIND: tl.constexpr):
    """``total`` + x y; of two halves each, all but the product of the small ones, which is below 2^-22."""
    if KIND == SPLIT:
        total = tl.dot(x[1], y[0], total)
        total = tl.dot(x[0], y[1], total)
    return tl.dot(x[0], y[0], total, out_dtype=tl.float64 if KIND == DOUBLE else tl.float32)


@triton.jit
def _product(
    left, right, a_step, b_step, k, scale, plane,
    KIND: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Dot products over all D elements, both sides read ``BLOCK_K`` at a time."""
    total = tl.zeros([BLOCK_S, BLOCK_R], tl.float64 if KIND == DOUBLE else tl.float32)
    for at in range(0, D, BLOCK_K):
        x = _left(left + at * a_step, (at + k)[None, :], scale, KIND, D, BLOCK_K)
        y = _right(right + at * b_step, (at + k)[:, None], plane, KIND, D, BLOCK_K)
        total = _dot(x, y, total, KIND)
    return total


@triton.jit
def _write(mean, variance, m, v, row, column, suspects, candidates):
    at = row[:, None] * candidates + column[None, :]
    here = (row < suspects)[:, None] & (column < candidates)[None, :]
    tl.store(mean + at, m.to(tl.float32), mask=here)
    tl.store(variance + at, tl.where(v < 0, 0.0, v).to(tl.float32), mask=here)  # NaN stays


@triton.jit
def _rows(suspects, candidates, SHARE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr):
    """Suspects of this program's tile, and first of its columns; neighbours share their suspects."""
    tiles = tl.cdiv(candidates * SHARE, BLOCK_R)
    program = tl.program_id(0)
    row = (program // tiles).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    return row, (program % tiles).to(tl.int64) * BLOCK_R


@triton.jit
def paired_kernel(
    a, b, mean, variance, suspects, candidates, a_model, a_view, a_step, b_model, b_view, b_step,
    KIND: tl.constexpr, V: tl.constexpr, D: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Moments of a_v . b_v over V views; where ``b_view`` is 0, of all of a's views and the one of b.

    Sums of the distance to the first product, and of its square: at most 1 + V times the V-fold variance.
    """
    row, first = _rows(suspects, candidates, 1, BLOCK_S, BLOCK_R)
    column = first + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_K)
    a_view, b_view = tl.cast(a_view, tl.int64), tl.cast(b_view, tl.int64)
    a_step, b_step = tl.cast(a_step, tl.int64), tl.cast(b_step, tl.int64)
    left = a + (tl.minimum(row, suspects - 1) * a_model)[:, None] + (k * a_step)[None, :]
    right = b + (tl.minimum(column, candidates - 1) * b_model)[None, :] + (k * b_step)[:, None]
    base = _product(left, right, a_step, b_step, k, 1.0, 0, KIND, D, BLOCK_K, BLOCK_S, BLOCK_R)
    once = tl.zeros_like(base)
    twice = tl.zeros_like(base)
    for v in range(1, V):
        x = _product(
            left + v * a_view, right + v * b_view, a_step, b_step, k, 1.0, 0, KIND, D, BLOCK_K, BLOCK_S, BLOCK_R
        )
        x -= base
        once += x
        twice += x * x
    off = once / V
    _write(mean, variance, base + off, (twice - once * off) / V, row, column, suspects, candidates)


@triton.jit
def _crossed(
    left, right, a_view, a_step, b_view, b_step, k, scale, plane, base,
    KIND: tl.constexpr, V: tl.constexpr, W: tl.constexpr, D: tl.constexpr, SHARE: tl.constexpr,
    HELD: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Sums over all pairs of this column's views: of the distance to ``base``, and of its square."""
    once = tl.zeros_like(base)
    twice = tl.zeros_like(base)
    lost = tl.zeros_like(base)
    for group in range(0, W, HELD * SHARE):
        held = ()
        for h in tl.static_range(HELD):
            at = right + min(group + h * SHARE, W - SHARE) * b_view
            if D <= BLOCK_K:
                held = held + (_right(at, k[:, None], plane, KIND, D, BLOCK_K),)
            else:
                held = held + (at,)
        for v in range(V):
            part = tl.zeros_like(base)
            if D <= BLOCK_K:
                x = _left(left + v * a_view, k[None, :], scale, KIND, D, BLOCK_K)
            for h in tl.static_range(HELD):
                if D <= BLOCK_K:
                    t = _dot(x, held[h], tl.zeros_like(base), KIND)
                else:
                    t = _product(
                        left + v * a_view, held[h], a_step, b_step, k, scale, plane,
                        KIND, D, BLOCK_K, BLOCK_S, BLOCK_R,
                    )  # fmt: skip
                if W % (HELD * SHARE) != 0:
                    t = tl.where(group + h * SHARE < W, t, base)
                if KIND == RAW:
                    t -= base
                    once += t
                    twice += t * t
                else:
                    part += t * t
            if KIND == SPLIT:  # Kahan: the digits that the last addition lost go into the next one
                part -= lost
                total = twice + part
                lost = (total - twice) - part
                twice = total
    return once, twice - lost


@triton.jit
def crossed_kernel(
    a, b, mean, variance, before, a_scale, b_scale, suspects, candidates,
    a_model, a_view, a_step, b_model, b_view, b_step, plane,
    KIND: tl.constexpr, V: tl.constexpr, W: tl.constexpr, D: tl.constexpr, SHARE: tl.constexpr,
    HELD: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Moments over V x W pairs of views. ``RAW``: mean and variance. ``SPLIT``: ``before`` and the mean square.

    A column is one of ``SHARE`` shares of a candidate's views, so that tiles fit numbers of candidates that
    are no multiple of ``BLOCK_R``. ``HELD`` of its views stay in shared memory while a's pass.
    """
    row, first = _rows(suspects, candidates, SHARE, BLOCK_S, BLOCK_R)
    n = first + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_K)
    a_view, b_view = tl.cast(a_view, tl.int64), tl.cast(b_view, tl.int64)
    a_step, b_step = tl.cast(a_step, tl.int64), tl.cast(b_step, tl.int64)
    known = tl.minimum(row, suspects - 1)
    left = a + (known * a_model)[:, None] + (k * a_step)[None, :]
    start = tl.minimum(n // SHARE, candidates - 1) * b_model + (n % SHARE) * b_view
    right = b + start[None, :] + (k * b_step)[:, None]
    scale = 1.0
    base = tl.zeros([BLOCK_S, BLOCK_R], tl.float32)
    if KIND == SPLIT:
        scale = tl.load(a_scale + known)[:, None]
    else:
        base = _product(
            left, right, a_step, b_step, k, scale, plane, KIND, D, BLOCK_K, BLOCK_S, BLOCK_R
        )
    once, twice = _crossed(
        left, right, a_view, a_step, b_view, b_step, k, scale, plane, base,
        KIND, V, W, D, SHARE, HELD, BLOCK_K, BLOCK_S, BLOCK_R,
    )  # fmt: skip
    count: tl.constexpr = V * W // SHARE
    column = first // SHARE + tl.arange(0, BLOCK_R // SHARE)
    if KIND == RAW:
        off = once / count
        shares = tl.reshape(base + off, [BLOCK_S, BLOCK_R // SHARE, SHARE])
        spread = tl.sum(tl.reshape(twice - once * off, [BLOCK_S, BLOCK_R // SHARE, SHARE]), 2)
        centre = tl.sum(shares, 2) / SHARE
        apart = shares - centre[:, :, None]
        spread = (spread + count * tl.sum(apart * apart, 2)) / (V * W)
        _write(mean, variance, centre, spread, row, column, suspects, candidates)
    else:
        total = tl.sum(tl.reshape(twice, [BLOCK_S, BLOCK_R // SHARE, SHARE]), 2).to(tl.float64)
        unit = 1.0 / scale.to(tl.float64)
        other = 1.0 / tl.load(b_scale + tl.minimum(column, candidates - 1)).to(tl.float64)[None, :]
        at = row[:, None] * candidates + column[None, :]
        here = (row < suspects)[:, None] & (column < candidates)[None, :]
        total = total * (unit * unit) * (other * other) / (V * W)
        total += tl.load(before + at, mask=here, other=0.0).to(tl.float64)
        tl.store(variance + at, total.to(tl.float32), mask=here)


@triton.jit
def centred_kernel(
    x, mean, planes, scales, x_model, x_view, x_step,
    CENTRE: tl.constexpr, V: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of one model: the power of two that scales its views, and (``CENTRE``) its mean view and their halves.

    ``planes``: ``[models, 2, V, PADDED]``, views less their mean, scaled; zeros behind D.
    """
    model = tl.program_id(0).to(tl.int64)
    x_view, x_step = tl.cast(x_view, tl.int64), tl.cast(x_step, tl.int64)
    start = x + model * x_model
    lane = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for at in range(0, D, BLOCK):
        k = at + lane
        centre = tl.zeros([BLOCK], tl.float64)
        if CENTRE:
            for v in range(V):
                centre += tl.load(start + v * x_view + k * x_step, mask=k < D, other=0.0).to(tl.float64)
            centre = centre / V
            tl.store(mean + model * D + k, centre, mask=k < D)
        for v in range(V):
            value = tl.load(start + v * x_view + k * x_step, mask=k < D, other=0.0).to(tl.float64) - centre
            largest = tl.maximum(largest, tl.abs(value.to(tl.float32)))
    exponent = (tl.max(largest, 0).to(tl.int32, bitcast=True) >> 23) & 255
    power = tl.minimum(262 - exponent, 253)  # the largest comes to 256..512, far inside float16 on both ends
    scale = (power << 23).to(tl.float32, bitcast=True)
    tl.store(scales + model, scale)
    if CENTRE:
        for at in range(0, PADDED, BLOCK):
            k = at + lane
            centre = tl.load(mean + model * D + k, mask=k < D, other=0.0)
            for v in range(V):
                value = tl.load(start + v * x_view + k * x_step, mask=k < D, other=0.0).to(tl.float64)
                value = ((value - centre) * scale).to(tl.float32)
                high = value.to(tl.float16)
                to = planes + (model * (2 * V) + v) * PADDED + k
                tl.store(to, high, mask=k < PADDED)
                tl.store(to + V * PADDED, (value - high.to(tl.float32)).to(tl.float16), mask=k < PADDED)
