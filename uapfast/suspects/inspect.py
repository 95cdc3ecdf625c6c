"""What a file or folder is, and what would be asked of it: told by content, without a reference."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from uapfast.errors import InputError, ModelError, UnsupportedFileError, WeightsFileError
from uapfast.safeload import open_checkpoint
from uapfast.safeload.glance import looks_like_weights
from uapfast.safeload.refusal import shown
from uapfast.suspects.hub_config import Description, describe, timm_input, transformers_input, unsaid
from uapfast.suspects.hub_files import CONFIG, PREPROCESSOR, hub_folder, names_in, read_json, weights_in
from uapfast.suspects.onnx import asked_how, class_names, is_onnx, look_at

FEW = 6  # names that are shown
REFERENCE = "uapref"  # names the metadata of a reference's file
ASK_WEIGHTS = "images, through a network that --arch names: a weights file names none"
ASK_ONNX = "images in 0..1, through onnxruntime in a sandboxed process"
ASK_FOLDER = "images in 0..1 of any size, through the network that it names"


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a file or folder is. Nothing in it is run; no network is built.

    Args:
        path: whatever might be a suspect.

    Returns:
        Plain values by name. ``kind`` is ``weights``, ``timm folder``, ``transformers folder``, ``onnx``,
        ``folder`` (of files, none of a hub), ``data`` (images, with labels or ids), ``answers`` (to queries),
        ``reference`` or ``unknown``; ``asked`` says what would be asked of it, or is None where nothing
        could be. ``why`` says what speaks against it, where something does.

    Raises:
        InputError: there is nothing of that name.
        SandboxError: the worker for pickles cannot be started.
    """
    place = Path(path)
    try:
        there, folder = os.path.exists(place), os.path.isdir(place)
    except ValueError:  # a NUL in the name
        there = folder = False
    if not there:
        raise InputError("inspect", "path", "an existing file or folder", shown(path, 200))
    return {"path": str(place), **(_folder(place) if folder else _file(place))}


def _file(path: Path) -> dict[str, Any]:
    if is_onnx(path):
        return _onnx(path)
    try:
        found = _weights(path)
        other = _no_weights(found) if path.suffix == ".npz" else None
        if REFERENCE in found["metadata"]:
            other = {
                "kind": "reference",
                "asked": None,
                "why": "a reference: `uapfast info` reads it",
                **found,
            }
        return other or {"kind": "weights", "asked": ASK_WEIGHTS, **found}
    except UnsupportedFileError as exc:
        return {"kind": "unknown", "asked": None, "why": str(exc)}
    except WeightsFileError as exc:
        kind = "weights" if looks_like_weights(path) else "unknown"
        return {"kind": kind, "asked": None, "why": str(exc)}


def _no_weights(found: dict[str, Any]) -> dict[str, Any] | None:
    """What an .npz is whose arrays have the names of images or answers; None for weights."""
    names = {said.split(" [")[0] for said in found["begins"]}
    if "x" in names and names <= {"x", "y", "id"}:
        return {
            "kind": "data",
            "asked": None,
            "why": "images, no weights: --data and --log read them",
            **found,
        }
    if "id" in names and names - {"id"} and names <= {"id", "labels", "logits", "probabilities"}:
        return {
            "kind": "answers",
            "asked": None,
            "why": "answers, no weights: verify --answers reads them",
            **found,
        }
    return None


def _onnx(path: Path) -> dict[str, Any]:
    """What an ONNX file holds, and how it would be asked."""
    known: dict[str, Any] = {}
    try:
        file, sha256 = look_at(path)
        known = {
            "opset": file.opset,
            "producer": shown(file.producer, 80),
            "operators": file.nodes,
            "bytes": file.tensor_bytes,
            "inputs": [str(port) for port in file.inputs[:FEW]],
            "outputs": [str(port) for port in file.outputs[:FEW]],
            "class_names": [shown(n, 60) for n in (class_names(file) or ())[:FEW]],
            "sha256": sha256,
        }
        notes = asked_how(file, path.name)
    except (WeightsFileError, InputError) as exc:
        return {"kind": "onnx", "asked": None, "why": str(exc), **known}
    return {"kind": "onnx", "asked": ASK_ONNX, **known, "notes": notes}


def _weights(path: Path) -> dict[str, Any]:
    """What a weights file holds, by its header."""
    with open_checkpoint(path) as found:
        tensors = list(found.tensors.values())
        names = [f"{shown(t.name, 80)} {list(t.shape)}" for t in tensors]
        return {
            "format": found.kind,
            "tensors": len(tensors),
            "numbers": sum(_count(t.shape) for t in tensors),
            "bytes": sum(t.nbytes for t in tensors),
            "types": dict(sorted(Counter(t.dtype for t in tensors).items())),
            "begins": names[:FEW],
            "ends": names[-2:] if len(names) > FEW else [],
            "metadata": sorted(shown(k, 80) for k in found.metadata)[:FEW],
            "sha256": found.sha256(),
            "notes": list(found.notes),
        }


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _folder(path: Path) -> dict[str, Any]:
    told = any(os.path.lexists(path / name) for name in (CONFIG, "saved_model.pb"))
    if not told and not os.path.isdir(path / "snapshots"):
        return _plain_folder(path)
    kind, known = "folder", {}
    try:
        folder = hub_folder(path)
        config = read_json(folder, CONFIG)
        what = describe(config)
        kind = f"{what.library} folder"
        known = _network(what)
        given = read_json(folder, PREPROCESSOR) if PREPROCESSOR in names_in(folder) else None
        known["input"] = _input(what, given)
        file = weights_in(folder, what.weights)
        known["weights"] = {"file": file.name, **_weights(file)}
    except ModelError as exc:
        return {"kind": kind, "asked": None, "why": str(exc), **known}
    return {"kind": kind, "asked": ASK_FOLDER, **known}


def _network(what: Description) -> dict[str, Any]:
    names = [shown(n, 60) for n in (what.class_names or ())[:FEW]]
    return {"network": what.network, "classes": what.classes, "class_names": names}


def _input(what: Description, given: dict[str, Any] | None) -> list[str]:
    """What is done to images, as far as the files say; the rest is the library's own."""
    if what.library == "transformers":
        return list(transformers_input(given, what.arguments, PREPROCESSOR).sentences())
    missing = [k for k in ("input_size", "mean", "std") if k not in what.about_input]
    if missing:
        return [unsaid(missing, what.network)]
    return list(timm_input(what.about_input, what.arguments.get("in_chans")).sentences())


def _plain_folder(path: Path) -> dict[str, Any]:
    """A folder that is no suspect itself: how many may lie in it."""
    names = names_in(path)
    files = [n for n in names if looks_like_weights(path / n)]
    onnx = [n for n in names if is_onnx(path / n)]
    folders = [n for n in names if os.path.isdir(path / n) and os.path.lexists(path / n / CONFIG)]
    return {
        "kind": "folder",
        "asked": None,
        "why": f"no {CONFIG} in it; each of its suspects is asked by itself",
        "weights_files": len(files),
        "onnx_files": len(onnx),
        "hub_folders": len(folders),
        "names": [shown(n, 80) for n in (files + onnx + folders)[:FEW]],
    }


__all__ = ["inspect"]
