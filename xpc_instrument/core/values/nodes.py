"""An exception and what it leads to, taken apart into nodes: plain data and pickled values.

A node is a tuple: module and name of its class and of those that it derives from; the class pickled, or None; the pickled values
`[arguments, what is in slots, attributes]`, or None; its text, or None; the exception pickled as its class has it, or None; the numbers of
its cause and context, or None; whether the context is suppressed; message and members' numbers of a group, or None; frames; what of its
values is lost.
"""

from __future__ import annotations

import pickle
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..model.errors import PayloadError
from ..model.interrupts import raise_interrupt
from ..protocol.codec import Bytes
from . import fields
from .names import FAULTS, type_name
from .pickling import dump_plain, load
from .plain import NOT_PLAIN, PROTOCOL, Snapshots, are_small
from .references import Asker, OutgoingReference, Reference, Table, dump_with_asker, load_with_asker
from .tracebacks import places
from .traits import PeerProfile

# Of an exception that leads to more others, those are left out that are the farthest away.
_MOST = 200
# Frames of the exception itself, and of each other one.
_FRAMES, _FEW_FRAMES = 40, 12
# What all nodes have in strings beside their values, in bytes: their names, texts and frames. A lane has room for that (RECORD_SLACK).
_STRINGS = 500_000
LONGEST_TEXT = 2000
# With more items a container is looked through for exceptions no longer.
_MOST_ITEMS = 256


class Member:
    """In the place of an exception among the values of another one: the number of its node, if there is one."""

    __slots__ = ("number",)

    def __init__(self, number: Optional[int]) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return Member, (self.number,)


Node = Tuple[Any, ...]
WIDTH = 11


class _Dumping:
    """Takes apart one exception and what it leads to. `known` are those that the other side has."""

    def __init__(self, profile: PeerProfile, known: Sequence[BaseException] = ()) -> None:
        self.profile = profile
        # Of the values, in bytes. The rest of the record has room of its own.
        self.room = profile.limit // 2
        self.strings = _STRINGS
        self.errors: List[BaseException] = []
        self._known = {id(one): -1 - number for number, one in enumerate(known)}
        self._numbers: Dict[int, int] = {}

    def record(self, error: BaseException) -> bytes:
        first = self.number(error)
        nodes: List[Node] = []
        while len(nodes) < len(self.errors):
            nodes.append(self._node(self.errors[len(nodes)]))
        return pickle.dumps((first, nodes), PROTOCOL)

    def number(self, error: Optional[BaseException]) -> Optional[int]:
        """The number of a node, which is made if there is room; of a known one, below zero."""
        if error is None:
            return None
        key = id(error)
        number = self._known.get(key)
        if number is None:
            number = self._numbers.get(key)
        if number is None and len(self.errors) < _MOST and self.strings > 0:
            number = self._numbers[key] = len(self.errors)
            self.errors.append(error)
        return number

    def _node(self, error: BaseException) -> Node:
        cls = type(error)
        names = fields.names_of(cls)
        text, by_value, values, pickled, lost = self._content(error, cls)
        group = (fields.message_of(error), [self.number(one) for one in fields.members_of(error)]) if fields.is_group(cls) else None
        cause, context = self.number(fields.get_cause(error)), self.number(fields.get_context(error))
        self.strings -= 4 * (len(text or "") + sum(len(one) for pair in names for one in pair) + sum(map(len, lost)))
        frames = []
        if self.strings > 0:
            frames = places(fields.get_traceback(error), _FRAMES if error is self.errors[0] else _FEW_FRAMES)
            self.strings -= 4 * sum(len(file) + len(name) + len(module) + len(line) + 10 for file, _, name, module, line in frames)
        return names, by_value, values, text, pickled, cause, context, bool(fields.get_suppress(error)), group, frames, lost

    def _content(self, error: BaseException, cls: type) -> Tuple[Optional[str], Any, Any, Any, List[str]]:
        """Its text, its class by value, its values, itself as it pickles, and what of that is lost."""
        raise NotImplementedError

    def replaced(self, value: Any) -> Any:
        """A value with the numbers of exceptions in their places, if it is one or a small list or tuple with one in it."""
        if fields.is_exception(value):
            number = self.number(value)
            return self.left_out(value) if number is None else Member(number)
        kind = type(value)
        if (kind is list or kind is tuple) and len(value) <= _MOST_ITEMS:
            items = tuple(value)
            if any(map(fields.is_exception, items)):
                return kind([self.replaced(one) if fields.is_exception(one) else self.item(one) for one in items])
        return self.item(value)

    def item(self, value: Any) -> Any:
        """A value without exceptions, as it is to be pickled."""
        return value

    def left_out(self, error: BaseException) -> Any:
        """An exception among the values for which there is no room."""
        return Member(None)

    def parts(self, error: BaseException) -> Tuple[List[Any], Dict[str, Any], Dict[str, Any]]:
        """Its arguments, what is in its slots, and its attributes."""
        # Copied in one step: another thread may change it meanwhile.
        attributes = [(name, value) for name, value in dict.copy(fields.get_attributes(error)).items() if type(name) is str]
        return (
            list(map(self.replaced, fields.get_args(error))),
            {name: self.replaced(value) for name, value in fields.get_fields(error).items()},
            {name: self.replaced(value) for name, value in attributes},
        )


class Looking(_Dumping):
    """Of the application's, for a hook that looks. `table` keeps what is referred to, for as long as the call."""

    def __init__(self, profile: PeerProfile, table: Optional[Table]) -> None:
        super().__init__(profile)
        self._table = table
        self._names = True

    def item(self, value: Any) -> Any:
        if are_small((value,)):
            return value
        copy = Snapshots(self.room // 16, names=self._names).of(value)
        if copy is not NOT_PLAIN:
            return copy
        return OutgoingReference(id(value), type_name(value)) if self._table is None else self._table.reference_to(value)

    def left_out(self, error: BaseException) -> Any:
        return self.item(error)

    def _content(self, error: BaseException, cls: type) -> Tuple[Optional[str], Any, Any, Any, List[str]]:
        for names in (True, False):
            # The application may have put something else in the place of a type that pickles under its name.
            self._names = names
            parts = list(self.parts(error))
            try:
                body, buffers = dump_plain(parts, self.profile, self.room - self.profile.limit)
            except PayloadError as problem:
                raise_interrupt(problem)
                continue
            copies = tuple(map(bytes, buffers))
            self.room -= len(body) + sum(map(len, copies))
            return None, None, (bytes(body), copies), None, []
        args: Any = parts[0]
        # What most of them say, and nothing is asked for it.
        text = args[0][:LONGEST_TEXT] if len(args) == 1 and type(args[0]) is str else None
        return text, None, None, None, [f"its values do not fit: there is room for {self.room} bytes"]


class Copying(_Dumping):
    """Of a script's, or of a callback's, for who is to raise it. `asker` is that of the call that it answers."""

    def __init__(self, profile: PeerProfile, asker: Optional[Asker], known: Sequence[BaseException]) -> None:
        super().__init__(profile, known)
        self._asker = asker

    def _dump(self, value: Any) -> Tuple[Bytes, Tuple[bytes, ...]]:
        body, buffers = dump_with_asker(self._asker, value, self.profile, self.room - self.profile.limit)
        copies = tuple(map(bytes, buffers))
        self.room -= len(body) + sum(map(len, copies))
        return bytes(body), copies

    def _content(self, error: BaseException, cls: type) -> Tuple[Optional[str], Any, Any, Any, List[str]]:
        lost: List[str] = []
        by_value = values = pickled = None
        if cls.__module__ != "builtins":
            try:
                by_value = self._dump(cls)
            except PayloadError:
                pass  # then its name has to do
        args, slots, attributes = parts = self.parts(error)
        if isinstance(error, AttributeError):
            # The object that lacks the attribute: Python's own copies leave it out as well.
            slots.pop("obj", None)
        try:
            values = self._dump(list(parts))
        except PayloadError:
            values, lost = self._one_by_one(args, slots, attributes)
        text = None if any(type(one) is Reference for one in fields.get_args(error)) else text_of(error)
        if lost or fields.has_hidden_state(cls):
            pickled = self._as_it_pickles(error, text)
        return text, by_value, values, pickled, lost

    def _one_by_one(self, args: List[Any], slots: Dict[str, Any], attributes: Dict[str, Any]) -> Tuple[Any, List[str]]:
        """The values that cross and fit, and why the others do not; a text does for an argument."""
        room, lost = self.room, []

        def crosses(value: Any, what: str) -> bool:
            try:
                self._dump(value)
            except PayloadError as problem:
                lost.append(f"{what}: {problem}"[:LONGEST_TEXT])
                return False
            return True

        show = str if len(args) == 1 else repr
        args = [one if crosses(one, f"argument {place}") else _shown(one, show) for place, one in enumerate(args)]
        kept = [{name: one for name, one in every.items() if crosses(one, f"{name!r}")} for every in (slots, attributes)]
        self.room = room
        try:
            return self._dump([args, *kept]), lost
        except PayloadError as problem:
            return None, [str(problem)]

    def _as_it_pickles(self, error: BaseException, text: Optional[str]) -> Any:
        """The exception pickled by its class's own way, if that gives the same again."""
        try:
            body, buffers = self._dump(error)
            again = load(body, buffers) if self._asker is None else load_with_asker(self._asker, body, buffers)
        except PayloadError:
            return None
        return (body, buffers) if type(again) is type(error) and text_of(again) == text else None


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    try:
        return "".join((show(value), " "))[:-1][:LONGEST_TEXT]
    except FAULTS as problem:
        raise_interrupt(problem, of_values=True)
        return f"<{type_name(value)}>"


def text_of(error: BaseException) -> Optional[str]:
    """What it says of itself, as a plain `str`; its `__str__` may give a subclass with methods of its own."""
    try:
        return "".join((str(error), " "))[:-1][:LONGEST_TEXT]
    except FAULTS as problem:
        raise_interrupt(problem, of_values=True)
        return None
