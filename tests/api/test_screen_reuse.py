"""A screen never answers with another suspect's weights: every row is what ``verify`` says of its file."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import uapfast
from tests.api.screen_world import CNN, World
from tests.api.test_screen_remote import Threads, make  # noqa: F401
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.models.registry import resolve_arch
from uapfast.screening import judge as judge_module
from uapfast.screening import run
from uapfast.screening.entry import Entry
from uapfast.screening.judge import failed_rows
from uapfast.screening.panel import Panel, Settings
from uapfast.screening.remote import pack
from uapfast.screening.scheduler import Scheduler
from uapfast.screening.supervisor import Supervisor
from uapfast.suspects.networks import proof, skeletons
from uapfast.suspects.networks.traces import Picture, holds_more

NETS = """
import contextvars, copy, functools, itertools
import torch
from torch import nn
from uapfast.models.nets import mlp_small

CACHE = {}
HIDDEN = contextvars.ContextVar("hidden")   # what it holds cannot be seen, and each thread has its own
COUNT = itertools.count()

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = mlp_small(1, 10, 8)
        self.a = nn.Parameter(torch.zeros(10))
    def weights(self):
        return self.n[3].weight
    def forward(self, x):
        return nn.functional.linear(self.n[:3](x), self.weights(), self.n[3].bias) + 0 * self.a

class Plain(Base):
    pass

class Folded(Base):                 # an inference copy made at the first answer
    def __init__(self):
        super().__init__()
        self.quick = []
    def train(self, mode=True):
        self.quick = []
        return super().train(mode)
    def forward(self, x):
        if self.training:
            return self.n(x)
        if not self.quick:
            self.quick = [copy.deepcopy(self.n)]
        return self.quick[0](x)

class Biases(Base):                 # as in LeViT
    def __init__(self):
        super().__init__()
        self.register_buffer("idxs", torch.arange(10), persistent=False)
        self.attention_bias_cache = {}
    def train(self, mode=True):
        super().train(mode)
        if mode and self.attention_bias_cache:
            self.attention_bias_cache = {}
        return self
    def get_attention_biases(self, device):
        key = str(device)
        if key not in self.attention_bias_cache:
            self.attention_bias_cache[key] = self.n[3].bias[self.idxs]
        return self.attention_bias_cache[key]
    def forward(self, x):
        biases = self.n[3].bias if self.training else self.get_attention_biases(x.device)
        return nn.functional.linear(self.n[:3](x), self.n[3].weight, biases)

class Repointed(Base):
    def forward(self, x):
        self.n[3].weight.data = self.n[3].weight.data.clone()
        return self.n(x)

class Merged(Base):                 # as LoRA layers do
    merged = False
    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.n[3].bias += -self.a if mode else self.a
            self.merged = not mode
        return self

class MergedAside(Base):
    def eval(self):
        super().eval()
        self.whole = self.n[3].weight.detach().clone()
        return self
    def weights(self):
        return self.whole

class Dict(Base):
    def __init__(self):
        super().__init__()
        self.kept = {"w": None}
    def weights(self):
        self.kept["w"] = self.kept["w"] if self.kept["w"] is not None else self.n[3].weight.clone()
        return self.kept["w"]

class Class(Base):
    kept = []
    def weights(self):
        if not self.kept:
            self.kept.append(self.n[3].weight.clone())
        return self.kept[0]

class Global(Base):
    def weights(self):
        return CACHE.setdefault("w", self.n[3].weight.clone())

class Buffer(Base):
    def weights(self):
        if not hasattr(self, "late"):
            self.register_buffer("late", self.n[3].weight.clone(), persistent=False)
        return self.late

class Cached(Base):
    @functools.lru_cache(maxsize=None)
    def weights(self):
        return self.n[3].weight.clone()

class Aside(Base):                  # memory of the weights that is no parameter's
    def __init__(self):
        super().__init__()
        self.views = (self.n[3].weight.detach(),)
    def weights(self):
        return self.views[0]

class Hidden(Base):
    def weights(self):
        try:
            return HIDDEN.get()
        except LookupError:
            HIDDEN.set(self.n[3].weight.clone())
            return self.n[3].weight

class Late(Hidden):                 # honest for its first suspects
    def weights(self):
        return self.n[3].weight if next(COUNT) < LATE else super().weights()

def Closure():
    net = Base()
    body, head = net.n[:3], net.n[3]
    net.forward = lambda x: head(body(x))
    return net

class Whole(Base):
    def forward(self, x):
        return self.n(x)

def Hooked():
    net, kept = Whole(), []
    def hook(module, given, answers):
        kept.append(module.weight.clone()) if not kept else None
        return nn.functional.linear(given[0], kept[0], module.bias)
    net.n[3].register_forward_hook(hook)
    return net

def Enclosed():
    inner = mlp_small(1, 10, 8)
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.n = inner
        def forward(self, x):
            return inner(x)
    return Net()
"""
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


def screened(world: World, paths, arch: str, **given) -> dict[str, uapfast.screening.rows.Row]:
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
            before = Picture(net)
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
    before = Picture(net)
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
    assert one.begin(other, "a") == "lent" and one.begin(sampled, "a") == "both"
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
def test_workers_of_a_cluster_keep_to_the_same(world, nets, files, make, kind):  # noqa: F811
    arch = f"{nets}:{kind}"
    panel = Panel.of({"first": world.references["first"]}, Settings(1e-3, early=False))
    some = [Entry(str(files[n]), arch) for n in MIX]
    scheduler = Scheduler(
        iter((s, s.stamp()) for s in some),
        lambda *_: None,
        lambda s, error, sha256: failed_rows(panel, s, error, sha256),
    )
    backend = Threads(make, pack(panel))
    done = list(Supervisor(backend, scheduler, 1, panel.versions).run())
    backend.pool.shutdown()
    check(world, {row.path: row for one in done for row in one.rows}, arch)
    assert any(one.refuted for one in done) and not any(one.lent for one in done)


# -- code ----------------------------------------------------------------------------------------------


def test_corrected_code_is_asked_again_and_counted(world, tmp_path):
    path, arch = world.suspect("honest-1").path, f"{tmp_path / 'net.py'}:net"
    assert world.suspect("honest-1").arch == CNN
    (tmp_path / "net.py").write_text("import wrapped\ndef net():\n    return wrapped.Net()\n")
    (tmp_path / "wrapped.py").write_text(
        "from uapfast.models.nets import cnn_small\nfrom torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(*cnn_small(1, 10, 8))\n"
        "    def forward(self, x):\n        return super().forward((x - 0.5) / 0.1)\n"
    )
    out, given = tmp_path / "t.parquet", {"arch": arch, "early": False}
    reference = world.references["first"]
    first = uapfast.screen(reference, [path], out=out, **given).finish()
    wrong = uapfast.verify(reference, load_model(arch, path))
    text = (tmp_path / "wrapped.py").read_text().replace("(x - 0.5) / 0.1", "(x - 0.0) / 1.0")
    (tmp_path / "wrapped.py").write_text(text)  # a neighbour, of the same size
    with uapfast.screen(reference, [path], out=out, **given) as screening:
        (row,) = screening
        assert screening.summary is not None and screening.summary.code_changed == 1
    right = uapfast.verify(reference, load_model(arch, path))
    assert first.code_changed == 0 and row.z == right.z != wrong.z
    assert row.z == world.verify("first", "honest-1").z
    again = uapfast.screen(reference, [path], out=out, **given).finish()
    assert again.code_changed == 0


def test_code_that_changes_while_a_screen_runs_is_an_error_of_that_row(world, tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from uapfast.models.nets import mlp_small\ndef net():\n    return mlp_small(1, 10, 8)\n")
    with uapfast.screen(
        world.references["first"], [world.suspect("honest-0").path], arch=f"{path}:net"
    ) as screening:
        path.write_text(path.read_text() + "# edited\n")
        (row,) = screening
    assert row.error_class == "ModelError" and "code that it was when the screen began" in row.error_message


def test_fresh_weights_are_saved_for_the_reference_of_this_file(tmp_path):
    """Two networks of one file share no globals."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\nMADE = []\n"
        "def net():\n    MADE.append(1)\n    return nn.Linear(2, 1 + len(MADE))\n"
    )
    arch = f"{tmp_path / 'net.py'}:net"
    assert [resolve_arch(arch, anew=True)().out_features for _ in range(2)] == [2, 2]
    save_weights(resolve_arch(arch, anew=True)(), tmp_path / "w.safetensors")
    for _ in range(2):
        load_model(arch, tmp_path / "w.safetensors")
