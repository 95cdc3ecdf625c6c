"""universal_perturbation: what every method promises, and what bad input gets."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from uapfast import universal_perturbation
from uapfast.errors import DataError, FoolingRateError, FoolingRateWarning, InputError, ModelError
from uapfast.method.uap.deepfool import class_gradients

METHODS = ["margin", "deepfool", "contrastive"]


def images() -> torch.Tensor:
    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16


def train(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    x, y = images(), torch.tensor(load_digits().target)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        rows = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    torch.set_num_threads(1)
    return [train(s) for s in range(4)]


def make(models: list[nn.Module], method: str, **settings: object):
    given = {
        "eps": 0.25,
        "seed": 0,
        "method": method,
        "spare": models[1:2] if method == "contrastive" else None,
    }
    return universal_perturbation(models[0], images()[:300], **(given | settings))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.25), ("l2", 1.5)])
def test_v_lies_in_the_ball_and_fools_better_than_noise(models, method, norm, eps):
    u = make(models, method, norm=norm, eps=eps, fooling=0.6)
    assert u.v.shape == (1, 8, 8) and u.v.dtype == torch.float32
    size = float(u.v.abs().max() if norm == "linf" else u.v.norm())
    assert size <= eps * (1 + 1e-6) and u.size == pytest.approx(size, rel=1e-5)
    if method != "contrastive":
        assert u.fooling_rate > u.random_sign_rate
    x = images()[300:1300]
    model = models[0].eval()
    with torch.no_grad():
        rate = float((model(x).argmax(1) != model((x + u.v).clamp(0, 1)).argmax(1)).double().mean())
    models[0].train()
    assert rate == pytest.approx(u.fooling_rate, abs=0.2)  # held-out points of its own said the same
    assert u.forwards > 0 and u.backwards > 0 and u.passes >= 1


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_the_model_is_left_as_it_was(models, method):
    model = models[0]
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1)
    first = make(models, method, max_passes=2).v
    torch.manual_seed(2)
    assert torch.equal(first, make(models, method, max_passes=2).v)
    assert not torch.equal(first, make(models, method, max_passes=2, seed=9).v)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("method", ["margin", "deepfool"])
def test_a_batch_gives_each_model_what_it_gets_alone(models, method):
    u = universal_perturbation(
        models=models[:3], images=images()[:200], eps=0.2, method=method, max_passes=2, seed=3
    )
    assert u.v.shape == (3, 1, 8, 8) and len(u.fooling_rate) == len(u.size) == len(u.passes) == 3
    for p in range(3):
        alone = universal_perturbation(
            models[p], images()[:200], eps=0.2, method=method, max_passes=2, seed=3
        )
        torch.testing.assert_close(u.v[p], alone.v, atol=1e-5, rtol=0)
        assert u.fooling_rate[p] == pytest.approx(alone.fooling_rate)


def test_deepfool_of_models_of_any_kind_and_several_seeds(models):
    """They share batches; other architectures, other numbers of classes and other dtypes among them."""
    torch.manual_seed(0)
    others = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(),
    ]
    every = [others[0], models[0], *others[1:], models[1]]
    given = {"eps": 0.2, "method": "deepfool", "max_passes": 1, "seed": 3, "count": 2}
    u = universal_perturbation(models=every, images=images()[:120], **given)
    assert u.v.shape == (10, 1, 8, 8)
    for p, model in enumerate(every):
        alone = universal_perturbation(model, images()[:120], **given)
        torch.testing.assert_close(u.v[2 * p : 2 * p + 2], alone.v, atol=1e-5, rtol=0)
        assert u.fooling_rate[2 * p : 2 * p + 2] == pytest.approx(alone.fooling_rate)


class Looks(torch.autograd.Function):
    """A backward that cannot be batched: it asks for a value."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * (1.0 if g.sum().item() == g.sum().item() else 0.0)


def test_class_gradients_where_a_backward_takes_no_batches():
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    top = torch.tensor([[1, 0, 4], [2, 3, 0], [4, 1, 2]])
    found = []
    for function in (Looks.apply, lambda z: z):
        point = x.clone().requires_grad_(True)
        found.append(class_gradients(layer(function(point)), point, top))
    torch.testing.assert_close(found[0], found[1])
    relative, gradients = found[0]
    want = layer.weight[top] - layer.weight[top[:, :1]]
    torch.testing.assert_close(gradients, want.detach())
    assert relative.shape == (3, 3) and not relative.requires_grad


def test_several_seeds_at_once_are_those_one_by_one(models):
    u = universal_perturbation(models[0], images()[:200], eps=0.2, count=3, max_passes=2, seed=5)
    assert u.v.shape == (3, 1, 8, 8)
    for i in range(3):
        alone = universal_perturbation(models[0], images()[:200], eps=0.2, max_passes=2, seed=5 + i)
        torch.testing.assert_close(u.v[i], alone.v, atol=1e-5, rtol=0)


def test_contrastive_moves_the_lineage_and_spares_the_others(models):
    u = universal_perturbation(
        models[0], images()[:300], eps=0.25, method="contrastive", spare=models[1:4], seed=0
    )
    x = images()[300:1300]

    def rate(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return float((model(x).argmax(1) != model((x + u.v).clamp(0, 1)).argmax(1)).double().mean())

    assert rate(models[0]) > 2 * max(rate(m) for m in models[1:4])


def test_contrastive_can_aim_at_a_class(models):
    u = universal_perturbation(models[0], images()[:300], eps=0.4, method="contrastive", target=3, seed=0)
    with torch.no_grad():
        model = models[0].eval()
        before = (model(images()).argmax(1) == 3).double().mean()
        after = (model((images() + u.v).clamp(0, 1)).argmax(1) == 3).double().mean()
    assert after > 3 * before


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_wire_safe_lies_on_the_grid_inside_the_ball(models, norm):
    eps = {"linf": 0.1, "l2": 1.0}[norm]
    u = make(models, "margin", norm=norm, eps=eps, wire_safe=True, max_passes=2)
    steps = u.v.double() * 255
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert float(u.v.abs().max() if norm == "linf" else u.v.norm()) <= eps + 1e-6
    assert u.v.abs().max() > 0


def test_weak_perturbations_warn_or_raise(models):
    with pytest.warns(FoolingRateWarning, match=r"min_fooling = 0.9 .* got 0\."):
        make(models, "margin", eps=0.01, max_passes=1, min_fooling=0.9)
    with pytest.raises(FoolingRateError, match=r"0.9 .*got 0\."):
        make(models, "margin", eps=0.01, max_passes=1, min_fooling=0.9, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(models, "margin", eps=0.01, max_passes=1)


def test_uint8_and_numpy_images_are_the_same_images(models):
    raw = (images()[:200] * 255).round().to(torch.uint8)
    a = universal_perturbation(models[0], raw, eps=0.2, max_passes=1, seed=0)
    b = universal_perturbation(models[0], (raw.float() / 255).numpy(), eps=0.2, max_passes=1, seed=0)
    torch.testing.assert_close(a.v, b.v, atol=1e-6, rtol=0)


class Nan(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] * float("nan")


class One(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.flatten(1).sum(1), -1 - x.flatten(1).sum(1)], 1)


BAD = [
    ({"eps": 0}, InputError, "eps.*got 0"),
    ({"eps": float("inf")}, InputError, "eps.*inf"),
    ({"norm": "l7"}, InputError, "l7"),
    ({"method": "magic"}, InputError, "magic"),
    ({"fooling": 1.5}, InputError, "1.5"),
    ({"count": 0}, InputError, "count"),
    ({"seed": -1}, InputError, "seed"),
    ({"wire_safe": True, "eps": 0.001}, InputError, "1/255|0.001"),
    ({"images": torch.rand(4, 1, 8, 8)}, DataError, "4"),
    ({"images": torch.rand(50, 8)}, DataError, "50, 8"),
    ({"images": torch.rand(50, 1, 8, 8) * 255}, DataError, "0..1"),
    ({"images": torch.full((50, 1, 8, 8), float("nan"))}, DataError, "(?i)nan|finite"),
    ({"model": Nan()}, ModelError, "(?i)nan|finite"),
    ({"model": One()}, DataError, "one|class"),
    ({"model": lambda x: x}, InputError, "nn.Module|module"),
    ({"model": nn.Flatten(0)}, ModelError, r"logits"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_named(models, change, error, message):
    given = {"model": models[0], "images": images()[:100], "eps": 0.2} | change
    model, x = given.pop("model"), given.pop("images")
    with pytest.raises(error, match=message):
        universal_perturbation(model, x, **given)


class Through(nn.Module):
    """A linear network whose answers go through ``change``."""

    def __init__(self, change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.change = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), change

    def forward(self, x: torch.Tensor) -> object:
        return self.change(self.net(x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(method, mode):
    def made():
        model, x = Through(lambda z: z), images()[:60] * 1.0
        return universal_perturbation(model, x, eps=0.2, method=method, max_passes=1, seed=0).v

    right = made()
    with mode():
        assert torch.equal(made(), right)


@pytest.mark.parametrize("method", METHODS)
def test_a_forward_that_cuts_the_gradient_off_is_named(method):
    class Decorated(Through):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    quantised = torch.ao.quantization.quantize_dynamic(Through(lambda z: z), {nn.Linear})
    by_numpy = Through(lambda z: torch.from_numpy(z.detach().numpy()))
    for model in (Through(lambda z: z.detach()), Decorated(lambda z: z), by_numpy, quantised):
        with pytest.raises(ModelError, match="whose answers have a gradient"):
            universal_perturbation(model, images()[:60], eps=0.2, method=method, max_passes=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["rounded", "saturated"])
def test_answers_without_a_gradient_are_said(method, kind):
    changes = {
        "rounded": lambda z: z.softmax(1).mul(100).round(),
        "saturated": lambda z: (z * 1e5).softmax(1),
    }
    with pytest.warns(FoolingRateWarning, match="no gradient .rounded outputs, or saturated"):
        u = universal_perturbation(
            Through(changes[kind]), images()[:60], eps=0.05, method=method, max_passes=1
        )
    assert u.fooling_rate == 0 and float(u.v.abs().max()) < 1e-4


def test_models_that_answer_with_objects():
    right = universal_perturbation(Through(lambda z: z), images()[:60], eps=0.2, max_passes=1, seed=0)
    for change in (lambda z: {"logits": z, "loss": None}, lambda z: (z, z)):
        u = universal_perturbation(Through(change), images()[:60], eps=0.2, max_passes=1, seed=0)
        assert torch.equal(u.v, right.v)
    scripted = torch.jit.script(Through(lambda z: z).net)
    for model in (scripted, torch.jit.freeze(scripted.eval())):
        u = universal_perturbation(model, images()[:60], eps=0.2, max_passes=1, seed=0)
        torch.testing.assert_close(u.v, right.v, atol=1e-5, rtol=0)
