"""Modified and extracted copies are what their names say, and the stolen model stays as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from uapfast.errors import InputError
from uapfast.pool import attacks


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    head = (nn.Flatten(), nn.Linear(4 * 36, 32), nn.ReLU(), nn.Linear(32, 3))
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *head).eval()


def data(count: int = 60) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 3
    images = 0.2 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images[torch.arange(count), 0, labels * 2] += 0.8
    return images, labels


ALL: dict[str, Callable[[nn.Module], nn.Module]] = {
    "prune": lambda m: attacks.prune(m, 0.3),
    "quantise": lambda m: attacks.quantise(m, 4),
    "noise": lambda m: attacks.add_noise(m, 0.1, 0),
    "all": lambda m: attacks.fine_tune(m, *data(), epochs=1),
    "last": lambda m: attacks.fine_tune(m, *data(), layers="last", epochs=1),
}


@pytest.mark.parametrize("name", ALL)
def test_original_is_untouched_and_copy_differs(name: str) -> None:
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    copy = ALL[name](model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert any(not torch.equal(v, before[k]) for k, v in copy.state_dict().items())
    assert not copy.training and not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in model.parameters()), "the original's flags are its owner's"


@pytest.mark.parametrize("name", ALL)
def test_the_same_call_gives_the_same_copy(name: str) -> None:
    images = data()[0]
    model = network()
    first = ALL[name](model)(images)
    torch.manual_seed(8)
    assert torch.equal(first, ALL[name](model)(images))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_pruned_share(share: float) -> None:
    weights = torch.cat([w.flatten() for w in attacks._weights(attacks.prune(network(), share))])
    assert (weights == 0).float().mean() == pytest.approx(share, abs=2e-3)


def test_pruning_takes_the_smallest() -> None:
    before = torch.cat([w.flatten() for w in attacks._weights(network())]).abs()
    after = torch.cat([w.flatten() for w in attacks._weights(attacks.prune(network(), 0.5))]).abs()
    assert before[after == 0].max() <= before[after > 0].min()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_levels_and_error(bits: int) -> None:
    for a, b in zip(
        attacks._weights(network()), attacks._weights(attacks.quantise(network(), bits)), strict=True
    ):
        for row, old in zip(b.flatten(1), a.flatten(1), strict=True):
            assert len(row.unique()) <= 2**bits - 1
            step = old.abs().max() / (2 ** (bits - 1) - 1)
            assert (row - old).abs().max() <= step / 2 * 1.001


def test_fine_tuning_the_last_layer_leaves_the_rest() -> None:
    model = network()
    copy = attacks.fine_tune(model, *data(), layers="last", epochs=5, lr=0.02)
    changed = {k for k, v in copy.state_dict().items() if not torch.equal(v, model.state_dict()[k])}
    assert changed == {"6.weight", "6.bias"}


@pytest.mark.parametrize("layers", ["all", "last"])
def test_fine_tuning_learns(layers: attacks.Layers) -> None:
    images, labels = data(300)
    tuned = attacks.fine_tune(network(), images, labels, layers=layers, epochs=15, lr=0.01)
    assert (tuned(images).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_extraction_hands_the_victims_answers_to_the_recipe(labels: attacks.LabelKind) -> None:
    images = data()[0]
    answers = network(1)(images).softmax(1).detach()
    seen: list[Tensor] = []

    def recipe(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> nn.Module:
        assert seed == 5 and torch.equal(x, images)
        seen.append(y)
        return model

    student = network(2)
    out = attacks.extract(lambda _: answers, student, images, labels=labels, recipe=recipe, seed=5)
    assert out is student
    assert torch.equal(seen[0], answers if labels == "soft" else answers.argmax(1))


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda m: attacks.prune(m, 1.5), "1.5"),
        (lambda m: attacks.quantise(m, 1), "1"),
        (lambda m: attacks.add_noise(m, -0.5, 0), "-0.5"),
        (lambda m: attacks.fine_tune(m, *data(), layers="first"), "'first'"),
        (lambda m: attacks.fine_tune(m, data()[0], data()[1][:5]), "5"),
        (lambda m: attacks.extract(lambda x: x, m, data()[0], recipe=lambda *_: m), r"\[60, 1, 8, 8\]"),
    ],
)
def test_bad_input_is_named(call: Callable[[nn.Module], nn.Module], value: str) -> None:
    with pytest.raises(InputError, match=f"got {value}"):
        call(network())


def test_adversarial_training_lowers_the_loss_on_adversarial_images() -> None:
    images, labels = data(120)
    model = attacks.fine_tune(network(), images, labels, epochs=20, lr=1e-2)

    def loss_at(m: nn.Module, eps: float) -> float:
        with torch.enable_grad():
            x = images.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(m(x), labels), x)
        return float(nn.functional.cross_entropy(m((x + eps * slope.sign()).detach()), labels))

    hardened = attacks.adversarial_training(model, images, labels, eps=0.2, epochs=20, lr=1e-2)
    assert loss_at(hardened, 0.2) < 0.5 * loss_at(model, 0.2)
    assert not any(p.requires_grad for p in hardened.parameters())
    again = attacks.adversarial_training(model, images, labels, eps=0.2, epochs=20, lr=1e-2)
    for a, b in zip(hardened.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("eps", [0.0, 1.0, -0.1])
def test_adversarial_training_refuses_a_radius_out_of_range(eps: float) -> None:
    with pytest.raises(InputError, match="eps must be in"):
        attacks.adversarial_training(network(), *data(), eps=eps)


def test_jacobian_images_double_each_round_and_stay_near_their_seeds() -> None:
    model, (images, _) = network(), data(20)
    asked: list[int] = []

    def ask(x: Tensor) -> Tensor:
        asked.append(len(x))
        return model(x).softmax(-1).detach()

    def recipe(student: nn.Module, x: Tensor, y: Tensor, seed: int) -> nn.Module:
        return attacks.fine_tune(student, x, y, epochs=1, seed=seed)

    found = attacks.jacobian_images(ask, lambda: network(5), images, recipe=recipe, rounds=3, step=0.1)
    assert found.shape == (160, 1, 8, 8)
    assert asked == [20, 40, 80]
    assert torch.equal(found[:20], images)
    assert float((found[20:40] - images).abs().max()) <= 0.1 + 1e-6
    assert 0.0 <= float(found.min()) and float(found.max()) <= 1.0
