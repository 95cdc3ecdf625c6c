"""A strict reader of protobuf messages by a table of their fields. Standard library only.

protobuf's own readers merge what comes twice and skip what they do not know, so two of them can see two
models in one file. Here either is refused: the bytes have one reading. Large fields are not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uapfast.safeload.refusal import Refused, shown

# kind of a field: how it lies in the file, and what it becomes
#   int      one number                          ints      repeated numbers: a list
#   float    one number, 4 bytes (not read)      varints, floats, doubles: repeated; how many there are
#   text     UTF-8                               texts     a list of them
#   blob     bytes, as a memoryview              blobs     a list of them
#   NAME     a message                           NAME*     a list of messages
Schema = Mapping[str, Mapping[int, tuple[str, str]]]
ProtobufMessage = dict[str, Any]
VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5
WIDTH = {EIGHT: 8, FOUR: 4}
REPEATED = {"ints": VARINT, "varints": VARINT, "floats": FOUR, "doubles": EIGHT}
SINGLE = {"int": VARINT, "float": FOUR, "text": LENGTH, "blob": LENGTH}
LISTS = {"texts": "text", "blobs": "blob"}
NOT_LAST = bytes(range(128, 256))  # the bytes of a number that more bytes follow
WHOLE = "a whole protobuf message"


class ProtobufReader:
    """Reads messages out of one buffer.

    Args:
        data: the whole file.
        schema: fields of each message: number, name, kind.
        fields: how many may be read in all.
        depth: of messages within messages.
    """

    def __init__(self, data: memoryview, schema: Schema, fields: int, depth: int) -> None:
        self._data, self._schema = data, schema
        self._left, self._fields, self._depth = fields, fields, depth

    def read(self, name: str) -> ProtobufMessage:
        """The whole buffer as one message.

        Raises:
            Refused: cut off, a field that is not in the table, of another kind or given twice, text that is
                no UTF-8, or beyond the bounds.
        """
        return self._message(name, 0, len(self._data), self._depth)

    def _message(self, name: str, at: int, end: int, depth: int) -> ProtobufMessage:
        if depth == 0:
            raise Refused("too large", f"messages nested at most {self._depth} deep", f"more, in {name}")
        table = self._schema[name]
        out: ProtobufMessage = {}
        while at < end:
            key, at = self._number(at, end)
            self._spend(1)
            if key >> 3 not in table:
                rule = "an ONNX file of fields that this reader knows"
                raise Refused("unsupported", rule, f"field {key >> 3} of {name}")
            field, kind = table[key >> 3]
            at = self._field(out, f"{name}.{field}", field, kind, key & 7, at, end, depth)
        return out

    def _field(
        self,
        out: ProtobufMessage,
        where: str,
        field: str,
        kind: str,
        wire: int,
        at: int,
        end: int,
        depth: int,
    ) -> int:
        """Read one field into ``out``; the position after it."""
        if kind in REPEATED:
            return self._repeated(out, where, field, kind, wire, at, end)
        many = kind.endswith("*") or kind in LISTS
        one = LISTS.get(kind, kind.removesuffix("*"))
        if wire != SINGLE.get(one, LENGTH):
            raise Refused("corrupt", WHOLE, f"wire type {wire} of {where}")
        if not many and field in out:
            raise Refused("corrupt", "a message that gives each field once", f"{where} twice")
        value, at = self._value(where, one, at, end, depth)
        if many:
            out.setdefault(field, []).append(value)
        else:
            out[field] = value
        return at

    def _value(self, where: str, kind: str, at: int, end: int, depth: int) -> tuple[Any, int]:
        if kind == "int":
            value, at = self._number(at, end)
            return _signed(value), at
        if kind == "float":
            return None, _within(at + 4, end, where)
        size, at = self._number(at, end)
        stop = _within(at + size, end, where)
        if kind == "blob":
            return self._data[at:stop], stop
        if kind == "text":
            try:
                return bytes(self._data[at:stop]).decode(), stop
            except UnicodeDecodeError:
                got = f"{shown(bytes(self._data[at : min(stop, at + 40)]))} in {where}"
                raise Refused("corrupt", "text in UTF-8", got) from None
        return self._message(kind, at, stop, depth - 1), stop

    def _repeated(
        self, out: ProtobufMessage, where: str, field: str, kind: str, wire: int, at: int, end: int
    ) -> int:
        single = REPEATED[kind]
        if wire == LENGTH:
            size, at = self._number(at, end)
            stop = _within(at + size, end, where)
        elif wire == single:
            stop = self._number(at, end)[1] if single == VARINT else _within(at + WIDTH[single], end, where)
        else:
            raise Refused("corrupt", WHOLE, f"wire type {wire} of {where}")
        if kind == "ints":
            values = out.setdefault(field, [])
            while at < stop:
                value, at = self._number(at, stop)
                self._spend(1)
                values.append(_signed(value))
            return stop
        part = self._data[at:stop]
        if single == VARINT:
            if len(part) and part[-1] & 128:
                raise Refused("corrupt", WHOLE, f"a cut number in {where}")
            count = len(bytes(part).translate(None, NOT_LAST))
        else:
            count, rest = divmod(len(part), WIDTH[single])
            if rest:
                raise Refused("corrupt", WHOLE, f"a cut number in {where}")
        out[field] = out.get(field, 0) + count
        return stop

    def _number(self, at: int, end: int) -> tuple[int, int]:
        """One varint of at most 64 bits, and where it ends."""
        data, value, shift = self._data, 0, 0
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if value >> 64:
                    break
                return value, at
            shift += 7
        cut = at >= end and shift < 70
        raise Refused(
            "corrupt", WHOLE, "its end within a field (is it truncated?)" if cut else "a number too long"
        )

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise Refused("too large", f"a file of at most {self._fields} fields", "more")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _within(stop: int, end: int, where: str) -> int:
    if stop > end:
        raise Refused("corrupt", WHOLE, f"{stop - end} bytes too few for {where} (is it truncated?)")
    return stop


__all__ = ["ProtobufMessage", "ProtobufReader", "Schema"]
