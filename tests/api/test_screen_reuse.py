"""A screen never answers with another suspect's weights: every row is what ``verify`` says of its file."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.keeping_networks import NETS
from tests.api.screen_world import World
from tests.api.thread_backend import Threads
from uapfast.models.checkpoint import load_model
from uapfast.screening import run
from uapfast.screening.asking import judge as judge_module
from uapfast.screening.asking.judge import failed_rows
from uapfast.screening.asking.panel import Panel, Settings
from uapfast.screening.engine.remote import pack_panel
from uapfast.screening.engine.scheduler import Scheduler
from uapfast.screening.engine.supervisor import Supervisor
from uapfast.screening.listing.entry import Entry
from uapfast.suspects.networks import proof, skeletons
from uapfast.suspects.networks.traces import NetworkSnapshot, holds_more

SEEN = (
    "Folded Biases Repointed Merged MergedAside Dict Class Global Buffer Cached Aside Closure Hooked"
).split()
MIX = ("pruned-1", "honest-0", "honest-3")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    (folder / "nets.py").write_text(NETS.replace("LATE", "10**9"))
    return folder / "nets.py"


@pytest.fixture(scope="module")
def files(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A copy and honest models, as the networks of ``NETS`` take them."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for number, name in enumerate(("victim-1", *MIX)):
        state = load_file(world.suspect(name).path)
        found[name] = folder / f"{name}.safetensors"
        save_file(
            {f"n.{k}": v for k, v in state.items()} | {"a": torch.full((10,), 0.1 * number)}, found[name]
        )
    return found


@pytest.fixture(scope="module")
def several(files, tmp_path_factory) -> list[Path]:
    """Fine variants of an honest model."""
    folder, state = tmp_path_factory.mktemp("several"), load_file(files["honest-0"])
    for i in range(8):
        save_file(
            state | {"n.3.weight": state["n.3.weight"] + 0.01 * i * state["n.3.weight"].flip(0)},
            folder / f"{i}.safetensors",
        )
    return [folder / f"{i}.safetensors" for i in range(8)]


def screened(world: World, paths, arch: str, **given) -> dict[str, uapfast.screening.table.rows.Row]:
    reference = world.references["first"]
    with uapfast.screen(reference, paths, arch=arch, early=False, fdr=1.0, **given) as screening:
        for _ in screening:
            pass
        return {row.path: row for row in screening.rows()}


def check(world: World, rows, arch: str) -> None:
    for path, row in rows.items():
        verdict = uapfast.verify(world.references["first"], load_model(arch, path))
        assert (row.decision, row.p_value, row.z) == (verdict.decision, verdict.p_value, verdict.z), path


@pytest.fixture
def builds(monkeypatch) -> list[str]:
    """One entry for every network that is built."""
    built: list[str] = []
    real = skeletons.Skeleton._build

    def counted(self):
        built.append(self._suspect.arch)
        return real(self)

    monkeypatch.setattr(skeletons.Skeleton, "_build", counted)
    return built


@pytest.mark.parametrize("kind", [*SEEN, "Hidden"])
def test_every_row_is_that_of_verify(world, nets, files, builds, kind):
    """The hidden one is found out by its second suspect alone, the others by what can be seen of them."""
    arch = f"{nets}:{kind}"
    rows = screened(world, [files[n] for n in MIX], arch, workers=1)
    check(world, rows, arch)
    assert len({row.z for row in rows.values()}) == 3 and len(builds) == 3


def test_a_forward_that_knows_a_registered_part_by_closure_is_no_obstacle(world, nets, files, builds):
    arch = f"{nets}:Enclosed"
    rows = screened(world, [files[n] for n in MIX], arch, workers=1)
    check(world, rows, arch)
    assert len({row.z for row in rows.values()}) == 3 and len(builds) == 2


def test_a_copy_among_honest_ones_is_found_whoever_comes_first(world, nets, files):
    arch, given = f"{nets}:Folded", {"alpha": 0.02}
    for order in (("pruned-1", "honest-0", "honest-3"), ("honest-0", "pruned-1", "honest-3")):
        rows = screened(world, [files[n] for n in order], arch, **given)
        convicted = {Path(p).stem for p, row in rows.items() if row.decision == "piracy"}
        assert convicted == {"pruned-1"}


def test_a_plain_network_is_built_twice_and_used_by_all(world, nets, files, several, builds, monkeypatch):
    monkeypatch.setattr(proof, "is_sampled", lambda sha: False)
    arch = f"{nets}:Plain"
    rows = screened(world, [*files.values(), *several], arch, workers=1)
    check(world, dict(itertools.islice(rows.items(), 4)), arch)
    assert len(builds) == 2


@pytest.mark.parametrize("where", ["skeleton", "seen", "torch", "timm"])
def test_what_is_seen(nets, files, where):
    def frozen(kind: str):
        model = load_model(f"{nets}:{kind}", files["honest-0"])
        assert model.module is not None
        return model.module

    x = torch.rand(3, 1, 8, 8)
    if where == "seen":
        for kind in ("MergedAside", "Aside", "Closure", "Hooked"):
            assert holds_more(frozen(kind)), kind
        return
    if where == "skeleton":
        for kind in ("Folded", "Biases", "Repointed", "Dict", "Class", "Global", "Buffer", "Cached"):
            net = frozen(kind)
            before = NetworkSnapshot(net)
            assert before.is_still(net) and holds_more(net) is None, kind
            net(x)
            assert not before.is_still(net), kind
        return
    if where == "timm":
        timm = pytest.importorskip("timm")
        net = timm.create_model("resnet18", in_chans=1, num_classes=10)
    else:
        net = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
        x = x[:, 0]
    net.eval().requires_grad_(False)
    before = NetworkSnapshot(net)
    net(x)
    assert holds_more(net) is None and before.is_still(net)  # nothing against usual networks


def test_one_of_fifty_is_asked_on_a_new_network_and_rows_given_are_asked_again(
    world, several, tmp_path, monkeypatch
):
    """The network begins to err at its fifth suspect; the seventh is the first of the 2 %."""
    reference, out, arch = world.references["first"], tmp_path / "t.parquet", f"{tmp_path / 'nets.py'}:Late"
    batches = -(-reference.plan.queries // 256)
    (tmp_path / "nets.py").write_text(NETS.replace("LATE", str(4 * batches)))
    seen: list[str] = []
    monkeypatch.setattr(proof, "is_sampled", lambda sha: seen.append(sha) or len(seen) == 5)
    monkeypatch.setattr(run, "COMMIT_ROWS", 2)
    given = {"arch": arch, "early": False, "workers": 1, "out": out, "fdr": 1.0}
    with uapfast.screen(reference, several, **given) as screening:
        names = [row.name for row in screening]
        rows = {row.path: row for row in screening.rows()}
    # the third to the sixth rested on reuse; all of them had been given
    assert {n for n in names if names.count(n) == 2} == {f"{i}.safetensors" for i in range(2, 6)}
    assert len(names) == 8 + 4 and len(rows) == 8
    check(world, rows, arch)
    with uapfast.screen(reference, several, **given) as screening:
        assert not list(screening) and screening._refuted  # what is left holds, and it is known why


def test_rows_of_earlier_runs_go_with_the_network_that_gave_them(world, nets, several, tmp_path, monkeypatch):
    arch, out = f"{nets}:Plain", tmp_path / "t.parquet"
    given = {"arch": arch, "early": False, "out": out, "workers": 1, "fdr": 1.0}
    uapfast.screen(world.references["first"], several[:5], **given).finish()
    monkeypatch.setattr(judge_module, "agree", lambda *_: False)
    screening = uapfast.screen(world.references["first"], several, **given)
    with screening:
        names = sorted(row.name for row in screening)
    # two of the first run had a network to themselves, or one made for comparison
    assert [n for n in names if names.count(n) == 1] == names and len(names) == 3 + 3


def test_the_second_with_the_same_tensors_proves_nothing():
    one = proof.Proof()
    assert one.begin("a", "a") == "own" and one.begin("b", "a") == "both"
    one.end(None)
    assert one.begin("b", "a") == "both"
    one.end(True)
    sampled = next(str(i) for i in itertools.count() if proof.is_sampled(str(i)))
    other = next(str(i) for i in itertools.count() if not proof.is_sampled(str(i)))
    assert one.begin(other, "a") == "reused" and one.begin(sampled, "a") == "both"
    one.end(False)
    assert one.begin(other, "a") == "own" and one.refuted
    share = sum(proof.is_sampled(str(i)) for i in range(5000)) / 5000
    assert 0.012 < share < 0.03


def test_answers_agree_bit_for_bit_on_a_cpu_and_up_to_rounding_elsewhere():
    a = [torch.tensor([[1.0, float("nan")], [2.0, 3.0]])]
    near, far = [a[0] * (1 + 1e-6)], [a[0] + 0.5]
    assert proof.agree(a, [a[0].clone()]) and not proof.agree(a, near) and not proof.agree(a, [])
    assert proof.agree(a, near, "cuda") and not proof.agree(a, far, "cuda")
    assert proof.agree(a, near, "cpu", "bf16") and not proof.agree([*a, *a], a)


@pytest.mark.parametrize("kind", ["Folded", "Hidden"])
def test_workers_of_a_cluster_keep_to_the_same(world, nets, files, make, kind):
    arch = f"{nets}:{kind}"
    panel = Panel.of({"first": world.references["first"]}, Settings(1e-3, early=False))
    some = [Entry(str(files[n]), arch) for n in MIX]
    scheduler = Scheduler(
        iter((s, s.stamp()) for s in some),
        lambda *_: None,
        lambda s, error, sha256: failed_rows(panel, s, error, sha256),
    )
    backend = Threads(make, pack_panel(panel))
    done = list(Supervisor(backend, scheduler, 1, panel.versions).run())
    backend.pool.shutdown()
    check(world, {row.path: row for one in done for row in one.rows}, arch)
    assert any(one.refuted for one in done) and not any(one.reused for one in done)
