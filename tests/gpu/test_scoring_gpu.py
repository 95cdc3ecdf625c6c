"""An examination scored on a GPU says what it says on the host, for any form of answers and in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from benchmarks.score_world import Size, World
from tests.api.test_scoring_device import FORMS, shown_as, told
from uapfast.examination import Design, Examination
from uapfast.method.sequential import Looks

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def scored() -> World:
    return World(Size(candidates=4, innocents=12, kinds=1, views=10, points=30))


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_an_examination_there_says_what_it_says_here(scored: World, form: str, early: bool) -> None:
    looks = Looks.default(10) if early else Looks.single(10)
    for logits in scored.suspects(4, 2):
        answers = shown_as(form, logits)
        want, got = (told(scored.reference, answers, looks, place) for place in ("cpu", "cuda"))
        assert got[0] == want[0]
        assert got[1] == [x if x is None else pytest.approx(x, rel=1e-3, abs=1e-5) for x in want[1]]


def test_threads_that_share_a_design_do_not_disturb_each_other(scored: World) -> None:
    """As the workers of a screen: one pool on the device, a suspect a thread, others' networks meanwhile."""
    design, suspects = Design(scored.reference, Looks.default(10), "cuda"), list(scored.suspects(8, 3))

    def judged(logits: torch.Tensor) -> tuple[str, float]:
        with torch.cuda.stream(torch.cuda.Stream()):
            noise = torch.randn(512, 512, device="cuda")
            for _ in range(50):
                noise = (noise @ noise).tanh()
        examination, done = Examination(design, alpha=0.01, name="x"), 0
        while examination.open:
            count = examination.due()[1]
            examination.take(logits[done : done + count])
            done += count
        verdict = examination.verdict()
        assert verdict.z is not None
        return verdict.decision, verdict.z

    alone = [judged(x) for x in suspects]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            for (decision, z), (want, first) in zip(threads.map(judged, suspects), alone, strict=True):
                assert decision == want and z == pytest.approx(first, rel=1e-9)
