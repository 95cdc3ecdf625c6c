"""Sharing suspects out among workers in other processes, any of which may die. Knows nothing of Ray.

A worker reads a suspect, tells the hash of its tensors, and waits to hear whether to ask it: identical
tensors are asked once, whichever workers read them. Results come with every reply. Of a dead worker's
suspects, those that it may have begun are asked again one at a time, so that one that kills whoever asks
it is found out after a few deaths and becomes a row; the others go back as they were. Copies of one that
kills or never ends are not asked.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from uapfast.errors import TimeLimitError, UapfastError, WorkerLostError
from uapfast.screening.engines import AGAIN, Done, late
from uapfast.screening.entry import Entry
from uapfast.screening.errands import BACKLOG, SLOTS, Busy, Errand, Orders, Told
from uapfast.screening.rows import Row

MOST = 256  # suspects that a worker is given ahead, at most
AHEAD = 2.0  # seconds of work that it is given ahead: what a dead worker costs, and the wait at the end
PARKED = 4096  # suspects that wait for the answers to the same tensors, at most
DEATHS = 2  # of workers that had one suspect alone, until it is a row
KILLERS = 2  # suspects of one network that killed before they were read, until it is the network
PAGE = 256  # suspects of such networks that become rows at a time

Known = Callable[[Entry, str], "list[Row] | None"]
Failed = Callable[[Entry, BaseException, "str | None"], "list[Row]"]


class Fault(NamedTuple):
    """Why a suspect is given up; ``seconds`` were too few, if not None."""

    error: UapfastError
    seconds: float | None = None

    def stamp(self, own: str) -> str:
        """For the store: a resumed run tries again, but not with as little time as it had."""
        return AGAIN if self.seconds is None else late(own, self.seconds)


@dataclass(eq=False)
class Ticket:
    """One suspect that has no rows yet.

    Attributes:
        errand: who.
        alone: sent to a worker that has nothing else, since it may have killed one.
        deaths: of workers that had nothing else.
        own: asked even if another has its tensors (the other failed, and errors name their file).
        key: network and tensors, while it is asked for all that have these.
        seconds: that reading took.
        sha256: of its tensors, once read.
        notes: what was done in reading.
    """

    errand: Errand
    alone: bool = False
    deaths: int = 0
    own: bool = False
    key: tuple[str, str] | None = None
    seconds: float = 0.0
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    def read(self, news: Told) -> None:
        """Take what a worker says of its file."""
        self.sha256, self.seconds, self.notes = news.sha256, news.seconds, news.notes
        if news.arch:
            self.errand = self.errand._replace(suspect=self.errand.suspect.taking(news.arch))


@dataclass
class Hand:
    """What the board knows of a worker: suspects out, in the order of sending, and orders to come."""

    since: float
    done: int = 0
    out: dict[int, Ticket] = field(default_factory=dict)
    ask: list[int] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)


class Board:
    """Who is asked by whom. For one thread.

    Args:
        suspects: with stamps; taken as workers need them.
        known: see :class:`uapfast.screening.engines.Engine`.
        failed: rows of a suspect that cannot be asked.
        clock: seconds.
    """

    def __init__(
        self,
        suspects: Iterator[tuple[Entry, str]],
        known: Known,
        failed: Failed,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._suspects, self._known, self._failed, self._clock = suspects, known, failed, clock
        self._more, self._count = True, 0
        self._ready: deque[Ticket] = deque()
        self._alone: deque[Ticket] = deque()
        self._hands: dict[int, Hand] = {}
        self._asked: dict[tuple[str, str], list[Ticket]] = {}  # who waits for the same tensors
        self._tensors: dict[tuple[str, str], Fault] = {}  # that are not to be asked again
        self._networks: dict[str, Fault] = {}  # that are not to be built again
        self._killers: Counter[str] = Counter()
        self._doomed: list[Ticket] = []

    @property
    def over(self) -> bool:
        """Whether every suspect has its rows, as far as the list was taken."""
        waiting = self._more or self._ready or self._alone or self._doomed
        return not waiting and not any(hand.out for hand in self._hands.values())

    def peek(self, count: int) -> int:
        """Take up to ``count`` suspects from the list; returns how many there are to begin with."""
        while len(self._ready) < count and (ticket := self._new()) is not None:
            self._ready.append(ticket)
        return len(self._ready)

    def _new(self) -> Ticket | None:
        found = next(self._suspects, None) if self._more else None
        if found is None:
            self._more = False
            return None
        self._count += 1
        return Ticket(Errand(self._count, *found))

    # -- to a worker -------------------------------------------------------------------------------
    def join(self, worker: int) -> None:
        """A worker is there."""
        self._hands[worker] = Hand(self._clock())

    def orders(self, worker: int) -> Orders | None:
        """What to tell it now; None if there is nothing to be told and nothing to be heard."""
        hand = self._hands[worker]
        fresh = self._share(hand)
        hand.out.update((ticket.errand.number, ticket) for ticket in fresh)
        found = Orders(tuple(t.errand for t in fresh), tuple(hand.ask), tuple(hand.drop))
        hand.ask, hand.drop = [], []
        return found if hand.out or found.drop else None

    def _share(self, hand: Hand) -> list[Ticket]:
        while self._alone:  # all workers run dry meanwhile; that is two seconds
            if hand.out:
                return []
            ticket = self._alone.popleft()
            if not self._is_doomed(ticket):
                return [ticket]
        if any(ticket.alone for ticket in hand.out.values()):
            return []
        if sum(map(len, self._asked.values())) >= PARKED:
            return []
        rate = hand.done / max(self._clock() - hand.since, 1e-3)
        fresh: list[Ticket] = []
        room = min(max(SLOTS, int(rate * AHEAD)), MOST) - len(hand.out)
        while len(fresh) < room and len(self._doomed) < PAGE:
            found = self._ready.popleft() if self._ready else self._new()
            if found is None:
                break
            if not self._is_doomed(found):
                fresh.append(found)
        return fresh

    def _is_doomed(self, ticket: Ticket) -> bool:
        doomed = self._fault_of(ticket) is not None
        if doomed:
            self._doomed.append(ticket)
        return doomed

    def _fault_of(self, ticket: Ticket) -> Fault | None:
        """Why none of its networks is built again."""
        networks = ticket.errand.suspect.networks
        return next((self._networks[n] for n in networks if n in self._networks), None)

    def settle(self) -> Iterator[Done]:
        """Suspects that have their rows without being sent."""
        doomed, self._doomed = self._doomed, []
        for ticket in doomed:
            fault = self._fault_of(ticket)
            assert fault is not None
            yield from self._give_up(ticket, fault)

    # -- from a worker -----------------------------------------------------------------------------
    def hear(self, worker: int, told: Sequence[Told]) -> Iterator[Done]:
        """Take a worker's news; yields suspects that have their rows."""
        hand = self._hands[worker]
        for news in told:
            ticket = hand.out[news.number]
            ticket.read(news)
            if news.rows is None:
                yield from self._was_read(hand, ticket)
                continue
            del hand.out[news.number]
            hand.done += 1
            yield from self._end(ticket, news)

    def _was_read(self, hand: Hand, ticket: Ticket) -> Iterator[Done]:
        number, suspect = ticket.errand.number, ticket.errand.suspect
        if ticket.sha256 is None:  # asked as it is
            hand.ask.append(number)
            return
        key = (suspect.network, ticket.sha256)
        if (fault := self._tensors.get(key)) is not None:
            del hand.out[number]
            hand.drop.append(number)
            yield from self._give_up(ticket, fault)
            return
        if not ticket.own:
            waiting, rows = self._asked.get(key), None
            if waiting is not None:
                waiting.append(ticket)
            else:
                rows = self._known(suspect, ticket.sha256)
            if waiting is not None or rows:
                del hand.out[number]
                hand.drop.append(number)
                hand.done += 1
                if rows:
                    yield self._adopt(ticket, rows)
                return
            self._asked[key] = []
            ticket.key = key
        hand.ask.append(number)

    def _end(self, ticket: Ticket, news: Told) -> Iterator[Done]:
        waiting, rows = self._release(ticket), news.rows or ()
        stamp = AGAIN if news.again else ticket.errand.stamp
        yield Done(ticket.errand.suspect, stamp, rows, news.lent, news.refuted)
        for other in waiting:
            if any(row.error_class for row in rows):
                other.own = True
                self._ready.append(other)
            else:
                yield self._adopt(other, rows, news.lent)

    def _release(self, ticket: Ticket) -> list[Ticket]:
        """Those that wait for this one's answers."""
        if ticket.key is None:
            return []
        waiting, ticket.key = self._asked.pop(ticket.key), None
        return waiting

    @staticmethod
    def _adopt(ticket: Ticket, rows: Sequence[Row], lent: bool = False) -> Done:
        suspect = ticket.errand.suspect
        own = (suspect.name, suspect.shown, ticket.notes)
        moved = (row.moved_to(*own, seconds_read=ticket.seconds) for row in rows)
        return Done(suspect, ticket.errand.stamp, tuple(moved), lent)

    # -- without a worker --------------------------------------------------------------------------
    def expire(self, worker: int, busy: Busy, limit: float) -> Iterator[Done]:
        """A suspect is given up while its worker is at it; the worker has to be replaced."""
        ticket = self._hands[worker].out.pop(busy.number)
        suspect = ticket.errand.suspect
        asked = ticket.sha256 or suspect.is_direct
        what = "built" if busy.building else "asked" if asked else "read"
        fault = Fault(TimeLimitError("screen", suspect.name, f"{what} within {limit:g} s", "no end"), limit)
        if busy.building:
            self._networks[suspect.network] = fault
        yield from self._give_up(ticket, fault)

    def lost(self, worker: int, why: str = "", blame: bool = True) -> Iterator[Done]:
        """A worker is gone; yields suspects that are given up.

        Args:
            worker: which.
            why: for messages.
            blame: it may have died of a suspect.
        """
        hand = self._hands.pop(worker, None)
        left = list(hand.out.values()) if hand else []
        for place, ticket in enumerate(left):
            self._ready.extend(self._release(ticket))
            # a worker begins in the order of sending, and tells ends before it keeps too many of them
            begun = blame and place < SLOTS + BACKLOG
            if begun and len(left) == 1:
                ticket.deaths += 1
            if ticket.deaths >= DEATHS:
                yield from self._killed(ticket, Fault(WorkerLostError(_lost(ticket, why))))
            elif begun or ticket.alone:
                ticket.alone = True
                # who is under suspicion first: its copies wait for what comes of it
                (self._alone.appendleft if ticket.deaths else self._alone.append)(ticket)
            else:
                self._ready.append(ticket)

    def _killed(self, ticket: Ticket, fault: Fault) -> Iterator[Done]:
        network = ticket.errand.suspect.network
        if ticket.sha256 is None:
            self._killers[network] += 1
            if self._killers[network] >= KILLERS:
                self._networks[network] = fault
        yield from self._give_up(ticket, fault)

    def _give_up(self, ticket: Ticket, fault: Fault) -> Iterator[Done]:
        """Rows with an error, for whoever waits for the same tensors as well."""
        suspect, waiting = ticket.errand.suspect, self._release(ticket)
        if ticket.sha256 is not None:
            self._tensors[suspect.network, ticket.sha256] = fault
        rows = self._failed(suspect, fault.error, ticket.sha256)
        yield Done(suspect, fault.stamp(ticket.errand.stamp), tuple(rows))
        for other in waiting:
            yield from self._give_up(other, fault)


def _lost(ticket: Ticket, why: str) -> str:
    suspect = ticket.errand.suspect
    got = f"{ticket.deaths} workers that died of it alone"
    return f"screen: {suspect.name} must be a suspect that leaves its worker alive, got {got} ({why})"


__all__ = ["Board", "Fault"]
