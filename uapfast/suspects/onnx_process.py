"""The other end of :mod:`uapfast.suspects.onnx_worker`: one sandboxed process that runs one ONNX model."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from uapfast.errors import (
    InputError,
    MissingDependency,
    SandboxError,
    SuspectError,
    TimeLimitError,
    how_to_install,
)
from uapfast.safeload.pool import START_SECONDS
from uapfast.safeload.refusal import Refused, shown
from uapfast.suspects.onnx_worker import HEAD

GRACE = 5.0  # seconds that a worker has beyond its own limit
MOST_JSON, MOST_BODY = 1 << 16, 1 << 28
DTYPES = frozenset(np.dtype(d).str for d in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ?".split())
OnnxReply = tuple[dict[str, Any], bytearray]
# uapfast without its __init__, which would bring torch; of site-packages two packages' folders (-S).
BOOT = """\
import sys, types
for name in ("uapfast", "uapfast.safeload", "uapfast.suspects"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1] + name.removeprefix("uapfast").replace(".", "/")]
sys.path += sys.argv[4:]
from uapfast.suspects.onnx_worker import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""


def _folders() -> list[str]:
    """Where numpy and onnxruntime lie; onnxruntime is never imported into this process.

    Raises:
        MissingDependency: no onnxruntime.
    """
    found = []
    for name in ("numpy", "onnxruntime"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise MissingDependency(
                f"open_onnx: {name} must be installed ({how_to_install('onnx')}), got none"
            )
        found.append(str(Path(spec.origin).parents[1]))
    return list(dict.fromkeys(found))


def _environment() -> dict[str, str]:
    """No telemetry (onnxruntime would send it, from a thread of its own), no threads of linear algebra."""
    own = {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    kept = {k: os.environ[k] for k in ("LD_LIBRARY_PATH",) if k in os.environ}
    return {**kept, **own}


class Runtime:
    """A worker with one model in it. For one thread at a time.

    Args:
        name: of the suspect, for errors.
        model: the file's bytes, checked.
        memory: bytes that the worker may take beyond its own libraries.
        timeout: seconds for loading, and for each batch.

    Attributes:
        tier: what stands around it.
        version: of onnxruntime.

    Raises:
        MissingDependency: no onnxruntime.
        SandboxError: no worker starts.
        Refused: onnxruntime does not take the model, or not within the limits.
    """

    def __init__(self, name: str, model: memoryview, memory: int, timeout: float) -> None:
        self._name, self._timeout, self._memory = name, timeout, memory
        self._gone: SuspectError | None = None
        folders = _folders()
        ours, theirs = socket.socketpair()
        self._link = ours
        package = str(Path(__file__).resolve().parents[1])
        self._images = os.memfd_create("uapfast-images", os.MFD_CLOEXEC)  # twice as fast as the socket
        given = (theirs.fileno(), self._images)
        command = [sys.executable, "-I", "-S", "-c", BOOT, package, *map(str, given), *folders]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command, env=_environment(), cwd="/", pass_fds=given, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
        except OSError as exc:
            ours.close()
            os.close(self._images)
            raise _cannot(exc.strerror or str(exc)) from exc
        self._finish = weakref.finalize(self, _end, self._process, ours, self._images)
        self._start(memory)
        try:
            self._load(model)
        except BaseException:
            self.close()
            raise

    def _start(self, memory: int) -> None:
        try:
            hello, _ = self._talk({"memory": memory}, memoryview(b""), START_SECONDS)
            if "failed" in hello or hello["torch"]:
                self.close()
                raise ValueError(hello.get("failed", "torch in the worker"))
            self.tier, self.version = "+".join(hello["tier"]), str(hello["version"])
        except (OSError, EOFError, ValueError, KeyError) as exc:
            status = f" (status {self._process.returncode})" if self._process.returncode else ""
            raise _cannot(f"{type(exc).__name__}: {exc}{status}") from exc

    def _load(self, model: memoryview) -> None:
        rule = f"a model that onnxruntime {self.version} loads"
        try:
            report, _ = self._talk({"seconds": self._timeout}, model, self._timeout + GRACE)
            if report == {"loaded": True}:
                return
            said, memory = shown(report["said"], 400), bool(report["memory"])
        except TimeoutError:
            rule = f"a model that is prepared within {self._timeout:g} s (timeout=)"
            raise Refused("too large", rule, "more") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
            code = self._process.returncode
            if code == -signal.SIGALRM:
                rule = f"a model that is prepared within {self._timeout:g} s (timeout=)"
                raise Refused("too large", rule, "more") from None
            got = f"one that ended it (status {code}, {type(exc).__name__})"
            raise Refused("unsafe", rule, got) from exc
        if memory:
            rule = f"a model that is prepared within {self._memory} bytes (memory=)"
            raise Refused("too large", rule, said)
        raise Refused("unsupported", f"{rule} (a newer opset than it knows: export with an older one)", said)

    def run(self, feed: str, images: np.ndarray[Any, Any], output: str) -> np.ndarray[Any, Any]:
        """One output for one batch.

        Args:
            feed: name of the input.
            images: contiguous, as the input wants them.
            output: name of the output.

        Raises:
            SuspectError: it fails, takes more time (``TimeLimitError``) or memory, or has ended before.
        """
        if self._gone is not None:
            raise self._gone
        if not self._finish.alive:
            raise InputError(self._name, "suspect", "open", "a closed one")
        job = {
            "seconds": self._timeout, "input": feed, "output": output,
            "dtype": images.dtype.str, "shape": list(images.shape),
        }  # fmt: skip
        try:
            _write(self._images, images.reshape(-1).view(np.uint8).data)
            report, out = self._talk(job, memoryview(b""), self._timeout + GRACE)
            if "said" not in report:
                return _array(report, out)
            said, memory = shown(report["said"], 400), bool(report["memory"])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
            self._gone = self._lost(exc)
            raise self._gone from exc
        if memory:
            raise SuspectError(self._name, "answers", f"made within {self._memory} bytes (memory=)", said)
        rule = f"what onnxruntime computes for images {job['shape']} (size= sets another size)"
        raise SuspectError(self._name, "answers", rule, said)

    def _lost(self, exc: Exception) -> SuspectError:
        """Why the worker, which was ended, is of no use any more."""
        code = self._process.returncode
        if isinstance(exc, TimeoutError) or code == -signal.SIGALRM:
            rule = f"given within {self._timeout:g} s a batch (timeout=)"
            return TimeLimitError(self._name, "answers", rule, "none")
        rule = f"those of a network that does not crash its runtime, within {self._memory} bytes (memory=)"
        return SuspectError(self._name, "answers", rule, f"a crash (status {code}, {type(exc).__name__})")

    def _talk(
        self, job: dict[str, Any], body: memoryview, seconds: float
    ) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._exchange(job, body, time.monotonic() + seconds)
        except BaseException:  # an interrupt among them: this answer would be taken for the next one's
            self.close()
            raise

    def _exchange(
        self, job: dict[str, Any], body: memoryview, until: float
    ) -> tuple[dict[str, Any], bytearray]:
        text = json.dumps(job).encode()
        for part in (HEAD.pack(len(text), len(body)) + text, body):
            self._link.settimeout(max(until - time.monotonic(), 0.001))
            self._link.sendall(part)
        size, extent = HEAD.unpack(self._receive(HEAD.size, until))
        if size > MOST_JSON or extent > MOST_BODY:
            raise ValueError("a message beyond any answer")
        report = json.loads(self._receive(size, until))
        if not isinstance(report, dict):
            raise ValueError("a message of another form")
        return report, self._receive(extent, until)

    def _receive(self, size: int, until: float) -> bytearray:
        out = bytearray(size)
        view = memoryview(out)
        while len(view):
            self._link.settimeout(max(until - time.monotonic(), 0.001))
            got = self._link.recv_into(view)
            if not got:
                raise EOFError("the worker is gone")
            view = view[got:]
        return out

    def close(self) -> None:
        """End the worker, now."""
        self._finish()


def _array(report: dict[str, Any], body: bytearray) -> np.ndarray[Any, Any]:
    """Numbers out of a process that is not believed: checked, then copied nowhere."""
    shape = [int(n) for n in report["shape"]]
    if report["dtype"] not in DTYPES or any(n < 0 for n in shape) or len(shape) > 8:
        raise ValueError("an array of another form")
    dtype = np.dtype(report["dtype"])
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError("an array of another size")
    return np.frombuffer(body, dtype).reshape(shape)


def _write(handle: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done:], done)


def _end(process: subprocess.Popen[bytes], link: socket.socket, images: int) -> None:
    link.close()
    os.close(images)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)  # it has ended, or is about to: its own status says more
            process.kill()
    process.wait()


def _cannot(why: str) -> SandboxError:
    rule = f"a process that imports onnxruntime and starts ({sys.executable or 'no Python'})"
    return SandboxError(f"open_onnx: worker must be {rule}, got {why}")


__all__ = ["Runtime"]
