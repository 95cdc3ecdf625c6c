"""What else would explain a suspect's answers, and what, if anything, speaks to it: rows of its page.

A row says what was tested and what was not; it never turns a p-value into the chance that somebody copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from uapfast.examination.calibration import surrogates_above
from uapfast.reference import Reference
from uapfast.report.page import p_text
from uapfast.types import Verdict

Status = Literal["tested", "declared", "open"]
STATUS: dict[Status, str] = {
    "tested": "tested here",
    "declared": "rests on the owner's word",
    "open": "not tested here",
}
OUT: dict[Status, str] = {
    "tested": "made unlikely by the test",
    "declared": "ruled out if the owner's statement is true",
    "open": "not ruled out",
}

ANCESTOR = "A common ancestor: both were made from the same (public) weights"


@dataclass(frozen=True, slots=True)
class Alternative:
    """One other explanation.

    Attributes:
        what: the explanation.
        status: whether it was tested, depends on what the owner declared, or is open.
        out: in a few words, whether it is ruled out.
        by: what rules it out, or what to do about it.
    """

    what: str
    status: Status
    out: str
    by: str


def alternatives(
    reference: Reference, verdict: Verdict, commitment: Mapping[str, Any] | None = None
) -> tuple[Alternative, ...]:
    """Other explanations of a conviction; or, without one, what would hide a copy.

    Args:
        reference: with which the suspect was tested.
        verdict: the result.
        commitment: what the statement says about it (``began``, ``committedAt``, ``stampedAt``), or None.
    """
    if verdict.decision == "piracy":
        return (
            *_chance(reference, verdict),
            _recipe(reference, verdict),
            _ancestor(reference),
            _order(),
            _asking(verdict, convicted=True),
            _direction(),
            _tuned(commitment),
        )
    if verdict.p_value is None:
        return (_asking(verdict, convicted=False),)
    return (_asking(verdict, convicted=False), *_hidden(reference, verdict), _recipe(reference, verdict))


def unexcluded(reference: Reference | None) -> tuple[Alternative, ...]:
    """What a conviction leaves open, or to the owner's statement; without a reference less is known."""
    if reference is None:
        rest = "What the owner declared about the victim's training is not known here: ask."
        return _row(ANCESTOR, "open", rest), _order(), _direction()
    return _ancestor(reference), _order(), _direction()


def _row(what: str, status: Status, by: str, out: str | None = None) -> Alternative:
    return Alternative(what, status, out or OUT[status], by)


def _chance(reference: Reference, verdict: Verdict) -> tuple[Alternative, ...]:
    """An honest model that is closer by chance, and one of the pool's kinds."""
    innocents = len(reference.innocents)
    level = f"{verdict.alpha:g}"
    bound = "at most " if verdict.p_is_bound else ""
    at = f"at level {level}: p is {bound}{p_text(verdict.p_value)}"
    joint = verdict.p_joint_exact
    exact = "" if joint is None else f"; by rank alone, without assumptions about scores, {p_text(joint)}"
    by = (
        f"{innocents} honest models of other training were compared with the victim in the same way "
        f"(p {p_text(verdict.p_suspect)}). It holds for suspects like them"
    )
    return (
        _row("Chance: an honest model's answers happen to lie here", "tested", f"The test, {at}{exact}."),
        _row("Similarity: the same task, images or architecture, trained honestly", "tested", f"{by}."),
    )


def _recipe(reference: Reference, verdict: Verdict) -> Alternative:
    """The twins' recipe, both ways."""
    twins = len(reference.candidates) - 1
    convicted = verdict.decision == "piracy"
    if twins < 2:
        what = "The recipe: any model trained as the victim was would answer like this"
        by = f"The reference has {twins or 'no'} twins with which the victim could be compared."
        return _row(what, "open", by)
    kind = (reference.settings.get("twins") or {}).get("kind", "full")
    made = {
        "full": "reruns of the victim's own recipe with other seeds",
        "branch": "reruns of the last part of the victim's training from a checkpoint",
        "designated": "the models from which the victim was drawn at random",
    }.get(kind, f"made as {kind}")
    word = (
        "Only the owner states that the recipe is the victim's own; generate tests whether the twins are of "
        "the victim's kind, and an auditor may train one more."
    )
    if convicted:
        what = "The recipe: any model trained as the victim was would answer like this"
        said = f"{twins} twins, {made}, are all farther from the suspect (p {p_text(verdict.p_candidate)})."
        return _row(what, "declared", f"{said} {word}", "ruled out if the twins are what the owner says")
    what = "Twins of another recipe than the victim's"
    return _row(what, "declared", f"{twins} twins, {made}. {word}")


def _ancestor(reference: Reference) -> Alternative:
    """Public weights from which both started."""
    init = reference.settings.get("init") or {}
    start = init.get("start")
    known = any(r.relation == "ancestor" for r in reference.records)
    if start in ("weights", "factory") or known:
        named = f" (SHA-256 {init['sha256']})" if init.get("sha256") else ""
        by = (
            f"The victim started from weights{named}, and so did twins and honest models of the pool. What "
            "it shares with other models made from these does not count. Another ancestor would."
        )
        return _row(ANCESTOR, "declared", by, "ruled out for the ancestor that the owner named")
    if start == "random":
        by = (
            "The owner says that the victim's training started from random weights. If it started from "
            "public ones, honest models made from the same are convicted: ask for the training's record."
        )
        return _row(ANCESTOR, "declared", by)
    return _row(ANCESTOR, "open", "The reference does not say where the victim's training started: ask.")


def _order() -> Alternative:
    """The same images in the same order."""
    return _row(
        "The same images in the same order: both were trained on them with the same loader and seed",
        "open",
        "Such a model looks related whatever its architecture (docs/verdicts.md, section 3). Ask both sides "
        "for the data, the loader and the seed before anything is concluded.",
    )


def _direction() -> Alternative:
    """Which model was made from which."""
    return _row(
        "The other way round: the victim was made from the suspect, or a third model stands between them",
        "open",
        "Answers show similarity, but neither its direction nor its cause. Dates, records of training and "
        "commitments do.",
    )


def _tuned(commitment: Mapping[str, Any] | None) -> Alternative:
    """A test that was fitted to the suspect."""
    what = "A test made for this suspect: the victim, twins or queries were chosen after it was seen"
    began = None if commitment is None else commitment.get("began")
    if commitment is not None and began == "after":
        stamped = commitment.get("stampedAt")
        rest = (
            "It does not show that the suspect was not available before that, or that no other reference was "
            "tried: ask when the owner first had it, and for all commitments."
        )
        by = "The reference and the settings were committed to before this examination began"
        if not stamped:
            by = f"{by}, at {commitment.get('committedAt')} by the owner's clock; no authority stamped that"
        else:
            by = f"{by}, stamped at {stamped} by an authority whose certificate the audit needs"
        return _row(what, "declared", f"{by}. {rest}")
    if commitment is not None:
        order = "before it" if began == "before" else "at an unknown time, before or after it"
        return _row(what, "open", f"There is a commitment, but the examination began {order}.")
    return _row(what, "open", "No commitment was made before the suspect was asked, or none is cited.")


def _asking(verdict: Verdict, *, convicted: bool) -> Alternative:
    """Preprocessing, class order, order of rows."""
    what = "An error in the queries: another preprocessing, order of classes or order of rows"
    if verdict.agreement is None:
        return _row(what, "open", "Nothing of its answers could be compared with the pool's.")
    share = f"{verdict.agreement:.0%} of its answers are those that most of the pool's models give"
    least = verdict.agreement_least
    if least is not None:
        share += f"; each of these models reaches {least:.0%} or more"
    if least is not None and verdict.agreement < least:
        tail = "Such an error hides a copy, but makes none." if convicted else "Query it again, correctly."
        return _row(what, "open", f"{share}. {tail}")
    by = f"{share}. A model that is queried wrongly falls below them."
    return _row(what, "tested", by, "nothing points to one")


def _hidden(reference: Reference, verdict: Verdict) -> tuple[Alternative, ...]:
    """What would hide a copy."""
    power = surrogates_above(reference, verdict.alpha)
    known = (
        "The reference has no known copies to measure it on."
        if power is None
        else f"Of the pool's own copies {power:.0%} would be convicted at this level."
    )
    found = [
        _row("A copy that kept little of the victim: few images, one pass, another network", "open", known),
        _row("A copy that answers the queries differently because its maker knows them", "open",
             "Keep the reference secret until it is revealed."),
    ]  # fmt: skip
    if verdict.output == "labels":
        by = "It answers with labels only, which show less: ask for probabilities."
        found.append(_row("Too little is shown", "open", by))
    asked, full = verdict.views_used, reference.plan.views
    if asked < full:
        by = f"It was asked {asked} of {full} views; a suspect that stops there could hardly be convicted."
        found.append(_row("Too little was asked", "open", by))
    return tuple(found)


__all__ = ["STATUS", "Alternative", "alternatives"]
