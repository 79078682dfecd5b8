"""Classes that cross by value, and those that are here: what comes back is matched to the class that is there, and never replaces it.

cloudpickle gives a class that it pickles by value a number, by which the other side has one class for it, however often it comes: each
time that it comes its state is put over that class. So the copies that a peer has follow the class. But loaded where the class itself is,
that would put its own old state over it, methods with other globals included.

Rule: the state of a class is loaded only into a class that was made by loading here; one that is there is not made again.
"""

from __future__ import annotations

import io
import pickle
import re
import weakref
from typing import Any, Callable, Dict, Sequence

from ..protocol.codec import Bytes
from .by_value import one_at_a_time

# What stands in a pickle that has the state of a class in it.
_STATE = b"_class_setstate"
_FIND_STATE = re.compile(_STATE).search
_MAKERS = ("_make_skeleton_class", "_make_skeleton_enum")

# The classes that were made by loading, by `id`; a class is not hashed, since its metaclass may have a `__hash__`. A class that is gone
# leaves a dead entry, of which the next of its `id` is not taken for it.
_arrived: Dict[int, Any] = {}


def has_classes(body: Bytes) -> bool:
    """Whether a pickle seems to have classes in it by value."""
    return _STATE in body if type(body) is bytes else _FIND_STATE(body) is not None


def load_with_classes(body: Bytes, buffers: Sequence[Bytes]) -> Any:
    """As `pickle.loads`, for a pickle that has classes in it. Raises what that raises."""
    return _Unpickler(io.BytesIO(body), buffers=buffers or None).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, name: str) -> Any:
        found = super().find_class(module_name, name)
        if module_name.startswith("cloudpickle"):
            if name == "_class_setstate":
                return _into_arrived(found)
            if name in _MAKERS:
                return _noting(found)
        return found


def _noting(make: Callable[..., Any]) -> Callable[..., Any]:
    """What makes a class, unless there is the one of its number: then nothing runs, its metaclass neither. Notes what it has made."""
    numbered = make.__globals__["_DYNAMIC_CLASS_TRACKER_BY_ID"]

    def made(*args: Any) -> Any:
        # The number stands last but one.
        cls = numbered.get(args[-2])
        if cls is None:
            cls = one_at_a_time(make, *args)
            if len(_arrived) > _MANY:
                for ident in [ident for ident, known in _arrived.copy().items() if known() is None]:
                    _arrived.pop(ident, None)
            _arrived[id(cls)] = weakref.ref(cls)
        return cls

    return made


# From here on, entries of classes that are gone are removed.
_MANY = 1000


def _into_arrived(set_state: Callable[..., Any]) -> Callable[..., Any]:
    """What loads the state of a class, unless the class is one of this process."""

    def put(cls: Any, state: Any) -> Any:
        known = _arrived.get(id(cls))
        return set_state(cls, state) if known is not None and known() is cls else cls

    return put
