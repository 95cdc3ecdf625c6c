"""The options that the commands of this folder share."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser_for(
    about: str | None, *, zoo: bool = True, jobs: int | None = None, victims: bool = False
) -> argparse.ArgumentParser:
    """A parser with what is asked for.

    Args:
        about: the module's docstring.
        zoo: ``--zoo DIR``, which has to be given.
        jobs: ``--jobs``, with this default.
        victims: ``--victims ARCH ...``.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if zoo:
        parser.add_argument("--zoo", type=Path, required=True, metavar="DIR", help="what `zoo` made")
    if jobs is not None:
        parser.add_argument("--jobs", type=int, default=jobs, help="processes")
    if victims:
        parser.add_argument("--victims", nargs="+", metavar="ARCH", help="only these")
    return parser
