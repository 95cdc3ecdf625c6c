"""A small service that holds references and verifies suspects on request. An example to start from.

    pip install '.[service]'
    python examples/service.py references/ --arch cnn='uapfast:cnn-small?channels=1&classes=10&size=28'

    curl localhost:8000/references
    curl --data-binary @suspect.safetensors 'localhost:8000/references/victim/verify?arch=cnn'

`references/` holds files that `uapfast generate` wrote; a reference is called by its file's stem.

| request | answer |
|---|---|
| `GET /references` | what is held |
| `POST /references/NAME/verify?arch=ARCH[&alpha=A]`, body: a weights file | a verdict |
| `GET /references/NAME/queries` (only with `--hand-out`) | safetensors: `queries` `[Q,C,H,W]` in 0..1 |
| `POST /references/NAME/answers[?alpha=A]`, body: safetensors, `answers` `[Q,K]` or `[Q]` | a verdict |

A verdict is `Verdict.to_dict()`; a suspect that cannot be used (NaN) is `invalid`, with status 200. Anything
else that is wrong is `{"error": CLASS, "message": ...}` with a 4xx status (503 and 504: busy, too slow).
A client that is silent, or slow with its headers, body or the reading of its answer, is cut off.
Uploads are hostile input: they go through `uapfast.safeload`, and ARCH is a name that the operator set up,
never a SPEC or a file of the client's. Whoever sees the queries can prepare a suspect for them: hand them
out to nobody but those who ask it for you.

References are immutable and shared by all requests. At most `workers` verifications run at a time, in
threads, so that the event loop stays free; more than `waiting` others are turned away. No authentication,
no TLS, no limit for one client: use a proxy that has them. docs/service.md says what else to think of.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

import uapfast
from uapfast import errors
from uapfast.config import ALPHA
from uapfast.examination.calibration import reference_summary
from uapfast.models.checkpoint import fill, read_weights
from uapfast.models.model import Model
from uapfast.models.registry import resolve_arch
from uapfast.reference import Reference
from uapfast.safeload import Limits
from uapfast.verbs.verify import invalid

# first match wins
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.TooLargeError, 413),
    (errors.UnsupportedFileError, 415),
    (errors.CorruptFileError, 400),
    (errors.UnsafeFileError, 422),
    (errors.ModelError, 422),
    (errors.SuspectError, 422),
    (errors.InputError, 400),
    (errors.SandboxError, 503),
)


@dataclass(frozen=True)
class Config:
    """What the operator decides.

    Attributes:
        archs: name that clients use -> architecture SPEC.
        upload_bytes: of one request's body, at most.
        workers: verifications at a time.
        waiting: requests that may wait for a worker.
        requests: answered at a time, bodies that still arrive included; further ones get 503.
        connections: open at a time; for one more, whichever has sent no headers for longest is closed.
        header_seconds: for the headers of a request, from the opening of a connection or the last answer.
        upload_seconds: for the next part of a body to arrive.
        body_seconds: for a whole body.
        verify_seconds: until a client is told that it takes too long; the work goes on, and its worker is not
            free before it ends.
        answer_seconds: for a client to read its answer.
        hand_out: whether queries are handed out.
    """

    archs: Mapping[str, str] = field(default_factory=dict)
    upload_bytes: int = 64 << 20
    workers: int = 2
    waiting: int = 16
    requests: int = 64
    connections: int = 512
    header_seconds: float = 10.0
    upload_seconds: float = 30.0
    body_seconds: float = 120.0
    verify_seconds: float = 120.0
    answer_seconds: float = 60.0
    hand_out: bool = False


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, error: str, message: str) -> None:
        self.status, self.error, self.message = status, error, message


class Desk:
    """References, and the workers that verify; shared by all requests, changed by none."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.config = config
        self.references = {path.stem: uapfast.load(path) for path in sorted(folder.glob("*.uapref"))}
        if not self.references:
            raise errors.InputError("service", "folder", "one with reference files (*.uapref)", folder)
        for spec in config.archs.values():
            resolve_arch(spec)  # a typing mistake ends the start, not a request
        for reference in self.references.values():
            reference.statistic.scorer()
        self.limits = Limits(file_bytes=config.upload_bytes, tensor_bytes=4 * config.upload_bytes)
        self.pool = ThreadPoolExecutor(config.workers, thread_name_prefix="verify")
        self.under_way = 0  # of the event loop's thread alone

    def reference(self, name: str) -> Reference:
        """The reference called ``name``."""
        if name not in self.references:
            raise Refusal(404, "UnknownReference", f"no reference {name[:80]!r}: GET /references lists them")
        return self.references[name]

    async def work(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run ``call`` on a worker; turned away at once where too many wait, told off where it takes long."""
        if self.under_way >= self.config.workers + self.config.waiting:
            raise Refusal(503, "Busy", f"{self.under_way} verifications under way or waiting: try again")
        self.under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self.pool, call)
        future.add_done_callback(self._ended)
        done, _ = await asyncio.wait({future}, timeout=self.config.verify_seconds)
        if not done:
            raise Refusal(504, "TimeLimitError", f"no verdict within {self.config.verify_seconds:g} s")
        return future.result()

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self.under_way -= 1
        if not future.cancelled():
            future.exception()  # a client that has gone asks no more for it

    # -- on a worker ---------------------------------------------------------------------------------
    def weights(self, reference: Reference, path: Path, spec: str, alpha: float) -> dict[str, Any]:
        """Verify a network that is filled with an uploaded file."""
        state = read_weights(path, self.limits)
        module = resolve_arch(spec)()
        try:
            fill(module, state, "upload")
            return uapfast.verify(reference, Model(module, name="upload", arch=spec), alpha=alpha).to_dict()
        except errors.SuspectError as exc:  # NaN or infinite weights
            return invalid(reference, exc, alpha=alpha).to_dict()

    def answers(self, reference: Reference, path: Path, alpha: float) -> dict[str, Any]:
        """Verify answers that were given elsewhere."""
        found = read_weights(path, self.limits)
        if set(found) != {"answers"} or found["answers"].shape[:1] != (reference.plan.queries,):
            got = ", ".join(f"{k[:40]} {list(v.shape)}" for k, v in list(found.items())[:4])
            rule = f"one tensor 'answers' with {reference.plan.queries} rows"
            raise errors.InputError("service", "answers", rule, got)
        return uapfast.verify(reference, Recorded(found["answers"]), alpha=alpha).to_dict()


class Recorded:
    """Answers that were given before, row by row in the order of the queries: a suspect like any other."""

    def __init__(self, answers: torch.Tensor) -> None:
        self._answers, self._given = answers, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The next rows."""
        self._given += len(images)
        return self._answers[self._given - len(images) : self._given]


async def receive(request: Request, path: Path, config: Config) -> None:
    """Write a request's body to a file, part by part; no more of it than allowed, no longer than allowed."""
    too_large = Refusal(413, "TooLargeError", f"a body must be of at most {config.upload_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared) > config.upload_bytes:
        raise too_large
    size, parts = 0, request.stream().__aiter__()
    end = time.monotonic() + config.body_seconds
    with open(path, "wb") as file:
        while True:
            left = min(config.upload_seconds, end - time.monotonic())
            try:
                part = await asyncio.wait_for(anext(parts, None), max(left, 0.0))
            except TimeoutError:
                rule = f"the body must keep coming and end within {config.body_seconds:g} s"
                raise Refusal(408, "UploadTimeout", rule) from None
            if part is None:
                return
            size += len(part)
            if size > config.upload_bytes:
                raise too_large
            await asyncio.to_thread(file.write, part)


def create_app(folder: Path, config: Config) -> FastAPI:
    """The service over the references in ``folder``."""
    desk = Desk(folder, config)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="uapfast", lifespan=life)
    app.state.desk = desk
    app.add_middleware(Bounded, most=config.requests)

    @app.exception_handler(Refusal)
    async def refused(_: Request, exc: Refusal) -> JSONResponse:
        return JSONResponse({"error": exc.error, "message": exc.message}, exc.status)

    @app.exception_handler(errors.UapfastError)
    async def typed(_: Request, exc: errors.UapfastError) -> JSONResponse:
        status = next((code for kind, code in STATUS if isinstance(exc, kind)), 500)
        return JSONResponse({"error": type(exc).__name__, "message": str(exc)}, status)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, exc: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        return JSONResponse({"error": "InputError", "message": said[:500]}, 400)

    @app.get("/references")
    async def references() -> list[dict[str, Any]]:
        keys = ("sha256", "encoder", "classes", "input", "queries", "pool")
        return [
            {"name": name, "archs": sorted(config.archs)} | {key: summary[key] for key in keys}
            for name, summary in summaries.items()
        ]

    @app.post("/references/{name}/verify")
    async def verify(name: str, arch: str, request: Request, alpha: float = ALPHA) -> dict[str, Any]:
        reference = desk.reference(name)
        if arch not in config.archs:
            rule = ", ".join(sorted(config.archs)) or "none is configured"
            raise Refusal(400, "UnknownArch", f"arch must be one of {rule}, got {arch[:80]!r}")
        return await with_upload(
            request, lambda path: desk.weights(reference, path, config.archs[arch], alpha)
        )

    @app.post("/references/{name}/answers")
    async def answers(name: str, request: Request, alpha: float = ALPHA) -> dict[str, Any]:
        reference = desk.reference(name)
        return await with_upload(request, lambda path: desk.answers(reference, path, alpha))

    @app.get("/references/{name}/queries")
    async def queries(name: str) -> Response:
        reference = desk.reference(name)
        if not config.hand_out:
            raise Refusal(403, "NotHandedOut", "queries are secret here (--hand-out)")
        return Response(await asyncio.to_thread(packed, reference), media_type="application/octet-stream")

    async def with_upload(request: Request, call: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Receive the body, work on it, and leave nothing behind."""
        place = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="uapfast-")
        path = Path(place.name) / "upload"

        def work() -> dict[str, Any]:
            with place:
                return call(path)

        try:
            await receive(request, path, config)
        except BaseException:
            place.cleanup()
            raise
        try:
            return await desk.work(work)
        except Refusal as exc:
            if exc.status == 503:
                place.cleanup()
            raise
        except errors.UapfastError as exc:
            exc.args = tuple(str(a).replace(str(path), "upload") for a in exc.args)
            raise

    summaries = {name: reference_summary(reference) for name, reference in desk.references.items()}
    return app


class Bounded:
    """Answers 503 where more than ``most`` requests are under way, before they cost anything."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most, self.under_way = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.under_way >= self.most:
            said = {"error": "Busy", "message": f"{self.under_way} requests under way: try again"}
            await JSONResponse(said, 503, {"Connection": "close"})(scope, receive, send)
        else:
            self.under_way += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.under_way -= 1


def deadlines(config: Config) -> type[H11Protocol]:
    """The HTTP protocol of uvicorn, with the deadlines that it lacks, for ``uvicorn.Config(http=...)``.

    One timer a connection: until headers are whole, then until their request is answered. A client that
    sends a byte now and then does not move it.
    """
    whole = config.body_seconds + config.verify_seconds + config.answer_seconds
    silent: dict[H11Protocol, None] = {}  # without a request under way; the one that is so for longest first

    class Deadlines(H11Protocol):
        timer: asyncio.TimerHandle | None = None
        answering: object = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.wait_for_headers()
            if len(self.connections) > config.connections and silent:
                next(iter(silent)).transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.look()

        def on_response_complete(self) -> None:
            self.wait_for_headers()
            super().on_response_complete()  # may begin with a request that came before its turn
            self.look()

        def connection_lost(self, exc: Exception | None) -> None:
            silent.pop(self, None)
            if self.timer is not None:
                self.timer.cancel()
            super().connection_lost(exc)

        def look(self) -> None:
            """Whether a request has begun."""
            if (
                self.cycle is not None
                and self.cycle is not self.answering
                and not self.cycle.response_complete
            ):
                self.answering = self.cycle
                silent.pop(self, None)
                self.arm(whole)

        def wait_for_headers(self) -> None:
            silent.pop(self, None)
            silent[self] = None
            self.arm(config.header_seconds)

        def arm(self, seconds: float) -> None:
            if self.timer is not None:
                self.timer.cancel()
            self.timer = self.loop.call_later(seconds, self.transport.abort)

    return Deadlines


def packed(reference: Reference) -> bytes:
    """All queries of a reference as a safetensors file."""
    return safetensors.torch.save({"queries": torch.cat(list(reference.plan.chunks())).contiguous()})


def main() -> None:
    """Serve on loopback."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with reference files (*.uapref)")
    parser.add_argument("--arch", action="append", default=[], metavar="NAME=SPEC", help="offered to clients")
    parser.add_argument("--hand-out", action="store_true", help="hand queries out to whoever asks")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    archs = dict(pair.split("=", 1) for pair in given.arch)
    config = Config(archs, workers=given.workers, hand_out=given.hand_out)
    torch.set_num_threads(1)  # requests share the cores out among them
    app = create_app(given.folder, config)
    uvicorn.run(app, host=given.host, port=given.port, http=deadlines(config), ws="none")


if __name__ == "__main__":
    main()
