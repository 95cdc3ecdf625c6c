"""In which form answers are shown: whole, labels, the top few, few digits. Told from the answers alone.

A suspect that shows less than the pool's models do is compared with innocents that show as little: what an
answer hides bends it, and would tell suspect and innocents apart for no other reason. A form leaves the
answers that it was told from as they are. The more answers there are, the less it takes away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_STEP = 1e-6  # finer is what a float rounds to
FLOAT_ERROR = 2.4e-7  # of a probability in float32 that was divided once or twice, relative
OFF_GRID = 2e-5  # of a step, besides
CHANCE = 1e-4  # of unrounded numbers that would lie on a grid
LOOKED_AT = 64  # rows that show that there is no grid, mostly
PILED, DROP = 0.05, 0.5  # share of rows that show the most classes, and of those that show one class fewer
LEAST_CUT = 1e-3  # smallest probability shown from which smaller ones must have been left out
WHOLE_SUM = 1e-4  # how nearly rows sum to 1 that were scaled after classes were left out


@dataclass(frozen=True)
class Form:
    """How answers are shown; the default shows them whole.

    Attributes:
        labels: the top class alone; nothing else counts then.
        top: so many classes at most, the others are zero.
        above: classes below this probability are zero.
        scaled: what is left of ``top`` or ``above`` sums to 1 again.
        step: all are whole multiples of this.
        fill: what a zero of rounding counts as.
    """

    labels: bool = False
    top: int | None = None
    above: float | None = None
    scaled: bool = False
    step: float | None = None
    fill: float = 0.0

    def apply(self, p: Tensor, hidden: int = 0) -> Tensor:
        """Probabilities ``[...,R]`` as they would be shown; rows of zeros stay.

        Args:
            p: whole answers.
            hidden: classes that are summed up in the last column; 0 if every class has its own. Which of
                them ``top`` would show is not known: it then counts the other columns alone.
        """
        own = p[..., :-1] if hidden else p
        answered = (p > 0).any(-1, keepdim=True)
        if self.top is not None and self.top < own.shape[-1]:
            kept = own.topk(self.top, dim=-1)
            own = torch.zeros_like(own).scatter(-1, kept.indices, kept.values)
        if self.above is not None:
            own = torch.where(own >= self.above, own, torch.zeros_like(own))
        if self.scaled:
            own = own / own.sum(-1, keepdim=True).clamp(min=torch.finfo(own.dtype).tiny)
        if self.step is not None:
            own = (own.double() / self.step).round().mul(self.step).to(p.dtype)
        if hidden:
            out = self._with_rest(own, hidden)
        else:
            out = filled(own, self.fill)
        if self.labels:
            out = torch.nn.functional.one_hot(out.argmax(-1), p.shape[-1]).to(p.dtype)
        return out * answered

    def _with_rest(self, own: Tensor, hidden: int) -> Tensor:
        """Columns that are shown, filled, and what they leave of 1; hidden zeros are filled, too."""
        if self.fill:
            seen = own.sum(-1, keepdim=True)
            other = torch.where(seen > 0, torch.zeros_like(seen), torch.ones_like(seen))
            own = filled(torch.cat([own, other], dim=-1), self.fill, hidden - 1)[..., :-1]
        return torch.cat([own, (1.0 - own.sum(-1, keepdim=True)).clamp(min=0.0)], dim=-1)

    def __str__(self) -> str:
        """In words, as reasons have it."""
        if self.labels:
            return "labels only"
        parts = []
        if self.top is not None:
            parts.append(f"at most {self.top} classes an answer")
        if self.above is not None:
            parts.append(f"classes of {self.above:g} or more")
        if self.step is not None:
            digits = -math.log10(self.step)
            if abs(digits - round(digits)) < 1e-9:
                parts.append(f"probabilities of {round(digits)} digit{'s' if round(digits) > 1 else ''}")
            else:
                parts.append(f"probabilities in steps of 1/{1 / self.step:.6g}")
        return ", ".join(parts) or "whole answers"


WHOLE, LABELS = Form(), Form(labels=True)


def filled(p: Tensor, fill: float, more: int = 0) -> Tensor:
    """``p`` ``[...,K]`` with ``fill`` for every zero, scaled to sum to 1; rows of zeros stay.

    Args:
        p: rounded probabilities.
        fill: 0 leaves them as they are.
        more: further zeros of each row, which are not columns.
    """
    if not fill:
        return p
    answered = (p > 0).any(-1, keepdim=True)
    out = torch.where((p == 0) & answered, torch.full_like(p, fill), p)
    return out / (out.sum(-1, keepdim=True) + more * fill).clamp(min=fill)


def form_of(p: Tensor, fill: float = 0.0) -> Form:
    """The form of probabilities ``[N,K]``, as a suspect gave them (percentages divided), float32.

    Args:
        p: ``>= 0``; rows of zeros are no answers.
        fill: what zeros are to count as.
    """
    shown = (p > 0).sum(-1)
    rows, shown = (p, shown) if bool((shown > 0).all()) else (p[shown > 0], shown[shown > 0])
    if not len(rows):
        return WHOLE
    step = _step(rows)
    top = _top(shown, rows.shape[1])
    above = None
    if top is None and step is None and int(shown.min()) < rows.shape[1]:
        least = float(rows[rows > 0].min())
        above = _rounded_down(least) if least >= LEAST_CUT else None
    scaled = False
    if top is not None or above is not None:
        room = WHOLE_SUM + (0.5 * step * shown if step is not None else 0.0)
        scaled = bool(((rows.double().sum(-1) - 1).abs() <= room).all())
    return Form(False, top, above, scaled, step, fill)


def _rounded_down(x: float) -> float:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(x)) - 1)
    return round(math.floor(x / unit * (1 + FLOAT_ERROR)) * unit, 12)


def _top(shown: Tensor, classes: int) -> int | None:
    """How many classes are shown at most, where that is a rule: rows pile up there. Rounding has a tail."""
    most = int(shown.max())
    at, before = int((shown == most).sum()), int((shown == most - 1).sum())
    piled = at >= PILED * len(shown) and at >= DROP * before
    return most if most < classes and piled else None


def _step(rows: Tensor) -> float | None:
    """The coarsest step of which all numbers are whole multiples; None if there is none above a float's."""
    for part in (rows[:LOOKED_AT], rows):
        values = torch.unique(part.double())
        values = values[values > 0]
        if float(values[0]) < LEAST_STEP * (1 - OFF_GRID):
            return None
        gap = float(torch.diff(values, prepend=values.new_zeros(1)).min())
        if gap < LEAST_STEP - 2 * FLOAT_ERROR:
            return None
    inner = int((values < 1 - LEAST_STEP).sum())
    fits = [s for s in _candidates(values, gap) if _on_grid(values, s)]
    if not fits:
        return None
    step = max(fits)
    likely = 2 * (OFF_GRID + FLOAT_ERROR / step / 2)  # of one number to lie on the grid by chance
    by_chance = likely ** (inner / 2)  # of all, where classes add to 1
    return step if by_chance <= CHANCE else None


def _candidates(values: Tensor, gap: float) -> list[float]:
    """Steps to try: of so many digits, and the smallest distance seen, if whole parts of 1 then such."""
    step = gap
    for _ in range(2):  # least squares: the distance of two floats is known to a few digits only
        whole = (values / step).round()
        step = float((values * whole).sum() / (whole * whole).sum())
    parts = 1.0 / step
    whole_parts = abs(parts - round(parts)) <= 0.01
    step = 1.0 / round(parts) if whole_parts else float(f"{step:.9g}")
    return [*(10.0**-d for d in range(1, 7)), step]


def _on_grid(values: Tensor, step: float) -> bool:
    found = values / step
    whole = found.round()
    off = (found - whole).abs() <= OFF_GRID * whole.clamp(max=1.0) + FLOAT_ERROR * found
    return bool((off & (whole > 0)).all())


__all__ = ["LABELS", "WHOLE", "Form", "filled", "form_of"]
