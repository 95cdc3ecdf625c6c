"""A Model leaves the caller's module alone, checks its images, and answers the same on every path."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from uapfast.errors import InputError, ModelError, SuspectError
from uapfast.models.model import Model, as_model, tensors_sha256


def network(channels: int = 1) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


def images(count: int = 20, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_callers_module_stays_as_it_was() -> None:
    module = network().train()
    module[0].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    model = Model(module)
    model.answers(images())
    assert module.training and not module[0].training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert model.module is not None and not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())


def test_later_training_of_the_callers_module_does_not_reach_the_model() -> None:
    module = network()
    model = Model(module)
    first = model.answers(images()).values
    with torch.no_grad():
        module[5].weight.add_(1.0)
    assert torch.equal(model.answers(images()).values, first)
    assert tensors_sha256(module) != model.sha256


class Writer(nn.Module):
    """Normalises in place, as careless code does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).flatten(1)[:, :3]


@pytest.mark.parametrize("target", [Writer(), lambda x: x.mul_(9).flatten(1)[:, :3]])
@pytest.mark.parametrize("count", [4, 5])
def test_a_model_that_writes_into_its_input_does_not_reach_the_callers_images(
    target: object, count: int
) -> None:
    x = images(count)
    before = x.clone()
    Model(target, batch_size=4).answers(x)
    assert torch.equal(x, before)


def test_numpy_in_and_out() -> None:
    seen: list[object] = []

    def suspect(x: np.ndarray) -> np.ndarray:
        seen.append(type(x))
        x *= 0
        return x.reshape(len(x), -1)[:, :3]

    x = images(4).numpy()
    before = x.copy()
    assert Model(suspect, numpy=True).answers(x).values.shape == (4, 3)
    assert seen == [np.ndarray] and np.array_equal(x, before)
    assert Model(lambda t: t.flatten(1)[:, :3].numpy()).answers(x[::-1]).values.shape == (4, 3)


def test_batches_do_not_show() -> None:
    """Batches are even, the last padded: every query is computed in one shape."""
    shapes = []
    module = network()
    module.register_forward_pre_hook(lambda m, args: shapes.append(tuple(args[0].shape)))
    model = Model(module, batch_size=8)
    shapes.clear()
    whole = model.answers(images(20)).values
    assert shapes == [(7, 1, 8, 8)] * 3 and whole.shape == (20, 3)
    alone = torch.cat([model.answers(images(20)[i : i + 1]).values for i in range(20)])
    torch.testing.assert_close(alone, whole, rtol=1e-5, atol=1e-6)  # other shapes, other kernels


def test_a_callable_is_asked_no_more_than_there_is() -> None:
    asked = []
    Model(lambda x: (asked.append(len(x)), torch.zeros(len(x), 3))[1], batch_size=8).answers(images(20))
    assert asked == [8, 8, 4]


def test_chunks_are_joined() -> None:
    asked = []
    model = Model(lambda x: (asked.append(len(x)), torch.zeros(len(x), 3))[1], batch_size=300)
    assert len(model.answers_to([images(200)] * 11).values) == 2200
    assert asked == [300] * 7 + [100]
    asked.clear()
    model.answers_to([images(1500), images(10)])
    assert asked == [300] * 5 + [10]


def test_a_short_last_batch_does_not_change_the_kind() -> None:
    """One row of logits may look like probabilities; all rows together do not."""

    def suspect(x: Tensor) -> Tensor:
        return torch.tensor([[0.2, 0.8]]) if len(x) == 1 else torch.full((len(x), 2), 5.0)

    assert Model(suspect, batch_size=4).answers(images(5)).kind == "logits"


def test_threads_get_what_one_thread_gets() -> None:
    model, x = Model(network(), batch_size=4), images(24)
    right, found = model.answers(x).values, {}

    def ask(i: int) -> None:
        found[i] = all(torch.equal(model.answers(x).values, right) for _ in range(10))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == dict.fromkeys(range(6), True)


def test_preprocessing_is_part_of_the_module() -> None:
    x, module = images(6, 3), network(3).eval()
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    model = Model(module, mean=mean, std=std, batch_size=6)
    with torch.no_grad():
        right = module((x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1))
        assert torch.allclose(model.module(x), right, atol=1e-6)
    assert torch.allclose(model.answers(x).values, right, atol=1e-6)
    assert Model(module, mean=[0.5], std=[0.5]).answers(x).values.shape == (6, 3)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([0.5], None, "given together"),
        ([0.5], [0.5, 0.5], "one value per channel"),
        ([], [], "one value per channel"),
        ([0.5], [0.0], "std > 0"),
        ([float("nan")], [1.0], "finite"),
    ],
)
def test_preprocessing_that_makes_no_sense(mean: list, std: list, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Model(network(), mean=mean, std=std)


def test_preprocessing_of_another_number_of_channels_does_not_broadcast() -> None:
    with pytest.raises(ModelError, match=r"of 1 channels \(or 1\), got 3"):
        Model(nn.Flatten(), mean=[0.1] * 3, std=[1.0] * 3).answers(images(2))
    with pytest.raises(InputError, match="for modules only"):
        Model(lambda x: x, mean=[0.1], std=[1.0])
    with pytest.raises(ModelError, match="of equal length, one value per channel .* got 3 and 1"):
        Model(nn.Flatten(), mean=[0.1] * 3, std=[1.0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (images() * 255, r"in 0\.\.1, got 0.*\.\.25\d.* \(divide by 255\?\)"),
        ((images() * 255).to(torch.uint8), r"float in 0\.\.1, got torch\.uint8, \d+\.\.25\d"),
        (images() * 2 - 1, r"in 0\.\.1, got -0\.99"),
        (images() + 1e-3, r"in 0\.\.1, got "),
        (images().masked_fill(images() > 0.9, float("nan")), "finite, got NaN"),
        (images()[0], r"\[N,C,H,W\], not empty, got \[1, 8, 8\]"),
        (images()[:0], r"got \[0, 1, 8, 8\]"),
        (np.array(["a"]), "an array of numbers, got ndarray"),
        (None, "an array of numbers, got NoneType"),
        ([[1.0], [2.0, 3.0]], "an array of numbers, got list"),
    ],
)
def test_images_out_of_the_contract(wrong: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Model(network()).answers(wrong)


def test_rounding_beyond_the_range_is_allowed() -> None:
    x = images()
    x[0, 0, 0, 0], x[0, 0, 0, 1] = -2.98e-8, 1 + 1e-7
    assert len(Model(network()).answers(x).values) == 20


def test_a_module_that_fails_gives_one_typed_line() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no such layer\nwith a long trace")

    with pytest.raises(SuspectError) as caught:
        Model(Fails(), name="remote").answers(images())
    said = "remote: network must be one that accepts images [1, 8, 8], got ValueError: no such layer"
    assert str(caught.value) == said.replace("[1, 8, 8]", str(list(images().shape[1:])))
    with pytest.raises(SuspectError, match="images must be of the 3 channels that the network takes, got 1"):
        Model(network(3)).answers(images())
    with pytest.raises(SuspectError, match=r"20 rows, one per query, got \[7, 3\]"):
        Model(lambda x: torch.zeros(7, 3)).answers(images())
    with pytest.raises(SuspectError, match="of one shape in every batch"):
        Model(lambda x: torch.zeros(len(x), len(x)), batch_size=16).answers(images())
    with pytest.raises(SuspectError, match="finite, got NaN"):
        Model(lambda x: torch.full((len(x), 3), float("nan"))).answers(images())


def test_labels_only() -> None:
    model = Model(lambda x: (x.flatten(1).argmax(-1) % 3).numpy(), batch_size=8)
    answers = model.answers(images(), classes=3)
    assert answers.kind == "labels" and answers.probabilities().shape == (20, 3)
    with pytest.raises(SuspectError, match=r"labels in 0\.\.1"):
        model.answers(images(), classes=2)


def test_what_is_no_model() -> None:
    for wrong in (None, 3, "resnet18", {"a": 1}):
        with pytest.raises(InputError, match=f"an nn.Module or a callable, got {type(wrong).__name__}"):
            as_model(wrong)
    with pytest.raises(InputError, match="got 'sigmoid'"):
        Model(network(), output="sigmoid")
    for batch in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="batch_size"):
            Model(network(), batch_size=batch)
    holder = network()
    holder.lock = threading.Lock()
    with pytest.raises(ModelError, match="copy.deepcopy can copy"):
        Model(holder)
    model = Model(network())
    assert as_model(model) is model


def test_hash_is_of_names_types_shapes_and_bytes() -> None:
    a, b = network(), network()
    assert Model(a).sha256 == Model(b).sha256 == tensors_sha256(a)
    with torch.no_grad():
        b[5].bias[1] = torch.nextafter(b[5].bias[1], torch.tensor(9.0))
    assert Model(b).sha256 != Model(a).sha256
    assert tensors_sha256(network().to(torch.bfloat16)) != tensors_sha256(network())
    assert tensors_sha256(nn.Linear(2, 3)) != tensors_sha256(nn.Linear(3, 2))
    moved = network().to(memory_format=torch.channels_last)
    assert tensors_sha256(moved) == tensors_sha256(a)
    assert Model(lambda x: x).sha256 is None
