"""What is noticed of answers over HTTP: chance, shuffled or dropped items, batches, eight bits."""

from __future__ import annotations

import pytest
import torch

import uapfast
from tests.api.http_asked import Served, images, net, serve, servers
from tests.api.screen_world import World
from uapfast.errors import SuspectError
from uapfast.models.checkpoint import load_model

pytestmark = [pytest.mark.needs("httpx2", "stamina")]


def test_answers_that_change_are_named():
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return net(x) + 0.3 * torch.randn(len(x), 10)

    with serve(servers.oip, Served(noisy)) as (_, suspect):
        suspect.answers_to([images(60)], 10)
        assert suspect.notes[0].startswith("its answers change between equal questions")


def test_answers_that_do_not_depend_on_the_question_are_refused():
    with serve(servers.oip, Served(lambda x: torch.randn(len(x), 10))) as (_, suspect):
        with pytest.raises(SuspectError, match="the same for equal questions"):
            suspect.answers_to([images(60)], 10)


def test_a_server_that_shuffles_a_batch_is_named():
    with serve(servers.oip, Served(lambda x: net(x).roll(1, 0))) as (_, suspect):
        with pytest.raises(SuspectError, match=r"one per image of a batch, in order.*those of other images"):
            suspect.answers_to([images(60)], 10)
    with serve(servers.oip, Served(lambda x: net(x).roll(1, 0)), batch_size=1) as (_, suspect):
        assert torch.allclose(suspect.answers_to([images(9)], 10).values, net(images(9)), atol=1e-5)
        assert not suspect.notes


def test_a_server_that_drops_items_is_named():
    with serve(servers.oip, Served(lambda x: net(x)[:-1] if len(x) > 1 else net(x)), attempts=1) as (
        _,
        suspect,
    ):
        with pytest.raises(SuspectError, match="20 rows, one per image"):
            suspect.answers_to([images(20)], 10)


def test_answers_that_depend_on_the_batch_are_named():
    def batchy(x: torch.Tensor) -> torch.Tensor:
        return net(x) + 0.1 * net(x).mean(0)

    with serve(servers.oip, Served(batchy)) as (_, suspect):
        suspect.answers_to([images(60)], 10)
        assert suspect.notes[0].startswith("its answers depend on what else is in a batch")


def test_the_verdict_repeats_what_was_noticed(world: World):
    module = load_model(world.suspect("honest-0").arch, world.suspect("honest-0").path).module

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return module(x) + 0.2 * torch.randn(len(x), 10)

    with serve(servers.oip, Served(noisy)) as (_, suspect):
        verdict = uapfast.verify(world.references["first"], suspect)
    assert verdict.decision != "piracy" and any("equal questions" in r for r in verdict.reasons)


def test_eight_bits_are_said():
    x = torch.rand(10, 1, 8, 8)
    with serve(servers.oip, Served(net, datatype="UINT8")) as (_, suspect):
        suspect.answers_to([x], 10)
        assert any("8 bits" in n for n in suspect.notes)
