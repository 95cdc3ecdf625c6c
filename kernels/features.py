"""Features of answers: a program fits and writes the answers of one model to one block of a group of views.

A launch is for one group, whose size all its programs share.

Answers come from the second-level cache again and again: a group's, at most some hundred kilobytes, are read
once a pass, and there are 19 passes. Sums over rows are in float64 and in one order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from uapfast.kernels._launch import Tuned

ELEMENTS = 2048  # of a tile of rows


@triton.jit
def _rows(answers, at, here, column, least, CLASSES: tl.constexpr):
    """Logarithms of some rows, which of them are answers, and which numbers are theirs."""
    keep = here[:, None] & (column < CLASSES)[None, :]
    p = tl.load(answers + at[:, None] * CLASSES + column[None, :], mask=keep, other=0.0)
    answered = tl.max(tl.where(p == 0.0, 0, 1), 1) > 0
    return tl.log(tl.where(p < least, least, p)), answered


@triton.jit
def _softmax(logs, t, bias, column, CLASSES: tl.constexpr):
    """Of y = t logs + bias: exp(y - max y), y - max y, the sum of the first, the logarithm at the maximum."""
    real = (column < CLASSES)[None, :]
    y = tl.where(real, t.to(tl.float32) * logs + bias.to(tl.float32)[None, :], float("-inf"))
    best = tl.max(y, 1)[:, None]
    top = tl.max(tl.where(y == best, logs, float("-inf")), 1)
    below = y - best
    e = tl.where(real, tl.exp(below), 0.0)
    return e, below, tl.sum(e, 1), top


@triton.jit
def _places(row, first, points, blocks, block):
    """Rows of an item, and where they stand among those of the model."""
    return row, ((first + row // points) * blocks + block) * points + row % points


@triton.jit
def features_kernel(
    answers, target, prior, origin, out, group, first, views, blocks, points, least, low, high, most,
    floor, power, clip,
    CLASSES: tl.constexpr, WIDE: tl.constexpr, STEPS: tl.constexpr, CLIPPED: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``COUNT`` rows of an item; sizes in elements."""
    item = tl.program_id(0)
    block = item % blocks
    model = (item // blocks).to(tl.int64) * views * blocks * points
    lane, column = tl.arange(0, ROWS), tl.arange(0, WIDE)
    wanted = tl.load(target + group * blocks + block)
    share = tl.load(prior + (group * blocks + block) * CLASSES + column, mask=column < CLASSES, other=1.0)
    number = tl.zeros([ROWS], tl.float64)
    for begin in range(0, COUNT, ROWS):
        row, at = _places(begin + lane, first, points, blocks, block)
        _, answered = _rows(answers, model + at, row < COUNT, column, least, CLASSES)
        number += answered.to(tl.float64)
    n = tl.maximum(tl.sum(number, 0), 1.0)
    t = tl.full([], 1.0, tl.float64)
    bias = tl.zeros([WIDE], tl.float64)
    for step in range(3 * STEPS):
        if step % 3 < 2:  # Newton's, for the mean largest probability, in log t
            sums = tl.zeros([ROWS], tl.float64)
            gains = tl.zeros([ROWS], tl.float64)
            for begin in range(0, COUNT, ROWS):
                row, at = _places(begin + lane, first, points, blocks, block)
                logs, answered = _rows(answers, model + at, row < COUNT, column, least, CLASSES)
                e, _, total, top = _softmax(logs, t, bias, column, CLASSES)
                largest = tl.where(answered, 1.0 / total, 0.0)
                mean = tl.sum(tl.where((column < CLASSES)[None, :], e * logs, 0.0), 1) / total
                sums += largest.to(tl.float64)
                gains += tl.where(answered, largest * (top - mean), 0.0).to(tl.float64)
            slope = t * (tl.sum(gains, 0) / n)
            move = (wanted - tl.sum(sums, 0) / n) / tl.where(slope < 1e-9, 1e-9, slope)
            move = tl.where(move < -0.7, -0.7, tl.where(move > 0.7, 0.7, move))
            t = t * tl.exp(move)
            t = tl.where(t < low, low, tl.where(t > high, high, t))
        else:  # the biases towards the class frequencies; a uniform row more on both sides keeps it short
            mass = tl.zeros([WIDE], tl.float64)
            for begin in range(0, COUNT, ROWS):
                row, at = _places(begin + lane, first, points, blocks, block)
                logs, answered = _rows(answers, model + at, row < COUNT, column, least, CLASSES)
                e, _, total, _ = _softmax(logs, t, bias, column, CLASSES)
                mass += tl.sum(tl.where(answered[:, None], e / total[:, None], 0.0), 0).to(tl.float64)
            bias += tl.log((n * share + 1.0 / CLASSES) / (mass + 1.0 / CLASSES))
            bias -= tl.sum(tl.where(column < CLASSES, bias, 0.0), 0) * (1.0 / CLASSES)
            bias = tl.where(bias < -most, -most, tl.where(bias > most, most, bias))
    for begin in range(0, COUNT, ROWS):
        row, at = _places(begin + lane, first, points, blocks, block)
        logs, answered = _rows(answers, model + at, row < COUNT, column, least, CLASSES)
        _, below, total, _ = _softmax(logs, t, bias, column, CLASSES)
        root = tl.exp(below * power) * tl.exp(tl.log(total) * -power)[:, None]
        keep = (row < COUNT)[:, None] & (column < CLASSES)[None, :]
        place = at[:, None] * CLASSES + column[None, :]
        residual = tl.where(root < floor, floor, root) - tl.load(origin + place, mask=keep, other=0.0)
        if CLIPPED:
            square = tl.sum(tl.where(keep, residual * residual, 0.0), 1)
            residual = residual / tl.sqrt(square + clip * clip)[:, None]
        residual = tl.where(answered[:, None], residual, 0.0)
        tl.store(out + model * CLASSES + place, residual, mask=keep)


LAUNCHES = {
    wide: Tuned(features_kernel, [triton.Config({"ROWS": ELEMENTS // wide}, num_warps=4)])
    for wide in (16, 32, 64, 128)
}


def features(
    answers: Tensor,
    target: Tensor,
    prior: Tensor,
    origin: Tensor,
    groups: Sequence[int],
    rest: tuple[float, ...],
    limits: tuple[float, ...],
    out: Tensor,
) -> None:
    """Fill ``out``, as ``uapfast.ops.features`` has it; contiguous float32, at most 128 classes.

    ``rest`` are floor, root and clip; ``limits`` steps, the least probability, the range of the inverse
    temperature and the largest bias. On the current stream and device.
    """
    models, views, blocks, points, classes = answers.shape
    if not answers.numel():
        return
    (floor, root, clip), (steps, *bounds) = rest, limits
    wide, clipped = max(16, triton.next_power_of_2(classes)), not math.isinf(clip)
    first = 0
    for group, size in enumerate(groups):
        LAUNCHES[wide](
            (classes, clipped, size * points),
            lambda meta: (models * blocks,),
            *(answers, target, prior, origin, out, group, first, views, blocks, points, *bounds),
            *(floor ** (1.0 / root), 1.0 / root, clip if clipped else 0.0),
            CLASSES=classes, WIDE=wide, STEPS=int(steps), CLIPPED=clipped,
            COUNT=size * points,
        )  # fmt: skip
        first += size
