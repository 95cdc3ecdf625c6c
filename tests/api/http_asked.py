"""A network behind HTTP on loopback, and the suspect that asks it. Skips where no server can be started."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from uapfast.suspects.http import open_http

servers = pytest.importorskip("tests.api.http_servers", reason="needs uvicorn and Pillow")
Served = servers.Served


def net(x: torch.Tensor) -> torch.Tensor:
    """A network: answers depend on every pixel."""
    draw = torch.Generator().manual_seed(3)
    weights = torch.randn(x[0].numel(), 10, generator=draw)
    return x.flatten(1) @ weights


def images(count: int, seed: int = 0) -> torch.Tensor:
    """On the grid of 8 bits."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=draw).float() / 255


@contextmanager
def serve(kind: Any, served: Any = None, path: str = "/v2/models/digits", **options: Any) -> Any:
    served = served or Served(net)
    with servers.Server(kind, served) as server, open_http(server.url + path, **options) as suspect:
        yield server, suspect
