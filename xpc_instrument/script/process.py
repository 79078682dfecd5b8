"""What a session knows of its hooks and of the processes that it has joined."""

from __future__ import annotations

import inspect
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

from ..core.model.errors import ChannelError, ConnectTimeoutError, DeadlineError, PayloadError, TargetError, XpcError
from ..core.model.target import Mode, join_name
from ..core.model.terms import Terms
from ..core.node.joiner import Joiner
from ..core.node.request import PendingRequest
from ..core.values.traits import PeerProfile, python_version
from .call import Handle
from .reports import Reporter


class Hook:
    """A registered hook."""

    __slots__ = ("_lock", "accepted", "callback", "expires", "handle", "left", "mode", "module", "refusal", "terms")

    def __init__(self, handle: Handle, callback: Callable[..., Any], terms: Terms) -> None:
        self.handle = handle
        self.mode = handle.mode
        self.callback = callback
        self.terms = terms
        # Each process counts its own calls; what counts for all of them is this.
        self.left = terms.limit
        self._lock = threading.Lock()
        self.expires = None if terms.expires is None else time.monotonic() + terms.expires
        module = getattr(callback, "__module__", None)
        self.module = module if isinstance(module, str) else ""
        # Whether a process has it, and why the first that refused it did.
        self.accepted = False
        self.refusal: Optional[XpcError] = None
        handle._terms_over = self.over

    def over(self) -> str:
        """Which of its terms is over, if one is."""
        if self.left == 0:
            return "limit"
        return "expires" if self.expires is not None and time.monotonic() >= self.expires else ""

    def take(self) -> bool:
        """Count one call; False if there is none left."""
        if self.left is None:
            return True
        with self._lock:
            if self.left <= 0:
                return False
            self.left -= 1
            return True


class Told:
    """A hook that a process has been told of, and what it answers. For one thread that waits."""

    __slots__ = ("_asked", "hook", "member")

    def __init__(self, member: Member, hook: Hook, asked: Optional[PendingRequest]) -> None:
        self.member = member
        self.hook = hook
        self._asked = asked

    def give_up(self) -> bool:
        """Wait no more; whether the process has not answered. What was not sent yet will not be."""
        return self._asked is not None and self._asked.give_up()

    def confirm(self, deadline: float) -> Optional[XpcError]:
        """Wait for the answer and note it in the hook; returns why the process refuses the hook, if it does. Its death is no error.

        Raises `DeadlineError` or `ConnectTimeoutError` if there is no answer until `deadline`, or another error if the process lives and
        cannot be told.
        """
        if self._asked is None:
            self.hook.accepted = True
            return None
        try:
            answer = self._asked.answer(deadline)
        except (TargetError, PayloadError) as error:
            self.hook.refusal = self.hook.refusal or error
            return error
        except ChannelError:
            if self.member.joiner.alive:
                raise
            return None
        self.hook.accepted = True
        if not answer.data.get("importable", True):
            self.member.traits.add_foreign(self.hook.module)
        return None


def confirm_all(hook: Hook, told: Sequence[Told], timeout: float) -> None:
    """Wait until all processes have answered that were told of a hook. Raises `DeadlineError`, naming those that have not."""
    deadline = time.monotonic() + timeout
    late: List[str] = []
    for one in told:
        try:
            one.confirm(deadline)
        except (DeadlineError, ConnectTimeoutError):
            late.append(one.member.name)
    if late:
        raise DeadlineError(
            f"{hook.handle.target}: {len(late)} of {len(told)} processes did not answer within {timeout:g} s: {', '.join(late)}. "
            "The hook is removed everywhere; try again when they run, or end them"
        )


class Removal:
    """A hook that a process has been told to remove, and what it answers. For one thread that waits."""

    __slots__ = ("_asked", "hook", "member")

    def __init__(self, member: Member, hook: Optional[Hook], asked: PendingRequest) -> None:
        self.member = member
        self.hook = hook
        self._asked = asked

    def confirm(self, deadline: float) -> None:
        """Wait for the answer, which says how many events were dropped. Raises what `PendingRequest.answer` raises."""
        answer = self._asked.answer(deadline)
        if self.hook is not None and "dropped" in answer.data:
            self.hook.handle.told(str(answer.data["source"]), int(answer.data["dropped"]))

    def give_up(self) -> None:
        """Wait no more."""
        self._asked.give_up()


class Member:
    """One process of the application."""

    __slots__ = ("_lock", "_traits", "joiner", "name", "reporter", "signatures")

    def __init__(self, joiner: Joiner, name: str) -> None:
        self.joiner = joiner
        self.name = name
        self.reporter = Reporter()
        self.signatures: Dict[str, Optional[inspect.Signature]] = {}
        self._traits: Optional[PeerProfile] = None
        self._lock = threading.Lock()

    def tell(self, hook: Hook, deadline: float) -> Told:
        """Have the process register a hook. Waits for no answer."""
        if hook.over():
            return Told(self, hook, None)
        handle = hook.handle
        terms = hook.terms.to_json()
        if hook.expires is not None:
            terms["expires"] = max(0.001, hook.expires - time.monotonic())
        asked = self.joiner.begin_register(
            join_name(handle.mode, handle.target),
            handle.number,
            "plain" if handle.mode is Mode.INSTEAD else "call",
            terms=terms,
            module=hook.module,
            deadline=deadline,
        )
        return Told(self, hook, asked)

    @property
    def traits(self) -> PeerProfile:
        """How values are pickled for the process. Invocations that waited for this session come while it is still joining."""
        traits = self._traits
        if traits is None:
            with self._lock:
                traits = self._traits
                if traits is None:
                    welcome = self.joiner.welcome
                    traits = self._traits = PeerProfile(welcome.python, python_version(), welcome.max_payload)
        return traits
