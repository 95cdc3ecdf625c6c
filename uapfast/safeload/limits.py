"""What reading one file may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

from uapfast.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Bounds on one weights file; beyond any of them it is refused (``TooLargeError``).

    Attributes:
        file_bytes: of the whole file.
        tensor_bytes: of all tensors together, as they lie in memory after reading.
        tensors: how many.
        header_bytes: of a safetensors header, or of the pickle of a ``.pt`` file.
        name_chars: of one tensor's name.
        dimensions: of one tensor.
        operations: opcodes of a pickle.
        depth: of nested containers in a pickle.
        growth: tensors of a ``torch.save`` file, in multiples of its size (or of 32 MiB, if it is smaller);
            views that share memory, and compressed records, can make them larger than the file.
        seconds: CPU time of the worker that reads a pickle; its wall time as well, for a small file.
        seconds_per_gib: wall time beyond that for every GiB of file; a busy machine is not its fault.
        memory_bytes: address space of that worker.
    """

    file_bytes: int = 4 << 30
    tensor_bytes: int = 2 << 30
    tensors: int = 100_000
    header_bytes: int = 16 << 20
    name_chars: int = 1024
    dimensions: int = 64
    operations: int = 6_000_000
    depth: int = 500
    growth: int = 8
    seconds: float = 9.0
    seconds_per_gib: float = 60.0
    memory_bytes: int = 1280 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            right = (int, float) if field.name.startswith("seconds") else (int,)
            if isinstance(value, bool) or not isinstance(value, right) or not 0 < value < 2**62:
                raise InputError("Limits", field.name, "a number above 0", repr(value))
