"""What tracers, profilers and monitors see of a function with hooks inside of its code: what they see without."""

from __future__ import annotations

import cProfile
import pstats
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import pytest

from xpc_agent.hooks.dispatch import Dispatcher, HookChain, Invocation
from xpc_agent.hooks.gate import ALWAYS, Proceeding, Way
from xpc_agent.patching import make_patch
from xpc_agent.targets.resolve import Kind, resolve
from xpc_instrument.core.calls.outcome import Arguments, Outcome
from xpc_instrument.core.model.target import Mode

SOURCE = """\
def total(numbers):
    result = 0
    for number in numbers:
        try:
            result += half(number)
        except ValueError:
            result += 1
    return result


def half(number):
    if number % 2:
        raise ValueError(number)
    return number // 2


def each(numbers):
    for number in numbers:
        yield number
"""


class Forward(Proceeding):
    """A hook that changes nothing; it is what it proceeds as, too."""

    alone: Optional[Way] = None
    changed: Optional[Arguments] = None

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.way = Way(ALWAYS)
        self.calls = 0

    def goes_inside(self, kind: Kind) -> bool:
        return True

    def cross(self, args: Any, kwargs: Any, bound: bool, number: int = 0) -> Proceeding:
        self.calls += 1
        return self

    def tell(self, outcome: Outcome) -> Outcome:
        return outcome

    def abandon(self) -> None:
        raise AssertionError("nothing interrupts here")

    def call_observer(self, invocation: Invocation) -> None:
        self.calls += 1

    async def call_observer_async(self, invocation: Invocation) -> None:
        raise AssertionError("nothing is awaited here")

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        raise AssertionError("by no trampoline")

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        raise AssertionError("by no trampoline")


@pytest.fixture
def sums(tmp_path: Path) -> Iterator[Any]:
    module = types.ModuleType("sums_under_tools")
    path = tmp_path / "sums_under_tools.py"
    path.write_text(SOURCE)
    sys.modules[module.__name__] = module
    exec(compile(SOURCE, str(path), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def work(module: Any) -> Any:
    return module.total([1, 2, 3]), list(module.each("ab"))


def traced(module: Any) -> Any:
    seen: List[Any] = []

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename.endswith("sums_under_tools.py"):
            seen.append((frame.f_code.co_name, event, frame.f_lineno, repr(arg) if event == "return" else None))
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work(module)
    finally:
        sys.settrace(before)
    return seen


def profiled(module: Any) -> Any:
    profile = cProfile.Profile()
    profile.runcall(work, module)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    return {(line, name): row[:2] for (file, line, name), row in stats.items() if file.endswith("sums_under_tools.py")}


def monitored(module: Any) -> Any:
    monitoring = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    seen: Counter[Any] = Counter()

    def line(code: Any, number: int) -> None:
        if code.co_filename.endswith("sums_under_tools.py"):
            seen[code.co_name, number] += 1

    def ends(code: Any, offset: int, value: Any) -> None:
        if code.co_filename.endswith("sums_under_tools.py"):
            seen[code.co_name, repr(value)] += 1

    events = monitoring.events
    monitoring.use_tool_id(3, "the test")
    try:
        monitoring.register_callback(3, events.LINE, line)
        monitoring.register_callback(3, events.PY_RETURN, ends)
        monitoring.set_events(3, events.LINE | events.PY_RETURN)
        work(module)
    finally:
        monitoring.set_events(3, 0)
        monitoring.free_tool_id(3)
    return seen


@pytest.mark.version
@pytest.mark.skipif(sys.version_info < (3, 11), reason="hooks go inside from Python 3.11 on")
@pytest.mark.parametrize("modes", [[Mode.AROUND], [Mode.BEFORE, Mode.AFTER]], ids=["around", "observers"])
@pytest.mark.parametrize("tool", [traced, profiled, monitored])
def test_a_tool_sees_what_it_sees_without_hooks(sums: Any, tool: Any, modes: List[Mode]) -> None:
    if tool is monitored and sys.version_info < (3, 12):
        pytest.skip("sys.monitoring came with Python 3.12")
    plain = tool(sums)
    assert plain
    armed = []
    for name in ("total", "half", "each"):
        dispatcher = Dispatcher()
        patch = make_patch(resolve(f"sums_under_tools:{name}"), dispatcher)
        hooks = [Forward(mode) for mode in modes]
        dispatcher.chain = HookChain(hooks)
        patch.arm()
        armed.append((patch, hooks))
    now = tool(sums)
    assert all(patch.patcher == "inside" for patch, _ in armed)
    assert all(hook.calls for _, hooks in armed for hook in hooks)
    for patch, _ in armed:
        patch.disarm()
    assert now == plain
    assert tool(sums) == plain
