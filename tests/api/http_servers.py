"""Small servers on loopback that answer with a torch module, in several forms, well or badly."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image
from torch import Tensor

Reply = tuple[int, dict[str, str], bytes]
Net = Callable[[Tensor], Tensor]
Spoil = Callable[["Served", int], "str | None"]
DTYPES = {"FP32": np.float32, "UINT8": np.uint8}


@dataclass
class Served:
    """What a server does, and what it was sent.

    Attributes:
        net: float32 ``[n,C,H,W]`` in 0..1 to ``[n,K]``.
        shape: of an image, ``C, H, W``.
        spoil: what goes wrong with request ``n``: a key of ``FAULTS``, or None.
        posts: bodies of the questions so far.
    """

    net: Net
    shape: tuple[int, int, int] = (1, 8, 8)
    binary: bool = True
    datatype: str = "FP32"
    labels: tuple[str, ...] = tuple(f"digit-{k}" for k in range(10))
    metadata: dict[str, Any] = field(default_factory=dict)
    spoil: Spoil = lambda served, n: None
    posts: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    images: int = 0
    times: list[float] = field(default_factory=list)
    delay: float = 0.0
    now: int = 0  # under way
    most: int = 0  # of them at a time
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, images: Any) -> np.ndarray:
        x = torch.as_tensor(np.array(images, dtype=np.float32)).reshape(-1, *self.shape)
        self.images += len(x)
        with torch.no_grad():
            return self.net(x).numpy()


def pixels(data: bytes) -> np.ndarray:
    image = np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32) / 255
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def oip(served: Served, path: str, body: bytes, headers: dict[str, str]) -> Reply:
    """The Open Inference Protocol, version 2."""
    if path == "/v2":
        return _json({"name": "tiny", "extensions": ["binary_tensor_data"] if served.binary else None})
    if path == "/v2/models/digits":
        one = {"name": "x", "datatype": served.datatype, "shape": [-1, *served.shape]}
        usual = {"inputs": [one], "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}]}
        return _json({"name": "digits", "platform": None, "versions": None, **usual, **served.metadata})
    if path != "/v2/models/digits/infer":
        return 404, {}, b'{"error": "unknown model"}'
    size = headers.get("inference-header-content-length")
    head, tail = (body[: int(size)], body[int(size) :]) if size else (body, b"")
    asked = json.loads(head)
    tensor, wanted = asked["inputs"][0], asked["outputs"][0].get("parameters", {})
    assert tensor["name"] == "x" and tensor["shape"][1:] == [*served.shape]
    kind = DTYPES[tensor["datatype"]]
    data = np.frombuffer(tail, kind) if size else np.asarray(tensor["data"], kind)
    values = served.ask(data / 255 if kind is np.uint8 else data)
    out: dict[str, Any] = {"name": "scores", "datatype": "FP32", "shape": list(values.shape)}
    if "classification" in wanted:
        order = np.argsort(-values, axis=1)[:, : wanted["classification"]]
        texts = [
            [f"{row[k]:.6f}:{k}:{served.labels[k]}" for k in top]
            for row, top in zip(values, order, strict=True)
        ]
        out |= {"datatype": "BYTES", "shape": list(order.shape), "data": sum(texts, [])}
    elif wanted.get("binary_data"):
        raw = values.astype("<f4").tobytes()
        out["parameters"] = {"binary_data_size": len(raw)}
        text = json.dumps({"outputs": [out]}).encode()
        return 200, {"inference-header-content-length": str(len(text))}, text + raw
    else:
        out["data"] = values.ravel().tolist()
    return _json({"model_name": "digits", "model_version": None, "parameters": None, "outputs": [out]})


def v1(served: Served, path: str, body: bytes, headers: dict[str, str]) -> Reply:
    """KServe v1, TensorFlow Serving, Vertex: channels last."""
    if path != "/v1/models/digits:predict":
        return 404, {}, b"no such model"
    given = json.loads(body)["instances"]
    if isinstance(given[0], dict):
        images = np.stack([pixels(base64.b64decode(g["b64"])) for g in given])
    else:
        images = np.asarray(given, np.float32).transpose(0, 3, 1, 2)
    return _json({"predictions": served.ask(images).tolist()})


def hugging_face(served: Served, path: str, body: bytes, headers: dict[str, str]) -> Reply:
    """Image classification: labels with scores, the best first."""
    count = 5
    if headers["content-type"] == "application/json":
        asked = json.loads(body)
        count = asked.get("parameters", {}).get("top_k", 5)
        body = base64.b64decode(asked["inputs"])
    scores = torch.tensor(served.ask(pixels(body)))[0].softmax(-1)
    best = scores.argsort(descending=True)[:count].tolist()
    return _json([{"label": served.labels[k], "score": float(scores[k])} for k in best])


def vendor(served: Served, path: str, body: bytes, headers: dict[str, str]) -> Reply:
    """A form of its own: a PNG, or a form with one; a label string."""
    if headers["content-type"].startswith("multipart/"):
        body = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
    top = int(served.ask(pixels(body)).argmax())
    return _json({"result": {"class": served.labels[top]}})


def _json(value: Any) -> Reply:
    return 200, {"content-type": "application/json"}, json.dumps(value).encode()


class Server:
    """A server in a thread of this process; ``served`` says what it does."""

    def __init__(self, form: Callable[..., Reply], served: Served) -> None:
        self.form, self.served = form, served
        self.socket = socket.create_server(("127.0.0.1", 0))
        # asyncio sets it where a socket names its protocol, which this one does not: 40 ms an answer
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(self._app, log_level="error", lifespan="off", ws="none", interface="asgi3")
        self.server = uvicorn.Server(config)
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        until = time.monotonic() + 30
        while not self.server.started and time.monotonic() < until:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)
        self.socket.close()

    async def _app(self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable) -> None:
        parts = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = b"".join(parts)
        served = self.served
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        served.headers.append(headers)
        with served.lock:
            fault = None
            if scope["method"] != "GET":
                served.posts.append(body)
                served.times.append(time.monotonic())
                fault = served.spoil(served, len(served.posts) - 1)
            served.now += 1
            served.most = max(served.most, served.now)
        await asyncio.sleep(served.delay)
        try:
            await self._reply(scope, body, headers, send, fault)
        finally:
            served.now -= 1

    async def _reply(
        self, scope: dict, body: bytes, headers: dict, send: Callable, fault: str | None
    ) -> None:
        served = self.served
        if fault in BEFORE:
            await self._send(send, *BEFORE[fault])
            return
        if fault == "hang":
            for _ in range(600):
                if self._ending.is_set():
                    return
                await asyncio.sleep(0.05)
        status, more, answer = self.form(served, scope["path"], body, headers)
        if fault in ANSWERS:
            more, answer = {}, ANSWERS[fault](answer)
        await self._send(send, status, more, answer, slow=fault == "drip")

    async def _send(
        self, send: Callable, status: int, headers: dict, body: bytes, slow: bool = False
    ) -> None:
        pairs = [(k.encode(), v.encode()) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        size = 1 if slow else 2**20
        for start in range(0, len(body), size):
            if self._ending.is_set():
                return
            part = {"type": "http.response.body", "body": body[start : start + size], "more_body": True}
            await send(part)
            await asyncio.sleep(0.05 if slow else 0)
        await send({"type": "http.response.body", "body": b""})


BEFORE: dict[Any, Reply] = {
    "500": (500, {}, b"boom"),
    "429": (429, {"retry-after": "0"}, b"slow down"),
    "503": (503, {"retry-after": "3600"}, b""),
    "401": (401, {}, b"who are you"),
    "redirect": (302, {"location": "http://127.0.0.1:1/elsewhere?token=abc"}, b""),
}
ANSWERS: dict[Any, Callable[[bytes], bytes]] = {
    "cut": lambda body: body[: len(body) // 2],
    "large": lambda body: b"[" + b"0," * (50 * 2**20) + b"0]",
    "deep": lambda body: b"[" * 10**6,
    "html": lambda body: b"<html>please sign in</html>",
    "short": lambda body: json.dumps({"outputs": [], "predictions": [[1.0, 2.0]]}).encode(),
    "error": lambda body: b'{"error": "out of memory"}',
}
