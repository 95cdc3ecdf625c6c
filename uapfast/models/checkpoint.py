"""Weights files: every reading goes through ``uapfast.safeload``, never through ``torch.load``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from uapfast.errors import ModelError, SuspectError
from uapfast.files import write_bytes
from uapfast.models.model import Model
from uapfast.models.registry import resolve_arch
from uapfast.safeload import Checkpoint, Limits, TensorInfo, open_checkpoint
from uapfast.safeload.dtypes import DTYPES

SHOWN = 4
DEFAULT = Limits()


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's state as safetensors, whole or not at all (``StorageError``)."""
    state = {k: v.detach().to("cpu").contiguous().clone() for k, v in module.state_dict().items()}
    write_bytes(path, safetensors.torch.save(state))


def read_weights(path: str | os.PathLike[str], limits: Limits = DEFAULT) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a state dict that ``torch.save`` wrote, read as nobody's friend.

    Args:
        path: file; told by its content (:func:`uapfast.safeload.open_checkpoint`).
        limits: what reading may cost.

    Returns:
        Contiguous CPU tensors with memory of their own, by name.

    Raises:
        ModelError: missing, damaged, too large, of another kind, or no state dict; one of the
            ``WeightsFileError`` family.
        SandboxError: the worker for pickles cannot be started.
    """
    with open_checkpoint(path, limits) as found:
        return {name: _tensor(found, info) for name, info in found.tensors.items()}


def _tensor(found: Checkpoint, info: TensorInfo) -> Tensor:
    out = torch.empty(info.shape, dtype=getattr(torch, DTYPES[info.dtype].torch))
    if info.nbytes:
        found.read_into(info.name, out.reshape(-1).view(torch.uint8).numpy())
    return out


def check_fit(own: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]], path: object) -> None:
    """Hold names and shapes of weights against those of an architecture.

    Raises:
        ModelError: some differ (a few are listed).
    """
    if dict(own) == dict(given):
        return
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    shapes = [
        f"{k} {list(given[k])} for {list(own[k])}"
        for k in sorted(own.keys() & given.keys())
        if tuple(given[k]) != tuple(own[k])
    ]
    parts = []
    for label, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{label}: {', '.join(names[:SHOWN])}{more}")
    if parts:
        raise ModelError("load", "weights", f"those of the architecture ({path})", "; ".join(parts))


def fill(module: nn.Module, state: Mapping[str, Tensor], path: object) -> None:
    """Copy ``state`` into ``module``; every name, shape and value must fit.

    Raises:
        ModelError: names or shapes that differ (a few are listed).
        SuspectError: NaN or infinite weights.
    """
    own = module.state_dict()
    check_fit({k: v.shape for k, v in own.items()}, {k: v.shape for k, v in state.items()}, path)
    cast = {}
    for name, tensor in state.items():
        if tensor.is_complex() != own[name].is_complex():
            raise ModelError("load", f"weights {name}", f"{own[name].dtype}", f"{tensor.dtype} ({path})")
        cast[name] = tensor.to(own[name].dtype)  # may overflow, so look at the result
        if not bool(torch.isfinite(cast[name]).all()):
            raise SuspectError("load", f"weights {name}", "finite", f"NaN or infinity ({path})")
    module.load_state_dict(cast)


def load_model(
    spec: str,
    weights: str | os.PathLike[str],
    *,
    base: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "cpu",
    name: str | None = None,
    output: str = "auto",
) -> Model:
    """Build an architecture, fill it with weights, wrap it with its preprocessing.

    Args:
        spec: see :func:`uapfast.models.registry.resolve_arch`.
        weights: file.
        base: folder that a relative file in ``spec`` is relative to.
        mean: per channel; images in 0..1 are normalised by (x - mean) / std before the module.
        std: per channel.
        device: where the model runs.
        name: shown in errors; the file's name by default.
        output: as :class:`uapfast.models.model.Model`.

    Raises:
        ModelError: unknown architecture, unreadable or unfitting weights.
        MissingDependency: timm or torchvision is needed.
        SuspectError: NaN or infinite weights.
    """
    path = Path(weights)
    state = read_weights(path)
    module = resolve_arch(spec, base=base, anew=True)()  # with no other's globals
    fill(module, state, path)
    return Model(module, name=name or path.stem, mean=mean, std=std, device=device, output=output, arch=spec)
