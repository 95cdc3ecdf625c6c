"""Leave-one-out scores of suspects before a pool, all rounds of many suspects at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from uapfast import _native
from uapfast.ops import _args
from uapfast.ops._registry import AUTO, Backend, define, native_backends

NAME = "leave_one_out"
TINY = float(torch.finfo(torch.float64).tiny)
NOISE = 1e-20  # share of the largest product that a ridge is at the least: what rounding leaves, squared


class Tables(NamedTuple):
    """What scoring takes of a pool: float64 but ``some``. Vectors are from the innocents' mean.

    M models, I of them innocents; N = M + 1, the suspect last; P parts of each of C candidates' templates.

    Attributes:
        some: int64 ``[I]`` rows of the innocents.
        mean: ``[V,M]`` mean product of a model with the innocents, as it is.
        total: ``[M,M]`` inner products over all views.
        values: ``[I]`` squared lengths of the innocents' principal directions, >= 0.
        vectors: ``[I,I]`` coefficients of the directions, a column each, which adds to 0; the last is zeros.
        along: ``[I,M]`` products of the directions with the models, times their lengths.
        squares: ``[V,I]`` of the innocents.
        middle: ``[V,M]`` products of the origin, as far as the pool makes it, with the models.
        back: ``[V,I,I]`` products of the innocents with the directions.
        middle_back: ``[V,I]`` of the origin, as far as the pool makes it.
        seen: ``[V,I,P*C]`` products of the innocents with the parts, as far as the pool makes them.
        middle_seen: ``[V,P*C]`` of the origin, likewise.
        parts: ``[P*C,N]`` coefficients of what templates are made of; each adds to 0.
        weights: ``[P]`` of the parts.
        origin: ``[N]`` coefficients, adding to 1, of the point that residuals are taken from.
    """

    some: Tensor
    mean: Tensor
    total: Tensor
    values: Tensor
    vectors: Tensor
    along: Tensor
    squares: Tensor
    middle: Tensor
    back: Tensor
    middle_back: Tensor
    seen: Tensor
    middle_seen: Tensor
    parts: Tensor
    weights: Tensor
    origin: Tensor


def leave_one_out(
    products: Tensor,
    tables: Tables,
    *,
    freed: bool,
    alone: bool,
    shrink: float,
    rounding: float,
    backend: str = AUTO,
) -> Tensor:
    """Cosines of suspects and innocents with every candidate by views, whose means are the cosines.

    Every model of a set, a suspect and the innocents, is scored with a whitening fitted on all the others
    (:mod:`uapfast.method.lineage`). The covariances of these rounds differ from that of the innocents by two
    models at most, and in their ridge: the pool's own eigenvectors serve them all, the innocent left out and
    the suspect beside the others are changes of rank one (Sherman and Morrison 1950), as is the direction
    that is taken out. So a suspect costs matrix products alone.

    Args:
        products: ``[A, V, N]`` float64, inner products of each of A suspects with the pool's models and with
            itself; where it is ``alone``, one of anything.
        tables: of the pool, on the same device.
        freed: whether the direction of the origin from the others' mean is taken out.
        alone: there is no suspect; innocents are scored among themselves.
        shrink: share of the variation of what a round is fitted on that is added to every direction.
        rounding: share of the largest squared length, or inner product if that is more (differences of
            models are differences of those), below which a length is taken as none.
        backend: ``cpu``, ``scalar``, ``avx2``, ``avx512``, ``reference``; left out, the fastest that applies.

    Returns:
        ``[A, S, V, C]`` float64: of the I innocents, then (unless ``alone``) of the suspect. A suspect's
        scores are the same bits in any company (``reference``: as the library has it). Not differentiable.

    Raises:
        InputError: an argument breaks the above.
    """
    out: Tensor = _OP.call(products, list(tables), freed, alone, float(shrink), float(rounding), backend)
    return out


def _check(products: Tensor, tables: list[Tensor], freed: bool, alone: bool, *_: float) -> None:
    _args.need_tensor(NAME, "products", products, "A, V, N", (torch.float64,))
    _args.need(len(tables) == len(Tables._fields), NAME, "tables", "Tables", len(tables))
    views, size = products.shape[1:]
    found = Tables(*tables)
    count, models, last = len(found.some), size - 1, found.parts.shape[0]
    shapes: list[tuple[int, ...]] = [
        (count,), (views, models), (models, models), (count,), (count, count), (count, models),
        (views, count), (views, models), (views, count, count), (views, count), (views, count, last),
        (views, last), (last, size), tuple(found.weights.shape[:1]), (size,),
    ]  # fmt: skip
    _args.need(count >= 1 and views >= 1, NAME, "tables", "of an innocent and a view at least", count)
    parts = found.weights.shape[0]
    _args.need(parts >= 1 and last % max(parts, 1) == 0, NAME, "weights", f"a divisor of {last} parts", parts)
    for name, table, shape in zip(Tables._fields, found, shapes, strict=True):
        dtype = torch.int64 if name == "some" else torch.float64
        _args.need_like(NAME, name, table, shape, dtype, products)


def _fake(products: Tensor, tables: list[Tensor], freed: bool, alone: bool, *_: float) -> Tensor:
    found = Tables(*tables)
    candidates = found.parts.shape[0] // found.weights.shape[0]
    return products.new_empty((len(products), len(found.some) + (not alone), products.shape[1], candidates))


class _Mix(NamedTuple):
    """A vector of every round: so much of the scored model, of the origin, of the suspect; ``[S,1]`` each."""

    model: Tensor | float
    origin: float
    suspect: Tensor | float

    def of(self, model: Tensor, origin: Tensor, suspect: Tensor) -> Tensor:
        """The same sum of anything linear."""
        return self.model * model + self.origin * origin + self.suspect * suspect


class _Change(NamedTuple):
    """A change of rank one in every round: ``sign`` times the square of a whitened vector.

    Attributes:
        sign: ``[A,S]``.
        inner: ``[A,S,N]`` the vector's products with all models.
        seen: ``[A,S,V]`` its products with the residual of the round's own model, by views.
    """

    sign: Tensor
    inner: Tensor
    seen: Tensor


class _Rounds:
    """All rounds of some suspects, in plain torch: the op's reference, and its way on a device."""

    def __init__(self, products: Tensor, tables: Tables, alone: bool, shrink: float, rounding: float) -> None:
        self.tables, self.alone, self.rounding = tables, alone, rounding
        some, count = tables.some, len(tables.some)
        own, square = products[..., :-1], products[..., -1]
        mean, middle = own[..., some].mean(-1, keepdim=True), tables.mean[:, some].mean(-1)
        own = (own - mean - tables.mean + middle[:, None]) * (not alone)
        square = (square - 2.0 * mean[..., 0] + middle) * (not alone)
        total, whole = own.sum(1), square.sum(1)
        rows = torch.cat([tables.total.expand(len(own), -1, -1), total[:, :, None]], -1)
        self.inner = torch.cat([rows, torch.cat([total, whole[:, None]], -1)[:, None]], 1)  # [A,N,N]
        across = (total[:, some] @ tables.vectors)[..., None]
        self.along = torch.cat([tables.along.expand(len(own), -1, -1), across], -1)  # [A,n,N]
        self.every = torch.cat([some, some.new_tensor([] if alone else [total.shape[1]])])  # [S]
        self.rounds = torch.arange(len(self.every), device=some.device)
        each = torch.ones(len(self.every), 1, dtype=own.dtype, device=own.device)
        if not alone:
            each[-1] = 0.0  # nothing comes or goes where the suspect is scored
        self.less = 1.0 / max(count - 1, 1)
        self.came = _Mix(each * self.less, 0.0, each)  # the suspect, from the mean of the innocents that stay
        share = each / count
        self.way = (
            _Mix(each * self.less, 1.0, 0.0) if alone else _Mix(share, 1.0, -share)
        )  # from the others' mean
        self.changes: list[_Change] = []
        self._mixed(own, square)
        largest = torch.maximum(products.abs().amax((1, 2)), tables.mean.abs().amax())
        self.scale = largest[:, None] * products.shape[1]  # [A,1] of products over all views
        self.ridge = self._ridge(count, shrink, (NOISE * largest).clamp(min=TINY))
        self.shares = 1.0 / (
            tables.values + self.ridge[..., None]
        )  # [A,S,n] of each direction that is taken out

    def _mixed(self, own: Tensor, square: Tensor) -> None:
        """What :class:`_Mix` mixes: products, coordinates, and what each view sees of them."""
        pool, some = self.tables, self.tables.some
        origin, tail = pool.origin[:-1], pool.origin[-1]
        along = self.along.mT
        self.mixed_inner = self.inner[:, self.every], (pool.origin @ self.inner)[:, None], self.inner[:, -1:]
        self.mixed_along = along[:, self.every], (pool.origin @ along)[:, None], along[:, -1:]
        middle = pool.middle + tail * own  # [A,V,M] of the origin with the pool's models
        beside = own @ origin + tail * square  # and with the suspect
        center = middle @ origin + tail * beside  # and with itself

        def rows(innocent: Tensor, suspect: Tensor) -> Tensor:
            """``[A,S,V,...]`` of ``[A,V,I,...]`` and ``[A,V,...]``."""
            found = innocent.transpose(1, 2)
            return found if self.alone else torch.cat([found, suspect[:, None]], 1)

        self.mixed_seen = (
            rows(pool.squares - middle[..., some], square - beside),
            rows(middle[..., some], beside) - center[:, None],
            rows(own[..., some], square) - beside[:, None],
        )
        across = own[..., some] @ pool.vectors  # [A,V,n]
        back = rows(pool.back.expand(len(own), -1, -1, -1), across)
        self.back = back - (pool.middle_back + tail * across)[:, None]  # [A,S,V,n]
        parts, last = pool.parts[:, :-1], pool.parts[:, -1]
        across = own @ parts.T + square[..., None] * last  # [A,V,P*C] of the suspect with the parts
        seen = rows(pool.seen + own[..., some, None] * last, across)
        self.seen = seen - (pool.middle_seen + (own @ origin)[..., None] * last + tail * across)[:, None]

    def _ridge(self, count: int, shrink: float, noise: Tensor) -> Tensor:
        """``[A,S]``: a share of the trace of what each round is fitted on, or what rounding leaves."""
        squares, suspect = torch.diagonal(self.inner, dim1=1, dim2=2), self.inner[:, -1]
        mean = 0.0 if self.alone else 1.0 / (count + 1)
        spread = squares - 2.0 * mean * suspect + mean**2 * squares[:, -1:]
        least = torch.maximum(self.rounding * spread.amax(-1), noise)[:, None]
        own = squares[:, self.tables.some]
        trace = own.sum(-1, keepdim=True) - count * self.less * own
        if not self.alone:
            came = squares[:, -1:] + 2.0 * self.less * suspect[:, self.tables.some] + self.less**2 * own
            trace = torch.cat([trace + (count - 1) / count * came, own.sum(-1, keepdim=True)], -1)
        return torch.maximum(shrink * trace, least)

    # -- the metric --------------------------------------------------------------------------------
    def _length(self, square: Tensor, largest: Tensor) -> Tensor:
        """Square roots of squared lengths; infinite where rounding is all that is left of the ``largest``."""
        return torch.where(square > self.rounding * largest.clamp(min=0.0), square, torch.inf).sqrt()

    def _whitened(self, mix: _Mix) -> tuple[Tensor, Tensor]:
        """Products ``[A,S,N]`` of a whitened vector with all models, and what views see of it ``[A,S,V]``."""
        taken = mix.of(*self.mixed_along) * self.shares
        inner = mix.of(*self.mixed_inner) - taken @ self.along
        seen = mix.of(*self.mixed_seen) - (self.back @ taken[..., None])[..., 0]
        for change in self.changes:
            pull = change.sign * self._with(change.inner, mix)
            inner += pull[..., None] * change.inner
            seen += pull[..., None] * change.seen
        return inner, seen

    def _with(self, inner: Tensor, mix: _Mix) -> Tensor:
        """The product ``[A,S]`` of each round's vector with products ``inner`` ``[A,S,N]``, and another."""
        own = inner[:, self.rounds, self.every]
        return mix.of(own[..., None], (inner @ self.tables.origin)[..., None], inner[..., -1:])[..., 0]

    def _largest(self) -> Tensor:
        """What lengths of each round are held against, ``[A,S]``: of its models, or what was subtracted."""
        return torch.maximum(self._squares().amax(-1), self.scale)

    def _squares(self) -> Tensor:
        """Squared lengths ``[A,S,N]`` of all models."""
        out = torch.diagonal(self.inner, dim1=1, dim2=2)[:, None] - self.shares @ self.along.square()
        for sign, inner, _ in self.changes:
            out += sign[..., None] * inner.square()
        return out

    def leave_out(self) -> None:
        """Without the round's own innocent: in sums of what the ridge keeps, free of cancellation."""
        pool, count = self.tables, len(self.tables.some)
        ridge, factor = self.ridge[:, :count], count * self.less
        kept = pool.vectors * (self.shares[:, :count] * ridge[..., None])  # [A,I,n]
        squares = torch.diagonal(pool.total)[pool.some]
        left = factor * (kept * pool.vectors).sum(-1)
        left = torch.maximum(left, ridge / (ridge + factor * squares))  # its least value, rounding aside
        found = _Change(
            factor / ridge / left, kept @ self.along, (self.back[:, :count] @ kept[..., None])[..., 0]
        )
        if not self.alone:  # nothing is left out of the suspect's
            found = _Change(*(torch.cat([x, torch.zeros_like(x[:, :1])], 1) for x in found))
        self.changes.append(found)

    def let_in(self) -> None:
        """With the suspect."""
        share = 1.0 - 1.0 / len(self.tables.some)
        inner, seen = self._whitened(self.came)
        square = self._with(inner, self.came).clamp(min=0.0)
        self.changes.append(_Change(-share / (self.ridge + share * square), inner, seen))

    def free(self) -> None:
        """Without the direction from the others' mean to the origin."""
        inner, seen = self._whitened(self.way)
        length = self._length(self._with(inner, self.way), self._largest())
        self.changes.append(_Change(-1.0 / length.square(), inner, seen))

    # -- scores ------------------------------------------------------------------------------------
    def _joined(self, values: Tensor) -> Tensor:
        """Sums ``[...,C]`` over the parts of ``[...,P*C]``."""
        return self._apart(values).sum(-2)

    def _apart(self, values: Tensor) -> Tensor:
        """``[...,P,C]`` of ``[...,P*C]``."""
        return values.reshape(*values.shape[:-1], len(self.tables.weights), -1)

    def scores(self) -> Tensor:
        """``[A,S,V,C]``."""
        largest = self._largest()
        along = self.along @ self.tables.parts.T  # [A,n,P*C]
        shadows = [inner @ self.tables.parts.T for _, inner, _ in self.changes]  # [A,S,P*C] each
        weights = self._weigh(along, shadows, largest)  # [A,S,P*C]
        residual = _Mix(1.0, -1.0, 0.0)
        square = self._with(self._whitened(residual)[0], residual)
        found = self._joined(weights[:, :, None] * self.seen)  # [A,S,V,C]
        found -= self.back @ (self._joined(weights[:, :, None] * along[:, None]) * self.shares[..., None])
        for change, shadow in zip(self.changes, shadows, strict=True):
            pull = change.sign[..., None] * self._joined(weights * shadow)  # [A,S,C]
            found += change.seen[..., None] * pull[:, :, None]
        return found * (found.shape[2] / self._length(square, largest))[..., None, None]

    def _weigh(self, along: Tensor, shadows: list[Tensor], largest: Tensor) -> Tensor:
        """What each part ``[A,S,P*C]`` adds to the unit template of its candidate."""

        def square(values: Tensor) -> Tensor:
            """Products ``[...,C,P,P]`` of the parts of a candidate, of what each is ``[...,P*C]``."""
            one = self._apart(values).mT
            return one[..., :, None] * one[..., None, :]

        rows = self._apart(self.tables.parts.mT).permute(2, 1, 0)  # [C,P,N]
        inner = rows @ self.inner[:, None] @ rows.mT  # [A,C,P,P]
        taken = (self.shares @ square(along).flatten(2)).view(*self.shares.shape[:2], *inner.shape[1:])
        pairs = inner[:, None] - taken
        for (sign, _, _), shadow in zip(self.changes, shadows, strict=True):
            pairs += sign[..., None, None, None] * square(shadow)
        own = torch.diagonal(pairs, dim1=3, dim2=4)  # [A,S,C,P]
        weights = self.tables.weights / self._length(own, largest[..., None, None])
        whole = (weights[..., None, :] @ pairs @ weights[..., None])[..., 0, 0]
        return (weights / self._length(whole, largest[..., None])[..., None]).mT.flatten(2)


def reference(
    products: Tensor, tables: list[Tensor], freed: bool, alone: bool, shrink: float, rounding: float
) -> Tensor:
    """The op in plain torch; any device."""
    if not len(products):
        return _fake(products, tables, freed, alone)
    rounds = _Rounds(products, Tables(*tables), alone, shrink, rounding)
    rounds.leave_out()
    if not alone:
        rounds.let_in()
    if freed:
        rounds.free()
    return rounds.scores()


def _native_run(
    level: int,
    products: Tensor,
    tables: list[Tensor],
    freed: bool,
    alone: bool,
    shrink: float,
    rounding: float,
) -> Tensor:
    held = [t.contiguous() for t in (products, *tables)]
    out = torch.empty_like(_fake(products, tables, freed, alone), device="cpu")
    found = Tables(*tables)
    suspects, views, size = products.shape
    sizes = (suspects, views, size - 1, len(found.some), len(found.weights), out.shape[-1])
    addresses = [t.data_ptr() for t in held]
    how = (freed, alone, shrink, rounding, NOISE, torch.get_num_threads(), level)
    _native.cpu().leave_one_out(addresses, out.data_ptr(), *sizes, *how)
    return out


def _native_refuses(products: Tensor, *_: object) -> str | None:
    return None if products.device.type == "cpu" else "tensors on the CPU"


_OP = define(
    NAME,
    "Tensor products, Tensor[] tables, bool freed, bool alone, float shrink, float rounding -> Tensor",
    check=_check,
    fake=_fake,
    backends=[
        *native_backends(_native_run, _native_refuses, ("scalar", "avx2", "avx512")),
        Backend("reference", reference),
    ],
)
