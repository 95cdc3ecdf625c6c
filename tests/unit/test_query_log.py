"""What a query log has to be, and which of its images are taken."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from uapfast.config import GenerateConfig
from uapfast.data import Images, stored_images
from uapfast.errors import DataError, InputError, PoolWarning
from uapfast.examination.logged import log_remarks, logged_points
from uapfast.method.lineage import LineageScorer, Roster
from uapfast.verbs.findings import Findings
from uapfast.verbs.log import ALONE, NOT_BLIND, QueryLog, choose_logged, read_log

CONFIG = GenerateConfig(points=4, views=6, ray=(0.0,))


def pictures(count: int, seed: int = 0, side: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, side, side), generator=generator, dtype=torch.uint8)


def read(
    log: torch.Tensor, own: torch.Tensor | None = None, *, blind: bool | None = True, twins: int = 3
) -> tuple[QueryLog, Findings]:
    findings = Findings()
    owned = Images(pictures(50, 9) if own is None else own)
    return read_log(Images(log), blind, owned, CONFIG, twins, findings), findings


def test_a_log_fills_half_of_the_views_at_most() -> None:
    found, findings = read(pictures(100))
    assert (found.views, found.told["asked"], found.told["distinct"]) == (3, 12, 100)
    assert found.own(CONFIG).views == 3 and not findings.warnings
    small, _ = read(pictures(6))
    assert (small.views, small.told["asked"]) == (1, 4)


def test_an_image_counts_once_and_the_owners_not_at_all() -> None:
    log, own = pictures(20), pictures(10, 9)
    twice = torch.cat([log, log[:7], own[:5].clone()])
    found, _ = read(twice, own.to(torch.float32) / 255)  # the owner's as floats, the log as bytes
    assert (found.told["images"], found.told["distinct"], found.told["owners"]) == (32, 20, 5)
    assert torch.equal(found.images.kept(slice(None)), log)
    assert found.told["sha256"] != read(log)[0].told["sha256"]


@pytest.mark.parametrize("blind", [None, False])
def test_a_log_that_is_not_known_to_be_blind_is_not_asked(blind: bool | None) -> None:
    with pytest.warns(PoolWarning, match="20 images of the query log are not used"):
        found, findings = read(pictures(20), blind=blind)
    assert found.views == 0 and len(found.images) == 0 and found.own(CONFIG) == CONFIG
    assert found.told["asked"] == 0 and found.told["blind"] is blind
    assert NOT_BLIND[blind] in findings.warnings[0]


def test_without_a_candidate_side_a_log_is_not_asked() -> None:
    with pytest.warns(PoolWarning, match="not used"):
        found, findings = read(pictures(20), twins=1)
    assert found.views == 0 and ALONE in findings.warnings[0]
    assert read(pictures(20), twins=2)[0].views == 3


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"log must be of the owner's images' shape \[1, 3, 3\].*got \[1, 4, 4\]"
    ):
        read(pictures(20, side=4))


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_images_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"at least 4 different images.*got {count} \(of {count + 2}\)"):
        read(torch.cat([pictures(count), pictures(50, 9)[:2]]))
    same = pictures(1).repeat(30, 1, 1, 1)
    with pytest.raises(DataError, match=r"got 1 \(of 30\)"):
        read(same)


def test_one_view_has_no_room_for_a_log() -> None:
    config = GenerateConfig(points=4, views=1, ray=(0.0,))
    with pytest.raises(DataError, match="1 views"):
        read_log(Images(pictures(20)), True, Images(pictures(50, 9)), config, 3, Findings())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="log_blind must be True, False or None, got 'yes'"):
        read(pictures(20), blind="yes")  # type: ignore[arg-type]
    paper = GenerateConfig(encoder="paper", points=4, views=6)
    with pytest.raises(InputError, match="lineage with a log, got paper"):
        read_log(Images(pictures(20)), True, Images(pictures(50, 9)), paper, 3, Findings())


def test_points_of_the_log_stand_before_the_owners() -> None:
    log, own = pictures(20), pictures(8, 9)
    found, _ = read(log)
    rows = np.array([[3, 1], [0, 2]])
    assert torch.equal(found.before(own, rows, False), torch.cat([log[[3, 1, 0, 2]], own]))
    mixed = found.before(own.to(torch.float32) / 255, rows, False)
    assert mixed.dtype == torch.float32 and torch.equal(mixed[:4], log[[3, 1, 0, 2]].to(torch.float32) / 255)


def test_points_of_the_log_lie_on_the_grid_where_that_is_asked_for() -> None:
    fine = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    found, _ = read(fine)
    moved = found.before(pictures(2, 9).to(torch.float32) / 255, np.array([[0, 1]]), True)[:2]
    assert torch.equal((moved * 255).round() / 255, moved) and not torch.equal(moved, fine[:2])


def test_an_error_of_the_choice_names_the_log() -> None:
    def fail() -> np.ndarray:
        raise DataError("generate", "images", "at least 5", 2)

    with pytest.raises(DataError, match="generate: log must be at least 5, got 2"):
        choose_logged(fail)


def test_what_a_verdict_says() -> None:
    told = read(pictures(100))[0].told
    assert logged_points({"log": told}) == 12 and logged_points({"log": None}) == logged_points({}) == 0
    (said,) = log_remarks({"log": told}, 24)
    assert (
        said.startswith("12 of the 24 query points come from the owner's query log") and "100 images" in said
    )
    assert log_remarks({"log": told | {"asked": 0}}, 24) == []


# -- the file -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_read_without_labels(tmp_path: Path, save: object) -> None:
    log = pictures(30).numpy()
    save(tmp_path / "log.npz", x=log, account=np.arange(30))  # type: ignore[operator]
    found = stored_images(tmp_path / "log.npz")
    assert isinstance(found, np.memmap) and np.array_equal(found, log)


def test_files_that_hold_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an existing file"):
        stored_images(tmp_path / "none.npz")
    np.savez(tmp_path / "y.npz", y=np.arange(3), z=np.arange(2))
    with pytest.raises(DataError, match="an .npz with an array x .*got y, z"):
        stored_images(tmp_path / "y.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="a whole .npz of plain arrays"):
        stored_images(tmp_path / "objects.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="BadZipFile"):
        stored_images(tmp_path / "text.npz")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    np.savez(path, x=pictures(300, side=8).numpy())
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("x.npy").header_offset
    blob = bytearray(path.read_bytes())
    blob[begin + 5000] ^= 0xFF
    path.write_bytes(blob)
    with pytest.raises(DataError, match="CRC"):
        stored_images(path)


# -- its say -------------------------------------------------------------------------------------------
def scorers(logged: int, blocks: int = 1) -> tuple[LineageScorer, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(13, 6, blocks, 30)).astype(np.float32)
    roster = Roster(np.arange(4), np.arange(4, 12), np.zeros((0, 4), np.int64))
    return LineageScorer(features[:12], roster, logged), features[12]


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("logged", [1, 3, 5])
def test_views_of_a_log_have_a_say_of_their_own_however_few(logged: int, blocks: int) -> None:
    scorer, suspect = scorers(logged, blocks)
    rows = scorer.pool[:4].astype(np.float64) * scorer._scale[..., None]
    say = rows.var(0).sum((-2, -1))  # of each view
    assert say[:logged].sum() == pytest.approx(say[logged:].sum())
    within = scorer.pool[:4].astype(np.float64).var(0).sum((-2, -1))
    if blocks == 1:  # within each part views count as they did
        assert say[:logged] / say[0] == pytest.approx(within[:logged] / within[0])
    plain, _ = scorers(0, blocks)
    assert not np.allclose(scorer.scores(suspect)[0].mean(0), plain.scores(suspect)[0].mean(0))


def test_a_block_of_nothing_has_no_say() -> None:
    scorer, suspect = scorers(2)
    for dead in (slice(0, 2), slice(2, 6)):
        pool = scorer.pool.copy()
        pool[:4, dead] = 1.0
        found = LineageScorer(pool, scorer.roster, 2)
        assert np.isfinite(found._scale).all() and np.isfinite(found.scores(suspect)[0]).all()


def test_a_log_alone_or_none_counts_as_it_is() -> None:
    for logged in (0, 6):
        scorer, suspect = scorers(logged)
        assert np.array_equal(scorer._scale, np.ones((6, 1)))
    whole, suspect = scorers(2)
    assert np.isfinite(whole.scores(suspect[:1])[0]).all()  # one look, of the log alone
    part = LineageScorer(whole.pool[:, :1], whole.roster, 2)
    for a, b in zip(whole.scores(suspect[:1]), part.scores(suspect[:1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_fewer_innocents_keep_the_say_of_the_log() -> None:
    scorer, suspect = scorers(2)
    some = np.arange(4, 10)
    fresh = LineageScorer(scorer.pool, Roster(scorer.roster.candidates, some, scorer.roster.surrogates), 2)
    for a, b in zip(scorer.with_innocents(some).scores(suspect), fresh.scores(suspect), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_the_say_is_the_same_whoever_plays_the_victim() -> None:
    scorer, suspect = scorers(2)
    order = np.array([2, 0, 3, 1])
    mixed = LineageScorer(scorer.pool, Roster(order, scorer.roster.innocents, scorer.roster.surrogates), 2)
    np.testing.assert_allclose(mixed.scores(suspect)[0], scorer.scores(suspect)[0][:, order], atol=1e-9)
