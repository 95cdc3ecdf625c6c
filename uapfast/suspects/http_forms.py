"""Forms of requests and answers: what they have in common, and those that are JSON or a bare image."""

from __future__ import annotations

import base64
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from uapfast.errors import EndpointError, SuspectError
from uapfast.suspects.http_client import Client, HttpRequest, Response
from uapfast.suspects.http_endpoint import Endpoint
from uapfast.suspects.http_images import ImageEncoding, Payload
from uapfast.suspects.http_rows import pairs_of, row_of, short

BATCH = 16  # images in a JSON request
IMAGE, IMAGES = "{image}", "{images}"


class HttpForm(ABC):
    """How an endpoint is asked.

    Attributes:
        images: how images are sent.
        batch: images a request.
        notes: what a reader has to know of it.
    """

    images: ImageEncoding
    batch: int
    notes: tuple[str, ...] = ()

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def prepare(self, client: Client, channels: int, height: int, width: int) -> None:  # noqa: B027
        """Ask the server what it has to be known for asking images of this size.

        Raises:
            as :meth:`uapfast.suspects.http_client.Client.ask`.
        """

    @abstractmethod
    def request(
        self, payloads: Sequence[Payload], shape: tuple[int, ...], classes: int | None
    ) -> HttpRequest:
        """A request for images.

        Args:
            payloads: from ``images.encode``.
            shape: of each as numbers.
            classes: how many there are, if known.
        """

    @abstractmethod
    def rows(self, response: Response, count: int) -> list[Any]:
        """The answers in a response, a row (:mod:`uapfast.suspects.http_rows`) for each of ``count`` images.

        Raises:
            SuspectError: it holds something else.
        """

    @abstractmethod
    def reading(self) -> dict[str, Any]:
        """How responses are read, for a record (:mod:`uapfast.suspects.http_reading`); JSON types."""

    def settings(self) -> dict[str, Any]:
        """What answers depend on besides the image and the endpoint's description; JSON types."""
        return {"images": vars(self.images)}


class JsonForm(HttpForm):
    """A JSON request, or a bare image, and a JSON answer in which a path says where answers stand."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.images = self._images()
        self.body = self._body()
        text = json.dumps(self.body)
        self.many = f'"{IMAGES}"' in text
        if self.body is not None and not self.many and f'"{IMAGE}"' not in text:
            raise EndpointError("http", "body", f'with "{IMAGES}" or "{IMAGE}" in it', short(self.body))
        self.batch = (endpoint.batch_size or BATCH) if self.many else 1
        if not self.many and (endpoint.batch_size or 1) != 1:
            rule = f'1, since the request holds one image (body= with "{IMAGES}" holds more)'
            raise EndpointError("http", "batch_size", rule, endpoint.batch_size)
        if self.images.encoding == "jpeg":
            said = "images are sent as JPEG, which destroys much of what is asked: send PNG if it takes that"
            self.notes = (said,)

    def _images(self) -> ImageEncoding:
        e, usual = self.endpoint, {"template": "", "huggingface": "png", "v1": "array"}[self.endpoint.form]
        encoding = e.encoding or usual
        if not encoding:
            raise EndpointError("http", "encoding", "given: png, jpeg, base64, raw or array", "none")
        numbers = encoding in ("raw", "array")
        if numbers and e.layout is None:
            rule = "nchw or nhwc; the server does not say which"
            raise EndpointError("http", "layout", rule, "none")
        return e.sent(encoding=encoding)

    def _body(self) -> Any:
        e = self.endpoint
        if e.form == "huggingface":
            parameters = dict(e.parameters or {})
            return {"inputs": IMAGE, "parameters": {"top_k": "{top_k}", **parameters}}
        if e.form == "v1":
            return {**(e.parameters or {}), "instances": IMAGES}
        return e.body

    def _item(self) -> Any:
        e = self.endpoint
        if e.item is not None:
            return e.item
        if e.form != "v1":
            return IMAGE
        one: Any = IMAGE if self.images.encoding == "array" else {"b64": IMAGE}
        return {e.input: one} if e.input else one

    def _value(self, payload: Payload, shape: tuple[int, ...]) -> bytes:
        """One image as JSON."""
        if self.images.encoding == "array":
            return compact(self.images.numbers(payload).reshape(shape).tolist())
        return b'"' + base64.b64encode(payload) + b'"'

    def request(
        self, payloads: Sequence[Payload], shape: tuple[int, ...], classes: int | None
    ) -> HttpRequest:
        """See :meth:`HttpForm.request`."""
        e = self.endpoint
        if e.multipart is not None:
            return self._multipart(payloads[0])
        if self.body is None:
            return HttpRequest(_url(e), e.method, [self._bare(payloads[0])], {"Content-Type": self._kind()})
        text = json.dumps(self.body)
        if '"{top_k}"' in text:
            count = e.top_k or classes
            without = text.replace('"top_k": "{top_k}", ', "").replace('"top_k": "{top_k}"', "")
            text = without if count is None else text.replace('"{top_k}"', str(count))
        values = [self._value(p, shape) for p in payloads]
        if not self.many:
            body = _filled(text, IMAGE, values[:1])
        else:
            item, each = json.dumps(self._item()), list[bytes]()
            for value in values:
                each += [b",", *_filled(item, IMAGE, [value])]
            body = _filled(text, IMAGES, [b"[", *each[1:], b"]"])
        return HttpRequest(_url(e), e.method, body, {"Content-Type": "application/json"})

    def _bare(self, payload: Payload) -> bytes:
        return base64.b64encode(payload) if self.images.encoding == "base64" else bytes(payload)

    def _kind(self) -> str:
        kinds = {"png": "image/png", "jpeg": "image/jpeg", "base64": "text/plain"}
        return kinds.get(self.images.encoding, "application/octet-stream")

    def _multipart(self, payload: Payload) -> HttpRequest:
        mark = secrets.token_hex(16)
        place = f'form-data; name="{self.endpoint.multipart}"; filename="image"'
        head = f"--{mark}\r\nContent-Disposition: {place}\r\nContent-Type: {self._kind()}\r\n\r\n"
        body = [head.encode(), self._bare(payload), f"\r\n--{mark}--\r\n".encode()]
        kind = f"multipart/form-data; boundary={mark}"
        return HttpRequest(_url(self.endpoint), self.endpoint.method, body, {"Content-Type": kind})

    def reading(self) -> dict[str, Any]:
        """See :meth:`HttpForm.reading`."""
        e = self.endpoint
        usual = "predictions" if e.form == "v1" else ""
        paths = {"scores": e.scores, "labels": e.labels, "usual": usual}
        keys = {"label_key": e.label_key, "score_key": e.score_key}
        return {"form": "json", "many": self.many, **paths, **keys}

    def rows(self, response: Response, count: int) -> list[Any]:
        """See :meth:`HttpForm.rows`."""
        e, where = self.endpoint, str(self.endpoint.name)
        answer = response.json(where)
        usual = self.reading()["usual"]
        if e.scores is not None and e.labels is not None:
            scores, labels = at(answer, e.scores, where), at(answer, e.labels, where)
            both = zip(labels, scores, strict=False) if self.many else [(labels, scores)]
            found = [pairs_of(a, b, where) for a, b in both]
        else:
            path = e.scores if e.scores is not None else e.labels if e.labels is not None else usual
            value = at(answer, path, where)
            if self.many and not isinstance(value, list):
                raise SuspectError(where, "answers", f"a list of {count}, one per image", short(value))
            each = value if self.many else [value]
            if len(each) == count:
                return [row_of(v, where, e.label_key, e.score_key) for v in each]
            found = each
        if len(found) != count:
            raise SuspectError(where, "answers", f"{count}, one per image", len(found))
        return found


def _url(e: Endpoint) -> str:
    if e.form == "v1" and ":" not in e.url.rpartition("/")[2]:
        return f"{e.url.rstrip('/')}:predict"
    return e.url


def compact(value: Any) -> bytes:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def _filled(text: str, mark: str, values: Sequence[bytes]) -> list[bytes]:
    """JSON in parts, with ``values`` where the string ``mark`` stands."""
    first, *others = text.encode().split(f'"{mark}"'.encode())
    return [first, *(part for other in others for part in (*values, other))]


def at(value: Any, path: str, where: str) -> Any:
    """What stands at a path: keys and indices with dots between, ``*`` for every item.

    Raises:
        SuspectError: nothing stands there.
    """
    steps = [s for s in path.replace("[", ".").replace("]", "").split(".") if s not in ("", "$")]
    for n, step in enumerate(steps):
        if step == "*" and isinstance(value, list):
            return [at(v, ".".join(steps[n + 1 :]), where) for v in value]
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            got = ", ".join(map(str, value))[:100] if isinstance(value, dict) else short(value)
            raise SuspectError(where, "answers", f"an object with {path!r} (it has no {step!r})", got)
    return value


__all__ = ["HttpForm", "JsonForm", "at", "compact"]
