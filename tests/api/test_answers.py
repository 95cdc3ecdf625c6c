"""What a suspect answers with, and who fails, from end to end, in ``verify`` and ``screen``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import uapfast
from tests.api.screen_world import MLP, World
from uapfast.errors import InputError, SuspectError
from uapfast.models.checkpoint import load_model, save_weights
from uapfast.screening.listing.entry import Entry


def network(world: World, name: str) -> nn.Module:
    s = world.suspect(name)
    module = load_model(s.arch, s.path).module
    assert module is not None
    return module


def top(p: Tensor, count: int) -> Tensor:
    best = p.topk(count)
    return torch.zeros_like(p).scatter(1, best.indices, best.values)


def silenced(p: Tensor) -> Tensor:
    p[::25] = 0
    return p


FORMS = {
    "percent": (lambda z: z.softmax(1) * 100, "probabilities", "percentages"),
    "one digit": (lambda z: z.softmax(1).round(decimals=1), "probabilities", "of 1 digit"),
    "top-3": (lambda z: top(z.softmax(1), 3), "probabilities", "at most 3 classes"),
    "unanswered": (lambda z: silenced(z.softmax(1)), "probabilities", "rows are zero"),
    "one-hot": (lambda z: (top(z, 1) != 0).float(), "labels", "one-hot rows"),
    "top-1": (lambda z: top(z.softmax(1), 1), "labels", "top-1 scores"),
    "top-1 percent": (lambda z: top(z.softmax(1), 1) * 100, "labels", "top-1 scores"),
    "object": (lambda z: {"logits": z}, "logits", None),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_never_acquitted_by_the_form_of_its_answers_and_no_innocent_convicted(
    world: World, form: str
) -> None:
    show, kind, _ = FORMS[form]
    for name in ("victim-1", "honest-0", "honest-1", "honest-2", "honest-3"):
        net = network(world, name)
        plain = uapfast.verify(
            world.references["first"], net, output="labels" if kind == "labels" else "auto"
        )
        found = uapfast.verify(world.references["first"], lambda x, net=net: show(net(x)))
        assert found.output == kind
        if kind == "labels" or form in ("percent", "object"):  # nothing is lost, or as much as by labels
            assert found.z == pytest.approx(plain.z, abs=1e-3) and found.decision == plain.decision
        if name == "victim-1":
            assert found.decision in ("piracy", "inconclusive") and found.rank == 1, found
            assert kind == "labels" or plain.decision == "piracy"
        else:
            assert found.decision != "piracy"


def test_the_askers_failures_pass_through_verify(world: World) -> None:
    reference, net = world.references["first"], network(world, "victim-1")
    asked = []

    def remote(x: Tensor) -> Tensor:
        asked.append(net(x))
        if len(asked) == 3:
            raise ConnectionError("503")
        return asked[-1]

    for verb in (uapfast.verify, uapfast.encode):
        asked.clear()
        with pytest.raises(ConnectionError, match="503") as caught:
            verb(reference, remote)
        assert torch.equal(caught.value.uapfast_answers, torch.cat(asked[:2]))
    for wrong in (lambda x: {"out": net(x)}, lambda x: None, lambda x: net(x).sigmoid()):
        with pytest.raises(InputError, match="answers must be") as refused:
            uapfast.verify(reference, wrong)
        assert not isinstance(refused.value, SuspectError)
    with pytest.raises(InputError, match="must be probabilities"):
        uapfast.verify(reference, net, output="probabilities")


def test_labels_of_a_checkpoint(world: World) -> None:
    s, reference = world.suspect("victim-1"), world.references["first"]
    found = uapfast.verify(reference, load_model(s.arch, s.path, output="labels"))
    labels = uapfast.verify(reference, lambda x: network(world, "victim-1")(x).argmax(1))
    assert found.output == "labels" and found.p_value == labels.p_value


CODE = """
import types
import torch
from torch import nn
from uapfast.models.registry import resolve_arch

class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.net, self.norm = resolve_arch("{arch}")(), norm
    def forward(self, x):
        return types.SimpleNamespace(loss=None, logits=self.net(self.norm(x)))

def plain():
    return Net(nn.Identity())

def of_the_batch():
    return Net(nn.BatchNorm2d(1, affine=False, track_running_stats=False))

def closed():
    net = Net(nn.Identity())
    inner = net.net
    net.forward = lambda x: {{"logits": inner(x)}}
    return net

def odd():
    net = plain()
    net.forward = lambda x: {{"out": net.net(x)}}
    return net
"""


@pytest.fixture(scope="module")
def rows(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, object]]:
    """Of each factory: the row of ``screen`` and the verdict, or the error, of ``verify``."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "net.py").write_text(CODE.format(arch=MLP))
    weights = folder / "w.safetensors"
    holder = nn.Module()
    holder.net = network(world, "victim-1")
    save_weights(holder, weights)
    found = {}
    reference = world.references["first"]
    for name in ("plain", "of_the_batch", "closed", "odd"):
        arch = f"{folder / 'net.py'}:{name}"
        suspects = [Entry(str(weights), arch, "s")]
        with uapfast.screen({"r": reference}, suspects, early=False, workers=1) as screening:
            (row,) = list(screening)
        try:
            verdict: object = uapfast.verify(reference, load_model(arch, weights))
        except InputError as exc:
            verdict = exc
        found[name] = row, verdict
    return found


@pytest.mark.parametrize("name", ["plain", "of_the_batch", "closed"])
def test_screen_understands_what_verify_does(rows: dict, name: str) -> None:
    row, verdict = rows[name]
    assert row.decision == verdict.decision
    assert row.p_suspect == pytest.approx(verdict.p_suspect, rel=1e-3)
    assert row.similarity == pytest.approx(verdict.similarity, abs=1e-5)


def test_what_screen_cannot_read_is_a_row_that_says_so(rows: dict) -> None:
    row, error = rows["odd"]
    assert row.decision == "invalid" and row.error_class == "OutputError" == type(error).__name__
    assert "under one of logits, probabilities, scores, labels" in row.error_message


def test_the_callers_network_is_left_alone(world: World) -> None:
    net = network(world, "honest-2").train()
    inner = net[:]
    net.forward = lambda x: inner(x)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = uapfast.verify(world.references["first"], net)
    assert found.p_value == uapfast.verify(world.references["first"], network(world, "honest-2")).p_value
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_answers_were_taken_for(world: World) -> None:
    net, model = network(world, "victim-1"), uapfast.Model
    for form, (show, _, said) in FORMS.items():
        images = next(world.references["first"].plan.chunks())
        note = model(lambda x, show=show: show(net(x))).answers(images, 10).note
        assert (said is None and note is None) or said in note, form
