"""Weights files: safetensors, and state dicts through ``torch.load(weights_only=True)``."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from uapfast.errors import ModelError, SuspectError
from uapfast.files import write_bytes
from uapfast.models.model import Model
from uapfast.models.registry import resolve_arch

MAX_HEADER = 4 << 20
MAX_TENSORS = 10_000
SHOWN = 4


def _bad(path: Path, rule: str, got: object) -> ModelError:
    return ModelError("load", "weights", rule, f"{got} ({path})")


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's state as safetensors, whole or not at all (``StorageError``)."""
    state = {k: v.detach().to("cpu").contiguous().clone() for k, v in module.state_dict().items()}
    write_bytes(path, safetensors.torch.save(state))


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a ``.pt``/``.pth``/``.bin`` state dict.

    Raises:
        ModelError: missing, damaged, of another kind, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise _bad(path, "an existing file", "none" if not path.exists() else "not a regular file")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        return _state_dict(path)
    raise _bad(path, "a .safetensors file (or a .pt, .pth or .bin state dict)", path.suffix or "no suffix")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate keys")
    return found


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Read whole, never mapped (a mapped file that is truncated meanwhile kills the process)."""
    try:
        blob = path.read_bytes()
    except OSError as exc:
        raise _bad(path, "a readable file", exc.strerror or exc) from exc
    try:
        _check_header(blob, path)
        return safetensors.torch.load(blob)
    except ModelError:
        raise
    except Exception as exc:  # the parser's own errors, and torch's for shapes and types of all kinds
        said = f"{type(exc).__name__}: {str(exc)[:200]}"
        raise _bad(path, "a whole safetensors file", f"a damaged one ({said})") from exc


def _check_header(blob: bytes, path: Path) -> None:
    """What the safetensors parser lets pass: duplicate names, huge headers, very many tensors."""
    size = struct.unpack_from("<Q", blob)[0]
    if size > MAX_HEADER:
        raise _bad(path, f"a safetensors file with a header of at most {MAX_HEADER} bytes", size)
    header = json.loads(blob[8 : 8 + size], object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError(f"the header is a {type(header).__name__}")
    count = len(header) - ("__metadata__" in header)
    if count > MAX_TENSORS:
        raise _bad(path, f"a file of at most {MAX_TENSORS} tensors", count)


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # zip, pickle and tensor errors of any kind
        rule = "a state dict that torch.load(weights_only=True) reads (save it as .safetensors)"
        raise _bad(
            path, rule, f"{type(exc).__name__}: {str(exc).splitlines()[0][:200] if str(exc) else ''}"
        ) from exc
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise _bad(path, "a state dict (names to tensors)", type(found).__name__)
    for name, tensor in found.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain:
            raise _bad(path, "a state dict of plain dense tensors", f"{str(name)[:80]} of another kind")
    return {str(k): v.detach() for k, v in found.items()}


def fill(module: nn.Module, state: Mapping[str, Tensor], path: object) -> None:
    """Copy ``state`` into ``module``; every name, shape and value must fit.

    Raises:
        ModelError: names or shapes that differ (a few are listed).
        SuspectError: NaN or infinite weights.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {list(state[k].shape)} for {list(own[k].shape)}"
        for k in sorted(own.keys() & state.keys())
        if state[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        parts = []
        for label, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes)):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                parts.append(f"{label}: {', '.join(names[:SHOWN])}{more}")
        raise ModelError("load", "weights", f"those of the architecture ({path})", "; ".join(parts))
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
    module = resolve_arch(spec, base=base)()
    fill(module, state, path)
    return Model(module, name=name or path.stem, mean=mean, std=std, device=device, output=output, arch=spec)
