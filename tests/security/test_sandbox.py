"""The worker cannot do what a hostile file would want of it, and what it says is not believed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.forge import archive
from uapfast.errors import CorruptFileError, SandboxError, TooLargeError, UnsafeFileError, WeightsFileError
from uapfast.safeload import Limits, open_checkpoint, pool

PACKAGE = str(Path(pool.__file__).resolve().parents[1])
TRIES = """
import ctypes, json, mmap, os, socket, subprocess, sys, threading
from uapfast.safeload import sandbox
def attempts(path, guarded):
    yield "open", lambda: open("/etc/hostname")
    yield "write", lambda: os.open(path, os.O_WRONLY | os.O_CREAT)
    yield "list", lambda: os.listdir("/")
    yield "remove", lambda: os.unlink(path)
    yield "socket", lambda: socket.socket()
    yield "connect", lambda: socket.create_connection(("127.0.0.1", 9), 1)
    yield "fork", lambda: os.fork() or os._exit(0)
    if guarded:
        yield "exec", lambda: os.execv("/bin/true", ["true"])
    yield "kill", lambda: os.kill(os.getppid(), 0)
    yield "thread", lambda: threading.Thread(target=int).start()
    yield "trace", lambda: os.sched_setaffinity(0, {0}) or os.nice(1)
    yield "code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    yield "limits", lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
import resource
def run(steps, path):
    took = [getattr(sandbox, step)() for step in steps]
    done = []
    for name, attempt in attempts(path, bool(steps)):
        try:
            attempt()
            done.append(name)
        except (OSError, RuntimeError, LookupError, ValueError):
            pass
    readable = os.pread(3, 4, 0) == b"open"
    sys.stdout.write(json.dumps({"took": took, "done": done, "readable": readable}))
    sys.stdout.flush()
    os._exit(0)
"""


def sandboxed(steps: list[str], path: Path) -> dict[str, object]:
    boot = pool.BOOT.split("from uapfast")[0] + TRIES + f"run({steps!r}, {str(path)!r})"
    path.write_bytes(b"open")
    script = f'exec 3<"{path}"; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "-", sys.executable, "-I", "-S", "-c", boot, PACKAGE],
        stdout=subprocess.PIPE, check=True, env={}, timeout=60,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


def has(part: str) -> None:
    worker = pool.SandboxProcess()
    tier = worker.tier
    worker.close()
    if part not in tier:
        pytest.skip(f"this kernel offers no {part} (tier {tier})")


def test_seccomp_leaves_reading_and_leaving(tmp_path: Path) -> None:
    has("seccomp")
    found = sandboxed(["no_new_privileges", "seccomp"], tmp_path / "f")
    assert found == {"took": [True, True], "done": [], "readable": True}


def test_landlock_alone_keeps_files_out_of_reach(tmp_path: Path) -> None:
    has("landlock")
    found = sandboxed(["no_new_privileges", "landlock"], tmp_path / "f")
    assert found["took"] == [True, True] and found["readable"]
    assert not {"open", "write", "list", "remove", "exec"} & set(found["done"])  # type: ignore[call-overload]


def test_without_them_all_of_it_works(tmp_path: Path) -> None:
    """Otherwise the two tests above might pass for another reason."""
    done = set(sandboxed([], tmp_path / "f")["done"])  # type: ignore[call-overload]
    assert {"open", "write", "list", "remove", "socket", "kill", "thread", "code", "trace"} <= done


def test_the_limits_bind() -> None:
    code = (
        pool.BOOT.split("from uapfast")[0]
        + """
import os, tempfile
from uapfast.safeload import sandbox
handle = os.memfd_create("x")
sandbox.limit(256 << 20, 1000, 1.0)
said = []
try:
    bytearray(300 << 20)
except MemoryError:
    said.append("memory")
try:
    os.pwrite(handle, b"x" * 2000, 500)
    os.pwrite(handle, b"x", 1500)
except OSError as exc:
    said.append(exc.strerror)
print(said, flush=True)
while True:
    pass
"""
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, PACKAGE], stdout=subprocess.PIPE, timeout=250
    )
    assert done.stdout.decode().strip() == "['memory', 'File too large']"
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


@pytest.fixture
def hijacked(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A worker whose reader was taken over: what it does instead of reading."""
    pool.POOL.empty()

    def take(code: str) -> None:
        body = "\n".join(f"    {line}" for line in code.splitlines())
        boot = pool.BOOT.replace(
            "main(int", f"import os, ctypes, json\nfrom uapfast.safeload import worker\n"
            f"def convert(source, size, target, legacy, limits, key):\n{body}\n"
            "worker.convert = convert\nmain(int"
        )  # fmt: skip
        monkeypatch.setattr(pool, "BOOT", boot)

    yield take
    pool.POOL.empty()


FLOOD = """for i in range(3, 32):
    try:
        os.write(i, {})
    except OSError:
        pass"""


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("while True: pass", TooLargeError, "within 1 s"),
        ("import _thread\nl = _thread.allocate_lock()\nl.acquire(l.acquire())", TooLargeError, "within 1 s"),
        ("import time\ntime.sleep(100)", WeightsFileError, "w.pt"),
        ("ctypes.string_at(0)", UnsafeFileError, "ended it .status -11"),
        ("os._exit(0)", TooLargeError, "ended its reader"),
        ("bytearray(1 << 31)", TooLargeError, "bytes of memory"),
        ("raise ValueError('surprise')", CorruptFileError, "does not understand .ValueError: surprise"),
        ("os.pwrite(target, b'nonsense', 0)", CorruptFileError, "safetensors"),
        ("os.pwrite(target, b'\\x02' + b'\\0' * 7 + b'{}tail', 0)", CorruptFileError, "4 bytes after"),
        ("pass", CorruptFileError, "0 bytes"),
        ("os.ftruncate(target, 1 << 50)", CorruptFileError, "got File too large"),
        (FLOOD.format("b'x' * 4096"), UnsafeFileError, "a report of another form"),
        (FLOOD.format("b'[' * 50000"), UnsafeFileError, "a report of another form"),
        (FLOOD.format("b'{{\"refused\": 1}}'") + "\nos._exit(0)", UnsafeFileError, "another form"),
        ("raise worker.Refused('nice', 'a', 'b')", UnsafeFileError, "must be a, got b"),
        ("raise worker.Refused('unsafe', '\\x1b[2J' * 99, 'b\\nc')", UnsafeFileError, r"x1b\[2J"),
    ],
)  # fmt: skip
def test_a_worker_that_was_taken_over(
    tmp_path: Path, hijacked: object, code: str, error: type[WeightsFileError], said: str
) -> None:
    (tmp_path / "w.pt").write_bytes(archive())
    hijacked(code)  # type: ignore[operator]
    with pytest.raises(error, match=said) as caught:
        open_checkpoint(tmp_path / "w.pt", Limits(seconds=1.0 if said == "within 1 s" else 60.0))
    assert str(caught.value).isprintable()


def test_after_any_end_the_next_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.pt").write_bytes(archive())
    (tmp_path / "long.pt").write_bytes(archive(b"N" + b"0N" * 3_000_000 + b"."))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(TooLargeError, match="within 0.05 s"):
            open_checkpoint(tmp_path / "long.pt", Limits(seconds=0.05))
        with open_checkpoint(tmp_path / "good.pt") as found:
            assert found.read("a").tolist() == [0.0] * 4
    pool.POOL.empty()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_worker_that_was_killed_between_files(tmp_path: Path) -> None:
    """By the machine's lack of memory, say: no file is to blame."""
    (tmp_path / "w.pt").write_bytes(archive())
    pool.POOL.empty()
    open_checkpoint(tmp_path / "w.pt").close()
    pool.POOL.idle[0].process.kill()
    time.sleep(0.2)
    open_checkpoint(tmp_path / "w.pt").close()


def test_no_worker_no_pickle_but_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    import torch

    pool.POOL.empty()
    (tmp_path / "w.pt").write_bytes(archive())
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    for broken in ("/nonexistent/python", "/bin/false", ""):
        monkeypatch.setattr(sys, "executable", broken)
        with pytest.raises(SandboxError, match="worker must be a process that starts"):
            open_checkpoint(tmp_path / "w.pt")
        with open_checkpoint(tmp_path / "w.safetensors") as found:
            assert found.tensors["a"].shape == (1,)


def test_the_worker_side_imports_the_standard_library_only() -> None:
    """What the worker loads, seen in the worker: nothing from site-packages, no torch, no numpy."""
    code = pool.BOOT.split("main(int")[0] + (
        "places = {m: str(getattr(v, '__file__', '')) for m, v in sys.modules.items()}\n"
        "print([m for m, p in places.items() if 'site-packages' in p or m.startswith(('torch', 'numpy'))],"
        " sorted(m for m in places if m.startswith('uapfast')))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, PACKAGE, "0"], stdout=subprocess.PIPE, check=True, env={}
    )
    assert done.stdout.decode().startswith("[] ['uapfast', 'uapfast.errors', 'uapfast.safeload'")
