"""Readers of weights files that nobody trusts. Imports no torch, maps no file, runs nothing from a file.

safetensors files are read in this process, by a strict check of the header and ``pread``. What
``torch.save`` wrote is a program in pickle's language; it goes through an interpreter of our own that knows
tensors and plain containers only, in a worker process (docs/security.md).
"""

from __future__ import annotations

import os

from uapfast.errors import InputError
from uapfast.safeload.checkpoint import Checkpoint, LastHeader, error_of, read_header
from uapfast.safeload.choose import asked, part_under
from uapfast.safeload.header import TensorInfo
from uapfast.safeload.limits import Limits
from uapfast.safeload.pool import to_safetensors
from uapfast.safeload.recognise import recognise
from uapfast.safeload.refusal import Refused
from uapfast.safeload.sharded import Sharded, is_index, read_index, shard_path
from uapfast.safeload.source import open_regular

__all__ = ["Checkpoint", "LastHeader", "Limits", "TensorInfo", "open_checkpoint"]
_DEFAULT = Limits()
LONGEST_KEY = 200


def open_checkpoint(
    path: str | os.PathLike[str],
    limits: Limits = _DEFAULT,
    last: LastHeader | None = None,
    key: str | None = None,
) -> Checkpoint:
    """Open a weights file that nobody vouches for.

    Args:
        path: a safetensors file, a state dict that ``torch.save`` wrote, in either of its formats, or numpy's
            ``.npz`` of arrays by name; told by content, and a name that ends in ``.safetensors`` must be what
            it says. A name that ends in ``.index.json`` is an index, whose shards in its folder are read.
        limits: what reading may cost.
        last: remembers the header for the next file; give the same to files that are alike.
        key: which map of tensors is taken, where a checkpoint holds several (``state_dict_ema``), or the
            beginning of the names that are taken (``ema`` of ``ema.layer.weight``). A file without it is
            an ``UnsupportedFileError``.

    Raises:
        InputError: a key that is empty, long, or cannot be shown.
        CorruptFileError: missing, unreadable, truncated, or contradicting itself.
        TooLargeError: beyond ``limits``.
        UnsafeFileError: holds a program.
        UnsupportedFileError: of another kind.
        SandboxError: the worker for pickles cannot be started.
    """
    name = os.fsdecode(path)
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isprintable()):
        raise InputError("load", "key", f"1 to {LONGEST_KEY} printable characters", repr(key)[:60])
    if is_index(name):
        return _sharded(name, limits, key)
    try:
        handle, size = open_regular(name, limits)
        try:
            tier = "header check"
            kind = recognise(handle, size, name)
            if kind != "safetensors":
                handle, tier = _converted(handle, size, kind == "legacy pickle", limits, key)
                size = os.fstat(handle).st_size
            header, note = read_header(handle, size, limits, last), ""
            if key is not None and kind == "safetensors":
                header, note = part_under(header, key), asked(key)
            return Checkpoint(name, kind, handle, header, tier, note)
        except BaseException:
            os.close(handle)
            raise
    except Refused as exc:
        raise error_of(exc, name) from exc


def _converted(handle: int, size: int, legacy: bool, limits: Limits, key: str | None) -> tuple[int, str]:
    """The worker's safetensors in place of the file, which is closed."""
    result, tier = to_safetensors(handle, size, legacy, limits, key)
    os.close(handle)
    return result, tier


def _sharded(path: str, limits: Limits, key: str | None) -> Checkpoint:
    parts: dict[str, Checkpoint] = {}
    try:
        index = read_index(path, limits)
        size = 0
        for shard in index.shards:
            place, more = shard_path(path, shard)
            size += more
            if size > limits.file_bytes:
                raise Refused("too large", f"shards of at most {limits.file_bytes} bytes in all", "more")
            parts[shard] = open_checkpoint(place, limits)
            index.check(shard, parts[shard].tensors, limits)
        return Sharded(path, parts, key)
    except BaseException as exc:
        for part in parts.values():
            part.close()
        if isinstance(exc, Refused):
            raise error_of(exc, path) from exc
        raise
