"""How several models are asked in one step: side by side, or as one network with stacked weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from uapfast.config import Precision, UapForm
from uapfast.streams import Device, Stream

SMALL = 5_000_000  # parameters; a network above fills a GPU alone
AT_ONCE = (
    1 << 24
)  # elements of all images of a step together; what a network makes of them is 100 times as much
STREAMS = 24  # models in one step at most: torch has 64 streams
LARGE_SIDE = 64  # px; from here on the layout of memory decides how fast convolutions are
PROBES = 4  # images on which stacked weights are held against the models themselves
CONVOLUTIONS = (nn.modules.conv._ConvNd,)
log = logging.getLogger(__name__)

Ask = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StepSettings:
    """How the steps of several models are made.

    Attributes:
        form: ``alone``, ``streams`` or ``stacked``.
        precision: of the networks in the steps; v and its update are float32 (float64 for such a model).
        graph: record each step as a graph, where the device has graphs.
        channels_last: memory layout of the images that the networks get.
    """

    form: UapForm
    precision: Precision = "float32"
    graph: bool = True
    channels_last: bool = False


@dataclass(frozen=True)
class Part:
    """Models that are asked in one call.

    Attributes:
        rows: their places among all models.
        ask: ``[m,N,C,H,W]`` in 0..1 to logits ``[m,N,K]``.
        stream: where they are asked.
    """

    rows: slice
    ask: Ask
    stream: Stream


def choose_form(modules: Sequence[nn.Module]) -> UapForm:
    """The form for models on a GPU, by what they are and not by the clock: the same choice every time.

    Networks of more than ``SMALL`` parameters one after the other. Smaller ones side by side on streams if
    they convolve, since stacked weights turn a convolution into a grouped one, and stacked otherwise.
    """
    if len(modules) == 1 or max(parameters(m) for m in modules) > SMALL:
        return "alone"
    convolve = any(isinstance(part, CONVOLUTIONS) for m in modules for part in m.modules())
    return "streams" if convolve else "stacked"


def parameters(module: nn.Module) -> int:
    """Numbers in a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def chunk_of(form: UapForm, elements: int) -> int:
    """Most models in one step whose images have ``elements`` elements a model."""
    return 1 if form == "alone" else min(STREAMS, max(1, AT_ONCE // max(1, elements)))


def precise(place: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Where networks run in ``precision``; weights are cast anew each time, as a graph needs it."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(place.type, torch.bfloat16, cache_enabled=False)


# -- alike? ----------------------------------------------------------------------------------------------


def signature(module: nn.Module) -> tuple[Any, ...]:
    """What two modules share if they are one network with other weights; see :func:`same_architecture`."""
    parts = []
    for name, part in module.named_modules():
        tensors = [*part._parameters.items(), *part._buffers.items()]
        shapes = tuple((n, None if t is None else (tuple(t.shape), t.dtype)) for n, t in tensors)
        parts.append((name, type(part), part.extra_repr(), shapes))
    return tuple(parts)


def same_architecture(a: nn.Module, b: nn.Module) -> bool:
    """Whether ``b`` is ``a`` with other weights, as far as can be seen: classes, shapes, plain attributes.

    Modules with hooks, with tensors outside parameters and buffers, or whose attributes cannot be compared
    are like no other.
    """
    return signature(a) == signature(b) and all(
        _same_settings(x, y) for x, y in zip(a.modules(), b.modules(), strict=True)
    )


def _same_settings(a: nn.Module, b: nn.Module) -> bool:
    if any(part._forward_hooks or part._forward_pre_hooks for part in (a, b)):
        return False
    mine, theirs = ({k: v for k, v in vars(m).items() if not _torchs(k)} for m in (a, b))
    if mine.keys() != theirs.keys():
        return False
    return all(_same_value(mine[k], theirs[k]) for k in mine)


def _torchs(name: str) -> bool:
    """Attributes in which torch keeps a module's parts and hooks."""
    return name in ("_parameters", "_buffers", "_modules") or "hook" in name or name.startswith("_non_")


def _same_value(x: Any, y: Any) -> bool:
    if x is y:
        return not isinstance(x, Tensor)
    if type(x) is not type(y):
        return False
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(_same_value(i, j) for i, j in zip(x, y, strict=True))
    return isinstance(x, str | bytes | bool | int | float | torch.dtype | torch.device) and bool(x == y)


def in_order(modules: Sequence[nn.Module]) -> list[list[int]]:
    """Places of the modules, those that are alike together; groups in order of their first."""
    groups: list[list[int]] = []
    for i, module in enumerate(modules):
        for group in groups:
            if same_architecture(modules[group[0]], module):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


# -- asking ----------------------------------------------------------------------------------------------


def one(module: nn.Module, how: StepSettings, place: torch.device) -> Ask:
    """A model asked as it is, ``[1,N,C,H,W]`` to ``[1,N,K]``; its own weights are not touched."""
    weights: dict[str, Tensor] | None = None
    if how.channels_last:
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        weights = {k: t.to(memory_format=torch.channels_last) for k, t in tensors.items() if t.ndim == 4}

    def ask(x: Tensor) -> Tensor:
        points = x[0].contiguous(memory_format=torch.channels_last) if how.channels_last else x[0]
        with precise(place, how.precision):
            out: Tensor = module(points) if not weights else functional_call(module, weights, (points,))
        return out[None]

    return ask


def stacked(modules: Sequence[nn.Module], how: StepSettings, place: torch.device) -> Ask:
    """Models that are alike, asked as one with stacked weights: ``[m,N,C,H,W]`` to ``[m,N,K]``."""
    weights, buffers = stack_module_state(list(modules))
    weights = {k: v.detach() for k, v in weights.items()}
    first = modules[0]

    def single(w: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(first, (w, b), (x,))
        return out

    batched: Callable[..., Tensor] = vmap(single)

    def ask(x: Tensor) -> Tensor:
        with precise(place, how.precision):
            return batched(weights, buffers, x)

    return ask


def parts_of(
    modules: Sequence[nn.Module], how: StepSettings, probe: Tensor, device: Device, home: Stream
) -> list[Part]:
    """The models of a step, cut into what is asked in one call.

    Args:
        modules: frozen; with ``stacked`` neighbours that are alike become one (see :func:`in_order`).
        how: the form.
        probe: a few images ``[n,C,H,W]`` in 0..1, of the models' dtype.
        device: where they are.
        home: the stream of the step.
    """
    groups: list[list[int]] = []
    for i, module in enumerate(modules):
        if how.form == "stacked" and groups and same_architecture(modules[groups[-1][-1]], module):
            groups[-1].append(i)
        else:
            groups.append([i])
    parts: list[Part] = []
    for group in groups:
        lane = home if how.form == "alone" or not parts else device.stream()
        members = [modules[i] for i in group]
        ask = _checked_stack(members, how, probe, device.place) if len(group) > 1 else None
        if ask is not None:
            parts.append(Part(slice(group[0], group[-1] + 1), ask, lane))
        else:
            parts += [Part(slice(i, i + 1), one(modules[i], how, device.place), lane) for i in group]
    return parts


def _checked_stack(
    modules: list[nn.Module], how: StepSettings, probe: Tensor, place: torch.device
) -> Ask | None:
    """The stack, if it answers as its models do; None, and a word in the log, if not."""
    try:
        ask = stacked(modules, how, place)
        with torch.no_grad():
            got = ask(probe.expand(len(modules), *probe.shape)).double()
            want = torch.stack([one(m, how, place)(probe[None])[0] for m in modules]).double()
    except torch.OutOfMemoryError:
        raise
    except Exception as exc:  # what vmap cannot do is many things
        said = str(exc).splitlines()[0] if str(exc) else ""
        log.warning("universal_perturbation: weights are not stacked (%s: %s)", type(exc).__name__, said)
        return None
    room = 3e-2 if how.precision == "bf16" else 3e-3  # TF32 in one and not in the other, at worst
    if float((got - want).norm()) <= room * float(want.norm()):
        return ask
    log.warning(
        "universal_perturbation: weights are not stacked (the stack answers otherwise than the models)"
    )
    return None


__all__ = [
    "Part",
    "StepSettings",
    "choose_form",
    "chunk_of",
    "in_order",
    "one",
    "parts_of",
    "precise",
    "stacked",
]
