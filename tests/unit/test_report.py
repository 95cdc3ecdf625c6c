"""The report: right numbers, one file, nothing fetched, nothing unescaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uapfast.errors import StorageError
from uapfast.report import Answer, Report, StripItem, SuspectRow, render, summarise_detection, write_report
from uapfast.report.page import p_text
from uapfast.types import Decision, Verdict

HOSTILE = "<script>alert(1)</script>\"'&"


def make_verdict(decision: Decision, p: float | None = 0.5, **changed: Any) -> Verdict:
    none = p is None
    values: dict[str, Any] = {
        "decision": decision,
        "p_value": p,
        "p_candidate": None if none else p / 2,
        "p_candidate_floor": None if none else 1 / 9,
        "p_candidate_exact": None if none else max(p, 1 / 9),
        "p_suspect": p,
        "p_suspect_floor": None if none else 1 / 17,
        "p_suspect_exact": None if none else max(p, 1 / 17),
        "p_is_bound": None if none else p < 1e-4,
        "p_joint": p,
        "p_joint_floor": None if none else 1 / 153,
        "p_joint_exact": None if none else max(p, 1 / 153),
        "p_view": None if none else 1e-20,
        "similarity": None if none else 0.9 - p,
        "z": None if none else -np.log10(p),
        "rank": None if none else 1,
        "z_pool": 3.0,
        "agreement": 0.9,
        "agreement_least": 0.7,
        "views_used": 20,
        "queries_used": 4000,
        "alpha": 1e-3,
        "reasons": ("a reason",),
        "output": None if none else "logits",
        "reference_sha256": "ab" * 32,
        "suspect_sha256": "cd" * 32,
    }
    return Verdict(**{**values, **changed})


def make_rows() -> tuple[SuspectRow, ...]:
    return (
        SuspectRow("pruned", "pruned 30 %", make_verdict("piracy", 1e-6), "piracy", "modified", 0.91),
        SuspectRow("student", "soft labels", make_verdict("inconclusive", 0.01), "piracy", "extracted", 0.85),
        SuspectRow("honest-1", "other seed", make_verdict("independent", 0.4), "innocent", "innocent", 0.9),
        SuspectRow("honest-2", "other net", make_verdict("piracy", 5e-4), "innocent", "innocent", 0.9),
        SuspectRow("broken", "NaN weights", make_verdict("invalid", None), "piracy", "modified"),
    )


def make_report(channels: int = 1, **changed: Any) -> Report:
    rng = np.random.default_rng(0)
    x = rng.random((channels, 8, 8)).astype(np.float32)
    v = (0.1 * np.sign(rng.standard_normal((channels, 8, 8)))).astype(np.float32)
    answers = (Answer("victim", "3", 0.98, "8", 0.71), Answer("student", "3", 0.9, "3", 0.5))
    values: dict[str, Any] = {
        "title": "Digits",
        "rows": make_rows(),
        "v": v,
        "eps": 0.1,
        "norm": "linf",
        "scale": 1.0,
        "strip": (StripItem(x, np.clip(x + v, 0, 1), answers),),
        "calibration": {
            "innocent_z": rng.standard_normal(16),
            "innocent_similarity": rng.random(16),
            "surrogate_z": 5 + rng.standard_normal(4),
            "surrogate_similarity": rng.random(4),
        },
        "threshold": 4.8,
        "alpha": 1e-3,
        "facts": {"fooling rate": "0.8"},
        "settings": {"config": {"eps": 0.1}},
        "hashes": {"reference": "ab" * 32},
    }
    return Report(**{**values, **changed})


def test_convictions_come_first_whatever_their_p() -> None:
    rows = (
        SuspectRow("broken", "", make_verdict("invalid", None), "piracy", "modified"),
        SuspectRow("open", "", make_verdict("inconclusive", 1e-9), "piracy", "modified"),
        SuspectRow("free", "", make_verdict("independent", 1e-10), "innocent", "innocent"),
        SuspectRow("thief", "", make_verdict("piracy", 1e-5), "piracy", "modified"),
    )
    page = render(make_report(rows=rows))
    places = [page.index(f">{name}<") for name in ("thief", "open", "free", "broken")]
    assert places == sorted(places)


class Reader(HTMLParser):
    """Collects tags with attributes, checks that tags nest, and keeps the text."""

    VOID = {"meta", "img", "source", "br", "link", "input", "hr"}

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_rates_count_what_is_known() -> None:
    summary = summarise_detection(make_rows())
    assert (summary.piracy, summary.convicted) == (3, 1)
    assert (summary.innocents, summary.accused, summary.cleared) == (2, 1, 1)
    # Of 2 x 2 pairs (the invalid one has no score) one is in the wrong order: .01 against 5e-4.
    assert summary.auc == pytest.approx(0.75)
    assert [(c.group, c.auc) for c in summary.curves[1:]] == [("modified", 1.0), ("extracted", 0.5)]
    assert [(c.piracy, c.innocents) for c in summary.curves] == [(2, 2), (1, 2), (1, 2)]


def test_no_rates_without_truth() -> None:
    rows = tuple(SuspectRow(r.name, r.made, r.verdict) for r in make_rows())
    summary = summarise_detection(rows)
    assert (summary.piracy, summary.innocents, summary.auc) == (0, 0, None)
    page = read(render(make_report(rows=rows)))
    assert "falsely accused" not in page.text and "AUC" not in page.text


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_page_is_well_formed_and_holds_every_suspect(channels: int) -> None:
    page = read(render(make_report(channels)))
    for row in make_rows():
        assert row.name in page.text
    for decision in ("piracy", "independent", "inconclusive", "invalid"):
        assert any(tag == "span" and f"chip {decision}" in (a.get("class") or "") for tag, a in page.tags)
    assert "1 of 3" in page.text and "1 of 2" in page.text and "0.750" in page.text
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 2 * 3 + 1 + 3  # plots, light and dark, the UAP, one strip
    assert all(a.get("alt") for a in pictures)


def test_nothing_is_fetched_or_run() -> None:
    html = render(make_report(3))
    page = read(html)
    assert not any(tag in {"script", "link", "iframe", "object"} for tag, _ in page.tags)
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "srcset", "href"}:
                assert value is not None and value.startswith("data:image/")
    assert "url(" not in html and "@import" not in html


def test_strings_from_outside_are_escaped() -> None:
    verdict = make_verdict("piracy", 1e-4, reasons=(HOSTILE,), suspect_sha256=HOSTILE)
    row = SuspectRow(HOSTILE, HOSTILE, verdict, "piracy", HOSTILE)
    item = StripItem(
        make_report().strip[0].x, make_report().strip[0].x, (Answer(HOSTILE, HOSTILE, 1, "1", 1),)
    )
    html = render(
        make_report(
            title=HOSTILE,
            rows=(row, *make_rows()),
            strip=(item,),
            facts={HOSTILE: HOSTILE},
            settings={HOSTILE: HOSTILE},
            hashes={HOSTILE: HOSTILE},
        )
    )
    assert "<script" not in html
    assert read(html).text.count("<script>alert(1)</script>") >= 8


@pytest.mark.parametrize(
    "changed",
    [{"rows": ()}, {"strip": ()}, {"calibration": {}}, {"rows": make_rows()[4:], "calibration": {}}],
)
def test_parts_may_be_missing(changed: dict[str, Any]) -> None:
    read(render(make_report(**changed)))


def test_the_same_data_gives_the_same_bytes() -> None:
    assert render(make_report()) == render(make_report())


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.5, "0.5"), (1.0, "1"), (0.00123, "0.0012"), (1e-6, "1e-6"), (0.0, "< 1e-15")],
)
def test_p_values_are_readable_and_never_zero(value: float | None, text: str) -> None:
    assert p_text(value) == text


def test_written_whole_or_refused(tmp_path: Path) -> None:
    path = write_report(make_report(), tmp_path / "report.html")
    assert re.match(r"<!doctype html>", path.read_text(encoding="utf-8"))
    with pytest.raises(StorageError, match="folder must be an existing one"):
        write_report(make_report(), tmp_path / "missing" / "report.html")
