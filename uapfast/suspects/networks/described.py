"""What has to be known to build a network."""

from __future__ import annotations

from typing import Protocol

from uapfast.models.preprocessing import Preprocessing


class Described(Protocol):
    """A network as whoever asks for it describes it.

    Attributes:
        arch: SPEC (:func:`uapfast.models.registry.resolve_arch`).
        base: folder that a relative file in it is relative to.
        preprocessing: of images, or None.
        code: SHA-256 of the code that it has to be built of; None for whatever it is.
        network: hash of all of this: equal tensors of equal networks give equal answers.
    """

    @property
    def arch(self) -> str: ...  # noqa: D102
    @property
    def base(self) -> str | None: ...  # noqa: D102
    @property
    def preprocessing(self) -> Preprocessing | None: ...  # noqa: D102
    @property
    def code(self) -> str | None: ...  # noqa: D102
    @property
    def network(self) -> str: ...  # noqa: D102

    def code_now(self) -> str:
        """SHA-256 of what it executes now."""


__all__ = ["Described"]
