"""A probe on every line of functions of all kinds: they come to the same, a tracer sees the same, and their code is the same afterwards."""

from __future__ import annotations

import sys
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from xpc_agent.hooks.line import variables
from xpc_agent.monitoring import Monitoring, monitoring
from xpc_agent.patching.lines.injection import Call, Injection
from xpc_agent.patching.lines.starts import Body
from xpc_agent.targets.lines import nested
from xpc_instrument.core.model.errors import TargetError

from . import samples

pytestmark = pytest.mark.version
BY_EVENTS = sys.version_info >= (3, 12)
FUNCTIONS = [value for value in vars(samples).values() if type(value) is FunctionType and value.__module__ == samples.__name__]
Seen = List[Tuple[str, int]]


class Probed:
    """All lines of the samples, with a probe; `seen` has those that were come to."""

    def __init__(self) -> None:
        self.seen: Seen = []
        self._roots = [function.__code__ for function in FUNCTIONS]
        self._places = [(code, line) for root in self._roots for code in nested(root) for line in Body(code).starts]
        if BY_EVENTS:
            from xpc_agent.patching.lines.events import LineEvents

            self._events: Any = LineEvents()
        self._injection = Injection()

    def put(self, on: bool) -> None:
        if BY_EVENTS:
            self._events.put([(code, line, [self._hit(code, line)] if on else []) for code, line in self._places], [])
            return
        calls = [(code, line, [Call(variables(code), self._called(code, line))] if on else []) for code, line in self._places]
        self._injection.put(calls, self._roots, FUNCTIONS, lambda old, new: None)

    def _hit(self, code: CodeType, line: int) -> Callable[..., None]:
        def hit(frame: Any) -> None:
            dict(frame.f_locals)
            self.seen.append((code.co_name, line))

        return hit

    def _called(self, code: CodeType, line: int) -> Callable[[Any], Callable[..., None]]:
        def make(given: Any) -> Callable[..., None]:
            def hit(*values: Any) -> None:
                assert len(values) == len(given)
                self.seen.append((code.co_name, line))

            return hit

        return make


@pytest.fixture
def probed() -> Iterator[Probed]:
    before = {function: function.__code__ for function in FUNCTIONS}
    one = Probed()
    one.put(True)
    yield one
    one.put(False)
    assert all(function.__code__ is code for function, code in before.items())
    assert monitoring.id is None


@pytest.mark.parametrize("name", samples.CALLS)
def test_what_functions_come_to_is_the_same(name: str, request: pytest.FixtureRequest) -> None:
    plain = samples.CALLS[name]()
    probed = request.getfixturevalue("probed")
    assert samples.CALLS[name]() == plain
    assert probed.seen


def lines_of(call: Callable[[], Any]) -> Seen:
    """What a tracer sees of the samples."""
    found: Seen = []

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != samples.__file__ or not frame.f_code.co_flags & 2:
            return None
        if event == "line":
            found.append((frame.f_code.co_name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return found


@pytest.mark.parametrize("name", sorted(set(samples.CALLS) - {"awaits"}))
def test_a_tracer_sees_the_same_and_no_less_than_the_probes(name: str, request: pytest.FixtureRequest) -> None:
    plain = lines_of(samples.CALLS[name])
    probed = request.getfixturevalue("probed")
    assert lines_of(samples.CALLS[name]) == plain
    # But for those of classes, at whose code the tracer does not look.
    seen = {one for one in probed.seen if one[0] not in ("Base", "Made")}
    assert seen <= set(plain)


@pytest.mark.skipif(not BY_EVENTS, reason="sys.monitoring came with Python 3.12")
def test_there_is_one_tool_id_for_all_and_none_is_said_so() -> None:
    tools: Any = getattr(sys, "monitoring", None)
    one, taken = Monitoring(), []
    try:
        for number in (3, 4, 5):
            if tools.get_tool(number) is None:
                tools.use_tool_id(number, f"tool {number}")
                taken.append(number)
        with pytest.raises(TargetError, match=r"other tools have all ids .*4: tool 4, 3: tool 3"):
            one.acquire("lines")
        tools.free_tool_id(taken.pop(0))
        one.acquire("lines")
        one.acquire("trees")
        code, events = samples.inner.__code__, tools.events
        one.add([code], events.LINE | events.PY_START, "lines")
        one.add([code], events.PY_START, "trees")
        one.drop([code], events.PY_START, "trees")
        assert tools.get_local_events(one.id, code) == events.LINE | events.PY_START
        one.drop([code], events.LINE | events.PY_START, "lines")
        assert tools.get_local_events(one.id, code) == 0
        one.release("trees")
        assert one.id is not None
        one.release("lines")
        assert one.id is None
    finally:
        for number in taken:
            tools.free_tool_id(number)


@pytest.mark.skipif(BY_EVENTS, reason="from 3.12 on nothing is put in")
def test_code_comes_out_as_it_went_in() -> None:
    from xpc_agent.patching.inside import instructions
    from xpc_agent.patching.lines import wordcode

    code_of: Dict[str, Any] = {}
    for function in [*FUNCTIONS, *[value for value in vars(sys.modules["asyncio.tasks"]).values() if type(value) is FunctionType]]:
        for code in nested(function.__code__):
            body = Body(code).instructions
            again = (instructions if sys.version_info >= (3, 11) else wordcode).encoded(body, code)
            assert again.co_code == code.co_code
            assert list(lines_in(again)) == list(lines_in(code))
            code_of[code.co_name] = again
    assert len(code_of) > 20


def lines_in(code: Any) -> Iterator[Any]:
    import dis

    return iter(list(code.co_lines()) if sys.version_info >= (3, 10) else list(dis.findlinestarts(code)))
