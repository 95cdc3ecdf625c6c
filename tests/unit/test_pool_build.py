"""Building a pool: what is made, that it repeats itself, and that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.small_pool import ARCH, OTHERS, SMALL, data
from uapfast.data import Dataset, image_keys, load_data
from uapfast.errors import (
    DataError,
    InputError,
    ModelError,
    PoolError,
    PoolWarning,
    StorageError,
    SuspectError,
)
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.models.registry import resolve_arch
from uapfast.pool import build
from uapfast.pool.build import build_pool
from uapfast.pool.manifest import load_pool
from uapfast.pool.recipe import default_recipe

ROOT = Path(__file__).resolve().parents[2]
MODELS = 2 + 3 + 3 * 2


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("victim") / "victim.safetensors"
    torch.manual_seed(0)
    d = data()
    save_weights(default_recipe(resolve_arch(ARCH)(), d.x(), d.labels, 0, epochs=8), path)
    return path


@pytest.fixture(scope="module")
def whole(victim: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted pool."""
    return build_pool(ARCH, victim, data(), tmp_path_factory.mktemp("whole"), **SMALL)


def content(folder: Path) -> dict[str, bytes]:
    """Manifest and weights: what has to be the same in every run."""
    files = [folder / "manifest.csv", *(folder / "models").glob("*.safetensors")]
    return {f.name: f.read_bytes() for f in files if f.name != "manifest.csv"}


def test_what_is_made(whole: Path, victim: Path) -> None:
    pool = load_pool(whole)
    assert len(pool.models) == 1 + MODELS and len({m.model.sha256 for m in pool.models}) == 1 + MODELS
    assert pool.victim is not None and pool.victim.model.sha256 == load_model(ARCH, victim).sha256
    assert [m.name for m in pool.twins] == ["twin-00", "twin-01"]
    for candidate in ("victim", "twin-00", "twin-01"):
        assert [m.kind for m in pool.piracy(candidate)] == list(pool.kinds)
    assert pool.kinds == ("00-soft-cnn-small-1", "01-soft-mlp-small-1")
    record = json.loads((whole.parent / "pool.json").read_text())
    assert record["config"]["twins"] == 2 and len(record["models"]) == MODELS
    for row in record["models"]:
        made = next(m for m in pool.models if m.name == row["name"])
        right = float((made.model.answers(data().x()).labels() == data().labels).double().mean())
        assert row["sha256"] == made.model.sha256 and row["owner_accuracy"] == pytest.approx(right, abs=1e-4)
        assert ("agreement" in row) == (row["relation"] == "piracy")
    names = sorted(p.name for p in whole.parent.iterdir())
    assert names == [".lock", "images.npy", "manifest.csv", "models", "pool.json"]
    assert pool.seen == frozenset(image_keys(data().images).tolist())  # generate knows them again
    assert not list((whole.parent / "models").glob("*.tmp"))


def test_surrogates_learn_from_their_own_candidate(victim: Path, tmp_path: Path) -> None:
    """Piracy models agree more with the candidate that they were made from than with the others."""
    out = build_pool(
        ARCH,
        victim,
        data(),
        tmp_path,
        init="random",
        twins=1,
        surrogates=2,
        homologous=0,
        epochs=12,
        other_archs=(ARCH,),
    )
    pool, x = load_pool(out), load_data("digits:test").x()
    answers = {m.name: m.model.answers(x).probabilities() for m in pool.models}

    def gap(a: str, b: str) -> float:
        return float((answers[a] - answers[b]).square().mean())

    for own, other in (("victim", "twin-00"), ("twin-00", "victim")):
        for m in pool.piracy(own):
            assert gap(m.name, own) < 0.8 * gap(m.name, other)


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_repeats_itself_whatever_the_jobs(whole: Path, victim: Path, tmp_path: Path, jobs: int) -> None:
    seen: list[tuple[int, int, str]] = []
    out = build_pool(
        ARCH, victim, data(), tmp_path, jobs=jobs, progress=lambda *args: seen.append(args), **SMALL
    )
    assert content(out.parent) == content(whole.parent)
    assert [done for done, _, _ in seen] == list(range(MODELS + 1)) and {n for _, n, _ in seen} == {MODELS}
    assert {what for _, _, what in seen[1:]} == {p.stem for p in (tmp_path / "models").glob("*.json")}


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
from uapfast.data import load_data
from uapfast.pool.build import build_pool

if __name__ == "__main__":
    torch.set_num_threads(1)
    data = load_data("digits:train").subset(slice(0, 400))
    build_pool({arch!r}, {victim!r}, data, {out!r}, init="random", twins=2, surrogates=2, homologous=3,
               epochs=2, other_archs={others!r}, progress=lambda done, total, what: print(done, flush=True))
"""


@pytest.mark.parametrize("kill_after", [1, 7])
def test_a_killed_run_goes_on_where_it_was(
    whole: Path, victim: Path, tmp_path: Path, kill_after: int
) -> None:
    out = tmp_path / "pool"
    script = tmp_path / "run.py"
    script.write_text(
        SCRIPT.format(root=str(ROOT), arch=ARCH, victim=str(victim), out=str(out), others=OTHERS)
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= kill_after:
            break
    time.sleep(0.02)  # into the training, or the writing, of the next one
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (out / "manifest.csv").exists(), "the manifest is the last thing written"
    (out / "models" / ".twin-01.safetensors.abc.tmp").write_bytes(b"half")
    before = {p.name: p.stat().st_mtime_ns for p in (out / "models").glob("*.json")}
    assert kill_after <= len(before) < MODELS
    first: list[int] = []
    manifest = build_pool(
        ARCH, victim, data(), out, progress=lambda done, total, what: first.append(done), **SMALL
    )
    assert first[0] == len(before) and content(out) == content(whole.parent)
    after = {p.name: p.stat().st_mtime_ns for p in (out / "models").glob("*.json")}
    assert before.items() <= after.items(), "what was done is not done twice"
    assert not list((out / "models").glob("*.tmp")) and len(load_pool(manifest).models) == 1 + MODELS


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see who is running")
def test_workers_end_with_the_run_that_started_them(victim: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    text = SCRIPT.format(
        root=str(ROOT), arch=ARCH, victim=str(victim), out=str(tmp_path / "pool"), others=OTHERS
    )
    script.write_text(text.replace('init="random"', 'init="random", jobs=2'))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 1:
            break
    started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in started if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while left := [pid for pid in workers if _runs(pid)]:
        assert time.monotonic() < deadline, f"workers {left} outlive their run"
        time.sleep(0.1)


def _runs(pid: str) -> bool:
    """Whether a process is there, and more than what is left of one that nobody waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def copy(whole: Path, out: Path) -> Path:
    for path in [
        whole.parent / "manifest.csv",
        whole.parent / "pool.json",
        *(whole.parent / "models").iterdir(),
    ]:
        target = out / path.relative_to(whole.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return out


@pytest.mark.parametrize("damage", ["no weights", "no record", "torn record", "empty record"])
def test_half_made_models_are_made_again(whole: Path, victim: Path, tmp_path: Path, damage: str) -> None:
    out = copy(whole, tmp_path)
    weights, record = (out / "models" / f"twin-01.{s}" for s in ("safetensors", "json"))
    if damage == "no weights":
        weights.unlink()
    elif damage == "no record":
        record.unlink()
    else:
        record.write_bytes(record.read_bytes()[:30] if damage == "torn record" else b"{}")
    done: list[str] = []
    build_pool(ARCH, victim, data(), out, progress=lambda n, total, what: done.append(what), **SMALL)
    assert done[1:] == ["twin-01", "piracy-twin-01-00", "piracy-twin-01-01"], "and what derives from them"
    assert content(out) == content(whole.parent)


def test_a_pool_is_extended(whole: Path, victim: Path, tmp_path: Path) -> None:
    out, done = copy(whole, tmp_path), []
    larger = {**SMALL, "twins": 3}
    manifest = build_pool(
        ARCH, victim, data(), out, progress=lambda n, total, what: done.append(what), **larger
    )
    assert done[1:] == ["twin-02", "piracy-twin-02-00", "piracy-twin-02-01"]
    assert content(whole.parent).items() <= content(out).items()
    assert len(load_pool(manifest).twins) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 3}, r"epochs \(\d+, now \d+\)"),
        ({"seed": 1}, r"seed \(\d+, now \d+\)"),
        ({"data": load_data("digits:train").subset(slice(0, 399))}, "data"),
        ({"other_archs": ("uapfast:vgg-small?size=8",)}, r"arch \(uapfast:\S+, now uapfast:vgg-small"),
    ],
    ids=["epochs", "seed", "data", "architectures"],
)
def test_other_settings_do_not_mix(
    whole: Path, victim: Path, tmp_path: Path, change: dict, said: str
) -> None:
    """Which of them differs is said."""
    out = copy(whole, tmp_path)
    settings = {"data": data(), **SMALL, **change}
    rule = rf"pool: out must be new, or of the same .*made with other {said}"
    with pytest.raises(PoolError, match=rule):
        build_pool(ARCH, victim, out=out, **settings)
    assert content(out) == content(whole.parent)


def test_a_pool_of_before_settings_were_recorded(whole: Path, victim: Path, tmp_path: Path) -> None:
    """It goes on where it was, and only which setting differs cannot be said."""
    out = copy(whole, tmp_path)
    for record in (out / "models").glob("*.json"):
        found = json.loads(record.read_text())
        del found["settings"]
        record.write_text(json.dumps(found))
    build_pool(ARCH, victim, data(), out, **SMALL)
    with pytest.raises(PoolError, match="made with other settings"):
        build_pool(ARCH, victim, data(), out, **{**SMALL, "epochs": 3})


def test_another_victim_does_not_mix(whole: Path, victim: Path, tmp_path: Path) -> None:
    out = copy(whole, tmp_path / "pool")
    torch.manual_seed(9)
    save_weights(
        default_recipe(resolve_arch(ARCH)(), data().x(), data().labels, 9, epochs=8),
        tmp_path / "v.safetensors",
    )
    with pytest.raises(PoolError, match="of the same victim"):
        build_pool(ARCH, tmp_path / "v.safetensors", data(), out, **SMALL)


def test_few_models_are_warned_of_before_any_is_trained(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any) -> Any:
        raise RuntimeError("a model is trained")

    monkeypatch.setattr(build, "_train_all", trained)
    for twins, homologous, said in (
        (3, 12, {"at least 8 twins, got 3"}),
        (1, 12, {"at least 2 twins (better 8), got 1"}),
        (8, 4, {"at least 12 homologous models, got 4", "(generate refuses fewer than 5)"}),
        (8, 12, set()),
    ):
        with warnings.catch_warnings(record=True) as caught, pytest.raises(RuntimeError, match="is trained"):
            warnings.simplefilter("always")
            settings = {"init": "random", "twins": twins, "homologous": homologous, "surrogates": 0}
            build_pool(ARCH, victim, data(), tmp_path / "few", **settings)
        found = " ".join(str(w.message) for w in caught if issubclass(w.category, PoolWarning))
        assert all(part in found for part in said) and bool(found) == bool(said)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"jobs": 0}, InputError, r"jobs must be a whole number in 1\.\.1024, got 0"),
        ({"twins": -1}, InputError, "twins must be a whole number >= 0, got -1"),
        ({"epochs": 0}, InputError, "epochs must be a whole number >= 1, got 0"),
        ({"other_archs": ("uapfast:nothing",)}, ModelError, "got 'uapfast:nothing'"),
        ({"recipe": "none.py:train"}, ModelError, r"recipe must be an existing Python file"),
        ({"arch": "uapfast:mlp-small?size=9"}, ModelError, "of another shape"),
        ({"weights": "none.safetensors"}, ModelError, "an existing file, got none"),
        ({"data": load_data("digits").subset(slice(0, 0))}, DataError, "at least one image, got none"),
        (
            {"data": Dataset(torch.rand(9, 1, 9, 9), torch.arange(9), "d", 9)},
            ModelError,
            r"answers the data's images \[1, 9, 9\]",
        ),
        (
            {"data": Dataset(torch.rand(12, 1, 8, 8), torch.arange(12), "d", 12)},
            ModelError,
            "a model of 12 classes, like the data, got 10",
        ),
    ],
)
def test_bad_input_leaves_no_folder(
    victim: Path, tmp_path: Path, change: dict, error: type[Exception], said: str
) -> None:
    settings = {"arch": ARCH, "weights": victim, "data": data(), **SMALL, **change}
    with pytest.raises(error, match=said):
        build_pool(out=tmp_path / "pool", **settings)
    assert not (tmp_path / "pool").exists()


def test_a_victim_that_was_trained_on_other_inputs_is_noticed(tmp_path: Path) -> None:
    """Trained on dark ink, 255..0: on 0..1 it knows next to nothing."""
    d = data()
    torch.manual_seed(0)
    module = resolve_arch(ARCH)()
    x = 255 - 255 * d.x()
    save_weights(default_recipe(module, x, d.labels, 0, epochs=3), tmp_path / "v.safetensors")
    with pytest.warns(PoolWarning, match=r"Does it take images in 0\.\.1"):
        build_pool(
            ARCH,
            tmp_path / "v.safetensors",
            d,
            tmp_path / "pool",
            init="random",
            twins=0,
            surrogates=0,
            homologous=0,
        )


def test_a_good_victim_gives_no_warning(victim: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PoolWarning)
        warnings.filterwarnings("ignore", "pool should hold", PoolWarning)
        build_pool(ARCH, victim, data(), tmp_path, init="random", twins=0, surrogates=0, homologous=0)


def test_a_victim_of_nan_weights(victim: Path, tmp_path: Path) -> None:
    module = resolve_arch(ARCH)()
    with torch.no_grad():
        module[1].weight[0, 0] = float("nan")
    save_weights(module, tmp_path / "nan.safetensors")
    with pytest.raises(SuspectError, match=r"1\.weight must be finite"):
        build_pool(ARCH, tmp_path / "nan.safetensors", data(), tmp_path / "pool", **SMALL)


def test_folders_that_cannot_be_filled(victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="out must be a writable folder, got .*file"):
        build_pool(ARCH, victim, data(), tmp_path / "file", **SMALL)

    def full(path: os.PathLike[str], data: bytes) -> None:
        raise StorageError("write: x must be writable, got No space left on device")

    monkeypatch.setattr("uapfast.models.checkpoint.write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        build_pool(ARCH, victim, data(), tmp_path / "pool", **SMALL)
    assert not (tmp_path / "pool" / "manifest.csv").exists()


@pytest.mark.skipif(build.fcntl is None, reason="no file locks on this system")
def test_two_runs_do_not_fill_one_folder(victim: Path, tmp_path: Path) -> None:
    with build._folder(tmp_path), pytest.raises(PoolError, match="a folder that no other run is filling"):
        build_pool(ARCH, victim, data(), tmp_path, **SMALL)
