"""The default recipe learns, repeats itself, takes soft labels, and touches nothing but the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from uapfast.data import Images, load_data
from uapfast.errors import InputError, ModelError
from uapfast.models.model import tensors_sha256
from uapfast.models.nets import NETS
from uapfast.models.registry import resolve_arch
from uapfast.pool.recipe import default_recipe, held_at_once, load_recipe, run_recipe, training_batch
from uapfast.pool.train import predict


def network(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return resolve_arch(f"uapfast:{name}?size=8")()


def accuracy(model: nn.Module, split: str = "test") -> float:
    data = load_data(f"digits:{split}")
    return float((predict(model, data.x()).argmax(-1) == data.labels).double().mean())


@pytest.mark.parametrize("name", NETS)
def test_every_shipped_network_learns_digits(name: str) -> None:
    data = load_data("digits:train")
    model = default_recipe(network(name), data.x(), data.labels, 0, epochs=10)
    assert not model.training and accuracy(model) > 0.92


@pytest.mark.parametrize("name", ["resnet-small", "cnn-small"])
def test_it_repeats_itself(name: str) -> None:
    data = load_data("digits:train")
    x, y = data.x(slice(0, 300)), data.labels[:300]

    def run(seed: int) -> str:
        module = network(name)
        torch.rand(seed + 3)  # the state of the global generator has no say
        return tensors_sha256(default_recipe(module, x, y, seed, epochs=2))

    assert run(1) == run(1) != run(2)


def test_the_global_generator_and_the_data_stay_as_they_were() -> None:
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    copies = x.clone(), y.clone()
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    state = torch.get_rng_state()
    with torch.no_grad():
        default_recipe(module, x, y, 0, epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, copies[0]) and torch.equal(y, copies[1])
    assert module[2].weight.is_contiguous()


def test_soft_labels_carry_the_answers() -> None:
    """A student of soft labels comes closer to its teacher's answers than one of the true labels."""
    data = load_data("digits:train")
    x, y = data.x(), data.labels
    teacher = default_recipe(network("mlp-small", 5), x, (y + (y == 3).long()) % 10, 5, epochs=8)
    soft = predict(teacher, x)
    student = default_recipe(network("mlp-small", 6), x, soft, 6, epochs=8)
    honest = default_recipe(network("mlp-small", 6), x, y, 6, epochs=8)
    held = load_data("digits:test").x()

    def gap(model: nn.Module) -> float:
        return float((predict(model, held) - predict(teacher, held)).abs().mean())

    assert gap(student) < 0.5 * gap(honest)


@pytest.mark.parametrize("count", [2, 3, 129])
def test_odd_numbers_of_images(count: int) -> None:
    """A last batch of one image, which batch normalisation cannot take, is left out."""
    model = default_recipe(
        network("resnet-small"), torch.rand(count, 1, 8, 8), torch.arange(count) % 10, 0, epochs=1
    )
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": torch.rand(0, 1, 8, 8)}, "one per image, 0 > 0, got 4"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one per image, 4 > 0, got 3"),
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"epochs": 1.5}, "got 1.5"),
        ({"batch": 1}, "batch must be a whole number >= 2, got 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0, got 0.0"),
        ({"learning_rate": float("nan")}, "got nan"),
    ],
)
def test_numbers_out_of_range(settings: dict, said: str) -> None:
    call = {
        "images": torch.rand(4, 1, 8, 8),
        "labels": torch.zeros(4, dtype=torch.int64),
        "seed": 0,
        **settings,
    }
    with pytest.raises(InputError, match=said):
        default_recipe(network("mlp-small"), **call)


def test_the_owners_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from helper import fill\n\n\ndef train(model, images, labels, seed):\n    return fill(model, seed)\n"
    )
    helper = (
        "from torch import nn\n\n\ndef fill(m, seed):\n    nn.init.constant_(m.weight, seed)\n    return m\n"
    )
    (tmp_path / "helper.py").write_text(helper)
    recipe = load_recipe("mine.py:train", tmp_path)
    empty: Tensor = torch.zeros(0)
    assert bool((recipe(nn.Linear(2, 2), empty, empty, 7).weight == 7).all())
    for spec in ("mine:train", "mine.py", "mine.py:", "train"):
        with pytest.raises(ModelError, match="pool: recipe must be FILE.py:FUNCTION, got"):
            load_recipe(spec, tmp_path)
    with pytest.raises(ModelError, match=r"pool: recipe must be the name of a function .*got 'fit'"):
        load_recipe("mine.py:fit", tmp_path)
    with pytest.raises(ModelError, match=r"pool: recipe must be an existing Python file, got .*yours\.py"):
        load_recipe("yours.py:train", tmp_path)


@pytest.mark.slow
@pytest.mark.needs_fashion_mnist
def test_fashion_mnist_in_two_short_epochs(fashion_mnist: Path) -> None:
    """Far below what 5 epochs of 30,000 images reach; a broken recipe or network does not get here."""
    train, test = load_data("fashion-mnist:train"), load_data("fashion-mnist:test")
    torch.manual_seed(0)
    model = resolve_arch("uapfast:resnet-small")()
    default_recipe(model, train.x(slice(0, 6_000)), train.labels[:6_000], 0, epochs=2)
    found = predict(model, test.x(slice(0, 2_000))).argmax(-1)
    assert float((found == test.labels[:2_000]).double().mean()) > 0.82


# -- images that are read as they are needed ------------------------------------------------------------
RECIPES = """
import torch
from torch.utils.data import DataLoader, Dataset

def keep(model, images, labels, seed):
    model.got = [type(images), images.dtype, tuple(images.shape), labels.dtype, seed]
    return model

def odd_names(model, dataset, y, seed, checkpoint=None):
    return keep(model, dataset, y, seed)

def lazy(model, dataset, seed, checkpoint=None):
    order = torch.Generator().manual_seed(seed)
    model.got = [(x, y) for x, y in DataLoader(dataset, 8, shuffle=True, generator=order)]
    model.dataset, model.checkpoint = dataset, checkpoint
    return model
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(RECIPES)
    return tmp_path / "train.py"


@pytest.mark.parametrize("name", ["keep", "odd_names"])
def test_recipes_of_images_and_labels_get_one_tensor(recipes: Path, name: str) -> None:
    x, y = Images(torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)), torch.arange(20) % 10
    model = run_recipe(f"{recipes}:{name}", nn.Identity(), x, y, 3)
    assert model.got == [Tensor, torch.float32, (20, 1, 8, 8), torch.int64, 3]


class Watched:
    """Pictures on disk that note how many are read at a time."""

    dtype = torch.uint8

    def __init__(self, count: int) -> None:
        self.shape, self.most = torch.Size([count, 3, 6, 6]), 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        rows = torch.arange(len(self))[index]
        self.most = max(self.most, len(rows))
        return rows.to(torch.uint8)[:, None, None, None].expand(-1, *self.shape[1:])


def test_a_recipe_of_a_dataset_never_gets_all_images_at_once(recipes: Path) -> None:
    source, rows = Watched(40), torch.arange(39, -1, -1)
    spec = f"{recipes}:lazy"
    model = run_recipe(spec, nn.Identity(), Images(source, rows), rows % 10, 3, checkpoint=Path("c.pt"))  # type: ignore[arg-type]
    assert 1 <= source.most <= 8 and model.checkpoint == Path("c.pt")
    x, y = (torch.cat(parts) for parts in zip(*model.got, strict=True))
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and len(x) == len(model.dataset) == 40
    number = (x[:, 0, 0, 0] * 255).round().long()  # each image bears its number
    assert torch.equal(number % 10, y) and sorted(number.tolist()) == list(range(40))
    assert number.tolist() != sorted(number.tolist())
    image, label = model.dataset[0]
    assert image.shape == (3, 6, 6) and label == 9


def test_who_gets_gigabytes_in_one_tensor_is_told(recipes: Path) -> None:
    large = Images(torch.zeros((1, 1, 1, 1), dtype=torch.uint8).expand(4_000, 3, 224, 224))
    assert "2.4 GB" in (held_at_once(f"{recipes}:keep", large) or "")
    assert held_at_once(f"{recipes}:lazy", large) is None
    assert held_at_once(f"{recipes}:keep", large.subset(slice(0, 1_000))) is None


def test_batches_of_the_default_recipe() -> None:
    assert training_batch((1, 28, 28)) == 128 and training_batch((3, 224, 224)) == 40
    assert training_batch((3, 224, 224), 10) == 10 and training_batch((1, 28, 28), 256) == 128
    assert training_batch((3, 224, 224), 1) == 2  # batch normalisation needs two
