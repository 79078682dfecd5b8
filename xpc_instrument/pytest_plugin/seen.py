"""What a hook of a test has seen: the calls with their outcomes, and how the report of a failed test shows them."""

from __future__ import annotations

import reprlib
import threading
from inspect import Signature
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..core.unpatched import monotonic
from ..script.call import Call

# How many calls of one hook a report shows, the first and the last of them.
SHOWN = 20

# The longest text of a value, in characters.
_LONGEST = 60

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _LONGEST
_repr.maxdict = _repr.maxlist = _repr.maxtuple = 6


class SeenCall(NamedTuple):
    """One call that a patch or a spy has seen."""

    at: float
    """When it came, in seconds since the patch or the spy was made."""

    pid: int
    """The process of the application that called."""

    thread: int
    """The thread there, as ``threading.get_ident`` names it."""

    args: Tuple[Any, ...]
    kwargs: Dict[str, Any]
    outcome: str
    """What came of it, in words."""

    result: Any = None
    """What it returned."""

    exception: Optional[BaseException] = None
    """What it raised, or None."""


class Seen:
    """The calls that one hook has seen, in the order in which they ended. Its methods may be called in several threads.

    Who waits for calls waits at `changed`, which several may share.
    """

    def __init__(self, kind: str, target: str, changed: threading.Condition, recorded: Any = None) -> None:
        self.recorded = recorded
        """Where calls are recorded (`recordings.Recorded`), if they are."""

        self.kind = kind
        self.target = target
        self.calls: List[SeenCall] = []
        self.mistakes: List[BaseException] = []
        """What is no outcome but a mistake of the test, such as an ``assert`` in a hook; what is told is taken out."""

        self.mistakes_made = 0
        """How many there were."""

        self.signature: Optional[Signature] = None
        """The parameters of the target, once they are known."""

        self.was_called = False
        """Whether it was called at all, also if that has been forgotten since."""

        self.under_way = 0
        """How many calls have begun and not ended. One that the application has given up ends when its stand-in does."""

        self.over = False
        self.late = 0
        """How many calls came after the end of the test."""

        self._began = monotonic()
        self.changed = changed

    def now(self) -> float:
        """The time of a call that comes now."""
        return monotonic() - self._began

    def add(self, call: SeenCall) -> None:
        """Note a call."""
        with self.changed:
            self.calls.append(call)
            self.was_called = True
            self.late += self.over
            self.changed.notify_all()

    def add_mistake(self, error: BaseException) -> None:
        """Note a mistake of the test."""
        with self.changed:
            self.mistakes.append(error)
            self.mistakes_made += 1
            self.changed.notify_all()

    def clear(self) -> None:
        """Forget the calls."""
        with self.changed:
            del self.calls[:]


class Noted:
    """A call that a hook is shown, for what is seen of it. `took`: it has ended, and took so many seconds."""

    def __init__(self, seen: Seen, call: Call, took: Optional[float] = None) -> None:
        self.call = call
        self._seen = seen
        self._took = took
        self._at = seen.now() - (took or 0.0)
        self._record = None if seen.recorded is None else seen.recorded.begin(seen.target, seen.signature, call)
        with seen.changed:
            seen.under_way += 1
            seen.was_called = True

    def ended(self, result: Any, error: Optional[BaseException] = None) -> None:
        """Note what came of it."""
        call, seen = self.call, self._seen
        outcome = f"returned {shown_value(result)}" if error is None else f"raised {shown_error(error)}"
        if self._record is not None:
            self._record(result, error, seen.now() - self._at if self._took is None else self._took)
        with seen.changed:
            seen.under_way -= 1
        seen.add(SeenCall(self._at, call.pid, call.thread, call.args, dict(call.kwargs), outcome, result, error))


def shown_error(error: BaseException) -> str:
    """Its type and the first line of its text."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text[:100]}" if text else type(error).__name__


def shown_call(name: str, args: Sequence[Any], kwargs: Dict[str, Any]) -> str:
    """A call as it would be typed, its values shortened."""
    values = [*(_repr.repr(value) for value in args), *(f"{key}={_repr.repr(value)}" for key, value in kwargs.items())]
    return f"{name}({', '.join(values)})"


def shown_value(value: Any) -> str:
    """A value, shortened."""
    return _repr.repr(value)


def short_name(target: str) -> str:
    """What a target is called where there is little room: the last of its names."""
    return target.rpartition(":")[2].rpartition(".")[2] or target


def report(all_seen: Sequence[Seen]) -> str:
    """What the hooks of a test have seen, as text."""
    width = max((len(one.target) for one in all_seen), default=0)
    lines: List[str] = []
    for seen in all_seen:
        with seen.changed:
            calls, under_way = list(seen.calls), seen.under_way
        open_calls = f"{under_way} under way" if under_way else ""
        counts = ", ".join(filter(None, (_count(calls), open_calls)))
        lines.append(f"{seen.kind:5} {seen.target:{width}}   {counts or _never(seen, all_seen)}")
        cut = len(calls) - SHOWN
        for number, call in enumerate(calls):
            if cut > 0 and SHOWN // 2 <= number < SHOWN // 2 + cut:
                if number == SHOWN // 2:
                    lines.append(f"  ... and {cut} more ...")
                continue
            lines.append(f"  +{call.at:.3f}s {shown_call(short_name(seen.target), call.args, call.kwargs)}  {call.outcome}")
    return "\n".join(lines)


def _count(calls: Sequence[SeenCall]) -> Optional[str]:
    if not calls:
        return None
    pids = sorted({call.pid for call in calls})
    some = ", ".join(map(str, pids[:5])) + (f" and {len(pids) - 5} more" if len(pids) > 5 else "")
    return f"{len(calls)} call{'s' if len(calls) > 1 else ''} (process {some})"


def _never(seen: Seen, all_seen: Sequence[Seen]) -> str:
    """That it was never called, and which others were: those with the nearest names first."""
    import difflib

    called = {one.target: len(one.calls) for one in all_seen if one.calls and one is not seen}
    near = sorted(called, key=lambda target: -difflib.SequenceMatcher(None, target, seen.target).ratio())[:3]
    never = "no call has ended" if seen.kind == "spy" else "never called"
    return never + (f"; others that were: {', '.join(f'{target} ({called[target]})' for target in near)}" if near else "")
