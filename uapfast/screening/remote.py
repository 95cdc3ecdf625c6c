"""A worker of a cluster: reads, tells hashes, asks what it is told to, in threads of its own process.

The steps are those of the local engine (its lanes, ``judge``) on the same queries, batches and
threads, so results on the same kind of CPU are the same bit for bit. Knows nothing of Ray.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from uapfast._version import versions
from uapfast.errors import ClusterError
from uapfast.method.fingerprint import QueryPlan
from uapfast.models.registry import arch_file
from uapfast.reference import Reference
from uapfast.screening.direct import judge_direct
from uapfast.screening.entry import URL, Entry
from uapfast.screening.errands import BACKLOG, SLOTS, Busy, Errand, Hello, Orders, Reply, Told
from uapfast.screening.judge import failed_rows, judge
from uapfast.screening.lanes import lanes_of
from uapfast.screening.panel import Asked, Panel, Settings
from uapfast.screening.pipeline import TRANSIENT
from uapfast.screening.reader import Loaded, Slot
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.skeletons import Skeletons
from uapfast.suspects.networks.watch import Watch

POLL, LINGER = 5.0, 0.05  # seconds until a worker replies: with nothing to tell, with little
log = logging.getLogger(__name__)


# -- the panel on its way --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A panel as plain values and arrays; arrays of an object store are shared by all workers of a node."""

    asked: tuple[dict[str, Any], ...]
    settings: Settings
    versions: str


def pack(panel: Panel) -> Packed:
    """A panel that can be sent, its resident queries included."""
    return Packed(tuple(_pack(one) for one in panel.asked), panel.settings, panel.versions)


def _pack(one: Asked) -> dict[str, Any]:
    def plain(owner: object, *without: str) -> dict[str, Any]:
        names = [f.name for f in fields(owner) if f.name not in without]  # type: ignore[arg-type]
        return {name: _array(getattr(owner, name)) for name in names}

    reference = one.reference
    own = plain(reference, "plan", "weights", "_cache", "_lock")
    weights = {name: _array(tensor) for name, tensor in reference.weights.items()}
    kept = {view: _array(images) for view, images in one._kept.items()}
    return {
        "name": one.name, "sha256": reference.sha256, "plan": plain(reference.plan), "own": own,
        "weights": weights, "kept": kept,
    }  # fmt: skip


def _array(value: Any) -> Any:
    return np.ascontiguousarray(value.detach().cpu().numpy()) if isinstance(value, Tensor) else value


def unpack(packed: Packed, device: str = "cpu") -> Panel:
    """The panel that was packed, its queries on ``device``."""
    return Panel(
        tuple(_unpack(one, packed, device) for one in packed.asked), packed.settings, packed.versions
    )


def _unpack(one: dict[str, Any], packed: Packed, device: str) -> Asked:
    def tensors(values: dict[str, Any]) -> dict[str, Any]:
        # copied: arrays of an object store may not be written to, and torch does not know that
        return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}

    reference = Reference(
        plan=QueryPlan(**tensors(one["plan"])),
        weights=tensors(one["weights"]),
        _cache={"sha256": one["sha256"]},
        **tensors(one["own"]),
    )
    asked = Asked(reference, one["name"], packed.settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # not writable: queries are copied into batches
        asked._kept.update((view, torch.from_numpy(v).to(device)) for view, v in one["kept"].items())
    return asked


# -- the worker ------------------------------------------------------------------------------------------


@dataclass
class Held:
    """A suspect in a worker's memory."""

    errand: Errand
    slot: Slot
    loaded: Loaded | None = None


class Worker:
    """Two threads, one that reads and one that asks, and what they have to tell.

    Args:
        packed: references and settings.
        device: where networks run here.
        threads: of torch, for one suspect.
        folder: that relative paths are relative to.
        home: name of the machine where the run was started.
    """

    def __init__(self, packed: Packed, device: str, threads: int, folder: str, home: str) -> None:
        self._away = socket.gethostname() != home
        if os.path.isdir(folder):
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._limits = threadpool_limits(1, user_api="blas")  # as long as this process lives
        self._watch = Watch()
        self._panel = unpack(packed, device)
        self._lanes = lanes_of(replace(packed.settings, device=device))
        self._skeletons = Skeletons(device, self._watch, self._lanes.skeleton, packed.settings.anew)
        self._to_read: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self._to_ask: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._slots.put(self._lanes.slot())
        self._changed = threading.Condition()
        self._told: list[Told] = []
        self._first = 0.0  # when the oldest news came
        self._mine: set[int] = set()  # sent, and not yet told the end of
        self._held: dict[int, Held] = {}
        self._at: dict[int, threading.Thread] = {}
        self._building: set[int] = set()
        for work in (self._reads, self._asks):
            threading.Thread(target=work, daemon=True).start()

    def hello(self) -> Hello:
        """Where it is and what it runs."""
        return Hello(socket.gethostname(), os.getpid(), json.dumps(versions()))

    def exchange(self, orders: Orders) -> Reply:
        """Take orders; return news once there are some, or after some seconds."""
        with self._changed:
            self._mine.update(errand.number for errand in orders.errands)
            self._mine.difference_update(orders.drop)
        for errand in orders.errands:
            self._to_read.put(errand)
        for number in orders.drop:
            self._slots.put(self._held.pop(number).slot)
        for number in orders.ask:
            self._to_ask.put(number)
        end = time.monotonic() + POLL
        with self._changed:
            while (seconds := self._patience(end)) > 0:
                self._changed.wait(seconds)
            told, self._told = tuple(self._told), []
            self._changed.notify_all()
            now = time.monotonic()
            since = self._watch.since  # infinite for who waits
            at = (Busy(n, now - since(thread), n in self._building) for n, thread in self._at.items())
            return Reply(told, tuple(at))

    def _patience(self, end: float) -> float:
        """Seconds that news may still be waited for."""
        now = time.monotonic()
        if not self._told:
            return end - now if self._mine else 0.0
        # who asks the last one that it was told to needs new orders by the time it is through
        if self._to_ask.empty() or len(self._told) >= BACKLOG // 2:
            return 0.0
        return min(end, self._first + LINGER) - now

    # -- threads -----------------------------------------------------------------------------------
    def _reads(self) -> None:
        while True:
            errand = self._to_read.get()
            held = Held(errand, self._slots.get())
            self._held[errand.number] = held
            self._try(held, self._read)

    def _asks(self) -> None:
        while True:
            held = self._held[self._to_ask.get()]
            with self._changed:
                self._changed.notify_all()  # there may be none left to ask
            self._try(held, self._ask)

    def _read(self, held: Held) -> Told:
        number = held.errand.number

        def shapes(suspect: Entry) -> Shapes:
            self._building.add(number)
            try:
                return self._skeletons.shapes(suspect)
            finally:
                self._building.discard(number)

        if held.errand.suspect.is_direct:
            return Told(number, None, 0.0)
        loaded = held.loaded = self._lanes.read(held.errand.suspect, held.slot, shapes)
        return _read(number, loaded)

    def _ask(self, held: Held) -> Told:
        number, loaded = held.errand.number, held.loaded
        if loaded is None:
            found, told = judge_direct(self._panel, held.errand.suspect, self._watch), Told(number, None, 0.0)
        else:
            found, told = judge(self._panel, self._skeletons, loaded), _read(number, loaded)
        rows = tuple(found.rows)
        return told._replace(rows=rows, again=found.again, lent=found.lent, refuted=found.refuted)

    def _try(self, held: Held, step: Callable[[Held], Told]) -> None:
        number = held.errand.number
        self._watch.begin()
        with self._changed:
            self._at[number] = threading.current_thread()
        try:
            told = step(held)
        except BaseException as exc:  # a factory may even call sys.exit; the worker goes on
            told = self._failed(held, exc)
        with self._changed:
            del self._at[number]
            # a death must not take more results with it than this: the board counts on it
            self._changed.wait_for(lambda: len(self._told) < BACKLOG)
            if not self._told:
                self._first = time.monotonic()
            self._told.append(told)
            if told.rows is not None:
                self._mine.discard(number)
            self._changed.notify_all()
        if told.rows is not None:
            self._slots.put(self._held.pop(number).slot)

    def _failed(self, held: Held, error: BaseException) -> Told:
        errand, loaded = held.errand, held.loaded
        log.debug("screen: %s", errand.suspect.name, exc_info=True)
        error = self._not_here(errand) or error
        again = isinstance(error, (*TRANSIENT, ClusterError))
        told = _read(errand.number, loaded) if loaded else Told(errand.number, None, 0.0)
        entry = loaded.entry if loaded else errand.suspect
        rows = failed_rows(self._panel, entry, error, told.sha256)
        return told._replace(rows=tuple(rows), again=again)

    def _not_here(self, errand: Errand) -> ClusterError | None:
        """What the machine of the caller has and this one has not: the cluster's fault."""
        suspect = errand.suspect
        if not self._away:
            return None
        base = Path(suspect.base) if suspect.base else None
        own = [suspect.path] if errand.stamp not in ("-", URL) else []
        files = [arch_file(arch, base=base) for arch in (suspect.arch, *suspect.choices)]
        for file in (*own, *files):
            if file is not None and not os.path.exists(file):
                told = f"screen: files must be there under the same path on every node, got no {file}"
                return ClusterError(f"{told} on {socket.gethostname()}")
        return None


def _read(number: int, loaded: Loaded) -> Told:
    return Told(number, loaded.sha256, loaded.seconds, arch=loaded.entry.arch, notes=loaded.notes)


__all__ = ["POLL", "Packed", "Worker", "pack", "unpack"]
