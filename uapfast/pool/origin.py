"""Where the victim's training began: at random weights, at public ones, or at what its factory loads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError, PoolError
from uapfast.models.checkpoint import read_weights
from uapfast.models.registry import resolve_arch

Start = Literal["random", "weights", "factory"]
CHOICES = (
    "random (the victim was trained from scratch), a file of the public weights that it was fine-tuned "
    "from, or factory (its architecture's factory loads them): models that share a beginning resemble each "
    "other, and without twins of the victim's beginning honest fine-tunings of it would be convicted"
)
MOST = 0.5  # of an architecture's tensors, or of its numbers, has to fit
ALIKE = 0.2  # cosine of weights; fine-tuned digits networks have .99, strangers .00
SHOWN = 4


@dataclass(frozen=True)
class Origin:
    """Where the victim began.

    Attributes:
        start: ``random``, ``weights`` (of a file), or ``factory``.
        sha256: of the tensors taken from the file; None without one.
        taken: tensors of the architecture that the file gave.
        total: tensors of the architecture.
        fresh: names of those that the file did not give, or in another shape; drawn anew for every model.
        unused: names in the file that the architecture has no place for.
    """

    start: Start
    sha256: str | None = None
    taken: int = 0
    total: int = 0
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the file is a whole network of the architecture, head included."""
        return self.start == "weights" and not self.fresh and not self.unused

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self) | {"fresh": list(self.fresh), "unused": list(self.unused)}

    def sentence(self) -> str:
        """What was taken, for people."""
        if self.start == "random":
            return "every model begins at random weights"
        if self.start == "factory":
            return "models of the victim's architecture begin at what its factory loads"
        left = "" if not self.fresh else f"; drawn anew for every model: {_some(self.fresh)}"
        left += "" if not self.unused else f"; without a place in the architecture: {_some(self.unused)}"
        most = f"{self.taken} of {self.total} tensors of the file"
        return f"models of the victim's architecture begin at {most}{left}"


def said_init(init: str | os.PathLike[str] | None) -> Start:
    """What the owner said; raises ``InputError`` with the choices where that is nothing."""
    if isinstance(init, os.PathLike):
        return "weights"
    if not isinstance(init, str) or not init.strip():
        raise InputError("pool", "init", CHOICES, repr(init))
    if init in ("random", "factory"):
        return init  # type: ignore[return-value]
    if not os.path.exists(init):
        raise InputError("pool", "init", f"{CHOICES} (docs/fine_tuned.md)", f"{init!r}, no file of that name")
    return "weights"


def find_origin(init: str | os.PathLike[str], arch: str) -> tuple[Origin, dict[str, Tensor]]:
    """Check what the owner said against the architecture.

    Args:
        init: ``random``, ``factory``, or a file of weights (one of those names: ``./random``).
        arch: SPEC of the victim.

    Returns:
        The origin, and the tensors of the file that fit by name and shape, in the architecture's dtypes.

    Raises:
        InputError: nothing was said.
        PoolError: a factory that is not as was said, or a file most of whose tensors do not fit.
        ModelError: a file that cannot be read, or with NaN in it.
    """
    start = said_init(init)
    if start == "weights":
        return _from_file(Path(init), arch)
    equal = _equal_share(arch)
    if start == "factory" and equal < MOST:
        rule = "one that loads its weights for init=factory (two calls give mostly equal tensors)"
        raise PoolError("pool", "arch", rule, f"random weights in {1 - equal:.0%} of {arch}")
    if start == "random" and equal >= MOST:
        rule = (
            "factory for an architecture whose factory gives mostly equal tensors whatever the seed (it "
            "loads weights, or sets the seed itself)"
        )
        raise PoolError("pool", "init", rule, f"'random', and {equal:.0%} equal numbers in {arch}")
    return Origin(start), {}


def fresh_model(arch: str, seed: int) -> nn.Module:
    """A newly made model of a SPEC; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resolve_arch(arch)()


def doubt(origin: Origin, began: Mapping[str, Tensor], arch: str, victim: Mapping[str, Tensor]) -> str | None:
    """A sentence where the victim's weights show nothing of what it is said to have begun at; None otherwise.

    Args:
        origin: what was said.
        began: tensors of the file.
        arch: SPEC, whose factory is called for ``factory``.
        victim: its tensors.
    """
    if origin.start == "random":
        return None
    start = began if origin.start == "weights" else fresh_model(arch, 0).state_dict()
    found = likeness(victim, start)
    if found >= ALIKE:
        return None
    return (
        f"pool: init should be what the victim began at; its weights have a cosine of {found:.2f} with "
        "those, where fine-tuning usually leaves more than 0.9 and strangers have 0: twins from another "
        "beginning void the candidate side"
    )


def likeness(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Cosine of all weight matrices that two networks have in common, as one vector; 0 if there are none."""
    product = first = second = 0.0
    for name, tensor in one.items():
        if name in two and tensor.ndim > 1 and two[name].shape == tensor.shape and tensor.is_floating_point():
            a, b = tensor.double().flatten(), two[name].double().flatten()
            product, first, second = product + float(a @ b), first + float(a @ a), second + float(b @ b)
    return product / math.sqrt(first * second) if first * second > 0 else 0.0


def _equal_share(arch: str) -> float:
    """Share of equal numbers in the weight matrices of two calls with different seeds, 0..1."""
    first, second = (fresh_model(arch, seed).state_dict() for seed in (0, 1))
    equal = total = 0
    for name, tensor in first.items():
        if tensor.ndim > 1 and tensor.is_floating_point():  # biases and norms begin equal everywhere
            equal += int((tensor == second[name]).sum()) if name in second else 0
            total += tensor.numel()
    return equal / total if total else 0.0


def _from_file(path: Path, arch: str) -> tuple[Origin, dict[str, Tensor]]:
    given, own = read_weights(path), fresh_model(arch, 0).state_dict()
    taken = {
        name: given[name].to(tensor.dtype)
        for name, tensor in own.items()
        if name in given and given[name].shape == tensor.shape and not given[name].is_complex()
    }
    numbers = sum(t.numel() for t in own.values())
    # either may be small in an honest case: tensors of a shallow network, numbers where the head is large
    fits = max(len(taken) / max(len(own), 1), sum(t.numel() for t in taken.values()) / max(numbers, 1))
    fresh, unused = tuple(sorted(own.keys() - taken.keys())), tuple(sorted(given.keys() - own.keys()))
    if fits <= MOST:
        rule = f"a file most of whose tensors fit the architecture by name and shape ({path})"
        got = f"{len(taken)} of {len(own)} that do; without: {_some(fresh)}; of no use: {_some(unused)}"
        raise PoolError("pool", "init", rule, got)
    bad = [n for n, t in taken.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        raise ModelError("pool", "init", f"of finite weights ({path})", f"NaN or infinity in {_some(bad)}")
    return Origin("weights", _sha256(taken), len(taken), len(own), fresh, unused), taken


def _sha256(state: dict[str, Tensor]) -> str:
    """Of names, dtypes, shapes and bytes."""
    h = sha256()
    for name, t in sorted(state.items()):
        h.update(f"{name}:{t.dtype}:{tuple(t.shape)}".encode())
        h.update(t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"
