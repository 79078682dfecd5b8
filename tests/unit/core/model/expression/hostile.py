"""Objects whose every operation is noted in `RAN`, for tests that nothing of an application runs."""

from __future__ import annotations

import functools
import types
from typing import Any, Callable, Dict, List
from unittest.mock import MagicMock, Mock

RAN: List[str] = []

_NAMES = ["__getattribute__", "__getattr__", "__eq__", "__ne__", "__lt__", "__gt__", "__le__", "__ge__", "__bool__", "__len__", "__contains__", "__getitem__", "__iter__", "__next__", "__hash__", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__mod__", "__rmod__", "__truediv__", "__rtruediv__", "__floordiv__", "__rfloordiv__", "__neg__", "__abs__", "__class_getitem__", "__repr__", "__str__", "__format__", "__index__", "__int__", "__float__", "__missing__", "__reversed__", "__length_hint__", "__call__", "__enter__", "__sizeof__", "__reduce_ex__", "__reduce__", "__getstate__", "__instancecheck__", "__subclasscheck__", "__get__", "__set__", "__dir__", "__copy__", "__deepcopy__", "keys", "values", "items", "get", "copy", "startswith", "endswith", "lower"]  # fmt: skip


def _noting(name: str) -> Callable[..., Any]:
    def note(*args: Any, **kwargs: Any) -> Any:
        RAN.append(name)
        return 1

    return note


def _all_but(*left_out: str) -> Dict[str, Any]:
    return {name: _noting(name) for name in _NAMES if name not in left_out}


class Meta(type):
    """A metaclass whose every operation is noted."""

    def __hash__(cls) -> int:
        RAN.append("hash of a class")
        return 1

    def __eq__(cls, other: object) -> bool:
        RAN.append("== of a class")
        return True

    def __getattribute__(cls, name: str) -> Any:
        RAN.append(f"{name} of a class")
        return type.__getattribute__(cls, name)

    def __bool__(cls) -> bool:
        RAN.append("truth of a class")
        return True

    def __instancecheck__(cls, one: Any) -> bool:
        RAN.append("instance check")
        return True

    def __subclasscheck__(cls, one: Any) -> bool:
        RAN.append("subclass check")
        return True


Evil: Any = type("Evil", (), _all_but())
Without: Any = type("Without", (), _all_but("__getattribute__", "__getattr__", "__bool__", "__len__", "__get__", "__set__"))
Text: Any = type("Text", (str,), _all_but())
Number: Any = type("Number", (int,), _all_but())
Items: Any = type("Items", (list,), _all_but())
Pairs: Any = type("Pairs", (dict,), _all_but("__hash__"))
Bunch: Any = type("Bunch", (set,), _all_but("__hash__"))
Couple: Any = type("Couple", (tuple,), _all_but())
Fault: Any = type("Fault", (Exception,), _all_but())


class OfMeta(metaclass=Meta):
    """An instance of which has plain data, and a class that notes."""

    def __init__(self) -> None:
        self.own = 1


class TrueOfMeta(metaclass=Meta):
    """Has a truth of its own."""

    def __bool__(self) -> bool:
        RAN.append("truth")
        return True


class Described:
    """A descriptor."""

    def __get__(self, instance: Any, owner: Any) -> Any:
        RAN.append("descriptor")
        return 1


class DataDescribed(Described):
    """One that goes before what the instance has."""

    def __set__(self, instance: Any, value: Any) -> None:
        RAN.append("descriptor set")


class Computed:
    """Attributes of every kind that run code."""

    d = Described()
    e = DataDescribed()

    @property
    def p(self) -> Any:
        """Noted."""
        RAN.append("property")
        return 1

    @functools.cached_property
    def q(self) -> Any:
        """Noted."""
        RAN.append("cached property")
        return 1

    def m(self) -> Any:
        """Noted."""
        RAN.append("method")


class Fallback:
    """Has a `__getattr__`."""

    def __init__(self) -> None:
        self.own = 1

    def __getattr__(self, name: str) -> Any:
        RAN.append("__getattr__")
        return 1


class Lazy:
    """As a query of a database: evaluated when anybody looks at it."""

    def __init__(self) -> None:
        self._result_cache = None

    def __iter__(self) -> Any:
        RAN.append("query")
        return iter(())

    def __len__(self) -> int:
        RAN.append("query")
        return 0

    def __bool__(self) -> bool:
        RAN.append("query")
        return False

    def __repr__(self) -> str:
        RAN.append("query")
        return "query"


def _lazy_module() -> Any:
    module = types.ModuleType("lazy")
    module.__getattr__ = _noting("module __getattr__")  # type: ignore[method-assign]
    return module


def _mock(kind: Any) -> Any:
    mock = kind()
    mock.own = 1
    return mock


def objects() -> List[Any]:
    """One of each kind, and containers of some."""
    evil = Evil.__new__(Evil)
    made = [
        evil,
        Without(),
        Text("a"),
        Number(1),
        list.__new__(Items),
        dict.__new__(Pairs),
        set.__new__(Bunch),
        tuple.__new__(Couple, (1, 2)),
        Fault.__new__(Fault, "x"),
        OfMeta(),
        TrueOfMeta(),
        Computed(),
        Fallback(),
        Lazy(),
        _lazy_module(),
        _mock(Mock),
        _mock(MagicMock),
        Evil,
        OfMeta,
        [evil],
        {"a": evil},
        (1, [evil]),
        {"p": {"q": [evil]}},
    ]
    list.extend(made[4], [1, evil])
    dict.update(made[5], {"a": 1, "own": evil})
    RAN.clear()
    return made
