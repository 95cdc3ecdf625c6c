"""Asking a network in the precision of a screen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def raw_answers(module: nn.Module, x: Tensor, precision: str) -> Any:
    """Whatever ``module`` returns for ``x`` ``[N,C,H,W]`` on its device, without gradients.

    ``float32`` leaves everything as it is; ``bf16`` is autocast on channels-last images. Weights are cast
    anew each time, since they are replaced in place.
    """
    with torch.no_grad():
        if precision == "float32":
            return module(x)
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return module(x.contiguous(memory_format=torch.channels_last))


__all__ = ["raw_answers"]
