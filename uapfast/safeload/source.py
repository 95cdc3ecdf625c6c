"""Opening a path that nobody vouches for: a regular file, nothing else, and never by surprise."""

from __future__ import annotations

import os
import stat

from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
# O_NONBLOCK: a FIFO that takes the file's place between stat and open must not hold us.
FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def open_regular(path: str, limits: Limits) -> tuple[int, int]:
    """File descriptor and size of a regular file (symbolic links are followed to one).

    Raises:
        Refused: missing, unreadable, not regular, empty, or above ``limits.file_bytes``.
    """
    try:
        _require_regular(os.stat(path), path)  # before open: opening a device may do something
        handle = os.open(path, FLAGS)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        missing = isinstance(exc, FileNotFoundError)
        said = "none" if missing else getattr(exc, "strerror", None) or str(exc)
        raise Refused("corrupt", "an existing file" if missing else "a readable file", said) from exc
    try:
        status = os.fstat(handle)
        _require_regular(status, path)
        if status.st_size > limits.file_bytes:
            raise Refused("too large", f"a file of at most {limits.file_bytes} bytes", str(status.st_size))
        if status.st_size == 0:
            raise Refused("corrupt", "a file with something in it", "an empty one")
    except BaseException:
        os.close(handle)
        raise
    return handle, status.st_size


def _require_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    what = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
    if stat.S_ISDIR(status.st_mode) and os.path.exists(os.path.join(path, "saved_model.pb")):
        rule = "a weights file, or an ONNX file: python -m tf2onnx.convert --saved-model FOLDER --output NEW"
        raise Refused("unsupported", rule, "a TensorFlow SavedModel folder")
    raise Refused("unsupported", "a regular file", f"{what}, not a regular file")


def read_at(handle: int, into: memoryview, offset: int) -> None:
    """Fill a buffer of bytes from a file.

    Raises:
        Refused: the file ends before, or cannot be read.
    """
    done = 0
    while done < len(into):
        try:
            got = os.preadv(handle, [into[done:]], offset + done)
        except OSError as exc:
            raise Refused("corrupt", "a readable file", exc.strerror or str(exc)) from exc
        if not got:
            raise Refused(
                "corrupt", "a file that keeps its length", "its end while reading (is it truncated?)"
            )
        done += got


def read_bytes(handle: int, offset: int, count: int) -> bytes:
    """``count`` bytes at ``offset``; raises as :func:`read_at`."""
    out = bytearray(count)
    read_at(handle, memoryview(out), offset)
    return bytes(out)
