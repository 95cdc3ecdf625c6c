"""A worker in a process of its own, perhaps on another machine, and what it is sent. Knows nothing of Ray."""

from __future__ import annotations

import json
import os
import socket
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from uapfast._version import versions
from uapfast.errors import ClusterError
from uapfast.models.registry import arch_file
from uapfast.reference import from_bytes
from uapfast.screening.asking.device import loader_for
from uapfast.screening.asking.panel import Panel, PreparedReference, Settings
from uapfast.screening.engine.messages import Hello, Job, Reply, Request
from uapfast.screening.engine.worker import Worker, WorkerSetup
from uapfast.screening.listing.entry import URL


@dataclass(frozen=True)
class Packed:
    """A panel as it is sent.

    Attributes:
        names: of the references.
        files: the bytes of their files.
        queries: of each, those that are resident, by view; an object store shares them on a node.
        settings: of the screen.
        versions: of what results depend on.
    """

    names: tuple[str, ...]
    files: tuple[bytes, ...]
    queries: tuple[dict[int, NDArray[Any]], ...]
    settings: Settings
    versions: str


def pack_panel(panel: Panel) -> Packed:
    """A panel that can be sent, its resident queries included."""
    return Packed(
        tuple(one.name for one in panel.asked),
        tuple(one.reference.to_bytes() for one in panel.asked),
        tuple({view: x.cpu().contiguous().numpy() for view, x in one.kept.items()} for one in panel.asked),
        panel.settings,
        panel.versions,
    )


def unpack_panel(packed: Packed, device: str = "cpu") -> Panel:
    """The panel that was packed, its queries on ``device``."""
    asked = []
    for name, file, queries in zip(packed.names, packed.files, packed.queries, strict=True):
        one = PreparedReference(from_bytes(file, name), name, packed.settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # not writable: queries are copied into batches
            one.kept.update((view, torch.from_numpy(x).to(device)) for view, x in queries.items())
        asked.append(one)
    return Panel(tuple(asked), packed.settings, packed.versions)


class RemoteWorker:
    """A worker, and the process that is its own.

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
        panel = unpack_panel(packed, device)
        loader = loader_for(replace(packed.settings, device=device))
        self._worker = Worker(WorkerSetup.of(panel, loader), explain=self._not_here)

    def hello(self) -> Hello:
        """Where it is and what it runs."""
        return Hello(socket.gethostname(), os.getpid(), json.dumps(versions()))

    def exchange(self, request: Request) -> Reply:
        """See :meth:`Worker.exchange`."""
        return self._worker.exchange(request)

    def _not_here(self, job: Job) -> ClusterError | None:
        """What the machine of the caller has and this one has not: the cluster's fault."""
        suspect = job.suspect
        if not self._away:
            return None
        base = Path(suspect.base) if suspect.base else None
        own = [suspect.path] if job.stamp not in ("-", URL) else []
        files = [arch_file(arch, base=base) for arch in (suspect.arch, *suspect.choices)]
        for file in (*own, *files):
            if file is not None and not os.path.exists(file):
                told = f"screen: files must exist under the same path on every node, got no {file}"
                return ClusterError(f"{told} on {socket.gethostname()}")
        return None


__all__ = ["Packed", "RemoteWorker", "pack_panel", "unpack_panel"]
