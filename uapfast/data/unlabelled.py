"""Images alone, as a service keeps its questions: unlabelled, and maybe more than memory holds."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from uapfast.data.pictures import bad_data
from uapfast.errors import DataError, fault

MEMBER = "x.npy"


def stored_images(path: str | Path) -> np.ndarray[Any, Any]:
    """The array ``x`` of an ``.npz``, whatever else is in it; pages are read from disk as they are needed.

    Args:
        path: what ``numpy.savez`` or ``numpy.savez_compressed`` wrote. A copy of ``x`` is unpacked to a
            temporary file that goes with the array.

    Returns:
        The array as it is, not checked; to write to it changes no file.

    Raises:
        DataError: no such file, no ``x`` in it, or one that is not whole; no room to unpack it.
    """
    path = Path(path)
    if not path.is_file():
        raise bad_data("log", "an existing file", path)
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="uapfast-") as folder:
            if MEMBER not in archive.namelist():
                got = ", ".join(n.removesuffix(".npy") for n in archive.namelist()) or "none"
                raise bad_data("log", f"an .npz with an array x ({path})", got)
            plain = Path(folder) / MEMBER
            with archive.open(MEMBER) as packed, open(plain, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)  # checks the CRC at its end
            found: np.ndarray[Any, Any] = np.load(plain, mmap_mode="c", allow_pickle=False)
            return found
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as exc:
        raise bad_data("log", f"a whole .npz of plain arrays ({path})", fault(exc)) from exc


__all__ = ["stored_images"]
