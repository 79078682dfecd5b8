"""An armed function under the tools of others: tracers, profilers, debuggers, tracebacks, pickles; and functions that are running already."""

from __future__ import annotations

import bdb
import copy
import cProfile
import dis
import functools
import gc
import importlib.util
import inspect
import linecache
import os
import pickle
import pstats
import subprocess
import sys
import threading
import traceback
import weakref
from pathlib import Path
from typing import Any, Callable, Iterator, List, Set, Tuple

import cloudpickle
import pytest

from xpc_agent.hooks.dispatch import Dispatcher, HookChain, Invocation
from xpc_agent.patching import make_patch
from xpc_agent.targets.resolve import resolve
from xpc_instrument.core.model.target import Mode

NAME = "clinic_under_test"
SOURCE = """\
import dataclasses
import typing


def divide(a, b):
    # a comment, so that lines and offsets differ
    quotient = (
        a
        / b
    )
    return quotient


def countdown(n, /, *, step=1):
    while n > 0:
        yield n
        n -= step


async def awaited(a, b):
    return divide(a, b)


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0

    def moved(self, dx):
        return dataclasses.replace(self, x=self.x + dx)


class Pair(typing.NamedTuple):
    left: int
    right: int = 2

    def total(self):
        return self.left + self.right


class Outer:
    class Inner:
        def who(self):
            return __class__.__qualname__
"""


class Forward:
    """A hook that forwards and counts; what it must not do twice, it does once."""

    mode = Mode.AROUND

    def __init__(self) -> None:
        self.calls = 0

    def call_observer(self, invocation: Invocation) -> None:
        raise AssertionError("not an observer")

    async def call_observer_async(self, invocation: Invocation) -> None:
        raise AssertionError("not an observer")

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        self.calls += 1
        return proceed(*args, **kwargs)

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        self.calls += 1
        return await proceed(*args, **kwargs)


class Armed:
    """One target, patched by code swap and armed."""

    def __init__(self, name: str) -> None:
        self.hook = Forward()
        self.dispatcher = Dispatcher()
        self.patch = make_patch(resolve(f"{NAME}:{name}"), self.dispatcher, "code")
        self.arm()

    def arm(self) -> None:
        self.dispatcher.chain = HookChain([self.hook])
        self.patch.arm()

    def disarm(self) -> None:
        self.patch.disarm()
        self.dispatcher.chain = None


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / f"{NAME}.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[NAME]
    linecache.checkcache(str(path))


def lines_traced(path: str, call: Callable[[], Any]) -> Set[int]:
    """The lines of a file that a tracer, such as that of a coverage tool, sees while `call` runs."""
    seen: Set[int] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != path:
            return None
        if event == "line":
            seen.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return seen


def first_lines(function: Any) -> Set[int]:
    return {function.__code__.co_firstlineno}


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("divide", lambda m: m.divide(6, 3)),
        ("countdown", lambda m: list(m.countdown(3))),
        ("awaited", lambda m: run(m.awaited(6, 3))),
        ("Point.moved", lambda m: m.Point(1).moved(2)),
    ],
)
def test_a_tracer_sees_the_lines_of_the_original_and_at_most_its_first_line_beside_them(clinic: Any, name: str, call: Any) -> None:
    plain = lines_traced(clinic.__file__, lambda: call(clinic))
    armed = Armed(name)
    seen = lines_traced(clinic.__file__, lambda: call(clinic))
    assert armed.hook.calls == 1
    assert plain <= seen <= plain | first_lines(armed.patch.resolved.function)
    armed.disarm()
    assert lines_traced(clinic.__file__, lambda: call(clinic)) == plain


def run(awaitable: Any) -> Any:
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def test_a_trampoline_has_no_line_but_the_first_of_its_function(clinic: Any) -> None:
    for name in ("divide", "countdown", "awaited", "Point.moved"):
        armed = Armed(name)
        function = armed.patch.resolved.function
        lines = {line for _, line in dis.findlinestarts(function.__code__)}
        # The start of a generator or a coroutine is before its first line on some versions.
        assert lines - {None} == {function.__code__.co_firstlineno}
        armed.disarm()


class Stops(bdb.Bdb):
    """A debugger that notes where it stopped and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.where: List[Tuple[str, int]] = []

    def user_line(self, frame: Any) -> None:
        if self.get_breaks(frame.f_code.co_filename, frame.f_lineno):
            self.where.append((frame.f_code.co_name, frame.f_lineno))
        self.set_continue()


def test_a_breakpoint_in_an_armed_function_is_hit_once(clinic: Any) -> None:
    armed = Armed("divide")
    debugger = Stops()
    before = sys.gettrace()
    try:
        assert debugger.set_break(clinic.__file__, 11) is None
        debugger.runcall(clinic.divide, 6, 3)
    finally:
        debugger.clear_all_breaks()
        sys.settrace(before)
    assert debugger.where == [("divide", 11)]
    assert armed.hook.calls == 1


def test_a_profile_has_the_function_under_its_own_name(clinic: Any) -> None:
    Armed("divide")
    profile = cProfile.Profile()
    assert profile.runcall(clinic.divide, 6, 3) == 2
    names = {key for key in pstats.Stats(profile).stats if key[0] == clinic.__file__}  # type: ignore[attr-defined]
    assert names == {(clinic.__file__, 5, "divide")}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")
def test_a_monitoring_tool_that_watches_the_code_sees_the_original_run_while_armed(clinic: Any) -> None:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    code = clinic.divide.__code__
    lines: List[int] = []
    tool = monitoring.OPTIMIZER_ID
    monitoring.use_tool_id(tool, "test")
    try:
        monitoring.register_callback(tool, monitoring.events.LINE, lambda _, line: lines.append(line))
        monitoring.set_local_events(tool, code, monitoring.events.LINE)
        armed = Armed("divide")
        clinic.divide(6, 3)
        seen, lines[:] = list(lines), []
        armed.disarm()
        clinic.divide(6, 3)
        monitoring.set_local_events(tool, code, 0)
    finally:
        monitoring.register_callback(tool, monitoring.events.LINE, None)
        monitoring.free_tool_id(tool)
    assert seen == lines
    assert seen


def summary(error: BaseException) -> List[Tuple[str, int, str]]:
    """The frames of a traceback below the test's own."""
    return [(os.path.basename(f.filename), f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)[1:]]


@pytest.mark.parametrize(
    ("names", "call"),
    [(["divide"], lambda m: m.divide(1, 0)), (["divide", "awaited"], lambda m: run(m.awaited(1, 0)))],
    ids=["function", "coroutine"],
)
def test_a_traceback_shows_the_users_lines_and_no_frame_of_ours(clinic: Any, names: List[str], call: Any) -> None:
    with pytest.raises(ZeroDivisionError) as plain:
        call(clinic)
    armed = [Armed(name) for name in names]
    with pytest.raises(ZeroDivisionError) as now:
        call(clinic)
    firsts = {(f"{NAME}.py", one.patch.resolved.function.__code__.co_firstlineno) for one in armed}
    # Before 3.11 each armed function has one more line, its first, where the trampoline stands for it.
    assert [frame for frame in summary(now.value) if frame[:2] not in firsts] == summary(plain.value)
    assert len(summary(now.value)) == len(summary(plain.value)) + len(armed) * (sys.version_info < (3, 11))


def test_an_exception_that_is_kept_keeps_no_argument_alive(clinic: Any) -> None:
    class Number:
        pass

    exec("def fail(number):\n    del number\n    raise KeyError\n", clinic.__dict__)
    Armed("fail")
    number = Number()
    watched = weakref.ref(number)
    with pytest.raises(KeyError) as kept:
        clinic.fail(number)
    del number
    gc.collect()
    assert watched() is None
    assert kept.value.__traceback__ is not None


def test_a_wrong_argument_list_is_answered_as_by_the_original(clinic: Any) -> None:
    with pytest.raises(TypeError) as plain:
        clinic.divide(1, 2, 3)
    Armed("divide")
    with pytest.raises(TypeError) as now:
        clinic.divide(1, 2, 3)
    assert str(now.value) == str(plain.value)
    # The hook of this test called the original; one that crosses is a frame of ours, and gone.
    trampoline = [f"{NAME}.py"] if sys.version_info < (3, 11) else []
    assert [name for name, _, _ in summary(now.value)] == [*trampoline, os.path.basename(__file__)]


def test_an_exception_may_have_a_with_traceback_of_its_own(clinic: Any) -> None:
    exec(
        "class Own(Exception):\n    def with_traceback(self, trace=None): return None\ndef fail(): raise Own('mine')\n",
        clinic.__dict__,
    )
    Armed("fail")
    with pytest.raises(clinic.Own, match="mine"):
        clinic.fail()


def test_a_wrapper_made_meanwhile_gets_no_signature_of_the_armed_function(clinic: Any) -> None:
    clinic.divide.mark = 1
    attributes = vars(clinic.divide)
    armed = Armed("divide")

    @functools.wraps(clinic.divide)
    def wrapper(request: Any, *more: Any) -> Any:
        return request, more

    assert inspect.getfullargspec(wrapper).args == ["request"]
    assert inspect.signature(wrapper) == inspect.signature(clinic.divide)
    assert inspect.getfullargspec(clinic.divide).args == ["a", "b"]
    del wrapper.__wrapped__
    assert list(inspect.signature(wrapper).parameters) == ["request", "more"]
    for shown in (vars(wrapper), vars(clinic.divide), copy.copy(vars(clinic.divide)), {**vars(clinic.divide)}, dict(vars(clinic.divide))):
        assert shown == {"mark": 1}
    clinic.divide.other = 2
    del clinic.divide.mark
    armed.patch.disarm()
    assert vars(clinic.divide) is attributes
    assert attributes == {"other": 2}
    del clinic.divide.other


def test_a_signature_that_the_application_sets_meanwhile_stays(clinic: Any) -> None:
    armed = Armed("divide")
    own = inspect.Signature()
    clinic.divide.__signature__ = own
    assert vars(clinic.divide) == {"__signature__": own}
    armed.patch.disarm()
    assert inspect.signature(clinic.divide) is own
    del clinic.divide.__signature__


@pytest.mark.parametrize(
    ("name", "call", "result"),
    [
        ("countdown", lambda m: list(m.countdown(3, step=2)), [3, 1]),
        ("factorial", lambda m: m.factorial(5), 120),
        ("Point.__init__", lambda m: m.Point(1, y=2), "Point(x=1, y=2)"),
        ("Point.__eq__", lambda m: m.Point(1) == m.Point(1), True),
        ("Point.__lt__", lambda m: m.Point(1) < m.Point(2), True),
        ("Point.__repr__", lambda m: m.Point(1), "Point(x=1, y=0)"),
        ("Pair.total", lambda m: m.Pair(1).total(), 3),
        ("Pair.__new__", lambda m: m.Pair(1), "Pair(left=1, right=2)"),
        ("Outer.Inner.who", lambda m: m.Outer.Inner().who(), "Outer.Inner"),
    ],
)
def test_generated_and_nested_functions_are_hooked(clinic: Any, name: str, call: Any, result: Any) -> None:
    armed = Armed(name)
    code = armed.patch.resolved.function.__code__
    found = call(clinic)
    assert (repr(found) if isinstance(result, str) and not isinstance(found, str) else found) == result
    assert armed.hook.calls > 0
    armed.disarm()
    assert armed.patch.resolved.function.__code__ is not code
    armed.patch.uninstall()


def test_a_generator_that_runs_already_is_left_alone_by_arming_and_a_hooked_one_ends_well_after_disarming(clinic: Any) -> None:
    running = clinic.countdown(3)
    assert next(running) == 3
    armed = Armed("countdown")
    hooked = clinic.countdown(3)
    waiting = clinic.countdown(2)
    assert next(hooked) == 3
    armed.disarm()
    assert list(running) == [2, 1]
    assert list(hooked) == [2, 1]
    assert list(waiting) == [2, 1]
    assert armed.hook.calls == 1


def test_an_invocation_that_is_under_way_survives_being_disarmed_and_armed_by_its_own_hook(clinic: Any) -> None:
    armed = Armed("factorial")
    original = armed.hook.call_replacing

    def flip(invocation: Invocation, proceed: Callable[..., Any]) -> Any:
        armed.disarm()
        armed.arm()
        return original(invocation, proceed)

    armed.hook.call_replacing = flip  # type: ignore[method-assign]
    assert clinic.factorial(5) == 120
    assert armed.hook.calls == 5


# Where there is no agent.
CHILD = """
import asyncio, pickle, sys
sys.modules["xpc_agent"] = sys.modules["xpc_instrument"] = None
local, later, each, each_later = pickle.loads(sys.stdin.buffer.read())

async def all_later():
    return await later(6, 3), [one async for one in each_later(6, 3)]

print(local(6, 3), *each(6, 3), *asyncio.run(all_later()))
try:
    local(1, 0)
except ZeroDivisionError as error:
    print(error)
"""


def test_an_armed_function_that_is_pickled_by_value_runs_elsewhere_as_the_original(clinic: Any) -> None:
    names = ("local", "later", "each", "each_later")
    code = (
        "def local(a, b):\n    return a / b\nasync def later(a, b):\n    return a / b\n"
        "def each(a, b):\n    yield a / b\nasync def each_later(a, b):\n    yield a / b\n"
    )
    exec(code, clinic.__dict__)
    armed = []
    for name in names:
        getattr(clinic, name).__module__ = "__main__"
        armed.append(Armed(name))
        armed[-1].hook.lock = threading.Lock()  # type: ignore[attr-defined] # as a hook that crosses has, and no pickle can take
    data = cloudpickle.dumps([getattr(clinic, name) for name in names])
    done = subprocess.run([sys.executable, "-c", CHILD], input=data, capture_output=True, timeout=30, check=False)
    assert (done.stdout.decode(), done.stderr.decode()) == ("2.0 2.0 2.0 [2.0]\ndivision by zero\n", "")
    clinic.again = pickle.loads(data)[0]
    assert clinic.again(6, 3) == 2
    assert [one.hook.calls for one in armed] == [0, 0, 0, 0]
    # What has come back is a function that can be hooked itself.
    again = Armed("again")
    assert (clinic.again(6, 3), again.hook.calls) == (2, 1)
    again.disarm()
    assert (clinic.again(6, 3), again.hook.calls) == (2, 1)
