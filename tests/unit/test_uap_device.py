"""The margin method with everything on the device: the same numbers in every form and with graphs."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from tests.lazy import LazyDevice
from tests.unit.uap_models import EPS, images, jobs_of, of_the_loop, settings, told, trained
from uapfast import universal_perturbation
from uapfast.errors import InputError, ModelError
from uapfast.method.uap import forms
from uapfast.method.uap.forms import StepSettings, choose_form, chunk_of, in_order, same_architecture
from uapfast.method.uap.resident import Steps, run_resident
from uapfast.method.uap.together import make_together
from uapfast.models.registry import resolve_arch
from uapfast.streams import Host, Replay, device_for

FORMS = ["alone", "streams", "stacked"]


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    return [trained(0), trained(1), trained(2, "mlp"), trained(3), trained(4, "mlp")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 1.0)])
def test_every_form_makes_what_the_loop_makes(models, form, norm, eps):
    s = settings(norm=norm, eps=eps)
    one, other = jobs_of(models, count=2), jobs_of(models, count=2)
    want = of_the_loop(one, s)
    got = make_together(
        other, s, form, SimpleNamespace(precision="float32", graph=True, holdout=0.25, fooling=0.8)
    )
    assert told(one) == told(other)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)
    assert [j.victim.query.counter.backwards for j in one] == [
        j.victim.query.counter.backwards for j in other
    ]


@pytest.mark.parametrize("form", FORMS)
def test_models_end_one_by_one_and_the_others_go_on(models, form):
    """Goals that are reached after different numbers of steps: the step is made anew for those left."""
    s = settings(max_passes=3)
    one, other = jobs_of(models), jobs_of(models)
    for jobs in (one, other):
        for job, goal in zip(jobs, (0.1, 0.95, 0.35, 0.4, 1.0), strict=True):
            job.runs[0].goal = goal
    want, got = of_the_loop(one, s), run_resident(other, s, StepSettings(form), Host())
    assert told(one) == told(other)
    assert len({run[1] for run in told(one)}) == 3, told(one)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_changes_no_bit(models, form, caplog):
    s = settings(max_passes=2)
    plain = run_resident(jobs_of(models), s, StepSettings(form, graph=False), Host())
    device = LazyDevice(prompt=True)
    with_graph = run_resident(jobs_of(models), s, StepSettings(form), device)
    assert device.captures >= 2 and device.replays > device.captures
    assert all(torch.equal(a, b) for a, b in zip(plain, with_graph, strict=True))
    unable = LazyDevice(prompt=True, capture=False)
    with caplog.at_level(logging.WARNING):
        without = run_resident(jobs_of(models), s, StepSettings(form), unable)
    assert all(torch.equal(a, b) for a, b in zip(plain, without, strict=True))
    assert "runs without a graph (the test says so)" in caplog.text


@pytest.mark.parametrize("seed", range(4))
def test_streams_are_joined_before_what_they_found_is_used(models, seed):
    s = settings(max_passes=1)
    plain = run_resident(jobs_of(models), s, StepSettings("streams", graph=False), Host())
    got = run_resident(jobs_of(models), s, StepSettings("streams"), LazyDevice(seed, prompt=True))
    assert all(torch.equal(a, b) for a, b in zip(plain, got, strict=True))


def test_without_the_joins_the_result_would_be_another(models):
    s = settings(max_passes=1)
    plain = run_resident(jobs_of(models), s, StepSettings("streams", graph=False), Host())
    device = LazyDevice(prompt=True, deaf=True)
    device.eagerness = 0.0
    got = run_resident(jobs_of(models), s, StepSettings("streams"), device)
    assert not all(torch.equal(a, b) for a, b in zip(plain, got, strict=True))


def test_more_steps_between_two_looks_than_counts_are_kept(models, monkeypatch):
    monkeypatch.setattr("uapfast.method.uap.resident.KEPT", 3)
    s = settings(batch_size=16, max_passes=2)
    one, other = jobs_of(models[:2]), jobs_of(models[:2])
    want, got = of_the_loop(one, s), run_resident(other, s, StepSettings("streams"), Host())
    assert told(one) == told(other)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


# -- through the front door -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_universal_perturbation_takes_a_form(models, form):
    given = {"images": images(), "eps": EPS, "max_passes": 3, "count": 2}
    want = universal_perturbation(models=models[:3], **given)
    got = universal_perturbation(models=models[:3], form=form, **given)
    torch.testing.assert_close(want.v, got.v, atol=2e-5, rtol=0)
    assert (want.fooling_rate, want.random_sign_rate, want.passes) == (
        got.fooling_rate, got.random_sign_rate, got.passes,
    )  # fmt: skip
    assert want.backwards == got.backwards
    safe = universal_perturbation(models[0], images(), eps=EPS, form=form, wire_safe=True, max_passes=2)
    assert torch.equal((safe.v * 255).round() / 255, safe.v) and safe.size <= EPS * (1 + 1e-6)


def test_a_float64_model_keeps_its_precision(models):
    import copy

    double = copy.deepcopy(models[0]).double()
    want = universal_perturbation(double, images(), eps=EPS, max_passes=2)
    got = universal_perturbation(double, images(), eps=EPS, max_passes=2, form="alone")
    torch.testing.assert_close(want.v, got.v, atol=1e-7, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_bf16_fools_as_well_and_v_stays_float32(models, form):
    given = {"images": images(800), "eps": 0.25, "form": form, "max_passes": 8}
    plain = universal_perturbation(models=models[:2], **given)
    short = universal_perturbation(models=models[:2], precision="bf16", **given)
    assert short.v.dtype == torch.float32 and not torch.equal(plain.v, short.v)
    for a, b in zip(plain.fooling_rate, short.fooling_rate, strict=True):
        assert b >= a - 0.07  # 200 points: two standard errors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"form": "fast"}, "form must be one of .*, got 'fast'"),
        ({"form": "alone", "method": "deepfool"}, "form must be auto or loop .*, got 'alone'"),
        ({"precision": "fp8"}, "precision must be .*, got 'fp8'"),
        ({"precision": "bf16", "form": "loop"}, "precision must be float32 .*, got 'bf16'"),
    ],
)
def test_bad_settings_are_named(models, given, said):
    with pytest.raises(InputError, match=said):
        universal_perturbation(models[0], images(), eps=EPS, **given)


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_breaks_under_v_is_an_error(form):
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.inner(x.flatten(1))
            return torch.where(
                x.flatten(1)[:, :1] > 0.01, torch.nan, out
            )  # the corner is black on every digit

    torch.manual_seed(0)
    with pytest.raises(ModelError, match="finite"):
        universal_perturbation(models=[Breaks(), Breaks()], images=images(), eps=EPS, form=form, max_passes=1)


# -- which models share what ------------------------------------------------------------------------------


def test_only_one_network_with_other_weights_is_alike():
    a, b = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert same_architecture(a, b)
    assert not same_architecture(a, nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    assert not same_architecture(a, nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU()))
    assert not same_architecture(nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)) and same_architecture(
        nn.LeakyReLU(0.1), nn.LeakyReLU(0.1)
    )
    b[0].scale = 2.0
    assert not same_architecture(a, b)
    b = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    b.register_forward_hook(lambda *_: None)
    assert not same_architecture(a, b) and not same_architecture(b, b)
    assert in_order([a, nn.Linear(2, 2), nn.Sequential(nn.Linear(4, 3), nn.ReLU())]) == [[0, 2], [1]]


def test_a_stack_that_answers_otherwise_is_not_used(models, caplog):
    class Odd(nn.Module):
        """Looks alike, is not: what it does hangs on which instance it is."""

        factors: ClassVar[dict[int, float]] = {}

        def __init__(self, inner: nn.Module, factor: float) -> None:
            super().__init__()
            self.inner = inner
            self.factors[id(self)] = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * self.factors[id(self)]

    odd = [Odd(models[2], 1.0), Odd(models[4], 3.0)]
    assert same_architecture(*odd)
    with caplog.at_level(logging.WARNING):
        Steps(jobs_of(odd), settings(), StepSettings("stacked"), Host(), Host().stream())
    assert "weights are not stacked" in caplog.text


def test_what_vmap_cannot_do_is_asked_one_by_one(models, caplog):
    class Branches(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) if float(x.mean()) > -1 else self.inner(-x)

    odd = [Branches(models[2]), Branches(models[4])]
    with caplog.at_level(logging.WARNING):
        got = run_resident(jobs_of(odd), settings(max_passes=1), StepSettings("stacked"), Host())
    assert "weights are not stacked" in caplog.text
    want = of_the_loop(jobs_of(odd), settings(max_passes=1))
    torch.testing.assert_close(torch.cat(got), torch.cat(want), atol=2e-5, rtol=0)


def test_the_choice_is_by_size_and_kind(monkeypatch):
    cnn, mlp = (resolve_arch(f"uapfast:{n}-small?size=8")() for n in ("resnet", "mlp"))
    assert choose_form([cnn]) == "alone" and choose_form([cnn, cnn]) == "streams"
    assert choose_form([mlp, mlp]) == "stacked" and choose_form([mlp, cnn]) == "streams"
    monkeypatch.setattr(forms, "SMALL", 100)
    assert choose_form([mlp, mlp]) == "alone"
    assert (
        chunk_of("alone", 1) == 1 and chunk_of("streams", 1 << 22) == 4 and chunk_of("stacked", 1 << 30) == 1
    )
    assert chunk_of("streams", 1) == forms.STREAMS


def test_memory_that_does_not_do_for_all_does_for_one(models, monkeypatch, caplog):
    from uapfast.method.uap import together

    asked = []

    def scarce(jobs, *rest):
        asked.append(len(jobs))
        if len(jobs) > 1:
            for job in jobs:
                job.runs[0].seen = 77  # what was begun leaves traces
            raise torch.OutOfMemoryError("no")
        return run_resident(jobs, *rest)

    monkeypatch.setattr(together, "run_resident", scarce)
    a = SimpleNamespace(precision="float32", graph=True, holdout=0.25, fooling=0.8)
    one, other = jobs_of(models[:3]), jobs_of(models[:3])
    got = make_together(other, settings(), "streams", a)
    assert asked == [3, 1, 1, 1] and "one by one" in caplog.text
    for x, y in zip(of_the_loop(one, settings()), got, strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=0)


# -- replays ----------------------------------------------------------------------------------------------


def test_recording_leaves_the_state_as_it_was():
    state = torch.zeros(3)
    device = LazyDevice()
    stream = device.stream()
    step = Replay(lambda: state.add_(1), [state], device, stream, "test")
    for _ in range(4):
        step()
    stream.record().synchronize()
    assert state.tolist() == [4.0] * 3 and step.recorded and device.captures == 1 and device.replays == 4
    plain = Replay(lambda: state.add_(1), [state], Host(), Host().stream(), "test")
    plain()
    assert state.tolist() == [5.0] * 3 and not plain.recorded
    assert isinstance(device_for("cpu"), Host)


def test_a_finished_step_is_gone_at_once(models, monkeypatch):
    import gc
    import weakref

    from uapfast.method.uap import resident

    watched: list[weakref.ref[Steps]] = []

    class Watched(Steps):
        def _ready(self) -> None:
            super()._ready()
            watched.append(weakref.ref(self))

    monkeypatch.setattr(resident, "Steps", Watched)
    jobs = jobs_of(models[:3])
    jobs[0].runs[0].goal = jobs[1].runs[0].goal = 0.01
    gc.disable()
    try:
        run_resident(jobs, settings(max_passes=2), StepSettings("streams"), LazyDevice(prompt=True))
        assert watched and all(w() is None for w in watched)
    finally:
        gc.enable()


def test_a_step_that_reads_on_the_host_is_not_recorded(models, caplog):
    class Reads(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * (1.0 if float(x.detach().mean()) >= 0 else 2.0)

    device = LazyDevice(prompt=True)
    with caplog.at_level(logging.WARNING):
        got = run_resident(jobs_of([Reads(models[0])]), settings(max_passes=2), StepSettings("alone"), device)
    assert device.captures == 0 and "runs without a graph (it calls _local_scalar_dense" in caplog.text
    want = run_resident(jobs_of(models[:1]), settings(max_passes=2), StepSettings("alone"), Host())
    assert torch.equal(got[0], want[0])


def test_candidates_on_a_gpu_share_one_call(models, monkeypatch):
    """What a pool on a GPU takes, with models that only say that they are there."""
    from uapfast.config import GenerateConfig
    from uapfast.errors import FoolingRateError, FoolingRateWarning
    from uapfast.models.model import Model
    from uapfast.reference import Record
    from uapfast.verbs import candidates

    entries = [
        (Record(f"m{i}", "victim" if i == 0 else "twin", None, "", ""), Model(models[i])) for i in (0, 1, 3)
    ]
    config = GenerateConfig(eps=EPS, min_fooling=0.0)
    told: list[str] = []
    want, rows = candidates.make_uaps(entries, images(200), config, told.append)
    for _, model in entries:
        monkeypatch.setattr(model, "device", torch.device("cuda"))
    got, found = candidates.make_uaps(entries, images(200), config, told.append)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)
    assert told[:3] == told[3:] == ["UAP of m0", "UAP of m1", "UAP of m3"]
    assert [r | {"forwards": 0, "backwards": 0} for r in rows] == [
        r | {"forwards": 0, "backwards": 0} for r in found
    ]
    assert sum(r["backwards"] for r in rows) == pytest.approx(sum(r["backwards"] for r in found), abs=3)
    with pytest.raises(FoolingRateError, match="min_fooling = 0.99"):
        high = GenerateConfig(eps=EPS, min_fooling=0.99, strict=True)
        candidates.make_uaps(entries, images(200), high, told.append)
    with pytest.warns(FoolingRateWarning, match="min_fooling = 0.99"):
        candidates.make_uaps(entries, images(200), GenerateConfig(eps=EPS, min_fooling=0.99), told.append)


def test_work_that_copies_to_another_device_is_not_recorded(caplog):
    device = LazyDevice()
    x = torch.zeros(3)
    for work in (lambda: x.to("meta"), lambda: torch.empty(3, device="meta").copy_(x)):
        with caplog.at_level(logging.WARNING):
            Replay(work, [], device, device.stream(), "a copy")()
    assert device.captures == 0 and caplog.text.count("it copies between") == 2
