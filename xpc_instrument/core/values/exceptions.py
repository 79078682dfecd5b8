"""Exceptions to bytes and back, with all that hangs on them: causes, contexts, members of groups, exceptions among their values.

Rules:
- They cross as a flat list of nodes, the exception itself first, then what it leads to, nearest first; so a cycle is no problem, and what
  is too much is left out at the far end. Each node fails for itself.
- An exception is taken apart into its fields, and made again of them (`fields.py`): no `__init__` runs.
- To be looked at (`dump_looked_at`), nothing of the application runs: plain values by value, all else as references, and no text, which
  the other side's own class makes; no copy is made that would be finalized. By copy (`dump_exception`) values are pickled; where something
  is lost by that, the class may have a better way of its own (`__reduce__`), which is taken if it gives the same text.
- A class is found by its name, or crosses by value as any value does. For one that cannot be had does the nearest that it derives from and
  the other side knows, in a script as a `RemoteError` too; with the text, the fields, and a note that says what it was.
- The application gets no error of ours from a hook, not as a cause or a member either.
- What the other side has already (`known`: what the original raised) crosses as its number and is the very object again.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, Type

from ..model.errors import PayloadError, RemoteError, RemoteTraceback, XpcError
from ..model.interrupts import raise_interrupt
from ..protocol.codec import Bytes
from . import fields
from .names import FAULTS, describe
from .nodes import LONGEST_TEXT, WIDTH, Copying, Looking, Member, Node, text_of
from .pickling import Payload, load
from .references import Asker, Reference, Table, load_with_asker, load_with_table
from .tracebacks import as_text, as_traceback
from .traits import PeerProfile


def dump_exception(
    error: BaseException, profile: PeerProfile, asker: Optional[Asker] = None, known: Sequence[BaseException] = ()
) -> Payload:
    """An exception by copy, in at most half the limit and RECORD_SLACK. `known` are those that the other side has, by number."""
    return Copying(profile, asker, known).record(error), ()


def dump_looked_at(error: BaseException, profile: PeerProfile, table: Optional[Table] = None) -> Payload:
    """An exception of the application, of whose code nothing runs; of the same size. `table` keeps what is referred to."""
    return Looking(profile, table).record(error), ()


# and back ------------------------------------------------------------------------------------------------------------------


class _Loading:
    """Makes the exceptions of a record. `of_hook` says that the application gets them, which gets no error of ours."""

    def __init__(
        self, nodes: List[Node], first: int, load_values: Callable[..., Any], known: Sequence[BaseException], of_hook: bool
    ) -> None:
        self._nodes = nodes
        self._load = load_values
        self._known = known
        self._of_hook = of_hook
        self.errors: List[Optional[BaseException]] = [None] * len(nodes)
        self._begun: List[bool] = [False] * len(nodes)
        # Beside an exception: its values, and what is to be said of it.
        self._values: List[Any] = [None] * len(nodes)
        self._notes: List[List[str]] = [[] for _ in nodes]
        self._texts: Dict[int, str] = {}
        # Whether there are exceptions among the values, which may not have been made when these were set.
        self._leads_on = False
        for number in range(len(nodes)):
            self._make(number)
        for number in range(len(nodes)):
            self._fill(number)
        self.first: BaseException = self._error(first)

    def _error(self, number: Optional[int]) -> Any:
        if number is None:
            return RuntimeError("(this exception was left out: there were too many)")
        return self._known[-1 - number] if number < 0 else self.errors[number]

    # making ------------------------------------------------------------------------------------------------------------

    def _make(self, number: int) -> BaseException:
        error = self.errors[number]
        if error is not None:
            return error
        names, by_value, values, text, pickled, _, _, _, group, _, lost = self._nodes[number]
        notes = self._notes[number]
        notes += [f"did not cross: {one}" for one in lost]
        message, members = "", []
        if group is not None:
            message = group[0]
            if self._begun[number]:
                raise PayloadError("a group of exceptions that is in itself")
            self._begun[number] = True
            members = [self._member(one) for one in group[1]]
        cls, why = self._exact(number, names, by_value)
        if values is not None:
            try:
                self._values[number] = self._load(*_writable(values))
            except PayloadError as problem:
                notes.append(f"its values did not cross: {problem}")
        if cls is not None and pickled is not None:
            error = self._as_it_pickled(cls, pickled, text)
            if error is not None:
                self._values[number] = None
                notes.clear()
        if cls is not None and error is None:
            try:
                error = fields.make(cls, message, members)
                self._set_values(error, number, text)
            except FAULTS as problem:
                raise_interrupt(problem, of_values=True)
                error, why = None, describe(problem)
        if error is None:
            error = self._instead(number, names, text, why, message, members)
        self.errors[number] = error
        return error

    def _member(self, number: Optional[int]) -> BaseException:
        return self._error(number) if number is None or number < 0 else self._make(number)

    def _exact(self, number: int, names: Any, by_value: Any) -> Tuple[Optional[Type[BaseException]], str]:
        """The class itself, or why it cannot be had."""
        try:
            cls = self._load(*by_value) if by_value is not None else _find(*names[0], imports=True)
        except FAULTS as problem:
            raise_interrupt(problem, of_values=True)
            return None, describe(problem)
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            return None, f"{names[0][1]} is no exception here"
        if by_value is None and hasattr(cls, "__del__"):
            return None, "it has a finalizer, which is to run for the original alone"
        if self._of_hook and number and issubclass(cls, XpcError):
            return None, "it is an error of xpc-instrument"
        return cls, ""

    def _set_values(self, error: BaseException, number: int, text: Optional[str]) -> None:
        values = self._values[number]
        if values is None:
            fields.set_args(error, () if text is None else (text,))
            return
        args, slots, attributes = values
        if args is not None:
            fields.set_args(error, tuple(map(self._resolved, args)))
        fields.set_fields(error, {name: self._resolved(value) for name, value in slots.items()})
        fields.get_attributes(error).update({name: self._resolved(value) for name, value in attributes.items()})

    def _resolved(self, value: Any) -> Any:
        """The value with exceptions in the places of their numbers, as far as they are made."""
        kind = type(value)
        if kind is Member:
            self._leads_on = True
            return self._error(value.number)
        if (kind is list or kind is tuple) and any(type(one) is Member for one in value):
            self._leads_on = True
            return kind([self._error(one.number) if type(one) is Member else one for one in value])
        return value

    def _as_it_pickled(self, cls: type, pickled: Any, text: Optional[str]) -> Optional[BaseException]:
        try:
            error: Any = self._load(*_writable(pickled))
        except PayloadError:
            return None
        return error if isinstance(error, BaseException) and type(error) is cls and text_of(error) == text else None

    def _instead(self, number: int, names: Any, text: Optional[str], why: str, message: str, members: List[BaseException]) -> BaseException:
        """For an exception of whose class none can be made here."""
        full = _joined(*names[0])
        said = self._texts[number] = text if text is not None else self._said(number)
        for module, name in (*names[1:], ("builtins", "Exception")):
            try:
                cls = _find(module, name, imports=False)
                if issubclass(cls, XpcError):
                    continue
                error = fields.make(cls if self._of_hook else _remote_error_of(cls), message, members)
                self._set_values(error, number, said)
                values = self._values[number] or [None, {}, {}]
                if not self._of_hook:
                    fields.set_args(error, (f"{full}: {said} (it arrives as a RemoteError, because {why})",))
                    values[0] = None
                elif text is not None and text_of(error) != text and not fields.is_group(cls):
                    fields.set_text(error, text)
                    values[0], values[1] = None, {}
            except FAULTS as problem:
                raise_interrupt(problem, of_values=True)
                continue
            if self._of_hook:
                self._notes[number].insert(0, f"it was raised as {full}, which cannot be had here: {why}")
            return error
        raise PayloadError(f"{full} cannot be made here")

    def _said(self, number: int) -> str:
        """What `BaseException` makes of its arguments; nothing is asked of what is referred to."""
        values = self._values[number]
        args = tuple(map(_named, values[0])) if values is not None and values[0] is not None else ()
        return (str(args[0]) if len(args) == 1 else repr(args) if args else "")[:LONGEST_TEXT]

    # filling -----------------------------------------------------------------------------------------------------------

    def _fill(self, number: int) -> None:
        """What it leads to, now that all are made, and what is to be said of it."""
        error = self._error(number)
        _, _, _, _, _, cause, context, suppress, _, frames, _ = self._nodes[number]
        if self._leads_on and self._values[number] is not None:
            self._set_values(error, number, None)
        came_of = [None if one is None else self._error(one) for one in (cause, context)]
        fields.set_chain(error, came_of[0], came_of[1], bool(suppress))
        if self._notes[number]:
            attributes = fields.get_attributes(error)
            notes = attributes.get("__notes__")
            attributes["__notes__"] = [*(notes if isinstance(notes, (list, tuple)) else ()), *self._notes[number]]
        if self._of_hook:
            fields.set_traceback(error, as_traceback(frames))

    # showing -----------------------------------------------------------------------------------------------------------

    def text(self, number: int, seen: Set[int]) -> str:
        """What Python prints of the exception and those that it came of; each is shown once."""
        names, _, _, text, _, cause, context, suppress, group, frames, _ = self._nodes[number]
        before = ""
        seen.add(number)
        if cause is not None and cause >= 0 and cause not in seen:
            before = f"{self.text(cause, seen)}\nThe above exception was the direct cause of the following exception:\n\n"
        elif context is not None and context >= 0 and context not in seen and cause is None and not suppress:
            before = f"{self.text(context, seen)}\nDuring handling of the above exception, another exception occurred:\n\n"
        inner = ""
        for one in group[1] if group is not None else ():
            if one is not None and one >= 0 and one not in seen:
                inner += "".join(f"  | {line}\n" for line in (*self.text(one, seen).splitlines(), "+---"))
        text = text or self._texts.get(number)
        if text is None:
            text = self._said(number) if self._refers(number) else text_of(self.errors[number])  # type: ignore[arg-type]
        return f"{before}{as_text(frames)}{_joined(*names[0])}{': ' if text else ''}{text or ''}\n{inner}"

    def _refers(self, number: int) -> bool:
        """Whether there is a reference among its values, which its text may ask the application for."""
        values = self._values[number]
        if values is None:
            return False
        args, slots, attributes = values
        return any(type(one) is Reference for one in (*(args or ()), *slots.values(), *attributes.values()))

    def end_of_chain(self) -> BaseException:
        """The one that is shown first."""
        error, seen = self.first, set()
        while id(error) not in seen:
            seen.add(id(error))
            cause, context = fields.get_cause(error), fields.get_context(error)
            if cause is not None:
                error = cause
            elif context is not None and not fields.get_suppress(error):
                error = context
        return error


def _writable(payload: Tuple[bytes, Sequence[bytes]]) -> Tuple[bytes, List[bytearray]]:
    body, buffers = payload
    return body, list(map(bytearray, buffers))


def _named(value: Any) -> Any:
    """A value, or a text in the place of what is not to be asked."""
    if type(value) is Reference:
        _, _, type_, text = value._xpc_of
        return text or f"<{type_}>"
    return "<an exception>" if type(value) is Member else value


def _joined(module: str, name: str) -> str:
    return name if module == "builtins" else f"{module}.{name}"


def _find(module: str, name: str, *, imports: bool) -> Type[BaseException]:
    """The class of that name. Raises `ImportError`, `LookupError` or what importing it raises."""
    if module == "__main__":
        raise LookupError("what is in the __main__ of another program cannot be imported")
    found: Any = sys.modules.get(module)
    if found is None:
        if not imports:
            raise LookupError(module)
        found = importlib.import_module(module)
    for part in name.split("."):
        found = vars(found)[part] if part in vars(found) else getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise LookupError(f"{module}.{name} is no exception here")
    return found


# Base and class, by the `id` of the base: a metaclass may have a `__hash__` of its own. Few classes are ever asked for.
_remote_errors: Dict[int, Tuple[type, Type[BaseException]]] = {}
_MOST_KEPT = 64


def _remote_error_of(base: Type[BaseException]) -> Type[BaseException]:
    """`RemoteError`, or one that `except base` catches too."""
    if issubclass(RemoteError, base) or not issubclass(base, Exception):
        return RemoteError
    if id(base) not in _remote_errors:
        namespace = {"__module__": RemoteError.__module__, "__doc__": RemoteError.__doc__}
        made = type("RemoteError", (RemoteError, base), namespace)
        if len(_remote_errors) >= _MOST_KEPT:
            return made
        _remote_errors[id(base)] = base, made
    return _remote_errors[id(base)][1]


def _load_record(body: Bytes, load_values: Callable[..., Any], known: Sequence[BaseException], of_hook: bool) -> _Loading:
    record = load(body, ())
    try:
        first, nodes = record
        if any(type(node) is not tuple or len(node) != WIDTH for node in nodes) or not -len(known) <= first <= 0:
            raise ValueError(f"{len(nodes)} nodes")
        return _Loading(nodes, first, load_values, known, of_hook)
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        raise_interrupt(error, of_values=True)
        raise PayloadError(f"an exception came in an unknown form: {describe(error)}") from error


def load_exception(body: Bytes, table: Optional[Table] = None, asker: Optional[Asker] = None) -> BaseException:
    """What came with a call, or from a callback; a `RemoteError` where it cannot be built.

    A `RemoteTraceback` with the tracebacks of all is the cause of the one that has no other: of that which is shown first.
    """
    loading = _load_record(body, _loader(table, asker), (), False)
    fields.set_cause(loading.end_of_chain(), RemoteTraceback(loading.text(0, set())))
    return loading.first


def load_for_application(body: Bytes, table: Table, known: Sequence[BaseException] = ()) -> BaseException:
    """What a hook raised, for the application: as the script has it, with the lines of the script's traceback."""
    return _load_record(body, _loader(table, None), known, True).first


def _loader(table: Optional[Table], asker: Optional[Asker]) -> Callable[..., Any]:
    def load_values(body: Bytes, buffers: Sequence[Bytes] = ()) -> Any:
        if table is not None:
            return load_with_table(table, body, buffers)
        return load(body, buffers) if asker is None else load_with_asker(asker, body, buffers)

    return load_values
