"""Settings, frozen and checked on construction. A leaf: imports only ``errors``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from uapfast.errors import InputError, ManifestError

Norm = Literal["linf", "l2"]
UapMethod = Literal["deepfool", "margin", "contrastive"]
UapForm = Literal["auto", "loop", "alone", "streams", "stacked"]
Precision = Literal["float32", "bf16"]
EncoderName = Literal["lineage", "paper"]
Selection = Literal["disagree", "kmeans"]


QUERIES = 4000  # of a reference, unless told; docs/method.md, section 4
MOST_WHOLE = 2**48 - 1  # what every generator of random numbers and every index takes
CHOICE = 1.25  # images for every point asked, so that the least disputed can be left out
RAY = (0.0, 0.2)  # the t of the queries x + t*v where there are fewer images than that
ALPHA = 1e-3  # level of a conviction on each side, unless told
TIMEOUT = 300.0  # seconds that reading a suspect, or asking it, may take in a screen, unless told


def check(ok: bool, where: str, argument: str, rule: str, got: object) -> None:
    """Raise ``InputError`` unless ``ok``."""
    if not ok:
        raise InputError(where, argument, rule, got)


def parse_numbers(text: str) -> tuple[float, ...]:
    """``"0.5,0.4"``, ``"0.5 0.4"`` or ``"0.5; 0.4"`` as ``(0.5, 0.4)``, on the command line and in manifests.

    Raises:
        ValueError: empty, or anything that is no finite number.
    """
    parts = re.split(r"\s*[,;]\s*|\s+", text.strip())  # "0.5," has an empty one, which float refuses
    values = tuple(map(float, parts))
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(text)
    return values


def manifest_numbers(text: str, where: str, column: str, line: str) -> tuple[float, ...] | None:
    """A manifest's field of numbers, None where it is empty; ``ManifestError`` names its ``line``."""
    if not text:
        return None
    try:
        return parse_numbers(text)
    except ValueError:
        rule = "finite numbers separated by blanks or commas, one per channel"
        raise ManifestError(where, column, rule, f"{text[:80]!r} ({line})") from None


def _number(where: str, name: str, value: object, rule: str, ok: Callable[[float], bool]) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    check(good and math.isfinite(float(value)) and ok(float(value)), where, name, rule, repr(value))  # type: ignore[arg-type]


def _whole(where: str, name: str, value: object, least: int) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_WHOLE
    check(good, where, name, f"a whole number >= {least}, below 2^48", repr(value))


def _one_of(where: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    check(value in allowed, where, name, "one of " + ", ".join(allowed), repr(value))


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """How ``generate`` makes a reference.

    Attributes:
        eps: radius of the UAP's ball, in input units (inputs are in 0..1); > 0.
        norm: norm of the UAP's ball, ``linf`` or ``l2``.
        uap: algorithm: ``deepfool`` (the paper's), ``margin`` or ``contrastive``.
        points: query points per view, n. None takes as many as make ``QUERIES`` queries in total, or fewer if
            there are not enough images.
        views: number of views, V.
        ray: values of t at which the queries x + t*v are asked, 0 (the clean point) first; at most 4. None
            takes the encoder's default: (0, 1) for ``paper``. For ``lineage`` it is (0,) if there are enough
            images for ``QUERIES`` clean points, else (0, 0.2) (docs/method.md, section 4).
        encoder: ``lineage`` (docs/method.md) or ``paper`` (Peng et al., CVPR 2022).
        selection: how points are chosen: ``disagree`` or ``kmeans`` (paper). None takes the encoder's default
            (``disagree`` for lineage, ``kmeans`` for paper). ``kmeans`` treats the victim differently from
            its twins, and is refused with lineage.
        fooling: fooling rate at which the optimisation of the UAP stops.
        min_fooling: a warning is given below this held-out fooling rate.
        strict: raise an error instead of a warning below ``min_fooling``.
        wire_safe: keep v on the 1/255 grid, so that it survives 8-bit upload.
        uap_images: most images used to make UAPs.
        show_uap: make the victim's UAP even if no query uses it (every t of ``ray`` is 0), so that it can be
            shown.
        seed: seed of everything random.

    Example:
        >>> uapfast.GenerateConfig(eps=0.3, views=10).norm
        'linf'
        >>> uapfast.GenerateConfig(eps=-1)
        Traceback (most recent call last):
        uapfast.errors.InputError: GenerateConfig: eps must be a finite number > 0, got -1
    """

    eps: float = 0.1
    norm: Norm = "linf"
    uap: UapMethod = "margin"
    points: int | None = None
    views: int = 20
    ray: tuple[float, ...] | None = None
    encoder: EncoderName = "lineage"
    selection: Selection | None = None
    fooling: float = 0.8
    min_fooling: float = 0.3
    strict: bool = False
    wire_safe: bool = False
    uap_images: int = 1000
    show_uap: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field; raises ``InputError``."""
        w = "GenerateConfig"
        _number(w, "eps", self.eps, "a finite number > 0", lambda x: x > 0)
        _one_of(w, "norm", self.norm, ("linf", "l2"))
        _one_of(w, "uap", self.uap, ("deepfool", "margin", "contrastive"))
        if self.points is not None:
            _whole(w, "points", self.points, 2)
        _whole(w, "views", self.views, 1)
        if self.ray is not None:
            ray_ok = (
                isinstance(self.ray, tuple)
                and 1 <= len(self.ray) <= 4
                and len(set(self.ray)) == len(self.ray)
            )
            check(ray_ok, w, "ray", "a tuple of 1 to 4 different numbers", repr(self.ray))
            for t in self.ray:
                _number(w, "ray", t, "numbers in 0..1", lambda x: 0 <= x <= 1)
        _one_of(w, "encoder", self.encoder, ("lineage", "paper"))
        if self.selection is not None:
            _one_of(w, "selection", self.selection, ("disagree", "kmeans"))
            alone = self.selection == "kmeans" and self.encoder == "lineage"
            rule = (
                "left out or disagree with encoder=lineage: kmeans looks at the victim alone, which is then "
                "no longer one of several models that are treated alike (encoder=paper keeps it)"
            )
            check(not alone, w, "selection", rule, repr(self.selection))
        _number(w, "fooling", self.fooling, "a rate in 0..1", lambda x: 0 < x <= 1)
        _number(w, "min_fooling", self.min_fooling, "a rate in 0..1", lambda x: 0 <= x <= 1)
        _whole(w, "uap_images", self.uap_images, 8)
        check(isinstance(self.show_uap, bool), w, "show_uap", "True or False", repr(self.show_uap))
        _whole(w, "seed", self.seed, 0)

    def most_points(self, images: int) -> int:
        """Points a view that so many images allow, at least 2."""
        return max(2, int(images / CHOICE) // self.views)

    def settled(self, images: int) -> GenerateConfig:
        """With ``points`` and ``ray`` as they are taken where there are so many images."""
        ray = self.ray
        if ray is None and self.encoder == "paper":
            ray = (0.0, 1.0)
        elif ray is None:
            ray = (0.0,) if images >= CHOICE * QUERIES else RAY
        points = self.points or max(2, min(QUERIES // (self.views * len(ray)), self.most_points(images)))
        return replace(self, points=points, ray=ray)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)
