"""What stands in for the functions that a recorded call has called: it gives what was recorded, and notes what is called otherwise."""

from __future__ import annotations

import inspect
import threading
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ..model.errors import XpcError
from ..values.typed import Encoder, Tree
from .calls import InnerCall
from .differing import NOTHING, PlainText, arguments_text, differences
from .rebuilding import Rebuilder

Told = Tuple[str, Any, Any]
"""A place that differs, what was recorded there, and what is there now."""

# The arguments of a call where nothing was known of the parameters.
_AS_PASSED = {"*args", "**kwargs"}
_STARS: Dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class NotRecordedError(XpcError):
    """A function that is stood in for was called as it was not when the call was recorded."""


class Standing:
    """What stands in during one call. Any thread may call `answer`."""

    def __init__(self, expected: Sequence[InnerCall], maker: Rebuilder, encoder: Encoder, is_ignored: Callable[[str], Any]) -> None:
        self._expected = expected
        self._maker = maker
        self._encoder = encoder
        self._is_ignored = is_ignored
        self._used: Set[int] = set()
        self._told: List[Told] = []
        self._is_out_of_order = False
        self._lock = threading.Lock()

    def answer(self, target: str, names: Optional[inspect.Signature], args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool) -> Any:
        """What a call of a target gives, or raises. `names` are its parameters, if they are known; with `bound` the first of `args` is an
        instance, which is not compared. Raises `NotRecordedError`, and `TypeError` for arguments that it does not take."""
        passed = self._passed(args, kwargs, bound)
        arguments = passed if names is None else self._by_name(names, args, kwargs, bound)
        with self._lock:
            one, place = self._matched(target, arguments, passed)
        value = self._maker.value(one.outcome, f"inner[{place}]")
        if one.raised:
            raise value
        return value

    def told(self) -> List[Told]:
        """What was called otherwise than it was recorded, and what was not called any more."""
        missing = [
            (f"inner[{place}]", PlainText(arguments_text(one.target, one.arguments)), NOTHING)
            for place, one in enumerate(self._expected)
            if place not in self._used
        ]
        return [*self._told, *missing]

    def _matched(self, target: str, arguments: Dict[str, Tree], passed: Dict[str, Tree]) -> Tuple[InnerCall, int]:
        left = [place for place in range(len(self._expected)) if place not in self._used]
        nearest: Optional[Tuple[int, List[Told]]] = None
        for place in (one for one in left if self._expected[one].target == target):
            was = self._expected[place].arguments
            told = list(self._compared(place, was, passed if was.keys() == _AS_PASSED else arguments))
            if nearest is None or not told:
                nearest = place, told
            if not told:
                break
        if nearest is None:
            self._told.append(("inner", NOTHING, PlainText(arguments_text(target, arguments))))
            raise NotRecordedError(f"{arguments_text(target, arguments)} was not called when this was recorded")
        place, told = nearest
        self._used.add(place)
        self._told += told
        if place != left[0] and not self._is_out_of_order:
            self._is_out_of_order = True
            first = self._expected[left[0]]
            expected, called = arguments_text(first.target, first.arguments), arguments_text(target, arguments)
            self._told.append(("inner.order", PlainText(expected), PlainText(called)))
        return self._expected[place], place

    def _compared(self, place: int, was: Mapping[str, Tree], now: Mapping[str, Tree]) -> Iterator[Told]:
        for name in [*was, *(name for name in now if name not in was)]:
            for path, old, new in differences(was.get(name, NOTHING), now.get(name, NOTHING), f"inner[{place}].{name}"):
                if not self._is_ignored(path):
                    yield path, old, new

    def _passed(self, args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool) -> Dict[str, Tree]:
        room = self._encoder.room()
        return {"*args": room.value(args[1:] if bound else args), "**kwargs": room.value(kwargs)}

    def _by_name(self, names: inspect.Signature, args: Tuple[Any, ...], kwargs: Dict[str, Any], bound: bool) -> Dict[str, Tree]:
        room = self._encoder.room()
        given = names.bind(*args, **kwargs)
        given.apply_defaults()
        found = {}
        for place, (name, parameter) in enumerate(names.parameters.items()):
            if place or not bound:
                found[_STARS.get(parameter.kind, "") + name] = room.named(name, given.arguments[name])
        return found


def signature_of(function: Any) -> Optional[inspect.Signature]:
    """The parameters of a function, where they can be known."""
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):
        return None
