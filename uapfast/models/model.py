"""Anything that answers: modules with explicit preprocessing, and callables."""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uapfast.errors import InputError, SuspectError
from uapfast.images import check_images
from uapfast.models.answers import OUTPUTS, Answers, as_tensor, detect
from uapfast.models.batches import batches, batches_of, most_at_once
from uapfast.models.duplicate import Duplicate, Guard
from uapfast.models.pooling import slice_max_pools
from uapfast.models.preprocessing import BGR, Preprocessed, Preprocessing, checked_channel_order
from uapfast.models.state import (
    ALONE,
    TRIED,
    batch_note,
    check_ready,
    has_state,
    input_dtype,
    repeats,
    tensors_sha256,
)
from uapfast.models.tape import Tape

# as torch says it on a CPU
NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
# as torch says it, of a convolution
CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


class Model:
    """A classifier with explicit preprocessing, behind one interface; safe to use from several threads.

    Args:
        target: an ``nn.Module`` that takes images in 0..1 after ``mean`` and ``std``, or a callable from
            float32 ``[N,C,H,W]`` in 0..1 to ``[N,K]`` logits or probabilities, or to ``[N]`` labels, in any
            form that :func:`uapfast.models.unpack.unpack` reads. A module is copied and frozen, with the
            functions that it holds; yours is not changed. A module whose weights are all float16, bfloat16 or
            float64 gets images of that type.
        name: shown in errors.
        mean: per channel in the network's order (or one for all), subtracted from the images; with ``std``.
            Modules only.
        std: per channel, > 0; the images are divided by it after that.
        channel_order: ``rgb`` or ``bgr``: how the network takes its channels; images are turned round for
            ``bgr``. None where nobody said: ``rgb``. Modules only.
        output: ``auto``, ``logits``, ``probabilities`` or ``labels``.
        device: device of the module.
        batch_size: queries per call, at most; None chooses by image size
            (:func:`uapfast.models.batches.most_at_once`). A module's batches all have one size, the last one
            padded, so shapes do not vary. A callable's last batch is not padded, since a query may cost
            money.
        numpy: call a callable with numpy arrays instead of tensors.
        arch: SPEC from which the module was made, for the record.
        own: True to give the module away: it is then frozen itself, and not copied.

    Attributes:
        module: the frozen copy in eval mode, preprocessing included; None for a callable.
        preprocessing: ``mean`` and ``std`` by name, one value per channel each, and ``channel_order`` if it
            is ``bgr``; None if no ``mean`` and ``std`` were given.
        channel_order: as it was given.
        sha256: SHA-256 of the module's tensors. None for a callable, for a module without tensors, and for a
            module that also uses tensors of others (by a closure).
        apart: whether answers depend on what else is in the batch; views are then asked one by one.
        notes: what a reader of a verdict must know about its answers.
        tried: how it was asked before its preprocessing was chosen, for a record; None where it was said.
        tape: keeps every answer as it comes, or None.

    Raises:
        InputError: the target is nothing that answers, or a setting is wrong.
        ModelError: the module cannot be copied, or its preprocessing makes no sense.

    Example:
        >>> normalised = uapfast.Model(model, mean=[0.3], std=[0.4])  # it takes images in 0..1
        >>> normalised.preprocessing
        {'mean': [0.3], 'std': [0.4]}
    """

    tape: Tape | None = None
    tried: dict[str, Any] | None = None

    def __init__(
        self,
        target: Any,
        *,
        name: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channel_order: str | None = None,
        output: str = "auto",
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        numpy: bool = False,
        arch: str | None = None,
        own: bool = False,
    ) -> None:
        if not callable(target):
            raise InputError("Model", "model", "an nn.Module or a callable", type(target).__name__)
        if output not in OUTPUTS:
            raise InputError("Model", "output", "one of " + ", ".join(OUTPUTS), repr(output))
        check_batch_size("Model", batch_size)
        self.name = str(name or getattr(target, "__name__", type(target).__name__))
        self.output: str = output
        self.batch_size, self.numpy, self.arch = batch_size, numpy, arch
        self.module: nn.Module | None = None
        self.sha256: str | None = None
        self.preprocessing: dict[str, Any] | None = None
        self.channel_order = checked_channel_order(channel_order)
        self.notes: tuple[str, ...] = ()
        self.apart = False
        self.device = torch.device(device)
        self._call = target
        self._guard: Guard | None = None
        preprocessing = Preprocessing.given(mean, std, channel_order)
        if isinstance(target, nn.Module):
            self._take(target, preprocessing, own)
            if preprocessing is not None and mean is not None:
                self.preprocessing = preprocessing.to_dict()
        elif preprocessing is not None:
            rule = "for modules only (a callable does its own)"
            raise InputError("Model", "mean, std and channel_order", rule, self.name)

    def _take(self, target: nn.Module, preprocessing: Preprocessing | None, own: bool) -> None:
        check_ready(target)
        made = None if own else Duplicate(target)
        sha256 = tensors_sha256(target) if has_state(target) and not (made and made.outside) else None
        self.module = settled(target if made is None else made.module, preprocessing, self.device)
        note = batch_note(self.module)
        self.apart, self.notes = note is not None, () if note is None else (note,)
        self.sha256 = sha256
        self._call = self.module  # the caller's may go
        self._guard = Guard(target, self.module) if made is not None and made.loose else None

    @property
    def bare(self) -> bool:
        """Whether it is a module without a stated normalisation of images."""
        return self.module is not None and self.preprocessing is None

    @property
    def asked_with(self) -> dict[str, Any] | None:
        """What is done to images, by name as in :attr:`preprocessing`; None for nothing."""
        if self.preprocessing is not None or self.channel_order != BGR:
            return self.preprocessing
        return Preprocessing(channel_order=BGR).to_dict()

    def with_preprocessing(self, preprocessing: Preprocessing) -> Model:
        """The same module behind another preprocessing; it must have no mean and std yet.

        Raises:
            InputError: no module, or one with a mean and std.
        """
        if self.module is None or not self.bare:
            got = "a callable" if self.module is None else str(self.preprocessing)
            raise InputError("Model", "preprocessing", "given once, and for modules only", got)
        out = copy.copy(self)
        inner = self.module
        if self.channel_order == BGR and isinstance(inner, Preprocessed):  # it turns them already
            inner = inner.inner
        out.module = Preprocessed(inner, preprocessing).to(self.device).eval()
        out.preprocessing = preprocessing.to_dict()
        return out

    def with_batch_size(self, batch_size: int | None) -> Model:
        """The same model with another batch size; None keeps it. ``InputError`` below 1."""
        check_batch_size("Model", batch_size)
        out = copy.copy(self)
        out.batch_size = self.batch_size if batch_size is None else batch_size
        return out

    def try_out(self, images: Tensor) -> None:
        """Find by a few images whether answers depend on the batch, or do not repeat: ``notes`` say so."""
        if self.module is None or self.apart or len(images) <= ALONE:
            return
        with torch.no_grad():
            self.apart, said = repeats(self._asked, images[:TRIED].to(self.device))
        if said is not None:
            self.notes = (*self.notes, said)

    def answers(self, images: Any, classes: int | None = None) -> Answers:
        """Ask for every image, in batches of one size.

        Args:
            images: float32 ``[N,C,H,W]`` in 0..1, torch or numpy.
            classes: K expected, or None.

        Raises:
            InputError: images out of 0..1 or of wrong shape.
            OutputError: what came back cannot be read, or told apart: see ``output``.
            SuspectError: a module fails, or its answers cannot be used.
            Exception: whatever a callable raises, as it is (and ``MemoryError`` of a module). Answers that
                came before lie in its attribute ``uapfast_answers``, a tensor of rows, which a note counts.
        """
        return self.answers_to([images], classes, len(images) if hasattr(images, "__len__") else None)

    def answers_to(
        self, chunks: Iterable[Any], classes: int | None = None, count: int | None = None
    ) -> Answers:
        """As :meth:`answers`, for images that come in chunks, so that they never lie in memory together.

        A module whose answers depend on the batch (:attr:`apart`) is asked chunk by chunk.

        Args:
            chunks: images as there.
            classes: K expected, or None.
            count: images of all chunks. A module is then asked in even batches of them, as a screen does;
                otherwise the last is padded.
        """
        parts: list[Tensor] = []
        asked = 0
        try:
            checked = (_checked(images) for images in chunks)
            for shape, alike in itertools.groupby(checked, key=lambda x: tuple(x.shape[1:])):
                for x, rows in self._batches(alike, shape, count):
                    parts.append(self._batch(x, rows))
                    asked += rows
                    if self.tape is not None:
                        self.tape.took(parts[-1])
            shapes = {part.shape[1:] for part in parts}
            if len(shapes) > 1:
                shown = sorted(map(list, shapes))
                raise SuspectError(self.name, "answers", "of one shape in every batch", shown)
            # all at once: what a short batch looks like may mislead
            return detect(torch.cat(parts), self.name, rows=asked, classes=classes, output=self.output)
        except BaseException as exc:
            _attach(exc, parts)
            raise

    def _batches(
        self, parts: Iterable[Tensor], shape: Sequence[int], count: int | None
    ) -> Iterator[tuple[Tensor, int]]:
        """New tensors, which a model may write into, and how many of their rows count."""
        most = self.batch_size or most_at_once(shape, self.device)
        if self.module is None:
            yield from ((x[:rows], rows) for x, rows in batches(parts, most))
        elif self.apart or count is not None:
            yield from batches_of(parts, count or 1, self.apart, most)
        else:
            yield from batches(parts, most)

    def _batch(self, x: Tensor, rows: int) -> Tensor:
        """What the model returned for one batch, on the CPU; one row for each of its first ``rows``."""
        x = x.to(self.device if self.module is not None else "cpu")
        with torch.no_grad():
            out = self._asked(x) if self.module is not None else self._call(x.numpy() if self.numpy else x)
        answers = as_tensor(out, self.name, len(x), self.output)
        if answers.ndim == 0 or len(answers) != len(x):
            raise SuspectError(self.name, "answers", f"{len(x)} rows, one per query", list(answers.shape))
        return answers[:rows]

    def _asked(self, x: Tensor) -> Any:
        assert self.module is not None
        guard: contextlib.AbstractContextManager[Any] = self._guard or contextlib.nullcontext()
        if self._guard is not None and any(isinstance(m, ATTENTION) for m in self.module.modules()):
            with guard:  # of torch, and takes another path where it is watched
                answer(self.module, x[:2].clone(), self.name)
            guard = contextlib.nullcontext()
        with guard:
            out = answer(self.module, x, self.name)
        self._guard = None
        return out


def answer(network: Callable[[Tensor], Any], x: Tensor, name: str) -> Any:
    """Whatever a suspect's network returns for ``x``.

    Raises:
        SuspectError: it fails, in whatever way.
        InputError: as it is; ``MemoryError`` and ``torch.OutOfMemoryError`` likewise: who asks ran out.
    """
    try:
        return network(x)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as exc:
        said = str(exc).splitlines()[0] if str(exc) else ""
        if isinstance(exc, RuntimeError) and any(text in said for text in NO_MEMORY):
            raise MemoryError(said) from exc
        raise failed(name, list(x.shape[1:]), f"{type(exc).__name__}: {said[:200]}") from exc


def failed(name: str, image: Sequence[int], said: str) -> SuspectError:
    """The error of a network that fails.

    Args:
        name: of the suspect.
        image: what it was given, ``[C,H,W]``.
        said: type and text of what it raised.
    """
    channels = CHANNELS.search(said)
    if channels is not None and int(channels[2]) == image[0]:
        return SuspectError(name, "images", f"of the {channels[1]} channels that the network takes", image[0])
    return SuspectError(name, "network", f"one that accepts images {list(image)}", said)


def check_batch_size(where: str, batch_size: object) -> None:
    """Raise ``InputError`` unless it is None or a whole number >= 1."""
    if batch_size is None:
        return
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(where, "batch_size", "a whole number >= 1", repr(batch_size))


def _attach(exc: BaseException, parts: Sequence[Tensor]) -> None:
    """Leave what was answered so far with an exception that ends the asking."""
    if not parts or len({part.shape[1:] for part in parts}) != 1:
        return
    done = torch.cat([part.detach() for part in parts])
    with contextlib.suppress(AttributeError, TypeError):  # a class may forbid attributes
        exc.uapfast_answers = done  # type: ignore[attr-defined]
        if hasattr(exc, "add_note"):  # Python 3.11
            exc.add_note(f"{len(done)} queries were answered before; see the attribute uapfast_answers")


def as_model(obj: Any, **settings: Any) -> Model:
    """``obj`` itself if it is a :class:`Model`, else a Model of it."""
    return obj if isinstance(obj, Model) else Model(obj, **settings)


def settled(module: nn.Module, preprocessing: Preprocessing | None, device: torch.device) -> nn.Module:
    """A module that is ours alone, with its preprocessing, in eval mode and without gradients."""
    for parameter in module.parameters():  # TorchScript has no requires_grad_ for all; copies have a graph
        (parameter if parameter.is_leaf else parameter.detach_()).requires_grad_(False)
    slice_max_pools(module)
    dtype = input_dtype(module)
    if dtype != torch.float32:
        module.register_forward_pre_hook(Cast(dtype))
    if preprocessing is not None:
        module = Preprocessed(module, preprocessing)
    return module.to(device).eval()


class Cast:
    """A hook before a module: floating arguments become ``dtype``."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, cast."""
        return tuple(a.to(self.dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def _checked(images: Any) -> Tensor:
    x = check_images(images, "Model", error=InputError)
    if x.dtype == torch.uint8:
        raise InputError("Model", "images", "float in 0..1", f"{x.dtype}, {x.min()}..{x.max()}")
    return x.to(device="cpu", dtype=torch.float32)


__all__ = [
    "Duplicate",
    "Model",
    "answer",
    "as_model",
    "check_batch_size",
    "failed",
    "settled",
    "tensors_sha256",
]
