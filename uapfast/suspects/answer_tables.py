"""Recorded answers as tables: CSV and Parquet by pyarrow, JSON a line; which columns hold the answers."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import InputError, fault
from uapfast.models.labels import ClassNames, some

RULE = "id and: label; or a column a class; or label_1, score_1, ...; or logits or probabilities (lists)"
LISTS = ("logits", "probabilities")
SAYS = {"logit": "logits", "logits": "logits", "prob": "probabilities", "probs": "probabilities",
        "probability": "probabilities", "probabilities": "probabilities"}  # fmt: skip
TOP = re.compile(r"(label|score)_(\d{1,6})")
NUMBERED = re.compile(r"(.*?)[_ ]?(\d{1,7})")
Flags = NDArray[np.bool_]
WHOLE = re.compile(r"[+-]?\d{1,15}")
BATCH_ROWS = 1024
LINE = 64 << 20  # bytes of one line of JSON


@dataclass(frozen=True)
class Columns:
    """A table whose columns are read when it is known which are needed.

    Attributes:
        names: of all columns.
        load: (names of text, of numbers, of lists) -> table with these and ``id``, at most so many rows.
    """

    names: list[str]
    load: Callable[[list[str], list[str], list[str]], Any]


@dataclass(frozen=True)
class TableForm:
    """Where the answers stand: ``labels`` best first, ``scores`` with them or one per class, or ``lists``."""

    labels: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    output: str = "auto"


def read_columns(file: Path, kind: str, where: str, rows: int, columns: int) -> Columns:
    """Open a table: its names are read and checked, its rows when :attr:`Columns.load` is called.

    Args:
        file: the table.
        kind: ``csv``, ``parquet`` or ``json``.
        where: named in errors.
        rows: that it may have.
        columns: that it may have.

    Raises:
        InputError: it cannot be read, or has more.
    """
    opened = {"csv": _csv, "parquet": _parquet, "json": _json}[kind]
    found = guarded(lambda: opened(file, where, rows), kind, where)
    names = found.names
    if len(names) > columns:
        raise InputError(where, "columns", f"at most {columns}", len(names))
    double = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if double:
        raise InputError(where, "columns", "named differently", some(double))
    if "id" not in names:
        raise InputError(where, "columns", RULE, some(names) or "none")
    return Columns(names, lambda *wanted: guarded(lambda: found.load(*wanted), kind, where))


def guarded(call: Callable[[], Any], kind: str, where: str) -> Any:
    """What ``call`` returns; whatever it finds wrong with a table becomes an ``InputError``."""
    import pyarrow as pa

    try:
        return call()
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, RecursionError, OverflowError) as exc:
        raise InputError(where, "file", f"a whole {kind} table with {RULE}", fault(exc, 300)) from exc


def _bounded(batches: Iterator[Any], rows: int, where: str) -> list[Any]:
    held, count = [], 0
    for batch in batches:
        count += batch.num_rows
        if count > rows:
            raise InputError(where, "rows", f"at most {rows}, for these queries", f"{count} or more")
        held.append(batch)
    return held


def _csv(file: Path, where: str, rows: int) -> Columns:
    import pyarrow as pa
    from pyarrow import csv

    with csv.open_csv(file) as reader:
        names = list(reader.schema.names)

    def load(texts: list[str], numbers: list[str], lists: list[str]) -> Any:
        types = {
            "id": pa.int64(),
            **dict.fromkeys(texts, pa.string()),
            **dict.fromkeys(numbers, pa.float64()),
        }
        options = csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
        )
        with csv.open_csv(file, convert_options=options) as reader:
            schema = reader.schema
            return pa.Table.from_batches(_bounded(iter(reader), rows, where), schema)

    return Columns(names, load)


def _parquet(file: Path, where: str, rows: int) -> Columns:
    import pyarrow as pa
    from pyarrow import parquet

    def opened(texts: list[str]) -> Any:
        # dictionaries stay dictionaries: a long text that every row points to is in memory once
        return parquet.ParquetFile(file, read_dictionary=texts, memory_map=False)

    with opened([]) as first:
        if first.metadata.num_rows > rows:
            raise InputError(where, "rows", f"at most {rows}, for these queries", first.metadata.num_rows)
        names = list(first.schema_arrow.names)
        nested = any(pa.types.is_nested(field.type) for field in first.schema_arrow)
    if nested:
        raise InputError(where, "columns", "plain, without lists or structures", some(names))

    def load(texts: list[str], numbers: list[str], lists: list[str]) -> Any:
        with opened(texts) as reader:
            batches = reader.iter_batches(BATCH_ROWS, columns=["id", *texts, *numbers], use_threads=False)
            return pa.Table.from_batches(_bounded(batches, rows, where))

    return Columns(names, load)


def _json(file: Path, where: str, rows: int) -> Columns:
    """The standard library's reader: pyarrow's crashes on lists that are nested deeply."""
    held: list[dict[str, Any]] = []
    with open(file, encoding="utf-8-sig") as stream:
        for line in iter(lambda: stream.readline(LINE), ""):
            if line.strip():
                held.append(json.loads(line))
            if len(held) > rows:
                raise InputError(where, "rows", f"at most {rows}, for these queries", f"{rows + 1} or more")
    if not all(isinstance(one, dict) for one in held):
        raise InputError(where, "lines", "JSON objects", "others")
    names = list(dict.fromkeys(itertools.chain.from_iterable(held)))

    def load(texts: list[str], numbers: list[str], lists: list[str]) -> Any:
        import pyarrow as pa

        types = {"id": pa.int64(), **dict.fromkeys(numbers, pa.float64())}
        types |= dict.fromkeys(lists, pa.list_(pa.float64()))
        wanted = {n: pa.array([one.get(n) for one in held], types.get(n)) for n in ("id", *numbers, *lists)}
        named = {n: _mixed([_plain(one.get(n), where) for one in held]) for n in texts}
        return pa.table(wanted | named)

    return Columns(names, load)


def _mixed(values: list[int | str | None]) -> Any:
    """Labels; as text where one of them is."""
    import pyarrow as pa

    if any(isinstance(value, str) for value in values):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values, pa.int64())


def _plain(value: Any, where: str) -> int | str | None:
    if value is None or isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise InputError(where, "label", "a number or name of a class", repr(value)[:80])


# -- which columns ---------------------------------------------------------------------------------
def table_form(
    columns: list[str], where: str, width: int, names: ClassNames | None, output: str
) -> TableForm:
    """Where a table with these columns holds the answers.

    Raises:
        InputError: nowhere, or in more than one place and ``output`` does not say which.
    """
    found = [*_top(columns, where), *_by_class(columns, width, names)]
    found += [TableForm(lists=(key,), output=key) for key in LISTS if key in columns]
    labels = [TableForm(labels=("label",), output="labels")] if "label" in columns else []
    if output == "labels" and labels:
        return labels[0]
    fitting = found if output in ("logits", "probabilities") else [*found, *labels]
    if output in ("logits", "probabilities"):
        fitting = [form for form in fitting if form.output == output] or fitting
    if len(fitting) != 1:
        rule = f"{RULE} (give output= where there are several, class names where columns have those)"
        raise InputError(where, "columns", rule, some(columns, 12))
    return fitting[0]


def _top(columns: list[str], where: str) -> Iterator[TableForm]:
    """``label_1, score_1, ...``, counted from 0 or 1."""
    places: dict[str, list[int]] = {"label": [], "score": []}
    for match in filter(None, map(TOP.fullmatch, columns)):
        places[match[1]].append(int(match[2]))
    if not places["label"]:
        return
    numbers, first = sorted(places["label"]), min(places["label"])
    whole = first in (0, 1) and numbers == list(range(first, first + len(numbers)))
    if not whole or sorted(places["score"]) not in ([], numbers):
        got = some([c for c in columns if TOP.fullmatch(c)], 12)
        raise InputError(where, "columns", "label_1, score_1, label_2, score_2, ... without gaps", got)
    labels = tuple(f"label_{i}" for i in numbers)
    if places["score"]:
        yield TableForm(labels=labels, scores=tuple(f"score_{i}" for i in numbers))
    else:
        yield TableForm(labels=labels[:1], output="labels")


def _by_class(columns: list[str], width: int, names: ClassNames | None) -> Iterator[TableForm]:
    """A column a class: by the class list's names, or numbered from 0 (or from 1, if so many as classes)."""
    if names is not None and len(set(names.names)) == len(names) and set(names.names) <= set(columns):
        yield TableForm(scores=names.names)
        return
    groups: dict[str, dict[int, str]] = {}
    for column in columns:
        match = NUMBERED.fullmatch(column)
        if match and match[1] not in ("label", "score"):
            groups.setdefault(match[1], {})[int(match[2])] = column
    for prefix, group in groups.items():
        numbers, count = sorted(group), len(group)
        from_one = numbers == list(range(1, count + 1)) and count == width
        if count > 1 and (numbers == list(range(count)) or from_one):
            yield TableForm(scores=tuple(group[i] for i in numbers), output=SAYS.get(prefix.lower(), "auto"))


# -- from columns to answers -----------------------------------------------------------------------
def answers(
    columns: Columns, where: str, width: int, names: ClassNames | None, output: str
) -> tuple[NDArray[np.int64], Tensor, str]:
    """Ids ``[N]``, values (float32 ``[N,K]`` or int64 ``[N]``) and what they are; empty rows are left out."""
    form = table_form(columns.names, where, width, names, output)
    table = columns.load(list(form.labels), list(form.scores), list(form.lists))
    ids = _ids(table, where)
    there: Flags
    said = form.output if output == "auto" else output
    if form.lists:
        values, there = _from_lists(table[form.lists[0]], where)
    elif not form.labels:
        values = np.stack([_floats(table[name]) for name in form.scores], 1)
        there = np.stack([table[name].is_valid().to_numpy() for name in form.scores], 1)
        there = np.asarray(there.any(1))
    elif not form.scores:
        found = _labels(table[form.labels[0]], where, width, names)
        there = found >= 0
        return ids[there], torch.from_numpy(found[there]), "labels"
    else:
        values, there = _top_scores(table, form, where, width, names)
    if not form.labels and names is not None and values.shape[1] != len(names):
        raise InputError(where, "classes", f"{len(names)}, as the class list has", values.shape[1])
    with np.errstate(over="ignore"):
        return ids[there], torch.from_numpy(values[there].astype(np.float32)), said


def _ids(table: Any, where: str) -> NDArray[np.int64]:
    import pyarrow as pa

    column = table["id"]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InputError(
            where, "id", "a whole number in every row", f"{column.type}, {column.null_count} empty"
        )
    out: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return out


def _floats(column: Any) -> NDArray[np.float64]:
    import pyarrow as pa

    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise TypeError(f"a column of {column.type} where scores are meant")
    out: NDArray[np.float64] = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    return out


def _from_lists(column: Any, where: str) -> tuple[NDArray[np.float64], Flags]:
    there: Flags = column.is_valid().to_numpy()
    lengths = {len(one) for one in column.drop_null().to_pylist()}
    if len(lengths) > 1:
        raise InputError(where, "lists", "of equal length", sorted(lengths)[:4])
    width = lengths.pop() if lengths else 0
    out = np.full((len(there), width), np.nan)
    out[there] = column.combine_chunks().flatten().fill_null(np.nan).to_numpy().reshape(-1, width)
    return out, there


def label(value: int | str, where: str, width: int, names: ClassNames | None) -> int:
    """The number of the class that a label means.

    Raises:
        InputError: it is neither a number below ``width`` nor in the class list; it is named.
    """
    whole = value if isinstance(value, int) else None
    if isinstance(value, str):
        text = value.strip()
        whole = int(text) if WHOLE.fullmatch(text) else None
        if names is not None and (whole is None or text in names.names):
            return names.places(value, where)[0]
    if whole is None or not 0 <= whole < width:
        rule = f"a class 0..{width - 1}, or a name in the class list (class names)"
        raise InputError(where, "label", rule, repr(value)[:200])
    return whole


def _labels(column: Any, where: str, width: int, names: ClassNames | None) -> NDArray[np.int64]:
    """Numbers of classes, -1 where there is none."""
    import pyarrow as pa

    column = column.combine_chunks()
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    texts = coded.dictionary.to_pylist()
    places: NDArray[np.int64] = coded.indices.cast(pa.int64()).fill_null(-1).to_numpy()
    used = {int(i): _plain(texts[i], where) for i in np.unique(places) if i >= 0}
    known = np.full(len(texts) + 1, -1, np.int64)  # the last stands for no label
    for i, value in used.items():
        known[i] = -1 if value is None else label(value, where, width, names)
    out: NDArray[np.int64] = known[places]
    return out


def _top_scores(
    table: Any, form: TableForm, where: str, width: int, names: ClassNames | None
) -> tuple[NDArray[np.float64], Flags]:
    out, counts = np.zeros((table.num_rows, width)), np.zeros((table.num_rows, width), np.int64)
    for name, score in zip(form.labels, form.scores, strict=True):
        found, value = _labels(table[name], where, width, names), _floats(table[score])
        rows = np.flatnonzero(found >= 0)
        out[rows, found[rows]] = value[rows]
        counts[rows, found[rows]] += 1
    if counts.max(initial=0) > 1:
        row, place = (int(i[0]) for i in np.nonzero(counts > 1))
        raise InputError(
            where, "labels", "different within one answer", f"class {place} twice in row {row + 1}"
        )
    if (out < 0).any() and not counts[counts.any(1)].all():
        raise InputError(where, "scores", "those of all classes where some are negative", float(out.min()))
    return out, np.asarray(counts.any(1))


__all__ = ["Columns", "answers", "guarded", "label", "read_columns"]
