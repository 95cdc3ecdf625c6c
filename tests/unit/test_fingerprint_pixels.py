"""Images on the 1/255 grid are kept as bytes, and come back bit for bit."""

from __future__ import annotations

import torch

from uapfast.images import floats, packed
from uapfast.method.fingerprint import QueryPlan

GRID = (torch.arange(256) / 255.0).reshape(1, 1, 16, 16)


def plan(points: torch.Tensor) -> QueryPlan:
    return QueryPlan(
        points, torch.zeros(1, 1, 16, 16), torch.zeros(1, len(points), dtype=torch.int64), (0.0,), 1
    )


def test_every_value_of_the_grid_comes_back_and_nothing_else_is_rounded() -> None:
    kept = packed(GRID)
    assert kept.dtype == torch.uint8 and torch.equal(floats(kept), GRID)
    for off in (torch.nextafter(GRID[0, 0, 3, 3], torch.tensor(1.0)), 1.5, -0.1, float("nan")):
        other = GRID.repeat(70, 1, 1, 1)  # in the last part
        other[69, 0, 3, 3] = off
        assert packed(other) is other and floats(other) is other


def test_plans_hold_the_same_bytes_however_points_were_given() -> None:
    as_floats, as_bytes = plan(GRID), plan((GRID * 255).round().to(torch.uint8))
    assert torch.equal(as_floats.points, as_bytes.points) and as_floats.points.dtype == torch.uint8
    assert torch.equal(as_floats.images(0), GRID) and torch.equal(as_bytes.images(0), GRID)
