"""Queries and fingerprints: what is asked of a model, and what its answers become.

A fingerprint follows Peng et al. (CVPR 2022): the answers at the ``n`` points of a view and at the
same points moved by a universal adversarial perturbation. Ours differs in one thing: in the
``lineage`` plan every candidate (victim and twins) contributes its own UAP, and each point is moved
by one of them, drawn evenly, so that the queries single out no candidate (docs/method.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from uapfast.images import floats, packed
from uapfast.method.scaling import LEAST_SPREAD, even_spread, without_floor
from uapfast.models.answers import UNANSWERED, AnswerKind, Answers
from uapfast.models.model import Model
from uapfast.ops import build_queries

KEEP_CLASSES = 32  # beyond this many classes a query keeps only those the pool gives weight to


class Answering(Protocol):
    """What can be asked: models, and every other kind of suspect."""

    def answers_to(self, chunks: Iterable[Tensor], classes: int | None = None) -> Answers:
        """Answers to images float32 ``[n,C,H,W]`` in 0..1, in their order."""
        ...


def to_grid(x: Tensor) -> Tensor:
    """The nearest multiples of 1/255."""
    return (x * 255.0).round() / 255.0


def spread_uaps(points: int, views: int, uaps: Tensor, seed: int) -> Tensor:
    """Which UAP moves which point: int64 ``[Q]``, every UAP equally often in every view (to one).

    Who moves one point more is drawn by ``seed`` and the UAPs themselves, never by their place, which the
    victim always has first: to be the victim changes nothing.

    Args:
        points: of a view.
        views: how many.
        uaps: float32 ``[P,C,H,W]``; zeros stand where P = 0.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [hashlib.sha256(f"{seed}/".encode() + u.contiguous().numpy().tobytes()).digest() for u in uaps]
    turn = torch.tensor(sorted(range(len(drawn)), key=drawn.__getitem__) or [0])
    rows = []
    for view in range(views):
        even = (torch.arange(points) + view * points) % len(turn)
        rows.append(turn[even][torch.randperm(points, generator=generator)])
    return torch.cat(rows)


@dataclass(frozen=True)
class QueryPlan:
    """The queries of one reference, in the order in which they are asked.

    Attributes:
        points: ``[Q,C,H,W]``, float32 in 0..1, or uint8 where all lie on the 1/255 grid, however they were
            given; view ``w`` holds the points ``w*n .. w*n+n-1``. :meth:`x` gives floats.
        uaps: float32 ``[P,C,H,W]``, one per candidate, the victim's first; P = 0 where every t is 0 and none
            was asked to be shown.
        assign: int64 ``[B,Q]``: which UAP moves the point in each block.
        scale: t of each block: the query is x + t*v; 0 asks the clean point.
        views: number of views V; Q = V * n.
        wire_safe: points and t*v lie on the 1/255 grid, so that queries survive 8-bit upload.
    """

    points: Tensor
    uaps: Tensor
    assign: Tensor
    scale: tuple[float, ...]
    views: int
    wire_safe: bool = False

    def __post_init__(self) -> None:
        """Keep as bytes what bytes hold."""
        object.__setattr__(self, "points", packed(self.points))

    def x(self, index: slice | Tensor) -> Tensor:
        """Some points, float32 ``[n,C,H,W]`` in 0..1."""
        return floats(self.points[index])

    @property
    def blocks(self) -> int:
        """Answers asked per point, B."""
        return int(self.assign.shape[0])

    @property
    def per_view(self) -> int:
        """Points per view, n."""
        return int(self.points.shape[0]) // self.views

    @property
    def queries(self) -> int:
        """Answers asked of a model in all, B * Q."""
        return self.blocks * int(self.points.shape[0])

    def images(self, view: int) -> Tensor:
        """The queries of one view: float32 ``[B*n,C,H,W]`` in 0..1, block after block."""
        part = slice(view * self.per_view, (view + 1) * self.per_view)
        x = self.x(part)
        out = []
        for row, t in zip(self.assign[:, part], self.scale, strict=True):
            if not t:
                out.append(x)
            elif self.wire_safe:
                out.append(build_queries(x, to_grid(t * self.uaps), row, clean=False)[0])
            else:
                out.append(build_queries(x, self.uaps, row, t=t, clean=False)[0])
        return torch.cat(out)

    def chunks(self, views: range | None = None) -> Iterator[Tensor]:
        """The queries of some views, or of all, view by view."""
        yield from map(self.images, range(self.views) if views is None else views)


def answers_of(model: Answering, chunks: Iterable[Tensor], count: int, classes: int | None = None) -> Answers:
    """Answers to ``count`` images in chunks; a network that runs here is asked in even batches of them."""
    if isinstance(model, Model):
        return model.answers_to(chunks, classes, count)
    return model.answers_to(chunks, classes)


def ask(
    model: Answering, plan: QueryPlan, classes: int | None = None, chunks: Iterable[Tensor] | None = None
) -> tuple[Tensor, AnswerKind]:
    """Ask ``model`` every query of the plan (or ``chunks``, which are the same).

    Returns:
        probabilities, float32 ``[V,B,n,K]`` (one-hot for a model that answers with labels), and
        what it answered with.

    Raises:
        SuspectError: NaN or infinite answers, another class count, or a changing shape.
    """
    answers = answers_of(model, plan.chunks() if chunks is None else chunks, plan.queries, classes)
    shape = (plan.views, plan.blocks, plan.per_view, answers.classes)
    return probabilities_of(answers).reshape(shape), answers.kind


def probabilities_of(answers: Answers) -> Tensor:
    """Probabilities float32 ``[N,K]`` of answers of any kind.

    What was done to all of them alike and says nothing is undone: a scale of logits that softmax would lose
    (:func:`even_spread`), even answers mixed in (:func:`without_floor`).
    """
    if answers.kind == "labels":
        return answers.probabilities()
    if answers.kind == "logits":
        return without_floor(even_spread(answers.values).softmax(-1))
    p = without_floor(answers.values)
    logs = p.log()  # of all but truncated answers as good as logits
    flat = bool(torch.isfinite(logs).all()) and float((logs.amax(-1) - logs.mean(-1)).median()) < LEAST_SPREAD
    return even_spread(logs).softmax(-1) if flat else p


def kept_classes(answers: Tensor) -> Tensor | None:
    """Classes that each query keeps: int64 ``[V,B,n,KEEP_CLASSES]``, or None when all are kept.

    Args:
        answers: ``[M,V,B,n,K]`` probabilities of candidates and their surrogates; the choice is symmetric in
            the candidates, and no innocent has a say.
    """
    if answers.shape[-1] <= KEEP_CLASSES:
        return None
    return answers.mean(0).topk(KEEP_CLASSES, dim=-1).indices


def reduce_classes(answers: Tensor, keep: Tensor | None) -> Tensor:
    """Probabilities ``[...,V,B,n,K]`` with the classes not kept summed into one last column."""
    if keep is None:
        return answers
    kept = torch.gather(answers, -1, keep.expand(*answers.shape[:-1], keep.shape[-1]))
    rest = (1.0 - kept.sum(-1, keepdim=True)).clamp(min=0.0) * answered(answers)
    return torch.cat([kept, rest], dim=-1)


def answered(answers: Tensor) -> Tensor:
    """Bool ``[...,1]``: rows of probabilities that are not all zero; zeros stand for a query not answered."""
    return (answers > 0).any(-1, keepdim=True)


def top_classes(answers: Tensor, keep: Tensor | None) -> Tensor:
    """Top classes int64 ``[...,V,B,n]`` as columns of :func:`reduce_classes`; -1 where there is no answer."""
    most, top = answers.max(-1)
    if keep is not None:
        found = keep == top[..., None]
        top = torch.where(found.any(-1), found.byte().argmax(-1), keep.shape[-1])
    return top.masked_fill(most <= 0, UNANSWERED)


def paper_features(reduced: Tensor) -> Tensor:
    """The paper's fingerprint: concat over points of [softmax f(x), softmax f(x+v)], ``[...,V,B*n*R]``."""
    return reduced.transpose(-2, -3).flatten(-3)
