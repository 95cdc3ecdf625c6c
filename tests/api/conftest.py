"""What the tests of the public API share."""

from __future__ import annotations

import pytest

from tests.api import evidence_world as evidence
from tests.api.evidence_case import Case, make_case
from tests.api.screen_world import World, make_world


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
