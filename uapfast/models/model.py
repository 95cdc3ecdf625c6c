"""Anything that answers: modules with explicit preprocessing, and callables."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError, SuspectError
from uapfast.models.answers import OUTPUTS, Answers, detect

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
        out: Tensor = self.inner((x - self.mean) / self.std)
        return out


def tensors_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's state: names, dtypes, shapes, bytes."""
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
        mean: per channel, subtracted before the module; with ``std``.
        std: per channel, > 0.
        output: ``auto``, ``logits``, ``probabilities`` or ``labels``.
        device: of the module.
        batch_size: queries per call; the last batch is padded, so that shapes never vary.
        numpy: hand a callable numpy arrays instead of tensors.

    Raises:
        InputError: a target that answers nothing, or bad settings.
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
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError("Model", "batch_size", "a whole number >= 1", repr(batch_size))
        self.name = str(name or getattr(target, "__name__", type(target).__name__))
        self.output: str = output
        self.batch_size, self.numpy, self.arch = batch_size, numpy, arch
        self.module: nn.Module | None = None
        self.sha256: str | None = None
        self.device = torch.device(device)
        self._call = target
        if isinstance(target, nn.Module):
            self.sha256 = tensors_sha256(target)
            module = copy.deepcopy(target)
            if mean is not None or std is not None:
                module = Preprocessed(module, *_statistics(mean, std))
            self.module = module.to(self.device).eval().requires_grad_(False)

    def answers(self, images: Any, classes: int | None = None) -> Answers:
        """Ask for every image, in batches of one size.

        Args:
            images: float32 ``[N,C,H,W]`` in 0..1, torch or numpy.
            classes: K expected, or None.

        Raises:
            InputError: images out of 0..1 or of wrong shape.
            SuspectError: the model fails, or its answers cannot be used.
        """
        x = _checked(images)
        parts = [self._batch(x[i : i + self.batch_size], classes) for i in range(0, len(x), self.batch_size)]
        kinds = {p.kind for p in parts}
        if len(kinds) > 1:
            raise SuspectError(self.name, "answers", "of one kind throughout (set output=...)", sorted(kinds))
        values = torch.cat([p.values for p in parts])
        return Answers(parts[0].kind, values, max(p.classes for p in parts))

    def _batch(self, x: Tensor, classes: int | None) -> Answers:
        rows = len(x)
        if rows < self.batch_size and self.module is not None:
            x = torch.cat([x, x[:1].expand(self.batch_size - rows, *x.shape[1:])])
        try:
            with torch.no_grad():
                if self.module is not None:
                    out = self.module(x.to(self.device))
                else:
                    out = self._call(x.numpy() if self.numpy else x)
        except Exception as exc:  # a suspect may fail in any way; the caller gets one typed error
            said = str(exc).splitlines()[0] if str(exc) else ""
            raise SuspectError(
                self.name, "answers", "returned", f"{type(exc).__name__}: {said[:200]}"
            ) from exc
        if self.module is not None and isinstance(out, Tensor) and out.ndim > 0:
            out = out[:rows]
        return detect(out, self.name, rows=rows, classes=classes, output=self.output)


def as_model(obj: Any, **settings: Any) -> Model:
    """``obj`` itself if it is a :class:`Model`, else a Model of it."""
    return obj if isinstance(obj, Model) else Model(obj, **settings)


def _statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[list[float], list[float]]:
    if mean is None or std is None or len(mean) != len(std):
        raise ModelError("Model", "mean and std", "given together, one value a channel", f"{mean}, {std}")
    if not all(np.isfinite(mean)) or not all(np.isfinite(std)) or min(std) <= 0:
        raise ModelError("Model", "mean and std", "finite, std > 0", f"{mean}, {std}")
    return list(mean), list(std)


def _checked(images: Any) -> Tensor:
    x = torch.as_tensor(images)
    if x.ndim != 4 or len(x) == 0:
        raise InputError("Model", "images", "[N,C,H,W], not empty", list(x.shape))
    if not x.dtype.is_floating_point:
        raise InputError("Model", "images", "float in 0..1", x.dtype)
    x = x.to(device="cpu", dtype=torch.float32)
    low, high = float(x.min()), float(x.max())
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise InputError("Model", "images", "in 0..1", f"{low:g}..{high:g}")
    return x
