"""Compile a Triton kernel for a device that is not there, from the launches that the host code makes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch


class Launch(NamedTuple):
    """A launch that was asked for: the kernel with its configurations, and what it was given."""

    tuned: Any
    args: tuple[Any, ...]
    meta: dict[str, Any]


def launches(work: Callable[[], object], capability: int) -> list[Launch]:
    """What ``work`` would launch on such a device; it may run on meta tensors, nothing is launched."""
    from uapfast.ops import _triton

    found: list[Launch] = []

    def note(self: Any, key: object, grid: object, *args: Any, **meta: Any) -> None:
        hash(key)
        found.append(Launch(self, args, meta))

    with (
        mock.patch.object(_triton.kernels("_launch").Tuned, "__call__", note),
        mock.patch.object(torch.cuda, "is_available", lambda: True),
        mock.patch.object(torch.cuda, "get_device_capability", lambda: divmod(capability, 10)),
    ):
        work()
    return found


def compile_for(launch: Launch, config: Any, capability: int) -> Any:
    """The compiled kernel (``.asm`` has ptx and cubin), specialised as a launch would be."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel = launch.tuned.kernel
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    constants = {**launch.meta, **config.all_kwargs(), **launch.tuned.options}
    bound, specialization, options = binder(*launch.args, **constants)
    settings, signature, constexprs, attrs = kernel._pack_args(
        backend, constants, bound, specialization, options
    )
    source = ASTSource(kernel, signature, constexprs, attrs)
    return triton.compile(source, target=target, options=settings.__dict__)


def resources(compiled: Any, folder: Path) -> dict[str, int]:
    """REG, STACK, SHARED, LOCAL of a block; a spilled register shows as STACK or LOCAL.

    The cubin knows nothing of the shared memory that a launch asks for: that is what ``compiled`` says.
    """
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [str(tool), "--dump-resource-usage", str(cubin)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", shown)}
    assert found.keys() == {"REG", "STACK", "SHARED", "LOCAL"}, shown
    return {**found, "SHARED": found["SHARED"] + compiled.metadata.shared}
