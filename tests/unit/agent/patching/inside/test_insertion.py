"""What a function does with hooks inside is what it does without, but for what they change."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from xpc_agent.patching.inside import RefusedError, inserted

from .samples import SAMPLES, Call, function_of, namespace, outcome, stepped

pytestmark = [
    pytest.mark.version,
    pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.11 is the oldest whose code is gone into"),
]

Enter = Callable[..., Any]


class Hooks:
    """Records how it is called, and answers what it is told to."""

    def __init__(self, on_enter: Enter, on_leave: Any = None, on_failed: Any = None) -> None:
        self.calls: List[Any] = []
        self.on_enter, self.on_leave, self.on_failed = on_enter, on_leave, on_failed

    def enter(self, *values: Any) -> Any:
        self.calls.append(("enter", values))
        return self.on_enter(*values)

    def leave(self, token: Any, value: Any) -> Any:
        self.calls.append(("leave", token))
        return value if self.on_leave is None else self.on_leave(token, value)

    def failed(self, token: Any, error: BaseException) -> Optional[Tuple[Any]]:
        self.calls.append(("failed", token))
        return None if self.on_failed is None else self.on_failed(token, error)

    def names(self) -> List[str]:
        return [name for name, _ in self.calls]

    def arm(self, function: types.FunctionType, whole: bool = True) -> types.CodeType:
        """Put them in; returns the code that was there."""
        before = function.__code__
        function.__code__ = inserted(before, self.enter, *((self.leave, self.failed) if whole else ()))
        return before


def nothing(*_: Any) -> None:
    return None


def token(*_: Any) -> Any:
    return None, "token"


def the_same(*values: Any) -> Any:
    return values, "token"


def raises(*_: Any) -> Any:
    raise LookupError("of a hook")


@pytest.mark.parametrize(
    ("whole", "on_enter"),
    [(False, nothing), (True, nothing), (True, token), (True, the_same)],
    ids=["prologue", "nothing to do", "token", "same arguments"],
)
@pytest.mark.parametrize(("name", "calls"), SAMPLES, ids=[name for name, _ in SAMPLES])
def test_an_armed_function_does_what_it_does_disarmed(name: str, calls: List[Call], whole: bool, on_enter: Enter) -> None:
    bare, armed = namespace(), namespace()
    hooks = Hooks(on_enter)
    hooks.arm(function_of(armed, name), whole)
    assert [outcome(call, armed) for call in calls] == [outcome(call, bare) for call in calls]
    gc.collect()
    entered = hooks.names().count("enter")
    assert entered > 0
    if on_enter is not nothing:
        # Each invocation that was entered ended, in one way.
        assert hooks.names().count("leave") + hooks.names().count("failed") == entered
    else:
        assert hooks.names() == ["enter"] * entered


@pytest.mark.parametrize(("name", "calls"), SAMPLES, ids=[name for name, _ in SAMPLES])
def test_nothing_of_it_shows_but_the_bytecode(name: str, calls: List[Call]) -> None:
    made = namespace()
    function = function_of(made, name)
    before = Hooks(token).arm(function)
    after = function.__code__
    for attribute in dir(before):
        if attribute.startswith("co_") and attribute not in ("co_code", "co_consts", "co_linetable", "co_lnotab", "co_exceptiontable"):
            value = getattr(before, attribute)
            if not callable(value) and attribute != "co_stacksize":
                assert getattr(after, attribute) == value
    assert after.co_consts[: len(before.co_consts)] == before.co_consts
    assert {line for *_, line in after.co_lines()} == {line for *_, line in before.co_lines()} | {None, before.co_firstlineno}
    assert after.co_stacksize - before.co_stacksize < 10 + len(before.co_varnames)


# what the hooks change ----------------------------------------------------------------------------------------------------------------


def armed_with(source: str, *answers: Any) -> Tuple[Any, Hooks]:
    """The function `f` of some text, with hooks."""
    made: Dict[str, Any] = {}
    exec(compile(source, "<text>", "exec", dont_inherit=True), made)
    hooks = Hooks(*answers)
    hooks.arm(made["f"])
    return made["f"], hooks


def test_enter_gets_the_values_of_all_parameters_by_position() -> None:
    f, hooks = armed_with("def f(a, /, b, c=3, *d, e=5, **g): return (lambda: (a, d))()", token)
    f(1, 2, g=7)
    f(1, 2, 3, 4, e=6)
    assert hooks.calls[::2] == [("enter", (1, 2, 3, 5, (), {"g": 7})), ("enter", (1, 2, 3, 6, (4,), {}))]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a, *b, c, **d): return a, b, c, d", (10, (20,), 30, {"d": 40})),
        # The parameters are cells.
        ("def f(a, *b, c, **d): return (lambda: (a, b, c, d))()", (10, (20,), 30, {"d": 40})),
        ("def f(a, *b, c, **d):\n    yield a, b, c, d", [(10, (20,), 30, {"d": 40}), ("returned", None)]),
        ("async def f(a, *b, c, **d): return a, b, c, d", [("returned", (10, (20,), 30, {"d": 40}))]),
    ],
)
def test_other_arguments_reach_the_body(source: str, expected: Any) -> None:
    f, _ = armed_with(source, lambda *_: ((10, 30, (20,), {"d": 40}), "token"))
    found = f(1, 2, c=3)
    assert (found if isinstance(found, tuple) else stepped(found)) == expected


def test_an_argument_that_was_replaced_is_let_go() -> None:
    class Thing:
        pass

    seen: List[Any] = []

    def enter(a: Any) -> Any:
        seen.append(weakref.ref(a))
        return (1,), "token"

    def f(a: Any) -> Any:
        return a, seen[0]()

    f.__code__ = inserted(f.__code__, enter, lambda of, value: value, nothing)
    found = f(Thing())
    assert found == (1, None)


@pytest.mark.parametrize("source", ["def f(a): body", "async def f(a): body", "def f(a):\n    body\n    yield"])
def test_a_value_at_once_keeps_the_body_from_running(source: str) -> None:
    f, hooks = armed_with(source, lambda a: (("at once",), None))
    found = f(1)
    assert (found if found == "at once" else stepped(found)) in ("at once", [("returned", "at once")])
    assert hooks.names() == ["enter"]


def test_leave_says_what_is_returned_and_failed_may_return_instead() -> None:
    f, hooks = armed_with("def f(a): return 1 / a", token, lambda of, value: (of, value), lambda of, error: ((of, str(error)),))
    assert f(1) == ("token", 1.0)
    assert f(0) == ("token", "division by zero")
    assert sys.exc_info() == (None, None, None)
    assert hooks.names() == ["enter", "leave", "enter", "failed"]


def test_a_handled_exception_is_the_same_one_as_before() -> None:
    f, _ = armed_with("import sys\ndef f(a):\n    raise KeyError(a)", token, None, lambda of, error: (sys.exc_info()[1] is error,))
    try:
        raise ValueError
    except ValueError as error:
        found = f(1), sys.exc_info()[1] is error
    assert found == (True, True)


def entries(error: BaseException) -> List[Tuple[str, Optional[int], Optional[int]]]:
    """The traceback from the second entry on: names, lines, and the lines that the frames say of themselves."""
    found = []
    trace = error.__traceback__ and error.__traceback__.tb_next
    while trace is not None:
        found.append((trace.tb_frame.f_code.co_name, trace.tb_lineno, trace.tb_frame.f_lineno))
        trace = trace.tb_next
    return found


BODY = "\n# a comment\ndef f(a):\n    b = a\n    return 1 / b\n"


@pytest.mark.parametrize(
    ("answers", "argument", "context"),
    [((raises,), 1, None), ((token, raises), 1, None), ((token, None, raises), 0, ZeroDivisionError)],
    ids=["enter", "leave", "failed"],
)
def test_an_error_of_a_hook_comes_from_the_line_of_the_def(
    answers: Any, argument: int, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    f, _ = armed_with(BODY, *answers)
    # The agent's own modules are left out of tracebacks, and this is to count as one of them.
    monkeypatch.setitem(globals(), "__name__", "xpc_agent.tests")
    with pytest.raises(LookupError) as caught:
        f(argument)
    assert entries(caught.value) == [("f", 3, 3)]
    assert (caught.value.__context__ and type(caught.value.__context__)) == context


def test_an_error_of_the_body_has_the_lines_of_the_body() -> None:
    f, _ = armed_with(BODY, token)
    with pytest.raises(ZeroDivisionError) as caught:
        f(0)
    assert entries(caught.value) == [("f", 5, 5)]


def test_what_a_hook_raises_keeps_its_own_context() -> None:
    own = LookupError("of a hook")
    own.__context__ = OSError("before")

    def fails(*_: Any) -> Any:
        raise own

    f, _ = armed_with(BODY, fails)
    with pytest.raises(LookupError) as caught:
        f(1)
    assert caught.value is own
    assert repr(own.__context__) == "OSError('before')"


def test_raised_gets_the_token_of_what_had_begun() -> None:
    made: Dict[str, Any] = {}
    exec(BODY, made)
    code = made["f"].__code__
    told: List[Any] = []

    def raised(token: Any, error: BaseException) -> None:
        told.append((token, type(error)))

    for enter, leave, failed, argument in ((raises, None, None, 1), (token, raises, None, 1), (token, None, raises, 0)):
        made["f"].__code__ = inserted(code, enter, leave or nothing, failed or nothing, raised)
        with pytest.raises(LookupError):
            made["f"](argument)
    assert told == [(None, LookupError), ("token", LookupError), ("token", LookupError)]


def test_a_stop_iteration_of_a_hook_does_not_end_a_generator_silently() -> None:
    def stops(*_: Any) -> Any:
        raise StopIteration("of a hook")

    for answers, argument in (((stops,), 1), ((token, stops), 1), ((token, None, stops), 0)):
        f, _ = armed_with("def f(a):\n    yield 1 / a", *answers)
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            list(f(argument))


# frames that run, arming and disarming --------------------------------------------------------------------------------------------------


def test_two_layers_are_entered_from_the_outside_in_and_left_from_the_inside_out() -> None:
    f, _ = armed_with("def f(a): return [a]", lambda a: (([*a, "inner"],), "in"), lambda of, value: [*value, "inner left"])
    outer = Hooks(lambda a: (([*a, "outer"],), "out"), lambda of, value: [*value, "outer left"])
    outer.arm(f)
    assert f([]) == [["outer", "inner"], "inner left", "outer left"]


def test_a_suspended_generator_ends_with_the_hooks_that_it_began_with() -> None:
    def other(a: Any) -> Any:
        yield "other"

    f, hooks = armed_with("def f(a):\n    yield a\n    yield a\n    return 3", token)
    begun = f(1)
    next(begun)
    f.__code__ = other.__code__
    assert stepped(begun) == [1, ("returned", 3)]
    assert hooks.names() == ["enter", "leave"]


def test_a_suspended_generator_that_is_dropped_tells_its_hooks() -> None:
    f, hooks = armed_with("def f(a):\n    yield a\n    yield a", token)
    begun = f(1)
    next(begun)
    del begun
    gc.collect()
    assert hooks.names() == ["enter", "failed"]


def test_a_suspended_generator_without_a_token_is_dropped_silently() -> None:
    f, hooks = armed_with("def f(a):\n    yield a\n    yield a", nothing)
    begun = f(1)
    next(begun)
    del begun
    gc.collect()
    assert hooks.names() == ["enter"]


def test_three_hundred_parameters_and_the_longest_jumps() -> None:
    names = ", ".join(f"a{number}" for number in range(300))
    f, _ = armed_with(f"def f({names}): return (lambda: a0 + a299)() + a5", lambda *values: (values, "token"))
    assert f(*range(300)) == 304


def test_raising_a_thousand_times_leaves_nothing_behind() -> None:
    f, hooks = armed_with(BODY, token)
    hooks.arm(f)

    def many(count: int) -> int:
        for _ in range(count):
            try:
                f(0)
            except ZeroDivisionError:
                pass
        hooks.calls.clear()
        gc.collect()
        return len(gc.get_objects())

    many(10)
    assert many(1000) - many(10) < 20


def test_references_to_what_crosses_are_given_back() -> None:
    f, hooks = armed_with("def f(a): return a", the_same)
    thing = object()
    for _ in range(3):
        f(thing)
    hooks.calls.clear()
    before = sys.getrefcount(thing), sys.getrefcount("token")
    for _ in range(100):
        f(thing)
    hooks.calls.clear()
    assert (sys.getrefcount(thing), sys.getrefcount("token")) == before


# tracers --------------------------------------------------------------------------------------------------------------------------------


def traced(call: Callable[[], Any], code_name: str) -> List[Tuple[str, Optional[int]]]:
    """The events that a tracer sees of a function."""
    events: List[Tuple[str, Optional[int]]] = []

    def trace(frame: types.FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_name != code_name or frame.f_code.co_filename != "<text>":
            return None
        events.append((event, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except ArithmeticError:
        pass
    finally:
        sys.settrace(before)
    return events


@pytest.mark.parametrize("argument", [1, 0])
@pytest.mark.parametrize("on_enter", [nothing, token, the_same])
def test_a_tracer_sees_the_lines_that_it_sees_without_hooks(on_enter: Enter, argument: int) -> None:
    source = "def f(a):\n    b = a\n    for i in range(2):\n        b += i * 0\n    return 1 / b\n"
    armed, _ = armed_with(source, on_enter)
    made: Dict[str, Any] = {}
    exec(compile(source, "<text>", "exec"), made)
    found = traced(lambda: armed(argument), "f")
    assert found == traced(lambda: made["f"](argument), "f")


@pytest.mark.parametrize("source", ["def f(a): return a", "def f(a):\n    yield a\n    return 2", "async def f(a):\n    return a"])
def test_the_first_line_of_what_has_one_line_is_seen_once(source: str) -> None:
    made: Dict[str, Any] = {}
    exec(compile(source, "<text>", "exec"), made)
    f, _ = armed_with(source, token)

    def run(one: Any) -> Any:
        value = one(1)
        return value if value == 1 else stepped(value)

    assert traced(lambda: run(f), "f") == traced(lambda: run(made["f"]), "f")


# what is not gone into ------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 15), reason="before, a generator expression is like any generator")
def test_what_does_something_before_it_is_a_generator_is_refused() -> None:
    code = next(one for one in compile("(x for x in y)", "<text>", "eval").co_consts if isinstance(one, types.CodeType))
    with pytest.raises(RefusedError, match="before it becomes a generator"):
        inserted(code, nothing)


def test_code_that_begins_otherwise_is_refused() -> None:
    code = compile("def f(): pass", "<text>", "exec").co_consts[0]
    assert isinstance(code, types.CodeType)
    with pytest.raises(RefusedError, match="begin"):
        inserted(code.replace(co_code=code.co_code[2:]), nothing)
