"""A small plain value, decided in one place: built-in atoms, and small containers of them.

Plain pickle copies such a value in one step. No code of the application runs while it is pickled, no name is looked up while it is loaded,
and neither the size limit nor a module that the other side lacks can be in its way.
"""

from __future__ import annotations

import pickle
from typing import Any, Callable, Iterable, Optional

PROTOCOL = 5
# Of such values no code runs while they are pickled, and no name is looked up while they are loaded.
SCALARS = frozenset({int, float, complex, bool, type(None)})
# The types of values that cannot be changed in place.
ATOMS = SCALARS | {str, bytes}
# What counts as small: bytes or characters of a string, items of a container, containers within each other.
SMALL_TEXT = 4096
_SMALL_COUNT = 16
_SMALL_DEPTH = 2


def are_small(values: Iterable[Any], depth: int = _SMALL_DEPTH) -> bool:
    """Whether all values are plain and small: then plain pickle does, and neither the limit nor a missing module can be in its way."""
    for value in values:
        kind = type(value)
        if kind in SCALARS:
            continue
        if kind is str or kind is bytes:
            if len(value) > SMALL_TEXT:
                return False
        elif kind is dict:
            # Copied in one step: another thread may change it meanwhile.
            if len(value) > _SMALL_COUNT or not depth:
                return False
            for key, inner in list(value.items()):
                kind = type(inner)
                plain = kind in SCALARS or (kind is str and len(inner) <= SMALL_TEXT) or are_small((inner,), depth - 1)
                if not plain or not ((type(key) is str and len(key) <= SMALL_TEXT) or are_small((key,), 0)):
                    return False
        elif kind is list or kind is tuple:
            if len(value) > _SMALL_COUNT or not depth or not are_small(tuple(value), depth - 1):
                return False
        else:
            return False
    return True


def dump_small(value: Any, dumps: Callable[[Any, int], bytes] = pickle.dumps) -> bytes:
    """Pickle what is known to be plain and small."""
    return dumps(value, PROTOCOL)


def dump_if_small(value: Any, limit: int) -> Optional[bytes]:
    """The pickle of a plain and small value that is within the limit; None of any other."""
    if type(value) not in SCALARS and not are_small((value,)):
        return None
    body = dump_small(value)
    return body if len(body) <= limit else None
