"""Small networks on scikit-learn's digits and the jobs of the margin method on them."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from uapfast.method.uap.common import Counter, Victim
from uapfast.method.uap.margin import MarginSettings, run_margin
from uapfast.method.uap.resident import UapJob
from uapfast.method.uap.stopping import make_runs

EPS = 0.2


def images(count: int = 300) -> torch.Tensor:
    return torch.tensor(load_digits().images[:count], dtype=torch.float32)[:, None] / 16


def trained(seed: int, arch: str = "cnn") -> nn.Module:
    torch.manual_seed(seed)
    x, y = images(1797), torch.tensor(load_digits().target)
    if arch == "cnn":
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        rows = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def jobs_of(
    models: list[nn.Module], count: int = 1, goal: float = 0.8, x: torch.Tensor | None = None
) -> list[UapJob]:
    made = []
    for model in models:
        victim = Victim(model, images() if x is None else x, Counter())
        made.append(UapJob(victim, make_runs(victim, range(count), 0.25, goal)))
    return made


def settings(**given: object) -> MarginSettings:
    return MarginSettings(**({"eps": EPS, "norm": "linf", "max_passes": 4, "batch_size": 64} | given))


def of_the_loop(jobs: list[UapJob], s: MarginSettings) -> list[torch.Tensor]:
    return [run_margin(job.victim, job.runs, s) for job in jobs]


def told(jobs: list[UapJob]) -> list[tuple[object, ...]]:
    return [(run.seed, run.seen, run.passes, run.rate, run.checked_at) for job in jobs for run in job.runs]
