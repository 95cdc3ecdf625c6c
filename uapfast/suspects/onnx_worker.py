"""The process that runs onnxruntime on one model that nobody trusts: no files, no network, bounded.

It imports numpy and onnxruntime, gives its rights away, and only then reads the model, from a socket.
Nothing of torch and no more of uapfast than the sandbox is in it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

from uapfast.safeload import sandbox

HEAD = struct.Struct("<IQ")  # of a message: bytes of JSON, bytes that follow it
CPU_SECONDS = 7 * 86_400  # in all; each request has its own limit
SAID = 400  # characters of what onnxruntime says


class _Link:
    """Messages over one descriptor, by ``read`` and ``write`` alone: the filter leaves no others."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def _fill(self, buffer: memoryview) -> None:
        while len(buffer):
            part = os.read(self._handle, min(len(buffer), 1 << 20))
            if not part:
                os._exit(0)  # the other side is gone
            buffer[: len(part)] = part
            buffer = buffer[len(part) :]

    def receive(self) -> tuple[dict[str, Any], bytearray]:
        head = bytearray(HEAD.size)
        self._fill(memoryview(head))
        text, size = HEAD.unpack(head)
        job, body = bytearray(text), bytearray(size)
        self._fill(memoryview(job))
        self._fill(memoryview(body))
        return json.loads(job), body

    def send(self, report: dict[str, Any], body: memoryview | bytes = b"") -> None:
        text = json.dumps(report).encode()
        for part in (memoryview(HEAD.pack(len(text), len(body)) + text), memoryview(body)):
            while len(part):
                part = part[os.write(self._handle, part) :]


def _surround(memory: int) -> list[str]:
    """Give rights away; what took. Threads that run already would keep theirs, so there must be none."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("onnxruntime started a thread of its own")
    tier = ["worker", "rlimits"]
    used = os.sysconf("SC_PAGE_SIZE") * int(open("/proc/self/statm").read().split()[0])
    sandbox.limit(memory + used, 0, CPU_SECONDS)
    if sandbox.no_new_privileges():
        tier += ["landlock"] if sandbox.landlock() else []
        tier += ["seccomp"] if sandbox.seccomp() else []
    return tier


def _session(ort: Any, model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Images:
    """Batches out of a file, in memory that is kept: fresh pages cost as much as reading."""

    def __init__(self, np: Any, handle: int) -> None:
        self._np, self._handle, self._held = np, handle, bytearray()

    def read(self, dtype: str, shape: list[int]) -> Any:
        size = math.prod(shape) * self._np.dtype(dtype).itemsize
        if len(self._held) < size:
            self._held = bytearray(size)
        whole = memoryview(self._held)[:size]
        left = whole
        while len(left):
            part = os.preadv(self._handle, [left], size - len(left))
            if not part:
                os._exit(1)
            left = left[part:]
        return self._np.frombuffer(whole, dtype).reshape(shape)


def _within(seconds: float, work: Callable[[], Any]) -> tuple[Any, dict[str, Any] | None]:
    """What ``work`` returns, or a report of its failure. The kernel ends this process when time is up."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work(), None
    except MemoryError:
        return None, {"memory": True, "said": "MemoryError"}
    except Exception as exc:  # onnxruntime has a dozen types of its own, none of them below another
        said = f"{type(exc).__name__}: {exc}"
        memory = "bad_alloc" in said or "Failed to allocate" in said or "Available memory" in said
        return None, {"memory": memory, "said": " ".join(said.split())[:SAID]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(handle: int, images: int) -> None:
    """Serve one model until the other side closes the socket; images come in a file without a name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = _Link(handle)
    import numpy as np
    import onnxruntime as ort

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    job, _ = link.receive()
    try:
        tier = _surround(job["memory"])
    except RuntimeError as exc:
        link.send({"failed": str(exc)})
        return
    link.send({"tier": tier, "version": ort.__version__, "torch": "torch" in sys.modules})
    job, body = link.receive()
    session, failed = _within(job["seconds"], lambda: _session(ort, bytes(body)))
    body = bytearray()  # the session has its own
    link.send(failed or {"loaded": True})
    batches = _Images(np, images)
    while session is not None:
        job, _ = link.receive()
        feed = {job["input"]: batches.read(job["dtype"], job["shape"])}
        out, failed = _within(job["seconds"], lambda: session.run([job["output"]], feed)[0])  # noqa: B023
        if failed:
            link.send(failed)
            continue
        if not isinstance(out, np.ndarray) or out.dtype.kind not in "fiub":
            kind = out.dtype.name if isinstance(out, np.ndarray) else type(out).__name__
            link.send({"memory": False, "said": f"values of type {kind}, which are no numbers"})
            continue
        out = np.ascontiguousarray(out)
        link.send({"dtype": out.dtype.str, "shape": list(out.shape)}, out.reshape(-1).view(np.uint8).data)
