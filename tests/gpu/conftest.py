"""What tests on a device share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from uapfast import testing


@pytest.fixture
def exact() -> Iterator[None]:
    """Float32 that is float32, algorithms that repeat themselves: the order of work is what is compared."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


@pytest.fixture
def poison() -> Iterator[None]:
    """Memory for results holds NaN before a kernel writes it."""
    with testing.poisoned_outputs():
        yield
