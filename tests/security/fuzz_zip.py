"""Fuzz driver: the archive reader, and the conversion of what it finds."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np

from tests.security import fuzzing
from tests.security.forge import archive
from tests.security.fuzzing import Refused, convert, ziparchive

LIMITS = fuzzing.SMALL


def with_zip64(blob: bytes) -> bytes:
    """The end of an archive as torch writes it: both records."""
    count, length, start = (int.from_bytes(blob[a:b], "little") for a, b in ((-12, -10), (-10, -6), (-6, -2)))
    at = len(blob) - 22
    wide = b"PK\6\6" + (44).to_bytes(8, "little") + b"\x1e\3\x2d\0" + b"\0" * 8
    wide += b"".join(n.to_bytes(8, "little") for n in (count, count, length, start))
    return blob[:-22] + wide + b"PK\6\7" + b"\0" * 4 + at.to_bytes(8, "little") + b"\1\0\0\0" + blob[-22:]


def arrays(compressed: bool) -> bytes:
    """An archive of numpy's, with sizes of all kinds."""
    out = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(
        out,
        **{"a.b": np.asfortranarray(np.ones((2, 3), np.float32)), "n": np.int64(3), "e": np.zeros((0, 2))},
    )
    return out.getvalue()


SEEDS = [
    archive(), archive(method=zipfile.ZIP_DEFLATED), archive(files={}), with_zip64(archive()), arrays(False),
    arrays(True),
]  # fmt: skip


def one(data: bytes) -> None:
    """Every record of an archive, and the state dict in it."""
    source, target = os.memfd_create("source"), os.memfd_create("target")
    try:
        os.write(source, data)
        try:
            found = ziparchive.Archive(source, len(data), LIMITS)
            for record in found.records.values():
                assert record.offset + record.packed <= record.bound <= len(data)
                try:
                    assert len(found.read(record)) == record.size
                except Refused:
                    pass
        except Refused as exc:
            assert exc.rule and exc.got.isprintable()
        try:
            convert.convert(source, len(data), target, False, LIMITS)
        except Refused as exc:
            assert exc.rule and exc.got.isprintable()
    finally:
        os.close(source)
        os.close(target)


if __name__ == "__main__":
    fuzzing.main(one, SEEDS)
