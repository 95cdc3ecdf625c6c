"""What a pool is made of: names, kinds, seeds, and that no innocent is a twin in disguise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uapfast.data import Dataset
from uapfast.errors import InputError
from uapfast.models.registry import resolve_arch
from uapfast.pool.plan import PoolConfig, TrainingJob, default_archs, job_seed, make_plan, relative_arch

ARCH = "uapfast:resnet-small?size=8"
OTHERS = ("uapfast:cnn-small?size=8", "uapfast:vgg-small?size=8", "nets/file.py:make")


@given(st.integers(0, 12), st.integers(0, 11), st.integers(0, 40), st.integers(1, 9), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_plan(twins: int, surrogates: int, homologous: int, epochs: int, own: bool) -> None:
    plan = make_plan(ARCH, PoolConfig(twins, surrogates, homologous, epochs), OTHERS, own)
    assert Counter(j.relation for j in plan) == +Counter(
        twin=twins, homologous=homologous, piracy=(twins + 1) * surrogates
    )
    assert len({j.name for j in plan}) == len({j.seed for j in plan}) == len(plan)
    place = {j.name: i for i, j in enumerate(plan)}
    kinds: dict[str, list[str]] = {}
    for job in plan:
        assert 0 < job.share <= 1 and job.epochs >= 1
        if job.relation == "piracy":
            assert job.candidate == "victim" or place[job.candidate or ""] < place[job.name]
            kinds.setdefault(job.candidate or "", []).append(job.kind)
            assert not job.owners_recipe
    assert len({tuple(k) for k in kinds.values()}) <= 1, "every candidate is treated alike"
    recipe = {(j.arch, j.share, j.epochs, j.rate, j.owners_recipe) for j in plan if j.relation == "twin"}
    for job in plan:
        if job.relation == "homologous":
            assert (job.arch, job.share, job.epochs, job.rate, job.owners_recipe) not in recipe
            twin_like = job.arch == ARCH and job.share == 1.0
            assert not (twin_like and job.owners_recipe), "the owner's recipe on all data makes a twin"


def test_a_larger_plan_holds_the_smaller_one() -> None:
    """A pool can be extended: names, seeds and settings do not depend on the numbers."""
    small = make_plan(ARCH, PoolConfig(2, 2, 5), OTHERS, False)
    large = make_plan(ARCH, PoolConfig(4, 6, 9), OTHERS, False)
    assert set(small) <= set(large)


def test_five_kinds_then_others() -> None:
    plan = make_plan(ARCH, PoolConfig(0, 7, 0), OTHERS, False)
    assert [j.kind for j in plan] == [
        "00-soft-cnn-small-1",
        "01-soft-resnet-small-1",
        "02-hard-vgg-small-1",
        "03-soft-resnet-small-0.5",
        "04-finetune-resnet-small-0.5",
        "05-soft-vgg-small-1",
        "06-soft-resnet-small-1",
    ]


def test_innocents_vary() -> None:
    plan = [j for j in make_plan(ARCH, PoolConfig(0, 0, 16), OTHERS, False)]
    assert {j.arch for j in plan} == {ARCH, *OTHERS} and {j.share for j in plan} == {1.0, 0.5}
    assert len({j.epochs for j in plan}) == 3 and len({j.rate for j in plan}) == 2
    assert len({(j.arch, j.share, j.epochs, j.rate) for j in plan}) >= 12


def test_the_default_pool_knows_models_that_know_little() -> None:
    shares = Counter(
        j.share for j in make_plan(ARCH, PoolConfig(), OTHERS, False) if j.relation == "homologous"
    )
    assert set(shares) == {1.0, 0.5, 0.25, 0.1}
    assert shares[0.25] + shares[0.1] >= 12
    kinds = {j.arch for j in make_plan(ARCH, PoolConfig(), OTHERS, False) if j.share <= 0.25}
    assert kinds == {ARCH, *OTHERS}


def test_seeds_of_neighbouring_pools_do_not_meet() -> None:
    names = [f"twin-{i:02d}" for i in range(50)]
    seeds = [job_seed(base, name) for base in range(50) for name in names]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**31 for s in seeds)


def test_default_architectures_fit_the_images_and_the_victims_classes() -> None:
    data = Dataset(torch.zeros(4, 3, 12, 12), torch.tensor([0, 1, 2, 1]), "d", 3)
    archs = default_archs("uapfast:cnn-small?channels=3", data, 5)
    assert len(archs) == 3 and not [a for a in archs if "cnn-small" in a]
    for arch in archs:
        assert resolve_arch(arch)().eval()(data.x()).shape == (4, 5)
    wide = Dataset(torch.zeros(4, 1, 12, 20), torch.tensor([0, 1, 2, 1]), "d", 3)
    for arch in default_archs("net.py:make", wide, 3):
        assert resolve_arch(arch)().eval()(wide.x()).shape == (4, 3)


@pytest.mark.parametrize("name", ["twins", "surrogates", "homologous", "epochs", "seed"])
@pytest.mark.parametrize("value", [-1, 1.5, "8", True, None, 10**9])
def test_numbers_out_of_range(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"pool: {name} must be a whole number") as caught:
        PoolConfig(**{name: value})
    assert repr(value) in str(caught.value)


def test_files_in_specs_become_relative_to_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert relative_arch("nets/a.py:make", tmp_path / "out") == "../nets/a.py:make"
    assert relative_arch(f"{tmp_path}/out/a.py:make", Path("out")) == "a.py:make"
    assert relative_arch("uapfast:cnn-small", tmp_path) == "uapfast:cnn-small"


@pytest.mark.parametrize(("size", "classes"), [(224, 1000), (96, 100), (28, 10)])
def test_default_networks_stay_small_whatever_the_images_and_classes(size: int, classes: int) -> None:
    data = Dataset(torch.zeros(2, 3, size, size, dtype=torch.uint8), torch.tensor([0, 1]), "x", 2)
    for spec in default_archs("timm:resnet50", data, classes):
        net = resolve_arch(spec)()
        assert sum(p.numel() for p in net.parameters()) < 3e6, spec
        assert net.eval()(torch.zeros(1, 3, size, size)).shape == (1, classes)


@pytest.mark.parametrize("others", [1, 2, 3, 4])
@pytest.mark.parametrize("owners_recipe", [True, False])
@pytest.mark.parametrize("start", ["random", "weights"])
def test_some_homologous_models_are_made_as_the_twins_are_of_other_images(
    others: int, owners_recipe: bool, start: str
) -> None:
    """Whatever the number of architectures; and none is a twin."""
    config = PoolConfig(twins=1, surrogates=0, homologous=40, epochs=6)
    jobs = make_plan("a.py:own", config, [f"a.py:other{k}" for k in range(others)], owners_recipe, start)  # type: ignore[arg-type]
    twin, *rest = jobs

    def how(job: TrainingJob) -> tuple[object, ...]:
        return job.arch, job.how, job.epochs, job.rate, job.owners_recipe, job.start

    alike = [job for job in rest if how(job) == how(twin)]
    assert len(alike) >= 4 and all(job.share < 1.0 for job in alike)
