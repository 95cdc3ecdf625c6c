"""Device code of similarity_moments: all pairs of views, pairs of the same view, and the candidates' halves.

Three ways to a dot product. ``RAW``: half-precision views as they lie, float32 sums (their products are
exact). ``SPLIT``: float32 suspects and centred candidates, either scaled by a power of two and split in two
float16 numbers that keep 22 bits of it: three products on the tensor cores. ``DOUBLE``: float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from uapfast.kernels._launch import INTERPRETED

RAW, SPLIT, DOUBLE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_WIDEN: tl.constexpr = tl.constexpr(
    INTERPRETED
)  # numpy knows no bfloat16, and the interpreter multiplies its bits


@triton.jit
def _load(pointer, k, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Elements ``k`` < D of some views, zeros behind."""
    if D % BLOCK_K == 0:
        x = tl.load(pointer)
    else:
        x = tl.load(pointer, mask=k < D, other=0.0)
    return x


@triton.jit
def _operand(pointer, k, KIND: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Views as an operand of a product."""
    x = _load(pointer, k, D, BLOCK_K)
    if KIND == DOUBLE:
        x = x.to(tl.float64)
    elif KIND == RAW and _WIDEN:
        x = x.to(tl.float32)
    return x


@triton.jit
def _halves(x):
    """Two float16 numbers that add up to ``x``, which is at most 2^9, but for 2^-22 of it or 2^-25."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _left(pointer, k, plane, KIND: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Candidates' views: one operand, or the two halves that lie ``plane`` apart."""
    parts = (_operand(pointer, k, KIND, D, BLOCK_K),)
    if KIND == SPLIT:
        parts = parts + (_operand(pointer + plane, k, KIND, D, BLOCK_K),)
    return parts


@triton.jit
def _right(pointer, k, scale, KIND: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Suspects' views: one operand, or two halves."""
    if KIND == SPLIT:
        parts = _halves(_load(pointer, k, D, BLOCK_K) * scale)
    else:
        parts = (_operand(pointer, k, KIND, D, BLOCK_K),)
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
    left, right, b_step, a_step, k, plane, scale,
    KIND: tl.constexpr, D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Dot products over all D elements, both sides read ``BLOCK_K`` at a time."""
    total = tl.zeros([BLOCK_R, BLOCK_S], tl.float64 if KIND == DOUBLE else tl.float32)
    for at in range(0, D, BLOCK_K):
        x = _left(left + at * b_step, (at + k)[None, :], plane, KIND, D, BLOCK_K)
        y = _right(right + at * a_step, (at + k)[:, None], scale, KIND, D, BLOCK_K)
        total = _dot(x, y, total, KIND)
    return total


@triton.jit
def _strides(model, view, step, ALIGN: tl.constexpr):
    """As 64 bits; the first two are multiples of ``ALIGN``, so that ``ALIGN`` elements are read at once."""
    model = tl.multiple_of(tl.cast(model, tl.int64), ALIGN)
    return model, tl.multiple_of(tl.cast(view, tl.int64), ALIGN), tl.cast(step, tl.int64)


@triton.jit
def _write(mean, variance, m, v, row, column, candidates, suspects):
    at = column[None, :] * candidates + row[:, None]
    here = (row < candidates)[:, None] & (column < suspects)[None, :]
    tl.store(mean + at, m.to(tl.float32), mask=here)
    tl.store(variance + at, tl.where(v < 0, 0.0, v).to(tl.float32), mask=here)  # NaN stays


@triton.jit
def _tile(candidates, SHARE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr):
    """First row of this program, and its suspects; neighbours share their suspects, who come from afar."""
    tiles = tl.cdiv(candidates * SHARE, BLOCK_R)
    program = tl.program_id(0)
    column = (program // tiles).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    return (program % tiles).to(tl.int64) * BLOCK_R, column


@triton.jit
def paired_kernel(
    a, b, mean, variance, suspects, candidates, a_model, a_view, a_step, b_model, b_view, b_step,
    KIND: tl.constexpr, V: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Moments of a_v . b_v over V views; where ``b_view`` is 0, of all of a's views and the one of b.

    Sums of the distance to the first product, and of its square: at most 1 + V times the V-fold variance.
    """
    first, column = _tile(candidates, 1, BLOCK_R, BLOCK_S)
    row = first + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_K)
    a_model, a_view, a_step = _strides(a_model, a_view, a_step, ALIGN)
    b_model, b_view, b_step = _strides(b_model, b_view, b_step, ALIGN)
    left = b + (tl.minimum(row, candidates - 1) * b_model)[:, None] + (k * b_step)[None, :]
    right = a + (tl.minimum(column, suspects - 1) * a_model)[None, :] + (k * a_step)[:, None]
    base = _product(left, right, b_step, a_step, k, 0, 1.0, KIND, D, BLOCK_K, BLOCK_R, BLOCK_S)
    once = tl.zeros_like(base)
    twice = tl.zeros_like(base)
    for v in range(1, V):
        x = _product(
            left + v * b_view, right + v * a_view, b_step, a_step, k, 0, 1.0,
            KIND, D, BLOCK_K, BLOCK_R, BLOCK_S,
        )  # fmt: skip
        x -= base
        once += x
        twice += x * x
    off = once / V
    _write(mean, variance, base + off, (twice - once * off) / V, row, column, candidates, suspects)


@triton.jit
def _crossed(
    left, right, b_view, b_step, a_view, a_step, k, plane, scale, base,
    KIND: tl.constexpr, V: tl.constexpr, W: tl.constexpr, D: tl.constexpr, SHARE: tl.constexpr,
    HELD: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums over all pairs of views: of the distance to ``base``, and of its square."""
    once = tl.zeros_like(base)
    twice = tl.zeros_like(base)
    lost = tl.zeros_like(base)
    for group in range(0, W, HELD * SHARE):
        held = ()
        for h in tl.static_range(HELD):
            at = left + min(group + h * SHARE, W - SHARE) * b_view
            if D <= BLOCK_K:
                held = held + (_left(at, k[None, :], plane, KIND, D, BLOCK_K),)
            else:
                held = held + (at,)
        for v in range(V):
            part = tl.zeros_like(base)
            if D <= BLOCK_K:
                y = _right(right + v * a_view, k[:, None], scale, KIND, D, BLOCK_K)
            for h in tl.static_range(HELD):
                if D <= BLOCK_K:
                    t = _dot(held[h], y, tl.zeros_like(base), KIND)
                else:
                    t = _product(
                        held[h], right + v * a_view, b_step, a_step, k, plane, scale,
                        KIND, D, BLOCK_K, BLOCK_R, BLOCK_S,
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
def _merge(x, SHARE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr):
    """Sums over the rows that share a candidate."""
    return tl.sum(tl.reshape(x, [BLOCK_R // SHARE, SHARE, BLOCK_S]), 1)


@triton.jit
def crossed_kernel(
    a, b, mean, variance, before, a_scale, b_scale, suspects, candidates,
    a_model, a_view, a_step, b_model, b_view, b_step, plane,
    KIND: tl.constexpr, V: tl.constexpr, W: tl.constexpr, D: tl.constexpr, ALIGN: tl.constexpr,
    SHARE: tl.constexpr, HELD: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Moments over V x W pairs of views; ``SPLIT``: ``before`` and the mean square, to ``variance``.

    A row is one of ``SHARE`` shares of a candidate's views, so that tiles fit numbers of candidates that are
    no multiple of ``BLOCK_R``. ``HELD`` of its views stay in shared memory while a's pass.
    """
    first, column = _tile(candidates, SHARE, BLOCK_R, BLOCK_S)
    n = first + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_K)
    a_model, a_view, a_step = _strides(a_model, a_view, a_step, ALIGN)
    b_model, b_view, b_step = _strides(b_model, b_view, b_step, ALIGN)
    start = tl.minimum(n // SHARE, candidates - 1) * b_model + (n % SHARE) * b_view
    left = b + start[:, None] + (k * b_step)[None, :]
    known = tl.minimum(column, suspects - 1)
    right = a + (known * a_model)[None, :] + (k * a_step)[:, None]
    scale = 1.0
    base = tl.zeros([BLOCK_R, BLOCK_S], tl.float32)
    if KIND == SPLIT:
        scale = tl.load(a_scale + known)[None, :]
    else:
        base = _product(left, right, b_step, a_step, k, plane, scale, KIND, D, BLOCK_K, BLOCK_R, BLOCK_S)
    once, twice = _crossed(
        left, right, b_view, b_step, a_view, a_step, k, plane, scale, base,
        KIND, V, W, D, SHARE, HELD, BLOCK_K, BLOCK_R, BLOCK_S,
    )  # fmt: skip
    count: tl.constexpr = V * W // SHARE
    row = first // SHARE + tl.arange(0, BLOCK_R // SHARE)
    if KIND == RAW:
        off = once / count
        shares = tl.reshape(base + off, [BLOCK_R // SHARE, SHARE, BLOCK_S])
        centre = tl.sum(shares, 1) / SHARE
        apart = shares - centre[:, None, :]
        spread = _merge(twice - once * off, SHARE, BLOCK_R, BLOCK_S) + count * tl.sum(apart * apart, 1)
        _write(mean, variance, centre, spread / (V * W), row, column, candidates, suspects)
    else:
        total = _merge(twice, SHARE, BLOCK_R, BLOCK_S).to(tl.float64)
        unit = 1.0 / scale.to(tl.float64)
        other = 1.0 / tl.load(b_scale + tl.minimum(row, candidates - 1)).to(tl.float64)[:, None]
        at = column[None, :] * candidates + row[:, None]
        here = (row < candidates)[:, None] & (column < suspects)[None, :]
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
        tl.debug_barrier()  # the means are read again, maybe by other threads
        for at in range(0, PADDED, BLOCK):
            k = at + lane
            centre = tl.load(mean + model * D + k, mask=k < D, other=0.0)
            for v in range(V):
                value = tl.load(start + v * x_view + k * x_step, mask=k < D, other=0.0).to(tl.float64)
                value = ((value - centre) * scale).to(tl.float32)
                high, low = _halves(value)
                to = planes + (model * (2 * V) + v) * PADDED + k
                tl.store(to, high, mask=k < PADDED)
                tl.store(to + V * PADDED, low, mask=k < PADDED)
