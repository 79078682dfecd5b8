"""An application that notices whatever is done to its objects: the module of its targets, written into its folder by the tests.

Rules:
- Every special method of `Everything`, of its metaclass and of the subclasses of built-in types notes its name and raises.
- `turn` calls the targets with each object and says what was not as before: an object by `is`, its state, its reference count, a noted name.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import decimal
import enum
import gc
import inspect
import io
import mmap
import queue
import re
import socket
import sys
import tempfile
import threading
import time
import types
import weakref
from multiprocessing import shared_memory
from typing import Any, Callable, Dict, Iterator, List, Tuple
from unittest import mock

touched: List[str] = []
# Once the process ends, its objects do.
over: List[bool] = []

# All of the language reference, and what the standard library looks for; not those by which objects are made and attributes found at all.
OPERATORS = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or"
SPECIAL = """
    repr str bytes format lt le eq ne gt ge hash bool dir call len length_hint getitem setitem delitem missing iter reversed contains next
    neg pos abs invert complex int float index round trunc floor ceil enter exit await aiter anext aenter aexit reduce reduce_ex getstate
    setstate getnewargs getnewargs_ex getinitargs copy deepcopy replace sizeof get set delete fspath buffer release_buffer array
    array_interface array_struct instancecheck subclasscheck subclasshook getattr getattribute setattr delattr del wrapped signature
    text_signature html rich
"""
NAMES = [
    *(f"__{way}{name}__" for name in OPERATORS.split() for way in ("", "r", "i")),
    *(f"__{name}__" for name in SPECIAL.split()),
    *("_repr_html_", "keys", "items", "values", "copy", "as_tuple", "resolve", "_asdict", "fileno", "read", "isoformat", "tolist"),
]


def noting(name: str) -> Callable[..., Any]:
    def note(*args: Any, **kwargs: Any) -> Any:
        if over:
            return None
        touched.append(name)
        raise AssertionError(f"{name} was called")

    return note


SPACE = {name: noting(name) for name in NAMES}
# By way of `type` itself, so that nothing of the metaclass runs where they are made.
Loud = type("Loud", (type,), {name: one for name, one in SPACE.items() if name not in ("__del__", "__call__")})


def made(name: str, *bases: type) -> Any:
    """A class all of whose special methods note that they were called, and whose class and attributes do."""
    space: Dict[str, Any] = {**SPACE, "__module__": __name__, "__class__": property(noting("__class__"))}
    if not bases:
        space["__dict__"] = property(noting("__dict__"))
        space["__slots__"] = ("__weakref__", "kept")
    return type.__new__(Loud if not bases else type, name, bases, space)


Everything = made("Everything")
Subclasses = [made(f"Loud{base.__name__.title()}", base) for base in (dict, list, tuple, str, int, float, bytes, set, decimal.Decimal)]


class Query:
    """Evaluated when somebody looks, as a QuerySet is."""

    def __init__(self) -> None:
        self._result_cache: Any = None

    def _fetch_all(self, *args: Any) -> Any:
        self._result_cache = [1]
        touched.append("fetched")
        return iter(self._result_cache)

    __iter__ = __len__ = __bool__ = __getitem__ = __repr__ = __getstate__ = __deepcopy__ = __eq__ = _fetch_all
    __hash__ = None  # type: ignore[assignment]


class Lazy:
    """Made when somebody asks for an attribute."""

    def __getattribute__(self, name: str) -> Any:
        touched.append(name)
        raise RuntimeError(f"made for {name}")


class Entity:
    """Knows whether it was changed, and is written then."""

    def __init__(self) -> None:
        object.__setattr__(self, "values", {"total": 1})
        object.__setattr__(self, "dirty", False)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, "dirty", True)
        touched.append(name)

    @property
    def total(self) -> Any:
        touched.append("total")
        return self.values["total"]  # type: ignore[attr-defined]


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: Any


Pair = collections.namedtuple("Pair", "a b")


class Failure(Exception):
    """Builds its text of what it is given, which nobody has asked for."""

    def __init__(self, value: Any, *, more: Any) -> None:
        super().__init__(value, 5)
        self.value, self.more = value, more

    __str__ = __repr__ = __reduce__ = __reduce_ex__ = __eq__ = __setstate__ = noting("of an exception")  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]
    label = property(noting("label"))


def count() -> Iterator[int]:
    yield from range(5)


async def acount() -> Any:
    yield 1


SHARED = shared_memory.SharedMemory(create=True, size=64)
SOCKETS = socket.socketpair()
FILE = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
FILE.write(b"some bytes")
KEPT = object.__new__(Everything)


def quiet_attributes(value: Any) -> Any:
    return dict.copy(object.__getattribute__(value, "__dict__"))


def nothing(value: Any) -> Any:
    return None


def samples() -> Dict[str, Tuple[Any, Callable[[Any], Any]]]:
    """An object of each kind, and what tells its state without noting anything."""
    generator, waiting = count(), acount()
    next(generator)
    holder, condition = threading.Lock(), threading.Condition()
    holder.acquire()
    magic, plain_mock = mock.MagicMock(), mock.Mock(side_effect=ValueError)
    table: Dict[str, Tuple[Any, Callable[[Any], Any]]] = {
        "everything": (KEPT, nothing),
        "in a list": ([KEPT, 1], list.__len__),
        "in a dict": ({"a": {"b": KEPT}}, dict.__len__),
        "as a key": ({type.__new__(type, "Key", (), {"__hash__": lambda self: 1})(): 1}, dict.__len__),
        "the class": (Everything, nothing),
        "query": (Query(), quiet_attributes),
        "lazy": (Lazy(), nothing),
        "entity": (Entity(), quiet_attributes),
        "enum": (Color.RED, nothing),
        "dataclass": (Point(1, KEPT), quiet_attributes),
        "named tuple": (Pair(1, [2]), nothing),
        "shared memory": (SHARED, lambda value: bytes(value.buf[:8])),
        "memory map": (mmap.mmap(-1, 4096), mmap.mmap.tell),
        "memory view": (memoryview(bytearray(100)), lambda value: value.nbytes),
        "generator": (generator, lambda value: (inspect.getgeneratorstate(value), value.gi_frame.f_lasti)),
        "async generator": (waiting, lambda value: (value.ag_running, value.ag_frame.f_lasti)),
        "lock": (holder, lambda value: value.locked()),
        "recursive lock": (threading.RLock(), repr),
        "condition": (condition, lambda value: len(value._waiters)),
        "socket": (SOCKETS[0], lambda value: (value.fileno(), value.gettimeout())),
        "file": (FILE, lambda value: value.tell()),
        "text": (io.StringIO("abc"), lambda value: (value.tell(), value.getvalue())),
        "mock": (plain_mock, lambda value: (value.mock_calls, value.method_calls)),
        "magic mock": (magic, lambda value: (value.mock_calls, sorted(value._mock_children))),
        "queue": (queue.Queue(), lambda value: value.qsize()),
        "deque": (collections.deque([1, KEPT]), len),
        "ordered": (collections.OrderedDict(a=KEPT), len),
        "counter": (collections.Counter("abc"), dict.copy),
        "module": (types.ModuleType("lazy"), lambda value: sorted(vars(value))),
        "iterator": (iter([1, 2, 3]), lambda value: value.__length_hint__()),
        "pattern": (re.compile("a"), nothing),
        "function": (count, lambda value: value.__code__),
        "method": (Query()._fetch_all, nothing),
        "proxy": (weakref.proxy(KEPT), nothing),
        "local": (threading.local(), lambda value: dict(value.__dict__)),
        "exception": (Failure(KEPT, more=Query()), lambda value: (value.args[1], value.__traceback__)),
        "long list": ([*range(5000)], len),
        "long text": ("x" * 100_000, len),
        "plain list": ([1, [2]], repr),
        "plain dict": ({"a": [1]}, repr),
        "bytes": (b"x" * 100_000, len),
        "byte array": (bytearray(100), bytes),
        **{cls.__name__: (cls.__bases__[0].__new__(cls), nothing) for cls in Subclasses},
    }
    for name in ("numpy", "pandas", "django"):
        table.update(_of_library(name))
    return table


def _of_library(name: str) -> Dict[str, Tuple[Any, Callable[[Any], Any]]]:
    """Objects of a library, if it is installed."""
    try:
        library: Any = __import__(name)
    except ImportError:
        return {}
    if name == "numpy":
        array = library.arange(1000)
        return {
            "array": (array, lambda value: (value.tobytes(), value.flags.writeable)),
            "memmap": (library.memmap(tempfile.TemporaryFile(), dtype="uint8", shape=(4096,)), lambda value: value.tobytes()),
            "array scalar": (library.float64(1.5), float),
        }
    if name == "pandas":
        frame = library.DataFrame({"a": [1, 2], "b": ["x", "y"]})
        return {"frame": (frame, lambda value: value.to_csv()), "series": (frame["a"], lambda value: value.to_csv())}
    from django.conf import settings

    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True)
    library.setup()
    from django.db import models
    from django.http import HttpRequest
    from django.utils.functional import SimpleLazyObject

    model: Any = type("Row", (models.Model,), {"__module__": "things", "Meta": type("Meta", (), {"app_label": "things"})})
    lazy = SimpleLazyObject(noting("lazy object"))
    return {
        "query set": (model.objects.filter(id=1), lambda value: value._result_cache),
        "model": (model(id=5), lambda value: sorted(value.__dict__)),
        "request": (HttpRequest(), lambda value: sorted(value.__dict__)),
        "lazy object": (lazy, lambda value: object.__getattribute__(value, "__dict__")["_wrapped"] is None),
    }


# the targets ---------------------------------------------------------------------------------------------------------------

seen: List[Any] = []


def give(value: Any, other: Any = 1, *rest: Any, **more: Any) -> Any:
    seen[:] = [value, *rest, *more.values()]
    return value


async def agive(value: Any, other: Any = 1, *rest: Any, **more: Any) -> Any:
    return give(value, other, *rest, **more)


def fail(value: Any, other: Any = 1) -> Any:
    seen[:] = [value]
    raise Failure(value, more=[value])


class Till:
    """Has a method, called for an object that notes all that is done to it."""

    def take(self, value: Any, other: Any = 1) -> Any:
        seen[:] = [self, value]
        return value


TILL = object.__new__(made("LoudTill", Till))


def _given(value: Any) -> bool:
    result = give(value, 1, value, more=value)
    return result is value and len(seen) == 3 and all(one is value for one in seen)


def _awaited(value: Any) -> bool:
    result = LOOP.run_until_complete(agive(value, 1, value, more=value))
    return result is value and len(seen) == 3 and all(one is value for one in seen)


def _failed(value: Any) -> bool:
    try:
        fail(value)
    except Failure as error:
        return error.args[0] is value and error.value is value and error.more[0] is value and seen[0] is value
    return False


def _taken(value: Any) -> bool:
    return Till.take(TILL, value) is value and seen[0] is TILL and seen[1] is value


WAYS = {"give": _given, "agive": _awaited, "fail": _failed, "take": _taken}
LOOP = asyncio.new_event_loop()
SAMPLES = samples()
COUNTS: Dict[str, int] = {}


def patience() -> Callable[[], bool]:
    """Waits for a moment each time, and says whether it may go on: a thread that has just told of an object may still have it in a frame."""
    wait, deadline = threading.Event().wait, time.monotonic() + 5

    def goes_on() -> bool:
        wait(0.002)
        gc.collect()
        return time.monotonic() < deadline

    return goes_on


def turn(rounds: int, queued: bool = False) -> List[str]:
    """Call the targets with each object, so many times; what was not as before. A text may be in a queue for longer than the call."""
    problems: List[str] = []
    # Before the first call: a hook that captures one object keeps the class of it for a moment, which is among them.
    COUNTS.update((name, sys.getrefcount(value)) for name, (value, _) in SAMPLES.items())
    for name, (value, state_of) in SAMPLES.items():
        before = state_of(value)
        references = sys.getrefcount(value)
        for way, call in WAYS.items():
            for number in range(rounds):
                same = call(value)
                seen.clear()
                left, goes_on = sys.getrefcount(value) - references, patience()
                while left > 0 and not queued and goes_on():
                    left = sys.getrefcount(value) - references
                if not same or (left > 0 and not queued) or touched:
                    problems.append(f"{way} of {name}, call {number}: {'same' if same else 'another'}, {left:+} references, {touched}")
                    touched.clear()
                    break
        if state_of(value) != before:
            problems.append(f"{name}: its state was {before!r:.80}, and is {state_of(value)!r:.80}")
    return problems


def settle() -> List[str]:
    """What was done to the objects since, and of which there are more references than before the last turn."""
    noted, touched[:] = touched[:], []
    gc.collect()
    goes_on = patience()
    for name, (value, _) in SAMPLES.items():
        left = sys.getrefcount(value) - COUNTS[name]
        while left > 0 and goes_on():
            left = sys.getrefcount(value) - COUNTS[name]
        if left > 0:
            noted.append(f"{left:+} references to {name}")
    return noted


def end() -> None:
    """Let go of what is outside of the process."""
    over.append(True)
    LOOP.close()
    SHARED.close()
    SHARED.unlink()
    for one in SOCKETS:
        one.close()
    FILE.close()
