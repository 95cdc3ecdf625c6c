"""What the tests of the public API share."""

from __future__ import annotations

import os
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import uapfast
from tests.api import cli_world as commands
from tests.api import evidence_world as evidence
from tests.api import recorded_world as recorded
from tests.api import verbs_world as verbs
from tests.api.evidence_case import Case, make_case
from tests.api.screen_world import World, make_world
from uapfast.models.registry import resolve_arch
from uapfast.screening.engine.remote import Packed, RemoteWorker


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """References and suspects for the tests of ``screen``; other files have worlds of their own."""
    return make_world(tmp_path_factory.mktemp("screen"))


@pytest.fixture(scope="session")
def evidence_world(tmp_path_factory: pytest.TempPathFactory) -> evidence.World:
    """A reference that convicts, a copy and an honest model, with their files."""
    return evidence.make_world(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to a server that failed is asked again after 10 ms, 20, 40, ... instead of 200, 400, 800."""
    monkeypatch.setattr("uapfast.suspects.http_client.WAIT_FIRST", 0.01)


@pytest.fixture(scope="session")
def case(evidence_world: evidence.World, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """What an owner hands over of the copy: not to be changed, only :meth:`Case.copied`."""
    return make_case(evidence_world, tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="session")
def cli_world(tmp_path_factory: pytest.TempPathFactory) -> commands.World:
    """Files of one small case of the commands."""
    return commands.make_world(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="session")
def recorded_world(tmp_path_factory: pytest.TempPathFactory) -> recorded.World:
    """Queries handed out, and models that answer them."""
    return recorded.make_world(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="session")
def verbs_world() -> dict:
    """A victim, copies, innocents and a pool, as modules."""
    return verbs.make_world()


@pytest.fixture(scope="session")
def verbs_reference(verbs_world: dict) -> uapfast.Reference:
    """The reference of ``verbs_world``."""
    return verbs.make_reference(verbs_world)


@pytest.fixture
def make() -> Iterator[Callable[..., RemoteWorker]]:
    """Makes workers; the process gets its threads back afterwards."""
    before, folder = torch.get_num_threads(), os.getcwd()
    made: list[RemoteWorker] = []

    def one(packed: Packed, home: str = socket.gethostname()) -> RemoteWorker:
        made.append(RemoteWorker(packed, "cpu", 1, os.getcwd(), home))
        return made[-1]

    yield one
    for worker in reversed(made):
        worker._worker.leave()
        worker._limits.restore_original_limits()
    torch.set_num_threads(before)
    os.chdir(folder)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose networks are ours."""

    def create_model(name: str, **_: Any) -> nn.Module:
        made: Any = resolve_arch(f"uapfast:{name}-small?size=8")()
        made.num_classes, made.in_chans, made.pretrained_cfg = 10, 1, {}
        return made

    fake = types.SimpleNamespace(is_model=lambda name: True, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", fake)  # type: ignore[arg-type]
