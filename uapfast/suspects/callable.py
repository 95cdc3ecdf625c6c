"""A function as a suspect: whatever it returns, label strings and lists of ``{label, score}`` included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from uapfast.errors import InputError, MissingDependency, OutputError
from uapfast.models.answers import OUTPUTS, Answers, other_count
from uapfast.models.labels import ClassNames
from uapfast.suspects.base import BATCH, Suspect
from uapfast.suspects.pixels import to_uint8

ImageType = Literal["torch", "numpy", "pil"]
FORMS = ("torch", "numpy", "pil")
ROUNDED = "it is asked with 8-bit pictures: queries off the 1/255 grid are rounded"


def open_callable(
    function: Callable[[Any], Any],
    *,
    class_names: Sequence[str] | None = None,
    output: str = "auto",
    images: ImageType = "torch",
    costly: bool = False,
    batch_size: int = BATCH,
    name: str | None = None,
) -> Function:
    """Make a suspect of a function.

    Args:
        function: called with a batch of images. It returns one answer per image, in order: logits,
            probabilities or a label, in any form that :func:`uapfast.models.unpack.unpack` reads; or the name
            of a class; or ``{label, score}``, or a list of those, as a transformers pipeline for image
            classification does (give it ``top_k=K``: by default it leaves out all but five classes).
        class_names: names of its classes, in order; needed if it answers with names. If it knows more classes
            than the victim, ``verify(..., class_order=)`` says which of them are the victim's.
        output: ``auto``, ``logits``, ``probabilities`` or ``labels``.
        images: what the function receives: ``torch`` or ``numpy``, float32 ``[n,C,H,W]`` in 0..1; or ``pil``,
            a list of 8-bit pictures (1 or 3 channels; queries off the 1/255 grid are rounded, and a note says
            so).
        costly: whether queries have a cost; it is then queried in steps.
        batch_size: images per call.
        name: shown in errors.

    Raises:
        InputError: a setting is wrong, or ``function`` is an ``nn.Module`` (use ``uapfast.Model``).
        MissingDependency: ``pil`` without Pillow.
    """
    return Function(function, class_names, output, images, costly, batch_size, name)


class Function(Suspect):
    """See :func:`open_callable`."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        class_names: Sequence[str] | None,
        output: str,
        images: str,
        costly: bool,
        batch_size: int,
        name: str | None,
    ) -> None:
        where = "open_callable"
        if not callable(function) or isinstance(function, nn.Module):
            rule = "a function from images to answers (uapfast.Model takes modules)"
            raise InputError(where, "function", rule, type(function).__name__)
        for argument, value, known in (("output", output, OUTPUTS), ("images", images, FORMS)):
            if value not in known:
                raise InputError(where, argument, f"one of {', '.join(known)}", repr(value))
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise InputError(where, "batch_size", "a whole number >= 1", repr(batch_size))
        self.name = str(name or getattr(function, "__name__", type(function).__name__))
        self.output, self.costly, self.batch_size = output, bool(costly), batch_size
        self._call, self._images = function, images
        self._names = None if class_names is None else ClassNames(class_names, where)
        self.notes = () if self._names is None else self._names.notes
        if images == "pil":
            _pillow()
            self.notes = (*self.notes, ROUNDED)

    @property
    def source(self) -> dict[str, Any]:
        """What it is, for the record."""
        return {"kind": "callable", "name": self.name}

    def answer(self, images: Tensor) -> Any:
        """What the function returns; names become numbers of classes."""
        return self._read(self._call(self._given(images)), len(images))

    def answers_to(self, chunks: Any, classes: int | None = None) -> Answers:
        """As the base class."""
        if self._names is not None and classes is not None and len(self._names) != classes:
            rule = f"{classes}, one per class ({other_count(len(self._names), classes)})"
            raise InputError(self.name, "class names", rule, len(self._names))
        return super().answers_to(chunks, classes)

    def _given(self, images: Tensor) -> Any:
        if self._images == "torch":
            return images.clone()  # it may write into it
        if self._images == "numpy":
            return images.numpy().copy()
        pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
        if pixels.shape[-1] not in (1, 3):
            raise InputError(self.name, "images", "torch or numpy: pictures have 1 or 3 channels", "pil")
        squeeze = pixels.shape[-1] == 1
        return [_pillow().fromarray(one[..., 0] if squeeze else one) for one in pixels]

    def _read(self, values: Any, rows: int) -> Any:
        if isinstance(values, str):
            values = [values]
        if isinstance(values, np.ndarray) and values.dtype.kind in "OUS":
            values = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
        if _is_scored(values):
            values = [values]
        if not isinstance(values, (list, tuple)) or not values:
            return values
        if rows == 1 and all(map(_is_scored, values)):  # a pipeline's answer to one picture
            values = [values]
        if isinstance(values[0], str):
            return self._known(rows, values).labels(values, self.name)
        if any(_is_scored(v) or _is_scores(v) for v in values):
            return self._known(rows, values).rows([_pairs(v, self.name) for v in values], self.name)
        return values

    def _known(self, rows: int, values: Sequence[Any]) -> ClassNames:
        if len(values) != rows:
            raise OutputError(self.name, "answers", f"{rows}, one per image", len(values))
        if self._names is None:
            rule = "given to open_callable: this suspect answers with names"
            raise InputError(self.name, "class names", rule, "none")
        return self._names


def _is_scored(value: Any) -> bool:
    """Whether it is one ``{label, score}``."""
    return isinstance(value, Mapping) and "label" in value and "score" in value


def _is_scores(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_scored, value))


def _pairs(value: Any, where: str) -> list[tuple[Any, Any]]:
    """Labels and scores of one answer; an empty list is none."""
    found = [value] if _is_scored(value) else value
    if not isinstance(found, (list, tuple)) or not all(map(_is_scored, found)):
        raise OutputError(where, "answers", "all lists of {label, score}", repr(value)[:120])
    return [(one["label"], one["score"]) for one in found]


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingDependency("open_callable: images='pil' needs Pillow (pip install pillow)") from exc
    return Image


__all__ = ["open_callable"]
