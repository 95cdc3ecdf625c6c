"""Several models asked in one call: as one network with stacked weights where that is quicker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from uapfast.method.uap.common import WHERE, Query

# Measured on a CPU (docs/kernels.md): stacked weights win while a call has few numbers a model, since then
# the calls cost more than the arithmetic; beyond, grouped convolutions lose. By size, not by the clock: the
# same models take the same way every time.
STACK_ELEMENTS = 8192
# Images above this are asked model by model, whatever the batch: the gradients of many models together
# take memory and win nothing.
GROUP_ELEMENTS = 4096
GROUP = 16  # models in one call at most
PROBES = 4
log = logging.getLogger(__name__)


class Models:
    """Frozen models asked together: sample i is put to model ``owner[i]``.

    Args:
        queries: the models; of one device and dtype. Those of one architecture are stacked where it pays.
        probe: ``[n,C,H,W]`` in 0..1; a stack that answers it otherwise than its models is not used.
    """

    def __init__(self, queries: Sequence[Query], probe: Tensor) -> None:
        self.queries, self.counter = list(queries), queries[0].counter
        probe = probe[:PROBES].to(queries[0].model_dtype)
        self._stack = _checked([q.module for q in queries], probe) if len(queries) > 1 else None

    def logits(self, points: Tensor, owner: Tensor) -> Tensor:
        """``[B,K]`` logits at clamp(``points``), in their order; ``owner`` int64 ``[B]`` ascending."""
        if len(self.queries) == 1:
            return self.queries[0].logits(points)
        counts = torch.bincount(owner, minlength=len(self.queries))
        if self._stack is not None and self.most(owner) * points[0].numel() <= STACK_ELEMENTS:
            return self._stacked(self._stack, points, owner, counts)
        parts = zip(self.queries, torch.split(points, counts.tolist()), strict=True)
        return torch.cat([q.logits(p) for q, p in parts if len(p)])

    def most(self, owner: Tensor) -> int:
        """Samples of the model that has most of them."""
        return int(torch.bincount(owner).max())

    def _stacked(self, stack: _Stack, points: Tensor, owner: Tensor, counts: Tensor) -> Tensor:
        self.counter.forwards += len(points)
        asked = counts.nonzero()[:, 0]
        row = torch.full_like(counts, -1)
        row[asked] = torch.arange(len(asked), device=row.device)
        column = torch.arange(len(points), device=row.device) - (counts.cumsum(0) - counts)[owner]
        # models with fewer samples get black images instead; nothing of theirs is read
        padded = points.new_zeros(len(asked), int(counts.max()), *points.shape[1:])
        padded = padded.index_put((row[owner], column), points)
        out = stack(asked, padded.clamp(0, 1).to(self.queries[0].model_dtype))
        return out[row[owner], column].to(self.queries[0].dtype)


class _Stack:
    """Models of one architecture as one function ``[m,n,C,H,W]`` to ``[m,n,K]``."""

    def __init__(self, modules: list[nn.Module]) -> None:
        parameters, buffers = stack_module_state(modules)
        self.weights = {k: v.detach() for k, v in (parameters | buffers).items()}
        self._part: tuple[list[int], dict[str, Tensor]] = (list(range(len(modules))), self.weights)

        def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(modules[0], weights, (x,))  # type: ignore[no-any-return]

        self._ask: Callable[[dict[str, Tensor], Tensor], Tensor] = vmap(one)

    def __call__(self, asked: Tensor, x: Tensor) -> Tensor:
        """Logits of the models ``asked`` (int64, ascending); the weights of the last ones are kept."""
        rows = asked.tolist()
        if rows != self._part[0]:
            self._part = rows, {k: v[asked] for k, v in self.weights.items()}
        return self._ask(self._part[1], x)


def _checked(modules: list[nn.Module], probe: Tensor) -> _Stack | None:
    """The stack, if it answers as its models do; None, with a word in the log, if not."""
    try:
        stack = _Stack(modules)
        with torch.no_grad():
            every = torch.arange(len(modules), device=probe.device)
            got = stack(every, probe.expand(len(modules), *probe.shape)).double()
            want = torch.stack([m(probe) for m in modules]).double()
    except Exception as exc:  # what vmap cannot do is many things
        log.info("%s: weights are not stacked (%s: %s)", WHERE, type(exc).__name__, str(exc)[:200])
        return None
    if float((got - want).norm()) <= 1e-3 * float(want.norm()):
        return stack
    log.info("%s: weights are not stacked (the stack answers otherwise than the models)", WHERE)
    return None


def _kind(query: Query) -> object:
    """What models share that may be stacked: classes, settings and shapes of all their parts."""
    parts = []
    for name, part in query.module.named_modules():
        tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        shapes = tuple((n, tuple(t.shape), t.dtype) for n, t in tensors)
        parts.append((name, type(part), part.extra_repr(), shapes))
    return query.device, query.model_dtype, tuple(parts)


def groups(queries: Sequence[Query], elements: int) -> list[list[int]]:
    """Places of the models that are asked together, given images of ``elements`` numbers."""
    if elements > GROUP_ELEMENTS:
        return [[i] for i in range(len(queries))]
    kinds: dict[object, list[int]] = {}
    for i, query in enumerate(queries):
        kinds.setdefault(_kind(query), []).append(i)
    return [places[k : k + GROUP] for places in kinds.values() for k in range(0, len(places), GROUP)]
