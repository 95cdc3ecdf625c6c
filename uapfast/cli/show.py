"""Results as plain lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from uapfast.cli.shell import one_line
from uapfast.config import ALPHA

FEW = 10  # convicted suspects that a screen names
WIDE = 2000  # characters of a sentence; what is longer is no sentence of ours
_NOTE = {
    "piracy": "closer to this victim than to its twins, and than the pool's honest models are, at the level",
    "independent": "nothing here points to the victim, which is no exoneration",
    "inconclusive": "the evidence does not reach the stated level, and does not clear the suspect",
    "unavailable": "the suspect did not answer enough; nothing is known about it",
    "invalid": "the suspect gave no usable answers; nothing is known about it",
}


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        text = ", ".join(_value(v) for v in value[:12])
        return f"{text}, ... ({len(value)})" if len(value) > 12 else text
    return one_line(value, 200)


def _in_lines(value: object) -> bool:
    """Whether a value is a list that takes a line an entry: of sentences, or of further names and values."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) or _long(v) for v in value)


def _long(value: object) -> bool:
    return isinstance(value, str) and " " in value


def _pairs(values: dict[str, Any], indent: int) -> Iterator[str]:
    scalars = [k for k, v in values.items() if not isinstance(v, dict) and not _in_lines(v)]
    width = max((len(k) for k in scalars), default=0)
    for key, value in values.items():
        if isinstance(value, list) and _in_lines(value):
            yield f"{' ' * indent}{key}:"
            for entry in value:
                if isinstance(entry, dict):
                    shown = ", ".join(f"{k} {_value(v)}" for k, v in entry.items())
                    yield f"{' ' * indent}  - {one_line(shown, WIDE)}"
                else:
                    yield f"{' ' * indent}  - {one_line(entry, WIDE)}"
        elif isinstance(value, dict):
            yield f"{' ' * indent}{key}:"
            yield from _pairs(value, indent + 2)
        else:
            whole = key == "why" and isinstance(value, str)  # it ends with what to do
            yield f"{' ' * indent}{key:<{width}}  {one_line(value, WIDE) if whole else _value(value)}"


def lines(values: dict[str, Any]) -> list[str]:
    """Nested names and values, one a line."""
    return list(_pairs(values, 0))


def _p(value: float | None, floor: float | None) -> str:
    if value is None:
        return "-"
    if floor is not None and value < floor:
        return f"{value:.3g} (below {floor:.3g} extrapolated)"
    return f"{value:.3g}"


def _against(verdict: dict[str, Any]) -> str:
    """What a p-value was taken against: m, n, and the floor of what assumes nothing of scores."""
    floor = verdict["p_joint_floor"] or verdict["p_suspect_floor"]
    least = "" if floor is None else f", exact down to {floor:.3g}"
    twins, innocents = (verdict["settings"].get(name, "?") for name in ("twins", "innocents"))
    return f"{twins} twins, {innocents} innocents{least}"


def verdict_lines(verdict: dict[str, Any]) -> list[str]:
    """A verdict for people: decision, what it says, the numbers, the reasons."""
    v = verdict
    out = [f"{v['decision'].upper()}: {_NOTE[v['decision']]}"]
    out += [f"  - {one_line(reason)}" for reason in v["reasons"]]
    table = {
        **({"how it was made": v["relation"]} if v["relation"] else {}),
        "p_value": f"{'<= ' if v['p_is_bound'] else ''}{_value(v['p_value'])}   (level {v['alpha']:g})",
        "against": _against(v),
        "candidate side": _p(v["p_candidate"], v["p_candidate_floor"]),
        "suspect side": _p(v["p_suspect"], v["p_suspect_floor"]),
        "both at once": _p(v["p_joint"], v["p_joint_floor"]),
        "z, rank": f"{_value(v['z'])}, {_value(v['rank'])}",
        "similarity": v["similarity"],
        "agreement": f"{_value(v['agreement'])}   (pool: {_value(v['agreement_least'])} or more)",
        "views, queries": f"{v['views_used']}, {v['queries_used']}",
        "answers": v["output"],
        "suspect": v["suspect_sha256"],
        "reference": v["reference_sha256"],
    }
    if cited := v["settings"].get("commitment"):
        by = "stamped" if cited["stampedAt"] else "by its signer's word"
        time = cited["stampedAt"] or cited["committedAt"]
        table["commitment"] = f"{cited['value']} ({by} {time}, examination begun {cited['began']})"
    return out + list(_pairs(table, 2))


def convicted_lines(rows: Iterable[Any]) -> list[str]:
    """Who is convicted, the strongest first.

    Args:
        rows: of a screen, with ``name``, ``p_value`` and ``p_holm``; convictions all of them.
    """
    found = sorted((1.0 if r.p_holm is None else r.p_holm, r.name, _value(r.p_value)) for r in rows)
    first, more = found[:FEW], len(found) - FEW
    title = "convicted (naming one of them rests on p_holm, which has to be at or below the level):"
    out = [title] if first else []
    out += [f"  {one_line(name, 60):<24} p {p}, p_holm {_value(holm)}" for holm, name, p in first]
    return out + ([f"  and {more} more, in the table"] if more > 0 else [])


def screen_lines(summary: dict[str, Any], of_the_list: Sequence[str] = ()) -> list[str]:
    """A screen's summary for people: how many rows of each decision, errors, queries.

    Args:
        summary: of ``Summary.to_dict``.
        of_the_list: sentences on the list and what p-values are corrected for.
    """
    rows, decisions = summary["rows"], summary["decisions"]
    out = [f"{summary['suspects']} suspects, {rows} rows"]
    out += [f"  {d:<12} {decisions[d]:>7}  {_NOTE[d]}" for d in _NOTE if decisions.get(d)]
    out += [one_line(sentence) for sentence in of_the_list]
    out += [f"{name} {says}" for name, says in summary["terms"].items()] if decisions.get("piracy") else []
    for name, count in sorted(summary["errors"].items()):
        out += [f"  {name}: {count}", f"    such as: {one_line(summary['messages'][name])}"]
    if summary["skipped"]:
        names = ", ".join(one_line(n, 60) for n in summary["skipped_names"])
        more = ", ..." if summary["skipped"] > len(summary["skipped_names"]) else ""
        out.append(f"skipped, no weights by name or first bytes: {summary['skipped']} files ({names}{more})")
    if changed := summary.get("code_changed"):
        out.append(f"asked again because the code of their architecture changed: {changed} rows")
    full = summary["queries_full"]
    if full:
        out.append(f"queries: {summary['queries_used']} of {full} ({summary['queries_used'] / full:.0%})")
    return out


def _reach(found: dict[str, Any]) -> str:
    """From where a level convicts, and how many known copies lie there."""
    share = found["pool_surrogates_above"]
    return f"from z {found['threshold_z']:.1f}" + ("" if share is None else f" ({share:.0%} of surrogates)")


def nobody_lines(summary: dict[str, Any]) -> list[str]:
    """That a reference convicts nobody at the default level, and why; nothing where it may."""
    said = summary["conviction"][f"{ALPHA:g}"]["convicts_nobody"]
    return [] if said is None else [one_line(said, WIDE)]


def reference_lines(summary: dict[str, Any], path: str) -> list[str]:
    """A reference that was made, for people: what it asks, what it can convict, and why it will not."""
    pool, trials, limits = summary["pool"], summary.get("trials") or {}, summary.get("limits") or []
    floor = 1.0 / ((pool["twin"] + 1) * (summary["innocents"] + 1))
    ray = ", ".join(f"{t:g}" for t in summary["ray"])
    levels = [
        f"level {level}: " + ("nobody" if found["threshold_z"] is None else _reach(found))
        for level, found in summary["conviction"].items()
    ]
    views, innocents = summary["views"], summary["innocents"]
    table = {
        "sha256": summary["sha256"],
        "asks": f"{summary['queries']} queries: {views} views of "
        f"{summary['points_per_view']} points, t = {ray}",
        "pool": f"{pool['twin']} twins, {innocents} innocents (of {pool['homologous']} homologous models), "
        f"{pool['piracy']} surrogates; exact p not below {floor:.3g}",
        "convicts": "; ".join(levels),
        "tested with": f"{trials.get('count', 0)} pseudo-suspects, "
        f"{len(trials.get('convicted', ()))} of them convicted",
    }
    out = list(_pairs(table, 2))
    out = [*nobody_lines(summary), *out, *(f"and: {one_line(text, WIDE)}" for text in limits[1:])]
    count = len(summary.get("warnings") or ())
    said = "" if not count else f"{count} warning{'s' if count > 1 else ''} that every verdict repeats, and "
    return [*out, f"{said}all settings: uapfast info {path}"]


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Costs and worth of pools for people: a block for each."""
    out: list[str] = []
    for pool in plan["pools"]:
        cost, floors = pool["trainings"], pool["floors"]
        kind = "branch twins" if pool["kind"] == "branch" else "twins"
        hours = "" if pool["hours"] is None else f", {pool['hours']:g} hours"
        levels = [f"{a}: {'none' if z is None else f'{z:.1f}'}" for a, z in pool["thresholds"].items()]
        both = "" if floors["joint"] is None else f", {floors['joint']:.2g} beside both"
        out += [
            f"{pool['twins']} {kind}, {pool['homologous']} homologous models",
            f"  costs       {cost['total']:g} trainings of the victim{hours} (twins {cost['twins']:g}, "
            f"homologous {cost['homologous']:g}, surrogates {cost['surrogates']:g})",
            f"  exact p     not below {floors['candidate']:.3g} beside twins, {floors['suspect']:.3g} beside "
            f"innocents{both}",
            f"  z to pass   at level {', '.join(levels)}",
        ]
        out += [
            f"  convicted   {row['convicted']:.0%} of {row['copies']} copies at level 0.001, "
            f"{row['modified']:.0%} of those modified directly; accused: {row['accused']} "
            f"({row['world']}, {row['source']})"
            for row in pool["measured"]
        ] or ["  convicted   not measured for a pool of this kind and size"]
    return [*out, *(f"note: {sentence}" for sentence in plan["assumes"])]


def subspace_lines(report: dict[str, Any]) -> list[str]:
    """A subspace report for people: the shares by relation, and the claim in one number."""
    out = [
        f"share of UAP energy inside the victim's first {report['rank']} singular vectors "
        f"({report['per_model']} UAPs a model; a random direction: {report['chance']:.4f})"
    ]
    for relation in ("victim", "piracy", "twin", "homologous"):
        shares = sorted(report["captured"][n] for n, r in report["relations"].items() if r == relation)
        if shares:
            out.append(f"  {relation:<11} n = {len(shares):<3} {shares[0]:.3f} .. {shares[-1]:.3f}")
    if report["auc"] is not None:
        out.append(f"  piracy above twins and homologous: AUC {report['auc']:.3f}")
    return out
