"""A device for tests whose streams run closures as late, and in as odd an order, as events allow.

What is right on it for every seed depends on no order that the events do not promise.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import torch

from uapfast.streams import CannotCapture


class LazyEvent:
    def __init__(self, stream: LazyStream, place: int) -> None:
        self.stream, self.place = stream, place

    def synchronize(self) -> None:
        with self.stream.device.lock:
            self.stream.reach(self.place)


class LazyStream:
    def __init__(self, device: LazyDevice) -> None:
        self.device, self.tasks, self.done = device, [], 0

    def reach(self, place: int) -> None:
        """Run what was given up to ``place``, and first what that has to wait for."""
        while self.done < place:
            task = self.tasks[self.done]
            self.tasks[self.done] = None
            self.done += 1
            if isinstance(task, LazyEvent):
                task.synchronize()
            else:
                task()

    def do(self, work: Callable[[], Any]) -> None:
        with self.device.lock:
            self.tasks.append(work)
            self.device.stir()

    def now(self, work: Callable[[], Any]) -> Any:
        with self.device.lock:
            self.reach(len(self.tasks))
            return work()

    def record(self) -> LazyEvent:
        return LazyEvent(self, len(self.tasks))

    def wait(self, event: LazyEvent) -> None:
        with self.device.lock:
            if not self.device.deaf:
                self.tasks.append(event)
            self.device.stir()


class PromptStream:
    """The stream of a caller that runs things itself: in order, at once, after what it waits for."""

    def __init__(self, device: LazyDevice) -> None:
        self.device = device

    def do(self, work: Callable[[], Any]) -> None:
        work()

    now = do

    def now(self, work: Callable[[], Any]) -> Any:  # noqa: F811
        return work()

    def record(self) -> LazyEvent:
        return LazyEvent(LazyStream(self.device), 0)

    def wait(self, event: LazyEvent) -> None:
        if not self.device.deaf:
            event.synchronize()


class LazyDevice:
    """``deaf`` ignores every wait: a test that still passes then tests nothing."""

    def __init__(
        self,
        seed: int = 0,
        *,
        graphs: bool = True,
        capture: bool = True,
        prompt: bool = False,
        deaf: bool = False,
    ) -> None:
        self.place, self.pinned, self.graphs = torch.device("cpu"), False, graphs
        self.chance, self.lock, self.deaf = random.Random(seed), threading.RLock(), deaf
        self.eagerness = self.chance.choice([0.0, 0.2, 0.9])
        self.streams: list[LazyStream] = []
        self.captures = self.replays = 0
        self._capture, self._prompt = capture, prompt

    def stream(self) -> Any:
        if self._prompt and not self.streams:  # the first is the caller's home
            self._prompt = False
            return PromptStream(self)
        self.streams.append(LazyStream(self))
        return self.streams[-1]

    def main(self) -> Any:
        return PromptStream(self)

    def settle(self) -> None:
        for stream in self.streams:
            stream.reach(len(stream.tasks))

    def stir(self) -> None:
        """Let some stream get on, by chance."""
        while self.streams and self.chance.random() < self.eagerness:
            stream = self.chance.choice(self.streams)
            if stream.done < len(stream.tasks):
                stream.reach(stream.done + 1)

    def capture(self, work: Callable[[], Any], stream: Any) -> Callable[[], Any]:
        if not self._capture:
            raise CannotCapture("the test says so")
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay
