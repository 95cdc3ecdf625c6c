"""The record of an examination: what is in it, and the same verdict from it alone, bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import uapfast
from tests.api.evidence_world import World
from tests.api.owner import MLP
from tests.api.recording import NAMES, lines, recorded, same, softmax
from uapfast.cli import main
from uapfast.models.model import Model
from uapfast.suspects.callable import open_callable
from uapfast.suspects.record_reader import is_record, read_record
from uapfast.suspects.record_writer import Recorder, query_sha256
from uapfast.verbs.queries import write_queries
from uapfast.verbs.recorded import verify_recorded
from uapfast.verbs.replay import verify_record


@pytest.fixture(scope="session")
def world(evidence_world: World) -> World:
    return evidence_world


class Broken(nn.Module):
    """Gives NaN, or fails, from the second batch on."""

    def __init__(self, net: nn.Module, how: str) -> None:
        super().__init__()
        self.net, self.how, self.calls = net, how, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.net(x)
        if self.how == "nan":
            return torch.where(out == out.amax(), torch.nan, out)
        if self.how == "fails" and len(x) > 4:
            raise RuntimeError("it broke")
        return out


KINDS: dict[str, Callable[[World], Any]] = {
    "module": lambda w: w.copy,
    "double": lambda w: Model(copy.deepcopy(w.copy).double(), name="double"),
    "bfloat16": lambda w: Model(copy.deepcopy(w.copy).bfloat16(), name="half"),
    "honest": lambda w: w.honest,
    "labels": lambda w: lambda x: w.copy(x).argmax(-1),
    "numpy": lambda w: Model(lambda x: w.copy(torch.as_tensor(x)).numpy(), numpy=True),
    "percent": lambda w: lambda x: (100 * softmax(x, w.copy)).round(),
    "costly": lambda w: open_callable(lambda x: softmax(x, w.honest), costly=True, batch_size=7),
    "names": lambda w: open_callable(
        lambda x: [NAMES[k] for k in w.copy(x).argmax(-1).tolist()], class_names=NAMES, batch_size=9
    ),
    "nan": lambda w: Model(Broken(w.copy, "nan"), name="nan"),
    "fails": lambda w: Model(Broken(w.copy, "fails"), name="fails"),
    "constant": lambda w: lambda x: torch.zeros(len(x), 10).index_fill(1, torch.tensor([3]), 5.0),
    "asked wrongly": lambda w: lambda x: w.copy(1 - x).roll(1, -1),  # probes are asked
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_alone_gives_the_same_verdict_bit_for_bit(world, kind, tmp_path):
    verdict = recorded(world, KINDS[kind](world), tmp_path / "r.jsonl")
    replayed = verify_record(world.ref, tmp_path / "r.jsonl")
    same(verdict, replayed.verdict)
    wanted = {"module": "piracy", "honest": "independent", "nan": "invalid", "fails": "invalid"}
    assert verdict.decision == wanted.get(kind, verdict.decision)
    assert is_record(tmp_path / "r.jsonl")
    if kind == "asked wrongly":
        assert verdict.queries_used > world.reference.plan.queries


def test_it_holds_queries_by_hash_and_answers_as_they_came(world, tmp_path):
    for dtype, name in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16"), (torch.int32, "int32")):
        asked = []

        def answer(x: torch.Tensor, dtype: torch.dtype = dtype, asked: list = asked) -> torch.Tensor:
            asked.append(x.clone())
            out = world.honest(x)
            return (out.argmax(-1) if dtype == torch.int32 else out).to(dtype)

        recorded(world, answer, tmp_path / "r.jsonl")
        first, *rows, end = lines(tmp_path / "r.jsonl")
        images = torch.cat(asked)
        assert [row["query"] for row in rows] == [query_sha256(x) for x in images]
        assert [row["i"] for row in rows] == list(range(len(images)))
        assert {row["dtype"] for row in rows} == {name}
        was = world.honest(images)
        was = (was.argmax(-1) if dtype == torch.int32 else was).to(dtype)
        # the same in every bit, although another batch may round the last one of float32
        got = torch.tensor([row["answer"] for row in rows], dtype=torch.float64).to(dtype)
        assert got.dtype == dtype and torch.allclose(got.double(), was.double(), atol=0.05)
        assert first["reference_sha256"] == world.reference.sha256 and first["alpha"] == 0.001
        assert end["end"]["answers"] == len(rows) and end["end"]["error"] is None


def test_a_part_of_recorded_answers_is_recorded_as_that_part(world, tmp_path):
    write_queries(world.reference, tmp_path / "q")
    with np.load(tmp_path / "q" / "queries.npz") as found:
        ids, x = found["id"], torch.as_tensor(found["x"])
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    draw = np.random.default_rng(0).permutation(len(ids))[: int(len(ids) * 0.8)]
    np.savez(tmp_path / "a.npz", id=ids[draw], logits=world.copy(x[draw]).numpy())
    with Recorder(tmp_path / "r.jsonl") as record:
        verdict = verify_recorded(world.reference, tmp_path / "a.npz", record=record)
    assert "are not answered" in " ".join(verdict.reasons)
    same(verdict, verify_record(world.reference, tmp_path / "r.jsonl").verdict)


def test_a_class_order_is_kept(world, tmp_path):
    order = [(3 * k + 1) % 10 for k in range(10)]
    verdict = recorded(
        world, lambda x: world.copy(x)[:, np.argsort(order)], tmp_path / "r.jsonl", class_order=order
    )
    assert verdict.decision == "piracy"
    same(verdict, verify_record(world.reference, tmp_path / "r.jsonl").verdict)


def test_another_level_decides_on_the_same_answers(world, tmp_path):
    recorded(world, world.copy, tmp_path / "r.jsonl")
    verdict = verify_record(world.reference, tmp_path / "r.jsonl", alpha=1e-6).verdict
    assert verdict.decision == "inconclusive" and verdict.alpha == 1e-6


def test_nothing_is_left_of_an_examination_that_breaks_off(world, tmp_path):
    def answer(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(world, answer, tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(uapfast.errors.StorageError, match="existing one"):
        recorded(world, world.honest, tmp_path / "none" / "r.jsonl")


def test_on_the_command_line(world, tmp_path, capsys):
    record = tmp_path / "r.jsonl"
    arguments = ["verify", str(world.ref), str(world.files["copy"]), "--arch", MLP, "--json"]
    assert main([*arguments, "--record", str(record)]) == 1
    first = json.loads(capsys.readouterr().out)
    assert main(["verify", str(world.ref), "--answers", str(record), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == first
    probes = world.reference.probes
    found = read_record(record, world.reference.plan.queries + (0 if probes is None else len(probes)))
    assert (
        found.suspect["subject"]["name"] == "copy.safetensors"
        and len(found.suspect["subject"]["digest"]) == 2
    )
    assert main(["verify", str(world.ref), "--answers", str(record), "--class-order", "1,0"]) == 2
    assert "--class-order must be left out with a record" in capsys.readouterr().err
    assert main([*arguments, "--record", str(world.ref)]) == 2  # never over another file
    assert "of the record alone, got the place of the reference" in capsys.readouterr().err
    bad = tmp_path / "nan.safetensors"
    from safetensors.torch import save_file

    save_file({k: torch.full_like(v, torch.nan) for k, v in world.copy.state_dict().items()}, bad)
    asked = ["verify", str(world.ref), str(bad), "--arch", MLP, "--json", "--record", str(record)]
    assert main([*asked, "--overwrite"]) == 4
    first = json.loads(capsys.readouterr().out)
    assert main(["verify", str(world.ref), "--answers", str(record), "--json"]) == 4
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize("output", ["probabilities", "labels", "logits"])
def test_a_suspect_that_was_asked_before_is_read_as_it_was_then(world, output, tmp_path):
    """A screen asks one suspect for several references: how its first answers are read holds for all."""

    def answer(x: torch.Tensor) -> torch.Tensor:
        out = softmax(x, world.copy)
        return {"probabilities": (100 * out).round(), "labels": out.argmax(-1), "logits": out.log()}[output]

    suspect = open_callable(answer)
    uapfast.verify(world.reference, suspect)
    verdict = recorded(world, suspect, tmp_path / "r.jsonl")
    assert lines(tmp_path / "r.jsonl")[0]["suspect"]["settings"]["read"]["kind"] == output
    same(verdict, verify_record(world.reference, tmp_path / "r.jsonl").verdict)
