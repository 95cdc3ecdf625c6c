"""One network per architecture, built once; every suspect's weights are copied into the same memory.

What a skeleton answers equals what a network of its own would answer: weights are cast and checked as
:func:`uapfast.models.checkpoint.fill` does, evaluation mode and preprocessing are those of
:class:`uapfast.models.model.Model`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError, SuspectError, UapfastError
from uapfast.models.answers import as_tensor
from uapfast.models.checkpoint import fill
from uapfast.models.fitting import check_finite, wanted
from uapfast.models.model import frozen
from uapfast.models.registry import arch_file, resolve_arch
from uapfast.models.state import batch_note
from uapfast.screening.batches import BATCH, batch_size, batches, batches_of
from uapfast.screening.inplace import (
    alias,
    check_size,
    everything,
    flatten,
    own_places,
    plain,
    size_of,
    size_unbuilt,
    some_outside,
)
from uapfast.screening.plan import Suspect
from uapfast.screening.precision import ask
from uapfast.screening.reader import Shapes
from uapfast.screening.watch import Watch

IDLE, IDLE_BYTES = 8, 4 << 30  # skeletons kept without work, and their weights together
POLL = 0.2  # seconds after which who waits for a builder looks whether that one was given up
Build = Callable[[Suspect], "Skeleton"]
KNOWN = 1024  # architectures whose shapes are remembered


class Skeleton:
    """A network whose weights are replaced in place. For one thread at a time.

    Args:
        suspect: says architecture and preprocessing; its weights are not read.
        device, precision: where it runs and how (:mod:`uapfast.screening.precision`).

    Attributes:
        shapes: names and shapes of the weights that it takes.
        in_place: whether weights are copied into the network's own memory. A network that does
            something of its own on loading goes through ``load_state_dict``; one that changes its buffers
            while it answers is copied for every suspect as well.
        size: bytes of its weights.
        note: what to say of answers that depend on the batch, or None.

    Raises:
        ModelError: unknown architecture, or one that cannot be built, or is too large.
        MissingDependency: timm or torchvision is needed.
    """

    def __init__(self, suspect: Suspect, device: str = "cpu", precision: str = "float32") -> None:
        self.device, self.precision = torch.device(device), precision
        base = Path(suspect.base) if suspect.base else None
        factory = resolve_arch(suspect.arch, base=base)
        if arch_file(suspect.arch, base=base) is None:  # a manifest may name it: look before it is built
            check_size(size_unbuilt(factory), suspect.arch)
        built = factory()
        self.size = check_size(size_of(built), suspect.arch)
        self._wrapped = suspect.mean is not None or suspect.std is not None
        self.module = frozen(built, suspect.mean, suspect.std, self.device)
        self.note = batch_note(self.module)
        state = self._inner.state_dict()
        odd = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
        if odd:
            raise ModelError("screen", "arch", f"a network whose state is tensors ({suspect.arch})", odd[0])
        self.shapes = Shapes(wanted(self._inner))
        self._flat = torch.empty(0)
        self._targets: dict[str, Tensor] = {}
        self.in_place = plain(self._inner)
        if self.in_place:
            self._flat = flatten(self._inner, self.device)
            self._targets = dict(self._inner.state_dict())
            self.in_place = alias(self._inner, self._targets)
            self.shapes.places, self.shapes.flat = own_places(self._flat, self._targets), 4 * len(self._flat)
        self._loose = some_outside(self._flat, self._targets)
        self.shapes.apart = [name for name in state if name not in self.shapes.places]
        self._spare: nn.Module | None = None
        self._settled = False

    @property
    def _inner(self) -> nn.Module:
        """The network without its preprocessing."""
        inner: nn.Module = self.module.inner if self._wrapped else self.module  # type: ignore[assignment]
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
        if self._settled and self._spare is not None:
            self.module = copy.deepcopy(self._spare)
        if not self.in_place:
            fill(self._inner, tensors, path, self.shapes.wants)
        else:
            tensors, names, flat = self.shapes.to_copy(tensors, path, fits, flat)
            if flat is not None:
                self._flat.copy_(flat)
            if names:
                torch._foreach_copy_([self._targets[n] for n in names], [tensors[n] for n in names])
            self._check_finite(path)
        if not self._settled and self._spare is None:
            self._spare = copy.deepcopy(self.module)

    def _check_finite(self, path: object) -> None:
        """What was copied, after the cast (which may overflow)."""
        # one sum sees every NaN and infinity; that it overflows without any only costs the loop below
        if self._loose or not math.isfinite(float(self._flat.sum())):
            check_finite(self.shapes.wants, self._targets, path)

    def settled(self) -> bool:
        """Whether the network is as it was loaded, asked after its first answers.

        If it is not, every suspect gets a copy of its own from then on, and the first has to be loaded and
        asked again.
        """
        if self._settled:
            return True
        assert self._spare is not None
        self._settled = True
        before, after = everything(self._spare), everything(self.module)
        if all(a is b or torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            self._spare = None
            return True
        self.in_place = False
        return False

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
        apart = self.note is not None  # as Model does
        found = [self._batch(x, name)[:rows] for x, rows in batches_of(parts, count, apart)]
        shapes = {part.shape[1:] for part in found}
        if len(shapes) > 1:
            raise SuspectError(name, "answers", "of one shape in every batch", sorted(map(list, shapes)))
        return torch.cat(found)

    def _batch(self, x: Tensor, name: str) -> Tensor:
        try:
            out = ask(self.module, x.to(self.device), self.precision)
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as exc:  # a suspect may fail in any way; the caller gets one typed error
            said = str(exc).splitlines()[0] if str(exc) else ""
            raise SuspectError(name, "answers", "returned", f"{type(exc).__name__}: {said[:200]}") from exc
        answers = as_tensor(out, name, len(x))
        if answers.ndim == 0 or len(answers) != len(x):
            raise SuspectError(name, "answers", f"{len(x)} rows, one a query", list(answers.shape))
        return answers


class Skeletons:
    """Skeletons of every architecture that is met, lent to one thread at a time.

    Args:
        device: where they run, unless ``build`` knows.
        watch: is told when a thread waits for another one's building.
        build: makes one; a plain one by default.
    """

    def __init__(self, device: str = "cpu", watch: Watch | None = None, build: Build | None = None) -> None:
        self._build, self._watch = build or (lambda suspect: Skeleton(suspect, device)), watch or Watch()
        self._idle: OrderedDict[tuple[str, int], Skeleton] = OrderedDict()
        self._shapes: OrderedDict[str, Shapes] = OrderedDict()
        self._lock, self._building = threading.Lock(), threading.Lock()
        self._builder: tuple[threading.Thread, str] | None = None
        self._forsaken: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def shapes(self, suspect: Suspect) -> Shapes:
        """Names and shapes of the weights of a suspect's architecture; raises as :class:`Skeleton`."""
        with self._lock:
            found = self._shapes.get(suspect.network)
        if found is None:
            with self.borrow(suspect) as skeleton:
                found = skeleton.shapes
        return found

    @contextlib.contextmanager
    def borrow(self, suspect: Suspect) -> Iterator[Skeleton]:
        """A skeleton of the suspect's architecture; it goes back at the end, unless something broke."""
        skeleton = self._take(suspect)
        if skeleton is None:
            with self._alone(suspect):  # a user's factory need not be safe in several threads
                skeleton = self._build(suspect)
        try:
            yield skeleton
        except UapfastError:  # about the suspect; the next one's weights replace its
            self.give_back(suspect, skeleton)
            raise
        self.give_back(suspect, skeleton)

    @contextlib.contextmanager
    def _alone(self, suspect: Suspect) -> Iterator[None]:
        while True:
            lock = self._building
            with self._watch.waiting():
                got = lock.acquire(timeout=POLL)
            if got and lock is self._building:
                break
            if got:  # of a builder that was given up meanwhile
                lock.release()
        try:
            self._builder = threading.current_thread(), suspect.network
            yield
        finally:
            with self._lock:
                if lock is self._building:
                    self._builder = None
            lock.release()

    def forsake(self, thread: threading.Thread) -> str | None:
        """Count no longer on a thread that does not come to an end.

        What it has borrowed is never lent again; who waits for it to build a network waits no longer.

        Returns:
            The network (:attr:`Suspect.network`) that it is building, or None.
        """
        with self._lock:
            self._forsaken.add(thread)
            builder = self._builder
            if builder is None or builder[0] is not thread:
                return None
            self._building, self._builder = threading.Lock(), None
            return builder[1]

    def _take(self, suspect: Suspect) -> Skeleton | None:
        with self._lock:
            for key in reversed(self._idle):
                if key[0] == suspect.network:
                    return self._idle.pop(key)
        return None

    def give_back(self, suspect: Suspect, skeleton: Skeleton) -> None:
        """Let others have it; those longest without work are dropped beyond ``IDLE`` and ``IDLE_BYTES``."""
        with self._lock:
            if threading.current_thread() in self._forsaken:
                return
            self._idle[suspect.network, id(skeleton)] = skeleton
            known = self._shapes.setdefault(suspect.network, skeleton.shapes)
            if known == skeleton.shapes and known.places == skeleton.shapes.places:
                skeleton.shapes = known
            while len(self._idle) > IDLE or (len(self._idle) > 1 and self._idle_bytes() > IDLE_BYTES):
                self._idle.popitem(last=False)
            while len(self._shapes) > KNOWN:
                self._shapes.popitem(last=False)

    def _idle_bytes(self) -> int:
        return sum(skeleton.size for skeleton in self._idle.values())


__all__ = ["BATCH", "Skeleton", "Skeletons", "batch_size", "batches"]
