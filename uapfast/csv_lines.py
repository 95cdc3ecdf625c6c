"""CSV files that name models: lines as they are read, with the number that an error names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from uapfast.errors import ManifestError, fault
from uapfast.files import open_plain


def read_lines(
    path: Path, where: str, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[dict[str, str], str]]:
    """The lines below the header, one at a time; empty ones are left out.

    Args:
        path: of a file in UTF-8, with or without a byte order mark.
        where: who asks, for the error.
        required: columns that have to be there.
        optional: columns that may be.

    Yields:
        Fields by column, without blanks around them; and where they stand.

    Raises:
        ManifestError: unreadable, no header, a column that is missing, unknown or there twice, or a line of
            another length.
    """
    header: list[str] | None = None
    if "\0" in str(path):
        raise ManifestError(where, "manifest", "a file name", repr(str(path)))
    try:
        with io.TextIOWrapper(open_plain(path), encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                fields = [field.strip() for field in row]
                if not any(fields):
                    continue
                if header is None:
                    _check_header(fields, path, where, required, optional)
                    header = fields
                    continue
                if len(fields) != len(header):
                    got = f"{len(fields)} on line {reader.line_num}"
                    raise ManifestError(
                        where, "manifest", f"a table of {len(header)} fields on every line", got
                    )
                yield dict(zip(header, fields, strict=True)), f"line {reader.line_num} of {path}"
    except OSError as exc:
        got = f"{exc.strerror or exc} ({path})"
        raise ManifestError(where, "manifest", "a readable CSV file", got) from exc
    except (UnicodeError, csv.Error) as exc:  # the latter: quotes that do not close
        said = str(exc) if isinstance(exc, csv.Error) else fault(exc)
        raise ManifestError(where, "manifest", "a CSV file in UTF-8", f"{said} ({path})") from exc
    if header is None:
        rule = f"a CSV file with a header {','.join(required)}"
        raise ManifestError(where, "manifest", rule, f"an empty one ({path})")


def _check_header(
    header: list[str], path: Path, where: str, required: Sequence[str], optional: Sequence[str]
) -> None:
    shown = ",".join(header)[:200]
    for column in required:
        if column not in header:
            raise ManifestError(where, "manifest", f"a table with a column {column!r}", f"{shown} ({path})")
    for column in header:
        if column not in (*required, *optional):
            rule = "a table with columns " + ",".join((*required, *optional)) + " only"
            raise ManifestError(where, "manifest", rule, f"{column[:80]!r} ({path})")
    if len(set(header)) != len(header):
        raise ManifestError(where, "manifest", "a table with every column once", shown)


__all__ = ["read_lines"]
