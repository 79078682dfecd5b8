"""Plain values: which are small, and which cannot be changed. Decided here and nowhere else.

Plain pickle copies a small plain value in one step. No code of the application runs while it is pickled, no name is looked up while it is
loaded, and neither the size limit nor a module that the other side lacks can be in its way.
"""

from __future__ import annotations

import pickle
from typing import Any, Callable, Dict, Iterable, Optional, Tuple

PROTOCOL = 5
SCALARS = frozenset({int, float, complex, bool, type(None)})
# The types of values that cannot be changed in place.
ATOMS = SCALARS | {str, bytes}
# What counts as small: bytes or characters of a string, items of a container, containers within each other.
_SMALL_TEXT = 4096
_SMALL_COUNT = 16
_SMALL_DEPTH = 2
# What weighs nothing worth counting: a string up to this length, an integer up to this size.
SHORT = 512
BIG = 1 << 64


def is_atom(value: Any) -> bool:
    """Whether a value cannot be changed in place, and weighs nothing worth counting.

    Asked by identity, since it is asked in the middle of the application's work: a metaclass may have a `__hash__` of its own.
    """
    kind = type(value)
    if kind is int:
        return bool(-BIG < value < BIG)
    if kind is str or kind is bytes:
        return bool(len(value) <= SHORT)
    return kind is float or kind is bool or kind is complex or value is None


def are_small(values: Iterable[Any], depth: int = _SMALL_DEPTH) -> bool:
    """Whether all values are plain and small."""
    for value in values:
        kind = type(value)
        if kind in SCALARS:
            continue
        if kind is str or kind is bytes:
            if len(value) > _SMALL_TEXT:
                return False
        elif kind is dict:
            # Copied in one step: another thread may change it meanwhile.
            if len(value) > _SMALL_COUNT or not depth:
                return False
            for key, inner in list(value.items()):
                kind = type(inner)
                plain = kind in SCALARS or (kind is str and len(inner) <= _SMALL_TEXT) or are_small((inner,), depth - 1)
                if not plain or not ((type(key) is str and len(key) <= _SMALL_TEXT) or are_small((key,), 0)):
                    return False
        elif kind is list or kind is tuple:
            if len(value) > _SMALL_COUNT or not depth or not are_small(tuple(value), depth - 1):
                return False
        else:
            return False
    return True


def dump_if_small(value: Any, limit: int, dumps: Callable[[Any, int], bytes] = pickle.dumps) -> Optional[bytes]:
    """The pickle of a plain and small value that is within the limit; None of any other."""
    # Asked of most results: to call `are_small` for a scalar takes as long as to pickle it.
    if type(value) not in SCALARS and not are_small((value,)):
        return None
    body = dumps(value, PROTOCOL)
    return body if len(body) <= limit else None


def dumper_of_small_calls(
    limit: int, dumps: Callable[[Any, int], bytes] = pickle.dumps
) -> Callable[[Tuple[Any, ...], Dict[str, Any], Tuple[Any, ...], Any], Optional[bytes]]:
    """What pickles the record `(args, kwargs, meta, outcome)` of a call whose values are all plain and small, in at most `limit` bytes.

    It gives None for any other record. A function of its own for each limit: one call fewer for each call of a hook.
    """

    def dump_call(args: Tuple[Any, ...], kwargs: Dict[str, Any], meta: Tuple[Any, ...], outcome: Any) -> Optional[bytes]:
        if not are_small(args) or (kwargs and not are_small(kwargs.values())) or (outcome is not None and not are_small((outcome,))):
            return None
        body = dumps((args, kwargs, meta, outcome), PROTOCOL)
        return body if len(body) <= limit else None

    return dump_call
