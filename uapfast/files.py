"""Reading plain files, writing results whole or not at all. A leaf: imports only ``errors``."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from uapfast.errors import StorageError

AnyPath = str | os.PathLike[str]


def open_plain(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A plain file, opened for reading.

    Raises:
        OSError: as :func:`open`; also for a folder, a pipe, a socket or a device, which would be waited for
            or never end, and for a name that no file can have.
    """
    try:
        # O_NONBLOCK: a pipe must not hold us, not even one that takes the file's place meanwhile
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as exc:  # a zero byte
        raise OSError(errno.EINVAL, str(exc), repr(path)) from exc
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a plain file", os.fspath(path))
    return open(handle, "rb")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name only if the block succeeds.

    The file is synced before the rename, so that a power cut leaves the old file or the new one.

    Raises:
        StorageError: the folder is missing, unwritable, or the disk is full.
    """
    target = Path(path)
    if target.is_dir():
        raise StorageError(f"write: path must be a file name, got the folder {target}")
    if target.exists() and not target.is_file():
        raise StorageError(f"write: path must be a plain file's, got a pipe or a device ({target})")
    if not target.parent.is_dir():
        raise StorageError(f"write: folder must be an existing one, got {target.parent}")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as exc:
        raise StorageError(f"write: {target} must be writable, got {exc.strerror or exc}") from exc
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(f"write: {target} must be writable, got {exc.strerror or exc}") from exc
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all (see :func:`atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all (see :func:`atomic_path`)."""
    write_bytes(path, text.encode("utf-8"))


# What files of our own kinds begin with, or have in their first bytes.
KINDS = {
    "reference": b'"uapref"',
    "table": b"PAR1",
    "embeddings": b"PK\x03\x04",
    "page": b"<!doctype html",
    "bill": b'"CycloneDX"',
    "record": b'{"format":"uapfast record"',
    "statement": b'{"dsseenvelope":',
}
LOOKED_AT = 4096


def require_writable(
    path: str | os.PathLike[str], kind: str | None = None, size: int = 1 << 16, *, new: bool = False
) -> None:
    """Refuse a result's file name before the work that fills it, where the fault can be known.

    Writes ``size`` bytes beside ``path`` and removes them; ``path`` itself is not touched.

    Args:
        path: of the result.
        kind: one of ``KINDS``: an earlier result of that kind may be replaced, any other file may not. A
            result must not take the place of the weights, the reference or the table that it is made of.
        size: bytes that are tried.
        new: nothing may be there: of results that others rest on, and that cannot be made again as they were.

    Raises:
        StorageError: the folder is missing, unwritable, or the disk is full; or ``path`` is a file of another
            kind, or there.
    """
    if kind is not None and os.path.isfile(path):
        with open(path, "rb") as stream:
            head = stream.read(LOOKED_AT)
        if head and KINDS[kind] not in head.lower() and KINDS[kind] not in head:
            raise StorageError(f"write: {path} must be new, or an earlier {kind}, got a file of another kind")
    if new and os.path.lexists(path):
        what = "file" if kind is None else kind
        raise StorageError(f"write: {what} must be a new file (--overwrite replaces it), got {path}")

    class _Done(Exception):
        pass

    with contextlib.suppress(_Done), atomic_path(path) as temporary:
        temporary.write_bytes(bytes(size))
        raise _Done


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, parents included; an existing one is kept as it is.

    Raises:
        StorageError: it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"write: {folder} must be a folder that can be made, got {exc.strerror}") from exc
    return folder


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its name only if the block succeeds.

    Files are synced before that. An empty folder in its place is replaced.

    Raises:
        StorageError: there is something in its place, or the folder around it is missing or unwritable.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError(f"write: folder must be a new or an empty one, got {target}")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise StorageError(f"write: folder must be in an existing one, got {target}")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=parent) as name:
            made = Path(name) / "made"
            made.mkdir()
            yield made
            os.sync()  # file by file takes milliseconds each
            os.replace(made, target)
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(f"write: {target} must be writable, got {exc.strerror or exc}") from exc
