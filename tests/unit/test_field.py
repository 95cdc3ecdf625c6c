"""The benchmark of wrong questions counts what it says that it counts."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from benchmarks.field.causes import known_copies, names_cause, wrong  # noqa: E402
from benchmarks.field.page import page  # noqa: E402
from benchmarks.field.ways import WAYS  # noqa: E402
from uapfast.errors import ModelError  # noqa: E402

NOTHING = "p 0.552: nothing points to the victim"


def row(
    kind="copy", way="images x 255", outcome="independent", pool="12 twins", reasons=(NOTHING,), name=None
):
    return {
        "kind": kind,
        "way": way,
        "outcome": outcome,
        "pool": pool,
        "reasons": list(reasons),
        "world": "scratch",
        "suspect": name or kind,
        "p_value": 0.5,
        "z": 0.1,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (row(), True),
        (row(outcome="inconclusive"), False),
        (row(outcome="invalid"), False),
        (row(reasons=[NOTHING, "agrees with 13 %: preprocessing, class order, order of rows?"]), False),
        (
            row(reasons=[NOTHING, "3 of the victim's 12 twins are as close to the suspect as the victim is"]),
            True,
        ),
        (row(way="rows shuffled", reasons=["check the preprocessing"]), True),  # a cause, but not this one
        (row(kind="tuned"), False),  # never convicted when asked rightly
        (row(kind="honest", outcome="piracy"), True),
        (row(kind="honest"), False),
        (row(kind="garbage", outcome="piracy", reasons=["preprocessing"]), True),
    ],
)
def test_silent_and_wrong(given, expected):
    assert wrong(given, known_copies([given])) is expected


def test_a_copy_counts_once_a_sound_pool_convicts_it():
    rightly = row(kind="tuned", way="as it is", outcome="piracy")
    asked = row(kind="tuned", pool="2 twins")
    assert wrong(asked, known_copies([rightly, asked]))
    unsound = rightly | {"pool": "scratch twins"}
    assert not wrong(asked, known_copies([unsound, asked]))


def test_the_pool_is_a_cause_where_the_pool_is_at_fault():
    said = ["this reference may not convict: a homologous model would be convicted by it"]
    assert names_cause(row(pool="contaminated", way="as it is", reasons=said))
    assert not names_cause(row(pool="12 twins", way="as it is", reasons=said))


def test_each_way_changes_what_it_says():
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    with torch.no_grad():
        own = net(x)
        for way in WAYS:
            if way.causes in (("images",), ("classes",), ("rows",)):
                try:
                    ask = way.target(net)
                except ModelError:  # statistics that no images have are refused
                    assert way.name == "mean 73, std 90"
                    continue
                if callable(getattr(ask, "answers", None)):
                    continue
                got = ask(x)
                assert not torch.equal(got, own if got.ndim == 2 else own.argmax(1)), way.name
    assert len({w.name for w in WAYS}) == len(WAYS) >= 20


def test_both_columns_count_the_same_copies():
    rightly, asked = row(kind="tuned", way="as it is", outcome="piracy"), row(kind="tuned")
    rest = {"pools": {}, "versions": {"torch": "2"}, "cpu_seconds": 1}
    text = page({"rows": [asked], **rest}, {"rows": [rightly, asked], **rest})
    assert "| other copies acquitted | 1 of 2 (50.0 %) | 1 of 1 (100.0 %) |" in text


def test_page_has_before_and_after():
    honest = row(kind="honest", outcome="piracy", pool="0 twins", way="transposed")
    before = {"rows": [row(), honest], "pools": {"12 twins": {}, "0 twins": {}}}
    after = {
        "rows": [row(outcome="invalid")],
        "pools": {"12 twins": {}, "0 twins": {"refused": "PoolError: no"}},
    }
    rest = {"versions": {"torch": "2"}, "cpu_seconds": 1}
    text = page(after | rest, before | rest)
    assert "| **all** | **2 of 2 (100.0 %)** | **0 of 1 (0.0 %)** |" in text
    assert "| transposed | i1 → . |" in text and "* after, 0 twins: refused: PoolError: no" in text
