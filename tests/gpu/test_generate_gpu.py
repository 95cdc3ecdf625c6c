"""UAPs on a GPU: the same numbers in every form of the step, recorded or not; and through ``generate``."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import uapfast
from benchmarks.parity import CONFIG, trained, world
from tests.unit.uap_models import images
from tests.unit.uap_models import trained as convolutional
from uapfast import universal_perturbation
from uapfast.method.uap.common import Counter, Victim
from uapfast.method.uap.forms import StepSettings
from uapfast.method.uap.margin import MarginSettings, run_margin
from uapfast.method.uap.resident import UapJob, run_resident
from uapfast.method.uap.stopping import make_runs
from uapfast.streams.cuda import Cuda

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact")]
FORMS = ["alone", "streams", "stacked"]


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    return [m.cuda() for m in (convolutional(0), convolutional(1), convolutional(2, "mlp"), convolutional(3))]


def jobs_of(models: list[nn.Module], count: int = 1) -> list[UapJob]:
    made = []
    for model in models:
        victim = Victim(model, images(), Counter())
        made.append(UapJob(victim, make_runs(victim, range(count), 0.25, 0.8)))
    return made


def settings(**given: Any) -> MarginSettings:
    return MarginSettings(**({"eps": 0.2, "norm": "linf", "max_passes": 2, "batch_size": 64} | given))


def told(jobs: list[UapJob]) -> list[tuple[object, ...]]:
    return [(run.seen, run.passes, run.rate) for job in jobs for run in job.runs]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 1.0)])
def test_every_form_makes_what_the_loop_makes(models, form, norm, eps) -> None:
    """Rounding differs: where it tips a pixel that hardly matters, v may, and the rates may not."""
    s = settings(norm=norm, eps=eps)
    one, other = jobs_of(models, 2), jobs_of(models, 2)
    want = torch.stack([run_margin(job.victim, job.runs, s) for job in one])
    got = torch.stack(run_resident(other, s, StepSettings(form), Cuda("cuda")))
    near = ((want - got).abs() <= 1e-4).double().mean()
    assert float(near) > 0.98
    for a, b in zip(told(one), told(other), strict=True):
        assert a[:2] == b[:2] and abs(a[2] - b[2]) < 0.03


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_changes_no_bit(models, form, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        one, other = jobs_of(models, 2), jobs_of(models, 2)
        with_graph = run_resident(one, settings(), StepSettings(form), Cuda("cuda"))
        without = run_resident(other, settings(), StepSettings(form, graph=False), Cuda("cuda"))
    assert all(torch.equal(a, b) for a, b in zip(with_graph, without, strict=True))
    assert told(one) == told(other) and "without a graph" not in caplog.text


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bits_in_every_run(models, form) -> None:
    runs = [run_resident(jobs_of(models), settings(), StepSettings(form), Cuda("cuda")) for _ in range(3)]
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


def test_what_a_graph_cannot_hold_runs_without_one(models, caplog) -> None:
    class Looks(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x) * (1 if float(x.detach().mean()) >= 0 else 2)
            return out

    with caplog.at_level(logging.WARNING):
        got = run_resident(jobs_of([Looks(models[0])]), settings(), StepSettings("alone"), Cuda("cuda"))
    assert "runs without a graph" in caplog.text
    want = run_resident(jobs_of(models[:1]), settings(), StepSettings("alone"), Cuda("cuda"))
    assert torch.equal(got[0], want[0])
    # the stream, the memory and the generator are as before
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(3, device="cuda").isfinite().all()


def test_it_runs_behind_the_callers_work(models) -> None:
    """Images that are still being made on the caller's stream when the call begins."""
    want = universal_perturbation(models[0], images().cuda(), eps=0.2, max_passes=1, form="alone")
    late = torch.zeros_like(images(), device="cuda")
    source = images().cuda()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(source)
        got = universal_perturbation(models[0], late, eps=0.2, max_passes=1, form="alone")
    stream.synchronize()
    assert torch.equal(want.v, got.v)


@pytest.mark.parametrize("form", FORMS)
def test_bf16_fools_as_well(models, form) -> None:
    given: dict[str, Any] = {"images": images(800), "eps": 0.25, "form": form, "max_passes": 8}
    plain = universal_perturbation(models=models[:2], **given)
    short = universal_perturbation(models=models[:2], precision="bf16", **given)
    for a, b in zip(plain.fooling_rate, short.fooling_rate, strict=True):  # type: ignore[arg-type]
        assert b >= a - 0.07


def test_large_images_go_channels_last_and_fool_as_well() -> None:
    from benchmarks.networks import resnet18_tiny, textures
    from benchmarks.networks import trained as on_textures

    model, right = on_textures(resnet18_tiny, 96, 0, "cuda", 60)
    assert right > 0.3
    before = {k: (v.clone(), v.stride()) for k, v in model.state_dict().items()}
    x, _ = textures(200, 96, 5, "cuda")
    want = universal_perturbation(model, x, eps=0.05, max_passes=4, form="loop")
    got = universal_perturbation(model, x, eps=0.05, max_passes=4)
    assert abs(float(want.fooling_rate) - float(got.fooling_rate)) < 0.1  # type: ignore[arg-type]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.stride() == before[name][1]


def test_on_the_second_device(models) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    want = universal_perturbation(models=models[:2], images=images(), eps=0.2, max_passes=2, form="streams")
    got = universal_perturbation(
        models=models[:2], images=images(), eps=0.2, max_passes=2, form="streams", device="cuda:1"
    )
    assert got.v.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
    assert torch.equal(want.v.cpu(), got.v.cpu())


def test_generate_makes_a_reference_that_says_the_same() -> None:
    """Victim and twins in one batch on the GPU; the reference of the CPU and this one agree on suspects."""
    from sklearn.datasets import load_digits

    here, suspects = world()
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    own, thief = slice(0, 700), slice(700, 1400)
    models = [trained(x[own], y[own], s).cuda() for s in range(8)]
    others = [trained(x[thief], y[thief], 20 + s, width=24 + 8 * (s % 4)).cuda() for s in range(14)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = uapfast.Pool.from_models(twins=models[1:], homologous=others, device="cuda")
        there = uapfast.generate(models[0], x, y, pool=pool, config=CONFIG, device="cuda")
    fooling = [[u["fooling_rate"] for u in r.settings["uap"]] for r in (here, there)]
    assert torch.tensor(fooling).diff(dim=0).abs().max() < 0.15
    for name in ("victim", "pruned", "innocent-0", "innocent-1"):
        contrary = {uapfast.verify(r, suspects[name]).decision for r in (here, there)}
        assert contrary != {"piracy", "independent"}, name
