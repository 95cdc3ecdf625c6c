"""Whether a pool is what it says, told from its models' answers.

Every reference is tested as it is made: that all models know the task, that the twins are of the victim's
kind, that no innocent is a copy of a candidate or a variant of another innocent, that the ancestor would be
called independent, and that no pseudo-suspect (:mod:`uapfast.verbs.trials`) would be convicted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import logit
from torch import Tensor

from uapfast.config import ALPHA
from uapfast.errors import PoolError
from uapfast.method.decision import compare, decide
from uapfast.method.lineage import LineageScorer
from uapfast.method.relatedness import (
    closeness,
    copies_among_innocents,
    dependent_candidates,
    dependent_innocents,
    kinship,
)
from uapfast.pool.degraded import DEGRADED
from uapfast.pool.pool import GOOD_TWINS, LEAST_RELATED, MIN_INNOCENTS
from uapfast.reference import Record, Reference
from uapfast.verbs.entries import RecordedModel
from uapfast.verbs.findings import Findings
from uapfast.verbs.origin_checks import check_related
from uapfast.verbs.trials import trials_summary, try_reference

APART = 1e-3  # one-sided level at which twins are not of the victim's kind
APART_OF_FEW = 1e-2  # the same where there are fewer twins than are good: their t test reaches no further
DOUBTFUL = 2e-2  # level from which that is warned of
STRANGE = 0.85  # the same from which few twins are of another kind; true ones show .75 at most (docs)
CLOSE = 0.3  # distance between candidates over that of the nearest innocent, below which they are copies
SHARED, DOUBTFUL_SHARE = 0.45, 0.6  # the same where they share what no innocent has (docs/fine_tuned.md)
CENTRE = 0.12  # mean cosine between the ways from the victim to its twins below which they were made from it
LEAST_KNOWN = 0.7  # of what the victim knows beyond guessing, a twin's
CHANCE = 0.15  # below this share a model hardly knows the task
GUESSING = 4.0  # standard deviations above the commonest class that a model which guesses does not reach

PREPROCESSING = "check mean and std, range and size of images, and the order of classes"
OTHER_KIND = (
    "either they were made by another recipe, or the victim was fine-tuned from weights from which they were "
    "not; make them by the victim's own recipe and from its starting weights: uapfast pool --recipe, --init"
)


def check_vouched(vouched: Mapping[str, str], models: list[RecordedModel], findings: Findings) -> None:
    """Whom the owner vouches for: homologous models of the pool, each with a reason; warned of."""
    names = {record.name for record, _ in models if record.relation == "homologous"}
    for name, reason in vouched.items():
        if name not in names:
            raise PoolError("generate", "vouched", "names of homologous models of the pool", repr(name))
        if not isinstance(reason, str) or not reason.strip():
            raise PoolError("generate", f"vouched for {name}", "a reason", repr(reason))
        findings.warn(f"{name} counts as innocent because the owner says so: {reason}", act=False)


def check_accuracy(
    clean: Tensor,
    labels: Tensor,
    models: list[RecordedModel],
    findings: Findings,
    trained: Collection[str] = (),
) -> None:
    """Whether victim, twins and homologous models know the task that the labels state.

    Args:
        clean: ``[M,N,K]`` probabilities of victim, twins and homologous models, in the pool's order.
        labels: ``[N]`` int64.
        models: the pool.
        findings: gets what is found.
        trained: names of homologous models that uapfast trained itself, some on few images.

    Raises:
        PoolError: most homologous models guess.
    """
    asked = [r for r, _ in models if r.relation in ("victim", "twin", "homologous")][: len(clean)]
    right = (clean.argmax(-1) == labels).double().mean(-1).numpy()
    guess = float(torch.bincount(labels - labels.min()).max()) / len(labels)
    reach = guess + GUESSING * float(np.sqrt(guess * (1.0 - guess) / len(labels)))
    if right[0] <= reach:
        findings.limit(
            f"the victim is right on {right[0]:.0%} of the owner's images, and guessing on {guess:.0%}: "
            f"labels of other images, or {PREPROCESSING}"
        )
        return
    share = (right - guess) / (right[0] - guess)
    twins = [i for i, r in enumerate(asked) if r.relation == "twin" and share[i] < LEAST_KNOWN]
    if twins:
        findings.limit(
            f"twins are right on far fewer images than the victim ({right[0]:.0%}): "
            f"{_with_shares(asked, right, twins)}; {PREPROCESSING}"
        )
    honest = [i for i, r in enumerate(asked) if r.relation == "homologous"]
    guessing = [i for i in honest if share[i] < CHANCE]
    if len(guessing) > len(honest) / 2:
        rule = f"a pool of homologous models that know the task (the victim is right on {right[0]:.0%})"
        raise PoolError("generate", "pool", rule, f"{_with_shares(asked, right, guessing)}; {PREPROCESSING}")
    if guessing:
        findings.warn(
            f"homologous models that hardly know the task (the victim is right on {right[0]:.0%}): "
            f"{_with_shares(asked, right, guessing)}; {PREPROCESSING}",
            act=any(asked[i].name not in trained for i in guessing),
        )


def _with_shares(records: list[Record], right: Any, rows: list[int]) -> str:
    shown = [f"{records[i].name} on {right[i]:.0%}" for i in rows[:5]]
    return ", ".join(shown) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def check_confidence(clean: Tensor, models: list[RecordedModel], findings: Findings) -> None:
    """Limit a reference whose victim is surer or less sure than its twins: they are of another recipe.

    Args:
        clean: ``[M,N,K]`` probabilities of the models that are candidates, in order, then others.
        models: the pool.
        findings: gets what is found.
    """
    count = sum(record.relation in ("victim", "twin") for record, _ in models)
    if count < 4 or len(clean) < count:
        return
    confidence = clean[:count].amax(-1).mean(-1).double().numpy()
    odds = logit(np.clip(confidence, 1e-6, 1 - 1e-6))  # spreads evenly where confidences crowd near 1
    side = compare(float(odds[0]), odds[1:])
    if min(side.p, 1.0 - side.p) < APART:
        findings.limit(
            f"twins should be made by the victim's own recipe; its mean confidence is {confidence[0]:.3f}, "
            f"theirs {confidence[1:].min():.3f}..{confidence[1:].max():.3f}: if they are of another recipe, "
            "p_candidate is invalid"
        )


def examine_pool(
    reference: Reference, vouched: Mapping[str, str], findings: Findings, trained: Collection[str] = ()
) -> Reference:
    """The reference with what the tests of its pool say, in its records and settings.

    Args:
        reference: of the lineage encoder, without limits.
        vouched: names of homologous models, and why they are honest though they look like copies.
        findings: what was found before; gets what is found now.
        trained: names of homologous models that uapfast trained itself.

    Raises:
        PoolError: copies of a candidate among the innocents or the twins.
    """
    records = _declared(reference.records)
    reference = replace(reference, records=records, _cache={})
    scorer = _scorer(reference)
    _check_twins(scorer, records, findings)
    _check_closeness(scorer, reference, findings)
    _check_innocents(scorer, records, vouched, findings, trained)
    records = _degraded_instead(_count_once(scorer, records, findings, trained))
    check_related(reference.settings.get("init"), records, findings)
    _check_null(records, reference.settings, findings)
    reference = replace(reference, records=records, _cache={})
    _check_ancestors(reference, findings)
    trials = try_reference(reference, ALPHA, tuple(vouched))
    found = trials_summary(trials)
    if found["convicted"]:
        findings.limit(
            f"it convicts answers that are no copy's ({found['convicted'][0]}; {len(found['convicted'])} of "
            f"{found['count']} trials): this pool does not separate copies from such answers; add twins and "
            "homologous models"
        )
    return replace(reference, settings=reference.settings | {"trials": found}, _cache={})


def _scorer(reference: Reference) -> LineageScorer:
    scorer = reference.statistic.scorer()
    assert isinstance(scorer, LineageScorer)
    return scorer


def _check_null(records: tuple[Record, ...], settings: Mapping[str, Any], findings: Findings) -> None:
    """Branch twins lie close together: beside them degraded answers look special, and have to be known."""
    known = any(r.counted and r.kind.startswith(DEGRADED) for r in records)
    if settings["twins"]["kind"] == "branch" and not known:
        findings.limit(
            "with twins from a checkpoint degraded honest models look like copies, and none of its "
            "homologous models could be degraded: they must be modules (docs/branches.md)"
        )


def _check_innocents(
    scorer: LineageScorer,
    records: tuple[Record, ...],
    vouched: Mapping[str, str],
    findings: Findings,
    trained: Collection[str],
) -> None:
    """Innocents that look like copies: an error, but where twins of another kind make them look so.

    Who looks so only beside models that vary less is warned of, and so every verdict repeats it. One that
    uapfast trained itself stays, and is warned of: to remove it would leave a pool in which the next honest
    model like it stands alone.
    """
    names = [records[i].name for i in scorer.roster.candidates]
    copies = copies_among_innocents(scorer, ALPHA)
    named = {records[row].name: copy for row, copy in sorted(copies.items())}
    found = {name: copy for name, copy in named.items() if name not in vouched}
    said = {name: f"{name} (like {names[copy.candidate]}, p {copy.p:.1g})" for name, copy in found.items()}
    ours = [text for name, text in said.items() if name in trained]
    if ours:
        findings.warn(
            "homologous models that uapfast trained look like copies, and count as honest: "
            f"{', '.join(ours)}. Models of their kind resemble the victim; only a recipe that loads its "
            "weights makes them copies",
            act=False,
        )
    theirs = [name for name in said if name not in trained]
    others = [name for name in theirs if found[name].sure]
    doubtful = ", ".join(said[name] for name in theirs if not found[name].sure)
    if doubtful and not others:
        findings.warn(
            "homologous models that may be copies, or of a kind that varies more than the others, and count "
            f"as honest: {doubtful}. Check their origin: with a copy among its innocents the victim's copies "
            "are found less often"
        )
    shown = ", ".join(said[name] for name in others) + (f"; perhaps also {doubtful}" if doubtful else "")
    if others and findings.limits:
        findings.warn(f"homologous models that look like copies beside such twins: {shown}")
    elif others:
        rule = (
            "a pool of homologous models that are no copies: vouch for those that you know to be honest "
            f"(--vouch {others[0]}=REASON), and remove the others. If they are honest, victim and they may "
            "share an ancestor from which the twins were not made"
        )
        raise PoolError("generate", "pool", rule, shown)


def _check_twins(scorer: LineageScorer, records: tuple[Record, ...], findings: Findings) -> None:
    """Twins that are copies, or not of the victim's kind."""
    own = [records[i] for i in scorer.roster.candidates]
    pairs = [f"{own[j].name} and {own[i].name}" for i, j, _ in dependent_candidates(scorer)]
    if pairs:
        rule = "a pool of twins that were made like the victim, none from another"
        said = "copies of each other" if len(own) > 3 else "copies of each other, or two of another kind"
        raise PoolError("generate", "pool", rule, f"{said}: {', '.join(pairs)}")
    twins = len(own) - 1
    if twins < 2:
        return
    found = kinship(scorer)
    shown = f"{found.ratio:.2f} times as far from its twins as they are from the others"
    few = twins < GOOD_TWINS
    tested = found.distance.p if twins >= 3 else 0.5  # of two distances nobody knows a spread
    if tested <= (APART_OF_FEW if few else APART) or (few and found.angle >= STRANGE):
        findings.limit(
            f"the twins are not of the victim's kind (it is {shown}, p {tested:.1g}; the directions from it "
            f"to them have a mean cosine of {found.angle:.2f}, where 0.5 is usual): {OTHER_KIND}"
        )
    elif tested <= DOUBTFUL:
        findings.warn(
            f"the twins may not be of the victim's kind (it is {shown}, p {tested:.1g}): {OTHER_KIND}"
        )
    elif found.angle < CENTRE:
        rule = "a pool of twins that were not made from the victim"
        raise PoolError("generate", "pool", rule, f"twins that all lie around the victim, {shown}")
    elif 1.0 - tested <= DOUBTFUL:
        findings.warn(
            f"the twins may have been made from the victim (it is {shown}, p {1 - tested:.1g}): "
            "copies of it are then called independent"
        )


def _check_closeness(scorer: LineageScorer, reference: Reference, findings: Findings) -> None:
    """Full trainings from random weights do not end beside each other; copies of one model do."""
    start = (reference.settings.get("init") or {}).get("start", "random")
    related = start != "random" or any(r.relation == "ancestor" for r in reference.records)
    if related or reference.settings["twins"]["kind"] == "branch" or len(scorer.roster.candidates) < 3:
        return
    found = closeness(scorer)
    if found < CLOSE:
        findings.limit(
            f"victim and twins lie {found:.2f} times as far from each other as the nearest homologous model "
            "lies from them, where models that were each trained from random weights have 0.6 or more: the "
            "twins were made from the victim, or all from one model. Reruns from a checkpoint and "
            "fine-tunings of public weights must be stated (docs/branches.md, uapfast pool --init)"
        )
    elif found < DOUBTFUL_SHARE:
        (findings.limit if found < SHARED else findings.warn)(
            f"victim and twins lie {found:.2f} times as far from each other as the nearest homologous model "
            "lies from them, where most that were each trained from random weights have 0.6 or more: they "
            "have something in common that no homologous model has, public weights or images. Honest models "
            "that share it may be accused too often: say where the victim began (uapfast pool --init), and "
            f"give {LEAST_RELATED} homologous models that began there, or some that were trained on as many "
            "of the owner's images (docs/fine_tuned.md)"
        )


def _declared(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """Homologous models whose parent is a homologous model of the pool are no innocents of their own."""
    honest = {r.name for r in records if r.relation == "homologous"}
    return tuple(
        replace(r, counted=False) if r.name in honest and r.parent in honest and r.parent != r.name else r
        for r in records
    )


def _degraded_instead(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """Degraded models in the places of their parents: one innocent still, as degraded ones answer."""
    counted = {r.name for r in records if r.relation == "homologous" and r.counted}
    instead: dict[str, str] = {}  # parent -> its degraded form
    for r in records:
        if r.kind.startswith(DEGRADED) and r.parent in counted:
            instead.setdefault(r.parent, r.name)
    swapped = {**dict.fromkeys(instead, False), **dict.fromkeys(instead.values(), True)}
    return tuple(replace(r, counted=swapped.get(r.name, r.counted)) for r in records)


def _count_once(
    scorer: LineageScorer, records: tuple[Record, ...], findings: Findings, trained: Collection[str]
) -> tuple[Record, ...]:
    """Of innocents that depend on each other the first counts, if enough are left; warned of."""
    first = {int(i): int(i) for i in scorer.roster.innocents}

    def root(row: int) -> int:
        while first[row] != row:
            row = first[row]
        return row

    for one, other, _ in dependent_innocents(scorer):
        low, high = sorted((root(one), root(other)))
        first[high] = low
    groups: dict[int, list[int]] = {}
    for row in first:
        groups.setdefault(root(row), []).append(row)
    variants = {row for group in groups.values() for row in group[1:]}
    shown = [" and ".join(records[i].name for i in group) for group in groups.values() if len(group) > 1]
    if shown:
        findings.warn(
            "homologous models that answer too much alike to be independent; only one counts (variants "
            f"of one network, or models that hardly learned): {'; '.join(shown)}. Train others longer, or on "
            "other images; if one was made from another, name that as its parent in the manifest",
            act=any(records[i].name not in trained for g in groups.values() if len(g) > 1 for i in g),
        )
    if len(first) - len(variants) < MIN_INNOCENTS:
        findings.limit(
            f"only {len(first) - len(variants)} of its {len(first)} homologous models are independent of "
            f"each other, not {MIN_INNOCENTS}: train others, on other images or of other architectures"
        )
        return records
    return tuple(replace(r, counted=False) if i in variants else r for i, r in enumerate(records))


def _check_ancestors(reference: Reference, findings: Findings) -> None:
    """What the victim was fine-tuned from must be independent of it."""
    for row, record in enumerate(reference.records):
        if record.relation != "ancestor":
            continue
        features = reference.statistic.features(reference.answers[row], False)
        outcome = decide(reference.statistic.scorer().assess(features), ALPHA)
        if outcome.decision != "independent":
            findings.limit(
                f"it finds the ancestor {record.name} {outcome.decision} (p {outcome.p:.1g}): the pool "
                "cannot separate what is the victim's own from what it has from its ancestor; make twins, "
                "and homologous models of its architecture, from the ancestor (uapfast pool --init)"
            )


__all__ = ["check_accuracy", "check_confidence", "check_vouched", "examine_pool"]
