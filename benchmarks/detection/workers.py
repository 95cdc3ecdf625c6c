"""Processes of one thread each, which end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track

Given, Found = TypeVar("Given"), TypeVar("Found")


def _begin() -> None:
    """One thread for torch; a killed parent takes this process with it."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def workers(jobs: int) -> ProcessPoolExecutor:
    """``jobs`` spawned processes; leave it as a context."""
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin)


def over(task: Callable[[Given], Found], items: Sequence[Given], jobs: int, what: str) -> list[Found]:
    """What ``task`` makes of each item, in order, with progress on stderr."""
    with workers(jobs) as pool:
        found = pool.map(task, items)
        return list(track(found, what, total=len(items), console=Console(stderr=True)))
