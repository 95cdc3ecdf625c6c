"""Requests to one endpoint: within budget, rate and time, with retries; responses are capped."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from uapfast.errors import (
    EndpointError,
    InputError,
    MissingDependency,
    SuspectError,
    UapfastError,
    UnavailableError,
    how_to_install,
)
from uapfast.suspects.http_conduct import Conduct, Ledger, Pace
from uapfast.suspects.http_headers import HIDDEN, Headers, shown_url
from uapfast.suspects.http_rows import short
from uapfast.suspects.record_writer import now

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)
T = TypeVar("T")
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})  # may be well the next time
WAIT_FIRST, WAIT_MOST = 0.2, 15.0  # seconds between attempts, where the server does not say
QUOTED = 2048  # bytes of a refusal that are read
PIECE = 2**20  # bytes of a body that are sent at a time


@dataclass(frozen=True)
class HttpRequest:
    """One request: where, what, and with which headers besides those of the endpoint.

    Attributes:
        body: its parts, one after the other; large ones are not copied.
    """

    url: str
    method: str = "GET"
    body: Sequence[bytes | memoryview] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(len(part) for part in self.body)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body in pieces of ``PIECE`` bytes: a socket that is handed all at once keeps a copy of it."""
        held: list[memoryview] = []
        room = PIECE
        for part in self.body:
            left = memoryview(part)
            while len(left):
                held.append(left[:room])
                left, room = left[room:], room - len(held[-1])
                if not room:
                    yield b"".join(held)
                    held, room = [], PIECE
        if held:
            yield b"".join(held)


@dataclass
class Attempt:
    """One attempt at a request, for the record.

    Attributes:
        request: its number, from 1 on.
        attempt: of the same question, from 1 on.
        at: when it ended, UTC.
        status: of the response, None where none came.
        error: the class of what went wrong, None where nothing did.
        response: that came whole with status 2xx, whether it could be read or not.
    """

    request: int
    attempt: int
    at: str = ""
    status: int | None = None
    error: str | None = None
    response: Response | None = None

    def told(self) -> dict[str, Any]:
        """As the record has it, without the response."""
        names = ("request", "attempt", "at", "status", *(() if self.error is None else ("error",)))
        return {name: getattr(self, name) for name in names}

    def ended(self, error: Exception | None = None) -> Attempt:
        """It ended now."""
        self.at = now()
        self.error = None if error is None else type(error).__name__
        return self


@dataclass(frozen=True)
class Response:
    """A whole response with status 2xx."""

    body: bytes = field(repr=False)
    headers: Mapping[str, str]

    def json(self, where: str, body: bytes | None = None) -> Any:
        """The body, or the part of it that is given, as JSON; raises ``SuspectError`` where it is none."""
        text = self.body if body is None else body
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as exc:
            got = f"{self.headers.get('content-type', 'no content type')}, {short(text)}"
            raise SuspectError(where, "answers", "whole and valid JSON", got) from exc


class Busy(UnavailableError):
    """It may be well the next time; ``wait`` is what the server asked for, in seconds."""

    wait: float | None = None


class Client:
    """Asks one endpoint; an asynchronous context. One event loop.

    Args:
        name: of the endpoint, for errors.
        headers: sent with every request.
        conduct: what may be asked.
        ledger: counts what is.
        ca: PEM file of the authority that signed the server's certificate, where it is a private one.
        plain: whether it is asked over http: no certificate is needed (and none would be trusted).
    """

    def __init__(
        self,
        name: str,
        headers: Headers,
        conduct: Conduct,
        ledger: Ledger,
        *,
        ca: str | None = None,
        plain: bool = False,
    ) -> None:
        self.name, self.headers, self.conduct, self.ledger = name, headers, conduct, ledger
        self.ca, self.plain = ca, plain
        self.under_way: set[asyncio.Task[Any] | None] = set()  # tasks that wait for a response
        self.understood = False  # whether any answer could be read
        self.closing = False  # nothing is tried again
        self._pace = Pace(conduct.interval)

    async def __aenter__(self) -> Client:
        """Open connections as they are needed."""
        try:
            import httpx2
            import stamina
        except ImportError as exc:
            raise MissingDependency(f"http: {exc.name} is needed ({how_to_install('http')})") from exc
        self._stamina = stamina
        theirs = logging.getLogger("stamina")  # warns of every retry, which `ask` tells our own log
        if not theirs.handlers:  # without one Python prints such warnings on stderr
            theirs.addHandler(logging.NullHandler())
        try:
            verify = self._verify()
        except OSError as exc:
            raise EndpointError("http", "ca", "a PEM file of certificates", self.ca) from exc
        filled = {"Accept": "application/json", **self.headers.filled(), "Accept-Encoding": "identity"}
        count = self.conduct.concurrency
        self._http = httpx2.AsyncClient(
            headers=filled,
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            timeout=self.conduct.timeout,
            limits=httpx2.Limits(max_connections=count, max_keepalive_connections=count),
        )
        return self

    def _verify(self) -> ssl.SSLContext | bool:
        if self.plain:  # reading the machine's certificates takes a while
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return ssl.create_default_context(cafile=self.ca) if self.ca else True

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        await self._http.aclose()

    async def ask(
        self,
        request: HttpRequest,
        queries: int,
        read: Callable[[Response], T],
        note: Callable[[Attempt], None] = lambda trip: None,
    ) -> T:
        """Send a request until ``read`` can read the response, ``attempts`` times at most.

        Args:
            request: what to send.
            queries: images in it; what it takes from the budget.
            read: raises SuspectError for what cannot be used; that counts as a failure and is tried again.
            note: told of every attempt as it ends.

        Raises:
            UnavailableError: the budget is spent, or no attempt came back.
            SuspectError: what came back last cannot be used.
            EndpointError: the endpoint refuses such requests.
        """
        attempts = self._stamina.retry_context(
            on=self._again,
            attempts=self.conduct.attempts,
            timeout=None,
            wait_initial=WAIT_FIRST,
            wait_max=WAIT_MOST,
            wait_jitter=WAIT_FIRST,
        )
        async for attempt in attempts:
            with attempt:
                await self._pace.turn()
                self.ledger.spend(queries, request.size)
                trip = Attempt(self.ledger.requests, attempt.num)
                try:
                    found = read(await self._whole(request, trip))
                except Exception as exc:
                    self.ledger.failed += 1
                    note(trip.ended(exc))
                    told = self.headers.cover(exc) if isinstance(exc, InputError) else exc
                    log.info("http: attempt %d at %s: %s", attempt.num, self.name, told)
                    if told is exc:
                        raise
                    raise told from None
                self.understood = True
                note(trip.ended())
                return found
        raise AssertionError("unreachable")

    def _again(self, exc: Exception) -> bool | float:
        """Whether, and after how many seconds, an attempt is repeated."""
        if self.closing:
            return False
        if isinstance(exc, SuspectError):
            return True
        if not isinstance(exc, Busy) or (exc.wait is not None and exc.wait > self.conduct.patience):
            return False
        if exc.wait is None:
            return True
        self._pace.hold(exc.wait)
        return exc.wait

    async def _whole(self, request: HttpRequest, trip: Attempt) -> Response:
        import httpx2

        task = asyncio.current_task()
        self.under_way.add(task)
        try:
            async with asyncio.timeout(self.conduct.timeout):
                return await self._sent(request, trip)
        except UapfastError:
            raise
        except (TimeoutError, httpx2.TimeoutException) as exc:
            said = f"{self.name} does not answer within {self.conduct.timeout:g} seconds"
            raise Busy(f"http: {said}") from exc
        except (httpx2.TransportError, ssl.SSLError, OSError) as exc:
            self._certificate(exc)
            said = self.headers.hide(f"{type(exc).__name__}: {exc}")
            raise Busy(f"http: {self.name} cannot be reached, or broke off: {said}") from exc
        finally:
            self.under_way.discard(task)

    def _certificate(self, exc: BaseException) -> None:
        link: BaseException | None = exc
        while link is not None:
            if isinstance(link, ssl.SSLCertVerificationError):
                rule = "certified by an authority that this machine trusts (or that ca= names)"
                raise EndpointError(self.name, "the server", rule, link.verify_message) from exc
            link = link.__cause__ or link.__context__

    async def _sent(self, request: HttpRequest, trip: Attempt) -> Response:
        headers, size = dict(request.headers), request.size
        if size:
            headers["Content-Length"] = str(size)
        content = request.pieces() if size else None
        sending = self._http.stream(request.method, request.url, content=content, headers=headers)
        async with sending as response:
            trip.status = response.status_code
            if not response.is_success:
                raise await self._refusal(response)
            found = trip.response = Response(await self._capped(response), dict(response.headers))
            self.headers.look_at(found.body)
            self.headers.look_at("\n".join(found.headers.values()).encode())
            return found

    async def _capped(self, response: httpx2.Response) -> bytes:
        most = self.conduct.max_bytes
        coded = response.headers.get("content-encoding", "identity")
        if coded != "identity":
            raise SuspectError(self.name, "answers", "uncompressed, as requested", short(coded))
        size = response.headers.get("content-length", "0")
        parts, total = [], 0
        if not size.isdigit() or int(size) <= most:
            async for part in response.aiter_raw():
                total += len(part)
                self.ledger.received += len(part)
                if total > most:
                    break
                parts.append(part)
            else:
                return b"".join(parts)
        raise SuspectError(self.name, "answers", f"of at most {most} bytes (max_bytes=)", "more")

    async def _refusal(self, response: httpx2.Response) -> Exception:
        status = response.status_code
        text = b""
        async for part in response.aiter_raw():
            text += part[:QUOTED]
            if len(text) >= QUOTED:
                break
        whole, raw = len(text) < QUOTED, text[:QUOTED].decode("utf-8", "replace")
        plain = self.headers.hide(raw)
        if plain != raw and not whole:  # a part of one may stand at the end
            plain = HIDDEN
        said = short(plain, 200) if text else ""
        if status in BUSY:
            wait = _seconds(response.headers.get("retry-after"))
            asked = f", and asks to come back in {wait:.0f} seconds" if wait is not None else ""
            busy = Busy(f"http: {self.name} answers with status {status}{asked} {said}".rstrip())
            busy.wait = wait
            return busy
        if 300 <= status < 400:
            target = self.headers.hide(shown_url(response.headers.get("location", "")))
            return EndpointError(self.name, "url", "the final one; redirects are not followed", target)
        return EndpointError(
            self.name, "requests", RULES.get(status, "accepted"), f"status {status} {said}".rstrip()
        )


RULES = {
    401: "allowed: its headers lack credentials (give them as ${NAME})",
    403: "allowed: the credentials do not suffice",
    404: "for something that is there: URL, name or version of the model",
    405: "of a method that it takes (method=)",
    413: "smaller (batch_size=)",
    415: "of an encoding that it takes (encoding=, form=)",
}


def _seconds(text: str | None) -> float | None:
    """Retry-After, in seconds or as a date."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


__all__ = ["Attempt", "Busy", "Client", "HttpRequest", "Response"]
