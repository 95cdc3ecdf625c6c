"""One network whose weights are replaced in place, or that is built anew for every suspect.

:mod:`uapfast.suspects.networks.skeletons` says when which.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.errors import ModelError, SuspectError
from uapfast.models.answers import as_tensor
from uapfast.models.batches import batches_of, most_at_once
from uapfast.models.checkpoint import fill
from uapfast.models.fitting import check_finite, wanted
from uapfast.models.model import answer, settled
from uapfast.models.state import ALONE, TRIED, batch_note, repeats
from uapfast.suspects.networks.building import build_network
from uapfast.suspects.networks.described import Described
from uapfast.suspects.networks.inplace import (
    alias,
    changes_with_mode,
    first_difference,
    flatten,
    layout,
    loads_plainly,
    own_places,
    some_outside,
    state_bytes,
)
from uapfast.suspects.networks.precision import raw_answers
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.traces import NetworkSnapshot, glimpse, holds_more

log = logging.getLogger(__name__)


class Skeleton:
    """A network whose weights are replaced in place. For one thread at a time.

    Args:
        suspect: says architecture and preprocessing; its weights are not read.
        device, precision: where it runs and how (:mod:`uapfast.suspects.networks.precision`).
        most: images a forward, or None for what their size allows.

    Attributes:
        shapes: names and shapes of the weights that it takes.
        is_new: nothing was loaded into it yet.
        in_place: whether, as far as is known, weights can be copied into the network's own memory. Where
            not, :meth:`load` builds a network for each suspect.
        holds: SHA-256 of the tensors that were loaded last, if the caller said it.
        size: bytes of its weights.
        notes: what a reader of the verdict has to know of the weights that were loaded, or of the network.

    Raises:
        ModelError: unknown architecture, or one that cannot be built, or is too large, or whose code is not
            that of ``suspect.code``.
        MissingDependency: timm or torchvision is needed.
    """

    def __init__(
        self,
        suspect: Described,
        device: str = "cpu",
        precision: str = "float32",
        most: int | None = None,
    ) -> None:
        self._most = most
        self.device, self.precision = torch.device(device), precision
        self._suspect: Described = suspect
        self.holds: str | None = None
        self._wrapped = suspect.preprocessing is not None
        self.module = self._build()
        self.is_new, self.size = True, state_bytes(self.module)
        state = self.module.state_dict()
        odd = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
        if odd:
            raise ModelError("screen", "arch", f"a network whose state is tensors ({suspect.arch})", odd[0])
        self.shapes = Shapes(wanted(self.module))
        self.notes: tuple[str, ...] = ()
        self._batches: str | None = None  # what to say of answers that depend on the batch
        self._unsteady: str | None = None  # what to say of answers that do not repeat
        self._glimpse: list[Any] | None = None
        self.in_place = loads_plainly(self.module) and alias(self.module, state)
        if self.in_place:
            found = layout(self.module)
            self.shapes.places, self.shapes.flat = found.places, 4 * found.size
        self.shapes.apart = [name for name in state if name not in self.shapes.places]
        self._flat: Tensor | None = None
        self._targets: dict[str, Tensor] = {}
        self._loose, self._moves = False, changes_with_mode(self.module)
        self._where: list[tuple[Mapping[str, Tensor | None], str, Tensor, int]] = []
        self._picture: NetworkSnapshot | None = None
        self._asked = self._settled = False

    def _build(self) -> nn.Module:
        return build_network(self._suspect)

    @property
    def _inner(self) -> nn.Module:
        """The network without its preprocessing."""
        wrapped = self._wrapped and not self.is_new
        inner: nn.Module = self.module.inner if wrapped else self.module  # type: ignore[assignment]
        return inner

    def load(
        self,
        tensors: Mapping[str, Tensor],
        path: object,
        fits: Shapes | None = None,
        flat: Tensor | None = None,
    ) -> None:
        """Take a suspect's weights.

        Args:
            tensors: on the CPU; they are copied.
            path: named in errors.
            fits: names and shapes that they were checked against; not again, if they are ``shapes`` itself.
            flat: those of ``fits.places``, each at its place, float32.

        Raises:
            ModelError: names or shapes that differ.
            SuspectError: NaN or infinite weights.
        """
        if self.is_new or not self._takes_more():
            self._load_new(tensors, path)
            return
        tensors, names, flat = self.shapes.to_copy(tensors, path, fits, flat)
        self.notes = tuple(n for n in (self._batches, self._unsteady) if n is not None)
        if self._moves:
            self.module.train()
        if flat is not None:
            assert self._flat is not None
            self._flat.copy_(flat)
        if names:
            torch._foreach_copy_([self._targets[n] for n in names], [tensors[n] for n in names])
        self._after_copy()
        self._check_finite(path)
        if not self._settled:
            self._picture = NetworkSnapshot(self.module)

    def _load_new(self, tensors: Mapping[str, Tensor], path: object) -> None:
        """As :func:`uapfast.models.checkpoint.load_model` does: build, fill, freeze."""
        if not self.is_new:
            self.module, self.is_new = self._build(), True
        self._asked = self._settled = False
        self._flat, self._picture = None, None
        notes = fill(self.module, tensors, path, self.shapes.wants)
        in_place, self.in_place, self.is_new = self.in_place, False, False  # if freezing fails
        self.module = settled(self.module, self._suspect.preprocessing, self.device)
        self.in_place, self._batches = in_place, batch_note(self.module)
        self.notes = notes if self._batches is None else (*notes, self._batches)
        self._unsteady = self._glimpse = None
        if self.in_place:
            own = self._inner.state_dict()
            changed = first_difference(own, {n: t for n, t in tensors.items() if n in own})
            why = holds_more(self.module) or (f"eval() changes {changed}" if changed else None)
            if why is not None:
                log.debug("screen: %s is built for every suspect: %s", self._suspect.arch, why)
                self.in_place = False
            else:
                self._picture = NetworkSnapshot(self.module)

    def _takes_more(self) -> bool:
        """Whether weights may be copied into it now; its memory is made ready for that."""
        if not self.in_place or (self._asked and not self._settled):
            return False
        if self._flat is None:
            self._make_flat()
        return self.in_place

    def _make_flat(self) -> None:
        self._flat = flatten(self._inner, self.device)
        self._targets = dict(self._inner.state_dict())
        same = own_places(self._flat, self._targets) == self.shapes.places
        self.in_place = alias(self._inner, self._targets) and same
        self._loose = some_outside(self._flat, self._targets)
        parts = [d for part in self.module.modules() for d in (part._parameters, part._buffers)]
        self._where = [(d, n, t, t.data_ptr()) for d in parts for n, t in d.items() if t is not None]

    def _has_moved(self) -> bool:
        return any(d.get(n) is not t or t.data_ptr() != place for d, n, t, place in self._where)

    def _after_copy(self) -> None:
        """What ``eval()`` makes of weights is made anew."""
        if self._moves:
            self.module.train()
            self.module.eval()
            self.module.requires_grad_(False)

    def _check_finite(self, path: object) -> None:
        """What was copied, after the cast (which may overflow)."""
        # one sum sees every NaN and infinity; that it overflows without any only costs the loop below
        assert self._flat is not None
        if self._loose or not math.isfinite(float(self._flat.sum())):
            check_finite(self.shapes.wants, self._targets, path)

    def settled(self) -> bool:
        """Whether the network may take other weights, asked after answers.

        If not, :meth:`load` builds a new one from then on. Answers of a network that was built for its
        suspect hold all the same.
        """
        if not self.in_place:
            return False
        if self._settled:
            now = None if self._glimpse is None else glimpse(self._inner)
            self.in_place = now == self._glimpse and not self._has_moved()
            self._glimpse = None if self._moves else now  # copied weights change nothing of it
        else:
            assert self._picture is not None
            self._settled = self.in_place = self._picture.is_still(self.module)
            self._picture = None
        return self.in_place

    def try_out(self, images: Tensor) -> None:
        """As :meth:`uapfast.models.model.Model.try_out`, for a network that was just built."""
        if self._batches is not None or len(images) <= ALONE:
            return
        apart, said = repeats(
            lambda x: raw_answers(self.module, x.to(self.device), self.precision), images[:TRIED]
        )
        if said is not None:
            self._batches, self._unsteady = (said, None) if apart else (None, said)
            self.notes = (*self.notes, said)

    def answer(self, parts: Iterable[Tensor], count: int, name: str) -> Tensor:
        """What the network says to ``count`` images.

        Args:
            parts: float32 ``[n_i,C,H,W]`` in 0..1, ``count`` rows in all. They are copied: a network may
                write into its input.
            count: rows of all parts.
            name: of the suspect, for errors.

        Returns:
            ``[count,...]`` on the CPU, whatever the network returned for each image.

        Raises:
            SuspectError: the network fails, or does not return one row an image.
        """
        self._asked = True
        if self._settled and self._glimpse is None:
            self._glimpse = glimpse(self._inner)
        apart = self._batches is not None  # as Model does
        rest = iter(parts)
        first = next(rest)
        every = itertools.chain([first], rest)
        most = self._at_once(first)
        found = [self._batch(x, name)[:rows] for x, rows in batches_of(every, count, apart, most)]
        shapes = {part.shape[1:] for part in found}
        if len(shapes) > 1:
            raise SuspectError(name, "answers", "of one shape in every batch", sorted(map(list, shapes)))
        return torch.cat(found)

    def _at_once(self, like: Tensor) -> int:
        """Images a forward, at most."""
        return self._most or most_at_once(like.shape[1:], self.device)

    def _batch(self, x: Tensor, name: str) -> Tensor:
        out = answer(lambda images: raw_answers(self.module, images, self.precision), x.to(self.device), name)
        answers = as_tensor(out, name, len(x))
        if answers.ndim == 0 or len(answers) != len(x):
            raise SuspectError(name, "answers", f"{len(x)} rows, one per query", list(answers.shape))
        return answers


__all__ = ["Skeleton"]
