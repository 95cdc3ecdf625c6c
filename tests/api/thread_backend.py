"""A backend of the screen whose workers are threads of this process."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from uapfast.screening.engine.messages import Message, Request
from uapfast.screening.engine.remote import Packed, RemoteWorker


class Threads:
    """A backend of workers in this process."""

    def __init__(self, make, packed: Packed) -> None:
        self.make, self.packed, self.pool = make, packed, ThreadPoolExecutor(8)
        self.workers: list[RemoteWorker] = []
        self.calls: dict[Future, int] = {}

    def start(self) -> int:
        self.workers.append(self.make(self.packed))
        number = len(self.workers) - 1
        self.calls[self.pool.submit(self.workers[number].hello)] = number
        return number

    def send(self, worker: int, request: Request) -> None:
        self.calls[self.pool.submit(self.workers[worker].exchange, request)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        done, _ = wait(self.calls, seconds, FIRST_COMPLETED)
        return [(self.calls.pop(call), call.result()) for call in done]

    def kill(self, worker: int) -> None:
        raise AssertionError("nobody dies here")
