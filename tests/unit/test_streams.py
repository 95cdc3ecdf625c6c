"""What can be seen of CUDA's streams without a GPU: who gets which."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch

from uapfast.streams import CannotCapture, Host, HostStream, device_for
from uapfast.streams import cuda as cuda_streams
from uapfast.streams.cuda import POOL, Cuda, CudaStream


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A CUDA device as far as torch hands out its streams in turn, 32 of each priority."""
    turn = {0: 0, -1: 0}

    def stream(place: torch.device, priority: int = 0) -> SimpleNamespace:
        turn[priority] = (turn[priority] + 1) % POOL
        return SimpleNamespace(cuda_stream=1 + turn[priority] - 100 * priority)

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda place: SimpleNamespace(cuda_stream=0))
    return Cuda("cuda:0")


def test_no_stream_is_given_to_two(device):
    kept = [device.stream() for _ in range(5)]
    for _ in range(3 * POOL):  # of networks that come and go
        device.stream()
    kept += [device.stream() for _ in range(2 * POOL - 5)]
    assert len({s.raw.cuda_stream for s in kept}) == 2 * POOL and all(s.own for s in kept)
    shared = device.stream()
    assert shared.raw.cuda_stream == 0 and not shared.own
    with pytest.raises(CannotCapture, match="others'"):
        device.capture(lambda: None, shared)
    kept.pop()
    gc.collect()
    assert device.stream().own


def test_the_same_number_on_another_device_is_another_stream(device):
    first = device.stream()
    other = Cuda("cuda:1")
    assert any(other.stream().raw.cuda_stream == first.raw.cuda_stream for _ in range(POOL))


def test_a_cpu_has_none():
    assert isinstance(device_for("cpu"), Host) and isinstance(device_for("cpu").stream(), HostStream)
    assert isinstance(device_for("cuda:1"), Cuda)
    with pytest.raises(CannotCapture, match="no graphs on cpu"):
        Host().capture(lambda: None, HostStream())
    assert cuda_streams.POOL == POOL and CudaStream.__doc__
