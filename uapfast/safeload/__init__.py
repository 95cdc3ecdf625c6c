"""Readers of weights files that nobody trusts. Imports no torch, maps no file, runs nothing from a file.

safetensors files are read in this process, by a strict check of the header and ``pread``. What
``torch.save`` wrote is a program in pickle's language; it goes through an interpreter of our own that knows
tensors and plain containers only, in a worker process (docs/security.md).
"""

from __future__ import annotations

import os

from uapfast.safeload.checkpoint import Checkpoint, LastHeader, error_of, read_header
from uapfast.safeload.header import TensorInfo
from uapfast.safeload.limits import Limits
from uapfast.safeload.pool import to_safetensors
from uapfast.safeload.recognise import recognise
from uapfast.safeload.refusal import Refused
from uapfast.safeload.source import open_regular

__all__ = ["Checkpoint", "LastHeader", "Limits", "TensorInfo", "open_checkpoint"]
_DEFAULT = Limits()


def open_checkpoint(
    path: str | os.PathLike[str], limits: Limits = _DEFAULT, last: LastHeader | None = None
) -> Checkpoint:
    """Open a weights file that nobody vouches for.

    Args:
        path: a safetensors file or a state dict that ``torch.save`` wrote, in either of its formats; told by
            content, and a name that ends in ``.safetensors`` must be what it says.
        limits: what reading may cost.
        last: remembers the header for the next file; give the same to files that are alike.

    Raises:
        CorruptFileError: missing, unreadable, truncated, or contradicting itself.
        TooLargeError: beyond ``limits``.
        UnsafeFileError: holds a program.
        UnsupportedFileError: of another kind.
        SandboxError: the worker for pickles cannot be started.
    """
    name = os.fsdecode(path)
    try:
        handle, size = open_regular(name, limits)
        try:
            tier = "header check"
            kind = recognise(handle, size, name)
            if kind != "safetensors":
                handle, tier = _converted(handle, size, kind == "legacy pickle", limits)
                size = os.fstat(handle).st_size
            return Checkpoint(name, kind, handle, read_header(handle, size, limits, last), tier)
        except BaseException:
            os.close(handle)
            raise
    except Refused as exc:
        raise error_of(exc, name) from exc


def _converted(handle: int, size: int, legacy: bool, limits: Limits) -> tuple[int, str]:
    """The worker's safetensors in place of the file, which is closed."""
    result, tier = to_safetensors(handle, size, legacy, limits)
    os.close(handle)
    return result, tier
