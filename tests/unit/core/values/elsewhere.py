"""The other process of the tests of values: what it can import, and values that cross to it."""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any, Sequence

from hypothesis import strategies as st

from xpc_instrument.core.values.pickling import dump
from xpc_instrument.core.values.traits import PeerProfile

SAME = PeerProfile("3.11", "3.11", 1_000_000)
OTHER = PeerProfile("3.11", "3.12", 1_000_000)


@dataclasses.dataclass
class Point:
    """Has an importable name."""

    x: int
    y: int


class Foreign:
    """Pretends to live in `__main__`, where pickle finds it."""


Foreign.__module__ = "__main__"


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(Point, st.integers(), st.integers()),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
        | st.sets(st.integers(), max_size=5)
    ),
    max_leaves=20,
)


class Elsewhere(pickle.Unpickler):
    """Another process, which lacks some modules."""

    def __init__(self, body: Any, buffers: Sequence[Any], lacks: Sequence[str]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self.lacks = lacks

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in self.lacks:
            raise ModuleNotFoundError(module)
        return super().find_class(module, name)


def load_elsewhere(value: Any, profile: PeerProfile, *lacks: str) -> Any:
    body, buffers = dump(value, profile)
    return Elsewhere(body, buffers, lacks).load()


def local_class() -> type:
    class Local:
        number = 5

    return Local
