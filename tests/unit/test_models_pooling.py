"""Max pooling by slices: torch's answers, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from uapfast.models.model import Model
from uapfast.models.pooling import SlicedMaxPool2d, slice_max_pools
from uapfast.models.registry import resolve_arch

VALUES = torch.tensor([-torch.inf, -2.0, -1.0, 0.0, 0.5, 3.0, torch.inf, torch.nan])


def sliced(pool):
    network = nn.Sequential(pool)
    slice_max_pools(network)
    return network[0]


def same(a, b):
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a, 7.25), torch.nan_to_num(b, 7.25))


pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(st.integers(3, 9), st.integers(3, 9), pairs, pairs, st.booleans(), st.integers(0, 9), st.booleans())
def test_answers_as_torch(height, width, kernel, stride, padded, seed, single):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, height, width) if single else (2, 3, height, width)
    x = VALUES[torch.randint(0, len(VALUES) - (seed % 2), shape, generator=generator)]
    pool = nn.MaxPool2d(kernel, stride, tuple(k // 2 for k in kernel) if padded else 0)
    quick = sliced(nn.MaxPool2d(kernel, stride, pool.padding))
    assert type(quick) is SlicedMaxPool2d
    try:
        want = pool(x)
    except RuntimeError as exc:
        with pytest.raises(RuntimeError) as got:
            quick(x)
        assert str(got.value) == str(exc)
    else:
        found = quick(x)
        assert same(found, want) and found.is_contiguous()


def test_input_stays_as_it_is():
    x = torch.rand(2, 1, 8, 8)
    before = x.clone()
    for pool in (nn.MaxPool2d(1), nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1)):
        out = sliced(pool)(x)
        out.zero_()
        assert torch.equal(x, before)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
        type("Own", (nn.MaxPool2d,), {})(2),
        nn.AvgPool2d(2),
    ],
)
def test_others_are_left_alone(pool):
    assert type(sliced(pool)) is type(pool)


@pytest.mark.parametrize("x", [torch.rand(1, 1, 8, 8).double(), torch.rand(1, 8, 8, 2).permute(0, 3, 1, 2)])
def test_other_layouts_go_torchs_way(x):
    assert torch.equal(sliced(nn.MaxPool2d(2))(x), nn.MaxPool2d(2)(x))


@pytest.mark.parametrize("shape", [(8, 8), (1, 1, 1, 8), (0, 1, 8, 8), (1, 1, 8, 8, 8)])
def test_odd_shapes_fail_as_in_torch(shape):
    x = torch.rand(shape)
    try:
        want = nn.MaxPool2d(2)(x)
    except Exception as exc:
        with pytest.raises(type(exc)):
            sliced(nn.MaxPool2d(2))(x)
    else:
        assert torch.equal(sliced(nn.MaxPool2d(2))(x), want)


def test_a_network_answers_and_learns_as_it_does_by_itself():
    plain, x = (
        resolve_arch("uapfast:vgg-small?channels=1&classes=10&size=28")().eval(),
        torch.rand(20, 1, 28, 28),
    )
    model = Model(plain)
    kinds = {type(m) for m in model.module.modules()}
    assert SlicedMaxPool2d in kinds and nn.MaxPool2d not in kinds
    assert nn.MaxPool2d in {type(m) for m in plain.modules()}  # the caller's stays as it is
    found = []
    for module in (plain, model.module):
        with torch.no_grad():
            answers = module(x)
        moved = x.clone().requires_grad_()
        found.append((answers, *torch.autograd.grad(module(moved).square().sum(), moved)))
    assert all(map(torch.equal, *found))


def test_equal_values_share_no_gradient():
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(sliced(nn.MaxPool2d(2))(x).sum(), x)
    assert gradient.flatten().tolist() == [1, 0, 0, 0]
