"""Weights files: every reading goes through ``uapfast.safeload``, never through ``torch.load``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from torch import Tensor, nn

from uapfast.files import write_bytes
from uapfast.models.fitting import ExpectedState, check_finite, check_whole, fit, wanted
from uapfast.models.model import Model
from uapfast.models.registry import resolve_arch
from uapfast.safeload import Checkpoint, Limits, TensorInfo, open_checkpoint
from uapfast.safeload.dtypes import DTYPES

DEFAULT = Limits()


class Weights(dict[str, Tensor]):
    """Tensors of a file by name.

    Attributes:
        left_out: names that the file says are the same as others in it
            (``safetensors.torch.save_model``); nobody's promise.
        notes: what was chosen in reading, in sentences.
    """

    left_out: Mapping[str, str] = MappingProxyType({})
    notes: tuple[str, ...] = ()


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's state as safetensors, whole or not at all (``StorageError``)."""
    state = {k: v.detach().to("cpu").contiguous().clone() for k, v in module.state_dict().items()}
    write_bytes(path, safetensors.torch.save(state))


def read_weights(path: str | os.PathLike[str], limits: Limits = DEFAULT, key: str | None = None) -> Weights:
    """Tensors of a safetensors file, of a state dict that ``torch.save`` wrote, or of an ``.npz``.

    The file is read as nobody's friend.

    Args:
        path: file; told by its content (:func:`uapfast.safeload.open_checkpoint`), or the ``.index.json`` of
            a model in several files.
        limits: what reading may cost.
        key: which map of tensors is taken, where a checkpoint holds several (``state_dict_ema``), or the
            beginning of the names that are taken (``ema`` of ``ema.layer.weight``).

    Returns:
        Contiguous CPU tensors with memory of their own, by name.

    Raises:
        ModelError: missing, damaged, too large, of another kind, or no state dict; one of the
            ``WeightsFileError`` family; also where nothing lies under ``key``.
        InputError: a key that is empty, long, or cannot be shown.
        SandboxError: the worker for pickles cannot be started.
    """
    with open_checkpoint(path, limits, key=key) as found:
        state = Weights({name: _tensor(found, info) for name, info in found.tensors.items()})
        state.left_out, state.notes = found.metadata, found.notes
        return state


def _tensor(found: Checkpoint, info: TensorInfo) -> Tensor:
    out = torch.empty(info.shape, dtype=getattr(torch, DTYPES[info.dtype].torch))
    if info.nbytes:
        found.read_into(info.name, out.reshape(-1).view(torch.uint8).numpy())
    return out


def fill(
    module: nn.Module, state: Mapping[str, Tensor], path: object, wants: ExpectedState | None = None
) -> tuple[str, ...]:
    """Copy ``state`` into ``module``, if it fits by the rule of :mod:`uapfast.models.fitting`.

    Args:
        module: filled, or left as it is.
        state: weights by name, such as :func:`read_weights` gives them.
        path: named in errors.
        wants: what the architecture takes; asked of ``module``, which must then be a fresh one.

    Returns:
        What was taken although it differed, and what was chosen in reading, in sentences.

    Raises:
        ModelError: names, shapes or types that differ (a few are listed).
        SuspectError: NaN or infinite weights.
    """
    wants = wants or wanted(module)
    read = state if isinstance(state, Weights) else Weights(state)
    shapes, dtypes = {k: v.shape for k, v in state.items()}, {k: v.dtype for k, v in state.items()}
    fitted = fit(wants, shapes, dtypes, path, read.left_out)
    whole = fitted.complete(state, wants)
    check_whole(wants, whole, path)
    cast = {name: tensor.to(wants.dtypes[name]) for name, tensor in whole.items()}
    check_finite(wants, cast, path)
    module.load_state_dict(cast)
    return (*read.notes, *fitted.notes)


def load_model(
    spec: str,
    weights: str | os.PathLike[str],
    *,
    base: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channel_order: str | None = None,
    device: str = "cpu",
    name: str | None = None,
    output: str = "auto",
    key: str | None = None,
) -> Model:
    """Build an architecture, fill it with weights, wrap it with its preprocessing.

    Args:
        spec: see :func:`uapfast.models.registry.resolve_arch`.
        weights: file.
        base: folder that a relative file in ``spec`` is relative to.
        mean: per channel; images in 0..1 are normalised by (x - mean) / std before the module.
        std: per channel.
        channel_order: ``rgb`` or ``bgr``, as :class:`uapfast.models.model.Model`.
        device: where the model runs.
        name: shown in errors; the file's name by default.
        output: as :class:`uapfast.models.model.Model`.
        key: which of several sets of weights in the file is taken, as :func:`read_weights`.

    Returns:
        The model; its ``notes`` say what was taken of the file although it differed.

    Raises:
        ModelError: unknown architecture, unreadable or unfitting weights.
        MissingDependency: timm or torchvision is needed.
        SuspectError: NaN or infinite weights.
    """
    path = Path(weights)
    state = read_weights(path, key=key)
    module = resolve_arch(spec, base=base, anew=True)()  # with no other's globals
    notes = fill(module, state, path)
    model = Model(
        module,
        name=name or path.stem,
        mean=mean,
        std=std,
        channel_order=channel_order,
        device=device,
        output=output,
        arch=spec,
        own=True,
    )
    model.notes = (*notes, *model.notes)
    return model
