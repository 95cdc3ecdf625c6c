"""Whether weights are those of an architecture: one rule for names, shapes, types and values.

What torch itself lets pass, and forms of one network that differ in names alone, are taken and told:
counters of batch norm, which no answer depends on; weight norm in its old and new form; a weight that the
architecture ties to another; the prefix of a wrapper. Anything else that differs is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from uapfast.errors import ModelError, SuspectError
from uapfast.models.quantised import refuse_quantised
from uapfast.models.wrappers import few, parts_that_fit, unwrapped
from uapfast.safeload.refusal import shown
from uapfast.safeload.sharded import part_of

COUNTER = "num_batches_tracked"
ADAPTER = re.compile(r"(^|\.)lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.|$)")


@dataclass(frozen=True)
class ExpectedState:
    """What an architecture takes as weights.

    Attributes:
        shapes: of its state, by name.
        dtypes: of its state, by name.
        parameters: names that are parameters, not buffers.
        judged: names whose values must be finite: parameters, and buffers that a fresh network has finite
            (a mask of minus infinity is meant).
        whole: names whose values must be whole numbers or bools; counters of batches are not among them.
        same: for names that share one tensor, all of them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    parameters: frozenset[str]
    judged: frozenset[str]
    whole: tuple[str, ...]
    same: Mapping[str, tuple[str, ...]]


def wanted(module: nn.Module) -> ExpectedState:
    """What a network takes, told from a fresh one.

    Raises:
        ModelError: its state is not tensors of known sizes.
    """
    state = module.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or is_lazy(tensor):
            got = type(tensor).__name__
            raise ModelError(
                "load", "arch", "a network whose state is tensors of known sizes", f"{got} {name}"
            )
    parameters = frozenset(name for name, tensor in state.items() if isinstance(tensor, nn.Parameter))
    finite = (n for n, t in state.items() if n not in parameters and bool(torch.isfinite(t.detach()).all()))
    sharing: dict[object, list[str]] = defaultdict(list)
    for name, tensor in state.items():
        if tensor.layout == torch.strided and tensor.numel():
            place = tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
            sharing[place].append(name)
    return ExpectedState(
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        {name: tensor.dtype for name, tensor in state.items()},
        parameters,
        parameters | frozenset(finite),
        tuple(n for n, t in state.items() if not (_inexact(t.dtype) or _counts(n))),
        {name: tuple(names) for names in sharing.values() if len(names) > 1 for name in names},
    )


def _inexact(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER


@dataclass(frozen=True)
class Fitted:
    """How weights become those of an architecture.

    Attributes:
        sources: for every name of the architecture the one of the weights; None: a counter that starts at 0.
        notes: what was taken although it differed, in sentences.
    """

    sources: Mapping[str, str | None]
    notes: tuple[str, ...]

    def complete(self, given: Mapping[str, Tensor], wants: ExpectedState) -> dict[str, Tensor]:
        """The weights under the architecture's names."""
        return {
            name: torch.zeros(wants.shapes[name], dtype=wants.dtypes[name])
            if source is None
            else given[source]
            for name, source in self.sources.items()
        }


def fit(
    wants: ExpectedState,
    shapes: Mapping[str, Sequence[int]],
    dtypes: Mapping[str, torch.dtype],
    path: object,
    left_out: Mapping[str, str] | None = None,
) -> Fitted:
    """Hold names, shapes and types of weights against an architecture.

    Args:
        wants: the architecture.
        shapes: of the weights, by name.
        dtypes: of the weights, by name.
        path: named in errors.
        left_out: names that whoever wrote the file says are the same as others in it
            (``safetensors.torch.save_model`` writes that into the metadata).

    Raises:
        ModelError: some differ (a few are listed), or integers stand where parameters are real numbers.
    """
    found, notes = unwrapped(wants.shapes, shapes, _other_names)
    _rename(wants, found, notes)
    _count(wants, found, shapes, notes)
    _tie(wants, found, notes)
    extra = [s for n, s in found.items() if n not in wants.shapes]
    refuse_quantised(extra, dtypes, path)
    _refuse_adapter(extra, path)
    _check_names(wants, found, shapes, path, left_out or {})
    sources = {name: found.get(name) for name in wants.shapes}
    for name, source in sources.items():
        if source is None:
            continue
        own, given = wants.dtypes[name], dtypes[source]
        if own.is_complex != given.is_complex:
            raise ModelError("load", f"weights {name}", f"{own}", f"{given} ({path})")
        if name in wants.parameters and _inexact(own) and not _inexact(given):
            rule = f"real numbers ({own}; integers are weights only with their scales, which no reader knows)"
            raise ModelError("load", f"weights {name}", rule, f"{given} ({path})")
    return Fitted(sources, tuple(notes))


def _refuse_adapter(extra: Sequence[str], path: object) -> None:
    """Name the part of a network that is trained beside frozen weights (LoRA, as peft writes it)."""
    found = next((name for name in sorted(extra) if ADAPTER.search(name)), None)
    if found is not None:
        rule = "those of a whole network (merge the adapter into it: peft, merge_and_unload)"
        raise ModelError("load", "weights", rule, f"an adapter: {shown(found)} ({path})")


def misfits(wants: ExpectedState, shapes: Mapping[str, Sequence[int]]) -> int:
    """How many tensors stand in one of architecture and weights alone, or have another shape there."""
    found, _ = unwrapped(wants.shapes, shapes, _other_names)
    names = {n for n in wants.shapes.keys() | found.keys() if not _counts(n)}
    given = {n: tuple(shapes[source]) for n, source in found.items()}
    return sum(given.get(n) != wants.shapes.get(n) for n in names)


def _other_names(name: str) -> list[str]:
    """What weight norm calls the same tensor in its other form (torch.nn.utils and its parametrizations)."""
    place, _, last = name.rpartition(".")
    if last in ("original0", "original1") and place.rpartition(".")[0].endswith("parametrizations"):
        above, _, what = place.rpartition(".")
        return [f"{above.removesuffix('parametrizations')}{what}_{'gv'[int(last[-1])]}"]
    for ending, number in (("_g", 0), ("_v", 1)):
        if last.endswith(ending):
            stem = f"{place}." if place else ""
            return [f"{stem}parametrizations.{last.removesuffix(ending)}.original{number}"]
    return []


def _rename(wants: ExpectedState, found: dict[str, str], notes: list[str]) -> None:
    renamed = []
    for name in wants.shapes.keys() - found.keys():
        for other in _other_names(name):
            if other in found and other not in wants.shapes:
                found[name] = found.pop(other)
                renamed.append(f"{shown(other, 80)} as {name}")
    if renamed:
        notes.append(f"Weight norm in its other form: {few(sorted(renamed))}.")


def _count(
    wants: ExpectedState, found: dict[str, str], shapes: Mapping[str, Sequence[int]], notes: list[str]
) -> None:
    """Counters of batches: evaluation does not look at them; torch's own loading lets them be missing."""
    missing = [n for n in wants.shapes if _counts(n) and n not in found]
    extra = [
        name
        for name in found
        if _counts(name)
        and name not in wants.shapes
        and f"{name.removesuffix(COUNTER)}running_mean" in wants.shapes
        and not any(n != 1 for n in shapes[found[name]])
    ]
    for name in extra:
        del found[name]
    for name in [n for n in wants.shapes if _counts(n) and n in found]:
        if tuple(shapes[found[name]]) == (1,) and wants.shapes[name] == ():  # as old files have them
            del found[name]
    same = "; answers in evaluation do not depend on them."
    if missing:
        notes.append(f"Counters of batches were missing ({few(missing)}){same}")
    if extra:
        notes.append(
            f"Counters of batches that the architecture does not keep were left ({few(extra)}){same}"
        )


def _tie(wants: ExpectedState, found: dict[str, str], notes: list[str]) -> None:
    """A weight that shares its memory with one that is there."""
    tied = []
    for name in wants.shapes.keys() - found.keys():
        kept = next((other for other in wants.same.get(name, ()) if other in found), None)
        if kept is not None:
            tied.append((name, kept))
    for name, kept in tied:
        found[name] = found[kept]
    if tied:
        said = [f"{name} is {kept}" for name, kept in sorted(tied)]
        notes.append(f"Weights that the architecture ties to others were left out of the file: {few(said)}.")


def _check_names(
    wants: ExpectedState,
    found: Mapping[str, str],
    given: Mapping[str, Sequence[int]],
    path: object,
    left_out: Mapping[str, str],
) -> None:
    missing = sorted(n for n in wants.shapes if n not in found and not _counts(n))
    for name in missing:
        if left_out.get(name) in given:
            rule = f"those of the architecture ({path})"
            got = (
                f"{name} left out as the same as {shown(left_out[name])}, which the architecture does not tie"
            )
            raise ModelError("load", "weights", rule, got)
    extra = sorted(source for name, source in found.items() if name not in wants.shapes)
    shapes = [
        f"{source} {list(given[source])} for {list(wants.shapes[name])}"
        for name, source in sorted(found.items())
        if name in wants.shapes and tuple(given[source]) != tuple(wants.shapes[name])
    ]
    kinds = (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
    parts = [f"{label}: {few(names)}" for label, names in kinds if names]
    if parts:
        part = part_of(str(path)) if missing else None
        if part is not None:
            parts.append(f"the file is part {part[0]} of {part[1]}: give the index beside it (*.index.json)")
        parts += [] if shapes or part else _hints(wants, found, given)
        raise ModelError("load", "weights", f"those of the architecture ({path})", "; ".join(parts))


def _hints(wants: ExpectedState, found: Mapping[str, str], given: Mapping[str, Sequence[int]]) -> list[str]:
    """What to do about names that differ, where the file shows it."""
    parts = parts_that_fit(wants.shapes, given, _counts)
    if parts:
        said = " or ".join(f"{shown(part, 80)!r}" for part in parts[:2])
        return [f"those under {said} fit alone: choose them by key= (--key)"]
    ours = {n: tuple(s) for n, s in wants.shapes.items() if n not in found}
    theirs = {n: tuple(given[source]) for n, source in found.items() if n not in wants.shapes}
    if len(ours) != len(theirs):  # counters may be missing in one of them
        ours = {n: s for n, s in ours.items() if not _counts(n)}
        theirs = {n: s for n, s in theirs.items() if not _counts(n)}
    if not ours or sorted(ours.values()) != sorted(theirs.values()):
        return []
    order = ", in the same order" if list(ours.values()) == list(theirs.values()) else ""
    which = f"these {len(ours)}" if found.keys() & wants.shapes.keys() else "all"
    return [
        f"{which} are of the same shapes{order}: perhaps the same network by another package's names, "
        "which are not matched by place; rename them as the architecture does, or give the architecture "
        "that they were made with (FILE.py:FACTORY)"
    ]


def check_whole(wants: ExpectedState, given: Mapping[str, Tensor], path: object) -> None:
    """Values for tensors of whole numbers must be such.

    Args:
        wants: the architecture.
        given: weights under its names, as they were read.
        path: named in errors.

    Raises:
        ModelError: some would change.
    """
    for name in wants.whole:
        tensor, own = given[name], wants.dtypes[name]
        if tensor.dtype != own and not torch.equal(tensor.to(own).to(tensor.dtype), tensor):
            got = f"{tensor.dtype} that it cannot hold ({path})"
            raise ModelError("load", f"weights {name}", f"values of {own}", got)


def check_finite(wants: ExpectedState, kept: Mapping[str, Tensor], path: object) -> None:
    """Parameters, and buffers that are finite in a fresh network, must be finite.

    Args:
        wants: the architecture.
        kept: weights under its names, after the cast to its types, which may overflow.
        path: named in errors.

    Raises:
        SuspectError: NaN or infinity; the first is named.
    """
    for name in wants.shapes:
        if name in wants.judged and not bool(torch.isfinite(kept[name]).all()):
            raise SuspectError("load", f"weights {name}", "finite", f"NaN or infinity ({path})")
