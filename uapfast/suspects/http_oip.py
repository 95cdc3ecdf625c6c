"""The Open Inference Protocol, version 2 (KServe, Triton, MLServer and others): metadata, then ``/infer``."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uapfast.errors import EndpointError, SuspectError
from uapfast.models.unpack import KEYS
from uapfast.suspects.http_client import Client, HttpRequest, Response
from uapfast.suspects.http_endpoint import Endpoint
from uapfast.suspects.http_forms import HttpForm, compact
from uapfast.suspects.http_images import DATATYPES, Payload
from uapfast.suspects.http_rows import row_of, short

BATCH = 64
JSON_SIZE = "Inference-Header-Content-Length"
KINDS = {
    **{name: np.dtype(kind).newbyteorder("<") for name, kind in DATATYPES.items()},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (16, 32, 64)},
}
CLASSIFIED = re.compile(r"([-+0-9.eE]+|nan|-?inf):(\d+)(?::.*)?", re.DOTALL)
UNKNOWN = -1
DATA = "{images}"  # stands for the numbers of all images


class OpenInference(HttpForm):
    """A tensor in, a tensor out."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.url = endpoint.url.rstrip("/").removesuffix("/infer")
        self.images = endpoint.sent(encoding="raw")
        if self.images.is_file:
            rule = "raw (binary where the server announces it, else JSON) or array (JSON)"
            raise EndpointError("http", "encoding", rule, self.images.encoding)
        self.batch = endpoint.batch_size or BATCH
        self.binary = False
        self.input = endpoint.input
        self.output = endpoint.output_name
        self.batched = True
        self.about: dict[str, Any] = {}

    # -- what the server says of itself --------------------------------------------------------------
    async def prepare(self, client: Client, channels: int, height: int, width: int) -> None:
        """Read the model's metadata and the server's extensions; two requests."""
        where = client.name
        about = await client.ask(HttpRequest(self.url), 1, lambda r: _object(r, where))
        root = self.url[: self.url.index("/v2/models/")] + "/v2"
        server = await client.ask(HttpRequest(root), 1, lambda r: _object(r, where))
        extensions = server.get("extensions")
        announced = isinstance(extensions, list) and "binary_tensor_data" in extensions
        self.binary = announced and self.endpoint.encoding != "array"
        inputs, outputs = _tensors(about.get("inputs")), _tensors(about.get("outputs"))
        self.input, tensor = self._chosen_input(inputs, where)
        kind = str(tensor.get("datatype") or self.endpoint.datatype or "")
        if kind not in DATATYPES:
            rule = f"one of {', '.join(DATATYPES)} (datatype=)"
            raise EndpointError(where, f"datatype of input {self.input}", rule, kind or "none")
        usual: dict[str, Any] = {"encoding": "raw", "datatype": kind, "scale": 255 if kind == "UINT8" else 1}
        told = tensor.get("shape")
        layout = self._layout(told if isinstance(told, list) else [], (channels, height, width), where)
        self.images = self.endpoint.sent(**{**usual, **({"layout": layout} if layout else {})})
        self.output = self._chosen_output(outputs, where)
        known = {k: about.get(k) for k in ("name", "versions", "platform", "inputs", "outputs")}
        self.about = {k: v for k, v in known.items() if v}

    def _chosen_input(self, inputs: list[dict[str, Any]], where: str) -> tuple[str, dict[str, Any]]:
        wanted = self.endpoint.input
        fitting = [t for t in inputs if wanted is None or t["name"] == wanted]
        if len(fitting) == 1:
            return str(fitting[0]["name"]), fitting[0]
        if wanted is not None and not inputs:  # KServe's custom models tell nothing
            return wanted, {}
        named = ", ".join(str(t["name"]) for t in inputs) or "no inputs in its metadata"
        raise EndpointError(where, "input", "the name of the one that takes images (input=)", named)

    def _chosen_output(self, outputs: list[dict[str, Any]], where: str) -> str | None:
        names = [str(t["name"]) for t in outputs]
        wanted = self.endpoint.output_name
        if wanted is not None:
            if names and wanted not in names:
                raise EndpointError(where, "output_name", "one of " + ", ".join(names), wanted)
            return wanted
        known = [n for n in names if n in KEYS]
        if len(names) > 1 and len(known) != 1:
            rule = "the name of the output that holds the answers (output_name=)"
            raise EndpointError(where, "output", rule, ", ".join(names))
        return known[0] if len(known) == 1 else names[0] if names else None

    def _layout(self, shape: list[Any], image: tuple[int, int, int], where: str) -> str | None:
        sizes = [s if isinstance(s, int) else UNKNOWN for s in shape]
        channels, height, width = image
        height, width = self.endpoint.size or (height, width)
        if not sizes:
            self._told_layout(where)
            return None
        self.batched = len(sizes) == 4
        if not self.batched or sizes[0] == 1:
            self.batch = 1
        elif sizes[0] > 1:
            raise EndpointError(where, "its batch size", "1 or variable (-1)", sizes[0])
        kinds = {"nchw": [channels, height, width], "nhwc": [height, width, channels]}
        fitting = [n for n, want in kinds.items() if _fits(sizes[-3:], want)] if len(sizes) in (3, 4) else []
        if not fitting:
            rule = f"for images of {channels} x {height} x {width} (size= resizes them)"
            raise EndpointError(where, f"shape of input {self.input}", rule, shape)
        if self.endpoint.layout is not None and self.endpoint.layout not in fitting:
            raise EndpointError(where, "layout", f"{fitting[0]}, by its metadata", self.endpoint.layout)
        if len(fitting) > 1:
            self._told_layout(where)
        return fitting[0]

    def _told_layout(self, where: str) -> None:
        if self.endpoint.layout is None:
            raise EndpointError(where, "layout", "nchw or nhwc; its metadata does not say which", "none")

    def settings(self) -> dict[str, Any]:
        """See :meth:`HttpForm.settings`."""
        return {**super().settings(), "about": self.about, "output": self.output}

    # -- asking --------------------------------------------------------------------------------------
    def request(
        self, payloads: Sequence[Payload], shape: tuple[int, ...], classes: int | None
    ) -> HttpRequest:
        """See :meth:`HttpForm.request`."""
        full = [len(payloads), *shape] if self.batched else [*shape]
        tensor: dict[str, Any] = {"name": self.input, "shape": full, "datatype": self.images.datatype}
        wanted: dict[str, Any] = {}
        if self.endpoint.classification:
            count = self.endpoint.top_k or classes
            if count is None:
                raise EndpointError("http", "top_k", "the number of classes", "none")
            wanted["classification"] = count
        elif self.binary:
            wanted["binary_data"] = True
        body: dict[str, Any] = {"inputs": [tensor]}
        if self.output is not None:
            body["outputs"] = [{"name": self.output, **({"parameters": wanted} if wanted else {})}]
        elif self.endpoint.classification:
            raise EndpointError("http", "output_name", "given for classification answers", "none")
        if self.endpoint.parameters:
            body["parameters"] = dict(self.endpoint.parameters)
        url = f"{self.url}/infer"
        if not self.binary:
            tensor["data"] = [DATA]
            head, _, tail = compact(body).partition(compact(DATA))
            parts = [head]  # image by image: numbers as Python objects take ten times their room
            for payload in payloads:
                parts += [compact(self.images.numbers(payload).tolist())[1:-1], b","]
            return HttpRequest(url, "POST", [*parts[:-1], tail], {"Content-Type": "application/json"})
        tensor["parameters"] = {"binary_data_size": sum(len(p) for p in payloads)}
        text = compact(body)
        headers = {"Content-Type": "application/octet-stream", JSON_SIZE: str(len(text))}
        return HttpRequest(url, "POST", [text, *payloads], headers)

    # -- reading -------------------------------------------------------------------------------------
    def reading(self) -> dict[str, Any]:
        """See :meth:`HttpForm.reading`."""
        return {"form": "oip", "output": self.output, "batched": self.batched}

    def rows(self, response: Response, count: int) -> list[Any]:
        """See :meth:`HttpForm.rows`."""
        where, size = str(self.endpoint.name), response.headers.get(JSON_SIZE.lower())
        head, tail = response.body, b""
        if size is not None:
            length = int(size) if size.isdigit() and len(size) < 12 else -1
            if not 0 <= length <= len(response.body):
                raise SuspectError(where, "answers", "as long as their header says", size)
            head, tail = response.body[:length], response.body[length:]
        tensor, data = self._tensor(response.json(where, head), tail, where)
        shape = tensor.get("shape")
        if isinstance(data, np.ndarray):
            values = _shaped(data, shape, where)
            if not self.batched and (values.ndim == 1 or len(values) != 1) and count == 1:
                values = values[None]
            if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind in "iu":
                values = values[:, 0]
            if values.ndim > 2:  # [N,K,1,1] and the like
                values = values.reshape(len(values), -1)
            if len(values) != count or values.ndim not in (1, 2):
                raise SuspectError(where, "answers", f"of {count} rows, one per image", list(values.shape))
            if values.ndim == 1:
                return [row_of(v, where) for v in values.tolist()]
            return list(values.astype(np.float64))
        if not data or len(data) % count:
            raise SuspectError(where, "answers", f"{count}, one per image", len(data))
        each = len(data) // count
        return [_texts(data[n * each : (n + 1) * each], where) for n in range(count)]

    def _tensor(self, answer: Any, tail: bytes, where: str) -> tuple[dict[str, Any], Any]:
        """The output that holds the answers, and its data: an array, or strings."""
        outputs = _tensors(answer.get("outputs") if isinstance(answer, dict) else None)
        place, found = 0, []
        for tensor in outputs:
            about = tensor.get("parameters")
            size = about.get("binary_data_size") if isinstance(about, dict) else None
            part = None
            if isinstance(size, int) and not isinstance(size, bool):
                if size < 0 or place + size > len(tail):
                    raise SuspectError(where, "answers", "as long as their parts say", size)
                part, place = tail[place : place + size], place + size
            if self.output is None or tensor["name"] == self.output:
                found.append((tensor, part))
        if len(found) != 1:
            named = ", ".join(str(t["name"]) for t in outputs)
            raise SuspectError(
                where, "answers", f"one output {self.output or ''}".rstrip(), named or short(answer)
            )
        tensor, part = found[0]
        return tensor, _data(tensor, part, where)


def _data(tensor: dict[str, Any], part: bytes | None, where: str) -> Any:
    kind = tensor.get("datatype")
    if kind == "BYTES":
        return _strings(part, where) if part is not None else _flat_strings(tensor.get("data"), where)
    if part is not None and kind == "BF16":
        half = np.frombuffer(part[: len(part) // 2 * 2], "<u2").astype(np.uint32)
        return (half << 16).view(np.float32)
    if not isinstance(kind, str) or kind not in KINDS:
        raise SuspectError(where, "answers", f"of a datatype out of {', '.join(KINDS)}, BYTES", short(kind))
    if part is not None:
        if len(part) % KINDS[kind].itemsize:
            raise SuspectError(where, "answers", f"whole numbers of {kind}", f"{len(part)} bytes")
        return np.frombuffer(part, KINDS[kind])
    try:
        found = np.asarray(tensor.get("data"))
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind not in "iuf":
        raise SuspectError(where, "answers", "numbers", short(tensor.get("data")))
    return found.ravel()


def _shaped(data: NDArray[Any], shape: Any, where: str) -> NDArray[Any]:
    good = isinstance(shape, list) and all(isinstance(s, int) and 0 <= s < 2**31 for s in shape)
    if not good or int(np.prod(shape, dtype=object)) != data.size:
        raise SuspectError(
            where, "answers", "as many numbers as their shape says", f"{data.size}, {short(shape)}"
        )
    return data.reshape(shape)


def _strings(part: bytes, where: str) -> list[str]:
    """Strings, each after its length in four bytes."""
    found, place = [], 0
    while place < len(part):
        size = struct.unpack_from("<I", part, place)[0] if place + 4 <= len(part) else len(part)
        place += 4
        if place + size > len(part):
            raise SuspectError(where, "answers", "whole strings", f"{len(part)} bytes")
        found.append(part[place : place + size].decode("utf-8", "replace"))
        place += size
    return found


def _flat_strings(data: Any, where: str) -> list[str]:
    flat: list[Any] = list(data) if isinstance(data, list) else [None]
    while flat and all(isinstance(v, list) for v in flat):
        flat = [w for v in flat for w in v]
    if not all(isinstance(v, str) for v in flat):
        raise SuspectError(where, "answers", "strings", short(data))
    return flat


def _texts(texts: list[str], where: str) -> Any:
    """Triton's ``score:index:label`` as pairs; a single other string is a label."""
    found = [CLASSIFIED.fullmatch(t) for t in texts]
    if all(found):
        try:
            return tuple((int(m[2]), float(m[1])) for m in found if m)
        except ValueError:
            found = [None]
    if len(texts) == 1:
        return texts[0]
    raise SuspectError(where, "answers", "a label, or score:index:label for each class", short(texts))


def _fits(shape: Sequence[int], want: Sequence[int]) -> bool:
    return all(s in (w, UNKNOWN) for s, w in zip(shape, want, strict=True))


def _object(response: Response, where: str) -> dict[str, Any]:
    found = response.json(where)
    if not isinstance(found, dict):
        raise SuspectError(where, "metadata", "a JSON object", short(found))
    return found


def _tensors(value: Any) -> list[dict[str, Any]]:
    """Descriptions of tensors; None and what is none counts as nothing."""
    return [t for t in value if isinstance(t, dict) and "name" in t] if isinstance(value, list) else []


__all__ = ["OpenInference"]
