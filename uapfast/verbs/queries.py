"""``queries``: what is asked, in a form that somebody else can ask a suspect with.

The other side must not learn how the queries are built: not which belong together, which are moved by a UAP,
which are probes. So every query has an id that only the owner of the reference can place, files are sorted by
id, and a query that occurs twice is handed out once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uapfast.errors import MissingDependency
from uapfast.files import atomic_folder
from uapfast.reference import Reference, as_reference
from uapfast.suspects.pixels import off_grid, to_uint8
from uapfast.suspects.recorded import content

FORMAT = 1
ID_BITS = 53  # whole numbers that every reader of CSV and JSON keeps
CHUNK = 256  # images hashed at a time
PICTURES = {1: "grayscale", 3: "RGB"}

README = """\
Queries for one model
=====================

queries.npz  id int64 [{count}]; x {dtype} [{count},{c},{h},{w}]{scale}
{pictures}
Show every picture to the model, in any order, each as it would be in ordinary use (with the model's own
resizing and normalisation), and write down what it answers beside the id. Do not crop, augment or recompress
what is shown. Send back one of these:

  answers.npz      id [N], and logits [N,K], probabilities [N,K], or labels [N]
  answers.csv      (or .parquet, or one JSON object a line) with id and label; or id and a column a class
                   (p_0, p_1, ...); or id, label_1, score_1, label_2, score_2, ...

As much of each answer as the model gives: logits or all probabilities say more than labels. What is not
answered may be left out.
"""


@dataclass(frozen=True, eq=False)
class QueryIds:
    """The ids of a reference's queries.

    Attributes:
        ids: int64 ``[V,B,n]``, in the order in which they are asked. Equal images have one id.
        probe_ids: int64 ``[P]``.
        known: content of each image -> its id.
        off_grid: largest distance of a value from the 1/255 grid, in 0..1; 0 where it is rounding alone.
    """

    ids: NDArray[np.int64]
    probe_ids: NDArray[np.int64]
    known: dict[bytes, int]
    off_grid: float


def numbered(reference: Reference) -> QueryIds:
    """Number a reference's queries: the same for the same reference, and told by nothing else.

    The key is made of what is never handed out, or shown in a verdict: how the pool's models answer.
    """
    key = hashlib.sha256(b"uapfast queries")
    for tensor in (reference.answers, reference.labels, reference.plan.assign, reference.uaps):
        key.update(tensor.contiguous().numpy().tobytes())
    known: dict[bytes, int] = {}
    used: set[int] = set()
    ids: list[int] = []
    worst = 0.0
    for images in _images(reference):
        worst = max(worst, off_grid(images))
        for image in images:
            found = known.get(content(image))
            if found is None:
                found = known[content(image)] = _new_id(key.digest(), len(ids), used)
            ids.append(found)
    plan = reference.plan
    asked = np.array(ids[: plan.queries], np.int64).reshape(plan.views, plan.blocks, plan.per_view)
    probes = np.array(ids[plan.queries :], np.int64)
    return QueryIds(asked, probes, known, worst / 255.0)


def _images(reference: Reference) -> Iterator[Tensor]:
    yield from reference.plan.chunks()
    if reference.probe_images is not None:
        yield reference.probe_images


def _new_id(key: bytes, number: int, used: set[int]) -> int:
    """An id of a query from its number; another one if some query has it."""
    for attempt in range(1 << 16):  # two of thousands are alike once in a billion references
        text = f"{number} {attempt}".encode()
        found = int.from_bytes(hashlib.blake2b(text, key=key, digest_size=8).digest(), "big") >> (
            64 - ID_BITS
        )
        if found not in used:
            used.add(found)
            return found
    raise AssertionError("no id is free")


@dataclass(frozen=True)
class WrittenQueries:
    """What :func:`write_queries` wrote.

    Attributes:
        queries: images, probes included; each once.
        asked: queries of the reference, some of them perhaps equal.
        probes: images besides, which are never scored (docs/verdicts.md, section 1).
        shape: of one, ``[C,H,W]``.
        dtype: of ``x``: ``uint8`` where every value lies on the 1/255 grid, else ``float32`` in 0..1.
        png: pictures; 0 where images have neither 1 nor 3 channels.
        png_rounds: by how much PNG rounds a value, at most, in 0..1.
        sha256: of ids and images.
    """

    queries: int
    asked: int
    probes: int
    shape: tuple[int, ...]
    dtype: str
    png: int
    png_rounds: float
    sha256: str

    def lines(self) -> list[str]:
        """For people."""
        twice = self.asked + self.probes - self.queries
        less = f", less {twice} that occur twice" if twice else ""
        of = f"{self.asked} queries and {self.probes} probes, which show whether it was asked rightly{less}"
        said = [f"{self.queries} images {list(self.shape)}, {self.dtype}: {of}"]
        if not self.png:
            said.append(f"no PNG: they have {self.shape[0]} channels, and pictures 1 or 3")
        elif self.png_rounds:
            said.append(
                f"queries lie off the 1/255 grid: PNG rounds them by up to {self.png_rounds:.2g} of 0..1, "
                "queries.npz does not"
            )
        return said


def write_queries(
    reference: Reference | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> WrittenQueries:
    """Write the queries of a reference, probes included, for somebody else to send; all or nothing.

    Args:
        reference: a reference, or its file.
        out: a new or empty folder. It gets ``queries.npz`` (``id`` int64 ``[Q]``, ``x`` ``[Q,C,H,W]``),
            ``png/ID.png`` (8 bits), ``queries.json`` and ``README.txt``.
        progress: called as ``progress(done, total, what)``.

    Raises:
        StorageError: the folder is in use or cannot be written.
        MissingDependency: Pillow is not installed (for PNG).
    """
    reference = as_reference(reference, "queries")
    tell = progress or (lambda done, total, what: None)
    made = numbered(reference)
    ids, shape = (
        np.sort(np.array(sorted(set(made.known.values())), np.int64)),
        reference.shape,
    )
    with atomic_folder(out) as folder:
        dtype = np.float32 if made.off_grid else np.uint8
        # in a file first: the pictures of a large reference need not lie in memory
        x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=dtype, shape=(len(ids), *shape))
        _fill(x, ids, made, reference, tell)
        with open(folder / "queries.npz", "wb") as stream:
            np.savez(stream, id=ids, x=x)
        count = _pictures(folder, ids, x, tell) if shape[0] in PICTURES else 0
        rounds = made.off_grid if count else 0.0
        asked, probes = made.ids.size, len(made.probe_ids)
        found = WrittenQueries(len(ids), asked, probes, shape, str(x.dtype), count, rounds, _digest(ids, x))
        del x
        (folder / "x.npy").unlink()
        _describe(folder, found)
    return found


def _fill(x: Any, ids: NDArray[np.int64], made: QueryIds, reference: Reference, tell: Any) -> None:
    """Every image to the row of its id."""
    order = np.concatenate([made.ids.ravel(), made.probe_ids])
    done = 0
    for images in _images(reference):
        pixels = images.numpy() if x.dtype == np.float32 else to_uint8(images).numpy()
        rows = np.searchsorted(ids, order[done : done + len(images)])
        x[rows] = pixels.astype(x.dtype)
        done += len(images)
        tell(done, len(order), "queries.npz")


def _pictures(folder: Path, ids: NDArray[np.int64], x: Any, tell: Any) -> int:
    try:
        from PIL import Image
    except ImportError as exc:
        raise MissingDependency("queries: PNG needs Pillow (pip install pillow)") from exc
    (folder / "png").mkdir()
    for row, id_ in enumerate(ids):
        one = x[row] if x.dtype == np.uint8 else (x[row] * np.float32(255)).round().astype(np.uint8)
        flat = one[0] if len(one) == 1 else np.ascontiguousarray(one.transpose(1, 2, 0))
        Image.fromarray(flat).save(folder / "png" / f"{id_}.png", compress_level=1)
        tell(row + 1, len(ids), "png")
    return len(ids)


def _digest(ids: NDArray[np.int64], x: Any) -> str:
    h = hashlib.sha256(ids.astype("<i8").tobytes())
    for at in range(0, len(x), CHUNK):
        h.update(np.ascontiguousarray(x[at : at + CHUNK]).tobytes())
    return h.hexdigest()


def _describe(folder: Path, found: WrittenQueries) -> None:
    c, h, w = found.shape
    pictures = ""
    if found.png:
        exact = "exactly the same images"
        if found.png_rounds:
            exact = (
                f"the same images, ROUNDED by up to {found.png_rounds:.2g} of 0..1: better use queries.npz"
            )
        pictures = f"png/ID.png   8 bits, {PICTURES[c]}; {exact}\n"
    scale = ", 0..255" if found.dtype == "uint8" else ", in 0..1"
    text = README.format(
        count=found.queries, dtype=found.dtype, c=c, h=h, w=w, scale=scale, pictures=pictures
    )
    (folder / "README.txt").write_text(text, encoding="utf-8")
    about = {"format": FORMAT, **vars(found), "shape": list(found.shape)}
    del about["asked"], about["probes"]  # for the owner alone
    (folder / "queries.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


__all__ = ["QueryIds", "WrittenQueries", "numbered", "write_queries"]
