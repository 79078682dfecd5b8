"""Snapshots of values, for hooks that nobody waits for.

Rules:
- An event shows the values as they were at the call. What cannot be changed in place is its own snapshot; a small container of such values
  is copied; all else is pickled at once, by the thread that has it.
- What cannot be pickled, or is too large, crosses as its type and a text: the application has gone on, so nothing can refer to it.
- Each value is packed by itself, so that one that cannot be loaded takes no other with it.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ..model.errors import PayloadError
from .names import safe_repr, type_name
from .pickling import dump
from .plain import is_atom
from .traits import PeerProfile

# Kinds of packed values.
AS_IS = 0
PICKLED = 1
TOLD = 2

# A container with more items is pickled: looking at each would take longer.
_FEW = 32
# What an event weighs beside its values, in bytes, roughly.
_WEIGHT = 64

Packed = Tuple[Any, ...]


def pack(value: Any, profile: PeerProfile) -> Tuple[Packed, int]:
    """A snapshot of a value, and its size in bytes, roughly. Runs code of the value where it has to be pickled."""
    if is_atom(value):
        return (AS_IS, value), _WEIGHT
    cls = type(value)
    if cls is str or cls is bytes:
        if len(value) * 4 <= profile.limit:
            return (AS_IS, value), len(value)
    elif cls is list or cls is tuple or cls is set or cls is frozenset:
        if len(value) <= _FEW:
            copy = cls(value)  # in one step, since another thread may be changing it
            if all(map(is_atom, copy)):
                return (AS_IS, copy), _WEIGHT * len(copy)
    elif cls is dict and len(value) <= _FEW:
        copy = value.copy()
        if all(map(is_atom, copy)) and all(map(is_atom, copy.values())):
            return (AS_IS, copy), _WEIGHT * len(copy)
    try:
        body, buffers = dump(value, profile)
    except PayloadError as error:
        return _told(value, str(error)), _WEIGHT
    if not buffers:
        return (PICKLED, bytes(body)), len(body)
    # The views are of the application's own memory, which is to change.
    copies = [bytes(buffer) for buffer in buffers]
    return (PICKLED, bytes(body), copies), len(body) + sum(map(len, copies))


def _told(value: Any, reason: str) -> Packed:
    return TOLD, type_name(value), safe_repr(value), reason


def pack_all(args: Sequence[Any], kwargs: Mapping[str, Any], profile: PeerProfile) -> Tuple[List[Packed], Dict[str, Packed], int]:
    """Packed arguments, and their size together, which stays within the limit."""
    size = _WEIGHT
    packed = []
    for value in (*args, *kwargs.values()):
        one, weight = pack(value, profile)
        if size + weight > profile.limit and weight > _WEIGHT:
            one, weight = _told(value, f"the arguments together are larger than max-payload, {profile.limit} bytes"), _WEIGHT
        size += weight
        packed.append(one)
    return packed[: len(args)], dict(zip(kwargs, packed[len(args) :])), size
