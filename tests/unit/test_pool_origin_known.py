"""A pool whose twins began at public weights, and too few of whose innocents did, does not convict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from uapfast.errors import PoolWarning
from uapfast.pool.build import _few_related
from uapfast.pool.plan import PoolConfig, make_plan
from uapfast.pool.pool import LEAST_RELATED, Pool
from uapfast.reference import Record
from uapfast.verbs.findings import Findings
from uapfast.verbs.origin_checks import check_origin, check_related, related

FACTORY = {"start": "factory"}
ENOUGH = ("ancestor",) * LEAST_RELATED


def records(twins: str | None, innocents: tuple[str | None, ...], former: str | None = None) -> list[Record]:
    out = [Record("victim", "victim", None, "victim", None)]
    out += [Record(f"twin-{i}", "twin", None, "twin", None, parent=twins) for i in range(2)]
    kinds = enumerate(innocents)
    out += [Record(f"honest-{i}", "homologous", None, "homologous", None, parent=p) for i, p in kinds]
    return out + ([Record(former, "ancestor", None, "ancestor", None)] if former else [])


def found(init: dict[str, Any] | None, given: list[Record]) -> Findings:
    findings = Findings()
    check_origin(Pool((), init), given, findings)
    return findings


@pytest.mark.parametrize(
    ("init", "given"),
    [
        (FACTORY, records(None, (None, None))),
        (FACTORY, records("checkpoint", (None, *ENOUGH[1:]))),
        (None, records("ancestor", (None, None))),
        (None, records("backbone", (None, "backbone"), "backbone")),
        (None, records(None, (None,), "backbone")),
    ],
)
def test_a_known_public_beginning_that_too_few_innocents_share_is_a_limit(
    init: dict[str, Any] | None, given: list[Record]
) -> None:
    with pytest.warns(PoolWarning, match="will not convict"):
        findings = found(init, given)
    (limit,) = findings.limits
    mine = len(related(given))
    honest = sum(r.relation == "homologous" for r in given)
    assert f"{mine} of the {honest} homologous models that count did, not {LEAST_RELATED}" in limit
    assert f"{LEAST_RELATED - mine} more trainings from there" in limit and "--homologous 16" in limit
    assert not findings.warnings


@pytest.mark.parametrize(
    ("init", "given"),
    [
        (FACTORY, records("ancestor", (None, *ENOUGH))),
        (None, records("backbone", ("backbone",) * LEAST_RELATED, "backbone")),
        ({"start": "random"}, records(None, (None, None))),
    ],
)
def test_others_are_not(init: dict[str, Any] | None, given: list[Record]) -> None:
    findings = found(init, given)
    assert findings.limits == [] and findings.warnings == []


def test_where_nobody_says_it_that_is_said() -> None:
    findings = found(None, records(None, (None, None)))
    assert findings.limits == [] and "training started" in findings.warnings[0]


def test_variants_of_one_fine_tuning_count_once() -> None:
    given = records("ancestor", ENOUGH)
    spoilt = Record("honest-0-4-bit", "homologous", None, "degraded-4-bit", None, parent="honest-0")
    child = Record("child", "homologous", None, "homologous", None, parent="honest-1")
    assert len(related([*given, spoilt, child])) == LEAST_RELATED
    # the degraded one in its parent's place; and one that a test of the answers took out
    swapped = [replace(r, counted=r.name != "honest-0") for r in given]
    assert len(related([*swapped, spoilt])) == LEAST_RELATED
    findings = Findings()
    with pytest.warns(PoolWarning):
        check_related(FACTORY, swapped, findings)
        check_related(FACTORY, swapped, findings)
    assert len(findings.limits) == 1


@pytest.mark.parametrize(("homologous", "enough"), [(40, True), (2 * LEAST_RELATED, True), (12, False)])
def test_the_number_of_models_that_the_limit_advises_is_enough(homologous: int, enough: bool) -> None:
    """Said before anything is trained; with random weights there is nothing to say."""
    config = PoolConfig(2, 0, homologous)
    plan = make_plan("net.py:make", config, ("uapfast:cnn-small",), False, "weights")
    assert (_few_related(plan) is None) == enough
    assert _few_related(make_plan("net.py:make", config, ("uapfast:cnn-small",), False, "random")) is None
