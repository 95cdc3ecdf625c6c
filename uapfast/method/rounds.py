"""Leave-one-out scoring before one pool: what :func:`uapfast.ops.leave_one_out` takes of it.

What ``whiten`` and ``templates`` say one by one is the truth that the tests hold this against.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from uapfast import ops
from uapfast.arrays import Float64Array, Int64Array
from uapfast.method.whitening import ROUNDING, SHRINK


def directions(inner: Tensor) -> tuple[Tensor, Tensor]:
    """Squared lengths ``[I]`` and coefficients ``[I,I]`` of the principal directions of centred models.

    Coefficients add to 0, so that there is one direction less than models: the last is none. Left to the
    eigenvectors, it would be one whose length is rounding, beside which a small ridge is lost.
    """
    count = len(inner)
    full = torch.cat([torch.ones(count, 1, dtype=inner.dtype), torch.eye(count, dtype=inner.dtype)[:, 1:]], 1)
    basis = torch.linalg.qr(full)[0][:, 1:]  # of all that adds to 0
    values, vectors = torch.linalg.eigh(basis.T @ inner @ basis)
    none = inner.new_zeros(1)
    return torch.cat([values.clamp(min=0.0), none]), torch.cat([basis @ vectors, none.expand(count, 1)], 1)


class Rounds:
    """A pool, ready to score suspects by their inner products with its models. Safe to share between threads.

    Args:
        views: ``[V,M,M]`` float64, inner products of the pool's models in each view.
        innocents: ``[I]`` rows of models; each, and a suspect, is scored with a whitening by all the others.
        origin: ``[M+1]`` coefficients, over the pool and a suspect, of the point that residuals are taken
            from.
        parts: weight and coefficients ``[C,M+1]`` of what a template is made of.
        freed: whether the direction of ``origin`` from the others' mean is taken out.
        alone: there is no suspect; innocents are scored among themselves.
    """

    def __init__(
        self,
        views: Tensor,
        innocents: Int64Array,
        origin: Float64Array,
        parts: list[tuple[float, Float64Array]],
        *,
        freed: bool,
        alone: bool = False,
    ) -> None:
        self._freed, self._alone = freed, alone
        some = torch.from_numpy(innocents)
        mean = views[:, :, some].mean(-1)  # [V,M]
        centered = views - mean[:, :, None] - mean[:, None] + mean[:, some].mean(-1)[:, None, None]
        total, inside = centered.sum(0), centered[:, some][:, :, some]
        values, vectors = directions(total[some[:, None], some])
        point, pieces = torch.from_numpy(origin), torch.from_numpy(np.stack([rows for _, rows in parts]))
        rows, middle = pieces.flatten(0, 1), point[:-1] @ centered
        seen = rows[:, :-1].T
        self._tables = ops.Tables(
            some,
            mean,
            total,
            values,
            vectors,
            vectors.T @ total[some],
            torch.diagonal(inside, dim1=1, dim2=2),
            middle,
            inside @ vectors,
            middle[:, some] @ vectors,
            centered[:, some] @ seen,
            middle @ seen,
            rows,
            torch.tensor([weight for weight, _ in parts], dtype=torch.float64),
            point,
        )

    def to(self, place: str) -> Rounds:
        """The same on a device."""
        self._tables = ops.Tables(*(table.to(place).contiguous() for table in self._tables))
        return self

    def scores(self, products: Tensor) -> Tensor:
        """Cosines ``[A,S,V,C]`` of the innocents, then of the suspect, by products ``[A,V,M+1]``."""
        return ops.leave_one_out(
            products,
            self._tables,
            freed=self._freed,
            alone=self._alone,
            shrink=SHRINK,
            rounding=ROUNDING,
        )


__all__ = ["Rounds"]
