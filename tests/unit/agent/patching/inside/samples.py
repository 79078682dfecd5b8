"""Functions of each kind and with each construct of the language, with calls whose outcomes have to be as without hooks."""

from __future__ import annotations

import re
import sys
import traceback
import types
import warnings
from typing import Any, Callable, Dict, List, Tuple

LANGUAGE = '''
import contextlib

class Turn:
    """Awaited once; gives the event loop nothing to do."""
    def __await__(self):
        yield "turn"

@contextlib.contextmanager
def swallowing(*kinds):
    try:
        yield "inside"
    except kinds:
        pass

@contextlib.asynccontextmanager
async def later():
    await Turn()
    try:
        yield "later"
    finally:
        await Turn()

def nothing():
    pass

def parameters(a, /, b, c=3, *d, e, f=6, **g):
    return a, b, c, d, e, f, g

def cells(a, *b, c=1, **d):
    def inner():
        nonlocal a
        a += 1
        return a, b, c, d
    return inner(), inner(), a

def closure_of(outer):
    def closure(x):
        nonlocal outer
        outer += x
        return outer
    return closure

closure = closure_of(5)
anonymous = lambda a, b=2: (a, b)
recursive_depth = 0

def recursive(n):
    return n and recursive(n - 1) + 1

def loops(n):
    found = []
    for i in range(n):
        if i == 1:
            continue
        while True:
            if i > 3:
                break
            found.append(i)
            break
        else:
            found.append("never")
    else:
        found.append("else")
    return found, [x * y for x in found[:-1] for y in range(2)], {x: 1 for x in found}, {*found}, list(x for x in found)

def returns_in_loops(n):
    for i in range(n):
        with swallowing(KeyError):
            try:
                for j in range(i):
                    if j == 2:
                        return i, j
                if i == 1:
                    raise KeyError
            finally:
                n += 1
    return "none"

def handlers(x):
    try:
        try:
            x = 1 / x
        except ZeroDivisionError as error:
            raise KeyError("first") from error
        except (TypeError, ValueError):
            return "wrong type"
        else:
            x += 1
        finally:
            if x == "overridden":
                return x
    except KeyError as error:
        del x
        return type(error.__cause__).__name__, type(error.__context__).__name__
    finally:
        with swallowing(AttributeError):
            None.x
    return x

def raising(x):
    y = [x]
    return y[
        x
    ]

def asserting(x):
    assert x, f"{x!r:>5} is {x=}"
    return 1 < x <= 5 != 6

def walrus(x, *, key=lambda v: -v):
    if (y := x * 2) > 5 and not (z := y % 3):
        return y, z, sorted([1, 3, 2], key=key)
    global recursive_depth
    recursive_depth += 1
    a, (b, *c), d = 1, (2, 3, 4), {"k": 5}
    d["k"], a = a, d["k"]
    return a, b, c, d, f"{a}{b!r:>{y or 1}}", (*c, *d), {**d, "m": 1}

def long_one(x):
    total = 0
    for i in range(3):
LONG        if total < 0:
            return i
    return total

def generator(a, n=2):
    got = yield a
    try:
        for i in range(n):
            got = yield i, got
    except KeyError as error:
        yield "caught", error.args
    finally:
        yield "finally"
    return a, got

def bare_generator(n):
    for i in range(n):
        yield i

def delegating(n):
    found = yield from generator(n, n)
    return found, (yield from range(n))

async def coroutine(a, n=2):
    found = [a]
    async with later() as name:
        found.append(name)
        async for i in async_generator(n):
            found.append(i)
        found += [x async for x in async_generator(n) if x]
        await Turn()
        if n == 5:
            return "early"
    return found, 1 / n

async def async_generator(n):
    try:
        for i in range(n):
            await Turn()
            got = yield i
            if got:
                yield got
    finally:
        await Turn()

class Base:
    def method(self, x):
        return "base", x

class Sample(Base):
    def __init__(self, x=1):
        self.x = x
    def method(self, x=2):
        return super().method(x), __class__.__name__, self.x
    @classmethod
    def made(cls, x):
        return cls.__name__, x
    @staticmethod
    def still(x):
        return x
    @property
    def value(self):
        return self.x
    @value.setter
    def value(self, x):
        self.x = x * 2
    def __enter__(self):
        return self
    def __exit__(self, *error):
        return True
'''.replace("LONG", "".join(f"        total += x if x != {number} else i\n" for number in range(1000, 1400)))

NEWER = """
def matching(x):
    match x:
        case {"k": [1, *rest], **more} if rest:
            return rest, more
        case Sample(x=y) | [Sample(x=y)]:
            return y
        case (1 | 2) as z:
            return z
        case str():
            raise ValueError(x)
    return "nothing"
"""

GROUPS = """
def grouping(x):
    try:
        raise ExceptionGroup("g", [ValueError(1), KeyError(x), ExceptionGroup("h", [TypeError()])])
    except* ValueError as error:
        x = len(error.exceptions)
    except* TypeError:
        x += 1
    return x
"""


_TEXT = LANGUAGE + (NEWER if sys.version_info >= (3, 10) else "") + (GROUPS if sys.version_info >= (3, 11) else "")
with warnings.catch_warnings():
    # 3.14 and later warn of a `return` in a `finally`.
    warnings.simplefilter("ignore", SyntaxWarning)
    _CODE = compile(_TEXT, "<samples>", "exec", dont_inherit=True)


def namespace() -> Dict[str, Any]:
    """The functions, made anew."""
    made: Dict[str, Any] = {"__name__": "samples"}
    exec(_CODE, made)
    return made


def stepped(iterator: Any, *sent: Any) -> List[Any]:
    """All that a generator or a coroutine gives, with what it is sent at first, and what it returns."""
    given: List[Any] = []
    to_send = [None, *sent]
    try:
        while True:
            given.append(iterator.send(to_send.pop(0) if to_send else None))
    except StopIteration as end:
        return [*given, ("returned", end.value)]


async def all_of(iterator: Any) -> List[Any]:
    return [one async for one in iterator]


def thrown(iterator: Any, error: BaseException, after: int = 2) -> Any:
    for _ in range(after):
        next(iterator)
    return iterator.throw(error), list(iterator)


def closed(iterator: Any, after: int) -> Any:
    given = [next(iterator) for _ in range(after)]
    return given, iterator.close(), list(iterator), iterator.gi_frame


async def async_closed(iterator: Any, after: int) -> Any:
    given = [await iterator.__anext__() for _ in range(after)]
    await iterator.aclose()
    return given, await all_of(iterator)


async def async_thrown(iterator: Any, error: BaseException) -> Any:
    await iterator.__anext__()
    given = await iterator.asend("sent")
    return given, await iterator.athrow(error)


def set_value(sample: Any) -> Any:
    sample.value = 4
    return sample.value


Call = Callable[[Dict[str, Any]], Any]
Sample = Tuple[str, List[Call]]

SAMPLES: List[Sample] = [
    ("nothing", [lambda s: s["nothing"](), lambda s: s["nothing"](1)]),
    (
        "parameters",
        [
            lambda s: s["parameters"](1, 2, e=5),
            lambda s: s["parameters"](1, 2, 3, 4, 5, e=5, f=7, h=8, a=9),
            lambda s: s["parameters"](1),
        ],
    ),
    ("cells", [lambda s: s["cells"](1, 2, c=3, d=4)]),
    ("closure", [lambda s: (s["closure"](1), s["closure"](2)), lambda s: s["closure"]("x")]),
    ("anonymous", [lambda s: s["anonymous"](1), lambda s: s["anonymous"](b=1, a=2)]),
    ("recursive", [lambda s: s["recursive"](20), lambda s: s["recursive"]("x")]),
    ("loops", [lambda s: s["loops"](0), lambda s: s["loops"](6), lambda s: s["loops"](None)]),
    ("returns_in_loops", [lambda s: s["returns_in_loops"](5), lambda s: s["returns_in_loops"](0)]),
    ("handlers", [lambda s, x=x: s["handlers"](x) for x in (2, 0, "y", "overridden", None)]),  # type: ignore[misc]
    ("raising", [lambda s: s["raising"](0), lambda s: s["raising"](1)]),
    ("asserting", [lambda s: s["asserting"](3), lambda s: s["asserting"](0), lambda s: s["asserting"]("x")]),
    ("walrus", [lambda s: s["walrus"](3), lambda s: s["walrus"](1), lambda s: s["walrus"](0)]),
    ("long_one", [lambda s: s["long_one"](2), lambda s: s["long_one"](-1), lambda s: s["long_one"]("x")]),
    (
        "generator",
        [
            lambda s: stepped(s["generator"](1), "a", "b"),
            lambda s: thrown(s["generator"](1), KeyError("k")),
            lambda s: thrown(s["generator"](1), ValueError("v")),
            lambda s: thrown(s["generator"](1), StopIteration("s")),
            # A build with assertions ends there, with hooks or without.
            lambda s: hasattr(sys, "gettotalrefcount") or thrown(s["generator"](1), StopIteration("s"), 0),
            lambda s: closed(s["generator"](1), 0),
            lambda s: closed(s["generator"](1), 1),
            lambda s: closed(s["generator"](1), 2),
            lambda s: stepped(s["delegating"](2), "a", "b"),
        ],
    ),
    (
        "bare_generator",
        [
            lambda s: list(s["bare_generator"](3)),
            lambda s: closed(s["bare_generator"](3), 2),
            lambda s: thrown(s["bare_generator"](3), GeneratorExit()),
            lambda s: list(s["bare_generator"]("x")),
        ],
    ),
    ("delegating", [lambda s: stepped(s["delegating"](2), "a"), lambda s: closed(s["delegating"](3), 1)]),
    (
        "coroutine",
        [
            lambda s: stepped(s["coroutine"](1)),
            lambda s: stepped(s["coroutine"](1, 0)),
            lambda s: stepped(s["coroutine"](1, 5)),
            lambda s: thrown(s["coroutine"](1).__await__(), KeyError(1), 1),
            lambda s: s["coroutine"](1).close(),
        ],
    ),
    (
        "async_generator",
        [
            lambda s: stepped(all_of(s["async_generator"](2))),
            lambda s: stepped(all_of(s["async_generator"]("x"))),
            lambda s: stepped(async_closed(s["async_generator"](3), 0)),
            lambda s: stepped(async_closed(s["async_generator"](3), 2)),
            lambda s: stepped(async_thrown(s["async_generator"](3), KeyError(1))),
            lambda s: stepped(s["coroutine"](1)),
        ],
    ),
    ("Sample.__init__", [lambda s: s["Sample"](3).x, lambda s: s["Sample"](1, 2)]),
    ("Sample.method", [lambda s: s["Sample"]().method(), lambda s: s["Sample"].method(s["Sample"](4), x=1)]),
    ("Sample.made", [lambda s: s["Sample"].made(1), lambda s: type("Sub", (s["Sample"],), {}).made(2)]),
    ("Sample.still", [lambda s: s["Sample"].still(1), lambda s: s["Sample"]().still(2)]),
    ("Sample.value.fget", [lambda s: s["Sample"](3).value]),
    ("Sample.value.fset", [lambda s: set_value(s["Sample"](3))]),
    ("swallowing", [lambda s: s["returns_in_loops"](5), lambda s: s["handlers"](0)]),
    ("later", [lambda s: stepped(s["coroutine"](1)), lambda s: stepped(s["coroutine"](1, 0))]),
]
if sys.version_info >= (3, 10):
    _subjects = [{"k": [1, 2, 3], "m": 4}, {"k": [1]}, 1, "text", None]
    SAMPLES.append(
        ("matching", [*(lambda s, x=x: s["matching"](x) for x in _subjects), lambda s: s["matching"]([s["Sample"](7)])])  # type: ignore[misc]
    )
if sys.version_info >= (3, 11):
    SAMPLES.append(("grouping", [lambda s: s["grouping"](5)]))


def function_of(made: Dict[str, Any], name: str) -> types.FunctionType:
    first, *rest = name.split(".")
    found = made[first]
    for one in rest:
        found = vars(found)[one] if isinstance(found, type) else getattr(found, one)
    found = getattr(found, "__func__", found)
    found = getattr(found, "__wrapped__", found)
    assert isinstance(found, types.FunctionType)
    return found


def outcome(call: Call, made: Dict[str, Any]) -> Any:
    """The value, or the exception with its context and the lines that it went through; and that none is handled any more."""
    try:
        value: Any = call(made)
    except BaseException as error:
        lines = [(frame.name, frame.lineno, frame.line) for frame in traceback.extract_tb(error.__traceback__)][1:]
        value = type(error), str(error), repr(error.__context__), repr(error.__cause__), lines
    return re.sub(r"0x[0-9a-f]+", "0x", repr(value)), sys.exc_info()
