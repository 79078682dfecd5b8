"""One process that a session has joined, and what it is asked: to register a hook, to remove one.

All processes are asked at once, and each is waited for apart, so that many cost the time of the slowest.
"""

from __future__ import annotations

import inspect
import logging
import threading
from typing import Callable, Dict, List, Optional, Sequence

from ..core.discovery import entry as discovery
from ..core.model.errors import ChannelError, ConnectTimeoutError, DeadlineError, PayloadError, TargetError, XpcError
from ..core.model.target import Mode, join_name
from ..core.node.joiner import Joiner
from ..core.node.request import PendingRequest
from ..core.unpatched import monotonic
from ..core.values.traits import PeerProfile, python_version
from .hook import Hook
from .reports import Reporter

log = logging.getLogger("xpc_instrument")


class PendingRegistration:
    """A hook that a process has been asked to register. For one thread that waits."""

    __slots__ = ("_request", "hook", "process")

    def __init__(self, process: Process, hook: Hook, request: Optional[PendingRequest]) -> None:
        self.process = process
        self.hook = hook
        self._request = request

    def give_up(self) -> bool:
        """Wait no more; whether the process has not answered. What was not sent yet will not be."""
        self.process.answered(self.hook)
        return self._request is not None and self._request.give_up()

    def confirm(self, deadline: float) -> Optional[XpcError]:
        """Wait for the answer and note it in the hook; returns why the process refuses the hook, if it does. Its death is no error.

        Raises `DeadlineError` or `ConnectTimeoutError` if there is no answer until `deadline`, or another error if the process lives and
        cannot be told.
        """
        if self._request is None:
            self.hook.accepted = True
            return None
        try:
            try:
                answer = self._request.answer(deadline)
            finally:
                self.process.answered(self.hook)
        except (TargetError, PayloadError) as error:
            self.hook.refusal = self.hook.refusal or error
            return error
        except ChannelError:
            if self.process.joiner.alive:
                raise
            return None
        except XpcError as error:
            # A failure over there, which says nothing of the hook.
            self.hook.failure = self.hook.failure or error
            return error
        self.hook.handle._note_pending(map(str, answer.data.get("pending") or ()))
        if answer.data.get("waits"):
            self.hook.waits = True
            self.hook.handle._note_waiting(self.process.joiner.welcome.pid)
        else:
            self.hook.accepted = True
        granted = answer.data.get("timeout")
        if isinstance(granted, (int, float)):
            self.hook.deadline = granted
        if not answer.data.get("importable", True):
            self.process.profile.add_foreign(self.hook.module)
        return None


def confirm_all(hook: Hook, pending: Sequence[PendingRegistration], timeout: float) -> None:
    """Wait until all processes have answered that were asked to register a hook. Raises `DeadlineError`, naming those that have not.

    Where others have it, the log says which refuse it, and why.
    """
    refusals: List[str] = []
    deadline = monotonic() + timeout
    late: List[str] = []
    for one in pending:
        try:
            refusal = one.confirm(deadline)
            if refusal is not None:
                refusals.append(f"{one.process.name}: {refusal}")
        except (DeadlineError, ConnectTimeoutError):
            late.append(one.process.name)
    if late:
        raise DeadlineError(
            f"{hook.handle.target}: {len(late)} of {len(pending)} processes did not answer within {timeout:g} s: {', '.join(late)}. "
            "The hook is removed everywhere; try again when they run, or end them"
        )
    for text in refusals if hook.has_place else ():
        log.warning("%s", text)


class PendingRemoval:
    """A hook that a process has been asked to remove. For one thread that waits."""

    __slots__ = ("_request", "hook", "process")

    def __init__(self, process: Process, hook: Optional[Hook], request: PendingRequest) -> None:
        self.process = process
        self.hook = hook
        self._request = request

    def confirm(self, deadline: float) -> None:
        """Wait for the answer, which says how many events were dropped. Raises what `PendingRequest.answer` raises."""
        answer = self._request.answer(deadline)
        if self.hook is not None and "totals" in answer.data:
            self.hook.handle._last_totals[int(answer.data["pid"])] = answer.data["totals"]
        if self.hook is not None and "dropped" in answer.data:
            for key, count in dict(answer.data["dropped"]).items():
                self.hook.handle._note_dropped(str(answer.data["source"]), int(count), int(key))

    def give_up(self) -> None:
        """Wait no more."""
        self._request.give_up()


class Process:
    """One joined process of the application; `name` is for people. `dial` makes the node that joins it."""

    __slots__ = ("_asked", "_lock", "joiner", "known_profile", "name", "reporter", "signatures")

    def __init__(self, name: str, dial: Callable[[Process], Joiner]) -> None:
        self.name = name
        self.reporter = Reporter()
        # Of the targets, as far as it has told them.
        self.signatures: Dict[str, Optional[inspect.Signature]] = {}
        # `profile`, once it is known: each call looks here first.
        self.known_profile: Optional[PeerProfile] = None
        self._lock = threading.Lock()
        # What it has been asked for hooks and not answered, by the number of the hook.
        self._asked: Dict[int, PendingRequest] = {}
        self.joiner = dial(self)

    def pids(self) -> List[int]:
        """Its own, and those of the processes that share its address: it passes on to them what it is told."""
        address, own = str(self.joiner.address), self.joiner.welcome.pid
        if address.endswith(f".{own}.sock"):
            return [own]
        try:
            return [own, *(entry.pid for entry in discovery.processes(elsewhere=False) if entry.member and entry.address == address)]
        except XpcError:
            return [own]  # they may be on another machine

    def begin_register(self, hook: Hook, deadline: float) -> PendingRegistration:
        """Have the process register a hook. Waits for no answer."""
        if hook.over():
            return PendingRegistration(self, hook, None)
        handle = hook.handle
        terms = hook.terms.to_json()
        if hook.expires is not None:
            terms["expires"] = max(0.001, hook.expires - monotonic())
        request = self.joiner.begin_register(
            join_name(handle.mode, handle.target),
            handle.number,
            "plain" if handle.mode is Mode.INSTEAD else "call",
            terms=terms,
            module=hook.module,
            deadline=deadline,
        )
        self._asked[handle.number] = request
        return PendingRegistration(self, hook, request)

    def answered(self, hook: Hook) -> None:
        """Nobody waits for its answer on a hook any more."""
        self._asked.pop(hook.handle.number, None)

    def goes_on(self, hook: Hook, seconds: float) -> None:
        """It has told of some targets of a hook, and may still be at work on others: it has so many seconds more for that."""
        request = self._asked.get(hook.handle.number)
        if request is not None:
            request.prolong(seconds)

    @property
    def profile(self) -> PeerProfile:
        """How values are pickled for the process. Invocations that waited for this session come while it is still joining."""
        profile = self.known_profile
        if profile is None:
            with self._lock:
                profile = self.known_profile
                if profile is None:
                    welcome = self.joiner.welcome
                    profile = self.known_profile = PeerProfile(welcome.python, python_version(), welcome.max_payload)
        return profile
