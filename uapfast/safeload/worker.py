"""The worker: a small Python without site-packages that forks once per file. Standard library only.

The process that waits here never looks at a file. Each file gets a fork of its own, with rlimits and a system
call filter, which reads, writes what it found and is gone: nothing of one file can reach the next.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import sys
from dataclasses import fields

from uapfast.safeload import sandbox
from uapfast.safeload.convert import convert
from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused, shown

MESSAGE = 4096
STATUS = struct.Struct("<i")
FDS = 3  # of a job: the file, an empty file for the result, the pipe for the report


def report_of(
    source: int, size: int, target: int, legacy: bool, limits: Limits, key: str | None = None
) -> dict[str, object]:
    """Convert one file; whatever happens becomes a report."""
    try:
        convert(source, size, target, legacy, limits, key)
        return {"done": True}
    except Refused as exc:
        refused = exc
    except MemoryError:
        rule = f"a file that is read within {limits.memory_bytes} bytes of memory"
        refused = Refused(
            "too large", rule, "more (a strided tensor takes twice its size: save it contiguous)"
        )
    except OSError as exc:
        refused = Refused("corrupt", "a readable file", exc.strerror or str(exc))
    except Exception as exc:  # a form that no check foresaw: refused like the rest
        got = f"one that the reader does not understand ({type(exc).__name__}: {shown(exc)})"
        refused = Refused("corrupt", "a whole state dict", got)
    return {"refused": [refused.kind, shown(refused.rule, 400), shown(refused.got, 400)]}


def _child(job: dict[str, object], handles: list[int]) -> None:
    bounds = job["limits"]
    assert isinstance(bounds, dict)
    limits = Limits(**bounds)
    output = limits.tensor_bytes + limits.header_bytes + 8
    sandbox.limit(limits.memory_bytes, output, limits.seconds)
    if job["seccomp"]:
        sandbox.seccomp()
    key = None if job["key"] is None else str(job["key"])
    report = report_of(handles[0], int(str(job["size"])), handles[1], bool(job["legacy"]), limits, key)
    os.write(handles[2], json.dumps(report).encode())


def _preload(tier: list[str]) -> None:
    """Find out in a fork whether seccomp takes, so that every later fork is the same."""
    pid = os.fork()
    if not pid:
        os._exit(0 if sandbox.seccomp() else 1)
    if os.waitpid(pid, 0)[1] == 0:
        tier.append("seccomp")


def main(control: int) -> None:
    """Serve until the other end of the socket closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    tier = ["worker", "rlimits"]
    if sandbox.no_new_privileges():
        if sandbox.landlock():
            tier.append("landlock")
        _preload(tier)
    gc.disable()
    with socket.socket(fileno=control) as link:
        link.sendall(json.dumps({"tier": tier, "torch": "torch" in sys.modules}).encode())
        while True:
            message, handles, _, _ = socket.recv_fds(link, MESSAGE, FDS)
            if len(handles) != FDS:
                return
            job = json.loads(message)
            job["seccomp"] = "seccomp" in tier
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    link.close()
                    _child(job, handles)
                    code = 0
                finally:
                    os._exit(code)
            for handle in handles:
                os.close(handle)
            link.sendall(STATUS.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def job_of(size: int, legacy: bool, limits: Limits, key: str | None = None) -> bytes:
    """The message of one job."""
    bounds = {f.name: getattr(limits, f.name) for f in fields(limits)}
    return json.dumps({"size": size, "legacy": legacy, "limits": bounds, "key": key}).encode()
