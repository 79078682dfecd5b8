"""Snapshots of values, for hooks that nobody waits for.

Rules:
- An event shows the values as they were at the call. What cannot be changed in place is its own snapshot; what else is plain is copied.
- What is not plain, or too large, crosses as what was captured of it (`captures.py`), for which no code of anybody runs: the application
  has gone on, so nothing can refer to it. Only where the hook asks for copies it is pickled at once, by the thread that has it.
- Each value is packed by itself, so that one that cannot be loaded takes no other with it.
"""

from __future__ import annotations

import marshal
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ..model.errors import PayloadError
from ..model.interrupts import raise_interrupt
from .names import safe_repr, type_name
from .pickling import dump, dump_plain
from .plain import NOT_PLAIN, Snapshots, is_atom
from .records import exactly
from .traits import PeerProfile

# Kinds of packed values.
AS_IS = 0
PICKLED = 1
TOLD = 2
CAPTURED = 3

# What an event weighs beside its values, in bytes, roughly.
_WEIGHT = 64

Packed = Tuple[Any, ...]
Capture = Callable[[Any], Any]


def pack(value: Any, profile: PeerProfile, *, copies: bool = False, capture: Optional[Capture] = None) -> Tuple[Packed, int]:
    """A snapshot of a value, and its size in bytes, roughly. With `copies`, code of a value that is not plain runs, which is pickled.

    `capture` gives the tree of what is not plain (`captures.Capturer.capture`); without it only its type and a short text cross.
    """
    if is_atom(value):
        return (AS_IS, value), _WEIGHT
    snapshots = Snapshots(profile.limit)
    copy = snapshots.of(value)
    try:
        if copy is not NOT_PLAIN and not snapshots.named:
            return (AS_IS, copy), _WEIGHT + profile.limit - snapshots.room
        if copy is not NOT_PLAIN:
            # At once: what may pickle it is known here, and not where the batch is.
            body, buffers = dump_plain(copy, profile)
        elif copies:
            body, buffers = dump(value, profile)
        else:
            return _told(value, "it is not plain, or too large", capture)
    except PayloadError as error:
        raise_interrupt(error)
        return _told(value, str(error), capture)
    if not buffers:
        return (PICKLED, bytes(body)), len(body)
    # The views are of the application's own memory, which is to change.
    taken = [bytes(buffer) for buffer in buffers]
    return (PICKLED, bytes(body), taken), len(body) + sum(map(len, taken))


def _told(value: Any, reason: str, capture: Optional[Capture]) -> Tuple[Packed, int]:
    if capture is None:
        return (TOLD, type_name(value), safe_repr(value), reason), _WEIGHT
    tree = capture(value)
    return (CAPTURED, tree), _WEIGHT + len(marshal.dumps(tree))


def pack_all(
    args: Sequence[Any], kwargs: Mapping[str, Any], profile: PeerProfile, *, copies: bool = False, capture: Optional[Capture] = None
) -> Tuple[List[Packed], Dict[str, Packed], int]:
    """Packed arguments, and their size together, which stays within the limit."""
    size = _WEIGHT
    packed = []
    for value in (*args, *kwargs.values()):
        one, weight = pack(value, profile, copies=copies, capture=capture)
        if size + weight > profile.limit and weight > _WEIGHT:
            one, weight = _told(value, f"the arguments together are larger than max-payload, {profile.limit} bytes", capture)
        size += weight
        packed.append(one)
    return packed[: len(args)], dict(zip(map(exactly, kwargs), packed[len(args) :])), size
