"""Workers for what ``torch.save`` wrote: started when first needed, kept, one job at a time each."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from uapfast.errors import SandboxError
from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import KINDS, Refused, shown
from uapfast.safeload.worker import MESSAGE, STATUS, job_of

IDLE = 4  # workers kept; each takes some 10 MB
START_SECONDS = 60
IN_MEMORY = 64 << 20  # files up to this size give their tensors in memory, larger ones on disk
REPORT = 1 << 16
# Two packages without their __init__, which would lead outside; no site-packages on the path (-S).
BOOT = """\
import sys, types
for name, place in (("uapfast", sys.argv[1]), ("uapfast.safeload", sys.argv[1] + "/safeload")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]
from uapfast.safeload.worker import main
main(int(sys.argv[2]))
"""


class _Died(Exception):
    """The worker, not the process that it forked for a file, is gone."""


class SandboxProcess:
    """One worker process; ``tier`` says what stands around it. ``SandboxError`` if it does not start."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link = ours
        package = str(Path(__file__).resolve().parents[1])
        command = [sys.executable, "-I", "-S", "-c", BOOT, package, str(theirs.fileno())]
        try:
            with theirs:
                self.process = subprocess.Popen(
                    command, env={}, cwd="/", pass_fds=[theirs.fileno()], start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
        except OSError as exc:
            ours.close()
            raise _cannot(exc.strerror or str(exc)) from exc
        ours.settimeout(START_SECONDS)
        try:
            hello = json.loads(ours.recv(MESSAGE))
            if hello["torch"]:
                raise ValueError("torch in the worker")
            self.tier = "+".join(hello["tier"])
        except (OSError, ValueError, KeyError) as exc:
            self.kill()
            raise _cannot(f"{type(exc).__name__}: {exc}") from exc

    def run(self, job: bytes, handles: list[int], until: float, limits: Limits) -> None:
        """Have one file converted; raises ``Refused``, or ``_Died`` if this worker was at its end."""
        listen, speak = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                socket.send_fds(self.link, [job], [*handles, speak])
                self.link.settimeout(max(until - time.monotonic(), 0.001))
                status = self.link.recv(STATUS.size)
            except TimeoutError:
                self.kill()
                spare = f"{limits.seconds_per_gib:g} s more a GiB"
                rule = f"a file that is read within {limits.seconds:g} s, and {spare}"
                raise Refused("too large", rule, "more") from None
            except OSError:
                status = b""
            os.close(speak)
            speak = -1
            if len(status) != STATUS.size:
                self.kill()
                raise _Died
            self._judge(STATUS.unpack(status)[0], listen, limits)
        finally:
            os.close(listen)
            if speak >= 0:
                os.close(speak)

    def _judge(self, code: int, listen: int, limits: Limits) -> None:
        try:
            raw = os.read(listen, REPORT)
        except OSError:
            raw = b""
        if code == -signal.SIGXCPU:
            raise Refused("too large", f"a file that is read within {limits.seconds:g} s of CPU", "more")
        if code in (-signal.SIGKILL, 1) or (code == 0 and not raw):
            rule = f"a file that is read within {limits.memory_bytes} bytes of memory"
            raise Refused("too large", rule, f"one that ended its reader (status {code})")
        if code:
            raise Refused("unsafe", "a file that its reader survives", f"one that ended it (status {code})")
        try:  # written beside hostile bytes: believed in form no more than they are
            report: Any = json.loads(raw)
            if report == {"done": True}:
                return
            kind, rule, got = report["refused"]
        except (ValueError, TypeError, KeyError, RecursionError):
            rule, got = "a file that its reader survives", "a report of another form"
            raise Refused("unsafe", rule, got) from None
        known = isinstance(kind, str) and kind in KINDS
        raise Refused(kind if known else "unsafe", shown(rule, 400), shown(got, 400))

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self.link.fileno() >= 0

    def close(self) -> None:
        """Let it go: it ends when its socket does."""
        self.link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
            return
        self.kill()

    def kill(self) -> None:
        """End it and what it forked, now."""
        self.link.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _cannot(why: str) -> SandboxError:
    return SandboxError(
        f"load: worker must be a process that starts ({sys.executable or 'no Python'}), got {why}; "
        "safetensors files are read without it"
    )


class _Pool:
    """Idle workers of this process; a fork of the process starts with none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[SandboxProcess] = []
        self.registered = False

    def take(self) -> SandboxProcess:
        with self.lock:
            if not self.registered:
                atexit.register(self.empty)
                os.register_at_fork(after_in_child=self.forget)
                self.registered = True
            if self.idle:
                return self.idle.pop()
        return SandboxProcess()

    def give(self, worker: SandboxProcess) -> None:
        if worker.alive:
            with self.lock:
                if len(self.idle) < IDLE:
                    self.idle.append(worker)
                    return
            worker.close()

    def empty(self) -> None:
        with self.lock:
            idle, self.idle = self.idle, []
        for worker in idle:
            worker.close()

    def forget(self) -> None:
        self.lock = threading.Lock()
        for worker in self.idle:
            worker.link.close()
            worker.process.returncode = 0  # not a child of this process
        self.idle = []


POOL = _Pool()


def _empty_file(size: int) -> int:
    """A file without a name for the tensors: in memory, or on disk where it may be large."""
    if size > IN_MEMORY:
        with contextlib.suppress(OSError):
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            return os.open(tempfile.gettempdir(), flags, 0o600)
    return os.memfd_create("uapfast-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _once(job: bytes, handles: list[int], until: float, limits: Limits, fresh: bool = False) -> str:
    """One attempt; the tier that it was made under."""
    worker = SandboxProcess() if fresh else POOL.take()
    try:
        worker.run(job, handles, until, limits)
    except (Refused, _Died):
        raise
    except BaseException:  # an interrupt in the middle: its answer would be taken for the next one's
        worker.kill()
        raise
    finally:
        POOL.give(worker)
    return worker.tier


def to_safetensors(
    source: int, size: int, legacy: bool, limits: Limits, key: str | None = None
) -> tuple[int, str]:
    """Have a worker turn an open file into safetensors.

    Args:
        source: file descriptor.
        size: of the file.
        legacy: the format before torch 1.6.
        limits: bounds.
        key: which map of tensors is taken.

    Returns:
        File descriptor of the result, which the caller closes, and the tier that it was made under.

    Raises:
        Refused: by the worker, or because it did not survive.
        SandboxError: no worker could be started.
    """
    target = _empty_file(size)
    try:
        wall = limits.seconds + limits.seconds_per_gib * size / (1 << 30)
        job, until = job_of(size, legacy, limits, key), time.monotonic() + wall
        try:
            tier = _once(job, [source, target], until, limits)
        except _Died:  # perhaps killed while it waited: the file gets a second chance, with a fresh one
            os.ftruncate(target, 0)
            try:
                tier = _once(job, [source, target], until, limits, fresh=True)
            except _Died:
                got = "one that ended the worker twice"
                raise Refused("unsafe", "a file that its reader survives", got) from None
        with contextlib.suppress(OSError):  # no seals on a file on disk
            fcntl.fcntl(
                target, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            )
        return target, tier
    except BaseException:
        os.close(target)
        raise
