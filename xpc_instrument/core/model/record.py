"""Records: frozen objects with named fields, for which nothing is compiled when a process starts.

    class Point(Record):
        x: int
        y: int = 0
        labels: Mapping[str, str] = fresh(dict)

`dataclasses` compiles source text for each class, and importing it loads `inspect`; here all classes share the functions below. Type
checkers take a record for a frozen dataclass.

Rules:
- Fields are the annotated names of a class and of those that it inherits from. They cannot be changed, and there are no others (slots). A
  module that defines records says `from __future__ import annotations`.
- Two records are equal if they are of one class and all their fields are equal; one whose fields can be hashed can be hashed.
- A record is pickled and copied by its class and its values, so what comes back has been through `__post_init__`, as a new one has.
- A default belongs to the constructor: it is no attribute of the class.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Tuple, Type, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda decorated: decorated


class Default:
    """Stands for the default of a field: `make()` gives it, anew for each record."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def fresh(make: Callable[[], Any]) -> Any:
    """For a default that could be changed, such as a dict: each record gets its own."""
    return Default(make)


@dataclass_transform(frozen_default=True)
class _RecordType(type):
    """Makes the slots of a class, and what the constructor has to know."""

    _annotations: Mapping[str, str]
    _defaults: Mapping[str, Any]
    _names: Tuple[str, ...]
    _setters: Tuple[Callable[[Any, Any], None], ...]
    _values: Callable[[Any], Tuple[Any, ...]]

    def __new__(mcs, name: str, bases: Tuple[type, ...], namespace: Dict[str, Any]) -> _RecordType:
        written: Mapping[str, str] = namespace.get("__annotations__", {})
        own = tuple(field for field in written if not written[field].startswith("ClassVar["))
        defaults = {field: namespace.pop(field) for field in own if field in namespace}
        above: Any = bases[0] if bases else None
        names = (*getattr(above, "_names", ()), *own)
        made = super().__new__(mcs, name, bases, {"__slots__": own, "__match_args__": names, **namespace})
        made._names = names
        made._annotations = {**getattr(above, "_annotations", {}), **written}
        made._defaults = {**getattr(above, "_defaults", {}), **defaults}
        made._setters = tuple(getattr(made, field).__set__ for field in names)
        # With one name, `attrgetter` gives the value and no tuple.
        made._values = attrgetter(*names) if len(names) > 1 else lambda record: tuple(getattr(record, field) for field in names)
        return made

    @property
    def __signature__(cls) -> Any:
        """What `inspect.signature` and `help` show of the constructor. Made when it is asked for."""
        import inspect

        parameter = inspect.Parameter
        return inspect.Signature(
            [
                parameter(
                    name,
                    parameter.POSITIONAL_OR_KEYWORD,
                    default=_made(cls._defaults[name]) if name in cls._defaults else parameter.empty,
                    annotation=cls._annotations[name],
                )
                for name in cls._names
            ]
        )


class Record(metaclass=_RecordType):
    """Inherit from it; see the head of this module."""

    if not TYPE_CHECKING:

        def __init__(self, *values: Any, **named: Any) -> None:
            cls = type(self)
            setters = cls._setters
            if named or len(values) != len(setters):
                values = _complete(cls, values, named)
            for put, value in zip(setters, values):
                put(self, value)
            self.__post_init__()

        def __post_init__(self) -> None:
            """For what a class checks. Raises what it likes."""

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(f"{name} of a {type(self).__name__} cannot be changed")

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"{name} of a {type(self).__name__} cannot be deleted")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in as_dict(self).items())})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        values = type(self)._values
        return values(self) == values(other)

    def __hash__(self) -> int:
        cls = type(self)
        return hash((cls, cls._values(self)))

    def __reduce__(self) -> Tuple[Any, ...]:
        cls = type(self)
        return cls, cls._values(self)


def fields(cls: Type[Record]) -> Tuple[str, ...]:
    """The names of the fields, in order."""
    return cls._names


def field_types(cls: Type[Record]) -> Dict[str, str]:
    """The fields and their types, as they are written."""
    return {name: cls._annotations[name] for name in cls._names}


def defaults(cls: Type[Record]) -> Dict[str, Any]:
    """The fields that need not be given, with their defaults."""
    return {name: _made(default) for name, default in cls._defaults.items()}


def as_dict(record: Record) -> Dict[str, Any]:
    """The fields and their values; what is in a value stays as it is."""
    cls = type(record)
    return dict(zip(cls._names, cls._values(record)))


# Bound to the class itself: from Python 3.14 on its name, as text, would load `annotationlib` and `ast`.
_R = TypeVar("_R", bound=Record)


def replace(record: _R, **changes: Any) -> _R:
    """A new record with these fields changed."""
    return type(record)(**{**as_dict(record), **changes})


def _made(default: Any) -> Any:
    return default.make() if isinstance(default, Default) else default


def _complete(cls: Type[Record], values: Tuple[Any, ...], named: Dict[str, Any]) -> Tuple[Any, ...]:
    """All values in order. Raises `TypeError`."""
    names = cls._names
    given = dict(zip(names, values))
    given.update(named)
    complete = []
    defaulted = 0
    for name in names:
        if name in given:
            complete.append(given[name])
            continue
        if name not in cls._defaults:
            raise TypeError(f"{cls.__name__} was not given the field {name!r}")
        defaulted += 1
        complete.append(_made(cls._defaults[name]))
    if len(values) + len(named) + defaulted != len(names):
        unknown = sorted(named.keys() - set(names))
        if unknown:
            raise TypeError(f"{cls.__name__} has no field {unknown[0]!r}")
        raise TypeError(f"{cls.__name__} takes {len(names)} fields, each once, and {len(values) + len(named)} were given")
    return tuple(complete)
