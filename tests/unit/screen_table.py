"""A made-up screening table of any size, for the tests of its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from uapfast.screening.table.correction import holm, q_values
from uapfast.screening.table.export import schema
from uapfast.screening.table.population import compare_with_pool
from uapfast.screening.table.rows import SCHEMA_VERSION

TOLD = {"encoder": "lineage", "twins": 12, "innocents": 24, "ray": [0.0, 0.2], "device": "cpu"}
ARCHES = ("uapfast:cnn-small", "uapfast:resnet-small", "timm:resnet18?classes=10")


def make_rows(count: int, reference: str = "victim", **changed: Any) -> list[dict[str, Any]]:
    """``count`` rows: mostly innocent, one in 50 piracy, one in 40 invalid, one in 60 a double."""
    rng = np.random.default_rng(len(reference))
    freedom = 1 / (1 / 11 + 1 / 23)
    rows = []
    for i in range(count):
        thief, broken = i % 50 == 7, i % 40 == 9
        z = float(rng.normal(12, 3) if thief else rng.standard_t(freedom))
        candidate = float(stats.t.sf(z + rng.normal(0, 0.3), 11))
        p = max(candidate, float(stats.t.sf(z, freedom)))
        rows.append(
            {
                "reference": reference,
                "reference_sha256": f"{len(reference):02x}" * 32,
                "name": f"run-{i // 100:03d}/checkpoint-{i:05d}",
                "path": f"/data/suspects/run-{i // 100:03d}/checkpoint-{i:05d}.safetensors",
                "kind": "weights",
                "arch": ARCHES[i % 3],
                "sha256": f"{i:064x}",
                "decision": "piracy" if p < 1e-3 and z > 0 else "inconclusive" if p < 0.05 else "independent",
                "p_value": p,
                "p_candidate": candidate,
                "p_candidate_floor": 1 / 13,
                "p_candidate_exact": max(candidate, 1 / 13),
                "p_suspect": float(stats.t.sf(z, freedom)),
                "p_suspect_floor": 1 / 25,
                "p_suspect_exact": max(p, 1 / 25),
                "p_is_bound": False,
                "p_joint": max(p, 1 / 3250),
                "p_joint_floor": 1 / 325,
                "p_joint_exact": max(p, 1 / 325),
                "p_view": p**3,
                "similarity": float(np.tanh(z / 20)),
                "z": z,
                "z_pool": z,
                "rank": 1 if z > 1.5 else 2 + int(rng.integers(11)),
                "views_used": 20 if z > 1.5 else 2,
                "queries_used": 4000 if z > 1.5 else 400,
                "queries_full": 4000,
                "output": "logits",
                "same_as": "run-000/checkpoint-00000" if i % 60 == 59 else None,
                **{f"seconds_{s}": 0.01 for s in ("read", "load", "forward", "score")},
                "reasons": [
                    f"p {p:.3g} against the level 0.001",
                    "p below 0.0769 is extrapolated by Student t",
                ],
                "alpha": 1e-3,
                "settings": json.dumps(TOLD),
                "versions": json.dumps({"uapfast": "0.1.0"}),
            }
        )
        if broken:
            rows[-1] |= {k: None for k in rows[-1] if k.startswith(("p_", "z", "q_")) or k in NONE}
            rows[-1] |= {"decision": "invalid", "error_class": "CorruptFileError", "reasons": []}
            rows[-1]["error_message"] = f"load: file must be whole, got {i} bytes less"
        rows[-1] |= changed
    return rows


NONE = ("similarity", "rank", "sha256", "output", "same_as")


def write_table(path: Path, rows: Sequence[dict[str, Any]], **told: Any) -> Path:
    """The rows as a table like that of ``screen``, with q-values and populations."""
    populations = {}
    filled = []
    for sha256 in dict.fromkeys(r["reference_sha256"] for r in rows):
        own = [r for r in rows if r["reference_sha256"] == sha256]
        z = np.array([r["z_pool"] for r in own if r["z_pool"] is not None], dtype=np.float64)
        populations[sha256] = compare_with_pool(z, TOLD["innocents"]).to_dict()  # type: ignore[arg-type]
        p = [r["p_value"] for r in own]
        both = zip(own, q_values(p, 1e-3), holm(p), strict=True)
        filled += [r | {"q_value": q, "p_holm": h} for r, q, h in both]
    told = {"schema_version": SCHEMA_VERSION, "fdr": 0.05, "populations": populations} | told
    kept = schema().with_metadata({"uapfast": json.dumps(told)})
    names = kept.names
    full = [{n: r.get(n) for n in names} for r in filled]
    pq.write_table(pa.Table.from_pylist(full, schema=kept), path, compression="zstd")
    return path
