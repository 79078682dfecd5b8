"""What goes with a call and what comes of it, at both ends."""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from ..model.errors import RemoteProtocolError
from ..model.words import one_line
from ..protocol.codec import Bytes, load_json
from ..values.fields import get_context, set_context
from ..values.names import type_name
from ..values.references import Asker, Reference

# Nesting of the JSON on lanes: one object of plain values; and its bytes at most. FAILED has a message of 2,000 characters.
_FLAT = 1
_LONGEST_JSON = 64 * 1024

# In the place of the number that a frame has: the body of this RESULT is a reference (`values.records.dump_reference`), or has values of
# which each crosses on its own, as the arguments of a record (`values.records.dump_record`).
A_REFERENCE, ITEMS = 1, 2

AtStart = Callable[[int, int, int, Any], Tuple[Any, ...]]
AtEnd = Callable[[int, int, int, Any, bool, float], Tuple[Any, ...]]
Arguments = Tuple[Tuple[Any, ...], Dict[str, Any]]


class Meta(NamedTuple):
    """What crosses with a call of a probe point beside its values: a plain tuple in this order, less what says nothing at its end.

    `instance_id` is the instance's number in the call's table; an empty `instance_type` says that there is none. Only after the original
    has ended: whether it `raised`, and its `duration` in seconds. Only for a hook that has several targets: which `target` it is.
    """

    number: int
    pid: int
    thread: int
    instance_type: str = ""
    instance_id: int = 0
    raised: bool = False
    duration: float = 0.0
    target: str = ""

    @staticmethod
    def at_start(number: int, pid: int, thread: int, instance: Any) -> Tuple[Any, ...]:
        """The tuple for a hook that runs before the original or in its place; `instance` is the object, or None."""
        if instance is None:
            return number, pid, thread
        return number, pid, thread, type_name(instance), id(instance)

    @staticmethod
    def at_end(number: int, pid: int, thread: int, instance: Any, raised: bool, duration: float) -> Tuple[Any, ...]:
        """The tuple for a hook that runs after the original."""
        if instance is None:
            return number, pid, thread, "", 0, raised, duration
        return number, pid, thread, type_name(instance), id(instance), raised, duration

    @staticmethod
    def of_target(target: str) -> Tuple[AtStart, AtEnd]:
        """`at_start` and `at_end` for a hook that has several targets, of calls of this one."""

        def at_start(number: int, pid: int, thread: int, instance: Any) -> Tuple[Any, ...]:
            if instance is None:
                return number, pid, thread, "", 0, False, 0.0, target
            return number, pid, thread, type_name(instance), id(instance), False, 0.0, target

        def at_end(number: int, pid: int, thread: int, instance: Any, raised: bool, duration: float) -> Tuple[Any, ...]:
            return (*Meta.at_end(number, pid, thread, instance, raised, duration), target)

        return at_start, at_end

    def instance(self, asker: Asker) -> Optional[Reference]:
        """A reference to the instance, or None where there is none."""
        if not self.instance_type:
            return None
        return Reference(asker, self.instance_id, self.instance_type)


# A tuple that is longer may have an instance.
INSTANCE_TYPE = Meta._fields.index("instance_type")
TARGET = Meta._fields.index("target")


# The causes that a callee may name: the callback raised, its answer cannot be pickled, whoever relays has lost it.
CAUSES = frozenset({"raised", "unpicklable", "channel"})


class Failed(Exception):
    """The callee could not answer: `cause` is a word to count by, one of `CAUSES` or "other", the message, one line, says what happened."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(one_line(message))
        self.cause = cause if cause in CAUSES else "other"


class NotFound(Exception):
    """The callee has no such callback any more."""


class Outcome:
    """What a call ended with: a value, or an exception to raise."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: Optional[BaseException] = None) -> None:
        self.value = value
        self.error = error

    def get(self) -> Any:
        """The value; raises the exception if there is one. To be asked once."""
        # Forgotten: the traceback holds the frames through which it is raised, which hold this.
        error, self.error = self.error, None
        if error is not None:
            context = get_context(error)
            try:
                raise error
            finally:
                if context is not None:
                    # Raising it has put there what its caller is handling, if it is.
                    set_context(error, context)
                del error, context
        return self.value


def run_original(original: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Outcome:
    """Call, and keep what comes of it. Only what ends the thread or the process goes straight through."""
    try:
        return Outcome(original(*args, **kwargs))
    except Exception as error:
        return Outcome(error=error)


def load_small_json(body: Bytes, what: str) -> Any:
    """The JSON of a frame on a lane. Raises `RemoteProtocolError`, before it is parsed if it is longer than any honest side's."""
    if len(body) > _LONGEST_JSON:
        raise RemoteProtocolError(f"{what} of {len(body)} bytes; expected {_LONGEST_JSON} at most")
    return load_json(body, what, _FLAT)
