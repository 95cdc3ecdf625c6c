"""What a module holds: its hash, its type of number, and whether its answers depend on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from uapfast.errors import ModelError
from uapfast.models.duplicate import reached
from uapfast.models.unpack import unpack

TRIED, ALONE = 12, 3  # images by which it is tried whether answers repeat, and of them alone
NEAR = 1e-3  # share of the largest answer by which rounding may differ between batches
TINY = 1e-30
DEPENDS = "answers depend on the other queries of a batch"


def tensors_sha256(module: nn.Module) -> str:
    """SHA-256 of a module's state: names, dtypes, shapes, bytes; the same on every device.

    What a state dict holds besides tensors (extra state, packed quantised weights) counts by its content. A
    frozen TorchScript module has no state: its constants and its code count.
    """
    return state_sha256(_state(module))


def state_sha256(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state, such as :func:`tensors_sha256` takes from a module and a reader from a file."""
    h = hashlib.sha256()
    for name, value in sorted(state.items()):
        _add(h, name, value)
    return h.hexdigest()


def has_state(module: nn.Module) -> bool:
    """Whether there is anything for :func:`tensors_sha256` to tell modules apart by."""
    return bool(_state(module))


def _state(module: nn.Module) -> dict[str, Any]:
    return dict(module.state_dict()) or _constants(module)


def _constants(module: nn.Module) -> dict[str, Any]:
    """Code and constants of TorchScript modules (frozen ones keep their weights there)."""
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            code, constants = part.code_with_constants
            found[f"{name}:code"] = code
            found |= {f"{name}:{k}": v for k, v in constants.const_mapping.items()}
    return found


def _add(h: Any, name: str, value: Any) -> None:
    """Take one entry of a state; unknown objects by their type alone (their text may hold addresses)."""
    if isinstance(value, Tensor):
        _add_tensor(h, name, value.detach().to("cpu"))
    elif isinstance(value, Mapping):
        h.update(f"{name}:{{{len(value)}}}".encode())
        for key in sorted(value, key=repr):
            _add(h, f"{name}.{key}", value[key])
    elif isinstance(value, (list, tuple)):
        h.update(f"{name}:[{len(value)}]".encode())
        for i, one in enumerate(value):
            _add(h, f"{name}.{i}", one)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
        h.update(f"{name}:{value!r}".encode())
    else:
        h.update(f"{name}:{type(value).__module__}.{type(value).__qualname__}".encode())


def _add_tensor(h: Any, name: str, t: Tensor) -> None:
    if t.is_quantized:
        h.update(f"{name}:{t.qscheme()}".encode())
        if t.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            _add(h, f"{name}.scale", (t.q_scale(), t.q_zero_point()))
        else:
            scales = t.q_per_channel_scales(), t.q_per_channel_zero_points(), t.q_per_channel_axis()
            _add(h, f"{name}.scale", scales)
        t = t.int_repr()
    elif t.layout == torch.sparse_coo:
        t = t.coalesce()
        h.update(f"{name}:{t.layout}:{tuple(t.shape)}".encode())
        _add(h, f"{name}.indices", t.indices())
        t = t.values()
    elif t.layout != torch.strided:
        h.update(f"{name}:{t.layout}".encode())
        t = t.to_dense()
    t = t.contiguous()
    h.update(f"{name}:{t.dtype}:{tuple(t.shape)}".encode())
    h.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())


def state_tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers; the constants of a frozen TorchScript module."""
    found: list[Tensor] = [*module.parameters(), *module.buffers()]
    return found or [t for t in _constants(module).values() if isinstance(t, Tensor)]


def input_dtype(module: nn.Module) -> torch.dtype:
    """The floating type of all weights, which images are cast to; float32 where they are of several."""
    # bits alone: what packs its weights (quantised layers) has none here and takes float32
    types = {t.dtype for t in state_tensors(module) if t.is_floating_point() and t.element_size() > 1}
    return types.pop() if len(types) == 1 else torch.float32


def check_ready(module: nn.Module) -> None:
    """Raise ``ModelError`` for lazy layers that have no weights yet."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            rule = "initialised (lazy layers: run it once on an image of the right size)"
            raise ModelError("Model", "model", rule, f"uninitialised {name}")


def batch_note(module: nn.Module) -> str | None:
    """What to say of a module whose answers depend on the other images of a batch; None if they do not.

    Args:
        module: in eval mode. Batch normalisation without running statistics is found, and such as stays in
            training mode, in TorchScript too; a forward of the module's own making is not looked into.
    """
    for part in _dependent(module):
        return f"{DEPENDS} ({part} uses the batch's statistics): asked view by view, in batches of one size"
    return None


UNSTEADY = "it answers the same question differently each time: verdicts on it do not repeat"


def repeats(answer: Callable[[Tensor], Any], x: Tensor) -> tuple[bool, str | None]:
    """Whether a network answers an image as it does beside others, and twice alike, by trying.

    Args:
        answer: what it returns for images.
        x: a few images ``[n,C,H,W]``, n > ``ALONE``.

    Returns:
        Whether answers depend on the other images of a batch, and what to say; neither where it fails.
    """
    try:
        whole, again, alone = (unpack(answer(part.clone()), "") for part in (x, x, x[:ALONE]))
        room = NEAR * max(float(whole.detach().abs().to(torch.float64).max()), TINY)
        if bool((whole.double() - again.double()).abs().max() > room):
            return False, UNSTEADY
        if bool((whole[:ALONE].double() - alone.double()).abs().max() > room):
            said = (
                "answers depend on the other queries of a batch: asked view by view, in batches of one size"
            )
            return True, said
    except Exception:  # whatever is wrong with it shows when it is asked
        pass
    return False, None


def _dependent(module: nn.Module) -> Iterator[str]:
    names = {id(part): name for name, part in module.named_modules()}
    for part in reached(module):  # what eval() does not know of, in lists and closures, as well
        if isinstance(part, torch.jit.ScriptModule):
            yield from _scripted(part)
        elif isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
            yield f"{type(part).__name__} {names.get(id(part), '')}".strip()


def _scripted(module: torch.jit.ScriptModule) -> Iterator[str]:
    graph = getattr(module, "inlined_graph", None)
    for node in graph.findAllNodes("aten::batch_norm") if graph is not None else ():
        _, _, _, mean, _, training = list(node.inputs())[:6]
        if training.toIValue() is True or (
            mean.node().kind() == "prim::Constant" and mean.toIValue() is None
        ):
            yield "batch normalisation in TorchScript"


__all__ = ["batch_note", "check_ready", "has_state", "input_dtype", "state_tensors", "tensors_sha256"]
