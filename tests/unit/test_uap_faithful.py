"""``deepfool`` against an independent float64 version of the LTS4 algorithm, step by step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from uapfast.method.uap.common import Counter, Query, Victim, frozen
from uapfast.method.uap.deepfool import DeepFoolSettings, deepfool, run_deepfool
from uapfast.method.uap.stopping import make_runs

D, HIDDEN, CLASSES = 12, 9, 6
OVERSHOOT, TOP_K, MAX_ITER = 0.02, 4, 10


class Toy:
    """tanh network in plain numpy with analytic gradients, and the same in torch."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.a, self.b = rng.normal(size=(HIDDEN, D)), rng.normal(size=(CLASSES, HIDDEN))
        self.c = 0.3 * rng.normal(size=HIDDEN)
        first, last = nn.Linear(D, HIDDEN), nn.Linear(HIDDEN, CLASSES, bias=False)
        with torch.no_grad():
            first.weight.copy_(torch.from_numpy(self.a))
            first.bias.copy_(torch.from_numpy(self.c))
        self.module = nn.Sequential(nn.Flatten(), first, nn.Tanh(), last).double()
        with torch.no_grad():  # after .double(): the very same numbers
            self.module[1].weight.copy_(torch.from_numpy(self.a))
            self.module[1].bias.copy_(torch.from_numpy(self.c))
            self.module[3].weight.copy_(torch.from_numpy(self.b))
        # images well inside 0..1, so that clamping never acts
        self.images = rng.uniform(0.35, 0.65, size=(24, D))

    def logits(self, x: np.ndarray) -> np.ndarray:
        return self.b @ np.tanh(self.a @ x + self.c)

    def gradients(self, x: np.ndarray) -> np.ndarray:
        h = np.tanh(self.a @ x + self.c)
        return self.b @ ((1 - h**2)[:, None] * self.a)


def lts4_deepfool(toy: Toy, image: np.ndarray) -> tuple[np.ndarray, int]:
    """deepfool.py of the LTS4 code, transcribed: total step with overshoot, iterations."""
    order = toy.logits(image).argsort()[::-1][:TOP_K]
    label, total, loop = order[0], np.zeros(D), 0
    point = image
    while toy.logits(point).argmax() == label and loop < MAX_ITER:
        f, g = toy.logits(point), toy.gradients(point)
        best, w = np.inf, np.zeros(D)
        for k in order[1:]:
            w_k, f_k = g[k] - g[label], f[k] - f[label]
            if abs(f_k) / np.linalg.norm(w_k) < best:
                best, w = abs(f_k) / np.linalg.norm(w_k), w_k
        total = total + best * w / np.linalg.norm(w)
        point = image + (1 + OVERSHOOT) * total
        loop += 1
    return (1 + OVERSHOOT) * total, loop


def project(v: np.ndarray, eps: float, norm: str) -> np.ndarray:
    if norm == "linf":
        return np.sign(v) * np.minimum(np.abs(v), eps)
    return v * min(1.0, eps / np.linalg.norm(v))


def lts4_universal(toy: Toy, order: list[int], eps: float, norm: str) -> Iterator[tuple[int, np.ndarray]]:
    """universal_pert.py of the LTS4 code over images in ``order``; yields (image, v) after each update."""
    v = np.zeros(D)
    for i in order:
        image = toy.images[i]
        if toy.logits(image).argmax() == toy.logits(image + v).argmax():
            step, iterations = lts4_deepfool(toy, image + v)
            if iterations < MAX_ITER - 1:
                v = project(v + step, eps, norm)
                yield i, v


def victim_of(toy: Toy) -> Victim:
    return Victim(toy.module, torch.from_numpy(toy.images).view(-1, 1, 3, 4), Counter())


@pytest.mark.parametrize("seed", range(6))
def test_deepfool_steps_and_iterations_agree(seed):
    toy = Toy(seed)
    start = torch.from_numpy(toy.images).view(-1, 1, 3, 4)
    with frozen([toy.module]):
        total, taken, _ = deepfool(Query(toy.module, Counter()), start, TOP_K, OVERSHOOT, MAX_ITER)
    for i, image in enumerate(toy.images):
        expected, iterations = lts4_deepfool(toy, image)
        assert int(taken[i]) == iterations
        np.testing.assert_allclose(total[i].numpy().ravel(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_every_update_of_v_agrees(seed, norm):
    toy, eps, passes = Toy(seed), {"linf": 0.05, "l2": 0.12}[norm], 3
    victim = victim_of(toy)
    trace: list[tuple[int, np.ndarray]] = []
    with frozen([toy.module]):
        runs = make_runs(victim, [seed], 0.25, 1.0)
        settings = DeepFoolSettings(eps, norm, passes, 1, TOP_K, OVERSHOOT, MAX_ITER)
        [final] = run_deepfool(
            [victim], [runs], [CLASSES], settings, lambda _, i, v: trace.append((i, v.numpy().ravel()))
        )
    order_run = make_runs(victim, [seed], 0.25, 1.0)[0]
    order: list[int] = []
    while order_run.seen < runs[0].seen:
        order.append(int(order_run.batch(1)[0]))
        order_run.saw(1, 0)
    expected = list(lts4_universal(toy, order, eps, norm))
    assert [i for i, _ in trace] == [i for i, _ in expected]
    assert len(trace) >= 3
    for (_, got), (_, want) in zip(trace, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(final[0].numpy().ravel(), expected[-1][1], rtol=1e-8, atol=1e-11)


def test_every_pass_visits_every_training_image_once_and_no_held_out_one():
    toy = Toy(0)
    run = make_runs(victim_of(toy), [5], 0.25, 1.0)[0]
    seen = []
    for _ in range(2 * len(run.train)):
        seen.append(int(run.batch(1)[0]))
        run.saw(1, 0)
    half = len(run.train)
    assert sorted(seen[:half]) == sorted(seen[half:]) == sorted(run.train.tolist())
    assert seen[:half] != seen[half:]
    assert not set(seen) & set(run.held.tolist())
