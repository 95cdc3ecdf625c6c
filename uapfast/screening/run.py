"""``screen``: references and suspects to rows and a table."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uapfast.config import ALPHA, TIMEOUT, Precision, check
from uapfast.errors import InputError, PoolWarning, UapfastError
from uapfast.files import require_writable
from uapfast.models.preprocessing import checked_channel_order
from uapfast.models.registry import resolve_arch
from uapfast.screening.arguments import check_settings, named_references, preprocessed, store_path
from uapfast.screening.asking.panel import Panel, Settings
from uapfast.screening.asking.records import record_folder
from uapfast.screening.engine.registry import JobResult, engine
from uapfast.screening.listing.collection import Skipped
from uapfast.screening.listing.entry import Defaults, Entry, as_specs
from uapfast.screening.listing.sources import as_entries
from uapfast.screening.table.export import Summary, export, finished_rows, summarise
from uapfast.screening.table.rows import Row
from uapfast.screening.table.store import Store
from uapfast.types import Progress

log = logging.getLogger(__name__)
COMMIT_ROWS, COMMIT_SECONDS = 512, 0.5


def screen(
    references: Any,
    suspects: Any,
    *,
    arch: str | Sequence[str] | None = None,
    key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channel_order: str | None = None,
    class_order: Sequence[int] | None = None,
    out: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    resume: bool = True,
    alpha: float = ALPHA,
    fdr: float = 0.05,
    queries: int | None = None,
    early: bool = True,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    device: str = "cpu",
    timeout: float = TIMEOUT,
    precision: Precision = "float32",
    batch_size: int | None = None,
    endpoints: bool = False,
    conduct: Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Screening:
    """Query many suspects of any kind for one reference or several, and give one row for each.

    Args:
        references: a reference or its file, several of these, or a mapping from names to them.
        suspects: a manifest, a folder, or an iterable of :class:`Entry`, files, folders and addresses
            (docs/screening.md). It is read once, and not held in memory.
        arch: SPEC of weights files without their own, or several SPECs: the one whose names and shapes a file
            has is used.
        key: which of several sets of weights in a file, for suspects without their own.
        mean: per channel; images in 0..1 are normalised by (x - mean) / std before the network. For weights
            and ONNX files without their own.
        std: per channel.
        channel_order: ``rgb`` or ``bgr``: how networks take their channels; for the same suspects.
        class_order: for each class of the references, the suspects' class that means the same; for suspects
            without their own.
        out: path of the table (Parquet), which is written when all rows are there.
        store: the SQLite file from which a stopped run is continued; by default ``out`` with ``.store``, or a
            temporary one without ``out``.
        resume: keep the rows of the store.
        alpha: significance level of each side, in (0, 0.5).
        fdr: a conviction needs a q-value at or below it, in (0, 1].
        queries: answers asked of a suspect for one reference, at most; None for all. Fewer than five views
            convict nobody.
        early: stop querying a suspect as soon as its answers settle the decision; False gives the numbers of
            ``verify``.
        engine: ``local`` or ``ray``.
        address: address of a cluster.
        workers: suspects queried at a time; None for one per core.
        device: device of the networks.
        timeout: seconds for reading a suspect, and for querying it. A slower one is ``invalid``
            (``TimeLimitError``) and the run goes on. Infinite for no limit.
        precision: precision of the networks; ``bf16`` is faster on a GPU, and rounds answers to 3 digits.
        batch_size: queries per forward pass, at most; None chooses by image size
            (:func:`uapfast.models.batches.most_at_once`).
        endpoints: True to allow queries to the hosts that a manifest names.
        conduct: for each endpoint: ``budget``, ``rate``, ``cache`` and the like, as
            :func:`uapfast.suspects.http.open_http` takes them. Their headers may use only the environment
            variables in ``secrets``.
        record: folder for a record of every suspect and reference that is asked in this run, named after the
            suspect (docs/recorded.md). Suspects with the same network and tensors are asked once. Local
            engine only. Existing records stay, except those of suspects that a resumed run asks again.
        overwrite: replace existing records.
        progress: called as ``progress(done, total, what)``.

    Returns:
        A :class:`Screening`: iterate over it for rows as they come, or call ``finish``.

    Raises:
        InputError: a bad argument.
        ModelError: ``arch`` is no architecture.
        ManifestError: a bad manifest.
        ReferenceFileError: a reference that cannot be read.
        MissingDependency: the engine needs an extra that is not installed.
        ClusterError: while it runs, if the cluster cannot be reached or used (``ray``).
        StorageError: store or table cannot be written, or another process uses the store.
        TimeLimitError: while it runs, if too many suspects never end. What is finished is kept.

    Example:
        >>> arch = "uapfast:mlp-small?size=8"
        >>> rows = uapfast.screen("victim.uapref", ["copy.safetensors", "honest.safetensors"], arch=arch)
        >>> sorted((row.name, row.decision) for row in rows)
        [('copy.safetensors', 'piracy'), ('honest.safetensors', 'independent')]
    """
    check_settings(alpha, fdr, queries, workers, timeout, precision, batch_size)
    check(record is None or engine == "local", "screen", "record", "left out with another engine", engine)
    place, table = store_path(store, out), _table(out)
    settings = Settings(
        *(float(alpha), queries, bool(early), device, workers, precision, float(timeout)),
        conduct=tuple((k, v) for k, v in (conduct or {}).items() if v is not None),
        batch_size=batch_size,
        record=record_folder(record, overwrite, place if resume else None),
    )
    statistics = _floats(mean), _floats(std), checked_channel_order(channel_order, "screen")
    defaults = Defaults(as_specs(arch), *statistics, key, _whole(class_order))
    for spec in defaults.arch:
        resolve_arch(spec)
    run = _Run(
        # a cluster's device need not be here
        Panel.of(named_references(references), settings, None if engine == "local" else "cpu"),
        _engine(engine),
        address,
        table,
        place,
        resume,
        float(fdr),
        progress,
        Skipped(),
    )
    return Screening(run, preprocessed(as_entries(suspects, defaults, run.skipped, endpoints), run.panel))


_engine = engine


def _table(out: str | os.PathLike[str] | None) -> Path | None:
    if out is not None:
        require_writable(out, "table")
    return None if out is None else Path(out)


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def _whole(values: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(map(int, values))


@dataclass(frozen=True)
class _Run:
    """What a screen was told."""

    panel: Panel
    engine: Any
    address: str | None
    out: Path | None
    store: Path | None
    resume: bool
    fdr: float
    progress: Progress | None
    skipped: Skipped


class Screening:
    """A screen under way. Iterate once: rows come as suspects are finished, after they are stored.

    Rows that come have no q-value and no population columns yet, since these need all rows; the table and
    :meth:`rows` have them. A row comes once more where a network turned out to answer otherwise than a new
    one (:mod:`uapfast.suspects.networks.skeletons`); the later one counts.

    Attributes:
        summary: what it came to, once it is finished.
    """

    def __init__(self, run: _Run, suspects: Iterator[Entry]) -> None:
        self._run = run
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._entered = self._closed = False
        self.summary: Summary | None = None
        self._again = False
        path = run.store
        if path is None:
            self._folder = tempfile.TemporaryDirectory(prefix="uapfast-")
            path = Path(self._folder.name) / "store"
        self._store = Store(path, run.panel.keys(), resume=run.resume)
        try:
            self.total = self._store.set_plan(suspects)
            self._refuted = self._store.refuted()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Row]:
        """Rows of the suspects that had none yet, as they come; then the table is written.

        Raises:
            InputError: the screen is closed.
        """
        self._require_open("iterated over")
        batch: list[JobResult] = []
        fresh: dict[tuple[str, str], JobResult] = {}
        _, done = self._store.counts()
        last = time.monotonic()
        log.info("screen: %d suspects, %d of them done, store %s", self.total, done, self._store.path)
        if self._run.skipped.count:
            log.info("screen: skipped files that are no weights: %s", self._run.skipped)
        self._report(done, "reading")
        try:
            with closing(self._results(fresh)) as results:
                for one in results:
                    network = one.suspect.network
                    if one.refuted and network not in self._refuted:
                        yield from self._commit(batch, fresh)
                        self._withdraw(network)
                        done = self._store.counts()[1]
                    if one.reused and network in self._refuted:
                        self._again = True  # asked meanwhile, on what was refuted
                        continue
                    batch.append(one)
                    done += 1
                    if one.rows[0].sha256 is not None:
                        fresh[network, one.rows[0].sha256] = one
                    self._report(done, one.suspect.name)
                    if len(batch) * len(one.rows) >= COMMIT_ROWS or time.monotonic() - last >= COMMIT_SECONDS:
                        yield from self._commit(batch, fresh)
                        last = time.monotonic()
        except UapfastError:
            self._keep(batch)
            raise
        yield from self._commit(batch, fresh)
        if self._again:  # at most once for each network
            self._again = False
            yield from self
        else:
            self._finish()

    def _withdraw(self, network: str) -> None:
        """Remove the rows that rest on the reuse of a network; another pass asks them again."""
        self._refuted |= {network}
        self._again |= self._store.refute(network) > 0

    def _results(self, fresh: dict[tuple[str, str], JobResult]) -> Generator[JobResult, None, None]:
        run = self._run
        panel = replace(run.panel, settings=replace(run.panel.settings, anew=self._refuted))
        pending = self._store.pending(panel.settings.timeout)
        results: Generator[JobResult, None, None] = run.engine(
            panel, pending, self._known(fresh), run.address
        )
        return results

    def _known(self, fresh: dict[tuple[str, str], JobResult]) -> Callable[[Entry, str], list[Row] | None]:
        """Rows of the same network and tensors: from the batch that is not stored yet, or from the store."""

        def known(suspect: Entry, sha256: str) -> list[Row] | None:
            found = fresh.get((suspect.network, sha256))
            if found is not None:
                return None if any(row.error_class for row in found.rows) else list(found.rows)
            return self._store.same_tensors(suspect, sha256)

        return known

    def _keep(self, batch: list[JobResult]) -> None:
        reused = [(one.suspect.network, one.rows[0].sha256) for one in batch if one.reused]
        self._store.add(((one.suspect, one.stamp, one.rows) for one in batch), reused)

    def _commit(self, batch: list[JobResult], fresh: dict[tuple[str, str], JobResult]) -> Iterator[Row]:
        self._keep(batch)
        rows = [row for one in batch for row in one.rows]
        for row in rows:
            log.debug("screen: %s: %s (%s)", row.name, row.decision, row.reference)
        batch.clear()
        fresh.clear()
        yield from rows

    def _report(self, done: int, what: str) -> None:
        if self._run.progress is not None:
            self._run.progress(min(done, self.total), self.total, what)

    def _finish(self) -> None:
        about = self._run.panel.about()
        if self._run.out is not None:
            self.summary = export(self._store, self._run.out, about, self._run.fdr)
        else:
            self.summary = summarise(self._store, about, self._run.fdr)
        skipped = self._run.skipped
        self.summary = replace(self.summary, skipped=skipped.count, skipped_names=tuple(skipped.names))
        log.info("screen: %d rows, %s", self.summary.rows, self.summary.decisions)
        self.summary = replace(self.summary, code_changed=self._store.recoded)
        for sha256, population in self.summary.populations.items():
            said = population.says()
            if said is not None:
                warnings.warn(f"{about[sha256].name}: {said}", PoolWarning, stacklevel=2)

    def finish(self) -> Summary:
        """Ask every suspect that has no row yet, write the table, and say what it came to.

        Outside of a ``with`` block it closes the screen; inside, the block's end does, so that :meth:`rows`
        can still be asked for.

        Raises:
            InputError: the screen was closed before it was finished.
        """
        if self._closed and self.summary is not None:
            return self.summary
        try:
            for _ in self:
                pass
            assert self.summary is not None
            return self.summary
        finally:
            if not self._entered:
                self.close()

    def rows(self) -> Iterator[Row]:
        """The finished rows, as the table has them: references in order, suspects in order.

        Raises:
            InputError: not all suspects have been asked yet, or the screen is closed.
        """
        if self.summary is None:
            raise InputError("screen", "rows", "asked for after the last suspect", "an unfinished screen")
        self._require_open("asked for its rows")
        return self._rows(self.summary)

    def _require_open(self, what: str) -> None:
        rule = f"open while it is {what} (`with uapfast.screen(...) as screening:`)"
        check(not self._closed, "screen", "screening", rule, "a closed one")

    def _rows(self, summary: Summary) -> Iterator[Row]:
        for sha256, about in self._run.panel.about().items():
            population = summary.populations[sha256]
            yield from finished_rows(self._store, sha256, about, population, self._run.fdr)

    def close(self) -> None:
        """Give the store back; a temporary one is removed."""
        self._closed = True
        self._store.close()
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Screening:
        """Itself; closed at the end of the block."""
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


__all__ = ["Screening", "screen"]
