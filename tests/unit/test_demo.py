"""The demo, cut down to the smallest pool that a reference accepts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from uapfast.demo import FULL, TINY, run_demo
from uapfast.demo import suspects as make
from uapfast.demo.steps import split_digits
from uapfast.errors import InputError, StorageError
from uapfast.report import Report

pytestmark = pytest.mark.filterwarnings("ignore::uapfast.errors.UapfastWarning")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, str]:
    torch.set_num_threads(1)
    out, stream = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    return out, run_demo(out, scale=TINY, jobs=1, stream=stream), stream.getvalue()


def test_everything_is_there(done: tuple[Path, Report, str]) -> None:
    out, report, text = done
    page = (out / "report.html").read_text(encoding="utf-8")
    assert (out / "victim.uapref").is_file() and (out / "pool" / "manifest.csv").is_file()
    assert len(report.rows) == 4 and len(report.strip) > 0
    for row in report.rows:
        assert (out / "suspects" / f"{row.name}.safetensors").is_file()
        assert row.name in text and row.name in page
        assert row.accuracy is not None and 0 <= row.accuracy <= 1
        assert row.verdict.decision != "invalid"
    assert "false accusations: 0 of 2 innocents" in text
    assert f"verify {out / 'victim.uapref'} {out / 'suspects'}" in text


def test_a_second_run_trains_nothing_and_says_the_same(done: tuple[Path, Report, str]) -> None:
    out, report, _ = done
    weights = sorted(out.rglob("*.safetensors"))
    before = [p.stat().st_mtime_ns for p in weights]
    again = run_demo(out, scale=TINY, jobs=1, stream=io.StringIO())
    assert [p.stat().st_mtime_ns for p in weights] == before
    assert [r.verdict.to_dict() for r in again.rows] == [r.verdict.to_dict() for r in report.rows]


def test_another_demos_folder_is_refused(done: tuple[Path, Report, str]) -> None:
    with pytest.raises(InputError, match="--out must be a new folder"):
        run_demo(done[0], seed=1, scale=TINY, stream=io.StringIO())


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="must be a folder that can be made"):
        run_demo(tmp_path / "file" / "out", scale=TINY, stream=io.StringIO())


def test_nobody_shares_images() -> None:
    split, index = split_digits(0)
    assert [len(part[1]) for part in (split.owner, split.thief, split.held)] == [900, 600, 297]
    assert len(index.unique()) == 900
    own = {x.numpy().tobytes() for x in split.owner[0]}
    assert not own & {x.numpy().tobytes() for x in split.thief[0]}
    assert len(split.owner[0]) + len(split.held[0]) >= FULL.points * FULL.views, "images enough for the views"


def test_suspects_have_names_of_their_own_and_known_truth() -> None:
    split, _ = split_digits(0)
    everyone = [*make.copies(torch.nn.Identity(), split, 1, 0), *make.honest(split, 1, 0)]
    assert len({s.name for s in everyone}) == len(everyone) == 25
    assert {(s.truth, s.group) for s in everyone} == {
        ("piracy", "modified"),
        ("piracy", "extracted"),
        ("innocent", "innocent"),
    }
