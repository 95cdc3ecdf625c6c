"""A zip archive read by rules that leave one reading only. Standard library only.

The central directory must lie directly before the end record and that at the file's end, the first record at
its start; names are unique; records do not overlap; nothing is encrypted; what is inflated stays within a
bounded ratio; a record's local header must agree with the directory. So no two readers see different files,
and no record is counted twice. Format: PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused, shown

END, END64, LOCATOR = 22, 56, 20
ENTRY, LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
NAME = 1024
SPARE_RECORDS = 1000  # beside one a tensor: version, byte order, folders
RATIO, FREE_RATIO, FREE_TOTAL = 100, 1 << 20, 16 << 20  # deflate: what any record, all records may grow to
FLAGS = 0x0806 | 0x0008  # UTF-8 names, deflate's speed, sizes after the data
WHOLE = "a whole zip archive"
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
CHUNK = 4 << 20  # bytes of a record that are in memory at once


class ArchiveMember(NamedTuple):
    """One file of an archive; ``bound`` is where the next thing begins."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    bound: int


def _broken(got: str) -> Refused:
    return Refused("corrupt", WHOLE, got)


def pread(handle: int, count: int, offset: int) -> bytes:
    """Exactly ``count`` bytes."""
    out = os.pread(handle, count, offset)
    if len(out) != count:
        raise Refused("corrupt", "a whole file", "its end in the middle (is it truncated?)")
    return out


def pieces(handle: int, count: int, offset: int) -> Iterator[bytes]:
    """``count`` bytes, at most ``CHUNK`` at once."""
    for at in range(offset, offset + count, CHUNK):
        yield pread(handle, min(CHUNK, offset + count - at), at)


class Archive:
    """The records of an open archive, by name.

    Args:
        handle: file descriptor.
        size: of the file.
        limits: bounds.

    Raises:
        Refused: anything that leaves two readings, or is out of bounds.
    """

    def __init__(self, handle: int, size: int, limits: Limits) -> None:
        self.handle, self.limits = handle, limits
        count, start, length = self._end(size)
        if count > limits.tensors + SPARE_RECORDS:
            raise Refused(
                "too large", f"an archive of at most {limits.tensors + SPARE_RECORDS} records", str(count)
            )
        if length > 4 * limits.header_bytes:
            rule = f"an archive with a directory of at most {4 * limits.header_bytes} bytes"
            raise Refused("too large", rule, str(length))
        found = list(self._directory(pread(handle, length, start), count))
        self.records = _place(found, start)
        _check_growth(self.records.values(), limits)

    def _end(self, size: int) -> tuple[int, int, int]:
        """Number of records, and where the directory begins and how long it is."""
        if size < END:
            raise _broken(f"{size} bytes")
        end = pread(self.handle, END, size - END)
        mark, disk, disk_of, here, count, length, start, comment = struct.unpack("<4s4H2LH", end)
        if mark != b"PK\5\6" or comment:
            raise _broken("no end record at its end (is it truncated, or has it a comment?)")
        stop = size - END
        locator = pread(self.handle, LOCATOR, stop - LOCATOR) if stop >= LOCATOR + END64 else b""
        if locator[:4] == b"PK\6\7":
            disk, disk_of, here, count, length, start, stop = self._end64(
                locator, stop - LOCATOR, (here, count, length, start)
            )
        if disk or disk_of or here != count:
            raise _broken("several disks")
        if start + length != stop:
            raise _broken(f"a directory of {length} bytes at {start} that does not end at {stop}")
        return count, start, length

    def _end64(self, locator: bytes, stop: int, small: tuple[int, ...]) -> tuple[int, ...]:
        _, disk, at, disks = struct.unpack("<4sLQL", locator)
        if at != stop - END64 or disk or disks > 1:
            raise _broken("a zip64 end record in another place")
        mark, rest, _, _, *numbers = struct.unpack("<4sQ2H2L4Q", pread(self.handle, END64, at))
        if mark != b"PK\6\6" or rest != END64 - 12:
            raise _broken("a zip64 end record of another form")
        full = (FULL16, FULL16, FULL32, FULL32)
        if any(a not in (b, f) for a, b, f in zip(small, numbers[2:], full, strict=True)):
            raise _broken("two end records that disagree")
        return (*numbers, at)

    def _directory(self, raw: bytes, count: int) -> list[ArchiveMember]:
        found, at = [], 0
        for _ in range(count):
            if at + ENTRY.size > len(raw):
                raise _broken("a directory that is shorter than its records")
            (
                mark,
                _,
                _,
                flags,
                method,
                _,
                _,
                crc,
                packed,
                size,
                names,
                extras,
                comment,
                disk,
                _,
                _,
                offset,
            ) = ENTRY.unpack_from(raw, at)
            at += ENTRY.size
            if mark != b"PK\1\2" or at + names + extras + comment > len(raw):
                raise _broken("a directory entry of another form")
            name = _name(raw[at : at + names])
            extra = raw[at + names : at + names + extras]
            at += names + extras + comment
            size, packed, offset = _wide(extra, size, packed, offset, name)
            if flags & ~FLAGS or disk:
                what = "an encrypted record" if flags & 1 else f"flags {flags:#x}"
                raise Refused("unsupported", "a plain zip archive", f"{what} ({shown(name)})")
            if method not in (0, 8) or (method == 0 and size != packed):
                raise Refused(
                    "unsupported", "records stored or deflated", f"method {method} for {shown(name)}"
                )
            found.append(ArchiveMember(name, flags, method, crc, packed, size, offset, 0))
        if at != len(raw):
            raise _broken("a directory that is longer than its records")
        return found

    def read(self, record: ArchiveMember) -> bytes:
        """The content of a record as a whole; raises as :meth:`chunks`."""
        return b"".join(self.chunks(record))

    def chunks(self, record: ArchiveMember) -> Iterator[bytes]:
        """The content of a record in pieces; size and checksum are compared when the last one was taken.

        A checksum of 0 was not computed (``torch.serialization.set_crc32_options(False)``).
        """
        start, crc = self._begin(record), 0
        for chunk in (
            self._inflated(record, start) if record.method else pieces(self.handle, record.size, start)
        ):
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if record.crc and crc != record.crc:
            raise _broken(f"record {shown(record.name)} with another checksum than it states")

    def _begin(self, record: ArchiveMember) -> int:
        raw = pread(self.handle, LOCAL.size, record.offset)
        mark, _, flags, method, _, _, crc, packed, size, names, extras = LOCAL.unpack(raw)
        name = pread(self.handle, names, record.offset + LOCAL.size)
        agree = (mark, flags, method, name) == (b"PK\3\4", record.flags, record.method, record.name.encode())
        later = bool(flags & 8)  # sizes and checksum follow the data
        sized = packed in (record.packed, FULL32) and size in (record.size, FULL32) and crc == record.crc
        if not agree or not (sized or (later and not packed and not size and not crc) or (later and sized)):
            raise _broken(f"record {shown(record.name)} that is not what the directory says")
        start: int = record.offset + LOCAL.size + names + extras
        if start + record.packed > record.bound:
            raise _broken(f"record {shown(record.name)} that reaches into the next")
        return start

    def _inflated(self, record: ArchiveMember, start: int) -> Iterator[bytes]:
        engine, done, at = zlib.decompressobj(-15), 0, start
        try:
            while at < start + record.packed:
                chunk = pread(self.handle, min(1 << 16, start + record.packed - at), at)
                at += len(chunk)
                while chunk and not engine.eof:
                    out = engine.decompress(chunk, min(1 << 20, record.size + 1 - done))
                    chunk, done = engine.unconsumed_tail, done + len(out)
                    if done > record.size:
                        raise _broken(
                            f"record {shown(record.name)} that inflates beyond its {record.size} bytes"
                        )
                    yield out
        except zlib.error as exc:
            raise _broken(f"record {shown(record.name)} that does not inflate ({exc})") from None
        if not engine.eof or engine.unused_data or done != record.size:
            raise _broken(f"record {shown(record.name)} that inflates to {done} bytes, not {record.size}")


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if not 0 < len(name) <= NAME or not name.isprintable() or "\\" in name or name.startswith("/"):
        raise _broken(f"a record named {shown(raw)}")
    if ".." in name.split("/"):
        raise _broken(f"a record named {shown(name)}, which climbs")
    return name


def _wide(extra: bytes, size: int, packed: int, offset: int, name: str) -> tuple[int, int, int]:
    """Sizes and offset with their 64-bit forms, where the short ones say so."""
    numbers = [size, packed, offset]
    if FULL32 not in numbers:
        return size, packed, offset
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            for i, number in enumerate(numbers):
                if number == FULL32:
                    if len(body) < 8:
                        break
                    numbers[i], body = int.from_bytes(body[:8], "little"), body[8:]
            else:
                return numbers[0], numbers[1], numbers[2]
        at += 4 + length
    raise _broken(f"record {shown(name)} without its zip64 sizes")


def _place(found: list[ArchiveMember], stop: int) -> dict[str, ArchiveMember]:
    """Records by name, each with the start of what follows it."""
    found.sort(key=lambda r: r.offset)
    placed: dict[str, ArchiveMember] = {}
    if not found:
        return placed
    if found[0].offset:
        raise _broken(f"{found[0].offset} bytes before the first record")
    for record, after in zip(found, [*(r.offset for r in found[1:]), stop], strict=True):
        if record.offset + LOCAL.size + len(record.name) + record.packed > after:
            raise _broken(f"record {shown(record.name)} that reaches into the next")
        if record.name in placed:
            raise _broken(f"the record {shown(record.name)} twice")
        placed[record.name] = record._replace(bound=after)
    return placed


def _check_growth(records: Iterable[ArchiveMember], limits: Limits) -> None:
    """No deflate bomb: neither one record nor all of them grow beyond reason."""
    packed = size = 0
    for record in records:
        if record.method == 0:
            continue
        packed, size = packed + record.packed, size + record.size
        if record.size > max(FREE_RATIO, RATIO * record.packed):
            got = f"{record.packed} that grow to {record.size} ({shown(record.name)})"
            raise Refused("too large", f"records that grow at most {RATIO}-fold", got)
    if size > max(FREE_TOTAL, RATIO * packed):
        raise Refused(
            "too large", f"an archive that grows at most {RATIO}-fold", f"{packed} bytes that grow to {size}"
        )
