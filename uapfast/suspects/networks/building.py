"""Building a suspect's network, with limits on its size, from the code that the screen began with."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import nn

from uapfast.errors import ModelError
from uapfast.models.registry import arch_file, resolve_arch
from uapfast.suspects.networks.described import Described
from uapfast.suspects.networks.inplace import check_size, size_unbuilt, state_bytes


@lru_cache(maxsize=1024)
def _size(arch: str) -> int:
    return size_unbuilt(resolve_arch(arch))


def build_network(suspect: Described) -> nn.Module:
    """The network of a suspect's architecture, newly built, its file executed anew.

    Raises:
        ModelError: unknown architecture, or one that cannot be built, or is too large, or whose code is not
            that of ``suspect.code``.
        MissingDependency: timm or torchvision is needed.
    """
    base = Path(suspect.base) if suspect.base else None
    factory = resolve_arch(suspect.arch, base=base, anew=True)
    if arch_file(suspect.arch, base=base) is None:  # a manifest may name it: look before it is built
        check_size(_size(suspect.arch), suspect.arch)
    built = factory()
    check_size(state_bytes(built), suspect.arch)
    if suspect.code is not None and suspect.code_now() != suspect.code:
        rule = f"the code that it was when the screen began ({suspect.arch}; screen again)"
        raise ModelError("screen", "arch", rule, "changed or other code")
    return built


__all__ = ["build_network"]
