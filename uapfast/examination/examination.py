"""One suspect before one reference: what it is asked next, and what its answers come to.

``verify`` and ``screen`` are two ways to run the same examination: all views at once, or look by look. What
is decided, and what is said about it, stands here alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import SuspectError, UnavailableError
from uapfast.examination.classes import agreement_by_half, checked_order, reordered
from uapfast.examination.design import Design
from uapfast.examination.logged import mostly_logged
from uapfast.examination.remarks import remarks, told
from uapfast.method.consensus import Range, class_order, says_nothing
from uapfast.method.decision import Assessment, decide, view_level_p
from uapfast.method.fingerprint import probabilities_of, reduce_classes, top_classes
from uapfast.method.sequential import Stop, Stopper, too_few
from uapfast.method.standing import assessment
from uapfast.models.answers import Answers, detect, joint_form, label_rows
from uapfast.models.forms import LABELS, WHOLE
from uapfast.pool.twins import question
from uapfast.types import HOW_MADE, Relation, Verdict

ADVICE = "check its preprocessing (range, mean and std, size), its class order and the order of its rows"
ELSE = (
    "what else could explain it: training on the victim's images in the victim's order (the same seed), or a "
    "common ancestor that the pool does not know; rule both out before you accuse (docs/verdicts.md)"
)
LEAST_ANSWERED = 0.5  # share of the queries; with fewer answers nobody is cleared
HELD_BACK = 0.02  # p of the labels alone at or below which their scores do not acquit
ROUNDED = 4  # digits of answers that are hashed, so that a device's last bits do not change the hash


class Examination:
    """Ask what :meth:`due` says, hand the answers to :meth:`take`, until :attr:`open` is false. One thread.

    Args:
        design: reference, budget and looks.
        alpha: level of a conviction on each side.
        name: of the suspect, for errors.
        output: what it answers with, or ``auto``.
        sha256: of its tensors, if it has any.
        order: for each class of the reference, the suspect's class that means it (it may have more); None if
            they are the same.
        notes: what a reader has to know of how it is asked; repeated among the reasons.

    Attributes:
        views: asked so far.
        queries: answers taken so far, probes included.
        error: why its answers cannot be used.
    """

    def __init__(
        self,
        design: Design,
        *,
        alpha: float,
        name: str = "suspect",
        output: str = "auto",
        sha256: str | None = None,
        order: Sequence[int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.design, self.alpha, self.name = design, alpha, name
        self.sha256, self.notes = sha256, list(notes)
        self.views = self.queries = 0
        self.error: SuspectError | None = None
        self.agreement: float | None = None
        self._lost: UnavailableError | None = None
        self._output = output
        self._first: Answers | None = None
        self._given: list[Answers] = []  # to views, before classes are renamed
        self._form = WHOLE
        self._order = None if order is None else checked_order(order, design.reference.classes)
        self._stage, self._probing, self._ended = 0, False, False
        self._features: list[Tensor] = []
        self._tops: list[Tensor] = []  # top classes int64 [k,B,n] of each stage, -1 for no answer
        self._stopper: Stopper | None = None
        self._stop: Stop | None = None
        self._p_view: float | None = None
        self._doubt: str | None = None  # why nothing can be concluded
        self._answered = 1.0  # share of the queries
        self._range: Range = "usual"  # where its agreement lies
        self._odd: str | None = None  # what is odd about it, and what may be the cause
        self._hash = hashlib.sha256()

    @property
    def renames(self) -> bool:
        """Whether the suspect's classes are others than the reference's."""
        return self._order is not None

    @property
    def assessed(self) -> Assessment | None:
        """What the answers so far are compared with, and how they stand; None before any was scored."""
        if not self._features:
            return None
        return self.design.mode(self._form).scorer.assess(torch.cat(self._features))

    @property
    def failure(self) -> SuspectError | UnavailableError | None:
        """What ended it before its time: unusable answers, or none."""
        return self.error or self._lost

    # -- asking ------------------------------------------------------------------------------------
    @property
    def open(self) -> bool:
        """Whether more is asked."""
        return not self._ended

    def due(self) -> tuple[range | None, int]:
        """What is asked next: views of the plan, or None for the reference's probes; and how many images."""
        if self._probing:
            probes = self.design.reference.probes
            return None, 0 if probes is None else len(probes)
        part = self.design.stage(self._stage)
        return part, self.design.queries(len(part))

    def images(self) -> Iterator[Tensor]:
        """The images that are due, float32 ``[n,C,H,W]`` in 0..1."""
        part, _ = self.due()
        reference = self.design.reference
        if part is None:
            assert reference.probe_images is not None
            yield reference.probe_images
            return
        yield from reference.plan.chunks(part)

    def take(self, values: Tensor | Answers) -> None:
        """Take the answers to what was due, as the suspect gave them.

        Unusable answers end the examination with :attr:`error`.
        """
        try:
            part, count = self.due()
            answers = self._read(values, count)
            self.queries += count
            if part is None:
                self._probed(answers)
            else:
                self._look(answers, part)
        except SuspectError as exc:
            self.fail(exc)

    def fail(self, error: SuspectError) -> None:
        """End it: the suspect's answers cannot be had, or not be used."""
        self.error, self._ended = error, True

    def lose(self, error: UnavailableError) -> None:
        """End it: the suspect does not answer now, or may not be asked more."""
        self._lost, self._ended = error, True

    def _read(self, values: Tensor | Answers, count: int) -> Answers:
        if not isinstance(values, Answers):
            classes = None if self._order is not None else self.design.reference.classes
            output, first = self._output, self._first
            values = detect(values, self.name, rows=count, classes=classes, output=output, like=first)
        if self._first is None:  # how the first answers are read holds for all
            self._first = values
        if not self._probing and (not self._given or values.kind == "probabilities"):
            self._given.append(values)  # of labels and logits the first tell the form
        if not self._probing and self.sha256 is None:
            # as given: what is computed of them (softmax) differs in last bits between machines, and an audit
            # on another one would not find the stated hash
            shown = values.values if values.unfilled is None else values.unfilled
            self._hash.update((np.round(shown.numpy().astype(np.float64), ROUNDED) + 0.0).tobytes())
        return values if self._order is None else reordered(values, self._order)

    # -- looking -----------------------------------------------------------------------------------
    def _look(self, answers: Answers, part: range) -> None:
        reference, plan = self.design.reference, self.design.reference.plan
        full = probabilities_of(answers).reshape(len(part), plan.blocks, plan.per_view, -1)
        keep = None if reference.keep is None else reference.keep[part.start : part.stop]
        tops, labels = top_classes(full, keep), answers.kind == "labels"
        reduced = self._rows(tops) if labels else reduce_classes(full, keep)
        self.views = part.stop
        self._tops.append(tops)
        if self._stage == 0 and says_nothing(answers.values):
            self._doubt = "it gives the same answer to every query, which says nothing about its descent"
            self._ended = True
            return
        self._features.append(self._features_of(reduced, labels, part.start))
        self._form = joint_form(self._given)  # by all so far: the last look says what verify says
        self._stand(*self.design.mode(self._form).scorer.scores(torch.cat(self._features)))
        if self._stop is not None:
            self._conclude()
        self._stage += 1

    def _rows(self, tops: Tensor) -> Tensor:
        """One-hot rows of top classes."""
        return label_rows(tops, self.design.reference.answers.shape[-1])

    def _features_of(self, shown: Tensor, labels: bool, first: int) -> Tensor:
        """Features of reduced answers to some views, where suspects are scored."""
        return self.design.reference.statistic.features(shown.to(self.design.place), labels, first)

    def _stand(self, own: NDArray[np.float64], rest: NDArray[np.float64]) -> None:
        mode = self.design.mode(self._form)
        if mode.background is None:
            found = assessment(own, rest, twins=mode.scorer.has_twins)
            self._stop = Stop(decide(found, self.alpha), self.views, found.similarity)
        else:
            self._stopper = self._stopper or Stopper(self.design.looks, mode.background, self.alpha)
            self._stopper.background = mode.background
            self._stop = self._stopper.look(own, rest)
        if self._stop is not None:
            self._p_view = view_level_p(own[:, 0], rest[:, :, 0])

    def _conclude(self) -> None:
        """After the last look: whether the answers are such as a model that was asked rightly gives."""
        assert self._stop is not None
        reference, labels = self.design.reference, self._labels()
        consensus = reference.consensus
        self.agreement = consensus.agreement(labels)
        self._range = consensus.range_of(self.agreement, labels.size)
        self._ended = True
        self._answered = float((labels >= 0).mean())
        if self._answered < LEAST_ANSWERED:
            self._odd = f"it answers only {self._answered:.0%} of the queries: too few to clear it"
            return
        if self._range == "usual":
            if self._stop.outcome.decision == "independent":
                self._odd = self._by_labels()
            return
        others = f"each of these models with {consensus.least:.0%} or more"
        if self._range == "weak":
            others = f"nearly all of these models with {consensus.usual:.0%} or more"
        share = self._agrees()
        self._odd = f"{share} ({others}): {ADVICE}"
        if self._stop.outcome.decision == "piracy":
            return
        moved = consensus.shift(labels)
        if moved is not None:
            place = f"{abs(moved)} too {'late' if moved > 0 else 'early'}"
            self._odd = f"{share} ({others}): its rows are {place}"
            return
        self._probing = reference.probes is not None and self._order is None
        self._ended = not self._probing

    def _agrees(self) -> str:
        return f"it gives the label that most pool models give for {self.agreement:.0%} of the queries"

    def _labels(self) -> NDArray[np.int64]:
        """Labels ``[k,n]`` of the clean queries so far, columns of the reduced classes; -1 for no answer."""
        return torch.cat(self._tops)[:, self.design.reference.clean].numpy()

    def _by_labels(self) -> str | None:
        """What its labels alone say against it, if its scores acquit it; asked once all views are there.

        Labels that are disguised as scores (smoothed, saturated, with a random rest) say less than the labels
        themselves. Holding an acquittal back accuses nobody.
        """
        assert self._first is not None
        design, reference = self.design, self.design.reference
        if self._first.kind == "labels" or self.views < design.views or not reference.statistic.partial:
            return None
        scorer = design.mode(LABELS).scorer
        own, rest = scorer.scores(self._features_of(self._rows(torch.cat(self._tops)), True, 0))
        outcome = decide(assessment(own, rest, twins=scorer.has_twins), self.alpha)
        if outcome.p > HELD_BACK or outcome.rank not in (None, 1):
            return None
        return (
            f"its labels alone give p {outcome.p:.3g}, and its {self._first.kind} do not show it: they may "
            "be labels in another form (use output labels)"
        )

    def _probed(self, answers: Answers) -> None:
        """Whether other names of the classes would explain the answers; learnt where nothing is scored."""
        reference, labels = self.design.reference, self._labels()
        assert reference.probe_labels is not None
        self._ended = True
        given, wanted = answers.labels().numpy(), reference.probe_labels.numpy()
        order = class_order(given, wanted, reference.classes)
        ours = np.argsort(order)  # suspect's class -> ours
        if reference.keep is None:
            after = reference.consensus.agreement(np.where(labels < 0, labels, ours[labels]))
        else:  # labels that were summed up cannot be renamed: some probes learn, the others check
            after = agreement_by_half(given, wanted, reference.classes)
        if reference.consensus.range_of(after, labels.size) == "usual":
            named = ",".join(map(str, order))
            self._odd = f"{self._agrees()}, and for {after:.0%} by class order {named}: use that order"

    # -- what it comes to --------------------------------------------------------------------------
    def verdict(self) -> Verdict:
        """The verdict of an examination that has ended."""
        verdict = self._concluded()
        if self.sha256 is None or self.sha256 != self.design.reference.settings.get("victim_sha256"):
            return verdict
        own = (
            "its tensors are the victim's own, byte for byte (SHA-256); what follows is what its answers show"
        )
        if verdict.decision != "independent":
            return replace(verdict, reasons=(own, *verdict.reasons))
        other = f"{own}: in another network, or asked with another preprocessing, they hide it"
        return replace(verdict, decision="inconclusive", reasons=(other, *verdict.reasons))

    def _concluded(self) -> Verdict:
        blank = self._blank()
        if self.error is not None:
            return replace(blank, decision="invalid", reasons=(str(self.error), *self._remarks()))
        if self._lost is not None:
            return replace(blank, decision="unavailable", reasons=(str(self._lost), *self._remarks()))
        if self._doubt is not None:
            return replace(blank, decision="inconclusive", reasons=(self._doubt, *self._remarks()))
        assert self._stop is not None
        if self._range == "below" and self._stop.outcome.decision != "piracy":
            return replace(blank, decision="invalid", reasons=(str(self._odd), *self._remarks()))
        return self._judged(blank, self._stop)

    def _judged(self, blank: Verdict, stop: Stop) -> Verdict:
        outcome, reference = stop.outcome, self.design.reference
        candidate, suspect, joint = outcome.candidate, outcome.suspect, outcome.joint
        reasons = [*outcome.reasons, *reference.caveats]
        if candidate is not None:
            reasons.append(question(reference.settings.get("twins", {})))
        decision, limits = outcome.decision, reference.limits
        if limits and decision == "piracy":
            decision = "inconclusive"
            reasons = [f"this reference may not convict: {limits[0]}", *limits[1:], *reasons]
        few = too_few(round(self._answered * self.views)) or mostly_logged(
            reference.statistic.pool.logged, self.views
        )
        if decision == "piracy" and few is not None:
            decision, reasons = "inconclusive", [few, *reasons]
        relation: Relation | None = None
        if decision == "piracy":
            told = self.design.tell(torch.cat(self._features).cpu().numpy(), self._form)
            relation = told.relation
            reasons += [f"{HOW_MADE}{told.relation}: {told.why}", ELSE]
        if self._odd is not None:
            # a copy that was changed much may answer so as well; an honest model is not cleared by it
            reasons.insert(0, self._odd)
            decision = "inconclusive" if decision == "independent" else decision
        return replace(
            blank,
            decision=decision,
            p_value=outcome.p,
            p_is_bound=outcome.bound,
            p_candidate=candidate.p if candidate else None,
            p_candidate_floor=candidate.floor if candidate else None,
            p_candidate_exact=candidate.exact if candidate else None,
            p_suspect=suspect.p,
            p_suspect_floor=suspect.floor,
            p_suspect_exact=suspect.exact,
            p_joint=joint.p if joint else None,
            p_joint_floor=joint.floor if joint else None,
            p_joint_exact=joint.exact if joint else None,
            p_view=self._p_view,
            similarity=stop.similarity,
            z=outcome.z,
            z_pool=suspect.z,
            rank=outcome.rank,
            reasons=(*reasons, *self._remarks()),
            relation=relation,
        )

    def _remarks(self) -> list[str]:
        return remarks(self.design.reference, self.notes, self._first, self._order, self._form, self.alpha)

    def _blank(self) -> Verdict:
        """Everything that does not depend on what was decided."""
        reference = self.design.reference
        none: dict[str, Any] = dict.fromkeys(
            (
                "p_value p_is_bound p_candidate p_candidate_floor p_candidate_exact p_suspect "
                "p_suspect_floor p_suspect_exact p_joint p_joint_floor p_joint_exact p_view similarity z "
                "z_pool rank"
            ).split()
        )
        return Verdict(
            **none,
            decision="invalid",
            agreement=self.agreement,
            agreement_least=reference.consensus.least,
            views_used=self.views,
            queries_used=self.queries,
            alpha=self.alpha,
            reasons=(),
            output=self._first.kind if self._first is not None else None,
            reference_sha256=reference.sha256,
            suspect_sha256=self.sha256 or (self._hash.hexdigest() if self.views else None),
            settings=told(reference),
        )


__all__ = ["Examination"]
