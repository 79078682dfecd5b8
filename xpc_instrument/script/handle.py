"""What a registration gives back."""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable, Collection, Dict, Iterable, List, Mapping, Optional, Set, Tuple, TypeVar

from ..core.model.pattern import Pattern
from ..core.model.target import Mode, parts_of
from ..core.model.words import one_line
from ..core.wire.tokens import Tokens
from .removable import Removable

log = logging.getLogger("xpc_instrument")

F = TypeVar("F", bound=Callable[[BaseException], object])

_HERE = ("", 0)
# Of why a hook is not on a target, in characters.
_LONGEST_REASON = 500


class Handle(Removable):
    """One registered hook, as ``before``, ``after``, ``around`` and ``instead`` of a session return it.

    ``remove``, or leaving the handle as a context manager, disarms the hook. The counts are this session's own, over all processes of the
    application; ``Session.stats`` has what the processes count over all scripts.
    """

    mode: Mode
    """The mode that it was registered in."""

    target: str
    """The target, ``package.module:Qualified.name``, or the pattern; of a list, all of them with commas between."""

    number: int
    """What ``xpc-instrument ls --stats`` tells the hook by from others of the same mode and script."""

    failures: int
    """How often the hook raised, gave what could not be sent, or missed its deadline. What is raised as the answer does not count: by an
    ``instead`` hook, and by an ``around`` hook that names it (``raises=``). A call that the script has never heard of, since no lane to it
    was free in time, is among those of ``Session.stats`` only."""

    last_failure: Optional[BaseException]
    """The last of these errors, a ``DeadlineError`` for a deadline; None before the first. ``on_failure`` has a function told of each."""

    suspensions: int
    """How often processes of the application have suspended the hook because it failed several times in a row."""

    delivered: int
    """With ``wait=False``: how many events were handed to the hook. With ``dropped`` these are all the calls that there were, once the hook
    is removed. 0 for a hook that is waited for."""

    def __init__(
        self,
        number: int,
        mode: Mode,
        target: str,
        remove: Callable[[Handle], None],
        terms_over: Callable[[], str],
    ) -> None:
        self.mode = mode
        self.target = target
        self.number = number
        self.failures = 0
        self.last_failure = None
        self._on_failure: List[Callable[[BaseException], object]] = []
        self.delivered = 0
        # By the process that has dropped them, and its name for the hook on one target; under "" those that came here but were not run.
        self._dropped: Dict[Tuple[str, int], int] = {}
        self._waiting = 0
        # Of those that were dropped here: what came when others had used up the limit.
        self._beyond = 0
        self._over = False
        self._counting = threading.Lock()
        self.suspensions = 0
        self._suspended_in: Set[int] = set()
        self._targets: Set[str] = set()
        self._waiting_in: Set[int] = set()
        # What a hook that counts in the application had counted when it was removed, by process.
        self._last_totals: Dict[int, Any] = {}
        # Of one that was at rest since it cost too much: how much, by process.
        self._over_budget: Dict[int, str] = {}
        # Where the processes take what the limit counts together, and those that cannot, and so count for themselves.
        self._tokens: Optional[Tokens] = None
        self._apart: Set[int] = set()
        # The targets and patterns for which processes wait, the targets that have come in one, and why it is not on some of these.
        self._pending: Set[str] = set()
        self._came: Set[str] = set()
        self._not_hooked: Set[str] = set()
        # The first error of an expression that a process has told of, and why one was the first to give up what stands in.
        self._mistake = self._given_up = ""
        self._remove = remove
        self._terms_over = terms_over
        self._lock = threading.Lock()
        self._removed = False

    def __repr__(self) -> str:
        return f"<Handle #{self.number} {self.mode} {self.target}{f', over: {self.over}' if self.over else ''}>"

    @property
    def over(self) -> str:
        """Why the hook is not called any more: ``"removed"``, also where its session is closed; ``"limit"`` or ``"expires"``, the term of
        its registration that is over; ``""`` while it may be called.

        What ends an expired hook in a process is the next invocation there.
        """
        return "removed" if self._removed or self._over else self._terms_over()

    @property
    def targets(self) -> List[str]:
        """The targets that the hook is on, or waits for, sorted: what patterns stand for in the processes that there are and were.

        More come as modules are imported. Empty for a pattern that stands for nothing yet.
        """
        with self._lock:
            return sorted(self._targets)

    @property
    def waiting(self) -> List[int]:
        """The pids of the processes in which no module had a target of the hook when it was registered there, such as gunicorn's master:
        the hook is armed there once one is imported that has."""
        with self._lock:
            return sorted(self._waiting_in)

    @property
    def suspended(self) -> List[int]:
        """The pids of the processes that go on without the hook now, because it failed there several times in a row."""
        with self._lock:
            return sorted(self._suspended_in)

    @property
    def dropped(self) -> int:
        """With ``wait=False``: how many events were dropped for lack of room or time, as far as the processes have told."""
        with self._counting:
            return sum(self._dropped.values())

    @property
    def over_budget(self) -> Dict[int, str]:
        """The processes in which a hook that looks on has ended, since it took more than 2 % of the processor's time, and what it took."""
        with self._lock:
            return dict(self._over_budget)

    @property
    def expression_error(self) -> str:
        """The first error of an expression of the hook, `when` included, as a process has told it; "" before. Later ones are counted."""
        return self._mistake

    def remove(self) -> None:
        """Disarm the hook in every process; returns when that is done. Harmless if it was removed before.

        With ``wait=False`` it returns when what was queued is delivered, or counted as dropped where that takes too long. Raises
        ``ChannelError`` in a forked child: the hook is its parent's.
        """
        with self._lock:
            if self._removed:
                return
            self._removed = True
        self._remove(self)

    def on_failure(self, callback: F) -> F:
        """Have ``callback(error)`` called for each failure from now on; a decorator too. Several are called in the order of their coming.

        It is called in the thread in which the hook has failed, once the application has its answer. What it raises is logged.
        """
        self._on_failure.append(callback)
        return callback

    # for the session -----------------------------------------------------------------------------------------------------

    def _count_failure(self, error: BaseException) -> None:
        with self._counting:
            self.failures += 1
        self.last_failure = error

    def _tell_failure(self, error: BaseException) -> None:
        for callback in list(self._on_failure):
            try:
                callback(error)
            except Exception:
                log.exception("a function that is told of failures of the %s hook on %s failed itself", self.mode, self.target)

    def _note_suspension(self, pid: Any, begins: bool) -> None:
        with self._lock:
            if begins and isinstance(pid, int):
                self._suspended_in.add(pid)
                self.suspensions += 1
            else:
                self._suspended_in.discard(pid)

    def _note_dropped(self, source: str, count: int, key: int) -> None:
        """A process has dropped so many in all, of those of one target where there are several."""
        with self._counting:
            self._dropped[source, key] = max(count, self._dropped.get((source, key), 0))

    def _note(self, kind: str, data: Mapping[str, Any]) -> None:
        """What a process tells of the hook: its targets, what it had counted at its end, and what keeps it from these or its work."""
        if kind == "hooked":
            self._note_targets(list(map(str, data.get("targets") or ())), came=bool(data.get("came")))
        elif kind == "apart":
            self._apart.add(int(data["pid"]))
        elif kind == "not-hooked":
            self._came.add(str(data.get("target", "")))
            self._note_not_hooked(one_line(str(data["message"]), _LONGEST_REASON))
        elif kind == "totals":
            self._last_totals[int(data["pid"])] = data["totals"]
        elif kind == "expression":
            self._mistake = self._mistake or one_line(str(data["message"]))
        elif kind == "given-up":
            self._given_up = self._given_up or one_line(str(data["message"]))
        else:
            with self._lock:
                self._over_budget[int(data["pid"])] = one_line(str(data["used"]))

    def _note_not_hooked(self, why: str) -> None:
        """A target has not come with its module."""
        with self._lock:
            is_new = why not in self._not_hooked
            self._not_hooked.add(why)
        if is_new:
            log.warning("%s", why)

    def _note_waiting(self, pid: int) -> None:
        with self._lock:
            self._waiting_in.add(pid)

    def _note_pending(self, targets: Iterable[str]) -> None:
        """A process has registered the hook, and waits for these targets and patterns; those that it names it has the others of."""
        pending = set(targets)
        with self._lock:
            self._pending |= pending
            self._came |= {one for one in parts_of(self.target) if one not in pending}

    def _note_targets(self, targets: Collection[str], came: bool = False) -> None:
        """A process has put the hook on these; whether they have come since it was registered there."""
        with self._lock:
            self._targets.update(targets)
            if came:
                self._came.update(targets)

    def _never_came(self) -> List[str]:
        """The targets and patterns of which no process has had anything so far."""
        with self._lock:
            awaited, came = self._pending - self._came, [one.split(":", 1) for one in self._came if ":" in one and "*" not in one]
        return sorted(one for one in awaited if not ("*" in one and any(Pattern(one).hooks(*two) for two in came)))

    def _note_arrived(self, count: int) -> None:
        """So many have come, to be run."""
        with self._counting:
            if self._over:
                self._dropped[_HERE] = self._dropped.get(_HERE, 0) + count
            else:
                self._waiting += count

    def _begin_event(self, take: Callable[[Any], bool], event: Any) -> bool:
        """Count one as delivered, which the hook is called for next; False if it is dropped instead."""
        with self._counting:
            if self._over:
                return False
            self._waiting -= 1
            if not take(event):
                self._beyond += 1
                self._dropped[_HERE] = self._dropped.get(_HERE, 0) + 1
                return False
            self.delivered += 1
            return True

    def _begin_events(self, take: Callable[[int], int], count: int) -> int:
        """The same of so many at once; gives how many are delivered."""
        with self._counting:
            if self._over:
                return 0
            taken = take(count)
            self._waiting -= count
            self._beyond += count - taken
            if taken < count:
                self._dropped[_HERE] = self._dropped.get(_HERE, 0) + count - taken
            self.delivered += taken
            return taken

    def _end(self) -> None:
        """The hook is removed: what has come and not been run is dropped."""
        if self._tokens is not None:
            self._tokens.close()
        with self._counting:
            self._over = True
            self._dropped[_HERE] = self._dropped.get(_HERE, 0) + self._waiting
            self._waiting = 0
