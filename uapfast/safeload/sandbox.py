"""What the kernel offers to take rights away from this process. Linux; standard library only.

Each step reports whether it took, so that the record says what stood between a file and the machine:
rlimits always, Landlock from Linux 5.13 (no file can be opened, nothing connected), seccomp (of the system
calls only reading and writing what is open, memory, and leaving). include/uapi/linux/{landlock,seccomp}.h.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_FILTER = 38, 22, 2
LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446  # the same on every architecture
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI: how many rights over files it knows
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # DENY: EPERM
PROT_EXEC = 4
# System calls by architecture: read, pread, preadv(2), write, pwrite, pwritev(2), close, lseek, ftruncate,
# fstat, memory, signals' own, timer, futex, clock, random, exit, restart; then mmap and mprotect.
CALLS = {
    "x86_64": (0xC000003E, (
        0, 1, 3, 5, 8, 11, 12, 13, 14, 15, 17, 18, 24, 25, 28, 38, 60, 77, 96, 131, 186, 202, 219, 228, 231,
        295, 296, 318, 327, 328, 334), (9, 10)),
    "aarch64": (0xC00000B7, (
        63, 64, 57, 62, 67, 68, 69, 70, 286, 287, 80, 46, 215, 214, 216, 233, 103, 134, 135, 139, 132, 98,
        113, 169, 278, 93, 94, 124, 128, 178, 293), (222, 226)),
}  # fmt: skip


def limit(memory: int, output: int, seconds: float) -> None:
    """Bound this process: address space, size of written files, CPU time; no core dump, few descriptors."""
    cpu = int(seconds) + 1
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),  # root is exempt
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
    ):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def no_new_privileges() -> bool:
    """No set-user-id program gives this process more than it has; the next two need it."""
    return bool(sys.platform == "linux" and _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def landlock() -> bool:
    """From now on no path can be opened, no port bound or connected, nobody outside signalled."""
    if sys.platform != "linux":
        return False
    libc = _libc()
    abi = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return False
    files = (1 << FILE_RIGHTS[min(abi, 5)]) - 1
    attributes = struct.pack("<QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    attributes = attributes[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    return bool(rules >= 0 and libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _filter(arch: int, calls: tuple[int, ...], memory: tuple[int, ...]) -> bytes:
    """BPF: another architecture dies; calls of the list pass; memory passes unless it is to be executed."""

    def step(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    load, equal, same, give = 0x20, 0x15, 0x45, 0x06
    out = [step(load, 0, 0, 4), step(equal, 1, 0, arch), step(give, 0, 0, KILL), step(load, 0, 0, 0)]
    tail = [
        step(give, 0, 0, DENY),
        step(give, 0, 0, ALLOW),
        step(load, 0, 0, 32),  # the third argument: protection
        step(same, 0, 1, PROT_EXEC),
        step(give, 0, 0, DENY),
        step(give, 0, 0, ALLOW),
    ]
    number = len(calls) + len(memory)
    for i, call in enumerate(calls):
        out.append(step(equal, number - i, 0, call))  # over the rest and DENY to ALLOW
    for i, call in enumerate(memory):
        out.append(step(equal, len(memory) - i + 1, 0, call))
    return b"".join(out + tail)


def seccomp() -> bool:
    """From now on only the calls of :data:`CALLS` work; the others give EPERM."""
    known = CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if known is None or sys.maxsize < 2**32:
        return False
    code = _filter(*known)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    return bool(_libc().prctl(PR_SET_SECCOMP, SECCOMP_FILTER, ctypes.byref(program), 0, 0) == 0)
