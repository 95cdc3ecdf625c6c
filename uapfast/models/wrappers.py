"""What wrappers leave in the names of weights, taken out only where the names then are the architecture's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from uapfast.safeload.refusal import shown

SHOWN = 4
AVERAGED = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside module.*
TORCH = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module")
PARALLEL = "module"  # DataParallel and its kin; they may wrap a part of a network
LOSSES = ("criterion", "loss", "loss_fn", "loss_func")  # training modules keep class weights there
DEEPEST = 8  # prefixes, one in the other
DOTS = 64  # of a name that is looked into; more are no network's
SPARE = 100  # names beyond twice the architecture's; a file with more does not fit anyway


@dataclass(frozen=True)
class NameReading:
    """One way to read the names.

    Attributes:
        names: with a wrapper's parts taken out, each with the name in the file.
        prefix: what was taken off before all of them.
        inside: what was taken out of the middle of some.
        losses: names of a loss's tensors, left out.
    """

    names: dict[str, str]
    prefix: str = ""
    inside: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What was taken out, in sentences."""
        said = []
        if self.prefix:
            what = f"begin with {shown(self.prefix)}, a wrapper's"
            said.append(f"The names of the weights {what}, which was taken off.")
        if self.inside:
            said.append(f"In names of the weights {', '.join(self.inside)}, a wrapper's, was taken out.")
        if self.losses:
            said.append(f"Tensors of a loss beside the network were left: {few(self.losses)}.")
        return said


def few(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f"{', '.join(shown(name, 200) for name in listed[:SHOWN])}{more}"


def unwrapped(
    wants: Collection[str], given: Collection[str], kin: Callable[[str], list[str]]
) -> tuple[dict[str, str], list[str]]:
    """Names that the weights have without their wrappers.

    A prefix that all names share is taken off, and wrappers' parts are taken out of the middle, where more
    names are then the architecture's; otherwise all stay as they are.

    Args:
        wants: the architecture's names.
        given: the file's.
        kin: from a name to those that mean the same tensor in another form.

    Returns:
        For every name without its wrapper the one in the file, and what was done, in sentences.
    """
    average = _average(wants, given)
    best = NameReading({name: name for name in given if name != average})
    notes = [f"The weights are an average of several ({shown(average, 80)})."] if average else []

    def hits(reading: NameReading) -> int:
        return sum(name in wants or any(k in wants for k in kin(name)) for name in reading.names)

    most = hits(best)
    few_enough = len(best.names) <= 2 * len(wants) + SPARE
    if most < len(best.names) and few_enough and all(name.count(".") <= DOTS for name in best.names):
        for reading in list(_readings(wants, best)):
            if (found := hits(reading)) > most:
                best, most = reading, found
    return best.names, [*best.notes(), *notes]


def _average(wants: Collection[str], given: Collection[str]) -> str | None:
    """The counter of an average of models, beside ``module.*``."""
    for name in given:
        place, _, last = name.rpartition(".")
        if last == AVERAGED and name not in wants:
            beside = f"{place}.{PARALLEL}." if place else f"{PARALLEL}."
            if any(other.startswith(beside) for other in given):
                return name
    return None


def _readings(wants: Collection[str], plain: NameReading) -> Iterator[NameReading]:
    used = {part for name in wants for part in name.split(".")}
    for parts in ((), TORCH, (*TORCH, PARALLEL)):
        out = [part for part in parts if part not in used]
        reading = _without(plain, out) if out else plain if not parts else None
        for _ in range(DEEPEST):
            if reading is None:
                break
            yield reading
            reading = _one_off(wants, reading)


def _without(plain: NameReading, out: list[str]) -> NameReading | None:
    """Parts taken out of all names; None if there are none, or two names become one."""
    names: dict[str, str] = {}
    met: set[str] = set()
    for name, source in plain.names.items():
        parts = name.split(".")
        kept = [part for part in parts if part not in out]
        if len(kept) < len(parts):
            met.update(part for part in parts if part in out)
        names[".".join(kept)] = source
    if not met or len(names) != len(plain.names) or "" in names:
        return None
    return replace(plain, names=names, inside=tuple(part for part in out if part in met))


def _one_off(wants: Collection[str], reading: NameReading) -> NameReading | None:
    """The first part of all names taken off, if they share it; a loss may stand beside them."""
    losses = [n for n in reading.names if n.partition(".")[0] in LOSSES and n not in wants]
    kept = reading.names.keys() - set(losses)
    first = next(iter(kept), "").partition(".")[0] + "."
    if not kept or not all(name.startswith(first) and len(name) > len(first) for name in kept):
        return None
    names = {name.removeprefix(first): source for name, source in reading.names.items() if name in kept}
    left = (*reading.losses, *(reading.names[name] for name in losses))
    return replace(reading, names=names, prefix=reading.prefix + first, losses=left)


def parts_that_fit(wants: Collection[str], given: Collection[str], free: Callable[[str], bool]) -> list[str]:
    """First parts of names under each of which a whole architecture lies, beside others.

    Args:
        wants: the architecture's names.
        given: the file's.
        free: whether a name may be missing.
    """
    firsts = list(dict.fromkeys(n.partition(".")[0] for n in given if "." in n))[:16]
    names, needed = set(given), [name for name in wants if not free(name)]
    return [f for f in firsts if needed and all(f"{f}.{name}" in names for name in needed)]


__all__ = ["NameReading", "few", "parts_that_fit", "unwrapped"]
