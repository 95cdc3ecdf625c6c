"""``generate``: from a victim and its surrogate pool to a reference (white-box, once per victim)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uapfast._version import versions
from uapfast.config import GenerateConfig
from uapfast.data import Images
from uapfast.errors import ModelError, SuspectError
from uapfast.method import encoder as paper
from uapfast.method.fingerprint import (
    QueryPlan,
    ask,
    kept_classes,
    reduce_classes,
    spread_uaps,
    to_grid,
    top_classes,
)
from uapfast.method.sequential import too_few
from uapfast.method.statistic import STATISTICS
from uapfast.models.model import Model, as_model
from uapfast.models.state import TRIED
from uapfast.pool.degraded import with_degraded
from uapfast.pool.manifest import load_pool
from uapfast.pool.pool import Pool, check_victim
from uapfast.reference import Record, Reference
from uapfast.types import Progress
from uapfast.verbs.candidates import make_uaps
from uapfast.verbs.entries import (
    RecordedModel,
    candidates_of,
    check_pool,
    check_steady,
    inexact,
    moved_by,
    ordered,
    own_rows,
    records_of,
)
from uapfast.verbs.findings import Findings
from uapfast.verbs.images import check_labels, check_points, owners_images
from uapfast.verbs.log import QueryLog, choose_logged, read_log
from uapfast.verbs.origin_checks import check_origin
from uapfast.verbs.points import select_points
from uapfast.verbs.pool_checks import (
    check_accuracy,
    check_confidence,
    check_vouched,
    examine_pool,
)
from uapfast.verbs.probes import choose_probes

logger = logging.getLogger(__name__)
PER_POINT = 3  # images looked at for every query point wanted, if there are so many
UAP_WORK = 10_000  # images that one UAP is counted as in progress
LOOKED_AT = 6_000  # images that points are chosen from, at least, if there are so many


def generate(
    victim: Any,
    images: Any,
    labels: Any = None,
    *,
    pool: Pool | str | os.PathLike[str],
    config: GenerateConfig | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    vouched: Mapping[str, str] | None = None,
    batch_size: int | None = None,
    log: Any = None,
    log_blind: bool | None = None,
) -> Reference:
    """Make the reference of one victim (Peng et al., CVPR 2022, extended as docs/method.md says).

    Args:
        victim: an ``nn.Module`` (images in 0..1 to logits) or a :class:`uapfast.models.model.Model`.
        images: the owner's images ``[N,C,H,W]`` (or ``[N,H,W]``), uint8 or float in 0..1, torch, numpy, or
            the ``images`` of a :class:`uapfast.data.Dataset`. They are kept as given and converted to floats
            in small batches. Images of the task that the victim was not trained on are best.
        labels: ``[N]`` integers, or None. They are used only to check that every model of the pool knows the
            task.
        pool: twins, surrogates and homologous models (docs/method.md), or the path of a manifest.
        config: settings; every random choice follows ``config.seed``.
        device: device of victim and pool.
        progress: called as ``progress(done, total, what)``.
        vouched: homologous models that look like copies, by name, with the reason why they are honest. Every
            verdict repeats this as a warning.
        batch_size: images per forward pass, at most; None chooses by image size
            (:func:`uapfast.models.batches.most_at_once`).
        log: images that a suspect's account sent to the victim, of the same shape as ``images``. They fill up
            to half of the views (docs/verdicts.md, section 9).
        log_blind: True if the owner states that the victim's answers did not influence which images these
            are; None if unknown. The log is used only if True.

    Returns:
        The reference, complete and immutable. It is tested when it is made (docs/verdicts.md). Findings are
        raised as ``PoolWarning`` and stored in ``settings["warnings"]``, ``settings["limits"]`` (with any
        limit the reference does not convict) and ``settings["trials"]``.

    Raises:
        DataError: images, labels or log have the wrong shape, range or number.
        ModelError: the victim's weights are not available, or its answers cannot be used.
        PoolError: the pool has too few models, belongs to another victim, has copies of the victim among its
            innocents or twins, or has models that do not know the task. The message says what to do.
        FoolingRateError: with ``config.strict``, if a UAP stays below ``config.min_fooling``.

    Example:
        >>> pool = uapfast.Pool.from_models(twins=twins, homologous=honest_models)
        >>> config = uapfast.GenerateConfig(points=20, views=5, ray=(0.0,))
        >>> reference = uapfast.generate(victim, unseen_images, pool=pool, config=config)
        >>> reference.candidates[:3]
        ['victim', 'twin-00', 'twin-01']
        >>> reference.save("victim.uapref")
    """
    report = progress or (lambda done, total, what: None)
    x = owners_images("generate", images)
    config = (config or GenerateConfig()).settled(len(x))
    check_labels(labels, len(x))
    white = _white_box(victim, device)
    pool = _pool_of(pool, white, config, device)
    models, findings, vouched = ordered(white, pool), Findings(), dict(vouched or {})
    models = [(record, model.with_batch_size(batch_size)) for record, model in models]
    logger.info("generate: %d models, %d images", len(models), len(x))
    check_pool(models, config, findings)
    _check_models(pool, models, x, vouched, findings)
    looked_at = _looked_at(len(x), config)
    x = x.subset(looked_at)
    logged = _logged(log, log_blind, x, models, config, findings)
    counter = _Counter(report, _work(models, config, len(x) + len(logged.images)))
    clean, classes = _clean_answers(models, x, config, counter)
    known = None if labels is None else torch.as_tensor(labels)[looked_at].to("cpu", torch.int64)
    _check_answers(clean, known, models, config, findings, pool.trained)
    points, probes = _choose(clean, x, models, logged.own(config))
    check_points(points, pool.seen, findings)
    points = _with_logged(points, logged, models, config, counter)
    uaps, uap_report = make_uaps(models, _uap_images(x, models, config), config, counter.uap)
    _note_fooling(uap_report, config, findings)
    plan = _plan(points, uaps, config)
    answers = _ask_all(models, plan, classes, counter)
    records = records_of(models, config)
    keep = kept_classes(answers[own_rows(records)])
    reduced = reduce_classes(answers, keep)
    top = top_classes(answers, keep)
    settings = {
        "config": config.to_dict(),
        "uap": uap_report,
        "victim_sha256": white.sha256,
        "preprocessing": white.asked_with,
        **_told(pool),
        "suspect_side": {"exact": inexact(models, config) is None, "why": inexact(models, config)},
        "versions": versions(),
        "log": logged.told,
    }
    weights = _train_paper(reduced, records, config)
    reference = Reference(
        plan, records, reduced, top, keep, classes, config.encoder, weights, settings, *probes
    )
    logger.info("generate: done, %d queries", plan.queries)
    return _examined(reference, vouched, findings, pool.trained)


def _check_models(
    pool: Pool, models: list[RecordedModel], x: Images, vouched: dict[str, str], findings: Findings
) -> None:
    check_vouched(vouched, models, findings)
    check_origin(pool, [record for record, _ in models], findings)
    check_steady(models, x[:TRIED], findings)


def _pool_of(
    given: Pool | str | os.PathLike[str], victim: Model, config: GenerateConfig, device: str
) -> Pool:
    """The pool, if it is that of the victim; with degraded innocents where its twins are branches."""
    pool = given if isinstance(given, Pool) else load_pool(given, device=device)
    check_victim(pool, victim)
    by_twins = STATISTICS[config.encoder].by_twins
    return with_degraded(pool, config.seed, device) if by_twins else pool


def _told(pool: Pool) -> dict[str, Any]:
    """What a reference says of its pool."""
    return {
        "init": None if pool.init is None else dict(pool.init),
        "twins": pool.twins_told,
        "pool_manifest_sha256": pool.manifest_sha256,
    }


def _white_box(victim: Any, device: str) -> Model:
    white = as_model(victim, device=device, name="victim")
    if white.module is None:
        rule = "an nn.Module (the owner's side is white-box)"
        raise ModelError("generate", "victim", rule, type(victim).__name__)
    return white


def _logged(
    log: Any,
    blind: bool | None,
    own: Images,
    models: list[RecordedModel],
    config: GenerateConfig,
    findings: Findings,
) -> QueryLog:
    twins = len(candidates_of(models, config)) - 1
    return read_log(None if log is None else owners_images("log", log), blind, own, config, twins, findings)


def _check_answers(
    clean: Tensor,
    labels: Tensor | None,
    models: list[RecordedModel],
    config: GenerateConfig,
    findings: Findings,
    trained: frozenset[str],
) -> None:
    if labels is not None:
        check_accuracy(clean, labels, models, findings, trained)
    if STATISTICS[config.encoder].by_twins:
        check_confidence(clean, models, findings)


def _uap_images(x: Images, models: list[RecordedModel], config: GenerateConfig) -> Tensor:
    """The images that UAPs are made with; none where none is made."""
    most = config.uap_images if moved_by(models, config) else 0
    return x[_subset(len(x), most, config.seed + 1)]


def _note_fooling(report: list[dict[str, Any]], config: GenerateConfig, findings: Findings) -> None:
    """What was warned of when the victim's UAP was made."""
    if not report:
        return
    rate = report[0]["fooling_rate"]
    if rate < config.min_fooling:
        findings.note(f"the victim's UAP fools {rate:.1%} of the images, less than {config.min_fooling:.1%}")


def _examined(
    reference: Reference, vouched: dict[str, str], findings: Findings, trained: frozenset[str]
) -> Reference:
    """The reference with what its tests have found."""
    if reference.statistic.by_twins:
        reference = examine_pool(reference, vouched, findings, trained)
    few = too_few(reference.plan.views)
    if few is not None:
        findings.limit(f"{few} (generate --views)")
    found = {"warnings": findings.warnings, "limits": findings.limits, "vouched": vouched}
    return replace(reference, settings=reference.settings | found, _cache={})


def _asked_first(config: GenerateConfig) -> tuple[str, ...]:
    """Relations of the models that answer the owner's images."""
    by_twins = STATISTICS[config.encoder].by_twins
    return ("victim", "twin", "homologous") if by_twins else ("victim",)


def _work(models: list[RecordedModel], config: GenerateConfig, images: int) -> int:
    """Images that are asked in all, a UAP's counted as it may take them."""
    assert config.points is not None and config.ray is not None
    first = sum(record.relation in _asked_first(config) for record, _ in models)
    queries = config.points * config.views * len(config.ray)
    return first * images + len(models) * queries + len(moved_by(models, config)) * UAP_WORK


class _Counter:
    """Progress over a known number of images."""

    def __init__(self, report: Progress, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def through(self, chunks: Iterable[Tensor], what: str) -> Iterator[Tensor]:
        """The same chunks; each counts when the next one is wanted."""
        logger.debug("generate: %s (%d of %d)", what, self.done, self.total)
        for chunk in chunks:
            yield chunk
            self._add(len(chunk), what)

    def uap(self, what: str) -> None:
        """One UAP is begun."""
        logger.debug("generate: %s (%d of %d)", what, self.done, self.total)
        self._add(UAP_WORK, what)

    def _add(self, count: int, what: str) -> None:
        self.done += count
        self.report(min(self.done, self.total), self.total, what)


def _subset(total: int, most: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:most].sort().values


def _looked_at(total: int, config: GenerateConfig) -> Tensor:
    """Rows of the images that points are chosen from."""
    assert config.points is not None
    wanted = max(config.uap_images, PER_POINT * config.points * config.views, LOOKED_AT)
    return _subset(total, wanted, config.seed)


@contextlib.contextmanager
def _of_the_pool(record: Record) -> Iterator[None]:
    """Unusable answers of a pool model are the owner's error, not a suspect's verdict."""
    try:
        yield
    except SuspectError as exc:
        raise ModelError("generate", f"pool model {record.name}", exc.rule, exc.got) from exc


# -- queries ---------------------------------------------------------------------------------------
def _clean_answers(
    models: list[RecordedModel], x: Images, config: GenerateConfig, counter: _Counter
) -> tuple[Tensor, int]:
    """Probabilities ``[M,N,K]`` of candidates and innocents on the owner's images, and K."""
    out = []
    classes: int | None = None
    for record, model in models:
        if record.relation not in _asked_first(config):
            continue
        with _of_the_pool(record):
            chunks = counter.through(x.chunks(), f"answers of {record.name}")
            answer = model.answers_to(chunks, classes, len(x)).probabilities()
        classes = answer.shape[1]
        out.append(answer)
    if classes is None or classes < 2:
        raise ModelError("generate", "victim", "a classifier of at least 2 classes", classes)
    return torch.stack(out), classes


def _choose(
    clean: Tensor, x: Images, models: list[RecordedModel], config: GenerateConfig
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Query points ``[Q,C,H,W]``, and probes with their labels from the other images."""
    assert config.points is not None
    chosen = select_points(clean, models, config).reshape(-1)
    points = x.kept(torch.from_numpy(chosen))
    if config.wire_safe and points.dtype != torch.uint8:
        points = to_grid(points)
    rest = np.setdiff1d(np.arange(len(x)), chosen)  # after the points: no innocent has a say in those
    probes = choose_probes(clean[:, rest], x[:1], len(x)) if len(rest) else None
    if probes is None:
        return points, (None, None)
    return points, (x.kept(torch.from_numpy(rest[probes[0]])), probes[1])


def _with_logged(
    points: Tensor, logged: QueryLog, models: list[RecordedModel], config: GenerateConfig, counter: _Counter
) -> Tensor:
    """Query points with those out of the log before them."""
    if not logged.views:
        return points
    clean, _ = _clean_answers(models, logged.images, config, counter)
    rows = choose_logged(partial(select_points, clean, models, replace(config, views=logged.views)))
    return logged.before(points, rows, config.wire_safe)


def _plan(points: Tensor, uaps: Tensor, config: GenerateConfig) -> QueryPlan:
    assert config.points is not None and config.ray is not None
    assign = spread_uaps(config.points, config.views, uaps, config.seed)
    assign = assign.expand(len(config.ray), -1).contiguous()
    return QueryPlan(points, uaps, assign, config.ray, config.views, config.wire_safe)


def _ask_all(models: list[RecordedModel], plan: QueryPlan, classes: int, counter: _Counter) -> Tensor:
    out = []
    for record, model in models:
        with _of_the_pool(record):
            chunks = counter.through(plan.chunks(), f"fingerprint of {record.name}")
            answers, kind = ask(model, plan, classes, chunks)
        if kind == "labels":
            raise ModelError(
                "generate", f"pool model {record.name}", "one that answers with logits", "labels"
            )
        out.append(answers)
    return torch.stack(out)


# -- encoders ----------------------------------------------------------------------------------------
def _train_paper(reduced: Tensor, records: tuple[Record, ...], config: GenerateConfig) -> dict[str, Tensor]:
    """Weights of the paper's network; none for an encoder that trains nothing."""
    if STATISTICS[config.encoder].shares == 1:
        return {}
    rows = [i for i, r in enumerate(records) if r.trains_encoder]
    fingerprints = reduced[rows].transpose(-2, -3).flatten(-3)
    descends = [records[i].relation == "victim" or records[i].candidate == records[0].name for i in rows]
    network = paper.train_encoder(fingerprints, torch.tensor(descends, dtype=torch.int64), config.seed)
    return {k: v.detach().clone() for k, v in network.state_dict().items()}
