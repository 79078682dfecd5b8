"""Values made again from the trees of a recording (`core/values/typed.py`): the inverse, in a process that may not trust the file.

Rules:
- A type is one of those below, an exception that is built in, or found in a package that is allowed. Nothing else is looked up, whatever
  the file names, and no module is asked for beside those of these packages.
- Neither `__init__` nor `__new__` nor `__setstate__` of a class is called: an object is made by `object.__new__`, and its fields are put
  into its `__dict__` and its slots. A class that is made otherwise is refused.
- What cannot be made again is told with the place at which it stands: `CannotRebuildError`.
"""

from __future__ import annotations

import builtins
import enum
import importlib
import re
import types
from base64 import b64decode
from collections import OrderedDict, deque
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Callable, Dict, Iterable, List, Tuple
from uuid import UUID

from ..model.errors import XpcError
from ..model.raw import MEMBER, find
from ..model.words import with_article
from ..values.fields import CannotBeMade, make, set_args, set_fields
from ..values.typed import is_plain
from .trees import below

REDACTED = "<redacted>"
"""What stands for a secret, which no recording holds."""

_LONGEST_INT = 4000
_FRACTION = re.compile(rf"-?\d{{1,{_LONGEST_INT}}}(/\d{{1,{_LONGEST_INT}}})?", re.ASCII)
_DEEPEST = 200


class CannotRebuildError(XpcError):
    """A value of a recording that cannot be made again. The message begins with the place at which it stands."""


def _base64(text: str) -> bytes:
    return b64decode(text, validate=True)


_TEXTS: Dict[str, Callable[[str], Any]] = {
    "float": float,
    "complex": complex,
    "uuid.UUID": UUID,
    "datetime.date": date.fromisoformat,
    "pathlib.PosixPath": Path,
    "pathlib.WindowsPath": Path,
    "pathlib.PurePosixPath": PurePosixPath,
    "pathlib.PureWindowsPath": PureWindowsPath,
}
# An application may have modules of its own by these names, of which none is loaded for that.
_ASKED_FOR = ("decimal.Decimal", "fractions.Fraction")
_CONTAINERS: Dict[str, Callable[[List[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "collections:OrderedDict": OrderedDict,
    "range": lambda items: range(*items),
    "datetime.timedelta": lambda items: timedelta(*items),
    "datetime.timezone": lambda items: timezone(timedelta(*items)),
}
_BINARY: Dict[str, Callable[[bytes], Any]] = {"bytes": bytes, "bytearray": bytearray}


class Rebuilder:
    """Makes values again; `packages` are the top-level packages of which types, functions and exceptions are allowed, and `module_named`
    gives a module, or raises."""

    def __init__(self, packages: Iterable[str], module_named: Callable[[str], Any] = importlib.import_module) -> None:
        self._packages = frozenset(packages)
        self._module_named = module_named

    def value(self, tree: Any, where: str = "") -> Any:
        """The value of a tree, anew. Raises `CannotRebuildError`."""
        return self._value(tree, where, 0)

    def _value(self, tree: Any, where: str, depth: int) -> Any:
        if tree is None or type(tree) in (bool, int, float, str):
            return tree
        if depth > _DEEPEST:
            raise CannotRebuildError(f"{where}: too deep")
        if type(tree) is list:
            return [self._value(one, f"{where}[{place}]", depth + 1) for place, one in enumerate(tree)]
        if type(tree) is not dict:
            raise CannotRebuildError(f"{where}: {type(tree).__name__} is nothing that a recording holds")
        if not all(type(key) is str for key in tree):
            raise CannotRebuildError(f"{where}: a name that is no text")
        if "type" not in tree:
            return {key: self._value(one, below(where, key), depth + 1) for key, one in tree.items()}
        try:
            return self._typed(tree, where, depth + 1)
        except CannotRebuildError:
            raise
        except Exception as error:
            raise CannotRebuildError(f"{where}: {tree.get('type')!r:.100}: {type(error).__name__}: {error}") from error

    def _typed(self, tree: Dict[str, Any], where: str, depth: int) -> Any:
        kind = tree["type"]
        if type(kind) is not str:
            raise CannotRebuildError(f"{where}: a type that is no text")
        if tree.get("cut") == "redacted":
            return REDACTED
        if "cut" in tree:
            raise CannotRebuildError(f"{where}: {cut_text(tree)}")
        if "text" in tree:
            return self._of_text(kind, tree)
        if kind in _BINARY:
            return _BINARY[kind](_base64(tree["base64"]))
        if "items" in tree:
            items = self._value(list(tree["items"]), where, depth)
            if kind == "collections:deque":
                return deque(items, tree.get("most"))
            if kind not in _CONTAINERS:
                raise CannotRebuildError(f"{where}: {kind!r:.100} is no container")
            return _CONTAINERS[kind](items)
        if kind in ("type", "function"):
            return self.find(tree["name"], where, type if kind == "type" else types.FunctionType)
        cls = self.find(kind, where, type)
        if "member" in tree or "value" in tree:
            return _member(cls, tree, where)
        if "tuple" in tree:
            values = [self._value(one, below(where, name), depth) for name, one in tree["tuple"].items()]
            if not is_plain(cls, tuple) or tuple(find(cls, "_fields")[0]) != tuple(tree["tuple"]):
                raise CannotRebuildError(f"{where}: {kind} is no named tuple of {', '.join(tree['tuple'])}")
            return tuple.__new__(cls, values)
        fields = {name: self._value(one, below(where, name), depth) for name, one in tree["fields"].items()}
        if "args" in tree:
            return self._exception(cls, tuple(self._value(tree["args"], f"{where}.args", depth)), fields, where)
        return _object(cls, fields, where)

    def _of_text(self, kind: str, tree: Dict[str, Any]) -> Any:
        text = str(tree["text"])
        if kind == "int":
            if len(text) > _LONGEST_INT:
                raise ValueError(f"an int of {len(text)} digits")
            return int(text)
        if kind in ("datetime.datetime", "datetime.time"):
            moment: Any = (datetime if kind == "datetime.datetime" else time).fromisoformat(text)
            if "zone" in tree:
                from zoneinfo import ZoneInfo

                moment = moment.replace(tzinfo=ZoneInfo(tree["zone"]))
            return moment.replace(fold=1) if tree.get("fold") else moment
        if kind == "fractions.Fraction" and not _FRACTION.fullmatch(text):
            # Not "1e300000000", which has as many digits.
            raise ValueError(f"no fraction of at most {_LONGEST_INT} digits")
        if kind in _ASKED_FOR:
            module, _, name = kind.partition(".")
            return getattr(self._module_named(module), name)(text)
        return _TEXTS[kind](text)

    def find(self, name: str, where: str, kind: type) -> Any:
        """What `module:Qualified.name` names: an object of that type, of a package that is allowed."""
        module, colon, qualified = name.partition(":")
        if not colon:
            found = vars(builtins).get(name)
            if kind is type and isinstance(found, type):
                return found
            raise CannotRebuildError(f"{where}: there is no built-in {kind.__name__} {name!r:.100}")
        package = module.partition(".")[0]
        if package not in self._packages:
            raise CannotRebuildError(
                f"{where}: {name:.200} is of the package {package}, which is not allowed (allow it with --allow {package})"
            )
        try:
            found = self._module_named(module)
        except Exception as error:
            raise CannotRebuildError(f"{where}: {module} cannot be imported: {type(error).__name__}: {error}") from error
        for part in qualified.split("."):
            found = vars(found).get(part) if isinstance(found, (type, types.ModuleType)) else None
        if not isinstance(found, kind):
            raise CannotRebuildError(f"{where}: there is no {kind.__name__} {name:.200} any more")
        # What a module of an allowed package has imported from elsewhere is not of that package.
        if getattr(found, "__module__", "").partition(".")[0] not in self._packages:
            raise CannotRebuildError(f"{where}: {name:.200} is of the module {found.__module__}, which is not allowed")
        return found

    def _exception(self, cls: type, args: Tuple[Any, ...], fields: Dict[str, Any], where: str) -> BaseException:
        if not issubclass(cls, Exception):
            raise CannotRebuildError(f"{where}: {cls.__name__} is no Exception")
        try:
            error = make(cls)
        except CannotBeMade as why:
            raise CannotRebuildError(f"{where}: {why}") from None
        set_args(error, args)
        set_fields(error, fields)
        return error


def cut_text(tree: Dict[str, Any]) -> str:
    """Why a value is not there, for people."""
    why, kind = tree["cut"], with_article(tree["type"] or "value")
    return {
        "type": f"{kind} cannot be made again",
        "cycle": f"{kind} that contains itself",
        "size": f"{kind} that was too large to record",
        "unfinished": "it had not ended when the call that it belongs to did",
    }.get(why, f"{kind} that was left out ({why})")


def _member(cls: Any, tree: Dict[str, Any], where: str) -> Any:
    if not issubclass(cls, enum.Enum):
        raise CannotRebuildError(f"{where}: {cls.__name__} is no enum")
    if "member" in tree:
        members = cls.__members__
        if tree["member"] not in members:
            raise CannotRebuildError(f"{where}: {cls.__name__} has no member {tree['member']!r:.100} any more")
        return members[tree["member"]]
    return cls(tree["value"])


def _object(cls: type, fields: Dict[str, Any], where: str) -> Any:
    if not is_plain(cls) and cls is not object:
        raise CannotRebuildError(f"{where}: a {cls.__name__} cannot be made without code of its own")
    made: Any = object.__new__(cls)
    namespace = None
    for name, value in fields.items():
        place = find(cls, name)[0]
        if type(place) is MEMBER:
            place.__set__(made, value)
            continue
        if namespace is None:
            namespace = find(cls, "__dict__")[0]
            if not hasattr(type(namespace), "__get__"):
                raise CannotRebuildError(f"{where}.{name}: {cls.__name__} has no such field any more")
            namespace = namespace.__get__(made)
        namespace[name] = value
    return made
