"""deepfool_step's CUDA kernels on the host, thread by thread; see emulated_machine.h."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from tests.build.emulated import HALVES, deepfool_step, load
from uapfast import testing
from uapfast.ops.deepfool_step import NORMS, reference

every_norm = pytest.mark.parametrize("p", NORMS)
every_way = pytest.mark.parametrize("fused", [1, 0], ids=["one-block", "many-blocks"])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load(tmp_path_factory.mktemp("emulated"))


def inputs(
    batch: int, classes: int, size: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    logits, grads = torch.randn(batch, classes).to(dtype), torch.randn(batch, classes, size).to(dtype)
    return logits, grads, torch.randint(0, classes, (batch,))


def check(
    got: tuple[torch.Tensor, torch.Tensor], case: tuple[torch.Tensor, ...], p: float, tight: float
) -> None:
    logits, grads, labels = case
    want, nearest = reference(logits.double(), grads.double(), labels, p)
    assert torch.equal(got[1], nearest)
    torch.testing.assert_close(
        got[0].double(), want, rtol=tight, atol=tight * float(want.nan_to_num().abs().max()), equal_nan=True
    )


@every_norm
@every_way
@pytest.mark.parametrize(
    "shape", [(3, 2, 1), (2, 5, 17), (3, 10, 64), (2, 9, 1025), (1, 67, 130), (2, 3, 4500)]
)
def test_matches_the_reference(
    library: ctypes.CDLL, shape: tuple[int, int, int], p: float, fused: int
) -> None:
    case = inputs(*shape)
    step, nearest, (chunks, aligned, one) = deepfool_step(library, *case, p, fused=fused)
    assert one == bool(fused) and aligned == (shape[2] % 4 == 0) and chunks == (2 if shape[2] > 4096 else 1)
    check((step, nearest), case, p, 3e-7)


@every_norm
@every_way
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision(library: ctypes.CDLL, dtype: torch.dtype, p: float, fused: int) -> None:
    for size in (7, 128):
        case = inputs(3, 10, size, dtype)
        step, nearest, _ = deepfool_step(library, *case, p, fused=fused)
        check((step, nearest), case, p, torch.finfo(dtype).eps)


@every_norm
@every_way
def test_special_samples(library: ctypes.CDLL, p: float, fused: int) -> None:
    logits, grads, labels = inputs(9, 4, 33)
    labels[0], labels[1] = -1, 4  # nobody's: NaN, rather than a stray read
    labels[2:] = torch.arange(7) % 4
    logits[2, 3] = math.nan
    grads[3, int(labels[3]), 32] = math.inf
    grads[4, (int(labels[4]) + 1) % 4, 0] = math.nan
    grads[5] = grads[5, :1]  # no class can be reached
    grads[6, 3], logits[6, 3] = grads[6, 1], logits[6, 1]  # a tie
    step, nearest, _ = deepfool_step(library, logits, grads, labels, p, fused=fused)
    assert step[:2].isnan().all()
    check((step[2:], nearest[2:]), (logits[2:], grads[2:], labels[2:]), p, 3e-7)
    assert nearest[:5].tolist() == [-1] * 5 and nearest[5] == labels[5] and (step[5] == 0).all()
    for scale in (1e-30, 1e30):
        got = deepfool_step(library, logits[6:] * scale, grads[6:] * scale, labels[6:], 2.0, fused=fused)
        check(got[:2], (logits[6:], grads[6:], labels[6:]), 2.0, 1e-5)


@every_norm
def test_same_bits_however_it_is_cut_and_laid_out(library: ctypes.CDLL, p: float) -> None:
    batch, classes, size = 4, 11, 260
    logits, grads, labels = inputs(batch, classes, size)
    want = deepfool_step(library, logits, grads, labels, p, fused=1)[:2]
    for pad in (0, 1, 4):
        source = testing.Canary(torch.randn(classes, batch, size + pad))
        source.tensor[:, :, :size] = grads.transpose(0, 1)
        strided = source.tensor[:, :, :size].transpose(0, 1)
        for fused, blocks in ((1, 1), (0, 0), (0, 3)):
            target = testing.Canary(torch.full((batch, size), math.inf), margin=65)
            step, nearest, _ = deepfool_step(
                library, logits, strided, labels, p, fused=fused, blocks=blocks, step=target.tensor
            )
            assert torch.equal(step, want[0]) and torch.equal(nearest, want[1])
            assert source.intact() and target.intact()
    one = deepfool_step(library, logits[2:3, :7], grads[2:3, :7], labels[2:3].clamp(max=6), p, fused=0)[:2]
    many = deepfool_step(library, logits[:, :7], grads[:, :7], labels.clamp(max=6), p, fused=1)[:2]
    assert torch.equal(one[0], many[0][2:3]) and torch.equal(one[1], many[1][2:3])
