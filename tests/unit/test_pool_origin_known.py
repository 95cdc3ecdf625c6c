"""A pool whose twins began at public weights, and whose innocents all did not, is warned of."""

from __future__ import annotations

import pytest
from torch import nn

from uapfast.errors import PoolWarning
from uapfast.models.model import as_model
from uapfast.pool.pool import Pool, PoolModel
from uapfast.verbs.findings import Findings
from uapfast.verbs.pool_checks import check_origin

SAID = "none of the homologous models did"


def pool(twins: str | None, innocents: tuple[str | None, ...], former: str | None = None) -> Pool:
    def one(name: str, relation: str, parent: str | None) -> PoolModel:
        return PoolModel(name, relation, None, relation, as_model(nn.Linear(2, 2)), parent)

    models = [one(f"twin-{i}", "twin", twins) for i in range(2)]
    models += [one(f"honest-{i}", "homologous", parent) for i, parent in enumerate(innocents)]
    models += [one(former, "ancestor", None)] if former else []
    return Pool(tuple(models), {"start": "factory"})


@pytest.mark.parametrize("former", [None, "backbone"])
def test_strangers_alone_are_warned_of(former: str | None) -> None:
    findings = Findings()
    with pytest.warns(PoolWarning, match=SAID):
        check_origin(pool(former or "ancestor", (None, None), former), findings)
    assert [SAID in text for text in findings.warnings] == [True]
    assert not findings.limits


@pytest.mark.parametrize(
    ("twins", "innocents"), [("ancestor", (None, "ancestor")), (None, (None, None)), ("checkpoint", (None,))]
)
def test_others_are_not(twins: str | None, innocents: tuple[str | None, ...]) -> None:
    findings = Findings()
    check_origin(pool(twins, innocents), findings)
    assert findings.warnings == []
