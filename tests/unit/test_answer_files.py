"""Files of recorded answers: each form is read; whatever else a file holds is a typed error within bounds."""

from __future__ import annotations

import io
import json
import resource
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from uapfast.errors import InputError, SuspectError, UapfastError
from uapfast.suspects.recorded import content, open_recorded

COUNT, CLASSES = 6, 3
IMAGES = torch.rand(COUNT, 1, 2, 2, generator=torch.Generator().manual_seed(0))
IDS = np.array([11, 2**53 - 1, 5, 70, 31, 8])
QUERIES = {content(image): int(i) for image, i in zip(IMAGES, IDS, strict=True)}
P = np.array(
    [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25], [1, 0, 0], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]]
)
TOP = P.argmax(1)
NAMES = ["yes", "no", "1"]


def opened(path: Path, **given: object):
    return open_recorded(path, QUERIES, **{"classes": CLASSES} | given)


def asked(path: Path, images: torch.Tensor = IMAGES, **given: object):
    suspect = opened(path, **given)
    return suspect.answers_to([images], CLASSES)


def refused(path: Path, *said: object, **given: object) -> None:
    with pytest.raises(InputError) as caught:
        asked(path, **given)
    for part in said:
        assert str(part) in str(caught.value), (part, str(caught.value))
    assert len(str(caught.value)) < 1200


def text(tmp_path: Path, content: str | bytes, name: str = "answers") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def npz(tmp_path: Path, save=np.savez, **arrays: object) -> Path:
    save(tmp_path / "a.npz", **arrays)
    return tmp_path / "a.npz"


# -- what is read ----------------------------------------------------------------------------------
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_npz_of_scores(tmp_path, save, dtype):
    path = npz(
        tmp_path, save, id=IDS.astype(np.uint64), logits=np.asfortranarray(P.astype(dtype)), x=np.ones(3)
    )
    answers = asked(path)
    assert answers.kind == "logits"
    np.testing.assert_allclose(answers.values.numpy(), P, atol=1e-3)
    assert asked(path, output="labels").labels().tolist() == TOP.tolist()


@pytest.mark.parametrize(
    "labels", [TOP, TOP.astype(np.uint8), np.array(NAMES)[TOP], np.array(NAMES).astype("S")[TOP]]
)
def test_npz_of_labels(tmp_path, labels):
    answers = asked(
        npz(tmp_path, id=IDS, labels=labels), class_names=NAMES if labels.dtype.kind in "US" else None
    )
    assert answers.kind == "labels" and answers.labels().tolist() == TOP.tolist()


def test_which_of_several_arrays_is_said_by_output(tmp_path):
    path = npz(tmp_path, id=IDS, logits=np.log(P + 0.01), probabilities=P, labels=TOP)
    refused(path, "logits and probabilities and labels")
    for output in ("logits", "probabilities", "labels"):
        assert asked(path, output=output).kind == output
    refused(
        npz(tmp_path, id=IDS, logits=P), "logits, where probabilities are asked for", output="probabilities"
    )


def test_csv_as_people_write_it(tmp_path):
    rows = list(zip(IDS, TOP, strict=True))
    for head, body in (
        ("id,label", [f"{i},{t}" for i, t in rows]),
        ('"id","label","time"', [f'{i}, {t} ,"2020-01-01, noon"' for i, t in rows]),
        ("\ufefflabel,id\r", [f"{t},{i}\r" for i, t in rows]),
        ("id,label_1,label_2", [f"{i},{t},{(t + 1) % 3}" for i, t in rows]),
        ("id,label,score", [f"{i},{t},0.5" for i, t in rows]),
    ):
        path = text(tmp_path, "\n".join([head, *body]))
        assert asked(path).labels().tolist() == TOP.tolist()
    for head in (
        "id,0,1,2",
        "id,p_0,p_1,p_2",
        "id,class 1,class 2,class 3",
        "id,Prob0,Prob1,Prob2",
        "id,yes,no,1",
    ):
        path = text(
            tmp_path,
            "\n".join([head, *(f"{i},{','.join(map(str, p))}" for i, p in zip(IDS, P, strict=True))]),
        )
        np.testing.assert_allclose(asked(path, class_names=NAMES).values.numpy(), P, atol=1e-6)
    refused(path, "yes, no")  # the order of named columns is not guessed


def test_a_name_that_is_a_number_is_a_name(tmp_path):
    path = text(tmp_path, "id,label\n11,1\n5,0\n")
    assert asked(path, IMAGES[[0, 2]], class_names=NAMES).labels().tolist() == [2, 0]
    for kind in ("true,false,nan", "NA,null,2020-01-01"):
        path = text(
            tmp_path, "id,label\n" + "".join(f"{i},{n}\n" for i, n in zip(IDS, kind.split(","), strict=False))
        )
        assert asked(path, IMAGES[:3], class_names=kind.split(",")).labels().tolist() == [0, 1, 2]


def test_json_lines(tmp_path):
    rows = [
        {"id": int(i), "label": ["yes", "no", "maybe"][t] if n % 2 else int(t)}
        for n, (i, t) in enumerate(zip(IDS, TOP, strict=True))
    ]
    path = text(tmp_path, "\n\n".join(map(json.dumps, rows)))
    assert asked(path, class_names=["yes", "no", "maybe"]).labels().tolist() == TOP.tolist()
    path = text(
        tmp_path,
        "\n".join(json.dumps({"id": int(i), "probabilities": list(p)}) for i, p in zip(IDS, P, strict=True)),
    )
    assert asked(path).kind == "probabilities"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("a.csv", "parquet", "read as Parquet"), ("a.txt", "npz", "read as npz"),
        ("a.npz", "csv", "read as CSV"),
        ("a.parquet", "json", "read as JSON lines"), ("a.txt", "csv", None), ("a.jsonl", "json", None),
        ("a.dat", "npz", None), ("A.CSV", "csv", None),
    ],
)  # fmt: skip
def test_a_name_that_says_another_format_is_told(tmp_path, name, kind, said):
    path, frame = tmp_path / name, pd.DataFrame({"id": IDS, "label": TOP})
    if kind == "npz":
        with open(path, "wb") as stream:
            np.savez(stream, id=IDS, labels=TOP)
    else:
        writers = {"csv": frame.to_csv, "parquet": frame.to_parquet, "json": frame.to_json}
        how = {"csv": {"index": False}, "parquet": {}, "json": {"orient": "records", "lines": True}}
        writers[kind](path, **how[kind])
    suspect = opened(path)
    assert torch.equal(suspect.answers_to([IMAGES], CLASSES).values, torch.from_numpy(TOP))
    assert bool(suspect.notes) == (said is not None)
    assert said is None or f"{name} was {said}, which it is by content" in suspect.notes[0]


def test_empty_cells_are_no_answers(tmp_path):
    for body in ("id,label\n11,0\n5,\n8,2\n", "id,0,1,2\n11,.5,.3,.2\n5,,,\n8,.2,.2,.6\n",
                 "id,label_1,score_1,label_2,score_2\n11,0,.5,1,.3\n5,,,,\n8,2,.6,,\n"):  # fmt: skip
        suspect = opened(text(tmp_path, body))
        assert suspect.answered.tolist() == [8, 11]
        with pytest.raises(InputError, match="none to 5"):
            suspect.answers_to([IMAGES[2:3]], CLASSES)
    assert opened(text(tmp_path, '{"id": 5}\n{"id": 8, "label": 1}')).answered.tolist() == [8]


def test_what_is_no_query_is_refused(tmp_path):
    path = npz(tmp_path, id=IDS, labels=TOP)
    with pytest.raises(InputError, match="another"):
        opened(path).answers_to([IMAGES + 1e-6])


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "file"),
        ("\0\1\2", "file"),
        ("id\n1\n", "columns"),
        ("label\n1\n", "label"),
        ("id,label\n", "no rows"),
        ("id,label\nx,1\n", "x"),
        ("id,label\n1.5,1\n", "1.5"),
        ("id,label\n,1\n", "empty"),
        ("id,label\n99999999999999999999,1\n", "99999999999999999999"),
        ("id,id,label\n1,1,1\n", "id"),
        ("id,label\n11,-1\n", "-1"),
        ("id,label\n11,3\n", "'3'"),
        ("id,label\n11,cat\n", "'cat'"),
        ("id,label\n11,1.0\n", "1.0"),
        ("id,label\n11,1\n11,1\n", "11"),
        ("id,label\n11,1\n12,1\n", "12"),
        ("id,label\n11,1,2\n", "file"),
        ("id;label\n11;1\n", "id;label"),
        ("id,label,0,1,2\n11,1,0,1,0\n", "output="),
        ("id,a_0,a_1,a_2,b_0,b_1,b_2\n11,1,0,1,0,1,1\n", "output="),
        ("id,0,2\n11,1,0\n", "columns"),
        ("id,0,1,2\n11,1,0,cat\n", "cat"),
        ("id,label_1,label_3\n11,1,0\n", "gaps"),
        ("id,label_1,score_1,score_2\n11,1,0,1\n", "gaps"),
        ("id,label_1,score_1,label_2,score_2\n11,1,.5,1,.5\n", "twice"),
        ("id,label_1,score_1\n11,1,-.5\n", "negative"),
        ('{"id": 11, "label": 1', "json"),
        ('{"id": 11, "label": 1}\n[1]', "JSON objects"),
        ('{"id": 11, "label": 1.5}', "1.5"),
        ('{"id": 11, "label": true}', "True"),
        ('{"id": "11", "label": 1}', "file"),
        ('{"id": 1e400, "label": 1}', "file"),
        ('{"id": 11, "label": {"a": 1}}', "label"),
        ('{"id": 11, "logits": [1, 2, 3]}\n{"id": 5, "logits": [1, 2]}', "equal length"),
        ('{"id": 11, "logits": [1, "a", 3]}', "file"),
        ('{"id": 11, "x": ' + "[" * 200_000 + "]" * 200_000 + ', "label": 1}', "RecursionError"),
        ('{"id": ' + "1" * 10_000 + ', "label": 1}', "file"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path, body, said):
    refused(text(tmp_path, body), said)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"id": IDS}, "none"),
        ({"logits": P}, "logits"),
        ({"id": IDS.astype(float), "logits": P}, "float64"),
        ({"id": IDS[:, None], "logits": P}, "[6, 1]"),
        ({"id": IDS[:5], "logits": P}, "[6, 3]"),
        ({"id": IDS, "logits": P[:, 0]}, "[6]"),
        ({"id": IDS, "logits": P[:, :1]}, "[6, 1]"),
        ({"id": IDS, "logits": P.astype(complex)}, "complex"),
        ({"id": IDS, "logits": P.astype(str)}, "<U"),
        ({"id": IDS, "logits": P.astype(object)}, "object"),
        ({"id": IDS, "labels": TOP.astype(float)}, "float64"),
        ({"id": IDS, "labels": TOP - 1}, "-1"),
        ({"id": IDS, "labels": TOP + 2**40}, 2**40),
        ({"id": IDS, "labels": P}, "[6, 3]"),
        ({"id": np.array(IDS, object), "labels": TOP}, "object"),
        ({"id": IDS.astype(np.uint64) + np.uint64(2**63), "labels": TOP}, "2^63"),
        ({"id": np.arange(10_000), "labels": np.zeros(10_000, int)}, "10000"),
        ({"id": IDS, "labels": np.zeros(6, [("a", int)])}, "labels"),
    ],
)
def test_npz_that_are_refused(tmp_path, arrays, said):
    refused(npz(tmp_path, **arrays), said)


def test_scores_that_no_model_gives_are_the_suspects(tmp_path):
    for value in (np.nan, np.inf, 1e300):
        values = P.copy()
        values[2, 1] = value
        with pytest.raises(SuspectError, match="finite"):
            asked(npz(tmp_path, id=IDS, logits=values))
    with pytest.raises(SuspectError, match="of 3 classes"):
        asked(npz(tmp_path, id=IDS, logits=np.ones((6, 5)).cumsum(1)))


def header(shape: str, descr: str = "'<i8'") -> bytes:
    said = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    said += b" " * (-(len(said) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(said)) + said


def zipped(tmp_path: Path, method: int = zipfile.ZIP_STORED, **files: bytes) -> Path:
    with zipfile.ZipFile(tmp_path / "z.npz", "w", method) as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return tmp_path / "z.npz"


def test_arrays_that_claim_more_than_they_hold(tmp_path):
    body = IDS.astype("<i8").tobytes()
    for bad in (
        header("(1000000000,)") + body,
        header("(4611686018427387904,)") + body,
        header("(4611686018427387904, 4)") + body,
        header("(-6,)") + body,
        header("(6,)", "'<i8'") + body[:-1],
        header("(6,)", "'|V0'") + body,
        header("(6,)", "'|O'") + body,
        header("(6,)", "'<M8[s]'") + body,
        header("(6,)", "[('a', '<i8')]") + body,
        header("(" * 3000 + "6" + ")" * 3000) + body,
        b"\x93NUMPY\1\0\xff\xff" + body,
        b"\x93NUMPY\x09\0" + body,
        b"",
        body,
    ):
        refused(zipped(tmp_path, id=header("(6,)") + body, labels=bad), "labels")
        refused(zipped(tmp_path, id=bad, labels=header("(6,)") + body), "id")


def test_bombs(tmp_path):
    limit = 32 << 20
    tracemalloc.start()
    zeros = bytes(40 << 20)
    tracemalloc.reset_peak()
    start, _ = tracemalloc.get_traced_memory()
    small = header("(6,)") + IDS.astype("<i8").tobytes()
    refused(zipped(tmp_path, zipfile.ZIP_DEFLATED, id=small, labels=header("(5242880,)") + zeros), "100-fold")
    refused(zipped(tmp_path, id=small, labels=header("(5242880,)") + zeros), "bytes")
    refused(text(tmp_path, zeros), "bytes")
    del zeros
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(5000):
            archive.writestr(str(number), b"")
    refused(text(tmp_path, many.getvalue()), "records")
    assert tracemalloc.get_traced_memory()[1] - start < limit + (40 << 20)  # the bomb itself, made above
    tracemalloc.stop()


def test_parquet_bombs(tmp_path):
    path = tmp_path / "a.parquet"
    count = 10_000_000
    ones = pa.array(np.zeros(count, np.int64))
    parquet.write_table(pa.table({"id": ones, "label": ones}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    refused(path, count)
    ids = pa.array(IDS)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(COUNT, np.int32)), pa.array(["x" * (32 << 20)]))
    parquet.write_table(pa.table({"id": ids, "label": long}), path, compression="zstd")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "label")
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10
    )  # KiB; six of them as text: 192
    nested = pa.array([[float(i)] * 3 for i in range(COUNT)])
    parquet.write_table(pa.table({"id": ids, "logits": nested}), path)
    refused(path, "without lists")
    parquet.write_table(pa.table({"id": ids, "label": pa.array([True] * COUNT)}), path)
    refused(path, "True")
    for column in (pa.array(["a"] * COUNT), pa.array([b"1"] * COUNT), pa.array([1] * COUNT, pa.date32())):
        parquet.write_table(pa.table({"id": ids, "0": column, "1": column, "2": column}), path)
        refused(path, "a column of")
    parquet.write_table(pa.table({"id": pa.array([2**64 - 1], pa.uint64()), "label": pa.array([1])}), path)
    refused(path, 2**64 - 1)


def test_too_many_rows_and_columns(tmp_path):
    refused(text(tmp_path, "id,label\n" + "11,1\n" * 2000), "rows")
    refused(text(tmp_path, '{"id": 11, "label": 1}\n' * 2000), "rows")
    refused(text(tmp_path, "id,label," + ",".join(map(str, range(5000))) + "\n"), "columns")
    refused(text(tmp_path, json.dumps({"id": 11, "label": 1, **{str(i): i for i in range(5000)}})), "columns")


def test_no_file(tmp_path):
    refused(tmp_path / "nowhere", "nowhere")
    refused(tmp_path, "file")
    with pytest.raises(InputError, match="scores"):
        opened(text(tmp_path, "id,label\n11,1\n"), output="scores")


def test_mutated_files_never_crash(tmp_path):
    """Any bytes: an answer, or a typed error."""
    table = pa.table({"id": IDS, "label": [NAMES[t] for t in TOP]})
    parquet.write_table(table, tmp_path / "a.parquet")
    seeds = [
        npz(tmp_path, np.savez, id=IDS, logits=P).read_bytes(),
        npz(tmp_path, np.savez_compressed, id=IDS, labels=TOP).read_bytes(),
        (tmp_path / "a.parquet").read_bytes(),
        b"id,label_1,score_1\n" + b"".join(f"{i},{t},0.5\n".encode() for i, t in zip(IDS, TOP, strict=True)),
        b"\n".join(
            json.dumps({"id": int(i), "logits": list(p)}).encode() for i, p in zip(IDS, P, strict=True)
        ),
    ]
    rng, read = np.random.default_rng(0), 0
    for seed in seeds:
        for _ in range(120):
            data = bytearray(seed)
            for at in rng.integers(0, len(data), rng.integers(1, 6)):
                data[at] = rng.integers(256)
            cut = bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data)
            try:
                asked(text(tmp_path, cut), class_names=NAMES)
                read += 1
            except UapfastError:
                pass
    assert 0 < read < 600
