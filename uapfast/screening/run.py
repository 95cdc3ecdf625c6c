"""``screen``: references and suspects to rows and a table."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uapfast.config import ALPHA, TIMEOUT, Precision, check
from uapfast.errors import InputError, PoolWarning, UapfastError
from uapfast.files import require_writable
from uapfast.models.registry import resolve_arch
from uapfast.reference import Reference, as_reference
from uapfast.screening.engines import Done, engine
from uapfast.screening.export import Summary, export, finished_rows, summarise
from uapfast.screening.panel import Panel, Settings
from uapfast.screening.plan import Skipped, Suspect, as_suspects
from uapfast.screening.rows import Row
from uapfast.screening.store import Store

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
COMMIT_ROWS, COMMIT_SECONDS = 512, 0.5


def screen(
    references: Any,
    suspects: Any,
    *,
    arch: str | None = None,
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
    progress: Progress | None = None,
) -> Screening:
    """Screen checkpoints against one reference or several.

    Args:
        references: a reference or its file, several of these, or a mapping from names to them.
        suspects: a manifest, a folder, or an iterable of :class:`Suspect` or weights files
            (docs/screening.md). Taken once, not held in memory.
        arch: SPEC of suspects without their own.
        out: the table (Parquet), written when all rows are there.
        store: the SQLite file that a stopped run is continued from; ``out`` with ``.store`` by default, or
            a temporary one without ``out``.
        resume: keep the rows that the store has.
        alpha: level of a conviction on each side, in (0, 0.5).
        fdr: a conviction needs a q-value at or below it, in (0, 1].
        queries: most answers asked of a suspect for one reference, or None for all.
        early: stop asking as soon as the answers settle it; False gives the numbers of ``verify``.
        engine: ``local`` or ``ray``.
        address: of a cluster.
        workers: suspects asked at a time, or None for one a core.
        device: where networks run.
        timeout: seconds that reading a suspect, or asking it, may take; then it is ``invalid``
            (``TimeLimitError``) and the run goes on. Infinite for no limit.
        precision: of the networks; ``bf16`` is faster on a GPU, and its answers are rounded to 3 digits.
        progress: called as ``progress(done, total, what)``.

    Returns:
        A :class:`Screening`: iterate over it for rows as they come, or call ``finish``.

    Raises:
        InputError: a bad argument.
        ModelError: ``arch`` names no architecture.
        ManifestError: a bad manifest.
        ReferenceFileError: a reference that cannot be read.
        MissingDependency: an engine that needs an extra.
        ClusterError: while it runs, if the cluster cannot be reached or used (``ray``).
        StorageError: store or table cannot be written, or another process uses the store.
        TimeLimitError: while it runs, if too many suspects never end. What is finished is kept.
    """
    _check_settings(alpha, fdr, queries, workers, timeout)
    check(precision in ("float32", "bf16"), "screen", "precision", "float32 or bf16", repr(precision))
    settings = Settings(float(alpha), queries, bool(early), device, workers, precision, float(timeout))
    if arch is not None:
        resolve_arch(arch)
    if out is not None:
        require_writable(out, "table")
    run = _Run(
        # a cluster's device need not be here
        Panel.of(_references(references), settings, None if engine == "local" else "cpu"),
        _engine(engine),
        address,
        Path(out) if out is not None else None,
        _store_path(store, out),
        resume,
        float(fdr),
        progress,
        Skipped(),
    )
    return Screening(run, _preprocessed(as_suspects(suspects, arch, run.skipped), run.panel))


def _preprocessed(suspects: Iterator[Suspect], panel: Panel) -> Iterator[Suspect]:
    """Suspects without mean and std are asked with the victim's, as ``verify`` does.

    Raises:
        InputError: victims of different preprocessing, of which none can be meant.
    """
    found = [asked.reference.preprocessing for asked in panel.asked]
    for suspect in suspects:
        own = found[0]
        if suspect.mean is None and suspect.std is None and any(found):
            if any(other != own for other in found):
                rule = "given for every suspect, since the references' victims have different ones"
                raise InputError("screen", "mean and std", rule, f"none for {suspect.name}")
            assert own is not None
            suspect = replace(suspect, mean=tuple(own["mean"]), std=tuple(own["std"]), assumed=True)
        yield suspect


_engine = engine


def _check_settings(alpha: object, fdr: object, queries: object, workers: object, timeout: object) -> None:
    def number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    check(number(alpha) and 0 < alpha < 0.5, "screen", "alpha", "a level in (0, 0.5)", repr(alpha))  # type: ignore[operator]
    check(number(fdr) and 0 < fdr <= 1, "screen", "fdr", "a rate in (0, 1]", repr(fdr))  # type: ignore[operator]
    check(number(timeout) and timeout > 0, "screen", "timeout", "seconds above 0", repr(timeout))  # type: ignore[operator]
    for name, value in (("queries", queries), ("workers", workers)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        check(value is None or whole, "screen", name, "a whole number >= 1", repr(value))


def _references(given: Any) -> dict[str, Reference]:
    """References by name, in order."""
    if isinstance(given, Reference | str | os.PathLike):
        given = [given]
    if isinstance(given, Mapping):
        named = {str(name): as_reference(one, "screen") for name, one in given.items()}
        rule = "a mapping from names that differ as text"
        check(len(named) == len(given), "screen", "references", rule, ", ".join(map(repr, given)))
        return named
    if not isinstance(given, Iterable):
        rule = "references, their files, or a mapping from names to them"
        raise InputError("screen", "references", rule, type(given).__name__)
    items = list(given)
    return dict(zip(_names(items), (as_reference(one, "screen") for one in items), strict=True))


def _names(items: list[Any]) -> list[str]:
    """A name for each reference: its file's stem; one that is taken gets a number that is free."""
    stems = [
        Path(one).stem if isinstance(one, str | os.PathLike) else f"reference-{number}"
        for number, one in enumerate(items, 1)
    ]
    taken: set[str] = set()
    out = []
    for stem in stems:
        name, number = stem, 1
        while name in taken or (number > 1 and name in stems):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        out.append(name)
    return out


def _store_path(store: str | os.PathLike[str] | None, out: str | os.PathLike[str] | None) -> Path | None:
    if store is not None:
        return Path(store)
    return None if out is None else Path(f"{os.fspath(out)}.store")


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
    one (:mod:`uapfast.screening.skeletons`); the later one counts.

    Attributes:
        summary: what it came to, once it is finished.
    """

    def __init__(self, run: _Run, suspects: Iterator[Suspect]) -> None:
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
        batch: list[Done] = []
        fresh: dict[tuple[str, str], Done] = {}
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
                    if one.lent and network in self._refuted:
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

    def _results(self, fresh: dict[tuple[str, str], Done]) -> Generator[Done, None, None]:
        run = self._run
        panel = replace(run.panel, settings=replace(run.panel.settings, anew=self._refuted))
        pending = self._store.pending(panel.settings.timeout)
        results: Generator[Done, None, None] = run.engine(panel, pending, self._known(fresh), run.address)
        return results

    def _known(self, fresh: dict[tuple[str, str], Done]) -> Callable[[Suspect, str], list[Row] | None]:
        """Rows of the same network and tensors: from the batch that is not stored yet, or from the store."""

        def known(suspect: Suspect, sha256: str) -> list[Row] | None:
            found = fresh.get((suspect.network, sha256))
            if found is not None:
                return None if any(row.error_class for row in found.rows) else list(found.rows)
            return self._store.same_tensors(suspect, sha256)

        return known

    def _keep(self, batch: list[Done]) -> None:
        lent = [(one.suspect.network, one.rows[0].sha256) for one in batch if one.lent]
        self._store.add(((one.suspect, one.stamp, one.rows) for one in batch), lent)

    def _commit(self, batch: list[Done], fresh: dict[tuple[str, str], Done]) -> Iterator[Row]:
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
