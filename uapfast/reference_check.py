"""What a reference's file has to hold before anything is worked out from it: it may be the other side's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

ENCODERS = ("lineage", "paper")
TEXT, TEXTS = "text", "a list of texts"
# of the settings that verdicts rest on or repeat: what each may be, None and nothing included
SETTINGS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "log": {"views": int, "asked": int, "images": int, "sha256": str},
    "suspect_side": {"why": (str, type(None))},
}
TWINS: dict[str, type | tuple[type, ...]] = {
    "kind": str, "selected": (str, type(None)), "models": int, "time": str, "draw_sha256": str,
    "at": (int, float, type(None)), "checkpoint_sha256": (str, type(None)),
}  # fmt: skip
DRAWN = ("models", "time", "draw_sha256")


def inconsistency(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the parts of a reference; None where each can be used.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a part is missing, or of another kind altogether.
    """
    if header["encoder"] not in ENCODERS:
        return f"an encoder {str(header['encoder'])[:40]!r}"
    for name, least in (("views", 1), ("classes", 2)):
        if type(header[name]) is not int or header[name] < least:
            return f"{name} {str(header[name])[:40]!r}"
    scale = header["scale"]
    if not isinstance(scale, list) or not scale or not all(_is_number(t) for t in scale):
        return f"a scale {str(scale)[:40]!r}"
    return _records_fault(header["records"]) or _settings_fault(header["settings"]) or _tensors_fault(tensors)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _records_fault(records: Any) -> str | None:
    for one in records:
        texts = all(isinstance(one[n], str) for n in ("name", "relation", "kind"))
        known = all(isinstance(one.get(n), str | None) for n in ("candidate", "sha256", "parent"))
        said = all(isinstance(one.get(n, False), bool) for n in ("trains_encoder", "counted"))
        if not (texts and known and said):
            return f"a record {str(one)[:80]!r}"
    return None


def _settings_fault(settings: Any) -> str | None:
    if not isinstance(settings, dict):
        return "settings that are no object"
    for name in ("limits", "warnings"):
        if not isinstance(settings.get(name, []), list) or not all(map(_is_text, settings.get(name, []))):
            return f"{name} that are no list of sentences"
    for name, kinds in SETTINGS.items():
        found = settings.get(name)
        if found is not None and not (_is_of(found, kinds) and set(kinds) <= set(found)):
            return f"{name} {str(found)[:40]!r}"
    twins, init = settings.get("twins", {}), settings.get("init")
    drawn = isinstance(twins, dict) and twins.get("kind") == "designated"
    if not _is_of(twins, TWINS) or (drawn and not set(DRAWN) <= set(twins)):
        return f"twins {str(twins)[:40]!r}"
    if init is not None and not _is_of(init, {"start": str, "sha256": (str, type(None))}):
        return f"init {str(init)[:40]!r}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_of(found: Any, kinds: Mapping[str, type | tuple[type, ...]]) -> bool:
    """Whether an object has no named part of another type."""
    return isinstance(found, dict) and all(
        isinstance(found[name], kind) and not isinstance(found[name], bool)
        for name, kind in kinds.items()
        if name in found
    )


def _tensors_fault(tensors: Mapping[str, Tensor]) -> str | None:
    answers, labels, points = tensors["answers"], tensors["labels"], tensors["points"]
    if answers.ndim != 5 or not answers.is_floating_point():
        return f"answers {list(answers.shape)} {answers.dtype}"
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.ndim != 4:
        return f"labels {list(labels.shape)} {labels.dtype}"
    if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < answers.shape[-1]:
        return f"labels from {int(labels.min())} to {int(labels.max())}"
    if points.ndim != 4 or not points.numel():
        return f"points {list(points.shape)}"
    return None


__all__ = ["inconsistency"]
