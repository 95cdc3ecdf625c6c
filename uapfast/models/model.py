"""Anything that answers: modules with explicit preprocessing, and callables."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError, SuspectError
from uapfast.models.answers import OUTPUTS, Answers, as_tensor, detect
from uapfast.models.pooling import slice_max_pools

MOST_STD = 2.0  # images in 0..1 have at most 0.5; some networks want 1, none what pixels in 0..255 have
SLACK = 1e-6  # rounding allowed beyond 0..1


class Preprocessed(nn.Module):
    """``(x - mean) / std`` and then the model; takes images in 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, inner: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``[N,C,H,W]`` in 0..1."""
        if len(self.mean) not in (1, x.shape[1]):  # broadcasting would silently invent channels
            raise ModelError("Model", "mean and std", f"of {x.shape[1]} channels (or 1)", len(self.mean))
        out: Tensor = self.inner((x - self.mean) / self.std)
        return out


def tensors_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's state: names, dtypes, shapes, bytes; the same on every device."""
    h = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        t = tensor.detach().to("cpu").contiguous()
        h.update(f"{name}:{t.dtype}:{tuple(t.shape)}".encode())
        h.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


class Model:
    """A classifier behind one interface; safe to use from several threads.

    Args:
        target: ``nn.Module`` that takes images in 0..1 after ``mean`` and ``std``, or a callable from
            float32 ``[N,C,H,W]`` in 0..1 to ``[N,K]`` logits or probabilities, or to ``[N]`` labels.
            A module is copied and frozen; the caller's is not touched.
        name: shown in errors.
        mean: per channel (or one for all), subtracted before the module; with ``std``. Modules only.
        std: per channel, > 0.
        output: ``auto``, ``logits``, ``probabilities`` or ``labels``.
        device: of the module.
        batch_size: queries per call. A module's last batch is padded, so that shapes never vary; a
            callable's is not, since a query may cost money.
        numpy: hand a callable numpy arrays instead of tensors.
        arch: SPEC that the module was made from, for the record.

    Attributes:
        module: frozen copy in eval mode, preprocessing included; None for a callable.
        preprocessing: ``mean`` and ``std`` by name, one value a channel each; None where none were given.
        notes: what a reader of a verdict has to know of how it was loaded.
        sha256: of the module's tensors; None for a callable.

    Raises:
        InputError: a target that answers nothing, or bad settings.
        ModelError: a module that cannot be copied, or preprocessing that makes no sense.
    """

    def __init__(
        self,
        target: Any,
        *,
        name: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        output: str = "auto",
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        numpy: bool = False,
        arch: str | None = None,
    ) -> None:
        if not callable(target):
            raise InputError("Model", "model", "an nn.Module or a callable", type(target).__name__)
        if output not in OUTPUTS:
            raise InputError("Model", "output", "one of " + ", ".join(OUTPUTS), repr(output))
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise InputError("Model", "batch_size", "a whole number >= 1", repr(batch_size))
        self.name = str(name or getattr(target, "__name__", type(target).__name__))
        self.output: str = output
        self.batch_size, self.numpy, self.arch = batch_size, numpy, arch
        self.module: nn.Module | None = None
        self.sha256: str | None = None
        self.preprocessing: dict[str, list[float]] | None = None
        self.notes: tuple[str, ...] = ()  # what loading took although it differed (models/checkpoint.py)
        self.device = torch.device(device)
        self._call = target
        if isinstance(target, nn.Module):
            self.module = frozen(target, mean, std, self.device)
            if mean is not None and std is not None:
                self.preprocessing = {"mean": list(map(float, mean)), "std": list(map(float, std))}
            self.sha256 = tensors_sha256(target)
        elif mean is not None or std is not None:
            raise InputError("Model", "mean and std", "for modules only (a callable does its own)", self.name)

    def with_preprocessing(self, mean: Sequence[float], std: Sequence[float]) -> Model:
        """The same module behind ``(x - mean) / std``; it must have none yet.

        Raises:
            InputError: no module, or one with a preprocessing.
            ModelError: statistics that make no sense.
        """
        if self.module is None or self.preprocessing is not None:
            got = "a callable" if self.module is None else str(self.preprocessing)
            raise InputError("Model", "preprocessing", "given once, and for modules only", got)
        out = copy.copy(self)
        mean, std = _statistics(mean, std)
        out.module = Preprocessed(self.module, mean, std).to(self.device).eval()
        out.preprocessing = {"mean": mean, "std": std}
        return out

    def answers(self, images: Any, classes: int | None = None) -> Answers:
        """Ask for every image, in batches of one size.

        Args:
            images: float32 ``[N,C,H,W]`` in 0..1, torch or numpy.
            classes: K expected, or None.

        Raises:
            InputError: images out of 0..1 or of wrong shape.
            SuspectError: the model fails, or its answers cannot be used.
        """
        return self.answers_to([images], classes)

    def answers_to(self, chunks: Iterable[Any], classes: int | None = None) -> Answers:
        """As :meth:`answers`, for images that come in chunks, so that they never lie in memory together."""
        parts, asked = [], 0
        for images in chunks:
            x = _checked(images)
            parts += [self._batch(x[i : i + self.batch_size]) for i in range(0, len(x), self.batch_size)]
            asked += len(x)
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) > 1:
            raise SuspectError(self.name, "answers", "of one shape in every batch", sorted(map(list, shapes)))
        # all at once: what a short batch looks like may mislead
        return detect(torch.cat(parts), self.name, rows=asked, classes=classes, output=self.output)

    def _batch(self, x: Tensor) -> Tensor:
        """What the model returned for one batch, on the CPU; one row an image."""
        rows = len(x)
        if rows < self.batch_size and self.module is not None:
            x = torch.cat([x, x[:1].expand(self.batch_size - rows, *x.shape[1:])])
        try:
            with torch.no_grad():
                x = x.to(self.device if self.module is not None else "cpu", copy=True)  # it may write into it
                out = (self.module or self._call)(x.numpy() if self.numpy and self.module is None else x)
        except InputError:
            raise
        except Exception as exc:  # a suspect may fail in any way; the caller gets one typed error
            said = str(exc).splitlines()[0] if str(exc) else ""
            raise SuspectError(
                self.name, "answers", "returned", f"{type(exc).__name__}: {said[:200]}"
            ) from exc
        answers = as_tensor(out, self.name)
        if self.module is not None and answers.ndim > 0 and len(answers) == len(x):
            answers = answers[:rows]
        if answers.ndim == 0 or len(answers) != rows:
            raise SuspectError(self.name, "answers", f"{rows} rows, one a query", list(answers.shape))
        return answers


def as_model(obj: Any, **settings: Any) -> Model:
    """``obj`` itself if it is a :class:`Model`, else a Model of it."""
    return obj if isinstance(obj, Model) else Model(obj, **settings)


def _statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[list[float], list[float]]:
    if mean is None or std is None or len(mean) != len(std) or not len(mean):
        raise ModelError("Model", "mean and std", "given together, one value a channel", f"{mean}, {std}")
    if not all(np.isfinite(mean)) or not all(np.isfinite(std)) or min(std) <= 0:
        raise ModelError("Model", "mean and std", "finite, std > 0", f"{mean}, {std}")
    if min(mean) < 0 or max(mean) > 1 or max(std) > MOST_STD:
        rule = f"those of images in 0..1: means in 0..1, std at most {MOST_STD:g} (divide by 255?)"
        raise ModelError("Model", "mean and std", rule, f"{mean}, {std}")
    return list(mean), list(std)


def frozen(
    target: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, device: torch.device
) -> nn.Module:
    """A copy in eval mode without gradients; the caller's module stays as it is."""
    try:
        module = copy.deepcopy(target)
    except Exception as exc:  # tensors of a graph, locks, handles: whatever a module may hold
        rule = "a module that copy.deepcopy can copy (or a callable)"
        raise ModelError("Model", "model", rule, f"{type(exc).__name__}: {exc}") from exc
    slice_max_pools(module)
    if mean is not None or std is not None:
        module = Preprocessed(module, *_statistics(mean, std))
    return module.to(device).eval().requires_grad_(False)


def _checked(images: Any) -> Tensor:
    try:
        x = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise InputError(
            "Model", "images", "an array of numbers", f"{type(images).__name__} ({exc})"
        ) from exc
    if x.ndim != 4 or 0 in x.shape:
        raise InputError("Model", "images", "[N,C,H,W], not empty", list(x.shape))
    if not x.dtype.is_floating_point:
        raise InputError("Model", "images", "float in 0..1", f"{x.dtype}, {x.min()}..{x.max()}")
    x = x.detach().to(device="cpu", dtype=torch.float32)
    low, high = float(x.min()), float(x.max())
    if not (low >= -SLACK and high <= 1 + SLACK):
        hint = " (divide by 255?)" if 1.5 < high <= 255 and low >= 0 else ""
        raise InputError("Model", "images", "in 0..1", f"{low:g}..{high:g}{hint}")
    return x
