"""A suspect behind HTTP: asked within a budget and a rate, never twice for the same answer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import EndpointError, InputError
from uapfast.models.answers import Answers, detect
from uapfast.suspects import http_probes as probes
from uapfast.suspects.base import Suspect
from uapfast.suspects.http_cache import Cache, key
from uapfast.suspects.http_client import Client
from uapfast.suspects.http_conduct import Conduct, Ledger
from uapfast.suspects.http_endpoint import Endpoint, described
from uapfast.suspects.http_forms import HttpForm, JsonForm
from uapfast.suspects.http_headers import RedactedTape, shown_url
from uapfast.suspects.http_images import Payload
from uapfast.suspects.http_oip import OpenInference
from uapfast.suspects.http_rows import table
from uapfast.suspects.http_run import HttpRun, ImageArray, run_coroutine, spooled_images, writable_tensor

PLAIN: dict[str, Any] = {"sort_keys": True, "default": str}  # of JSON that is hashed
NOT_PROBED = (
    "it was not checked whether equal questions get equal answers: the budget allowed no repeated question"
)


@dataclass(frozen=True)
class Plan:
    """What an examination sends at most, if nothing fails; each failure adds a request.

    Attributes:
        images: to be answered.
        cached: of these, answered before.
        queries: images to be sent, repeated questions included; compare it with a budget.
        requests: to be sent, those for metadata included.
        bytes: of their bodies.
    """

    images: int = 0
    cached: int = 0
    queries: int = 0
    requests: int = 0
    bytes: int = 0


def open_http(
    target: str | os.PathLike[str],
    *,
    budget: int | None = None,
    rate: str | float | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    attempts: int | None = None,
    patience: float | None = None,
    max_bytes: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    ca: str | None = None,
    seed: int = 0,
    secrets: Collection[str] | None = None,
    **endpoint: Any,
) -> HttpSuspect:
    """Open a suspect that answers over HTTP. Nothing is sent before it is queried.

    Args:
        target: ``http(s)://...``, or a ``.toml`` file that describes an endpoint
            (:func:`uapfast.suspects.http_endpoint.described`). The file's table ``conduct`` takes the names
            of the next seven arguments.
        budget: images sent at most; failures, retries and repeated questions count. None: no limit. When it
            is spent, the verdict is ``unavailable``.
        rate: highest rate of requests, such as ``5/s``. None: no limit.
        concurrency: requests at the same time, at most; 4.
        timeout: seconds per request; 60.
        attempts: attempts per request; 10.
        patience: longest wait, in seconds, that the server may ask for; 120.
        max_bytes: largest response; 16 MiB.
        cache: an SQLite file of answers: a second run asks only for what is missing. None keeps answers as
            long as the suspect lives. If the model behind a URL was changed, use another file.
        ca: PEM file of certificates for checking the server's certificate, if that is a private one.
        seed: seed of the order in which images are sent.
        secrets: environment variables that headers may use, if the description may come from others. None:
            any.
        **endpoint: names of :class:`uapfast.suspects.http_endpoint.Endpoint`.

    Raises:
        EndpointError: the description of the endpoint is wrong: a name, a URL, or a secret that is written
            out.
        InputError: a number is out of range, or the cache is of another kind.
        StorageError: the cache cannot be created.
    """
    about, conduct = described(target, endpoint)
    if secrets is not None:
        about.headers.check_variables(secrets)
    given = {
        "budget": budget,
        "rate": rate,
        "concurrency": concurrency,
        "timeout": timeout,
        "attempts": attempts,
        "patience": patience,
        "max_bytes": max_bytes,
    }
    conduct |= {k: v for k, v in given.items() if v is not None}
    unknown = sorted(set(conduct) - set(given))
    if unknown:
        raise EndpointError("http", unknown[0], "a setting of an endpoint", "an unknown name")
    return HttpSuspect(about, Conduct(**conduct), cache=cache, ca=ca, seed=seed)


class HttpSuspect(Suspect):
    """See :func:`open_http`, which makes it. Any thread may use and close it, one at a time.

    Attributes:
        ledger: what was sent so far.
    """

    costly = True
    replay = "endpoint"

    def __init__(
        self,
        endpoint: Endpoint,
        conduct: Conduct,
        *,
        cache: str | os.PathLike[str] | None = None,
        ca: str | None = None,
        seed: int = 0,
    ) -> None:
        self.name = endpoint.name or shown_url(endpoint.url)
        self.endpoint = replace(endpoint, name=self.name)
        self.output, self.conduct = endpoint.output, conduct
        self.ledger = Ledger(conduct.budget)
        self._form: HttpForm = (
            OpenInference(self.endpoint) if endpoint.form == "oip" else JsonForm(self.endpoint)
        )
        self._cache, self._ca, self._seed = Cache(cache), ca, seed
        self._prepared: tuple[int, ...] | None = None
        self._stage = count()
        self._said: dict[str, None] = {}  # in the order in which it was noticed
        self._first: Answers | None = None
        self._kept: tuple[Tensor, Any] | None = None  # an image of the first stage, and its answer

    def __repr__(self) -> str:
        return f"HttpSuspect({self.name})"

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Images a request."""
        return self._form.batch

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What was noticed of the server, and how it is asked."""
        return (*self._said, *self._form.notes)

    @property
    def source(self) -> dict[str, Any]:
        """URL (without query), form, how images are sent, what was spent, and ``endpoint_sha256``.

        The last is of all that the endpoint was described by, its URL's query as well, and secrets as they
        are written, ``${NAME}``: what differs there is another suspect. Name and batch size do not count.
        """
        return {
            "kind": "http",
            "name": self.name,
            "url": shown_url(self.endpoint.url),
            "endpoint_sha256": hashlib.sha256(json.dumps(self._about(), **PLAIN).encode()).hexdigest(),
            "form": self.endpoint.form,
            "images": vars(self._form.images),
            "headers": sorted(self.endpoint.headers.written),
            "classes": None if self.endpoint.classes is None else list(self.endpoint.classes),
            **asdict(self.ledger),
        }

    @property
    def spent(self) -> dict[str, Any]:
        """What was sent, of what was allowed."""
        return asdict(self.ledger)

    def close(self) -> None:
        """Close the cache; once more does nothing."""
        self._cache.close()

    def answer(self, images: Tensor) -> Tensor:
        """See :meth:`Suspect.answer`; from the cache where it was asked before."""
        with self._covered():
            return self.table(run_coroutine(self._asked(images.numpy().astype(np.float32), None)), None)

    @contextmanager
    def _covered(self) -> Iterator[None]:
        """No error shows what the server said, if that may hold a secret."""
        try:
            yield
        except InputError as exc:
            told = self.endpoint.headers.cover(exc)
            if told is exc:
                raise
            raise told from None

    def answers_to(self, chunks: Iterable[Tensor], classes: int | None = None) -> Answers:
        """Ask for images that come in chunks, in an order drawn at random; answers stand in theirs.

        Raises:
            as :meth:`Suspect.answers_to`; UnavailableError as well when the budget is spent: what was
            answered until then is kept, and not asked again.
            EndpointError: the endpoint refuses such requests, or has to be described better.
            StorageError: no place for the images, or for the answers.
        """
        with self._covered(), spooled_images(chunks) as images:
            if not len(images):
                return detect(torch.zeros(0, classes or 2), self.name, rows=0, classes=classes)
            rows = run_coroutine(self._asked(images, classes))
            found, count, output = self.table(rows, classes), len(rows), self.output
        answers = detect(found, self.name, rows=count, classes=classes, output=output, like=self._first)
        self._first = self._first or answers  # how the first are read holds for all
        return answers

    def plan(self, stages: Iterable[Iterable[Tensor]], classes: int | None = None) -> Plan:
        """What asking for all these would come to. Only metadata is asked for, where the form has any.

        Args:
            stages: for each stage of an examination its images, as :meth:`answers_to` takes them.
            classes: K, where known.

        Raises:
            as :meth:`answers_to`.
        """
        found = Plan()
        for stage in stages:
            with self._covered(), spooled_images(stage) as images:
                if len(images):
                    found = run_coroutine(self._planned(images, classes, found))
        return found

    # -- asking --------------------------------------------------------------------------------------
    def _client(self) -> Client:
        plain = self.endpoint.url.startswith("http:")
        given = (self.name, self.endpoint.headers, self.conduct, self.ledger)
        return Client(*given, ca=self._ca, plain=plain)

    async def _prepare(self, client: Client, shape: tuple[int, ...]) -> bytes:
        """Know the server; what answers depend on besides the image."""
        if self._prepared != shape:
            await self._form.prepare(client, *shape)
            self._prepared = shape
        return json.dumps([self._about(), self._form.settings()], **PLAIN).encode()

    def _about(self) -> dict[str, Any]:
        """What it was described by, secrets by their names."""
        about = {k: v for k, v in vars(self.endpoint).items() if k not in ("name", "batch_size")}
        return {**about, "headers": self.endpoint.headers.written}

    async def _asked(self, images: ImageArray, classes: int | None) -> list[Any]:
        """Rows for ``[N,C,H,W]``: those that are known, and the others asked in batches."""
        classes = len(self.endpoint.classes) if self.endpoint.classes else classes
        async with self._client() as client:
            settings = await self._prepare(client, images.shape[1:])
            tape = None if self.tape is None else RedactedTape(self.tape, self.endpoint.headers)
            asked = HttpRun(client, self._form, self._cache, settings, classes, images, self.say, tape)
            draw = np.random.default_rng([self._seed, next(self._stage)])
            await asked.ask(draw.permutation(len(images)))
            if asked.fresh:
                await self._probe(asked, draw)
            return asked.rows

    async def _planned(self, images: ImageArray, classes: int | None, so_far: Plan) -> Plan:
        classes = len(self.endpoint.classes) if self.endpoint.classes else classes
        requests = so_far.requests
        async with self._client() as client:
            before = self.ledger.requests
            settings = await self._prepare(client, images.shape[1:])
            requests += self.ledger.requests - before
        form, missing, size = self._form, 0, 0
        shape = form.images.shape(*images.shape[1:])
        left: list[Payload] = []
        for start in range(0, len(images), form.batch):
            payloads = form.images.encode(writable_tensor(images[start : start + form.batch]))
            known = self._cache.get([key(settings, p) for p in payloads])
            left += [p for p, row in zip(payloads, known, strict=True) if row is None]
            missing += sum(row is None for row in known)
            while len(left) >= form.batch or (left and start + form.batch >= len(images)):
                part, left = left[: form.batch], left[form.batch :]
                size += form.request(part, shape, classes).size
                requests += 1
        again = min(probes.FIRST + 1, missing)
        single = form.request(payloads[:1], shape, classes).size
        return Plan(
            images=so_far.images + len(images),
            cached=so_far.cached + len(images) - missing,
            queries=so_far.queries + missing + again,
            requests=requests + again,
            bytes=so_far.bytes + size + again * single,
        )

    # -- reading -------------------------------------------------------------------------------------
    def table(self, rows: Sequence[Any], classes: int | None) -> Tensor:
        """Rows as a table; see :func:`uapfast.suspects.http_rows.table`."""
        labels = self.endpoint.classes
        if labels is None and any(isinstance(_label(r), str) for r in rows):
            self.say("its labels were read as class numbers")
        return table(rows, labels, classes, self.name)

    def say(self, sentence: str) -> None:
        """Add to the notes, once."""
        self._said.setdefault(sentence)

    # -- checking ------------------------------------------------------------------------------------
    async def _probe(self, asked: HttpRun, draw: np.random.Generator) -> None:
        """Ask some images again, one by one and past the cache; raises SuspectError as ``probes.judged``."""
        chosen = draw.permutation(asked.fresh)[: probes.FIRST].tolist()
        if not self.ledger.allows(len(chosen) + (self._kept is not None)):
            self.say(NOT_PROBED)
            return
        once = await asked.singly(chosen)
        if self._kept is not None:
            image, row = self._kept
            now = await asked.sent(image)
            if probes.rows_differ(self._matrix([row], asked.classes), self._matrix([now], asked.classes)):
                self.say("an answer changed between the first images asked and the last")
        self._kept = self._kept or (writable_tensor(asked.images[chosen[:1]]), asked.rows[chosen[0]])
        both = self._matrix([*once, *(asked.rows[i] for i in chosen)], asked.classes)
        if not probes.rows_differ(both[: len(chosen)], both[len(chosen) :]):
            return
        chosen = draw.permutation(asked.fresh)[: probes.MORE].tolist()
        if not self.ledger.allows(2 * len(chosen)):
            self.say("an answer changed when it was asked again; the budget allows no closer look")
            return
        once, again = await asked.singly(chosen), await asked.singly(chosen)
        others = [i for i in asked.fresh if i not in chosen][:64] or chosen
        batch = [asked.rows[i] for i in chosen]
        full = self._matrix([*batch, *once, *again, *(asked.rows[i] for i in others)], asked.classes)
        n = len(chosen)
        said = probes.judged(full[:n], full[n : 2 * n], full[2 * n : 3 * n], full[3 * n :], self.name)
        if said is not None:
            self._said = {said: None, **self._said}

    def _matrix(self, rows: Sequence[Any], classes: int | None) -> NDArray[np.float64]:
        return table(rows, self.endpoint.classes, classes, self.name).numpy().astype(np.float64)


def _label(row: Any) -> Any:
    return row[0][0] if isinstance(row, tuple) and row else row


__all__ = ["HttpSuspect", "Plan", "open_http"]
