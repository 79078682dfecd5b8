"""What a hook sees of an invocation, and what a registration gives back."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set, Tuple

from ..core.calls.outcome import Meta
from ..core.model.errors import PayloadError
from ..core.model.target import Mode
from ..core.values.exceptions import load_exception
from ..core.values.references import Reference

if TYPE_CHECKING:
    from .session import Session


# By names of their own; see `conversation`.
_AFTER, _AROUND = Mode.AFTER, Mode.AROUND
# What cannot be changed in place.
_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})


class Call:
    """One invocation of a target, as a hook sees it.

    `target`; `args` and `kwargs` as the caller passed them, without the instance; `instance`, a reference to it (to the class for class
    methods), or None; `pid` and `thread` (its identifier) of the application; `id`, unique among all invocations.
    In an `after` hook also `result` or `exception`, and `duration` in seconds.
    An `around` hook may assign `args` and `kwargs`, or change what is in them, before it calls `proceed`.
    """

    __slots__ = (
        "_fields",
        "_incoming",
        "_passed",
        "_signature",
        "args",
        "exception",
        "kwargs",
        "mode",
        "result",
        "target",
    )

    def __init__(self, incoming: Any, record: Tuple[Any, ...], target: str, mode: Mode, signature: Any) -> None:
        args, kwargs, fields, outcome = record
        self.target = target
        self.mode = mode
        self.args: Tuple[Any, ...] = args
        self.kwargs: Dict[str, Any] = kwargs
        self.result: Any = None
        self.exception: Optional[BaseException] = None
        if mode is _AFTER:
            if Meta(*fields).raised:
                self.exception = load_exception(outcome, asker=incoming)
            else:
                self.result = outcome
        elif mode is _AROUND:
            # Kept to tell whether the hook has changed something.
            self._passed = (args, dict(kwargs))
        self._fields = fields
        self._incoming = incoming
        self._signature = signature

    @property
    def instance(self) -> Optional[Reference]:
        return Meta(*self._fields).instance(self._incoming)

    @property
    def pid(self) -> int:
        return Meta(*self._fields).pid

    @property
    def thread(self) -> int:
        return Meta(*self._fields).thread

    @property
    def id(self) -> str:
        return f"{self.pid}-{Meta(*self._fields).number}"

    @property
    def duration(self) -> float:
        return Meta(*self._fields).duration

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.mode} {self.target}>"

    @property
    def arguments(self) -> Dict[str, Any]:
        """The arguments bound to the names of the target's parameters; defaults that the caller left out are not in it.

        Raises `TypeError` if the caller's arguments do not fit the target.
        """
        if self._signature is None:
            raise PayloadError(f"{self.target} does not tell the names of its parameters: use call.args and call.kwargs")
        return dict(self._signature.bind(*self.args, **self.kwargs).arguments)

    def proceed(self) -> Any:
        """Run the original in the application, in its own thread; returns or raises what it did. In `around` hooks only."""
        if self.mode is not _AROUND:
            raise PayloadError(f"a hook in the mode {self.mode.value!r} cannot proceed: register it with around()")
        unchanged = self._unchanged()
        return self._incoming.proceed(None if unchanged else (tuple(self.args), dict(self.kwargs)))

    def _unchanged(self) -> bool:
        args, kwargs = self._passed
        now = self.kwargs
        if self.args is not args or now.keys() != kwargs.keys() or any(now[name] is not value for name, value in kwargs.items()):
            return False
        if all(type(value) in _ATOMS for value in (*args, *kwargs.values())):
            return True
        return bool(self._incoming.has_as_it_came(args, now))

    async def proceed_async(self) -> Any:
        """`proceed` for an `async def` hook: other hooks go on meanwhile."""
        from asyncio import get_running_loop

        return await get_running_loop().run_in_executor(None, self.proceed)


def signature_from_spec(spec: Any) -> Optional[inspect.Signature]:
    """The signature that the application described: a list of (name, kind, whether it has a default)."""
    if not isinstance(spec, list):
        return None
    parameters = [
        inspect.Parameter(
            name,
            inspect._ParameterKind(kind),
            default=None if has_default else inspect.Parameter.empty,
        )
        for name, kind, has_default in spec
    ]
    return inspect.Signature(parameters)


class Handle:
    """One registered hook. `remove`, or leaving it as a context manager, disarms it.

    `number` is what `xpc-instrument ls --stats` tells it by from others of the same mode and script; `over` says whether and why it is not
    called any more.
    `failures` counts what the hook raised or could not send, `last_failure` is the last of it. `suspensions` counts how often processes of
    the application suspended the hook since it failed several times in a row, and `suspended` lists those that do so now.
    With `wait=False`: `delivered` events were handed to the hook here, `dropped` were not, for lack of room or of time; once it is removed,
    the two together are all the calls that there were.
    """

    def __init__(self, session: Session, number: int, mode: Mode, target: str) -> None:
        self.mode = mode
        self.target = target
        self.number = number
        self.failures = 0
        self.last_failure: Optional[BaseException] = None
        self.delivered = 0
        # By the process that has dropped them, and under "" those that came here but were not run.
        self._dropped: Dict[str, int] = {}
        self._waiting = 0
        self._over = False
        self._counting = threading.Lock()
        self.suspensions = 0
        self._suspended_in: Set[int] = set()
        self._session = session
        self._lock = threading.Lock()
        self._removed = False
        self._terms_over: Callable[[], str] = str

    def __repr__(self) -> str:
        return f"<Handle #{self.number} {self.mode} {self.target}{f', over: {self.over}' if self.over else ''}>"

    @property
    def over(self) -> str:
        """Why the hook is not called any more: "removed", also where its session is closed, or "limit" or "expires", the term of its
        registration that is over; "" while it may be called. What ends an expired hook in a process is the next invocation there."""
        return "removed" if self._removed or self._over else self._terms_over()

    @property
    def suspended(self) -> List[int]:
        """The pids of the processes that go on without the hook now, because it failed there several times in a row."""
        with self._lock:
            return sorted(self._suspended_in)

    def _suspension(self, pid: Any, begins: bool) -> None:
        with self._lock:
            if begins and isinstance(pid, int):
                self._suspended_in.add(pid)
                self.suspensions += 1
            else:
                self._suspended_in.discard(pid)

    # events of a hook that nobody waits for ------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """How many events were dropped, as far as the processes have told."""
        with self._counting:
            return sum(self._dropped.values())

    def told(self, source: str, count: int) -> None:
        """A process has dropped so many in all."""
        with self._counting:
            self._dropped[source] = max(count, self._dropped.get(source, 0))

    def arrived(self, count: int) -> None:
        """So many have come, to be run."""
        with self._counting:
            if self._over:
                self._dropped[""] = self._dropped.get("", 0) + count
            else:
                self._waiting += count

    def begins(self, take: Callable[[], bool]) -> bool:
        """Count one as delivered, which the hook is called for next; False if it is dropped instead."""
        with self._counting:
            if self._over:
                return False
            self._waiting -= 1
            if not take():
                self._dropped[""] = self._dropped.get("", 0) + 1
                return False
            self.delivered += 1
            return True

    def ended(self) -> None:
        """The hook is removed: what has come and not been run is dropped."""
        with self._counting:
            self._over = True
            self._dropped[""] = self._dropped.get("", 0) + self._waiting
            self._waiting = 0

    # life ----------------------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Disarm the hook in every process; returns when that is done. Harmless if it was removed before.

        With `wait=False` it returns when what was queued is delivered, or counted as dropped where that takes too long.
        """
        with self._lock:
            if self._removed:
                return
            self._removed = True
        self._session._remove(self)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()
