"""Query points that a pool was made of are known again, counted, and warned of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from uapfast.data import image_keys
from uapfast.errors import ManifestError, PoolNote, PoolWarning
from uapfast.pool.manifest import KEYS, _read_keys, write_keys
from uapfast.verbs.findings import Findings
from uapfast.verbs.images import check_unseen

POINTS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 1, 8, 8), dtype=np.uint8))


def found(count: int) -> Findings:
    findings = Findings()
    check_unseen(POINTS, frozenset(image_keys(POINTS[:count]).tolist()), findings)
    return findings


def test_how_many_are_said() -> None:
    with pytest.warns(PoolWarning, match="50 of the 200 query points are images that the pool was made of"):
        assert len(found(50).warnings) == 1
    with pytest.warns(PoolNote, match="1 of the 200"):  # a duplicate needs nothing of the owner
        found(1)
    assert found(0).warnings == []


def test_keys_of_a_pool_come_back_and_a_broken_file_is_an_error(tmp_path: Path) -> None:
    keys = image_keys(POINTS)
    write_keys(tmp_path, np.r_[keys, keys])
    assert _read_keys(tmp_path) == frozenset(keys.tolist())
    (tmp_path / KEYS).write_bytes(b"no array")
    with pytest.raises(ManifestError, match="beside a whole images.npy"):
        _read_keys(tmp_path)
    (tmp_path / KEYS).unlink()
    assert _read_keys(tmp_path) == frozenset()  # a pool that somebody wrote by hand
