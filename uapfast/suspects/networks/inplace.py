"""How large a network is, and whether and how its weights can be replaced in its own memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from uapfast.errors import ModelError
from uapfast.models.registry import Factory
from uapfast.safeload import Limits

ALIGN = 64  # float32 elements: 256 bytes, as CUDA's allocator aligns
MOST_BYTES = Limits().tensor_bytes  # of one network; no larger weights file is read


def loads_plainly(module: nn.Module) -> bool:
    """Whether ``load_state_dict`` does no more than to copy."""
    hooks = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_hooks")
    loads = ("_load_from_state_dict", "load_state_dict", "state_dict", "_save_to_state_dict")
    return not any(
        any(getattr(part, hook, None) for hook in hooks)
        or any(not getattr(type(part), load).__module__.startswith("torch.nn.modules.") for load in loads)
        for part in module.modules()
    )


def changes_with_mode(module: nn.Module) -> bool:
    """Whether ``train()`` and ``eval()`` may do more than to set ``training``."""

    def more(part: nn.Module) -> bool:
        kind = type(part)
        plain = kind.train is nn.Module.train and kind.eval is nn.Module.eval
        plain = plain and kind.__setattr__ is nn.Module.__setattr__
        own = any(name in part.__dict__ for name in ("train", "eval"))
        return own or not plain or isinstance(getattr(kind, "training", None), property)

    return any(more(part) for part in module.modules())


def everything(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, those that are in no state dict included."""
    return [*module.parameters(), *module.buffers()]


class WeightLayout(NamedTuple):
    """Where float32 weights go in one tensor of all of them.

    Attributes:
        moved: module and name of each, and its tensor.
        starts: of each, in elements.
        size: of the one tensor, in elements.
        places: by name in the state dict, in bytes; those that share their place with no other.
    """

    moved: list[tuple[nn.Module, str, Tensor]]
    starts: list[int]
    size: int
    places: dict[str, int]


def layout(module: nn.Module) -> WeightLayout:
    """The layout of a network's weights; the same for every network that one factory makes."""
    owners = Counter(t.untyped_storage().data_ptr() for t in everything(module))
    state = module.state_dict(keep_vars=True)

    def fits(t: Tensor) -> bool:
        alone = owners[t.untyped_storage().data_ptr()] == 1  # tied weights stay where they are
        return t.dtype == torch.float32 and t.is_contiguous() and alone and t.numel() > 0

    moved: list[tuple[nn.Module, str, Tensor]] = []
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        for name, t in [*part._parameters.items(), *part._buffers.items()]:
            listed = f"{prefix}.{name}" if prefix else name
            if t is not None and listed in state and id(t) not in seen and fits(t):
                moved.append((part, name, t))
                seen.add(id(t))
    starts, end = [], 0
    for _, _, t in moved:
        starts.append(end)
        end += -(-t.numel() // ALIGN) * ALIGN
    place = {id(t): 4 * start for (_, _, t), start in zip(moved, starts, strict=True)}
    names = Counter(id(t) for t in state.values())
    own = {name: place[id(t)] for name, t in state.items() if id(t) in place and names[id(t)] == 1}
    return WeightLayout(moved, starts, end, own)


def flatten(module: nn.Module, device: torch.device) -> Tensor:
    """Move float32 weights into one tensor, so that one pass checks them all; returns it."""
    found = layout(module)
    flat = torch.zeros(found.size, dtype=torch.float32, device=device)
    for (_, _, t), start in zip(found.moved, found.starts, strict=True):
        view = flat[start : start + t.numel()].view(t.shape)
        view.copy_(t.detach())
        t.data = view
    return flat


def alias(module: nn.Module, targets: Mapping[str, Tensor]) -> bool:
    """Whether every target is the memory of a parameter or buffer (a state dict may hold copies)."""
    own = {t.data_ptr() for t in everything(module)}
    return all(t.data_ptr() in own and not t.is_complex() for t in targets.values())


def _places(flat: Tensor, targets: Mapping[str, Tensor]) -> dict[str, int]:
    """Where targets begin in ``flat``, in bytes; those that lie in it."""
    low, high = flat.data_ptr(), flat.data_ptr() + 4 * flat.numel()
    inside = {name: t.data_ptr() - low for name, t in targets.items() if low <= t.data_ptr() < high}
    return {name: place for name, place in inside.items() if targets[name].numel()}


def own_places(flat: Tensor, targets: Mapping[str, Tensor]) -> dict[str, int]:
    """Where targets begin in ``flat``, in bytes; those that share their place with no other."""
    found = _places(flat, targets)
    count = Counter(found.values())
    return {name: place for name, place in found.items() if count[place] == 1}


def some_outside(flat: Tensor, targets: Mapping[str, Tensor]) -> bool:
    """Whether there are floating-point weights outside ``flat``."""
    inside = _places(flat, targets)
    return any(t.is_floating_point() and t.numel() > 0 and n not in inside for n, t in targets.items())


def first_difference(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """Name of one of ``tensors`` that ``state`` does not have as it is, cast; or None."""
    for name, tensor in tensors.items():
        mine = state.get(name)
        if mine is None or not torch.equal(mine, tensor.to(mine.device, mine.dtype)):
            return name
    return None


def state_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in everything(module))


def size_unbuilt(factory: Factory) -> int:
    """Bytes of a network's weights, found without making them; 0 for one that takes no part in that."""
    try:
        with torch.device("meta"):
            return state_bytes(factory())
    except Exception:  # says nothing yet: it is built for good next
        return 0


def check_size(size: int, arch: str) -> int:
    """``size`` itself; raises ``ModelError`` beyond ``MOST_BYTES``."""
    if size > MOST_BYTES:
        raise ModelError("screen", "arch", f"a network of at most {MOST_BYTES} bytes ({arch})", size)
    return size


__all__ = [
    "MOST_BYTES",
    "WeightLayout",
    "alias",
    "changes_with_mode",
    "check_size",
    "everything",
    "first_difference",
    "flatten",
    "layout",
    "loads_plainly",
    "own_places",
    "size_unbuilt",
    "some_outside",
    "state_bytes",
]
