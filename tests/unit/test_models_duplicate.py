"""A copy asks itself: functions that modules hold are copied with what they reach, or it is refused."""

from __future__ import annotations

import copy
import functools
import types
import warnings
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from uapfast.errors import ModelError
from uapfast.models.model import Model, tensors_sha256
from uapfast.models.state import batch_note, input_dtype


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript and weight_norm deprecated
        yield


def images(count: int = 20) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(144, 3))
    net(images(64))  # statistics of its own
    return net.train()


def right() -> Tensor:
    return Model(network()).answers(images()).values


def closure() -> nn.Module:
    m = network()
    body, head = m[:5], m[5]
    m.forward = lambda x: head(body(x))
    return m


def helper() -> nn.Module:
    m = network()
    body, head = m[:5], m[5]

    def last(z: Tensor, *, layer: nn.Module = head) -> Tensor:
        return layer(z)

    m.forward = lambda x, first=body: last(first(x))
    return m


def recursive() -> nn.Module:
    m = network()

    def forward(x: Tensor, depth: int = 2) -> Tensor:
        return forward(x, depth - 1) if depth else nn.Sequential.forward(m, x)

    m.forward = forward
    return m


def from_globals() -> nn.Module:
    m = network()
    space = {"body": m[:5], "head": m[5]}
    exec("def forward(x):\n    return head(body(x))", space)
    m.forward = space["forward"]
    return m


def partial() -> nn.Module:
    m = network()
    m.forward = functools.partial(lambda net, x: nn.Sequential.forward(net, x), m)
    return m


def method() -> nn.Module:
    m = network()
    m.forward = types.MethodType(lambda self, x: nn.Sequential.forward(self, x), m)
    return m


class Other:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def run(self, x: Tensor) -> Tensor:
        return nn.Sequential.forward(self.net, x)


def bound() -> nn.Module:
    m = network()
    m.forward = Other(m).run
    return m


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.weak = weakref.ref(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.weak()(x)


MAKERS = [closure, helper, recursive, from_globals, partial, method, bound, Parent]


def check_untouched(m: nn.Module, *others: nn.Module) -> Callable[[], None]:
    every = [m, *others]
    before = [copy.deepcopy(dict(one.state_dict())) for one in every]

    def check() -> None:
        for one, state in zip(every, before, strict=True):
            assert one.training
            assert all(torch.equal(v, state[k]) for k, v in one.state_dict().items())

    return check


@pytest.mark.parametrize("make", MAKERS, ids=lambda f: f.__name__)
def test_functions_on_the_instance(make: Callable[[], nn.Module]) -> None:
    m = make()
    check = check_untouched(m)
    model = Model(m)
    assert torch.equal(model.answers(images()).values, right())
    check()
    with torch.no_grad():
        for p in m.parameters():
            p.zero_()
    assert torch.equal(model.answers(images()).values, right())  # nothing of it is the caller's
    assert model.sha256 is not None


@pytest.mark.parametrize("where", ["hook", "pre-hook", "forward"])
def test_a_network_outside_is_copied_too_and_the_hash_does_not_speak_for_it(where: str) -> None:
    outside, m = network(), nn.Sequential(nn.Identity(), nn.Identity()).train()
    if where == "hook":
        m.register_forward_hook(lambda module, args, out: outside(out))
    elif where == "pre-hook":
        m[1].register_forward_pre_hook(lambda module, args: (outside(args[0]),))
    else:
        m.forward = lambda x: outside(x)
    check = check_untouched(m, outside)
    model = Model(m)
    assert torch.equal(model.answers(images()).values, right()) and model.sha256 is None
    check()


KEPT: dict[str, nn.Module] = {}


class Registry(nn.Module):
    """Asks what a table of its module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        KEPT["self"], KEPT["other"], self.name = self.net, network(), "self"

    def forward(self, x: Tensor) -> Tensor:
        return KEPT[self.name](x)


@pytest.mark.parametrize(("name", "said"), [("self", "weights of the original"), ("other", "training mode")])
def test_what_cannot_be_copied_with_it_is_refused(name: str, said: str) -> None:
    m = Registry()
    m.name = name
    check = check_untouched(m, KEPT["other"])
    with pytest.raises(ModelError, match=f"give a callable.*{said}"):
        Model(m).answers(images())
    check()


def test_counters_in_a_closure_stay_the_callers() -> None:
    seen: list[int] = []
    m = network()
    m.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    seen.clear()
    Model(m, batch_size=10).answers(images())
    assert seen == [10, 10]


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.squeeze(1)).flatten(1)[:, :3]


def test_the_first_batch_is_computed_as_the_others_are() -> None:
    m, x = Attends().eval(), images(256)
    with torch.no_grad():
        assert torch.equal(Model(m).answers(x).values, m(x))  # by the fast path, which a watch turns off


def normed() -> nn.Module:
    m = network()
    nn.utils.weight_norm(m[5])
    m(images())
    return m


def pruned() -> nn.Module:
    m = network()
    prune.l1_unstructured(m[5], "weight", 0.3)
    m(images())
    return m


class Extra(nn.Module):
    def __init__(self, said: object) -> None:
        super().__init__()
        self.net, self.said = network(), said

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def get_extra_state(self) -> dict[str, object]:
        return {"said": self.said, "odd": object(), "list": [1, 2.5, None, torch.ones(2)]}


def sparse() -> nn.Module:
    m = network()
    m.register_buffer("mask", torch.eye(4).to_sparse())
    m.register_buffer("rows", torch.eye(4).to_sparse_csr())
    return m


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(network().eval(), {nn.Linear})


def scripted() -> nn.Module:
    return torch.jit.script(network().eval())


def traced() -> nn.Module:
    return torch.jit.trace(network().eval(), images(4))


def frozen() -> nn.Module:
    return torch.jit.freeze(scripted())


ODD = [normed, pruned, lambda: Extra(1), sparse, quantised, scripted, traced, frozen]


@pytest.mark.parametrize(
    "make", ODD, ids=["normed", "pruned", "extra", "sparse", "quantised", "scripted", "traced", "frozen"]
)
def test_modules_of_unusual_state_work(make: Callable[[], nn.Module]) -> None:
    m = make()
    model = Model(m)
    with torch.no_grad():
        expected = (m.eval() if hasattr(m, "training") else m)(images())
    torch.testing.assert_close(model.answers(images()).values, expected, atol=1e-6, rtol=0)
    again = make()
    assert model.sha256 == Model(again).sha256 == tensors_sha256(m) != tensors_sha256(nn.Linear(1, 1))
    given = Model(make(), mean=[0.0], std=[1.0]).answers(images()).values
    torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)


def test_the_hash_sees_what_is_no_tensor() -> None:
    assert tensors_sha256(Extra(1)) == tensors_sha256(Extra(1)) != tensors_sha256(Extra(2))
    one, other = quantised(), quantised()
    net = network().eval()
    with torch.no_grad():
        net[5].weight[0, 0] += 1
    other = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    assert tensors_sha256(one) != tensors_sha256(other)
    assert tensors_sha256(torch.jit.freeze(torch.jit.script(net))) != tensors_sha256(frozen())
    assert tensors_sha256(scripted()) == tensors_sha256(network().eval())
    assert Model(nn.Flatten()).sha256 is None  # nothing to tell it by


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_are_cast_to_the_weights(dtype: torch.dtype) -> None:
    close = {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(Model(network().to(dtype)).answers(images()).values, right(), **close)
    model = Model(network().to(dtype), mean=[0.0], std=[1.0])
    torch.testing.assert_close(model.answers(images()).values, right(), **close)


def test_networks_of_several_types_take_what_they_took() -> None:
    mixed = network()
    mixed[5].half()
    assert input_dtype(mixed) == input_dtype(network()) == torch.float32
    assert input_dtype(network().half()) == torch.float16


def test_batch_statistics_are_said_and_asked_in_one_way() -> None:
    untracked = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    stubborn = network()
    stubborn[1].train = lambda mode=True: stubborn[1]  # stays in training mode
    listed = nn.Sequential(nn.Identity())
    listed.nets = [network()]  # eval() does not reach it
    listed.forward = lambda x: listed.nets[0](x)
    traced_training = torch.jit.trace(network().train(), images(4), check_trace=False)
    for m in (untracked, stubborn, traced_training, nn.Sequential(traced_training), listed):
        model = Model(m)
        assert model.apart and "depend on the other queries" in model.notes[0]
        views = [images(300), images(100)]
        found = model.answers_to(views).values
        alone = torch.cat([Model(m).answers_to([v]).values for v in views])
        if m is untracked:  # the others change while they are asked
            assert torch.equal(found, alone)
    assert batch_note(network().eval()) is None and not Model(network()).apart
