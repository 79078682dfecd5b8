"""The `__dict__` of a function while it has a `__signature__` that only `inspect` is to find.

Rules:
- `getattr` finds it, since that reads the dict as C does; whoever iterates or copies, as `functools.wraps` and pickle do, gets the rest.
- A `__signature__` that the application sets meanwhile is the application's: it is shown, and stays.
- Afterwards the function has the very dict that it had, with what was changed meanwhile.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Dict, ItemsView, Iterator, KeysView, ValuesView

if TYPE_CHECKING:
    from inspect import Signature

_KEY = "__signature__"


class Attributes(Dict[str, Any]):
    """A function's attributes, of which one is not shown."""

    __slots__ = ("before", "hidden")

    def __init__(self, before: Dict[str, Any], hidden: Signature) -> None:
        super().__init__(before)
        self.before = before
        self.hidden = hidden
        self[_KEY] = hidden

    def copy(self) -> Dict[str, Any]:
        """What is shown, as a plain dict."""
        return {name: value for name, value in dict.items(self) if value is not self.hidden}

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self.copy()))

    def __len__(self) -> int:
        return len(self.copy())

    def __contains__(self, name: object) -> bool:
        return name in self.copy()

    def __eq__(self, other: object) -> bool:
        return self.copy() == other

    __hash__ = None

    def __repr__(self) -> str:
        return repr(self.copy())

    def __or__(self, other: Any) -> Any:
        return {**self.copy(), **other} if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return {**other, **self.copy()} if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """The names that are shown."""
        return self.copy().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Their values."""
        return self.copy().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Both."""
        return self.copy().items()


def hide(function: types.FunctionType, signature: Signature) -> None:
    """Give a function a `__signature__` that its `__dict__` does not show; once, however often it is armed."""
    if not isinstance(function.__dict__, Attributes):
        function.__dict__ = Attributes(function.__dict__, signature)


def reveal(function: types.FunctionType) -> None:
    """Give a function its own `__dict__` back, with what has been set and deleted since."""
    attributes = function.__dict__
    if isinstance(attributes, Attributes):
        now = attributes.copy()
        before = attributes.before
        if before != now or list(before) != list(now):
            before.clear()
            before.update(now)
        function.__dict__ = before
