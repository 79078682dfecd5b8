"""What an expression does at run time where the kind of a value is not the usual one: each function does it, or refuses.

Rules:
- No code of the application runs: no property, descriptor, `__getattr__`, operator, `__len__`, `__bool__`, `__hash__` or `__missing__`
  that is not of a built-in type, and none of a metaclass. `WouldRunCode` says what would have. The one rest: a key in a dict or set whose
  hash is that of the key asked for is compared by its own `__eq__`.
- Nothing takes long: `TooMuch` says what would have. The limits are below.
- What is compared in containers is copied first, so that no other thread can put something else there meanwhile.
- Only C code is called, by names that were bound when this was imported (hence the import of builtins): what is called `len` later may be
  the very target of a hook, and no guard is up here.
"""

from __future__ import annotations

from builtins import (  # noqa: UP029
    abs,
    all,
    any,
    bool,
    getattr,
    hasattr,
    id,
    len,
    max,
    min,
    range,
    slice,
    type,
)
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Callable, Dict, List, Tuple

from ..raw import MISSING, derives, find, ids, module_name, mro_of, name_in, qualname_of
from .refusals import Hidden, TooMuch, WouldRunCode, loaded

NoneType = type(None)

# A container is compared, or taken as a key, up to so many values in all.
MOST_COMPARED = 200
# `in`, `min` and `max` look at so many items.
MOST_SEARCHED = 1000
# What texts are made or matched; and keys.
MOST_TEXT = 10_000
# `part in text` costs up to the product of the two before Python 3.10.
MOST_SCANNED = 5_000_000
# Numbers of so many bits are computed with.
BIG = 1 << 64


SCALARS = ids(int, float, bool, str, bytes, NoneType, complex)
NUMBERS = ids(int, float, bool)
TEXTS = ids(str, bytes)
_FLAT = ids(list, tuple, set, frozenset)
_CONTAINERS = _FLAT | ids(dict)
_SEQUENCES = ids(list, tuple, str, bytes)
_VIEWS = ids(type({}.keys()), type({}.values()), type({}.items()))
_PLAIN_TRUTH = SCALARS | _CONTAINERS | ids(bytearray, range)
_SIZED = TEXTS | _CONTAINERS | ids(bytearray, range)
_COMPARED_BY = SCALARS | ids(object)


def _name(value: Any) -> str:
    return f"a {qualname_of(type(value))}"


# truth and comparison -------------------------------------------------------------------------------------------------------


def truth(value: Any) -> bool:
    """Whether a value counts as true."""
    cls = type(value)
    if id(cls) in _PLAIN_TRUTH:
        return bool(value)
    owner = find(cls, "__bool__")[1]
    if owner is None:
        # Not by `or`, which would ask the metaclass of the owner.
        owner = find(cls, "__len__")[1]
    if owner is None or id(owner) in _PLAIN_TRUTH:
        return True if owner is None else bool(value)
    raise WouldRunCode(f"whether {_name(value)} is true would run its code")


def _copied(value: Any, left: List[int]) -> Any:
    """A copy of a container of plain values, or the plain value itself."""
    left[0] -= 1
    if left[0] < 0:
        raise TooMuch(f"a container of more than {MOST_COMPARED} values is not compared")
    cls = type(value)
    kind = id(cls)
    if kind in SCALARS:
        return value
    if kind in _CONTAINERS and len(value) > MOST_COMPARED:
        raise TooMuch(f"a container of more than {MOST_COMPARED} values is not compared")
    if cls is list or cls is tuple:
        return [_copied(one, left) for one in value.copy()] if cls is list else tuple([_copied(one, left) for one in value])
    if kind in _FLAT:
        return cls([_copied(one, left) for one in value.copy()])
    if cls is dict:
        return {_copied(key, left): _copied(one, left) for key, one in value.copy().items()}
    raise WouldRunCode(f"comparing {_name(value)} would run its code")


def _is_instant(value: Any) -> bool:
    """Whether it is a date, a time or a duration of which no code of a time zone is needed."""
    cls = type(value)
    if not any(cls is one for one in loaded("datetime", "date", "timedelta", "time", "datetime")):
        return False
    if not hasattr(cls, "tzinfo"):
        return True
    zone = value.tzinfo
    zones = (*loaded("datetime", "timezone"), *loaded("zoneinfo", "ZoneInfo"))
    return zone is None or any(type(zone) is one for one in zones)


def _decimals(left: Any, right: Any) -> bool:
    """Whether two values are decimals, or one and an integer. Not-a-numbers set flags of the application's context."""
    kinds = loaded("_decimal", "Decimal")
    some = [value for value in (left, right) if any(type(value) is kind for kind in kinds)]
    rest = [value for value in (left, right) if not any(type(value) is kind for kind in kinds)]
    return bool(some) and all(not value.is_nan() for value in some) and all(type(value) is int for value in rest)


# The methods that an operator asks: the left side's, and the right side's that mirrors it. `object.__ne__` asks `__eq__`.
_ASKED = {
    "<": (lt, ("__lt__",), ("__gt__",)),
    "<=": (le, ("__le__",), ("__ge__",)),
    ">": (gt, ("__gt__",), ("__lt__",)),
    ">=": (ge, ("__ge__",), ("__le__",)),
    "==": (eq, ("__eq__",), ("__eq__",)),
    "!=": (ne, ("__ne__", "__eq__"), ("__ne__", "__eq__")),
}


def _is_compared_by_builtin(value: Any, methods: Tuple[str, ...]) -> bool:
    return all(id(owner) in _COMPARED_BY for owner in (find(type(value), method)[1] for method in methods))


def comparing(sign: str) -> Callable[[Any, Any], bool]:
    """What compares two values by an operator."""
    operator, mine, mirrored = _ASKED[sign]

    def compare(left: Any, right: Any) -> bool:
        kinds = id(type(left)), id(type(right))
        if kinds[0] in SCALARS and kinds[1] in SCALARS:
            return operator(left, right)  # type: ignore[no-any-return]
        if kinds[0] in _CONTAINERS or kinds[1] in _CONTAINERS:
            left = _copied(left, [MOST_COMPARED]) if kinds[0] in _CONTAINERS else left
            right = _copied(right, [MOST_COMPARED]) if kinds[1] in _CONTAINERS else right
        for value, methods in ((left, mine), (right, mirrored)):
            if id(type(value)) not in _CONTAINERS and not _is_compared_by_builtin(value, methods):
                if (type(left) is type(right) and _is_instant(left) and _is_instant(right)) or _decimals(left, right):
                    break
                raise WouldRunCode(f"comparing {_name(value)} would run its {methods[0]}")
        return operator(left, right)  # type: ignore[no-any-return]

    return compare


COMPARE = {sign: comparing(sign) for sign in _ASKED}


def _key(key: Any) -> Any:
    """A key to look up, which is hashed and compared in no time and by C code."""
    kind = id(type(key))
    if kind in TEXTS and len(key) > MOST_TEXT:
        raise TooMuch(f"a key of more than {MOST_TEXT} characters is not looked up")
    if type(key) is int and not -BIG < key < BIG:
        raise TooMuch("a key of more than 64 bits is not looked up")
    if kind in SCALARS:
        return key
    if type(key) is tuple:
        if any(id(type(one)) not in SCALARS for one in key) or len(key) > MOST_COMPARED:
            raise WouldRunCode("a tuple is a key here if it holds plain values")
        return key
    raise WouldRunCode(f"looking {_name(key)} up would run its __hash__")


def contains(part: Any, whole: Any) -> bool:
    """`part in whole`."""
    cls = type(whole)
    kind = id(cls)
    if kind in TEXTS:
        if type(part) is cls and len(part) * len(whole) > MOST_SCANNED:
            raise TooMuch(f"a text of {len(whole)} characters is not searched for one of {len(part)}")
        if id(type(part)) in SCALARS:
            return part in whole
    elif kind in _CONTAINERS and cls is not list and cls is not tuple:
        return _key(part) in whole
    elif cls is list or cls is tuple:
        if len(whole) > MOST_SEARCHED:
            raise TooMuch(f"{len(whole)} items are not searched, at most {MOST_SEARCHED}")
        return _is_among(part, whole.copy() if cls is list else whole)
    elif cls is range and type(part) is int:
        return part in whole
    elif find(cls, "__contains__")[1] is dict:
        return dict.__contains__(whole, _key(part))
    raise WouldRunCode(f"'in' of {_name(whole)} would run its code")


def _is_among(part: Any, items: Any) -> bool:
    if id(type(part)) not in SCALARS and not _is_compared_by_builtin(part, ("__eq__",)):
        raise WouldRunCode(f"comparing {_name(part)} would run its __eq__")
    for item in items:
        if item is part:
            return True
        if id(type(item)) not in SCALARS and not _is_compared_by_builtin(item, ("__eq__",)):
            raise WouldRunCode(f"comparing {_name(item)} would run its __eq__")
        if item == part:
            return True
    return False


# items, sizes, kinds ----------------------------------------------------------------------------------------------------------


def item(value: Any, key: Any) -> Any:
    """`value[key]`."""
    cls = type(value)
    if id(cls) in _SEQUENCES:
        if type(key) is int or type(key) is bool:
            return value[key]
        if type(key) is slice:
            return _part(value, key)
    elif cls is dict:
        return value[_key(key)]
    else:
        owner = find(cls, "__getitem__")[1]
        if id(owner) in _SEQUENCES and type(key) is int:
            return owner.__getitem__(value, key)
        if owner is dict or (owner is not None and any(owner is one for one in loaded("collections", "OrderedDict", "defaultdict"))):
            # Not by `dict.__getitem__`, which asks `__missing__`.
            found = dict.get(value, _key(key), MISSING)
            if found is MISSING:
                raise KeyError(key)
            return found
    raise WouldRunCode(f"[...] of {_name(value)} would run its code")


def hiding(hides: Callable[[str], bool]) -> Callable[[Any, Any], Any]:
    """`item`, which raises `Hidden` for the names of which `hides` says so."""

    def shown_item(value: Any, key: Any) -> Any:
        name = name_in(key)
        if name is not None and hides(name):
            raise Hidden
        return item(value, key)

    return shown_item


def _part(value: Any, part: Any) -> Any:
    if any(type(one) is not int and one is not None for one in (part.start, part.stop, part.step)):
        raise WouldRunCode("a slice has integers for its ends")
    if len(range(*part.indices(len(value)))) > MOST_TEXT:
        raise TooMuch(f"a slice of more than {MOST_TEXT} items is not taken")
    return value[part]


def length(value: Any) -> int:
    """`len(value)`."""
    cls = type(value)
    if id(cls) in _SIZED or id(cls) in _VIEWS:
        return len(value)
    owner = find(cls, "__len__")[1]
    if owner is not None and (id(owner) in _SIZED or any(owner is one for one in loaded("collections", "deque", "OrderedDict"))):
        return owner.__len__(value)  # type: ignore[no-any-return]
    raise WouldRunCode(f"len() of {_name(value)} would run its code")


def kind_of(value: Any) -> str:
    """`type(value)`: the name of the type, without its module."""
    return str(qualname_of(type(value)))


def is_a(value: Any, names: Tuple[str, ...]) -> bool:
    """`isinstance(value, 'Name')`: whether the type or one that it derives from is called so, with or without its module."""
    for cls in mro_of(type(value)):
        name, module = qualname_of(cls), module_name(cls)
        if name in names or f"{module}.{name}" in names or f"{module}:{name}" in names:
            return True
    return False


# arithmetic and texts ----------------------------------------------------------------------------------------------------------

_SIGNS: Dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "//": lambda left, right: left // right,
    "%": lambda left, right: left % right,
}


def _check_number(value: Any, what: str) -> None:
    if id(type(value)) not in NUMBERS:
        raise WouldRunCode(f"{what} of {_name(value)}: expected a number")
    if type(value) is int and not -BIG < value < BIG:
        raise TooMuch("a number of more than 64 bits")


def computing(sign: str) -> Callable[[Any, Any], Any]:
    """What computes with two values by an operator."""
    operator = _SIGNS[sign]

    def compute(left: Any, right: Any) -> Any:
        cls = type(left)
        if sign == "+" and cls is type(right) and id(cls) in TEXTS:
            if len(left) + len(right) > MOST_TEXT:
                raise TooMuch(f"a text of more than {MOST_TEXT} characters is not made")
            return left + right
        _check_number(left, sign)
        _check_number(right, sign)
        return operator(left, right)

    return compute


COMPUTE = {sign: computing(sign) for sign in _SIGNS}


def minus(value: Any) -> Any:
    """`-value`."""
    _check_number(value, "-")
    return -value


def absolute(value: Any) -> Any:
    """`abs(value)`."""
    _check_number(value, "abs")
    return abs(value)


def _extreme(choose: Callable[[Any], Any], name: str) -> Callable[..., Any]:
    def extreme(*values: Any) -> Any:
        items = values
        if len(values) == 1:
            cls = type(values[0])
            if id(cls) not in _FLAT:
                raise WouldRunCode(f"{name}() of {_name(values[0])} would run its code")
            items = values[0] if cls is tuple else values[0].copy()
        if len(items) > MOST_SEARCHED:
            raise TooMuch(f"{name}() of more than {MOST_SEARCHED} items")
        for one in items:
            if id(type(one)) not in SCALARS:
                raise WouldRunCode(f"comparing {_name(one)} would run its code")
        return choose(items)

    return extreme


smallest = _extreme(min, "min")
largest = _extreme(max, "max")


def matching(search: Callable[[str], Any], most: int) -> Callable[[Any], bool]:
    """`matches(text, regex)`, of a compiled expression whose search ends soon in texts up to `most` characters."""

    def matches(value: Any) -> bool:
        if type(value) is not str:
            raise WouldRunCode(f"matches() of {_name(value)}: expected a str")
        if len(value) > most:
            raise TooMuch(f"matches() looks with this expression at texts up to {most} characters")
        return search(value) is not None

    return matches


def _text_method(name: str) -> Callable[..., Any]:
    own: Dict[int, Any] = {id(cls): getattr(cls, name) for cls in (str, bytes)}

    def call(value: Any, *given: Any) -> Any:
        owner = find(type(value), name)[1]
        method = own.get(id(owner))
        if method is None:
            raise WouldRunCode(f".{name}() of {_name(value)} would run its code")
        if not given and _len_of_text(value) > MOST_TEXT:
            raise TooMuch(f".{name}() of more than {MOST_TEXT} characters")
        for one in given:
            if id(type(one)) not in TEXTS and not (type(one) is tuple and all(id(type(part)) in TEXTS for part in one)):
                raise WouldRunCode(f".{name}({_name(one)}): expected a text, or a tuple of texts")
        return method(value, *given)

    return call


def _len_of_text(value: Any) -> int:
    return str.__len__(value) if derives(type(value), str) else bytes.__len__(value)


starts = _text_method("startswith")
ends = _text_method("endswith")
lower = _text_method("lower")
