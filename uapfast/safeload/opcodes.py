"""An interpreter of pickle's opcodes that builds plain data and nothing else. Standard library only.

It never imports, never calls what a file names, and keeps its own books: every opcode is counted, every
length is compared with what is there, keys of dicts are scalars (the hash of a tuple that holds itself
twice, forty times over, takes longer than anyone has). The names a file may mention come from a table.
Opcodes: Lib/pickletools.py of CPython.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from uapfast.safeload.limits import Limits
from uapfast.safeload.refusal import Refused, shown

LINE = 512
LONG = 256  # bytes of one integer
SCALARS = (str, int, float, bool, bytes, type(None))
FEW = 16  # members of a tuple that is a key
PLAIN = "a pickle of tensors and plain containers"
# What only programs need: making objects of any class, extension registries, out-of-band buffers.
REFUSED = {
    b"i": "INST", b"o": "OBJ", b"\x92": "NEWOBJ_EX", b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4",
    b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER",
}  # fmt: skip
codecs.lookup("raw-unicode-escape")  # a module of Python's own, which the sandbox can no longer import


class Ordered(dict[Any, Any]):
    """An ``OrderedDict``, whose BUILD (a state dict's ``_metadata``) is let pass and dropped."""


class Inert:
    """Plain data that is no tensor and no container of them: what it holds is dropped."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


class Foreign(Inert):
    """An object of a class that nobody here knows: never made; refused where it belongs to the state dict."""

    __slots__ = ()


class Unread(Inert):
    """A tensor of a kind that is known and not read; refused where it belongs to the state dict."""

    __slots__ = ()


class Named:
    """Something that a file may mention by name; called only if it has a function of ours.

    ``made`` is what NEWOBJ gives: an object of a class that is plain data.
    """

    __slots__ = ("call", "made", "name", "value")

    def __init__(
        self, name: str, call: Callable[..., Any] | None = None, value: Any = None, made: Inert | None = None
    ) -> None:
        self.name, self.call, self.value, self.made = name, call, value, made


PASSIVE = (Inert, Foreign)  # what items may be given to, and drops them
SET, FROZENSET = Inert("a set"), Inert("a frozenset")


class Machine:
    """Runs one pickle.

    Args:
        data: bytes that hold it.
        limits: bounds.
        resolve: from module and name to what stands for them, or ``Refused``.
        persistent: from a persistent id to what stands for it, or ``Refused``.
        at: where the pickle begins; afterwards, where it ended.
    """

    def __init__(
        self,
        data: bytes,
        limits: Limits,
        resolve: Callable[[str, str], Named],
        persistent: Callable[[Any], Any],
        at: int = 0,
    ) -> None:
        self.data, self.limits, self.at = data, limits, at
        self.resolve, self.persistent = resolve, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes; raises ``Refused``."""
        data, steps, left = self.data, STEPS, self.limits.operations
        try:
            while left:
                op = data[self.at]
                self.at += 1
                if op == 46:  # STOP
                    if self.below or len(self.stack) != 1:
                        raise _broken("a STOP with other than one object left")
                    return self.stack.pop()
                step = steps[op]
                if step is None:
                    self._refuse(op)
                else:
                    step(self)
                left -= 1
        except IndexError:
            raise _broken("its end, or an empty stack, in the middle (is it truncated?)") from None
        except (KeyError, ValueError, TypeError, UnicodeDecodeError, struct.error) as exc:
            raise _broken(f"{type(exc).__name__} ({shown(exc)}) at byte {self.at}") from None
        rule = f"a pickle of at most {self.limits.operations} opcodes"
        raise Refused("too large", rule, "a longer one")

    def _refuse(self, op: int) -> None:
        name = REFUSED.get(bytes([op]))
        if name is None:
            raise _broken(f"opcode {op:#04x} at byte {self.at - 1}")
        named = self._mentioned(name)
        raise Refused(
            "unsafe", PLAIN, f"opcode {name}{named} at byte {self.at - 1}, which makes objects of classes"
        )

    def _mentioned(self, name: str) -> str:
        if name != "INST":
            return ""
        return f" of {shown(self.line().decode('latin-1'))}.{shown(self.line().decode('latin-1'))}"

    # What the steps below share.

    def take(self, count: int) -> bytes:
        """The next bytes."""
        out = self.data[self.at : self.at + count]
        if len(out) != count:
            raise IndexError
        self.at += count
        return out

    def number(self, size: int, signed: bool = False) -> int:
        """A little-endian integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        """Bytes up to a newline, which is passed over."""
        end = self.data.find(b"\n", self.at, self.at + LINE)
        if end < 0:
            raise _broken(f"a line without end at byte {self.at}")
        out = self.data[self.at : end]
        self.at = end + 1
        return out

    def push(self, value: Any) -> None:
        """One object on the stack."""
        self.stack.append(value)

    def mark(self) -> None:
        """Begin a group."""
        if len(self.below) >= self.limits.depth:
            raise Refused("too large", f"a pickle of at most {self.limits.depth} levels", "a deeper one")
        self.below.append(self.stack)
        self.stack = []

    def group(self) -> list[Any]:
        """End the innermost group and return it."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def get(self, key: int) -> None:
        """Push what the memo holds."""
        self.stack.append(self.memo[key])

    def put(self, key: int) -> None:
        """Remember the top of the stack."""
        if key < 0:
            raise _broken("a negative place in the memo")
        self.memo[key] = self.stack[-1]

    def tupled(self, count: int) -> None:
        """Replace ``count`` objects by one tuple."""
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def extend(self, items: list[Any]) -> None:
        """Add to the list on top."""
        if type(self.stack[-1]) in PASSIVE:
            return
        if type(self.stack[-1]) is not list:
            raise _broken(f"items for a {type(self.stack[-1]).__name__}, not a list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        """Add names and values to the dict on top (CVE-2026-24747: torch did so to anything)."""
        target = self.stack[-1]
        if type(target) in PASSIVE:
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise _broken(f"{len(items)} names and values for a {type(target).__name__}, not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if _scalar(key) in target:  # pickle keeps the last; who keeps the first sees another model
                rule = "a file that names everything once"
                raise Refused("corrupt", rule, f"the name {shown(key)} twice in a dict")
            target[key] = value

    def add(self) -> None:
        """Members of a set are dropped: nobody looks at them, and to hash them may take for ever."""
        self.group()
        if self.stack[-1] is not SET:
            raise _broken(f"members for a {type(self.stack[-1]).__name__}, not a set")

    def frozen(self) -> None:
        """FROZENSET: as :meth:`add`."""
        self.group()
        self.push(FROZENSET)

    def new(self) -> None:
        """NEWOBJ: an object of a class that is plain data, without calling anything."""
        _, made = self.stack.pop(), self.stack.pop()
        if not isinstance(made, Named) or made.made is None:
            what = made.name if isinstance(made, Named) else f"a {type(made).__name__}"
            raise Refused("unsafe", PLAIN, f"opcode NEWOBJ of {shown(what)}, which makes objects of classes")
        self.push(made.made)

    def text_reference(self) -> None:
        """PERSID: protocol 0 keeps only the printed form of what refers to a storage."""
        rule = "a pickle of protocol 2 (torch.save's default; what refers to the bytes is lost in protocol 0)"
        raise Refused("unsupported", rule, f"opcode PERSID at byte {self.at - 1}")

    def named(self, module: Any, name: Any) -> None:
        """Push what stands for ``module.name`` in the table."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise _broken("a global that is not named by text")
        self.push(self.resolve(module, name))

    def reduce(self) -> None:
        """Call what the table allows, with the tuple on top."""
        arguments, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, Named) or callee.call is None:
            what = callee.name if isinstance(callee, Named) else f"a {type(callee).__name__}"
            raise Refused("unsafe", PLAIN, f"a call of {shown(what)}")
        if type(arguments) is not tuple:
            raise _broken(f"{callee.name} without a tuple of arguments")
        self.push(callee.call(*arguments))

    def build(self) -> None:
        """A state dict's ``_metadata`` is dropped, and what plain data holds; nothing else may be built."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            return
        if not isinstance(self.stack[-1], Ordered) or not isinstance(state, dict):
            what = self.stack[-1].name if isinstance(self.stack[-1], Named) else type(self.stack[-1]).__name__
            raise Refused("unsafe", PLAIN, f"opcode BUILD on {shown(what)}")

    def integer(self) -> None:
        """INT: text, or a bool in disguise."""
        text = self.line()
        self.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))

    def quoted(self) -> None:
        """STRING: Python 2's text between quotes, with escapes."""
        line = self.line().strip()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise _broken(f"text without its quotes at byte {self.at}")
        self.push(codecs.escape_decode(line[1:-1])[0].decode("ascii"))

    def long(self, size: int) -> None:
        """LONG1, LONG4: a two's-complement integer."""
        if size > LONG:
            raise Refused("too large", f"integers of at most {LONG} bytes", str(size))
        self.push(self.number(size, signed=True))

    def text(self, size: int) -> None:
        """UTF-8 text; lone surrogates pass as pickle has them, and no tensor's name may hold one."""
        self.push(self.take(size).decode("utf-8", "surrogatepass"))

    def make_dict(self) -> None:
        """DICT: a group of names and values."""
        items = self.group()
        self.push({})
        self.update(items)


def _broken(got: str) -> Refused:
    return Refused("corrupt", "a whole pickle of a state dict", got)


def _by_identity(key: Any) -> bool:
    """An optimiser's state has its parameters as keys: objects of ours, whose hash is cheap."""
    return not isinstance(key, Named | tuple | list | dict)


def _scalar(key: Any) -> Any:
    if type(key) is tuple and len(key) <= FEW and all(type(part) in SCALARS for part in key):
        return key
    if type(key) not in SCALARS and not _by_identity(key):
        what = key.name if isinstance(key, Named) else f"a {type(key).__name__}"
        raise Refused("unsupported", "dicts and sets with names, numbers or None as keys", shown(what))
    return key


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.group()


def _no_op(size: int) -> Callable[[Machine], None]:
    return lambda m: void(m.take(size))


def void(value: object) -> None:
    """Drop a value."""


_BY_OPCODE: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": _no_op(1), b"\x95": _no_op(8),  # PROTO, FRAME
    b"(": Machine.mark, b"0": _pop, b"1": lambda m: void(m.group()), b"2": lambda m: m.push(m.stack[-1]),
    b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True), b"\x89": lambda m: m.push(False),
    b"I": Machine.integer, b"J": lambda m: m.push(m.number(4, signed=True)),
    b"K": lambda m: m.push(m.number(1)), b"M": lambda m: m.push(m.number(2)),
    b"L": lambda m: m.push(int(m.line().removesuffix(b"L"))),
    b"\x8a": lambda m: m.long(m.number(1)), b"\x8b": lambda m: m.long(m.number(4)),
    b"F": lambda m: m.push(float(m.line())), b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"S": Machine.quoted,
    b"T": lambda m: m.push(m.take(m.number(4)).decode("latin-1")),
    b"U": lambda m: m.push(m.take(m.number(1)).decode("latin-1")),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.text(m.number(4)), b"\x8c": lambda m: m.text(m.number(1)),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"B": lambda m: m.push(m.take(m.number(4))), b"C": lambda m: m.push(m.take(m.number(1))),
    b"\x8e": lambda m: m.push(m.take(m.number(8))), b"\x96": lambda m: m.push(m.take(m.number(8))),
    b"]": lambda m: m.push([]), b"a": lambda m: m.extend([m.stack.pop()]),
    b"e": lambda m: m.extend(m.group()), b"l": lambda m: m.push(m.group()),
    b")": lambda m: m.push(()), b"t": lambda m: m.push(tuple(m.group())),
    b"\x85": lambda m: m.tupled(1), b"\x86": lambda m: m.tupled(2), b"\x87": lambda m: m.tupled(3),
    b"}": lambda m: m.push({}), b"d": Machine.make_dict,
    b"s": lambda m: m.update([m.stack.pop(), m.stack.pop()][::-1]), b"u": lambda m: m.update(m.group()),
    b"\x8f": lambda m: m.push(SET), b"\x90": Machine.add, b"\x91": Machine.frozen,
    b"g": lambda m: m.get(int(m.line())), b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"p": lambda m: m.put(int(m.line())), b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"c": lambda m: m.named(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.named(*[m.stack.pop(), m.stack.pop()][::-1]),
    b"R": Machine.reduce, b"\x81": Machine.new, b"b": Machine.build, b"P": Machine.text_reference,
    b"Q": lambda m: m.push(m.persistent(m.stack.pop())),
}  # fmt: skip
STEPS = [_BY_OPCODE.get(bytes([op])) for op in range(256)]
