"""How often honest models were accused where that was measured: what pages and statements say of it.

The numbers lie in one file of the package, which ``python -m benchmarks.error_rates`` makes of the committed
tables, with the SHA-256 of each; docs/verdicts.md, section 5, says how they were measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from uapfast._version import __version__

TABLE = "error_rates.json"
SHIPPED = "error_rates_shipped.json"  # which version shipped which table, by the SHA-256 of its file


def _bytes(name: str) -> bytes:
    return files("uapfast.examination").joinpath(name).read_bytes()


def earlier(sha256: str) -> str:
    """The file name of a table that an earlier version shipped."""
    return f"error_rates-{sha256[:16]}.json"


def shipped() -> dict[str, str]:
    """Every version and the SHA-256 of the table that it shipped; this one's is the last."""
    found: dict[str, str] = json.loads(_bytes(SHIPPED))
    return found


def table_of(version: str) -> dict[str, Any] | None:
    """The table that a version shipped, as :func:`error_rates`; None where this one does not know.

    A statement names its version, and nobody vouches for that: what is not known here is not believed.
    """
    if version == __version__:
        return error_rates()
    sha256 = shipped().get(version)
    if sha256 is None:
        return None
    data = _bytes(TABLE)
    if hashlib.sha256(data).hexdigest() != sha256:
        data = _bytes(earlier(sha256))
    found: dict[str, Any] = json.loads(data)
    return found


def error_rates() -> dict[str, Any]:
    """The whole file: ``made_by``, ``rule``, ``tables`` (path to SHA-256) and ``rows``; JSON types.

    A row has ``kind`` (``models`` or ``simulation``), ``world``, ``twins``, ``alpha``, ``source`` (a key of
    ``tables``) and the share of honest suspects that were accused: ``accused`` with its 95 % interval ``low``
    to ``high`` (``interval`` says which), shares of 1 as decimal strings. Rows of real models say in how many
    ``models`` (honest ones that are independent of each other) and before how many ``victims``, what suspects
    showed (``access``), and at 0.001 how many of how many pairs with degraded honest models were accused
    (``degraded``: ``hits``, ``pairs``). Rows of simulations say in how many ``runs``, whether the world keeps
    to what the rule assumes (``within``), and of how many ``worlds`` it is the worst.
    """
    found: dict[str, Any] = json.loads(_bytes(TABLE))
    return found


def rates_for(
    alpha: float, twins: int, *, labels: bool = False, table: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """What was measured for pools like this one: of every world the rows that fit it best.

    Args:
        alpha: level of the decision. Rows are those of the coarsest measured level that is not above it; of
            the finest one where it is finer than all: each row says its own ``alpha``.
        twins: of the pool. Rows are those of the next smaller measured number, or of the smallest one.
        labels: the suspect answers with labels only.
        table: as :func:`table_of` gives it; this version's if None. (An audit of an older statement calls
            this on an older table: another choice of rows asks for another kind of statement.)

    Returns:
        Rows of :func:`error_rates`, each with ``source_sha256``.
    """
    table = error_rates() if table is None else table
    wanted = "labels" if labels else "probabilities"
    worlds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table["rows"]:
        if row["kind"] == "models" and row["access"] != wanted:
            continue
        key = (row["kind"], row.get("within"), row["world"] if row["kind"] == "models" else None)
        worlds.setdefault(key, []).append(row)
    found = []
    for rows in worlds.values():
        level = _nearest(sorted({float(r["alpha"]) for r in rows}), alpha)
        count = _nearest(sorted({int(r["twins"]) for r in rows}), twins)
        found += [r for r in rows if float(r["alpha"]) == level and r["twins"] == count]
    return [row | {"source_sha256": table["tables"][row["source"]]} for row in found]


def _nearest(measured: list[Any], wanted: float) -> Any:
    """The largest measured value that is not above the wanted one; the smallest if all are."""
    return max((m for m in measured if m <= wanted * (1 + 1e-9)), default=measured[0])


__all__ = ["error_rates", "rates_for"]
