"""onnxruntime's process: bounded, cut off, not believed; and a thousand mutated files end as typed errors."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.security import cases, fuzz_onnx
from tests.security.onnx_forge import (
    attribute,
    f,
    graph,
    looping,
    model,
    node,
    port,
    tensor,
)
from uapfast.errors import (
    SandboxError,
    SuspectError,
    TimeLimitError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedFileError,
)
from uapfast.suspects import onnx_process
from uapfast.suspects.onnx import open_onnx

pytestmark = pytest.mark.needs("onnxruntime")
FEED = torch.rand(2, 1, 2, 2)
X = port("x", ["n", 1, 2, 2])


def put(folder: Path, data: bytes) -> Path:
    (folder / "m.onnx").write_bytes(data)
    return folder / "m.onnx"


def test_the_tier_is_recorded(tmp_path: Path) -> None:
    with open_onnx(put(tmp_path, looping(3))) as suspect:
        assert suspect.tier.startswith("worker+rlimits") and "onnxruntime 1." in suspect.tier
        assert torch.allclose(suspect.answer(FEED), FEED.flatten(1) + 3)
        if "seccomp" in suspect.tier and "landlock" in suspect.tier:
            assert not any("sandbox" in note for note in suspect.notes)


def test_an_endless_loop_ends_and_so_does_its_process(tmp_path: Path) -> None:
    suspect = open_onnx(put(tmp_path, looping()), timeout=1)
    began = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"within 1 s a batch \(timeout=\)"):
        suspect.answer(FEED)
    assert time.monotonic() - began < 20
    assert suspect._runtime._process.returncode is not None
    with pytest.raises(TimeLimitError):  # and is not started anew
        suspect.answer(FEED)


def grown(size: int) -> bytes:
    """A classifier that makes an array of ``size`` numbers first."""
    nodes = [
        node("ConstantOfShape", "s", "many"),
        node("ReduceMean", "many", "one", attribute("keepdims", 0)),
        node("Flatten", "x", "flat"),
        node("Reshape", "one any", "none"),
        node("Add", "flat none", "logits"),
    ]
    weights = [tensor("any", np.array([1], np.int64))]
    inner = [node("Shape", "x", "n"), node("ReduceMax", "n", "m", attribute("keepdims", 0)),
             node("Sub", "m m", "zero"), node("Add", "zero big", "s")]  # fmt: skip
    weights.append(tensor("big", np.array([size], np.int64)))
    return model(graph(inner + nodes, [X], [port("logits", ["n", 4])], weights), opset=13)


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = put(tmp_path, grown(1 << 26))
    with open_onnx(path, memory=1 << 30) as suspect:
        assert suspect.answer(FEED).shape == (2, 4)
    with open_onnx(path, memory=128 << 20) as suspect, pytest.raises(SuspectError, match="memory="):
        suspect.answer(FEED)


def test_a_network_that_fails_on_the_images(tmp_path: Path) -> None:
    held = graph([node("Reshape", "x s", "y")], [X], [port("y", ["n", 7])], [tensor("s", np.array([2, 7]))])
    with open_onnx(put(tmp_path, model(held))) as suspect:
        for _ in range(2):  # it lives on
            with pytest.raises(SuspectError, match="size= sets another size.*Reshape"):
                suspect.answer(FEED)


def test_no_file_is_touched_by_external_data(tmp_path: Path) -> None:
    """The check refuses it; the process could not open it either."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    away = f(13, f(1, "location") + f(2, str(secret))) + f(14, 1)
    weight = tensor("w", np.ones(4, np.float32), raw=None, extra=away)
    nodes = [node("Flatten", "x", "v"), node("Add", "v w", "y")]
    data = model(graph(nodes, [X], [port("y", ["n", 4])], [weight]))
    with pytest.raises(UnsupportedFileError, match="external data"):
        open_onnx(put(tmp_path, data))
    from uapfast.safeload.refusal import Refused

    with pytest.raises(Refused, match="unsupported"):
        onnx_process.Runtime("m", memoryview(data), 1 << 30, 20.0)


TRIES = """
import json, os, socket, threading, subprocess
def attempts():
    yield "open", lambda: open("/etc/hostname")
    yield "write", lambda: os.open("/tmp/uapfast-onnx-test", os.O_WRONLY | os.O_CREAT)
    yield "socket", lambda: socket.socket()
    yield "datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    yield "exec", lambda: os.execv("/bin/true", ["true"])
    yield "fork", lambda: os.fork() or os._exit(0)
    yield "thread", lambda: threading.Thread(target=int).start()
    yield "kill", lambda: os.kill(os.getppid(), 0)
def session(ort, model):
    done = []
    for name, attempt in attempts():
        try:
            attempt()
            done.append(name)
        except (OSError, RuntimeError):
            pass
    raise ValueError("did " + json.dumps(done))
"""
Hijack = Callable[[str], None]


@pytest.fixture
def hijacked(monkeypatch: pytest.MonkeyPatch) -> Hijack:
    """A worker that was taken over by the model: ``session`` in the code given runs instead."""

    def take(code: str) -> None:
        name = "onnx_worker"
        swap = f"{code}\nfrom uapfast.suspects import {name}\n{name}._session = session\nmain(int"
        monkeypatch.setattr(onnx_process, "BOOT", onnx_process.BOOT.replace("main(int", swap))

    return take


def test_a_worker_that_was_taken_over_reaches_nothing(tmp_path: Path, hijacked: Hijack) -> None:
    with open_onnx(put(tmp_path, looping(3))) as suspect:
        if not ("seccomp" in suspect.tier and "landlock" in suspect.tier):
            pytest.skip(f"this kernel offers less (tier {suspect.tier})")
    hijacked(TRIES)
    with pytest.raises(UnsupportedFileError, match=r"ValueError: did \[\]"):
        open_onnx(put(tmp_path, looping(3)))


OS = "import os, struct\n"
HEAD = "struct.pack('<IQ', 2, 0)"
WRITE = f"{OS}def session(ort, model):\n os.write(int(sys.argv[2]), {HEAD} + b'%s')"
LIES: dict[str, tuple[str, type[Exception]]] = {
    "a crash": ("import os\ndef session(ort, model): os.abort()", UnsafeFileError),
    "silence": ("def session(ort, model):\n while True: pass", TooLargeError),
    "a flood": (f"{OS}def session(ort, model):\n while True: os.write(int(sys.argv[2]), b'x' * 9999)",
                UnsafeFileError),
    "an exit": ("import os\ndef session(ort, model): os._exit(0)", UnsafeFileError),
    "no report": (WRITE % "[]", UnsafeFileError),
    "a report of another form": (WRITE % "{}", UnsafeFileError),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_what_a_worker_says_is_not_believed(tmp_path: Path, hijacked: Hijack, lie: str) -> None:
    code, error = LIES[lie]
    hijacked(code)
    with pytest.raises(error) as caught:
        open_onnx(put(tmp_path, looping(3)), timeout=1)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "report",
    ["'dtype': 'O', 'shape': [1]", "'dtype': '<f4', 'shape': [-1, -2]", "'dtype': '<f4', 'shape': [9]"],
)
def test_an_answer_of_another_form_is_not_believed(tmp_path: Path, hijacked: Hijack, report: str) -> None:
    hijacked(f"""
from uapfast.suspects import onnx_worker
real = onnx_worker._Link.send
def send(self, said, body=b""):
    real(self, {{{report}}} if "shape" in said else said, b"12345678" if "shape" in said else b"")
onnx_worker._Link.send = send
session = onnx_worker._session
""")
    with open_onnx(put(tmp_path, looping(3))) as suspect, pytest.raises(SuspectError, match="ValueError"):
        suspect.answer(FEED)


def test_a_worker_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_process, "BOOT", "raise SystemExit(3)")
    with pytest.raises(SandboxError, match="status 3"):
        open_onnx(put(tmp_path, looping(3)))


def test_a_worker_ends_with_its_suspect(tmp_path: Path) -> None:
    suspect = open_onnx(put(tmp_path, looping(3)))
    process: subprocess.Popen[bytes] = suspect._runtime._process
    assert process.poll() is None
    del suspect
    assert process.poll() is not None


@pytest.mark.needs("onnx")
def test_mutated_files_end_in_typed_errors(tmp_path: Path) -> None:
    """The first thirty of ``python -m tests.security.fuzz_onnx``'s thousand."""
    found = cases.run(fuzz_onnx.opened(fuzz_onnx.population(30), tmp_path), fuzz_onnx.SLOW)
    assert not found.findings and not found.outside, found.lines()
    assert sum(found.ends.values()) == 30 and len(found.ends) >= 3, found.lines()
    assert sum(n for end, n in found.ends.items() if end.startswith("answers")) >= 2, found.lines()
