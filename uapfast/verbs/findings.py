"""What the tests that ``generate`` makes have found, as sentences."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from uapfast.errors import PoolNote, PoolWarning


@dataclass
class Findings:
    """Warnings and limits of one reference, in the order in which they were found.

    Attributes:
        warnings: what every verdict repeats.
        limits: why the reference must not convict.
    """

    warnings: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Store a sentence that was warned of already."""
        self.warnings.append(text)

    def warn(self, text: str, *, act: bool = True) -> None:
        """Store a sentence and give it as a ``PoolWarning``, or ``PoolNote`` if the owner cannot ``act``."""
        self.warnings.append(text)
        warnings.warn((PoolWarning if act else PoolNote)(f"generate: {text}"), stacklevel=4)

    def limit(self, text: str) -> None:
        """Store why the reference will not convict, and give that as a ``PoolWarning``."""
        self.limits.append(text)
        warnings.warn(PoolWarning(f"generate: the reference will not convict: {text}"), stacklevel=4)


__all__ = ["Findings"]
