"""Where the victim began: what has to be said, what is taken from a file, and who begins there."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from uapfast.data import Dataset, load_data
from uapfast.errors import InputError, ModelError, PoolError, PoolWarning
from uapfast.models.checkpoint import read_weights, save_weights
from uapfast.models.model import Model
from uapfast.pool.build import build_pool
from uapfast.pool.manifest import load_pool
from uapfast.pool.origin import Origin, find_origin, fresh_model
from uapfast.pool.pool import Pool, PoolModel, check_victim
from uapfast.pool.recipe import default_recipe

ARCH = "uapfast:mlp-small?size=8"
OTHERS = ("uapfast:cnn-small?size=8",)
SMALL: dict[str, Any] = {"twins": 2, "surrogates": 1, "homologous": 6, "epochs": 2, "other_archs": OTHERS}
NET = """
import torch
from torch import nn


def make():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    {more}
    return net
"""
LOADED = "net[1].weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(5))"


def data() -> Dataset:
    return load_data("digits:train").subset(slice(0, 200))


def trained(module: nn.Module, seed: int = 0, **settings: Any) -> nn.Module:
    return default_recipe(module, data().x(), data().labels, seed, **{"epochs": 4, **settings})


def apart(a: Path, b: Path) -> float:
    """Mean square difference of the weight matrices of two files, over that of the second alone."""
    one, two = read_weights(a), read_weights(b)
    names = [n for n, t in one.items() if t.ndim > 1 and two[n].shape == t.shape]
    return sum(float((one[n] - two[n]).square().sum()) for n in names) / sum(
        float(two[n].square().sum()) for n in names
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A public network, one of it with another head, and a victim that was fine-tuned from the first."""
    folder = tmp_path_factory.mktemp("origin")
    public = trained(fresh_model(ARCH, 0), epochs=8)
    save_weights(public, folder / "public.safetensors")
    save_weights(trained(public, 1, learning_rate=2e-3), folder / "victim.safetensors")
    state = read_weights(folder / "public.safetensors")
    head = [n for n in state if state[n].shape[:1] == (10,)]
    other = fresh_model(ARCH.replace("?", "?classes=7&"), 0)
    other.load_state_dict({n: t for n, t in state.items() if n not in head}, strict=False)
    save_weights(other, folder / "other-head.safetensors")
    return folder


def build(place: Path, out: Path, **settings: Any) -> Path:
    return build_pool(ARCH, place / "victim.safetensors", data(), out, **{**SMALL, **settings})


def rows(manifest: Path) -> dict[str, dict[str, str]]:
    with open(manifest, newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(place, tmp_path_factory.mktemp("pool"), init=place / "public.safetensors")


def test_there_is_no_silent_default(place: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="init"):
        build_pool(ARCH, place / "victim.safetensors", data(), tmp_path / "pool")  # type: ignore[call-arg]
    for nothing in ("", " ", None, 3):
        with pytest.raises(
            InputError, match=r"init must be random \(.*public weights.*factory.*convicted, got"
        ):
            build(place, tmp_path / "pool", init=nothing)
    assert not (tmp_path / "pool").exists()


def test_models_of_the_victims_architecture_begin_at_the_file(whole: Path, place: Path) -> None:
    record = json.loads((whole.parent / "pool.json").read_text())
    origin = Origin(**record["base"]["init"])
    assert origin.start == "weights" and origin.taken == origin.total and not origin.fresh
    public, models = place / "public.safetensors", whole.parent / "models"
    jobs = {m["name"]: m for m in record["models"]}
    own = [n for n, m in jobs.items() if m["relation"] == "homologous" and m["arch"] == ARCH]
    assert 3 * len(own) >= SMALL["homologous"] and len(own) < SMALL["homologous"]
    for name in ("twin-00", "twin-01", *own):
        assert apart(models / f"{name}.safetensors", public) < 0.2, name
        assert jobs[name]["start"] == "weights" and jobs[name]["rate"] <= 0.2
    assert apart(models / "twin-00.safetensors", models / "twin-01.safetensors") > 0, "another seed"
    pool = load_pool(whole)
    assert pool.init == record["base"]["init"]
    assert pool.ancestor is not None and pool.ancestor.model.sha256 == record["ancestor"]["sha256"]
    lines = rows(whole)
    assert {lines[n]["parent"] for n in ("victim", "twin-00", *own)} == {"ancestor"}
    others = [n for n, m in jobs.items() if m["arch"] != ARCH]
    assert others and {lines[n]["parent"] for n in others} == {""}


def test_from_scratch_models_share_nothing(place: Path, tmp_path: Path) -> None:
    manifest = build(place, tmp_path, init="random", homologous=0, surrogates=0)
    assert apart(manifest.parent / "models" / "twin-00.safetensors", place / "public.safetensors") > 0.5
    assert load_pool(manifest).ancestor is None and rows(manifest)["twin-00"]["parent"] == ""


def test_another_beginning_does_not_mix(whole: Path, place: Path) -> None:
    for init in ("random", place / "other-head.safetensors"):
        with pytest.raises(PoolError, match="of the same victim, data, init, .*made with other init"):
            build(place, whole.parent, init=init)


def test_a_head_of_another_size_stays_fresh(place: Path, tmp_path: Path) -> None:
    file = place / "other-head.safetensors"
    manifest = build(place, tmp_path, init=file, homologous=0, surrogates=0)
    origin = Origin(**json.loads((tmp_path / "pool.json").read_text())["base"]["init"])
    assert len(origin.fresh) == 2 and origin.taken == origin.total - 2 and not origin.whole
    assert f"drawn anew for every model: {origin.fresh[0]}" in origin.sentence()
    pool = load_pool(manifest)
    assert pool.ancestor is None, "what has no head of ours answers nothing"
    heads = [read_weights(tmp_path / "models" / f"twin-0{i}.safetensors")[origin.fresh[1]] for i in (0, 1)]
    assert float((heads[0] - heads[1]).square().mean()) > 1e-3
    again = build(
        place, tmp_path, init=file, homologous=0, surrogates=0, ancestor=place / "public.safetensors"
    )
    assert load_pool(again).ancestor is not None, "named afterwards, nothing is trained anew"


def test_files_and_words_that_do_not_fit(place: Path, tmp_path: Path) -> None:
    save_weights(nn.Linear(3, 2), tmp_path / "linear.safetensors")
    with pytest.raises(
        PoolError, match=r"init must be a file most of whose tensors fit .* got 0 of \d+ that do"
    ):
        build(place, tmp_path / "pool", init=tmp_path / "linear.safetensors")
    with pytest.raises(InputError, match="random .* or factory .* got 'none.safetensors', no file"):
        build(place, tmp_path / "pool", init="none.safetensors")
    bad = fresh_model(ARCH, 0)
    with torch.no_grad():
        next(iter(bad.parameters()))[0, 0] = torch.nan
    save_weights(bad, tmp_path / "nan.safetensors")
    with pytest.raises(ModelError, match="init must be of finite weights"):
        build(place, tmp_path / "pool", init=tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match="ancestor must be left out with init=random"):
        build(place, tmp_path / "pool", init="random", ancestor=place / "public.safetensors")
    with pytest.raises(PoolError, match="ancestor must be another model than the victim"):
        build(
            place, tmp_path / "pool", init=place / "public.safetensors", ancestor=place / "victim.safetensors"
        )
    assert not (tmp_path / "pool").exists()


def test_a_file_that_the_victim_did_not_begin_at_is_told_before_the_training(
    place: Path, tmp_path: Path
) -> None:
    save_weights(trained(fresh_model(ARCH, 8), 8), tmp_path / "stranger.safetensors")
    settings: dict[str, Any] = {"twins": 0, "surrogates": 0, "homologous": 0}
    with pytest.warns(
        PoolWarning, match=r"init should be what the victim began at; .* cosine of -?0\.0\d with"
    ):
        build(place, tmp_path / "pool", init=tmp_path / "stranger.safetensors", **settings)
    assert "cosine" in json.loads((tmp_path / "pool" / "pool.json").read_text())["warnings"][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", PoolWarning)
        warnings.filterwarnings("ignore", "pool should hold", PoolWarning)
        build(place, tmp_path / "right", init=place / "public.safetensors", **settings)


def test_a_factory_is_what_was_said_of_it(tmp_path: Path) -> None:
    (tmp_path / "loaded.py").write_text(NET.format(more=LOADED))
    (tmp_path / "random.py").write_text(NET.format(more=""))
    loaded, random = (f"{tmp_path}/{n}.py:make" for n in ("loaded", "random"))
    assert find_origin("factory", loaded)[0].start == "factory"
    assert find_origin("random", random)[0].start == "random"
    with pytest.raises(PoolError, match=r"arch must be one that loads its weights for init=factory.*100%"):
        find_origin("factory", random)
    more = nn.Sequential(*fresh_model(random, 0).children(), nn.Linear(10, 10))
    save_weights(more, tmp_path / "more.safetensors")
    origin = find_origin(tmp_path / "more.safetensors", random)[0]
    assert origin.unused == ("4.bias", "4.weight") and not origin.whole
    assert "4 of 4 tensors of the file; without a place in the architecture: 4.bias" in origin.sentence()
    with pytest.raises(
        PoolError, match="init must be factory for an architecture whose factory gives mostly"
    ):
        find_origin("random", loaded)


def test_a_factory_that_loads_makes_twins_and_the_recipe_sees_its_architecture_alone(tmp_path: Path) -> None:
    """A recipe that knows the victim's layers, as one that loads weights does, meets no other network."""
    (tmp_path / "net.py").write_text(NET.format(more=LOADED))
    (tmp_path / "train.py").write_text(
        "import torch\n\n\ndef train(model, images, labels, seed):\n"
        "    assert model[1].weight.shape == (24, 64)\n"
        "    torch.manual_seed(seed)\n    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)\n"
        "    for _ in range(20):\n        loss = torch.nn.functional.cross_entropy(model(images), labels)\n"
        "        optimizer.zero_grad()\n        loss.backward()\n        optimizer.step()\n    return model\n"
    )
    arch, recipe = f"{tmp_path}/net.py:make", f"{tmp_path}/train.py:train"
    save_weights(trained(fresh_model(arch, 3)), tmp_path / "v.safetensors")
    settings: dict[str, Any] = {**SMALL, "surrogates": 0, "recipe": recipe}
    manifest = build_pool(
        arch, tmp_path / "v.safetensors", data(), tmp_path / "pool", init="factory", **settings
    )
    record = json.loads((manifest.parent / "pool.json").read_text())
    by_owner = {m["name"]: m["arch"] for m in record["models"] if m["owners_recipe"]}
    assert {"twin-00", "twin-01", "homologous-02"} <= by_owner.keys() and set(by_owner.values()) == {arch}
    start = fresh_model(arch, 0)[1].weight.detach()  # type: ignore[index]
    twin = read_weights(manifest.parent / "models" / "twin-00.safetensors")["1.weight"]
    assert float((twin - start).square().sum() / start.square().sum()) < 0.5
    with pytest.raises(
        PoolError, match=r"possible for uapfast:cnn.*a recipe that loads weights wants another"
    ):
        (tmp_path / "net.py").write_text(NET.format(more=""))
        build_pool(arch, tmp_path / "v.safetensors", data(), tmp_path / "other", init="random", **settings)


@pytest.mark.parametrize("start", ["factory", "weights"])
def test_a_recipe_that_starts_from_scratch_all_the_same_is_told(tmp_path: Path, start: str) -> None:
    """Twins that show nothing of the public weights are named; every verdict repeats it."""
    (tmp_path / "net.py").write_text(NET.format(more=LOADED))
    (tmp_path / "train.py").write_text(
        "import torch\n\n\ndef train(model, images, labels, seed):\n    torch.manual_seed(seed)\n"
        "    for layer in (model[1], model[3]):\n        layer.reset_parameters()\n    return model\n"
    )
    arch, init = f"{tmp_path}/net.py:make", "factory"
    if start == "weights":
        init = str(tmp_path / "public.safetensors")
        save_weights(fresh_model(arch, 0), init)
    save_weights(trained(fresh_model(arch, 3), epochs=1), tmp_path / "v.safetensors")
    settings = {**SMALL, "homologous": 0, "surrogates": 0, "recipe": f"{tmp_path}/train.py:train"}
    with pytest.warns(
        PoolWarning, match=r"show nothing of it: twin-00 -?0\.\d\d, twin-01 .*start from scratch"
    ):
        build_pool(arch, tmp_path / "v.safetensors", data(), tmp_path / "pool", init=init, **settings)
    assert any("from scratch" in text for text in load_pool(tmp_path / "pool" / "manifest.csv").warnings)


MEAN, STD = (0.3,), (0.25,)


def test_preprocessing_travels_with_the_pool(tmp_path: Path) -> None:
    """The victim takes (x - mean) / std; twins and whatever is of its architecture do, too."""
    inner = fresh_model(ARCH, 0)
    wrapped = nn.Sequential(inner)
    handle = inner.register_forward_pre_hook(lambda m, a: ((a[0] - MEAN[0]) / STD[0],))
    trained(wrapped, epochs=8)
    handle.remove()
    save_weights(inner, tmp_path / "v.safetensors")
    more: dict[str, Any] = {"mean": MEAN, "std": STD, "init": "random", "homologous": 4, "epochs": 8}
    manifest = build_pool(ARCH, tmp_path / "v.safetensors", data(), tmp_path / "pool", **{**SMALL, **more})
    pool, lines = load_pool(manifest), rows(manifest)
    record = json.loads((tmp_path / "pool" / "pool.json").read_text())
    for m in pool.models:
        own = m.model.arch == ARCH
        assert (lines[m.name]["mean"], lines[m.name]["std"]) == (("0.3", "0.25") if own else ("", "")), m.name
        assert (m.model.preprocessing is not None) == own
    for row in record["models"]:
        model = next(m.model for m in pool.models if m.name == row["name"])
        right = float((model.answers(data().x()).labels() == data().labels).double().mean())
        assert row["owner_accuracy"] == pytest.approx(right, abs=1e-4), "measured as it is asked"
        assert right > 0.7 or row["relation"] != "twin"
    victim = pool.victim
    assert victim is not None
    check_victim(pool, Model(inner, mean=MEAN, std=STD))
    with pytest.raises(
        PoolError, match=r"mean and std of the victim must be .*mean 0.3 and std 0.25.*got none"
    ):
        check_victim(pool, Model(inner))
    with pytest.raises(PoolError, match="init, mean and std"):
        build_pool(
            ARCH, tmp_path / "v.safetensors", data(), tmp_path / "pool", **{**SMALL, **more, "mean": (0.31,)}
        )


@pytest.mark.parametrize("copied", ["model", "copy.deepcopy(model)", "type(model)(*model)"])
def test_a_recipe_gets_the_network_itself_with_its_preprocessing_in_front(
    tmp_path: Path, copied: str
) -> None:
    (tmp_path / "net.py").write_text(NET.format(more=""))
    (tmp_path / "train.py").write_text(
        "import copy\n\n\ndef train(model, images, labels, seed):\n    seen = []\n"
        f"    other = {copied}\n    other[0].register_forward_hook(lambda m, a, out: seen.append(out))\n"
        "    other(images)\n    other[0]._forward_hooks.clear()\n"
        "    assert abs(float(seen[0].mean() - (images.mean() - 0.3) / 0.25)) < 1e-4\n    return other\n"
    )
    arch = f"{tmp_path}/net.py:make"
    save_weights(fresh_model(arch, 3), tmp_path / "v.safetensors")
    settings: dict[str, Any] = {**SMALL, "twins": 1, "homologous": 0, "surrogates": 0, "init": "random"}
    settings |= {"mean": MEAN, "std": STD, "recipe": f"{tmp_path}/train.py:train"}
    with pytest.warns(PoolWarning, match="the victim is right for"):
        if copied.startswith("type"):
            with pytest.raises(PoolError, match="training of twin-00 must be possible, got AssertionError"):
                build_pool(arch, tmp_path / "v.safetensors", data(), tmp_path / "pool", **settings)
        else:
            made = build_pool(arch, tmp_path / "v.safetensors", data(), tmp_path / "pool", **settings)
            assert load_pool(made).twins[0].model.preprocessing is not None


def test_twins_far_below_the_victim_are_named(place: Path, tmp_path: Path) -> None:
    with pytest.warns(
        PoolWarning, match=r"right for \d+% of the owner's images, got twin-00 \d+%, twin-01 \d+%"
    ):
        build(place, tmp_path, init="random", epochs=1, homologous=0, surrogates=0)
    assert len(json.loads((tmp_path / "pool.json").read_text())["warnings"]) == 1


def test_a_file_that_was_replaced_is_told(whole: Path, place: Path) -> None:
    file = whole.parent / "models" / "twin-01.safetensors"
    before = file.read_bytes()
    try:
        save_weights(fresh_model(ARCH, 9), file)
        with pytest.raises(
            PoolError, match=r"weights of twin-01 must be those that pool.json records, SHA-256"
        ):
            load_pool(whole)
    finally:
        file.write_bytes(before)
    victim = place / "victim.safetensors"
    before = victim.read_bytes()
    try:
        save_weights(fresh_model(ARCH, 9), victim)
        with pytest.raises(PoolError, match="weights of victim must be those"):
            load_pool(whole)
    finally:
        victim.write_bytes(before)


def test_another_victim_than_the_pools_is_named_by_both_hashes(whole: Path) -> None:
    pool, other = load_pool(whole), Model(fresh_model(ARCH, 9))
    assert pool.victim is not None
    with pytest.raises(PoolError) as caught:
        check_victim(pool, other)
    assert str(other.sha256) in str(caught.value) and str(pool.victim.model.sha256) in str(caught.value)
    check_victim(pool, pool.victim.model)
    check_victim(Pool(tuple(m for m in pool.models if m.relation != "victim")), other)


def test_parents_and_ancestors_of_pools_in_memory() -> None:
    model = Model(fresh_model(ARCH, 0))

    def row(name: str, relation: str, parent: str | None) -> PoolModel:
        return PoolModel(name, relation, "victim" if relation == "piracy" else None, "k", model, parent)

    Pool((row("t", "twin", "checkpoint"), row("a", "ancestor", None), row("h", "homologous", "a")))
    Pool((row("t", "twin", "ancestor"), row("h", "homologous", "ancestor"), row("p", "piracy", "t")))
    made = Pool.from_models(twins=[fresh_model(ARCH, 1)], ancestor=fresh_model(ARCH, 0))
    assert made.ancestor is not None and made.ancestor.model.sha256 == model.sha256
    for models, said in (
        (
            [row("a", "ancestor", None), row("b", "ancestor", None)],
            "ancestor must be at most one model, got a, b",
        ),
        ([row("t", "twin", "nobody")], "parent of t must be the name of another model .* got 'nobody'"),
        ([row("t", "twin", "t")], "free of cycles, got t <- t"),
        ([row("s", "twin", "t"), row("t", "twin", "s")], "free of cycles"),
        ([row("h", "homologous", "victim")], "made without the victim for a homologous model .* h <- victim"),
        ([row("h", "homologous", "p"), row("p", "piracy", "victim")], "got h <- p <- victim"),
        ([row("t", "twin", "victim")], "parent of t must be None, ancestor or checkpoint .* got t <- victim"),
        ([row("t", "twin", "s"), row("s", "twin", None)], "parent of t must be None, .* got t <- s"),
        (
            [row("t", "twin", "checkpoint"), row("s", "twin", None)],
            "twins must be of one kind, .* two references.*, got t from a checkpoint, and s",
        ),
    ):
        with pytest.raises(PoolError, match=said):
            Pool(tuple(models))
