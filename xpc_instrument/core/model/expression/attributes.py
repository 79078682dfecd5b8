"""Reading an attribute of any object without running code: what lies in the object or plainly on its class, and nothing that is computed.

A verdict is kept for each type: by what Python's lookup comes, and whether the function of the expression may read by itself. It is of use
as long as nobody changes the class, and so is forgotten now and then (`Attribute.forget`).
"""

from __future__ import annotations

import sys
import types
from builtins import any, id, len, type
from typing import Any, Callable, Dict, Tuple

from ..raw import GETSET, MEMBER, MISSING, derives, find, has, ids, is_heap, module_name, namespace_of, qualname_of
from .refusals import WouldRunCode, loaded

# The types whose `__getattribute__` is object's, though it may stand in their own namespace: exceptions, and what derives from these.
_GENERIC = ids(
    object, str, int, float, complex, bool, bytes, bytearray, dict, list, tuple, set, frozenset, range, slice, types.SimpleNamespace
)
_GENERIC_OF = {
    "datetime": ("date", "time", "datetime", "timedelta", "timezone"),
    "collections": ("deque", "OrderedDict", "defaultdict"),
    "decimal": ("Decimal",),
    "functools": ("partial",),
    "fractions": ("Fraction",),
}
# What is computed by C code from the object itself and by nothing else.
_GETSETS = {
    "datetime": ("date.year date.month date.day time.hour time.minute time.second time.microsecond time.fold datetime.hour datetime.minute "
                 "datetime.second datetime.microsecond datetime.fold"),
    "builtins": "int.real int.imag int.numerator int.denominator float.real float.imag BaseException.args",
    "numpy": "ndarray.shape ndarray.size ndarray.ndim ndarray.nbytes ndarray.itemsize",
}  # fmt: skip
_own = object.__getattribute__
_module_dict = namespace_of(types.ModuleType)["__dict__"].__get__
_MOST_KNOWN = 64

Reader = Callable[[Any], Any]


def _is_generic(cls: type) -> bool:
    """Whether reading an attribute goes by object's rules: no `__getattribute__` but those known to be object's."""
    owner = find(cls, "__getattribute__")[1]
    if id(owner) in _GENERIC:
        return True
    if is_heap(owner):
        return any(owner is one for one in loaded("decimal", "Decimal"))
    if derives(owner, BaseException):
        return module_name(owner) == "builtins"
    return any(owner is one for module, names in _GENERIC_OF.items() for one in loaded(module, *names))


def _is_known_getset(owner: type, name: str) -> bool:
    module = module_name(owner)
    known = _GETSETS.get(module, "")
    wanted = f"{qualname_of(owner)}.{name}"
    if wanted not in known.split():
        return False
    return any(owner is one for one in loaded(module, wanted.partition(".")[0]))


class Attribute:
    """One `.name` in one expression, and what is known of the types that it was read of.

    In the namespace of the expression's function stands, under `key`, the one type of which the function may read it by itself.
    """

    __slots__ = ("_key", "_known", "_name", "_namespace")

    def __init__(self, name: str, namespace: Dict[str, Any], key: str) -> None:
        self._name, self._namespace, self._key = name, namespace, key
        self.forget()

    def forget(self) -> None:
        """Judge all types anew: a property may have been added to a class."""
        self._namespace[self._key] = None
        # By `id`, with the type, so that it lives as long as its `id` is known.
        self._known: Dict[int, Tuple[type, Reader]] = {}

    def read(self, value: Any) -> Any:
        """Read it, or refuse."""
        cls = type(value)
        known = self._known.get(id(cls))
        return (self._judge(cls) if known is None else known[1])(value)

    def _judge(self, cls: type) -> Reader:
        reader = self._reader(cls)
        if len(self._known) >= _MOST_KNOWN:
            self.forget()
        self._known[id(cls)] = cls, reader
        if reader == self._plain and self._namespace[self._key] is None:
            self._namespace[self._key] = cls
        return reader

    def _reader(self, cls: type) -> Reader:
        name, shown = self._name, f".{self._name} of a {qualname_of(cls)}"
        if derives(cls, types.ModuleType) and find(cls, "__getattribute__")[1] is types.ModuleType:
            return self._of_module
        if derives(cls, type) and find(cls, "__getattribute__")[1] is type:
            return self._of_class
        if not _is_generic(cls):
            return _refusing(f"reading {shown} would run its __getattribute__")
        plain = self._plain_or_refuse if has(cls, "__getattr__") else self._plain
        found, owner = find(cls, name)
        if found is MISSING:
            return plain
        kind = type(found)
        if kind is MEMBER or not has(kind, "__get__") or any(kind is one for one in loaded("_collections", "_tuplegetter")):
            return plain
        if kind is GETSET and _is_known_getset(owner, name):
            return plain
        if name in ("name", "value") and _is_enum(cls) and module_name(owner) == "enum":
            return self._plain_of(f"_{name}_")
        if kind is property:
            return _refusing(f"{shown} is a property")
        if not has(kind, "__set__") and not has(kind, "__delete__"):
            # What the instance itself has goes first, as with a `cached_property`.
            return self._instance
        return _refusing(f"{shown} is computed by a {qualname_of(kind)}")

    def _plain(self, value: Any) -> Any:
        return _own(value, self._name)

    def _plain_or_refuse(self, value: Any) -> Any:
        try:
            return _own(value, self._name)
        except AttributeError:
            raise WouldRunCode(f"{_a(value)} has no .{self._name} of its own: asking for it would run its __getattr__") from None

    @staticmethod
    def _plain_of(name: str) -> Reader:
        return lambda value: _own(value, name)

    def _instance(self, value: Any) -> Any:
        holder = find(type(value), "__dict__")[0]
        if type(holder) is GETSET or type(holder) is MEMBER:
            namespace = holder.__get__(value)
            if type(namespace) is dict and self._name in namespace:
                return namespace[self._name]
        raise WouldRunCode(f"{_a(value)} has no .{self._name} of its own: what its class has there is computed, or a method")

    def _of_module(self, value: Any) -> Any:
        namespace = _module_dict(value)
        if type(namespace) is dict and self._name in namespace:
            return namespace[self._name]
        raise AttributeError(f"the module has no {self._name!r} of its own")

    def _of_class(self, value: Any) -> Any:
        found, meta = find(value, self._name)[0], find(type(value), self._name)[0]
        if meta is not MISSING and has(type(meta), "__get__"):
            raise WouldRunCode(f".{self._name} of the class {qualname_of(value)} is computed by its metaclass")
        if found is MISSING or (type(found) is not types.FunctionType and has(type(found), "__get__")):
            raise WouldRunCode(f"the class {qualname_of(value)} has no plain .{self._name}")
        return found


def _refusing(message: str) -> Reader:
    def refuse(value: Any) -> Any:
        raise WouldRunCode(message)

    return refuse


def _is_enum(cls: type) -> bool:
    enum: Any = sys.modules.get("enum")
    return enum is not None and derives(cls, enum.__dict__["Enum"])


def _a(value: Any) -> str:
    return f"a {qualname_of(type(value))}"
