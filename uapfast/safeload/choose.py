"""Which map of tensors in a checkpoint is the model. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from uapfast.safeload.header import Header, TensorInfo
from uapfast.safeload.limits import Limits
from uapfast.safeload.opcodes import SCALARS, Foreign, Inert, Named, Unread
from uapfast.safeload.refusal import Refused, shown
from uapfast.safeload.torchpickle import DENSE, DEQUANTISED, QUANTISED, SAVE, Tensor

INSTEAD = f"a state dict ({SAVE})"
# Under which a checkpoint keeps the model itself, where it keeps more than one map of tensors.
MODEL = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights",
    "state_dict_ema", "model_ema", "ema_state_dict", "model_state_dict_ema",
)  # fmt: skip

PACKED = "_packed_params"


def under(names: Iterable[str], key: str) -> dict[str, str]:
    """Names below ``key`` in a flat map, each with what it is called there."""
    begin = f"{key}."
    return {n.removeprefix(begin): n for n in names if n.startswith(begin) and len(n) > len(begin)}


def asked(key: str) -> str:
    """What is said of a choice that was asked for."""
    return f"the state dict under {shown(key, 60)!r} was taken, as key= asks"


def part_under(header: Header, key: str) -> Header:
    """Tensors whose names begin with ``key``, without it; raises ``Refused`` if there are none."""
    names = under(header.tensors, key)
    if not names:
        raise not_under(key, {name.partition(".")[0] for name in header.tensors})
    tensors = {}
    for name, source in names.items():
        info = header.tensors[source]
        tensors[name] = TensorInfo(name, info.dtype, info.shape, info.nbytes)
    begin = f"{key}."
    metadata = {k.removeprefix(begin): v.removeprefix(begin) for k, v in header.metadata.items()}
    return Header(tensors, {name: header.begins[source] for name, source in names.items()}, metadata)


def not_under(key: str, has: Iterable[str]) -> Refused:
    """Nothing lies where it was asked for."""
    names = sorted(has)
    few = ", ".join(shown(name, 40) for name in names[:8]) + " and more" * (len(names) > 8)
    rule = f"a file with tensors under key={shown(key, 60)!r}"
    return Refused("unsupported", rule, f"one with {few or 'no tensors'}")


def find_tensors(root: Any, limits: Limits, key: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The map from names to tensors in a checkpoint: itself, or under names such as ``state_dict``.

    Only dicts are looked into, each once, however often a file refers to it. Of several maps the one is taken
    that has a name of ``MODEL``: the least deep, then the first in that order.

    Args:
        root: what the pickle describes.
        limits: bounds.
        key: takes the map that lies there (``state_dict_ema``, ``averages.model``, or the end of such a
            place), or the tensors whose names begin with it in the map that would be taken.

    Returns:
        The map, and what is to be said of the choice, where there was one.
    """
    found, mixed, foreign = _maps(root, limits)
    if key is not None and found:
        return _chosen(found, key), asked(key)
    taken = next(iter(found), "")
    if len(found) > 1:
        taken = _preferred(found) or ""
    if found and (taken or len(found) == 1):
        others = ", ".join(shown(p, 40) for p in sorted(found.keys() - {taken})[:4])
        said = f"the state dict under {shown(taken, 60)!r} was taken, not what lies under {others}"
        said += " (key= or --key chooses)"
        return _dense(found[taken]), said if others else ""
    if isinstance(root, dict) and not root:
        return {}, ""
    if found:
        names = ", ".join(shown(p, 40) for p in sorted(found)[:8])
        raise Refused("unsupported", "a file with one state dict (key= or --key chooses one)",
                      f"{len(found)} of them: {names}")  # fmt: skip
    for value in (root, *foreign):
        if made := _is_foreign(value):
            raise Refused("unsafe", f"tensors without code ({SAVE})", made.what)
    if isinstance(root, Unread):
        raise Refused("unsupported", DENSE, f"{root.what} alone")
    what = mixed or (
        "a tensor alone" if isinstance(root, Tensor) else f"{_kind(root)} without tensors by name"
    )
    raise Refused("unsupported", INSTEAD, what)


def _chosen(found: Mapping[str, dict[str, Any]], key: str) -> dict[str, Tensor]:
    """The one map at ``key``, or the part of a map whose names begin with it."""
    if key in found:
        return _dense(found[key])
    ends = [place for place in found if place.endswith(f".{key}")]
    if len(ends) == 1:
        return _dense(found[ends[0]])
    place = next(iter(found)) if len(found) == 1 else _preferred(found)
    part = under(found[place], key) if place is not None else {}
    if ends or not part:
        firsts = {name.partition(".")[0] for state in found.values() for name in state}
        raise not_under(key, ends or (found if len(found) > 1 else {p for p in found if p} | firsts))
    return _dense({name: found[place or ""][source] for name, source in part.items()})


def _is_foreign(value: object) -> Foreign | None:
    made = value.made if isinstance(value, Named) else value
    return made if isinstance(made, Foreign) else None


def _kind(value: Any) -> str:
    if isinstance(value, Named):
        return f"the name {shown(value.name)}"
    return value.what if isinstance(value, Inert) else f"a {type(value).__name__}"


def _maps(root: Any, limits: Limits) -> tuple[dict[str, dict[str, Any]], str, list[Any]]:
    """Maps from names to tensors by their place.

    Besides, what the first is that holds something else among them, and foreign objects among tensors.
    """
    found: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    queue: list[tuple[str, Any, int]] = [("", root, 0)]
    mixed, foreign = "", []
    while queue:
        place, value, depth = queue.pop(0)
        if not isinstance(value, dict) or id(value) in seen or depth > limits.depth:
            continue
        seen.add(id(value))
        others = [k for k, v in value.items()
                  if not isinstance(v, Tensor | Unread) or not isinstance(k, str)]  # fmt: skip
        if len(others) < len(value) and others:
            odd = value[others[0]]
            foreign += [value[k] for k in others if _is_foreign(value[k])][:1]
            kind = f", {odd.what}," if isinstance(odd, Inert) else ""
            name = shown(others[0], 60) if type(others[0]) in (*SCALARS, tuple) else _kind(others[0])
            mixed = mixed or f"a map of tensors with {name}{kind} among them"
            if any(str(k).endswith(PACKED) for k in others):
                mixed = f"the state of torch's quantised modules ({name}): save the network before that"
        elif value and not others:
            found[place] = value
            continue
        queue += [(f"{place}.{k}" if place else k, v, depth + 1)
                  for k, v in value.items() if isinstance(k, str) and isinstance(v, dict)]  # fmt: skip
    scores = [place for place, state in found.items() if not any(_sized(v) for v in state.values())]
    if len(scores) < len(found):  # a trainer's best scores by file, and the like, are no model
        for place in scores:
            del found[place]
    return found, mixed, foreign


def _sized(value: Tensor | Unread) -> bool:
    return isinstance(value, Unread) or bool(value.shape)


def _preferred(found: Mapping[str, object]) -> str | None:
    """The place with a name of ``MODEL``; None if there is none, or two that are alike."""
    ranked = []
    for place in found:
        *above, last = place.split(".")
        if last in MODEL and not any("optim" in part for part in above):
            ranked.append((len(above), MODEL.index(last), place))
    ranked.sort()
    if not ranked or (len(ranked) > 1 and ranked[0][:2] == ranked[1][:2]):
        return None
    return ranked[0][2]


def _dense(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for name, value in state.items():
        if isinstance(value, Unread):
            rule = DEQUANTISED if value.what.startswith(QUANTISED) else DENSE
            raise Refused("unsupported", rule, f"{value.what} named {shown(name)}")
    return dict(state)
