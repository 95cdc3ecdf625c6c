"""One network per architecture; every suspect's weights are copied into the same memory, where that is safe.

A row must be what :func:`uapfast.verify` says of the same file. So the first suspect of every skeleton is
asked on a network made as for ``verify``: built by the factory, filled, frozen. That network is used again
only if it holds nothing besides its weights and answering left no trace in it
(:mod:`uapfast.suspects.networks.traces`); it then goes through ``train()`` and ``eval()`` around each load
where these do something. The second suspect with other tensors, and 2 % of the later ones by the hash of
theirs, are asked on a new network as well (:mod:`uapfast.suspects.networks.proof`), and theirs is the row
that counts. Where the answers differ the network is refuted: from then on every suspect gets a new one.
Rows that rest on reuse are marked ``reused``; those of a refuted network are removed from the store, those of
earlier runs included, and asked again in another pass (:mod:`uapfast.screening.run`), whatever engine gave
them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator

import torch

from uapfast.errors import TimeLimitError, UapfastError
from uapfast.suspects.networks.described import Described
from uapfast.suspects.networks.proof import Proof
from uapfast.suspects.networks.shapes import Shapes
from uapfast.suspects.networks.skeleton import Skeleton
from uapfast.suspects.networks.watch import Watch
from uapfast.threads import is_abandoned

IDLE, IDLE_BYTES = 8, 4 << 30  # skeletons kept without work, and their weights together
POLL = 0.2  # seconds after which who waits for a builder looks whether that one was given up
Build = Callable[[Described], Skeleton]
KNOWN = 1024  # architectures whose shapes are remembered
LARGE = 31 << 20  # bytes; glibc learns from blocks of up to 32 MiB


class Skeletons:
    """Skeletons of every architecture that is met, lent to one thread at a time.

    Args:
        device: where they run, unless ``build`` knows.
        watch: is told when a thread waits for another one's building.
        build: makes one; a plain one by default.
        anew: networks (:attr:`Described.network`) that are built for every suspect.
    """

    def __init__(
        self,
        device: str = "cpu",
        watch: Watch | None = None,
        build: Build | None = None,
        anew: Collection[str] = (),
    ) -> None:
        self._build, self._watch = build or (lambda suspect: Skeleton(suspect, device)), watch or Watch()
        self._idle: OrderedDict[tuple[str, int], Skeleton] = OrderedDict()
        self._shapes: OrderedDict[str, Shapes] = OrderedDict()
        self._anew, self._proofs = frozenset(anew), OrderedDict[str, Proof]()
        self._lock, self._building = threading.Lock(), threading.Lock()
        self._builder: tuple[threading.Thread, str] | None = None
        self._endless: set[str] = set()  # networks whose building was abandoned
        # glibc gives free memory back beyond twice the largest block that was ever freed: without this
        # the memory of every batch, to be faulted in again for the next
        torch.empty(LARGE, dtype=torch.uint8)

    def shapes(self, suspect: Described) -> Shapes:
        """Names and shapes of the weights of a suspect's architecture; raises as :class:`Skeleton`."""
        with self._lock:
            found = self._shapes.get(suspect.network)
        if found is None:
            with self.borrow(suspect) as skeleton:
                found = skeleton.shapes
        return found

    def proof(self, suspect: Described) -> Proof:
        """What is known of the suspect's network."""
        network = suspect.network
        with self._lock:
            found = self._proofs.get(network)
            if found is None:
                found = Proof(network in self._anew)
                self._proofs[network] = found
            return found

    @contextlib.contextmanager
    def borrow(self, suspect: Described, own: bool = False) -> Iterator[Skeleton]:
        """A skeleton of the suspect's architecture; it goes back at the end, unless something broke.

        Args:
            suspect: whose.
            own: a new one for this suspect alone, as always where the network was refuted.
        """
        if own:  # asked once more: the time limit is for each time
            self._watch.begin()
        own = own or self.proof(suspect).refuted
        skeleton = self._take(suspect, own)
        if skeleton is None:
            with self._alone(suspect):  # a user's factory need not be safe in several threads
                skeleton = self._build(suspect)
        if own:
            skeleton.in_place = False
        try:
            yield skeleton
        except UapfastError:  # about the suspect; the next one's weights replace its
            self.give_back(suspect, skeleton)
            raise
        self.give_back(suspect, skeleton)

    @contextlib.contextmanager
    def _alone(self, suspect: Described) -> Iterator[None]:
        while True:
            lock = self._building
            with self._watch.waiting():
                got = lock.acquire(timeout=POLL)
            if got and lock is self._building:
                break
            if got:  # of a builder that was abandoned meanwhile
                lock.release()
        try:
            if suspect.network in self._endless:
                raise TimeLimitError("screen", suspect.arch, "built in time", "no result")
            self._builder = threading.current_thread(), suspect.network
            yield
        finally:
            with self._lock:
                if lock is self._building:
                    self._builder = None
            lock.release()

    def building(self, thread: threading.Thread) -> str | None:
        """The network (:attr:`Described.network`) that a thread is building, or None."""
        builder = self._builder
        return builder[1] if builder is not None and builder[0] is thread else None

    def abandon(self, thread: threading.Thread) -> None:
        """What an abandoned thread was building is never built again, and nobody waits for it any longer.

        What it has borrowed is not lent again (:func:`uapfast.threads.is_abandoned`).
        """
        with self._lock:
            building = self.building(thread)
            if building is not None:
                self._endless.add(building)
                self._building, self._builder = threading.Lock(), None

    def _take(self, suspect: Described, own: bool) -> Skeleton | None:
        network = suspect.network
        with self._lock:
            for key, skeleton in reversed(self._idle.items()):
                if key[0] == network and (skeleton.is_new or not own):
                    return self._idle.pop(key)
        return None

    def give_back(self, suspect: Described, skeleton: Skeleton) -> None:
        """Let others have it; those longest without work are dropped beyond ``IDLE`` and ``IDLE_BYTES``."""
        network, refuted = suspect.network, self.proof(suspect).refuted
        with self._lock:
            if is_abandoned():
                return
            known = self._shapes.setdefault(network, skeleton.shapes)
            if skeleton.is_new or (skeleton.in_place and not refuted):
                self._idle[network, id(skeleton)] = skeleton
            if known == skeleton.shapes and known.places == skeleton.shapes.places:
                skeleton.shapes = known
            while len(self._idle) > IDLE or (len(self._idle) > 1 and self._idle_bytes() > IDLE_BYTES):
                self._idle.popitem(last=False)
            while len(self._shapes) > KNOWN:
                self._shapes.popitem(last=False)

    def _idle_bytes(self) -> int:
        return sum(skeleton.size for skeleton in self._idle.values())


__all__ = ["Skeleton", "Skeletons"]
