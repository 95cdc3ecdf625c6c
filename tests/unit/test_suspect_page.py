"""The page of one suspect: no more than the verdict, innocents first, nothing fetched, commands that work."""

from __future__ import annotations

import dataclasses
import html
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_report import HOSTILE, make_verdict, read
from uapfast.errors import InputError, StorageError
from uapfast.examination.error_rates import rates_for
from uapfast.report.alternatives import Alternative
from uapfast.report.evidence import Evidence, attach
from uapfast.report.suspect import ScreenContext, Standing, SuspectReport
from uapfast.report.suspect_figure import axis_of, lanes_of, standing_picture
from uapfast.report.suspect_page import THEMES, named, percent, render_suspect, sentence, write_suspect_page
from uapfast.types import Decision

DECISIONS: tuple[Decision, ...] = ("piracy", "independent", "inconclusive", "invalid", "unavailable")
STANDING = Standing((0.1, -0.5, 1.2), tuple(i / 40 - 1 for i in range(80)), (-0.3, 0.4), 9.0, 4.5)
NEVER = ("stolen", "steal", "theft", "thief", "guilty", "fraud", "crime", "probability", "likely copied")


def make_page(decision: Decision = "piracy", p: float | None = 5e-4, **changed: Any) -> SuspectReport:
    p = None if decision in ("invalid", "unavailable") else p
    values: dict[str, Any] = {
        "name": "suspect.onnx",
        "victim": "victim.uapref",
        "verdict": make_verdict(decision, p, p_is_bound=p is not None),
        "standing": None,  # pictures take a while
        "alternatives": (Alternative("the same order", "open", "not ruled out", "Ask for the seed."),),
        "rates": tuple(rates_for(1e-3, 12)),
        "queries": 4000,
        "twins": 2,
        "innocents": 3,
        "power": 0.75,
        "among": None,
        "evidence": Evidence(),
    }
    return SuspectReport(**{**values, **changed})


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_page_says_no_more_than_the_verdict(decision: Decision) -> None:
    page = read(render_suspect(make_page(decision)))
    text = " ".join(page.text.split())
    assert sentence(make_page(decision)) in text
    assert not [word for word in NEVER if word in text.lower()]
    if decision == "piracy":
        assert "It is not the chance that this one is honest" in text and "What else would explain it" in text
    else:
        assert "What would hide a copy" in text and "no exoneration" in text
        assert "convicted from" not in sentence(make_page(decision))


def test_the_sentence_names_the_bound_as_a_bound() -> None:
    assert "p ≤ 5e-4" in sentence(make_page())
    exact = make_page(verdict=make_verdict("piracy", 5e-4, p_is_bound=False))
    assert "p = 5e-4" in sentence(exact)
    alone = make_page(twins=0)
    assert "twin" not in sentence(alone) and "3 honest models" in sentence(alone)


def test_innocents_stand_before_the_accused() -> None:
    lanes = lanes_of(STANDING, convicted=True)
    assert [lane.role for lane in lanes] == ["innocent", "pool", "ink", "piracy"]
    assert lanes[0].values == STANDING.innocents and lanes[-1].values == (9.0,)
    assert lanes_of(STANDING, convicted=False)[-1].role == "ink"  # nobody is painted guilty
    bare = dataclasses.replace(STANDING, pairs=(), own_twins=())
    assert [lane.role for lane in lanes_of(bare, convicted=False)] == ["innocent", "ink"]


@pytest.mark.parametrize("threshold", [4.5, float("inf")])
@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_the_picture_holds_everybody(threshold: float, size: str) -> None:
    standing = dataclasses.replace(STANDING, threshold=threshold, innocents=(-99.0, 0.0, 1.0))
    axis = axis_of(standing)
    assert axis.low > -20 and axis.high > 9.0
    lanes = lanes_of(standing, convicted=True)
    first = standing_picture(lanes, axis, THEMES["light"], size)
    assert first.startswith("data:image/svg+xml;base64,")
    assert first == standing_picture(lanes, axis, THEMES["light"], size)
    without = standing_picture(lanes[:-1], axis, THEMES["light"], size)
    assert without != first


def test_what_prints_is_the_light_picture() -> None:
    text = render_suspect(make_page(standing=STANDING))
    page = read(text)
    classes = [set((a["class"] or "").split()) for tag, a in page.tags if tag == "img"]
    assert [("dark" in c, "narrow" in c) for c in classes] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    style = text[text.index("<style>") : text.index("</style>")]
    always = re.sub(r"@media screen[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", style)
    assert ".plot.dark, .plot.narrow { display: none; }" in always
    assert "dark" not in always.replace(".plot.dark, .plot.narrow { display: none; }", "").replace(
        "light dark", ""
    )
    assert "details::details-content { content-visibility: visible" in always  # the reasons are printed, too


def test_no_picture_where_nothing_was_comparable() -> None:
    page = read(render_suspect(make_page("invalid")))
    assert not any(tag == "img" for tag, _ in page.tags) and "nothing to draw" in page.text


def test_nothing_is_fetched_or_run() -> None:
    page = read(text := render_suspect(make_page(standing=STANDING)))
    assert not any(tag in {"script", "link", "iframe", "object", "a", "form"} for tag, _ in page.tags)
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "srcset", "href"}:
                assert value is not None and value.startswith("data:image/")
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text


def test_hostile_names_stay_text() -> None:
    bad = f"{HOSTILE}\u202e\x1b[31m<img src=x onerror=alert(1)>"
    report = make_page(
        name=bad,
        victim=bad,
        verdict=make_verdict("piracy", 5e-4, reasons=(bad,), suspect_sha256=bad, output=bad),
        alternatives=(Alternative(bad, "open", bad, bad),),
        spent={bad: bad},
        among=ScreenContext(10, 0.01, 0.001),
        evidence=Evidence(commitment={"committedAt": bad, "began": bad, "stampedAt": bad}, keyid=bad),
    )
    text = render_suspect(report)
    page = read(text)
    assert "<script" not in text and not any(tag == "script" for tag, _ in page.tags)
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "\u202e" not in sentence(report) and "\x1b" not in sentence(report)
    assert page.text.count("<script>alert(1)</script>") >= 8
    long = make_page(name="x" * 5000)
    assert len(sentence(long)) < 400


def test_a_name_that_reads_from_right_to_left_turns_nothing_else_around() -> None:
    """Beside Hebrew or Arabic letters a browser moves digits and brackets of the sentence."""
    assert named("שם 0.9") == "\u2068שם 0.9\u2069" and named("plain 0.9") == "plain 0.9"
    assert "\u202e" not in named("x\u202ey") and named("ש" * 300).endswith("\u2069")
    report = make_page(name="שם 0.9")
    assert "\u2068שם 0.9\u2069" in sentence(report)


def test_the_rates_are_the_measured_ones_with_their_n() -> None:
    text = " ".join(read(render_suspect(make_page())).text.split())
    assert "30 honest models, 3 victims with 12 twins each" in text
    assert "10,000 draws" in text and "none at level 0.001" in text
    for row in rates_for(1e-3, 12):
        assert row["source_sha256"] in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        ("0.00088", "0.088 %"),
        ("0.0020", "0.20 %"),
        ("0.283", "28.3 %"),
        ("0", "0 %"),
        ("1", "100 %"),
        ("0.05", "5 %"),
    ],
)
def test_shares_as_percentages(share: str, text: str) -> None:
    assert percent(share) == text


def commands(text: str) -> list[str]:
    return [html.unescape(c) for c in re.findall(r'<code class="command">(.*?)</code>', text, re.S)]


@pytest.mark.parametrize(
    "name", ["a ref.uapref", "-n", 'it\'s $(touch broken) "&&" <b>.uapref', "ref%s.uapref"]
)
def test_the_hashes_can_be_checked_as_pasted(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    reference, record = tmp_path / name, tmp_path / "sub" / "record.jsonl"
    reference.write_bytes(b"reference")
    record.write_bytes(b"record")
    page = tmp_path / "page.html"
    evidence = attach(page, alpha=1e-3, reference=reference, record=record)
    write_suspect_page(make_page(evidence=evidence), page)
    first, *rest = commands(page.read_text(encoding="utf-8"))
    assert len(rest) == 1 and "verify" in rest[0]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", first], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert run().returncode == 0, run().stderr
    assert not (tmp_path / "broken").exists()
    record.write_bytes(b"recorD")
    assert run().returncode != 0


def test_a_name_that_cannot_be_typed_gets_no_command(tmp_path: Path) -> None:
    path = tmp_path / "a\nb.uapref"
    path.write_bytes(b"x")
    text = render_suspect(make_page(evidence=attach(tmp_path / "page.html", reference=path)))
    assert not commands(text) and "cannot be typed" in text


def test_a_signed_statement_is_audited_and_an_unsigned_page_says_so(tmp_path: Path) -> None:
    for name in ("r.uapref", "r.jsonl", "s.json", "c.json", "k.pem"):
        (tmp_path / name).write_text(name)
    evidence = attach(
        tmp_path / "page.html", reference=tmp_path / "r.uapref", record=tmp_path / "r.jsonl",
        statement=tmp_path / "s.json", commitment=tmp_path / "c.json", trust=tmp_path / "k.pem",
    )  # fmt: skip
    text = render_suspect(make_page(evidence=evidence))
    audit = "uapfast audit s.json --reference r.uapref --record r.jsonl --commitment c.json --trust k.pem"
    assert audit in commands(text) and "not signed" not in text
    assert "This page is not signed" in render_suspect(make_page())


def test_one_of_many_is_named_by_what_is_corrected_for_all() -> None:
    def said(among: ScreenContext) -> str:
        return " ".join(read(render_suspect(make_page(among=among))).text.split())

    assert "counts (Holm): 5e-4." in said(ScreenContext(10, 5e-4, 1e-4))
    assert "may not be named on its own" in said(ScreenContext(10, 0.02, 1e-4))
    assert "not corrected for that" in said(ScreenContext(10))
    assert "of a screen" not in " ".join(read(render_suspect(make_page())).text.split())


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reference must be a file that can be read, got .*none.uapref"):
        attach(tmp_path / "page.html", reference=tmp_path / "none.uapref")
    with pytest.raises(InputError, match="one of reference, .*got salt"):
        attach(tmp_path / "page.html", salt=tmp_path / "s")
    with pytest.raises(StorageError, match="folder must be an existing one"):
        write_suspect_page(make_page(), tmp_path / "missing" / "page.html")
