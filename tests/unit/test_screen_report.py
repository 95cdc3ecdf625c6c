"""The report of a screening table: every row inside, small, nothing fetched, nothing unescaped."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.unit.screen_table import make_rows, write_table
from uapfast.cli import main
from uapfast.errors import InputError
from uapfast.report.screened import collect_screen
from uapfast.report.screened_page import STATIC, render_screen
from uapfast.screening.listing.history import SuspectList
from uapfast.screening.table.correction import TERMS, Correction

HOSTILE = "</script><script>alert(1)</script>\"'&"


def data(html: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(found)


def test_ten_thousand_rows_stay_small_and_nothing_is_lost(tmp_path):
    path = write_table(tmp_path / "t.parquet", make_rows(10_000))
    start = time.process_time()
    html = render_screen(collect_screen(path))
    assert time.process_time() - start < 20
    assert len(html) < 15e6
    found = data(html)
    assert len(found["columns"]["name"]) == 10_000 == len(set(found["columns"]["name"]))
    decisions = [found["strings"][i] for i in found["columns"]["decision"]]
    assert decisions == sorted(decisions, key=["piracy", "inconclusive", "independent", "invalid"].index)
    assert html.count("<details open>") == STATIC


def test_names_and_messages_are_escaped_and_one_script_is_allowed(tmp_path):
    rows = make_rows(12)
    rows[0] |= {"name": HOSTILE, "path": HOSTILE, "arch": HOSTILE, "reasons": [HOSTILE]}
    rows[9] |= {"error_message": HOSTILE, "name": "a\u202eb"}
    html = render_screen(collect_screen(write_table(tmp_path / "t.parquet", rows)))
    assert html.count("<script") == 2 and "<script>alert" not in html and "\u202e" not in html
    assert HOSTILE in data(html)["columns"]["name"]
    assert "default-src 'none'" in html and "script-src 'sha256-" in html
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?\s*(https?:|//)", html)


def test_the_command_and_what_it_refuses(tmp_path, capsys):
    path, out = write_table(tmp_path / "t.parquet", make_rows(12)), tmp_path / "r.html"
    assert main(["report", str(path), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "no.parquet").write_bytes(b"no table")
    assert main(["report", str(tmp_path / "no.parquet"), "--out", str(out)]) == 2
    with pytest.raises(InputError, match="schema version 9"):
        collect_screen(write_table(tmp_path / "v.parquet", make_rows(3), schema_version=9))


def test_the_list_what_it_is_corrected_for_and_both_numbers_are_said(tmp_path):
    """Also of a table of one row: m, n and the floor stand beside its p."""
    row = make_rows(8)[7] | {"known_copy": "declared"}
    sha256 = row["reference_sha256"]
    lists = [
        SuspectList("a" * 64, "2026-01-01T00:00:00+00:00", 9, 0, 9, 0, 9),
        SuspectList("b" * 64, "2026-01-02T00:00:00+00:00", 8, 1, 0, 1, 9),
    ]
    told = {
        "lists": [one.to_dict() for one in lists],
        "corrections": {sha256: Correction(9, 1, 1, 1, 1e-3).to_dict()},
    }
    html = render_screen(collect_screen(write_table(tmp_path / "t.parquet", [row], **told)))
    text = " ".join(html.split())
    for part in (
        "list of 8 suspects, fixed 2026-01-02T00:00:00+00:00 before they were asked, SHA-256 " + "b" * 64,
        "0 added, 1 gone since aaaaaaaaaaaa",
        "9 suspects count; were all of them honest, 0.009 of them would be expected at or below the level",
        "which count still: 1",
        f"q {TERMS['q_value']}.",
        f"Holm (p_holm) {TERMS['p_holm']}.",
        "known copy (declared): no suspect, not counted",
        "12 twins and 24 innocents",
        "cannot fall below 0.0031",
    ):
        assert part in text, part
    assert data(html)["columns"]["p_holm"][0] == pytest.approx(row["p_value"], rel=1e-3)
    render_screen(collect_screen(write_table(tmp_path / "old.parquet", [row])))  # a table that tells neither
