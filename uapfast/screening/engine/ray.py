"""The engine of a Ray cluster (docs/cluster.md).

An actor is a :class:`uapfast.screening.engine.remote.RemoteWorker`. Paths go to the actors and rows come
back; references are put into the object store once. ``Supervisor`` and ``Scheduler`` decide everything; what
is here starts actors, calls them, and hears them die.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from uapfast.errors import ClusterError, InputError
from uapfast.screening.asking.judge import failed_rows
from uapfast.screening.asking.panel import Panel
from uapfast.screening.engine.messages import Lost, Message, Request
from uapfast.screening.engine.registry import JobResult
from uapfast.screening.engine.remote import RemoteWorker, pack_panel
from uapfast.screening.engine.scheduler import Scheduler
from uapfast.screening.engine.supervisor import Supervisor, Timeouts
from uapfast.screening.engine.worker import worker_count
from uapfast.screening.listing.entry import Entry
from uapfast.screening.table.rows import Row, error_line

CONNECT = 10.0  # seconds for an address to answer
HEAD_CHECK, HEAD_GONE = 5.0, 30.0  # seconds between looks at the head, and without it; Ray exits after 60
A_GPU = 2  # workers of one GPU, as locally
# what a gRPC server answers to this is a SETTINGS frame, type 4
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


def run(
    panel: Panel,
    suspects: Iterator[tuple[Entry, str]],
    known: Callable[[Entry, str], list[Row] | None],
    address: str | None = None,
    timeouts: Timeouts | None = None,
) -> Generator[JobResult, None, None]:
    """Ask every suspect on a cluster; see :class:`uapfast.screening.engine.registry.Engine`.

    Args:
        panel: references and settings.
        suspects: with stamps.
        known: rows of the same network and tensors.
        address: of a running cluster (``HOST:PORT``, ``auto``); None starts one on this machine. A Ray that
            this process is connected to already is used as it is.
        timeouts: how long is waited; for a suspect as long as the settings say by default.

    Yields:
        One ``JobResult`` a suspect.

    Raises:
        InputError: a device or an address of another form.
        ClusterError: the cluster cannot be reached, or starts no worker.
    """
    if panel.settings.device not in ("cpu", "cuda"):
        raise InputError("screen", "device", "cpu or cuda with engine ray", repr(panel.settings.device))
    scheduler = Scheduler(suspects, known, lambda s, error, sha256: failed_rows(panel, s, error, sha256))
    if not scheduler.peek(1):
        return
    timeouts = timeouts or Timeouts(suspect=panel.settings.timeout)
    with connected(panel, address) as share:
        backend = Actors(panel, share)
        try:
            yield from Supervisor(backend, scheduler, share.workers, panel.versions, timeouts).run()
        finally:
            backend.stop()


# -- the cluster -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """What workers get.

    Attributes:
        workers: how many.
        threads: of torch each, and CPUs that Ray reserves.
        gpu: share of a GPU that Ray reserves; 0 for networks on the CPU.
    """

    workers: int
    threads: int
    gpu: float

    @classmethod
    def of(cls, panel: Panel, resources: dict[str, float] | None) -> Share:
        """From what the cluster has; None for one that is to be started here.

        Raises:
            ClusterError: nothing to count workers by.
        """
        cuda, wanted = panel.settings.device == "cuda", panel.settings.workers
        here = torch.get_num_threads()
        if resources is None:
            workers = worker_count(panel)
            return cls(workers, max(1, here // workers), 1 / workers if cuda else 0.0)
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        workers = wanted or (A_GPU * gpus if cuda else cpus)
        if not workers:
            what = "GPU" if cuda else "CPU"
            raise ClusterError(f"screen: --workers must be given for a cluster without a {what}, got none")
        threads = max(1, min(here // workers, cpus // workers))
        # so many to a GPU that all of them find one
        return cls(workers, threads, 1 / -(-workers // max(1, gpus)) if cuda else 0.0)


@contextlib.contextmanager
def connected(panel: Panel, address: str | None) -> Iterator[Share]:
    """Ray, started or connected to if it is not yet; left as it was found."""
    import ray

    if address is not None:
        _check_address(address)
    if ray.is_initialized():
        yield Share.of(panel, ray.cluster_resources())
        return
    if address is None:
        share = Share.of(panel, None)
        _init(ray, address="local", num_cpus=share.workers * share.threads, include_dashboard=False)
    else:
        _init(ray, address=address)
    try:
        yield share if address is None else Share.of(panel, ray.cluster_resources())
    finally:
        ray.shutdown()


def _init(ray: Any, address: str, **more: Any) -> None:
    silent = "RAY_USAGE_STATS_ENABLED" not in os.environ
    if silent:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read by the processes that are started
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **more)
    except Exception as exc:  # which kinds Ray raises depends on its version
        what = "the local cluster" if address == "local" else f"address {address}"
        raise ClusterError(f"screen: {what} must be a Ray cluster that works, got {error_line(exc)}") from exc
    finally:
        if silent:
            del os.environ["RAY_USAGE_STATS_ENABLED"]


def _check_address(address: str) -> None:
    """Whether a gRPC server answers there; Ray itself would try for minutes and then end the process."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise InputError(
            "screen",
            "address",
            "HOST:PORT of the cluster's head, or auto (if this machine is one of its nodes)",
            repr(address),
        )
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT) as line:
            line.settimeout(CONNECT)
            line.sendall(HTTP2)
            said = line.recv(9)
    except (OSError, OverflowError) as exc:
        raise ClusterError(f"screen: address must be that of a Ray cluster, got {address} ({exc})") from exc
    if len(said) < 4 or said[3] != 4:
        raise ClusterError(f"screen: address must be that of a Ray cluster, got another service at {address}")


# -- its actors ------------------------------------------------------------------------------------------


class Actors:
    """The backend of Ray actors (:class:`uapfast.screening.engine.supervisor.WorkerBackend`).

    Args:
        panel: is put into the object store.
        share: of the cluster for each.
    """

    def __init__(self, panel: Panel, share: Share) -> None:
        import ray

        self._ray = ray
        self._panel = ray.put(pack_panel(panel))
        self._actor = ray.remote(
            num_cpus=share.threads, num_gpus=share.gpu, max_restarts=0, scheduling_strategy="SPREAD"
        )(RemoteWorker)
        # on a GPU that is "cuda" for all: Ray shows an actor its own alone
        self._given = (panel.settings.device, share.threads, os.getcwd(), socket.gethostname())
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self._count = 0
        self._head = _Head(str(ray.get_runtime_context().gcs_address))

    def start(self) -> int:
        """Ask for one more actor; it says hello once there is room and it is up."""
        self._count += 1
        actor = self._actors[self._count] = self._actor.remote(self._panel, *self._given)
        self._calls[actor.hello.remote()] = self._count
        return self._count

    def send(self, worker: int, request: Request) -> None:
        """Call it."""
        self._calls[self._actors[worker].exchange.remote(request)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """All calls that have ended; raises ``ClusterError`` if the head is gone."""
        self._head.look()
        calls = list(self._calls)
        ended, _ = self._ray.wait(calls, num_returns=1, timeout=seconds) if calls else ([], calls)
        if ended:  # what else has ended meanwhile
            ended, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        found: list[tuple[int, Message]] = []
        for call in ended:
            worker = self._calls.pop(call)
            try:
                found.append((worker, self._ray.get(call)))
            except self._ray.exceptions.RayError as exc:
                found.append((worker, Lost(_why(exc))))
        return found

    def kill(self, worker: int) -> None:
        """Kill it; a call that it has not answered is forgotten."""
        self._calls = {call: who for call, who in self._calls.items() if who != worker}
        actor = self._actors.pop(worker, None)
        if actor is not None:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.kill(actor, no_restart=True)

    def stop(self) -> None:
        """Kill all of them."""
        for worker in list(self._actors) if not self._head.gone else ():
            self.kill(worker)


class _Head:
    """Looks whether the head of the cluster is there: without it Ray would end this process."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._place = host.strip("[]"), int(port)
        self._looked = self._seen = time.monotonic()
        self.gone = False

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked < HEAD_CHECK:
            return
        self._looked = now
        with contextlib.suppress(OSError), socket.create_connection(self._place, 2.0):
            self._seen = now
        if now - self._seen > HEAD_GONE:
            self.gone = True
            place = ":".join(map(str, self._place))
            raise ClusterError(f"screen: the cluster's head must answer, got no answer from {place}")


def _why(error: BaseException) -> str:
    """The end of what Ray says, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return error_line(RuntimeError(" ".join(lines[-2:]))) or type(error).__name__


__all__ = ["Actors", "Share", "connected", "run"]
