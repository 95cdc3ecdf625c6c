"""What nobody may read here: claims that answers cannot carry. And what has to stand beside every p-value."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uapfast.cli.show import _NOTE, verdict_lines
from uapfast.method.decision import Assessment, decide
from uapfast.types import EXIT_CODES, Verdict

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = (
    r"\bstolen\b|\bstole\b|\btheft\b|\bstealing from\b",
    r"probabilit(y|ies) (of|that)( \w+){0,6} (theft|guilt\w*|innocen(t|ce)|copied|copy|piracy|independent)\b",
    r"(chance|likelihood|odds) (of|that)( \w+){0,4} (guilt\w*|innocence|a copy|was copied)\b",
    r"(closer|nearer)( [\w']+){0,8} than (chance|honest training|coincidence)\b|(than|that) chance explains",
    r"(was|were|been|is) copied from\b|\bwho copied\b|\bcopied the victim\b",
    r"(?<!whether )\b(the|this) suspect (descends|comes|was made) from\b",
    r"(?<!no )(?<!not a )\bproofs? (of|that)\b|\bproves? (that|theft|descent|innocence)\b",
    r"(?<!no )(?<!an )\bexonerat|\bacquits (it|the suspect)\b|\bis innocent\b(?! pool)",
    r"\b(99(\.9+)?|100) % (sure|certain|confident)\b|beyond (any |reasonable )?doubt",
)
PATTERN = re.compile("|".join(f"(?:{p})" for p in FORBIDDEN), re.IGNORECASE)
QUOTED = re.compile(r'\*?\*?"[^"]*"\*?\*?')  # what others say, in docs


def flat(text: str) -> str:
    """Without the ends of lines, and without what templates put in."""
    return " ".join(re.sub(r"<[^>]*>|{%.*?%}|{#.*?#}", " ", text, flags=re.DOTALL).split())


def strings(path: Path) -> list[str]:
    """Every text of a Python file: docstrings, messages, reasons; what is put in is a blank."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "x" for v in node.values)
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def texts() -> list[tuple[str, str]]:
    """Where, and every text that a user may read."""
    out = []
    for path in sorted((ROOT / "uapfast").rglob("*.py")):
        out += [(str(path.relative_to(ROOT)), flat(text)) for text in strings(path)]
    for path in sorted((ROOT / "uapfast" / "report" / "templates").iterdir()):
        out.append((path.name, flat(path.read_text(encoding="utf-8"))))
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        out.append((path.name, QUOTED.sub('""', flat(path.read_text(encoding="utf-8")))))
    out.append(("pyproject.toml", (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    return out


def test_nothing_that_a_user_reads_claims_what_answers_cannot_carry():
    everything = texts()
    assert len(everything) > 3000  # docstrings and messages are there
    wrong = [(where, m.group(0), text[max(0, m.start() - 40) : m.end() + 40])
             for where, text in everything for m in PATTERN.finditer(text)]  # fmt: skip
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize(
    "text",
    [
        "the suspect was stolen",
        "the probability that the model is innocent is 0.1 %",
        "closer to the victim than chance explains, on every side tested",
        "closer to this victim's than honest training explains",
        "the weights were copied from ours",
        "the suspect descends from the victim",
        "this proves that",
        "99.99 % certain",
        "it exonerates them",
    ],
)
def test_the_list_finds_them(text):
    assert PATTERN.search(text)


@pytest.mark.parametrize("text", ["no exoneration", "It is no exoneration", "not a proof of innocence"])
def test_the_list_lets_what_denies_them_stand(text):
    assert not PATTERN.search(text)


def test_every_decision_is_said_and_independent_is_no_exoneration():
    assert _NOTE.keys() == EXIT_CODES.keys()
    assert "no exoneration" in _NOTE["independent"] and "closer to this victim than to" in _NOTE["piracy"]


def assessed(rng: np.random.Generator, m: int, n: int, lift: float) -> Assessment:
    from uapfast.method.standing import assessment

    rest = rng.normal(size=(n, 6, m + 1))
    own = rng.normal(size=(6, m + 1))
    own[:, 0] += lift
    return assessment(own * 0.1, rest * 0.1, twins=m >= 2)


@given(
    st.integers(0, 2**31),
    st.sampled_from([0, 2, 3, 8, 16]),
    st.integers(8, 60),
    st.sampled_from([0, 1, 3, 30]),
)
@settings(deadline=None, max_examples=150)
def test_no_p_without_m_n_and_the_floor(seed, m, n, lift):
    """The first reason of whatever is decided, but where the decision is not robust, which names no p."""
    outcome = decide(assessed(np.random.default_rng(seed), m, n, lift), 0.001)
    floor = 1 / ((n + 1) * (m + 1)) if m else 1 / (n + 1)
    for reason in outcome.reasons:
        assert not PATTERN.search(reason)
    first = outcome.reasons[0]
    if re.search(r"\bp [\d.]", first):
        assert f"exact down to {floor:.3g}" in first
        assert f"{n} innocents" in first or f"{n} honest models" in first
        assert not m or f"{m} twins" in first
    else:
        assert "would change if the similarity moved" in first
    if outcome.p < floor * (1 - 1e-9):
        assert any("is an extrapolation: it assumes that scores are normal" in r for r in outcome.reasons)
    if outcome.decision == "independent":
        assert "no exoneration" in first
    if outcome.decision == "piracy" and m:
        assert f"closer to this victim than to its {m} twins, and than {n} honest models are" in first


def verdict(**given) -> Verdict:
    fields = dict.fromkeys(Verdict.__dataclass_fields__) | {
        "decision": "independent", "p_value": 0.4, "p_is_bound": False, "p_candidate": 0.4, "p_suspect": 0.3,
        "p_candidate_floor": 1 / 13, "p_suspect_floor": 1 / 41, "p_joint_floor": 1 / 533, "alpha": 1e-3,
        "views_used": 20, "queries_used": 4000, "reasons": (), "reference_sha256": "0",
        "settings": {"twins": 12, "innocents": 40},
    }  # fmt: skip
    return Verdict(**(fields | given))


@pytest.mark.parametrize("decision", list(EXIT_CODES))
def test_a_verdict_in_the_terminal_says_what_it_was_held_against(decision):
    said = "\n".join(verdict_lines(verdict(decision=decision).to_dict()))
    assert "12 twins, 40 innocents, exact down to 0.00188" in said and not PATTERN.search(said)
    assert "12 twins and 40 innocents (exact down to 0.00188)" in repr(verdict(decision=decision))
    alone = verdict(p_candidate=None, p_candidate_floor=None, p_joint_floor=None, settings={"twins": 0})
    assert "0 twins, ? innocents, exact down to 0.0244" in "\n".join(verdict_lines(alone.to_dict()))
