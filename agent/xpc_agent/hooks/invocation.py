"""One invocation of a probe point, as its hooks see it."""

from __future__ import annotations

import itertools
from typing import Any, Dict, Optional, Tuple

from xpc_instrument.core.unpatched import get_ident

from .gate import Args, Kwargs

# What runs before the guard is set is taken by its own name here: any of it may be a target, and would lead back into itself.
next_number = itertools.count(1).__next__


def split(args: Args, bound: bool) -> Tuple[Any, Args]:
    """The instance (None if there is none) and the arguments behind it."""
    # Called as `Class.method(self=obj)` there is nothing to split off. None can be passed as the first argument, but not bound.
    if bound and args and args[0] is not None:
        return args[0], args[1:]
    return None, args


class Invocation:
    """One invocation of a probe point, as a hook sees it: `args` without the instance; `duration` is in seconds.

    `canonical`: the arguments are in the canonical form already, since it was seen from inside of the function; `values` are those of all
    parameters then. `asked` is there if conditions were asked when it began (`early.py`): whether they were met, by the keys of the hooks.
    """

    asked: Dict[int, bool]

    __slots__ = ("args", "asked", "canonical", "duration", "exception", "instance", "kwargs", "number", "result", "thread", "values")

    def __init__(self, args: Args, kwargs: Kwargs, bound: bool, number: int = 0, canonical: bool = False) -> None:
        self.canonical = canonical
        self.instance, self.args = split(args, bound)
        self.kwargs = kwargs
        self.number = number or next_number()
        self.thread = get_ident()
        self.values: Optional[Args] = None
        self.result: Any = None
        self.exception: Optional[BaseException] = None
        self.duration = 0.0
