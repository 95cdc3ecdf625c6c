"""What a pool costs and buys before it is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.error_rates import RULE, rows_of
from benchmarks.power import TABLE, power_table
from uapfast.cli.show import plan_lines
from uapfast.errors import InputError
from uapfast.method import spread
from uapfast.method.decision import among_innocents
from uapfast.pool.forecast import forecast, measured_power, threshold


def test_the_shipped_table_is_what_the_committed_tables_say() -> None:
    assert json.loads(TABLE.read_text()) == power_table(), "python -m benchmarks.power"
    assert len(power_table()["rows"]) >= 8


def test_none_accused_is_said_of_a_number_of_models() -> None:
    """Never 0.00 (0.00-0.00) %: of 30 models nobody knows a rate that finely."""
    said = [row["accused"] for row in power_table()["rows"]]
    assert "none of 30 honest models (at most 9.5 % with 95 % confidence, by models alone)" in said
    assert all(text.startswith("none of ") or "% of pairs" in text for text in said)
    lines = "\n".join(plan_lines(forecast((3,), 40)))
    assert "accused: none of 30 honest models (at most 9.5 %" in lines and "0.00 (" not in lines


def test_rows_are_those_of_the_products_rule() -> None:
    head = "| twins | rule | a |\n|---|---|---|\n"
    text = f"{head}| 2 | upwards | x |\n| 2 | {RULE} | y |\n\n| victim | b |\n|---|---|\n| v | 1 |\n"
    assert rows_of(text) == [{"twins": "2", "rule": RULE, "a": "y"}]


def test_costs_are_those_of_the_plan() -> None:
    two, six = forecast((2, 6), 40, victim_hours=2.0)["pools"]
    assert two["trainings"]["twins"] == 2 and six["trainings"]["twins"] == 6
    assert two["trainings"]["surrogates"] == 6 and six["trainings"]["surrogates"] == 14
    assert 10 < two["trainings"]["homologous"] == six["trainings"]["homologous"] < 40, "many on few images"
    assert six["hours"] == pytest.approx(2 * six["trainings"]["total"], abs=0.01)
    assert six["floors"] == {"candidate": 1 / 7, "suspect": 1 / 41, "joint": 1 / 287}
    (branch,) = forecast((4,), 40, branch_at=0.75, surrogates=0)["pools"]
    assert branch["trainings"]["twins"] == 1 and branch["trainings"]["surrogates"] == 0


def test_what_no_table_holds_is_not_promised() -> None:
    full = {row["twins"]: row for row in forecast((3, 5, 12), 40)["pools"]}
    assert full[5]["measured"] == [] and len(full[3]["measured"]) == 2 and len(full[12]["measured"]) == 2
    assert forecast((3,), 39)["pools"][0]["measured"] == []
    assert forecast((3,), 40, surrogates=1)["pools"][0]["measured"] == []
    assert forecast((3,), 40, branch_at=0.5)["pools"][0]["measured"] == [], "branches are not in the tables"
    assert {row["convicted"] for row in measured_power(3, 40, 2)} < {
        row["convicted"] for row in power_table()["rows"]
    }


@pytest.mark.parametrize("twins", [2, 3, 12])
def test_thresholds_are_those_of_the_decision(twins: int) -> None:
    """Scores with mean 0 and spread 1, a suspect at the threshold: the worse side has p at the level."""
    innocents = np.tile([-1.0, 1.0], 20) * np.sqrt(39 / 40)
    z = threshold(twins, 40, 0.01)
    assert z is not None
    candidate = spread.chance(z, twins, 40)
    suspect = among_innocents(z, innocents, twins)
    assert candidate < suspect.p == pytest.approx(0.01, rel=1e-6)


def test_without_twins_no_z_convicts() -> None:
    assert threshold(0, 40, 0.01) is threshold(1, 40, 0.01) is threshold(8, 1, 0.01) is None
    assert threshold(2, 20, 0.001) is None and threshold(2, 40, 0.001) is not None, "pairs: 63 and 123"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"branch_at": 1.0}, "branch_at must be above 0 and below 1, got 1.0"),
        ({"victim_hours": 0.0}, "victim_hours must be a finite number > 0, got 0.0"),
        ({"victim_hours": float("nan")}, "victim_hours must be a finite number > 0, got nan"),
        ({"surrogates": -1}, "surrogates must be a whole number >= 0, got -1"),
    ],
)
def test_numbers_out_of_range(given: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        forecast((2,), 40, **given)  # type: ignore[arg-type]


def test_the_table_is_shipped() -> None:
    assert '"uapfast.pool" = ["power.json"]' in (Path(__file__).parents[2] / "pyproject.toml").read_text()
