from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from tests.ops.common import ODD, backends, far_apart, on_host, through_device
from uapfast import ops, testing
from uapfast.errors import InputError
from uapfast.ops._registry import OPS
from uapfast.ops.project_lp import NORMS, largest_not_above, reference

project_lp = through_device(ops.project_lp)
BACKENDS = backends("project_lp")
HERE = [b.name for b in OPS["project_lp"].backends if b.why_off() is None]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
on_every_host_backend = pytest.mark.parametrize("backend", on_host("project_lp"))
every_norm = pytest.mark.parametrize("p", NORMS)


def norms(x: torch.Tensor, p: float) -> list[float]:
    """Norms without rounding worth the name: fsum of exact doubles."""
    rows = x.double().tolist()
    if math.isinf(p):
        return [max(map(abs, r), default=0.0) for r in rows]
    if p == 1:
        return [math.fsum(map(abs, r)) for r in rows]
    return [math.sqrt(math.fsum(v * v for v in r)) for r in rows]


@every_backend
@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", ODD)
def test_matches_float64(backend: str, p: float, dtype: torch.dtype, size: int) -> None:
    x = torch.randn(5, size, dtype=torch.float64).to(dtype)
    got = project_lp(x, 0.7, p, backend=backend)
    exact = reference(x.double(), 0.7, p)
    assert got.dtype == dtype and got.shape == x.shape and got.is_contiguous()
    # 0.7 * 2^-23: the room that keeps the result inside the ball. float64 meets itself.
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-15 if dtype == torch.float64 else 1.7e-7)


@every_backend
@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e12, 1e30])
def test_inside_and_idempotent_over_sixty_orders_of_magnitude(backend: str, p: float, scale: float) -> None:
    x = (torch.randn(6, 301) * scale).float()
    for eps in (0.1, 8 / 255, 1.0):
        once = project_lp(x, eps, p, backend=backend)
        assert max(norms(once, p)) <= eps
        assert torch.equal(project_lp(once, eps, p, backend=backend), once)


@every_backend
@every_norm
def test_a_row_inside_is_returned_bit_for_bit(backend: str, p: float) -> None:
    x = torch.randn(3, 50) * 1e-4
    assert torch.equal(project_lp(x, 1.0, p, backend=backend), x)


vectors = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40)


@every_norm
@given(vector=vectors, eps=st.floats(1e-3, 50))
@settings(max_examples=150, deadline=None)
def test_is_the_nearest_point(p: float, vector: list[float], eps: float) -> None:
    """A point y of the ball is the nearest to x iff eps ||x - y||_q <= <x - y, y>, q the dual of p."""
    x = torch.tensor([vector], dtype=torch.float32)
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
    for backend in HERE:
        y = project_lp(x, eps, p, backend=backend)
        assert norms(y, p)[0] <= eps
        assert torch.equal(project_lp(y, eps, p, backend=backend), y)
        rest = x.double() - y.double()
        gap = eps * norms(rest, dual)[0] - float((rest * y.double()).sum())
        # y is off by no more than 2^-22 eps in norm, which moves either side by that times the other.
        assert gap <= 5e-7 * eps * (norms(rest, dual)[0] + norms(x, 2)[0] * math.sqrt(len(vector)) + eps)


@given(vector=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=5), eps=st.floats(0.05, 3))
@settings(max_examples=25, deadline=None)
def test_l1_agrees_with_a_general_solver(vector: list[float], eps: float) -> None:
    x = np.array(vector, dtype=np.float64)
    n = len(x)
    found = minimize(  # z = a - b with a, b >= 0 makes the L1 ball a polytope
        lambda z: float(((z[:n] - z[n:] - x) ** 2).sum()),
        np.full(2 * n, eps / (4 * n)),
        jac=lambda z: np.concatenate([2 * (z[:n] - z[n:] - x), -2 * (z[:n] - z[n:] - x)]),
        bounds=[(0, None)] * (2 * n),
        constraints={"type": "ineq", "fun": lambda z: eps - z.sum(), "jac": lambda z: -np.ones(2 * n)},
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-14},
    ).x
    for backend in HERE:
        got = project_lp(torch.tensor(vector, dtype=torch.float64)[None], eps, 1, backend=backend)
        np.testing.assert_allclose(got[0].numpy(), found[:n] - found[n:], atol=2e-5)


@given(
    vector=st.lists(st.floats(-50, 50, width=32) | st.sampled_from([-2.0, 2.0]), min_size=1, max_size=300),
    eps=st.floats(1e-3, 400),
)
@settings(max_examples=60, deadline=None)
def test_l1_agrees_with_bisection(vector: list[float], eps: float) -> None:
    """theta solves sum max(|x_i| - theta, 0) = eps: halved 200 times, sums without rounding."""
    low, high = 0.0, max(map(abs, vector))
    for _ in range(200 if math.fsum(map(abs, vector)) > eps else 0):
        theta = (low + high) / 2
        inside = math.fsum(max(abs(v) - theta, 0.0) for v in vector) <= eps
        low, high = (low, theta) if inside else (theta, high)
    theta = high if math.fsum(map(abs, vector)) > eps else 0.0
    want = np.array([math.copysign(max(abs(v) - theta, 0.0), v) for v in vector])
    for backend in HERE:
        for dtype, room in ((torch.float64, 1e-12), (torch.float32, 3e-7)):
            got = project_lp(torch.tensor(vector, dtype=dtype)[None], eps, 1, backend=backend)[0]
            np.testing.assert_allclose(got.double().numpy(), want, rtol=0, atol=room * (eps + theta))


@every_backend
def test_l1_with_ties_and_a_single_survivor(backend: str) -> None:
    tied = project_lp(torch.tensor([[2.0, -2.0, 2.0, 0.0]], dtype=torch.float64), 3.0, 1, backend=backend)
    torch.testing.assert_close(tied, torch.tensor([[1.0, -1.0, 1.0, 0.0]], dtype=torch.float64))
    for size in (1e-3, 1.0, 1e6, 1e20):  # equal values whose sum rounds by more than the radius
        x = torch.full((1, 1000), size)
        torch.testing.assert_close(project_lp(x, 0.5, 1, backend=backend), torch.full((1, 1000), 5e-4))
    one = project_lp(torch.tensor([[1e20, 1.0, -1.0]]), 0.5, 1, backend=backend)
    torch.testing.assert_close(one, torch.tensor([[0.5, 0.0, 0.0]]))


@every_backend
def test_nan_and_infinity(backend: str) -> None:
    x = torch.tensor([[1.0, math.nan, 3.0], [math.inf, 0.0, 0.0], [3.0, 4.0, 0.0]])
    for p in (1, 2):
        got = project_lp(x, 1.0, p, backend=backend)
        assert got[:2].isnan().all() and got[2].isfinite().all()
    got = project_lp(x, 1.0, math.inf, backend=backend)
    assert got[0].tolist()[0::2] == [1.0, 1.0] and got[0, 1].isnan() and got[1].tolist() == [1.0, 0.0, 0.0]


@every_backend
@every_norm
def test_radius_zero(backend: str, p: float) -> None:
    assert (project_lp(torch.randn(2, 9), 0.0, p, backend=backend) == 0).all()


@every_backend
@every_norm
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_empty_and_strided_and_untouched(backend: str, p: float, rows: int) -> None:
    wide = torch.randn(rows, 2 * 33)
    for x in (wide[:, ::2], wide[:, :33], torch.randn(33, rows).T, torch.randn(1, 33).expand(rows, 33)):
        before = x.clone()
        got = project_lp(x, 0.3, p, backend=backend)
        torch.testing.assert_close(got, reference(before, 0.3, p))
        assert torch.equal(x, before)


@on_every_host_backend
@every_norm
def test_strides_beyond_32_bits(backend: str, p: float) -> None:
    x = torch.randn(2, 33)
    assert torch.equal(
        project_lp(far_apart(x), 0.3, p, backend=backend), project_lp(x, 0.3, p, backend=backend)
    )


@every_backend
@every_norm
def test_stays_within_its_buffers(backend: str, p: float) -> None:
    for size in ODD[1:]:
        source = testing.Canary(torch.randn(3, size))
        project_lp(source.tensor, 0.5, p, backend=backend)
        assert source.intact()


@every_norm
@pytest.mark.needs("cpu-extension")
def test_native_writes_only_its_target(p: float) -> None:
    from uapfast import _native

    for size in ODD[1:]:
        source, target = testing.Canary(torch.randn(3, size)), testing.Canary(torch.full((3, size), math.nan))
        _native.cpu().project_lp(
            source.tensor.data_ptr(), target.tensor.data_ptr(), 0, 3, size, size, size, 0.5, p, 1, -1
        )
        assert source.intact() and target.intact() and target.tensor.isfinite().all()


@every_norm
@pytest.mark.needs("cpu-extension")
def test_same_bits_for_any_threads_and_level(p: float) -> None:
    x = torch.randn(9, 70_001)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results += [project_lp(x, 2.0, p, backend=b) for b in HERE if b not in ("reference", "cuda")]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], r) for r in results[1:])


@on_every_host_backend
@pytest.mark.parametrize(
    ("args", "needle"),
    [
        (
            (torch.zeros(3), 1.0, 2),
            "delta must be float32 or float64 or float16 or bfloat16 [P, D], got float32 [3]",
        ),
        ((torch.zeros(3, 2, dtype=torch.int64), 1.0, 2), "int64 [3, 2]"),
        ((torch.zeros(3, 2), -1.0, 2), "eps must be finite and >= 0, got -1.0"),
        ((torch.zeros(3, 2), math.nan, 2), "got nan"),
        ((torch.zeros(3, 2), math.inf, 2), "got inf"),
        ((torch.zeros(3, 2), 1.0, 3), "p must be one of 1, 2, inf, got 3.0"),
    ],
)
def test_bad_input_is_named(backend: str, args: tuple[object, ...], needle: str) -> None:
    with pytest.raises(InputError) as caught:
        project_lp(*args, backend=backend)  # type: ignore[arg-type]
    assert needle in str(caught.value)


@every_norm
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_runs_in_float64(p: float, dtype: torch.dtype) -> None:
    x = torch.randn(4, 65).to(dtype)
    got = project_lp(x, 0.5, p)
    assert got.dtype == dtype
    room = torch.finfo(dtype).eps  # of the radius, and of each element
    torch.testing.assert_close(got.double(), reference(x.double(), 0.5, p), rtol=2 * room, atol=room)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_bound_is_the_largest_not_above(dtype: torch.dtype) -> None:
    for eps in (0.1, 0.3, 8 / 255, 1.0, 0.0):
        bound = largest_not_above(eps, dtype)
        above = torch.tensor(bound, dtype=dtype)
        assert bound <= eps and float(above) == bound
        assert bound == eps or float(above + torch.finfo(dtype).eps * above) > eps
