"""A request to a host whose answer is waited for apart from sending it."""

from __future__ import annotations

from typing import Callable, Union

from ..flag import Flag
from ..model import errors
from ..model.errors import DeadlineError, XpcError
from ..protocol.messages import Answer
from ..unpatched import monotonic
from .address import Address


class PendingRequest:
    """A request to the host at `address`. For one thread that waits; `forget` is called with it when none does any more."""

    __slots__ = ("_address", "_began", "_done", "_forget", "_outcome", "_until", "number")

    def __init__(self, number: int, address: Address, forget: Callable[[PendingRequest], None]) -> None:
        self.number = number
        self._address = address
        self._forget = forget
        self._began = monotonic()
        self._until = 0.0
        self._done = Flag()
        self._outcome: Union[Answer, BaseException, None] = None

    def settle(self, outcome: Union[Answer, BaseException]) -> None:
        """The answer has come, or it is known why it will not."""
        if not self._done.is_set():
            self._outcome = outcome
            self._done.set()

    def prolong(self, seconds: float) -> None:
        """The host is at work on it: whoever waits, or will, waits for that long from now on, if not for longer."""
        self._until = monotonic() + seconds

    def settle_within(self, seconds: float, outcome: Union[Answer, BaseException]) -> None:
        """What it comes to unless something else settles it within so many seconds."""
        self._done.wait(seconds)
        self.settle(outcome)

    @property
    def settled(self) -> bool:
        """Whether `answer` would not wait."""
        return self._done.is_set()

    def give_up(self) -> bool:
        """Nobody waits for the answer any more; whether none has come. What was not sent yet will not be."""
        self._forget(self)
        return not isinstance(self._outcome, Answer)

    def answer(self, deadline: float) -> Answer:
        """Wait for the answer. Raises the error that the host names, `DeadlineError`, `ChannelError`, or what dialling a lane raises."""
        try:
            while not self._done.wait(max(0.0, max(deadline, self._until) - monotonic())):
                if monotonic() >= max(deadline, self._until):
                    raise DeadlineError(f"{self._address} did not answer within {deadline - self._began:.3g} s")
        finally:
            self._forget(self)
        outcome = self._outcome
        if not isinstance(outcome, Answer):
            assert outcome is not None
            raise outcome
        if not outcome.ok:
            kind = getattr(errors, outcome.error, XpcError)
            raise kind(outcome.message)
        return outcome
