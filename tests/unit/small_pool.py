"""A pool that is built in a moment, on half of the digits."""

from __future__ import annotations

from typing import Any

from uapfast.data import Dataset, load_data

ARCH = "uapfast:mlp-small?size=8"
OTHERS = ("uapfast:cnn-small?size=8",)
SMALL: dict[str, Any] = {
    "init": "random", "twins": 2, "surrogates": 2, "homologous": 3, "epochs": 2, "other_archs": OTHERS,
}  # fmt: skip


def data() -> Dataset:
    return load_data("digits:train").subset(slice(0, 400))
