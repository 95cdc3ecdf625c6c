"""Fuzz driver: the opcode interpreter, the search for a state dict, and the views of its tensors."""

from __future__ import annotations

import os

from tests.security import fuzzing
from tests.security.forge import ONE, legacy, state, tensor, text
from tests.security.fuzzing import Refused, choose, convert, opcodes, torchpickle

LIMITS = fuzzing.SMALL
SEEDS = [
    ONE,
    state(("a", tensor([2, 2], [1, 2])), ("b", tensor([2, 3], [0, 1], offset=1)), ("c", tensor([], []))),
    b"\x80\x02}("
    + text("state_dict")
    + ONE[2:-1]
    + text("epoch")
    + b"K\3"
    + text("lr")
    + b"G"
    + b"\0" * 8
    + b"u.",
    b"\x80\x04\x95" + b"\0" * 8 + b"}\x94(\x8c\1a\x94K\1\x85\x94\x8c\1b\x94]\x94(K\1J\0\0\0\0eu.",
    legacy(),
]


def whole(data: bytes) -> None:
    """A pickle alone, with bytes for any storage that it names."""
    table = torchpickle.Torch(LIMITS)
    try:
        root = opcodes.Machine(data, LIMITS, table.resolve, table.persistent).run()
        tensors, _ = choose.find_tensors(root, LIMITS)
        target = os.memfd_create("fuzz")
        try:
            fits = all(t.storage.nbytes <= LIMITS.tensor_bytes for t in tensors.values())
            if fits:
                convert.write(
                    tensors, lambda s: iter([bytes(s.nbytes)]), target, LIMITS.tensor_bytes, LIMITS, {}
                )
        finally:
            os.close(target)
    except Refused as exc:
        assert exc.rule and exc.got.isprintable()


def in_a_file(data: bytes) -> None:
    """The same bytes as a file from before torch 1.6."""
    source, target = os.memfd_create("source"), os.memfd_create("target")
    try:
        os.write(source, data)
        convert.convert(source, len(data), target, True, LIMITS)
    except Refused as exc:
        assert exc.rule and exc.got.isprintable()
    finally:
        os.close(source)
        os.close(target)


def one(data: bytes) -> None:
    """Both readings."""
    whole(data)
    in_a_file(data)


if __name__ == "__main__":
    fuzzing.main(one, SEEDS)
