"""Whether an invocation calls a hook: suspension, `expires`, `sample`, `rate` and `limit`, asked in this order before anything is sent.

Rules:
- `take` is what an invocation asks. It is exchanged when the state changes, and for a hook without terms that is not suspended it is the
  C function that counts calls: what is not used costs nothing.
- Inside a function's code it is asked before the guard, which costs as much as all the rest, and what goes without the hook should cost
  least. So what a thread comes to during work of ours counts as skipped too, while the hook is suspended or left to chance; but it takes
  neither the trial nor anything else of which there is only so much.
- No thread waits here: a lock is taken for a moment, and only where the state of a suspension changes or tokens are counted. Where another
  thread has it for longer, what an invocation has to tell of the suspension is not noted: the next one says as much.
- Suspension is a circuit breaker. A hook that fails so many times in a row is suspended: invocations go on without it. After a pause one
  invocation tries it, while the others still go without. If that succeeds the hook is back; if not, the next pause is twice as long, up
  to a maximum.
- What counts as a failure is that no answer came in time, or none that can be used: time-outs (waiting for a free lane included), a lost
  channel, what cannot be pickled or loaded, an `around` hook that raises what it was not to raise. What is raised as the answer of an
  `around` or `instead` hook does not; an observer that raises has answered too, in time, and has cost no more than one that returns.
- A success of any invocation, one included that began before the suspension, is the end of the row: the hook does answer.
- What `limit` counts is taken last, one by one: in this process, or where they can be had, from the tokens of all processes together.
- A registration that has hooks on several targets has one admission for all of them (`SharedAdmission`): its limit and its rate are not
  those of each target, and a script that does not answer is not waited for once more at each.
"""

from __future__ import annotations

import itertools
from _random import Random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from xpc_instrument.core.model.local import INJECT
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.unpatched import Brief, allocate_lock, get_ident, monotonic
from xpc_instrument.core.wire.tokens import Purse

from ..guard import guard
from .counters import HookCounters

# Of this process and not the application's, which may have seeded its own.
# The C class: the module `random` takes a millisecond or two to import, with what it needs for all else that it can do.
_chance = Random()

# A bucket holds the tokens of so many seconds, and one at least: calls that come at once are let through together up to that.
_BURST = 0.1


def reseed() -> None:
    """In a forked child: let chance differ from the parent's."""
    _chance.seed()


class SuspensionPolicy(NamedTuple):
    """When a hook is suspended, and for how long: the settings of its circuit breaker."""

    after: int = 3
    """Failures in a row; 0 for never."""

    first: float = 1.0
    """Seconds of the first pause."""

    most: float = 60.0
    """Seconds of the longest pause."""

    lost_after: float = 60.0
    """Seconds after which an invocation that tries the hook and has not ended is abandoned, and another one may try."""


class Admission:
    """Of one hook in one process. `install` gets `take` whenever it changes; `ended` is called when the time or the calls are over."""

    __slots__ = (
        "_chance",
        "_clock",
        "_counters",
        "_ended",
        "_expires",
        "_install",
        "_limit",
        "_limits_calls",
        "_lock",
        "_number_of_use",
        "_pause",
        "_plain",
        "_rate",
        "_sample",
        "_suspension",
        "_tokens",
        "_trial",
        "by_chance",
        "cause",
        "failures",
        "retry_at",
        "suspended",
        "take",
    )

    def __init__(
        self,
        terms: Terms,
        counters: HookCounters,
        suspension: SuspensionPolicy,
        *,
        install: Callable[[Callable[[], Any]], None],
        ended: Callable[[], None],
        clock: Callable[[], float] = monotonic,
        chance: Callable[[], float] = _chance.random,
    ) -> None:
        self._counters = counters
        self._suspension = suspension
        self._install = install
        self._ended = ended
        self._clock = clock
        self._chance = chance
        # Of faults it is those that happen of which there are so many: who has them happen takes one (`use`).
        self._limit = terms.limit
        self._limits_calls = terms.limit is not None and not (terms.local is not None and terms.local["kind"] == INJECT)
        self._number_of_use = itertools.count().__next__
        self._tokens: Optional[Purse] = None
        self._expires = None if terms.expires is None else clock() + terms.expires
        self._sample = terms.sample
        self._rate = None if terms.rate is None else Bucket(terms.rate, clock)
        rest = not self._limits_calls and (terms.expires, terms.rate) == (None, None)
        self._plain = rest and terms.sample is None
        # Whether nothing but chance keeps an invocation from it: never mind then when it is asked.
        self.by_chance = rest and terms.sample is not None and terms.sample < 1
        self._begin()

    def _begin(self) -> None:
        self.failures = 0
        self.suspended = False
        self.cause = ""
        self.retry_at = 0.0
        self._pause = 0.0
        self._trial = 0
        # A signal handler may come here in the thread that is here already.
        self._lock = Brief()
        self._swing()

    def _swing(self) -> None:
        """Install what suits the state."""
        self.take = self._taking(self._counters)
        self._install(self.take)

    def _taking(self, counters: HookCounters) -> Callable[[], Any]:
        admit = counters.calls.up if self._plain else self._sampling(counters) if self.by_chance else self._obeying(counters)
        return self._retrying(counters, admit) if self.suspended else admit

    def reset(self, counters: HookCounters, install: Callable[[Callable[[], Any]], None]) -> None:
        """In a forked child: neither locks nor failures nor counts are inherited, terms are."""
        self._counters = counters
        self._install = install
        self._forget_lock()
        self._begin()

    def _forget_lock(self) -> None:
        if self._rate is not None:
            self._rate.reset()

    @property
    def expired(self) -> bool:
        """Whether the time of the registration is over."""
        return self._expires is not None and self._clock() >= self._expires

    # what an invocation asks -------------------------------------------------------------------------------------------

    def _sampling(self, counters: HookCounters) -> Callable[[], Any]:
        """`take` of a hook with `sample` and nothing else, which counts there."""
        assert self._sample is not None
        return counters.sampler(self._sample, self._chance).take

    def _obeying(self, counters: HookCounters) -> Callable[[], Any]:
        """The same for any terms."""
        until, sample, bucket = self._expires, self._sample, self._rate
        clock, chance, ended, finish = self._clock, self._chance, self._ended, self._finishing(counters)
        skip_sample, skip_rate = counters.skipped["sample"].up, counters.skipped["rate"].up

        def obey() -> Any:
            if until is not None and clock() >= until:
                if not guard.on:
                    ended()
                return False
            if sample is not None and chance() >= sample:
                skip_sample()
                return False
            if bucket is not None and clock() < bucket.empty_until:
                skip_rate()
                return False
            if guard.on:
                return False
            if bucket is not None and not bucket.take():
                skip_rate()
                return False
            return finish()

        return obey

    def _finishing(self, counters: HookCounters) -> Callable[[], Any]:
        """What all the terms but `limit` have let through comes to: it is counted, if there is one left."""
        use, count = self.use, counters.calls.up
        return (lambda: use() and count()) if self._limits_calls else count

    def use(self) -> bool:
        """Take one of `limit`; False if there is none left. Where there is no limit there always is one."""
        tokens, limit = self._tokens, self._limit
        if limit is None:
            return True
        if tokens is not None:
            if tokens.take():
                return True
            self._ended()
            return False
        # One atomic step, so that threads that come at once get different numbers.
        number = self._number_of_use()
        if number == limit - 1:
            self._ended()
        return number < limit

    def share(self, tokens: Purse) -> None:
        """Take what `limit` counts from there: all processes together have so many. Before there is an invocation."""
        self._tokens = tokens

    def halves(self, counters: HookCounters) -> Tuple[Callable[[], Any], Callable[[], Any]]:
        """`take` in two, for a hook that is told at the end of an invocation and is never suspended: what is asked when the invocation
        begins, and what when it has ended. Left out for `rate`, it goes without all that lies between."""
        if self._plain:
            return _always, self._taking(counters)
        if self.by_chance:
            return self._taking(counters), _always
        until, sample, bucket = self._expires, self._sample, self._rate
        clock, chance, ended = self._clock, self._chance, self._ended
        skip_sample, skip_rate = counters.skipped["sample"].up, counters.skipped["rate"].up

        def early() -> bool:
            if sample is not None and chance() >= sample:
                skip_sample()
                return False
            now = clock()
            if bucket is not None and now < bucket.empty_until:
                skip_rate()
                return False
            if guard.on:
                return False
            if until is not None and now >= until:
                ended()
                return False
            if bucket is not None and not bucket.take():
                skip_rate()
                return False
            return True

        return early, self._finishing(counters)

    def _retrying(self, counters: HookCounters, admit: Callable[[], Any]) -> Callable[[], Any]:
        """`take` of a hook that is suspended: True for the one invocation that tries it after the pause."""
        clock, skip = self._clock, counters.skipped["suspended"].up

        def retry() -> Any:
            if clock() < self.retry_at or guard.on or not self._claim():
                skip()
                return False
            if admit():
                return True
            # Its terms keep this one from the hook: the next may try.
            self.abandoned(0.0)
            return False

        return retry

    def resting(self) -> bool:
        """Whether the hook is suspended and not to be tried yet."""
        return self.suspended and self._clock() < self.retry_at

    def _claim(self) -> bool:
        with self._lock() as held:
            if not held:
                return False
            now = self._clock()
            if self.suspended:
                if now < self.retry_at:
                    return False
                self.retry_at = now + self._suspension.lost_after
                self._trial = get_ident()
            return True

    @property
    def tried_here(self) -> bool:
        """Whether the invocation of this thread tries the hook."""
        mine: bool = self._trial == get_ident()
        return mine

    # what an invocation tells ------------------------------------------------------------------------------------------

    def failed(self, cause: str, counters: Optional[HookCounters] = None) -> Optional[float]:
        """A call failed. Returns the pause in seconds if that suspends the hook, which is counted in `counters`, else in its own."""
        with self._lock() as held:
            if not held:
                return None
            if self.suspended:
                # One that began before the suspension says nothing new.
                if self._trial == get_ident():
                    self.failures += 1
                    self.cause = cause
                    self._rest(self._pause * 2)
                return None
            self.failures += 1
            self.cause = cause
            if not self._suspension.after or self.failures < self._suspension.after:
                return None
            self.suspended = True
            self._rest(self._suspension.first)
            (counters or self._counters).suspend()
            self._swing()
            return self._pause

    def _rest(self, pause: float) -> None:
        self._trial = 0
        self._pause = min(pause, self._suspension.most)
        self.retry_at = self._clock() + self._pause

    def succeeded(self) -> bool:
        """A call succeeded; to be called only if there are `failures`. True if the hook is back from a suspension."""
        with self._lock() as held:
            if not held:
                return False
            self.failures = 0
            if not self.suspended:
                return False
            self.suspended = False
            self._trial = 0
            self._swing()
            return True

    def abandoned(self, pause: Optional[float] = None) -> None:
        """The waiting thread left before there was an answer: if it was trying the hook, another one may after the same pause again."""
        if self._trial == get_ident():
            with self._lock():
                # Whoever has the lock: nobody else tries it.
                self._trial = 0
                self.retry_at = self._clock() + (self._pause if pause is None else pause)

    # what can be seen --------------------------------------------------------------------------------------------------

    def status(self) -> Optional[Dict[str, Any]]:
        """Why the hook is suspended and in how many seconds it is tried again; None if it is not."""
        with self._lock():
            if not self.suspended:
                return None
            return {
                "cause": self.cause,
                "failures": self.failures,
                "pause": self._pause,
                "retry-in": 0.0 if self._trial else max(0.0, self.retry_at - self._clock()),
                "trying": bool(self._trial),
            }


def _always() -> bool:
    return True


class SharedAdmission(Admission):
    """Of the hooks that one registration has on several targets, in one process. Each counts for itself, and is told its `take`."""

    __slots__ = ("_members",)

    def __init__(self, terms: Terms, suspension: SuspensionPolicy, *, ended: Callable[[], None]) -> None:
        self._members: List[Tuple[HookCounters, Callable[[Callable[[], Any]], None]]] = []
        super().__init__(terms, HookCounters(), suspension, install=_installed_by_members, ended=ended)

    def join(self, counters: HookCounters, install: Callable[[Callable[[], Any]], None]) -> None:
        """One more hook."""
        with self._lock():
            self._members.append((counters, install))
            install(self._taking(counters))

    def _swing(self) -> None:
        for counters, install in list(self._members):
            install(self._taking(counters))

    def begin_anew(self) -> None:
        """In a forked child, before its hooks are reset one by one."""
        self._members = []
        self._forget_lock()
        self._begin()

    def reset(self, counters: HookCounters, install: Callable[[Callable[[], Any]], None]) -> None:
        self.join(counters, install)


def _installed_by_members(_take: Callable[[], Any]) -> None:
    """Each of the hooks has its own."""


class Bucket:
    """A token bucket: `rate` tokens a second, and room for those of a tenth of a second, but for one at least. It is full at first.

    Until `empty_until` there is none, which may be asked without `take`.
    """

    __slots__ = ("_clock", "_lock", "_rate", "_room", "_since", "_tokens", "empty_until")

    def __init__(self, rate: float, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        self._room = max(1.0, rate * _BURST)
        self._clock = clock
        self._tokens = self._room
        self.empty_until = self._since = clock()
        self.reset()

    def reset(self) -> None:
        """In a forked child, where another thread of the parent may have held the lock."""
        self._lock = allocate_lock()

    def take(self) -> bool:
        """Whether there was a token. Who comes while another thread looks gets none: the token stays for the next."""
        if not self._lock.acquire(False):
            return False
        try:
            now = self._clock()
            if now > self._since:
                self._tokens = min(self._room, self._tokens + (now - self._since) * self._rate)
                self._since = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            if self._tokens < 1.0:
                self.empty_until = now + (1.0 - self._tokens) / self._rate
            return True
        finally:
            self._lock.release()
