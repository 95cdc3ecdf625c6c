"""Arguments of ``uapfast.screen``, its engines, its progress, and what it gives back."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import uapfast
from uapfast.errors import InputError, ManifestError, MissingDependency, ReferenceFileError, StorageError
from uapfast.screening.engine.registry import ENGINES


def test_bad_arguments_are_named(world, tmp_path):
    some, path = world.suspects[:1], world.suspects[0].path
    for given, told in (
        ({"alpha": 0.7}, "alpha"),
        ({"fdr": 0}, "fdr"),
        ({"fdr": True}, "fdr"),
        ({"queries": 0}, "queries"),
        ({"workers": 1.5}, "workers"),
        ({"engine": "abacus"}, "engine"),
        ({"arch": "uapfast:none"}, "SPEC"),
    ):
        with pytest.raises(InputError, match=f"{told} must be"):
            uapfast.screen(world.references, some, **given)
    for references in ([], 7, [7], {"a": world.references["first"], "b": world.references["first"]}):
        with pytest.raises(InputError, match="references? must be"):
            uapfast.screen(references, some)
    with pytest.raises(ReferenceFileError):
        uapfast.screen(path, some)
    with pytest.raises(InputError, match="arch must be given"):
        uapfast.screen(world.references, [path])
    with pytest.raises(ManifestError):
        uapfast.screen(world.references, tmp_path / "none.csv")
    with pytest.raises(StorageError):
        uapfast.screen(world.references, some, out=tmp_path / "none" / "t.parquet")
    unfinished = uapfast.screen(world.references, some)
    with unfinished, pytest.raises(InputError, match="unfinished"):
        next(unfinished.rows())


def test_an_engine_that_is_not_installed_names_its_extra(world, monkeypatch):
    monkeypatch.setitem(ENGINES, "ray", ("uapfast.screening.none_such", "none_such", "ray"))
    with pytest.raises(MissingDependency, match=r"pip install 'ray>=2.50'"):
        uapfast.screen(world.references, world.suspects[:1], engine="ray")


def test_progress_and_rows_come_while_it_runs(world):
    seen = []
    screening = uapfast.screen(
        world.references, world.suspects, progress=lambda done, total, what: seen.append((done, total))
    )
    with screening:
        rows = list(screening)
        assert len(rows) == 22 and all(r.q_value is None for r in rows)
        assert seen == [(i, 11) for i in range(12)]
        finished = list(screening.rows())
        assert all(r.q_value is not None for r in finished) and len(finished) == 22
        assert np.isfinite([r.seconds_forward for r in rows]).all()


def test_threads_and_settings_are_given_back(world):
    threads, running = torch.get_num_threads(), threading.active_count()
    for _ in range(2):
        screening = uapfast.screen(world.references, world.suspects[:4], workers=2)
        next(iter(screening))
        screening.close()
    uapfast.screen(world.references, world.suspects[:4], workers=2).finish()
    assert torch.get_num_threads() == threads and threading.active_count() == running
