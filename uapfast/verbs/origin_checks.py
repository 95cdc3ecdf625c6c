"""Where the victim's training began, and whether the pool's innocents know that beginning.

Honest models that began at the same public weights resemble the victim for that reason. Twins that began
there show it on the candidate side, innocents that began there on the suspect side; without these the
reference does not convict (docs/fine_tuned.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from uapfast.pool.degraded import DEGRADED
from uapfast.pool.pool import PUBLIC, Pool, few_related
from uapfast.reference import Record
from uapfast.verbs.findings import Findings


def check_origin(pool: Pool, records: Sequence[Record], findings: Findings) -> None:
    """What is known of where the victim began, and what the pool's making warned of."""
    for sentence in pool.warnings:
        findings.note(sentence)
    if pool.init is None and not began_at_public(None, records):
        findings.note(
            "it is not stated where the victim's training started: if at public weights, honest "
            "fine-tunings of the same weights may look like copies (docs/fine_tuned.md)"
        )
    check_related(pool.init, records, findings)


def check_related(init: Mapping[str, Any] | None, records: Sequence[Record], findings: Findings) -> None:
    """Limit a reference whose victim is known to have begun at public weights, and too few innocents did.

    Args:
        init: where the victim began, as ``pool.json`` says; None where nobody said.
        records: of the pool.
        findings: gets the limit, once.
    """
    said = any(text.startswith(PUBLIC) for text in findings.limits)
    if said or not began_at_public(init, records):
        return
    honest = [r for r in records if r.relation == "homologous" and r.counted]
    limit = few_related(len(related(records)), len(honest))
    if limit is not None:
        findings.limit(limit)


def began_at_public(init: Mapping[str, Any] | None, records: Sequence[Record]) -> bool:
    """Whether ``pool.json`` says so, or the manifest names an ancestor, or twins that were made from one."""
    if (init or {}).get("start", "random") != "random":
        return True
    root = _root(records)
    return any(r.relation == "ancestor" or (r.relation == "twin" and r.parent == root) for r in records)


def related(records: Sequence[Record]) -> set[str]:
    """Names of the innocents that began where the victim did; variants of one count once."""
    root, parents = _root(records), {r.name: r.parent for r in records}
    honest = (r for r in records if r.relation == "homologous" and r.counted)
    own = {str(r.parent) if r.kind.startswith(DEGRADED) else r.name for r in honest}
    return {name for name in own if parents.get(name) == root}


def _root(records: Sequence[Record]) -> str:
    """What the manifest calls the public model, whether it has a line of its own or not."""
    return next((r.name for r in records if r.relation == "ancestor"), "ancestor")


__all__ = ["began_at_public", "check_origin", "check_related", "related"]
