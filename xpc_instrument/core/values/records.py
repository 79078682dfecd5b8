"""The record of a call for a hook that looks: plain values by value, all else as references.

Rules:
- Each argument is decided on its own, and so is the outcome. Nothing of what is not plain is looked at but its class and its `id`.
- A record is `(args, kwargs, meta, outcome, ...)`. Behind that come place, number and type of each reference. Places count the values of
  `args` and then those of `kwargs`; `OUTCOME` is that of the outcome. The value in such a place is None. So it is plain data, pickled and
  loaded in one step, whatever it refers to.
- What cannot be pickled after all, or does not fit with the rest, is referred to as well.
"""

from __future__ import annotations

import pickle
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple
from weakref import ref

from ..model.errors import PayloadError, RemoteProtocolError
from ..model.interrupts import raise_interrupt
from ..protocol.codec import Bytes
from .names import class_name, qualname_of, type_name
from .pickling import RECORD_SLACK, Payload, beside, dump_plain, load
from .plain import MOST_ITEMS, NAMED, NOT_PLAIN, PROTOCOL, Snapshots, dump_if_small
from .references import Asker, Reference, Table, refer_to
from .traits import PeerProfile

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]
Meta = Tuple[Any, ...]

OUTCOME = -1
# What is pickled in one step, without looking at the limit meanwhile: strings up to a length, containers up to a number of items, and
# within each other.
_SHORT = 4096
_FEW = 16
_DEPTH = 2


# most calls: values that are small --------------------------------------------------------------------------------------


def _are_short(values: Iterable[Any]) -> bool:
    """Whether none of the values is a container, or long."""
    for value in values:
        kind = type(value)
        if kind is int or value is None or kind is float or kind is bool:
            continue
        if (kind is not str and kind is not bytes) or len(value) > _SHORT:
            return False
    return True


def _are_named_shortly(kwargs: Kwargs) -> bool:
    """The same of keyword arguments, of which a name may be of a class of its own."""
    for name, value in kwargs.items():
        kind = type(value)
        if type(name) is not str:
            return False
        if kind is int or value is None or kind is float or kind is bool:
            continue
        if (kind is not str and kind is not bytes) or len(value) > _SHORT:
            return False
    return True


def _copied(value: Any, depth: int) -> Any:
    """A copy of a container with small values only; None of any other value."""
    kind = type(value)
    if (kind is not dict and kind is not list and kind is not tuple) or len(value) > _FEW or not depth:
        return None
    if kind is dict:
        # Before it is copied: that may compare keys of a class of their own.
        try:
            for name in value:
                if type(name) is not str:
                    return None
        except RuntimeError:
            return None  # another thread has changed it
        copy = value.copy()
        for name, inner in copy.items():
            if type(name) is not str or len(name) > _SHORT:
                return None
            kind = type(inner)
            if kind is int or inner is None or kind is bool or kind is float:
                continue
            if (kind is not str and kind is not bytes) or len(inner) > _SHORT:
                break
        else:
            return copy
        values = _all_copied(copy.values(), depth - 1)
        return None if values is None else dict(zip(copy, values))
    copy = value[:]
    for inner in copy:
        kind = type(inner)
        if kind is int or inner is None or kind is float or kind is bool:
            continue
        if (kind is not str and kind is not bytes) or len(inner) > _SHORT:
            break
    else:
        return copy
    copies = _all_copied(copy, depth - 1)
    return copies if copies is None or type(value) is list else tuple(copies)


def _all_copied(items: Iterable[Any], depth: int) -> Optional[List[Any]]:
    copies = []
    for item in items:
        kind = type(item)
        if kind is int or item is None or kind is float or kind is bool:
            copies.append(item)
        elif kind is str or kind is bytes:
            if len(item) > _SHORT:
                return None
            copies.append(item)
        else:
            copy = _copied(item, depth)
            if copy is None:
                return None
            copies.append(copy)
    return copies


def _look(shown: List[Any], values: Args, referred: List[Any], first: int, limit: int) -> bool:
    """Put into `shown` what is to cross of small values: copies, and None for what is not plain and so is `referred` to.

    `first` is the place of the first of them. False if it takes more than a glance.
    """
    for index, value in enumerate(values):
        kind = type(value)
        if kind is int or value is None or kind is float or kind is bool:
            continue
        if kind is dict or kind is list or kind is tuple:
            copy = _copied(value, _DEPTH)
            if copy is not None:
                shown[index] = copy
                continue
            if not _seems_not_plain(value, kind):
                return False
        elif kind is str or kind is bytes:
            if len(value) <= _SHORT:
                continue
            if len(value) <= limit:
                return False
        elif id(kind) in _BUILT_IN and (kind is complex or len(value) <= (limit if kind is bytearray else MOST_ITEMS)):
            return False
        shown[index] = None
        if id(kind) in _ANY_BUILT_IN:
            # Not kept among those that are known, since not each of them is referred to.
            referred += first + index, id(value), class_name(kind)
            continue
        known = _known.get(id(kind))
        if known is None or known[0]() is not kind:
            if qualname_of(kind) in NAMED:
                return False
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            known = _known[id(kind)] = ref(kind), class_name(kind)
        referred += first + index, id(value), known[1]
    return True


def _seems_not_plain(value: Any, kind: type) -> bool:
    """Whether a container is too large to be plain, or has something in it that is not, as far as a glance shows."""
    if len(value) > MOST_ITEMS:
        return True
    if kind is dict:
        if len(value) > _FEW:
            return False
        items = [*value.values()]
    else:
        items = value[:_FEW]
    for inner in items:
        kind = type(inner)
        if id(kind) not in _ANY_BUILT_IN and qualname_of(kind) not in NAMED:
            return True
    return False


# The full names of classes whose objects are referred to, by `id`: a class may have a `__hash__` of its own. None is kept alive.
_known: Dict[int, Tuple[Any, str]] = {}
_MOST_KNOWN = 1000
_BUILT_IN = frozenset(map(id, (set, frozenset, bytearray, complex)))
_ANY_BUILT_IN = _BUILT_IN | frozenset(map(id, (int, type(None), float, bool, str, bytes, dict, list, tuple)))


def dumper_of_looked_at_calls(
    limit: int, dumps: Callable[[Any, int], bytes] = pickle.dumps
) -> Callable[[Args, Kwargs, Meta, Any], Optional[bytes]]:
    """What pickles the record of a call whose plain values are all small, in at most `limit` bytes. It gives None for any other call.

    A function of its own for each limit: one call fewer for each call of a hook.
    """

    def dump_call(args: Args, kwargs: Kwargs, meta: Meta, outcome: Any) -> Optional[bytes]:
        for value in args:
            kind = type(value)
            if kind is int or value is None or kind is float or kind is bool:
                continue
            if (kind is not str and kind is not bytes) or len(value) > _SHORT:
                break
        else:
            if (not kwargs or _are_named_shortly(kwargs)) and (outcome is None or _are_short((outcome,))):
                body = dumps((args, kwargs, meta, outcome), PROTOCOL)
                return body if len(body) <= limit else None
        if len(args) == 1 and not kwargs and outcome is None:
            # As below, in half the time: one object, such as a request or an order, or one container.
            if kind is dict or kind is list or kind is tuple:
                copy = _copied(value, _DEPTH)
                if copy is not None:
                    body = dumps(((copy,), kwargs, meta, None), PROTOCOL)
                    return body if len(body) <= limit else None
            known = _known.get(id(kind))
            if known is not None and known[0]() is kind:
                body = dumps(((None,), kwargs, meta, None, 0, id(value), known[1]), PROTOCOL)
                return body if len(body) <= limit else None
        shown = [*args]
        referred: List[Any] = []
        if not _look(shown, args, referred, 0, limit):
            return None
        if kwargs:
            values = [*kwargs.values()]
            if not _look(values, tuple(values), referred, len(shown), limit):
                return None
            kwargs = dict(zip(map(exactly, kwargs), values))
        if outcome is not None:
            outcomes = [outcome]
            if not _look(outcomes, (outcome,), referred, OUTCOME, limit):
                return None
            outcome = outcomes[0]
        if not referred:
            body = dumps((tuple(shown), kwargs, meta, outcome), PROTOCOL)
            return body if len(body) <= limit else None
        body = dumps((tuple(shown), kwargs, meta, outcome, *referred), PROTOCOL)
        return body if len(body) <= limit else None

    return dump_call


def exactly(name: str) -> str:
    """A name as a plain `str`: a subclass of it has methods of its own."""
    return name if type(name) is str else str.__str__(name)


# any call ---------------------------------------------------------------------------------------------------------------


def _record(
    args: Args, kwargs: Kwargs, meta: Meta, outcome: Any, raised: bool, snapshots: Snapshots, table: Optional[Table]
) -> Tuple[Any, ...]:
    referred: List[Any] = []

    def show(place: int, value: Any) -> Any:
        copy = snapshots.of(value)
        if copy is not NOT_PLAIN:
            return copy
        referred.extend((place, id(value), class_name(type(value))))
        if table is not None:
            table.add(value)
        return None

    shown = tuple([show(place, value) for place, value in enumerate(args)])
    named = {exactly(name): show(place, value) for place, (name, value) in enumerate(kwargs.items(), len(args))}
    return (beside(shown), named, meta, outcome if raised else show(OUTCOME, outcome), *referred)


def dump_record(
    args: Args, kwargs: Kwargs, meta: Meta, outcome: Any, raised: bool, profile: PeerProfile, table: Optional[Table] = None
) -> Payload:
    """The record of any call; `raised` says that the outcome is an exception, dumped already. What is referred to is kept in `table`."""
    # The application may have put something else in the place of a type that pickles under its name; each may fit, and all together not.
    for names, room in ((True, profile.limit), (False, profile.limit)):
        try:
            return dump_plain(_record(args, kwargs, meta, outcome, raised, Snapshots(room, names=names), table), profile)
        except PayloadError as error:
            raise_interrupt(error)
    return dump_plain(_record(args, kwargs, meta, outcome, raised, Snapshots(0, names=False), table), profile, RECORD_SLACK)


# the other side -----------------------------------------------------------------------------------------------------------


def fill(record: Tuple[Any, ...], asker: Asker) -> Tuple[Any, ...]:
    """The record `(args, kwargs, meta, outcome)`, with a `Reference` for what is referred to. Raises `RemoteProtocolError`."""
    try:
        if len(record) == 7 and 0 <= record[4] < len(record[0]):
            # Most often: one argument.
            args, kwargs, meta, outcome, place, number, kind = record
            reference = refer_to(asker, number, kind)
            if len(args) == 1:
                return (reference,), kwargs, meta, outcome
            values = [*args]
            values[place] = reference
            return tuple(values), kwargs, meta, outcome
        args, kwargs, meta, outcome, *referred = record
        values, count = [*args], len(args)
        each = iter(referred)
        for place, number, kind in zip(each, each, each):
            reference = refer_to(asker, number, kind)
            if place < 0:
                outcome = reference
            elif place < count:
                values[place] = reference
            else:
                kwargs[list(kwargs)[place - count]] = reference
    except (TypeError, ValueError, LookupError) as error:
        raise RemoteProtocolError(f"a call with references that make no sense: {error!s:.80}") from None
    return tuple(values), kwargs, meta, outcome


# single values ------------------------------------------------------------------------------------------------------------


def dump_value(value: Any, profile: PeerProfile) -> Optional[Payload]:
    """The payload of a plain value; None of any other, and of what is too large."""
    body = dump_if_small(value, profile.limit)
    if body is not None:
        return body, ()
    for names in (True, False):
        copy = Snapshots(profile.limit, names=names).of(value)
        if copy is NOT_PLAIN:
            return None
        try:
            return dump_plain(copy, profile)
        except PayloadError as error:
            # The application may have put something else in the place of a type that pickles under its name.
            raise_interrupt(error)
    return None


def dump_reference(value: Any, table: Table) -> bytes:
    """The payload of a reference to a value, by itself: plain data, whatever it refers to."""
    return pickle.dumps((table.add(value), type_name(value)), PROTOCOL)


def load_reference(body: Bytes, asker: Asker) -> Reference:
    """The inverse. Raises `RemoteProtocolError`."""
    try:
        number, kind = load(body, ())
    except (TypeError, ValueError) as error:  # in the script
        raise RemoteProtocolError(f"a reference that makes no sense: {error!s:.80}") from None
    return Reference(asker, number, kind)
