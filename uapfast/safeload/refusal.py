"""Why a file is refused, before the file's name is known. Standard library only: the worker has it too."""

from __future__ import annotations

from typing import Literal

RefusalKind = Literal["unsafe", "corrupt", "too large", "unsupported"]
KINDS: tuple[RefusalKind, ...] = ("unsafe", "corrupt", "too large", "unsupported")
SHOWN = 120


class Refused(Exception):
    """A file is not read.

    Attributes:
        kind: one of :data:`KINDS`; each has its typed error in ``uapfast.errors``.
        rule: what would be right, and what to do instead.
        got: the offending thing.
    """

    def __init__(self, kind: RefusalKind, rule: str, got: str) -> None:
        super().__init__(kind, rule, got)
        self.kind: RefusalKind = kind
        self.rule, self.got = rule, got


def shown(value: object, limit: int = SHOWN) -> str:
    """A hostile string for a message: short, on one line, no control characters, the end kept."""
    text = str(value)
    if len(text) > limit:
        text = f"{text[: limit // 2]}...{text[-limit // 2 :]}"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def check_name(name: object, limit: int) -> str:
    """A tensor's name: text that can be shown, hashed and written anywhere."""
    if not isinstance(name, str):
        raise Refused(
            "unsupported", "tensors that are named by text", f"a name of type {type(name).__name__}"
        )
    if len(name) > limit:
        raise Refused("too large", f"tensor names of at most {limit} characters", f"one of {len(name)}")
    if not name.isprintable():  # lone surrogates and terminal escapes among them
        raise Refused("corrupt", "printable tensor names", f"the name {shown(name)}")
    return name
