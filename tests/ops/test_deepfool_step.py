from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.common import ODD, backends, far_apart, on_host, through_device
from uapfast import ops, testing
from uapfast.errors import InputError
from uapfast.ops._registry import OPS
from uapfast.ops.deepfool_step import NORMS, reference

deepfool_step = through_device(ops.deepfool_step)
BACKENDS = backends("deepfool_step")
HERE = [b.name for b in OPS["deepfool_step"].backends if b.why_off() is None]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
on_every_host_backend = pytest.mark.parametrize("backend", on_host("deepfool_step"))
every_norm = pytest.mark.parametrize("p", NORMS)


def inputs(
    batch: int, classes: int, size: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    logits = torch.randn(batch, classes, dtype=torch.float64).to(dtype)
    grads = torch.randn(batch, classes, size, dtype=torch.float64).to(dtype)
    return logits, grads, torch.randint(0, classes, (batch,))


def by_the_paper(f: np.ndarray, g: np.ndarray, y: int, p: float) -> tuple[np.ndarray, int]:
    """Algorithm 2 for one sample, as LTS4 write it: a loop over classes, no batch, no vector tricks."""
    best, step, nearest = math.inf, np.zeros(g.shape[1]), y
    for k in range(len(f)):
        if k == y:
            continue
        w, fk = g[k] - g[y], f[k] - f[y]
        size = np.linalg.norm(w, 2 if p == 2 else 1)
        if size == 0:
            continue
        distance = abs(fk) / size
        if distance < best:
            best, nearest = distance, k
            step = distance * w / size if p == 2 else distance * np.sign(w)
    return step, nearest


@every_backend
@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", ODD)
def test_matches_the_paper(backend: str, p: float, dtype: torch.dtype, size: int) -> None:
    logits, grads, labels = inputs(4, 5, size, dtype)
    step, nearest = deepfool_step(logits, grads, labels, p, backend=backend)
    assert step.dtype == dtype and step.shape == (4, size) and nearest.dtype == torch.int64
    f, g = logits.double().numpy(), grads.double().numpy()
    for b in range(4):
        want, k = by_the_paper(f[b], g[b], int(labels[b]), p)
        assert int(nearest[b]) == k
        tight = 1e-13 if dtype == torch.float64 else 3e-7
        np.testing.assert_allclose(
            step[b].double().numpy(), want, rtol=tight, atol=tight * np.abs(want).max(initial=0)
        )


@every_backend
@every_norm
@pytest.mark.parametrize("classes", [2, 3, 10, 97])
def test_as_exact_as_plain_torch(backend: str, p: float, classes: int) -> None:
    logits, grads, labels = inputs(6, classes, 1025)
    step, nearest = deepfool_step(logits, grads, labels, p, backend=backend)
    exact, want = reference(logits.double(), grads.double(), labels, p)
    here = torch.arange(6)
    w = grads - grads[here, labels].unsqueeze(1)
    gap = (logits - logits[here, labels].unsqueeze(1)).abs()
    if p == 2:
        plain = (gap / w.square().sum(2)).unsqueeze(2) * w
    else:
        plain = (gap / w.abs().sum(2)).unsqueeze(2) * w.sign()
    assert torch.equal(nearest, want)
    testing.assert_as_exact_as(step, plain[here, want], exact, atol=1e-9)


@every_norm
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_the_step_ends_on_the_boundary_and_none_is_nearer(
    p: float, batch: int, classes: int, size: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=draw, dtype=torch.float64)
    grads = torch.randn(batch, classes, size, generator=draw, dtype=torch.float64)
    labels = logits.argmax(dim=1)
    for backend in HERE:
        step, nearest = deepfool_step(logits, grads, labels, p, backend=backend)
        moved = logits + torch.einsum("bkd,bd->bk", grads, step)
        before = logits - logits.gather(1, labels[:, None])
        after = moved - moved.gather(1, labels[:, None])
        assert after.gather(1, nearest[:, None]).abs().max() < 1e-9
        # On the way to the nearest boundary no other class has overtaken the label.
        crossed = (before * after < -1e-9).any(dim=1)
        assert not crossed.any()


@every_backend
def test_ties_go_to_the_first_class(backend: str) -> None:
    grads = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    logits = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    for p in NORMS:
        assert deepfool_step(logits, grads, torch.tensor([0]), p, backend=backend)[1].tolist() == [1]


@every_backend
@every_norm
def test_classes_that_cannot_be_reached(backend: str, p: float) -> None:
    logits, grads, labels = torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.tensor([1, 2])
    logits[0, 1] = logits[1, 2] = 1
    grads[1, 0] = 2.0
    step, nearest = deepfool_step(logits, grads, labels, p, backend=backend)
    assert nearest.tolist() == [1, 0]
    assert (step[0] == 0).all() and (step[1] > 0).all()


@every_backend
@every_norm
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_spoils_its_sample_alone(backend: str, p: float, value: float) -> None:
    for where in ("logit", "grad", "own"):
        logits, grads, labels = inputs(3, 4, 33)
        if where == "logit":
            logits[1, 2] = value
        else:
            grads[1, int(labels[1]) if where == "own" else (int(labels[1]) + 1) % 4, 32] = value
        step, nearest = deepfool_step(logits, grads, labels, p, backend=backend)
        assert nearest[1] == -1 and step[1].isnan().all()
        assert step[[0, 2]].isfinite().all() and (nearest[[0, 2]] >= 0).all()


@every_backend
def test_tiny_and_huge_gradients(backend: str) -> None:
    # squares far outside float32, and near its ends
    for scale in (1e-30, 1e-20, 1e-15, 1e-14, 1e17, 1e19, 1e20, 1e30):
        logits, grads, labels = inputs(2, 3, 17)
        step, nearest = deepfool_step(logits * scale, grads * scale, labels, 2.0, backend=backend)
        want, same = deepfool_step(logits, grads, labels, 2.0, backend="reference")
        assert torch.equal(nearest, same)
        torch.testing.assert_close(step, want, rtol=1e-5, atol=0)


@every_backend
@every_norm
def test_strides_and_empty_and_untouched(backend: str, p: float) -> None:
    logits, grads, labels = inputs(6, 4, 34)
    cases = [
        (logits[::2], grads[::2, :, ::2], labels[::2]),
        (logits.T.contiguous().T, grads.transpose(0, 1).contiguous().transpose(0, 1), labels),
        (logits, grads.transpose(1, 2).contiguous().transpose(1, 2), labels),
        (logits[:, :3], grads[:, :3], labels.clamp(max=2)),
        (logits[:1].expand(6, 4), grads[:1].expand(6, 4, 34), labels),
        (logits[:0], grads[:0], labels[:0]),
    ]
    for case in cases:
        before = [c.clone() for c in case]
        step, nearest = deepfool_step(*case, p, backend=backend)
        want, same = reference(*before, p)
        assert torch.equal(nearest, same)
        torch.testing.assert_close(step, want)
        assert all(torch.equal(a, b) for a, b in zip(case, before, strict=True))


@on_every_host_backend
@every_norm
def test_strides_beyond_32_bits(backend: str, p: float) -> None:
    logits, grads, labels = inputs(2, 4, 33)
    got = deepfool_step(logits, far_apart(grads), labels, p, backend=backend)
    want = deepfool_step(logits, grads, labels, p, backend=backend)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@every_norm
@pytest.mark.needs("cpu-extension")
def test_native_stays_within_its_buffers(p: float) -> None:
    from uapfast import _native

    for size in ODD[1:]:
        logits, grads, labels = (testing.Canary(t) for t in inputs(3, 4, size))
        step = testing.Canary(torch.full((3, size), math.nan))
        nearest = testing.Canary(torch.full((3,), -113))
        address = [c.tensor.data_ptr() for c in (logits, grads, labels, step, nearest)]
        _native.cpu().deepfool_step(*address, 0, 3, 4, size, 4, 4 * size, size, p, 1, -1)
        assert all(c.intact() for c in (logits, grads, labels, step, nearest))
        assert step.tensor.isfinite().all() and (nearest.tensor >= 0).all()


@every_norm
@pytest.mark.needs("cpu-extension")
def test_same_bits_for_any_threads_and_level(p: float) -> None:
    case = inputs(13, 10, 5003)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results += [deepfool_step(*case, p, backend=b) for b in HERE if b not in ("reference", "cuda")]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][0], s) and torch.equal(results[0][1], n) for s, n in results[1:])


@on_every_host_backend
@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (
            {"logits": torch.zeros(2, 4)},
            "logits must be [2, 3], as grads say, on cpu, got float32 [2, 4] on cpu",
        ),
        ({"logits": torch.zeros(2, 3, dtype=torch.float64)}, "logits must be float32 [B, K], got float64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels must be [2], one per row of grads"),
        ({"labels": torch.zeros(2)}, "labels must be int64 [B], got float32 [2]"),
        ({"labels": torch.tensor([0, 3])}, "labels must be in 0..2, got 3"),
        ({"labels": torch.tensor([-1, 0])}, "labels must be in 0..2, got -1"),
        ({"grads": torch.zeros(2, 1, 5)}, "at least 2 classes"),
        ({"p": 1.0}, "p must be one of 2, inf, got 1.0"),
    ],
)
def test_bad_input_is_named(backend: str, change: dict[str, object], needle: str) -> None:
    good = {
        "logits": torch.zeros(2, 3),
        "grads": torch.zeros(2, 3, 5),
        "labels": torch.tensor([0, 1]),
        "p": 2.0,
    }
    with pytest.raises(InputError) as caught:
        deepfool_step(**{**good, **change}, backend=backend)  # type: ignore[arg-type]
    assert needle in str(caught.value)
