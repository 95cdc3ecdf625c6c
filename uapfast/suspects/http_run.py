"""One set of images on its way to a server: asked in batches, some at a time, and put back in order."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import EndpointError, StorageError, SuspectError
from uapfast.models.tape import Tape
from uapfast.suspects.http_cache import Cache, key
from uapfast.suspects.http_client import Attempt, Client
from uapfast.suspects.http_forms import HttpForm
from uapfast.suspects.http_images import Payload
from uapfast.suspects.pixels import off_grid

T = TypeVar("T")
ImageArray = NDArray[np.float32]
Waiting = tuple[
    int, bytes, Payload
]  # an image that is to be sent: its place, its key in the cache, its bytes


class HttpRun:
    """Asks for images in batches, ``concurrency`` at a time.

    Args:
        client: open.
        form: prepared.
        cache: of answers.
        settings: what answers depend on besides the image.
        classes: how many there are, if known.
        images: ``[N,C,H,W]`` in 0..1.
        say: takes what a reader has to know.
        tape: takes down every answer, or None.

    Attributes:
        rows: the answers, in the order of the images.
        fresh: which of them the server gave just now.
    """

    def __init__(
        self,
        client: Client,
        form: HttpForm,
        cache: Cache,
        settings: bytes,
        classes: int | None,
        images: ImageArray,
        say: Callable[[str], None],
        tape: Tape | None = None,
    ) -> None:
        self.client, self.form, self.cache, self.settings = client, form, cache, settings
        self.classes, self.images, self.say, self.tape = classes, images, say, tape
        self.shape = form.images.shape(*images.shape[1:])
        self.rows: list[Any] = [None] * len(images)
        self.fresh: list[int] = []  # which the server answered just now
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, order: NDArray[np.int64]) -> None:
        """Fill ``rows``, in this order."""
        held: list[Waiting] = []
        size = self.form.batch
        try:
            for start in range(0, len(order), size):
                held += await self._unknown(order[start : start + size])
                if len(held) >= size:
                    await self._start(held[:size])
                    held = held[size:]
            if held:
                await self._start(held)
            await self._finish(0)
        except BaseException:
            await self._wind_up()
            raise

    async def _unknown(self, part: NDArray[np.int64]) -> list[Waiting]:
        """Take what the cache knows of these; the others, ready to be sent."""
        keys, payloads = await asyncio.to_thread(self._encoded, part)
        known = self.cache.get(keys)
        waiting = []
        for i, name, payload, row in zip(part.tolist(), keys, payloads, known, strict=True):
            self.rows[i] = row
            if row is None:
                waiting.append((i, name, payload))
            elif self.tape is not None:
                self.tape.row(i, row)
        return waiting

    def _encoded(self, part: NDArray[np.int64]) -> tuple[list[bytes], list[Payload]]:
        payloads = self._payloads(part)
        return [key(self.settings, p) for p in payloads], payloads

    def _payloads(self, part: NDArray[np.int64]) -> list[Payload]:
        sent, shape = self.form.images, self.images.shape[2:]
        if sent.as_it_is and sent.size in (None, shape):
            return [memoryview(self.images[i]).cast("B") for i in part]  # where they lie
        images = writable_tensor(self.images[part])
        if sent.bits8 and off_grid(images):
            self.say("its images were rounded to 8 bits: it takes no others")
        return sent.encode(images)

    async def _start(self, batch: list[Waiting]) -> None:
        await self._finish(self.client.conduct.concurrency - 1)
        self._tasks.add(asyncio.create_task(self._batch(batch)))
        await asyncio.sleep(0)

    async def _finish(self, most: int) -> None:
        """Wait until at most so many are under way; raises what one of them raised."""
        while len(self._tasks) > most:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:  # where one raises, `_wind_up` looks after the others
                self._tasks.discard(task)
                task.result()

    async def _wind_up(self) -> None:
        """After an error: those that wait for a response get it, for it is paid for; the others stop."""
        self.client.closing = True
        for task in self._tasks - self.client.under_way:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _batch(self, batch: list[Waiting]) -> None:
        rows, trip = await self._request([payload for _, _, payload in batch])
        self.cache.put((name, row) for (_, name, _), row in zip(batch, rows, strict=True))
        if self.tape is not None:  # no other task writes between this and its rows
            self.tape.response(trip, self.form.reading(), len(batch))
        for nth, ((i, _, _), row) in enumerate(zip(batch, rows, strict=True)):
            self.rows[i] = row
            self.fresh.append(i)
            if self.tape is not None:
                self.tape.row(i, row, trip, nth)

    async def _request(self, payloads: list[Payload]) -> tuple[list[Any], Attempt]:
        """Rows for images that are sent together, and the request that brought them."""
        request = await asyncio.to_thread(self.form.request, payloads, self.shape, self.classes)
        number, last = len(payloads), list[Attempt]()

        def note(trip: Attempt) -> None:
            last[:] = [trip]
            if trip.error is not None and self.tape is not None:
                self.tape.failed(trip, number)

        try:
            rows = await self.client.ask(request, number, lambda got: self.form.rows(got, number), note)
            return rows, last[0]
        except SuspectError as exc:
            if self.client.understood or self.form.endpoint.form != "template":
                raise
            # nothing that it said was understood: the paths of the description may be wrong
            raise EndpointError(exc.where, exc.argument, exc.rule, exc.got) from exc

    async def sent(self, image: Tensor) -> Any:
        """The row for one image ``[1,C,H,W]`` that was asked before, past the cache."""
        rows, trip = await self._request(await asyncio.to_thread(self.form.images.encode, image))
        if self.tape is not None:
            self.tape.response(trip, self.form.reading(), 1)
            self.tape.again(image[0], rows[0], trip)
        return rows[0]

    async def singly(self, chosen: list[int]) -> list[Any]:
        """Rows for these images, each sent alone and past the cache."""
        return [await self.sent(writable_tensor(self.images[[i]])) for i in chosen]


@contextlib.contextmanager
def spooled_images(chunks: Iterable[Tensor]) -> Iterator[ImageArray]:
    """Chunks as one array ``[N,C,H,W]``, in a file without a name: they may be more than memory holds.

    Raises:
        StorageError: no place for them.
    """
    shape: tuple[int, ...] = (0, 1, 1, 1)
    number = 0
    with tempfile.TemporaryFile(prefix="uapfast-") as file:
        for chunk in chunks:
            try:
                chunk.detach().to("cpu", torch.float32).contiguous().numpy().tofile(file)
            except OSError as exc:
                rule = "the temporary folder must have room for the images"
                raise StorageError(f"http: {rule}, got {exc.strerror or exc}") from exc
            number, shape = number + len(chunk), tuple(chunk.shape)
        if number:
            file.flush()
            yield np.memmap(file, np.float32, "r", shape=(number, *shape[1:]))
        else:
            yield np.zeros((0, *shape[1:]), np.float32)


def writable_tensor(images: ImageArray) -> Tensor:
    """A copy of some of them."""
    return torch.from_numpy(images if images.flags.writeable else np.array(images, dtype=np.float32))


def run_coroutine(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, wherever this is called from."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []  # a loop runs in this thread (a notebook, a service): use another
    failed: list[BaseException] = []

    def other() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as exc:
            failed.append(exc)

    thread = threading.Thread(target=other, name="uapfast, http")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


__all__ = ["HttpRun", "ImageArray", "run_coroutine", "spooled_images", "writable_tensor"]
