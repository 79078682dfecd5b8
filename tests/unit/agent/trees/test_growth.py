"""A tree grows as it is told, with a clock that goes by one with each look."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from xpc_agent.trees import growth as growing
from xpc_agent.trees.growth import Growth, Node, error_name, rows_of


def code_of(name: str, steps: str = "pass") -> CodeType:
    made: Any = {}
    exec(f"def {name}(frame=None):\n    {steps}", made)
    code: CodeType = made[name].__code__
    return code


ROOT, CHILD, OTHER, GENERATOR, COROUTINE = (
    code_of("root"),
    code_of("child"),
    code_of("other"),
    code_of("generator", "yield"),
    code_of("wait", "pass").replace(co_flags=0x80 | code_of("wait").co_flags),
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def growth(clock: Clock) -> Growth:
    growth = Growth(ROOT, clock=clock)
    growth.begin(False)
    return growth


def at(code: CodeType, clock: Clock, seconds: float, do: Callable[..., None], *args: Any) -> None:
    clock.now += seconds
    do(code, *args)


def rows(growth: Growth, least: float = 0.0) -> List[Tuple[Any, ...]]:
    names, found = rows_of(growth.root, lambda code: code.co_name, least)
    return [(row[0], names[row[1]][0], row[2], row[3], row[4], row[5], row[6], row[7]) for row in found]


def test_what_repeats_is_one_node_with_extremes_and_own_times(growth: Growth, clock: Clock) -> None:
    for seconds in (1, 3):
        at(CHILD, clock, 1, growth.enter, None)
        at(OTHER, clock, 0, growth.enter, None)
        at(OTHER, clock, 0.5, growth.leave)
        at(CHILD, clock, seconds, growth.leave, "ValueError" if seconds == 3 else "")
    clock.now += 2
    growth.finish("")
    # depth, name, count, duration, own, min, max, errors
    assert rows(growth) == [
        (0, "root", 1, 9.0, 4.0, 9.0, 9.0, 0),
        (1, "child", 2, 5.0, 4.0, 1.5, 3.5, 1),
        (2, "other", 2, 1.0, 1.0, 0.5, 0.5, 0),
    ]
    assert [row[1] for row in rows(growth, 2.0)] == ["root", "child"]


def test_a_generator_takes_as_long_as_it_runs_and_a_coroutine_as_long_as_it_takes(growth: Growth, clock: Clock) -> None:
    for code in (GENERATOR, COROUTINE):
        at(code, clock, 0, growth.enter, None)
        at(code, clock, 1, growth.pause, 17)
        clock.now += 10
        at(code, clock, 0, growth.resume, 17, None)
        at(code, clock, 1, growth.leave)
    growth.finish("")
    assert [(row[1], row[2], row[3]) for row in rows(growth)] == [("root", 1, 24.0), ("generator", 1, 2.0), ("wait", 1, 12.0)]


def test_an_asynchronous_generator_takes_what_it_waits_and_not_what_is_done_with_what_it_gives(growth: Growth, clock: Clock) -> None:
    stream = GENERATOR.replace(co_flags=0x200 | ROOT.co_flags)
    at(stream, clock, 0, growth.enter, None)
    at(COROUTINE, clock, 1, growth.enter, None)
    at(COROUTINE, clock, 0, growth.pause, 18)
    growth.pause(stream, 17, True)
    clock.now += 10
    growth.resume(stream, 17, None)
    at(COROUTINE, clock, 0, growth.resume, 18, None)
    at(COROUTINE, clock, 0, growth.leave)
    at(stream, clock, 1, growth.pause, 17)
    clock.now += 100
    growth.resume(stream, 17, None)
    growth.pause(stream, 17, True)
    clock.now += 1000
    growth.finish("")
    assert [row[1:5] for row in rows(growth)] == [("root", 1, 1112.0, 100.0), ("generator", 1, 1012.0, 1002.0), ("wait", 1, 10.0, 10.0)]


def test_what_runs_while_the_invocation_waits_is_not_in_its_tree(clock: Clock) -> None:
    growth = Growth(COROUTINE, clock=clock)
    growth.begin(False)
    growth.pause(COROUTINE, 1)
    assert growth.stack == []
    growth.resume(CHILD, 2, None)  # of another task
    growth.leave(CHILD)
    growth.resume(COROUTINE, 3, None)  # another one of the same function
    assert growth.stack == []
    clock.now = 5
    growth.resume(COROUTINE, 1, None)
    at(CHILD, clock, 0, growth.enter, None)
    at(CHILD, clock, 1, growth.leave)
    growth.finish("")
    assert [(row[1], row[3], row[4]) for row in rows(growth)] == [("wait", 6.0, 5.0), ("child", 1.0, 1.0)]


def test_what_is_thrown_comes_to_the_innermost_first(clock: Clock) -> None:
    growth = Growth(COROUTINE, clock=clock)
    growth.begin(False)
    inner = COROUTINE.replace(co_name="inner")
    growth.enter(inner, None)
    growth.pause(inner, 2)
    growth.pause(COROUTINE, 1)
    clock.now = 3
    growth.resume(inner, 2, None)
    growth.leave(inner, "CancelledError")
    growth.resume(COROUTINE, 1, None)
    growth.finish("CancelledError")
    assert [(row[1], row[3], row[7]) for row in rows(growth)] == [("wait", 3.0, 1), ("inner", 3.0, 1)]


def test_one_that_is_called_begins_with_its_own_code(clock: Clock) -> None:
    growth = Growth(ROOT, clock=clock)
    growth.begin(True)
    assert growth.stack == []
    growth.resume(CHILD, 1, None)
    assert growth.stack == []
    growth.resume(ROOT, 2, None)
    at(CHILD, clock, 0, growth.enter, None)
    at(CHILD, clock, 1, growth.leave)
    at(ROOT, clock, 1, growth.leave)
    clock.now += 7
    growth.finish("")
    assert [(row[1], row[2], row[3]) for row in rows(growth)] == [("root", 1, 2.0), ("child", 1, 1.0)]


def test_functions_that_were_left_unseen_have_ended(growth: Growth, clock: Clock) -> None:
    at(CHILD, clock, 0, growth.enter, None)
    at(OTHER, clock, 1, growth.enter, None)
    at(GENERATOR, clock, 1, growth.leave)  # which never was entered
    assert len(growth.stack) == 3
    at(CHILD, clock, 1, growth.leave)
    growth.leave(CHILD)
    growth.finish("")
    assert [(row[1], row[3]) for row in rows(growth)] == [("root", 3.0), ("child", 3.0), ("other", 2.0)]


def test_what_is_open_at_the_end_has_ended_then(growth: Growth, clock: Clock) -> None:
    at(GENERATOR, clock, 0, growth.enter, None)
    at(GENERATOR, clock, 1, growth.pause, 5)
    at(CHILD, clock, 0, growth.enter, None)
    clock.now = 4
    growth.close()
    clock.now = 100
    growth.finish("")
    assert [(row[1], row[3]) for row in rows(growth)] == [("root", 4.0), ("generator", 1.0), ("child", 3.0)]


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(growing, "MOST_NODES", 3)
    growth = Growth(ROOT, clock=clock)
    growth.begin(False)
    for number in range(5):
        code = code_of(f"f{number}")
        at(code, clock, 0, growth.enter, None)
        at(code, clock, 1, growth.leave)
    growth.finish("")
    assert (growth.cut, growth.nodes, growth.calls) == ("nodes", 3, 5)
    assert [(row[1], row[4]) for row in rows(growth)] == [("root", 3.0), ("f0", 1.0), ("f1", 1.0)]
    shallow = Growth(ROOT, 1, clock)
    shallow.begin(False)
    for code in (CHILD, OTHER):
        shallow.enter(code, None)
    for code in (OTHER, CHILD):
        at(code, clock, 1, shallow.leave)
    shallow.finish("")
    assert [(row[1], row[4]) for row in rows(shallow)] == [("root", 0.0), ("child", 2.0)]
    assert shallow.cut == ""


def test_places_are_lines_and_two_of_one_line_are_one_row(clock: Clock) -> None:
    growth: Growth

    def callee(frame: FrameType) -> None:
        growth.enter(callee.__code__, frame)
        growth.leave(callee.__code__)

    def caller() -> None:
        frame = sys._getframe()
        callee(frame), callee(frame)
        callee(frame)

    growth = Growth(caller.__code__, clock=clock)
    growth.begin(False)
    caller()
    growth.finish("")
    _, found = rows_of(growth.root, lambda code: code.co_name)
    first = caller.__code__.co_firstlineno
    assert [(row[2], row[9] - first) for row in found[1:]] == [(2, 2), (1, 3)]


def test_the_type_of_what_was_raised() -> None:
    class Own(Exception):
        pass

    assert error_name(ValueError()) == "ValueError"
    assert error_name(Own()).endswith("Own")
    assert error_name(None) == error_name(GeneratorExit()) == ""


def test_an_empty_node_has_no_extremes() -> None:
    node = Node(ROOT, 0)
    node.add(2.0, "")
    node.add(1.0, "")
    assert (node.least, node.most, node.total, node.count) == (1.0, 2.0, 3.0, 2)


def lines(code: CodeType) -> Iterator[Tuple[int, int]]:
    return growing._lines_of(code)


def test_each_instruction_has_the_line_that_the_interpreter_gives_it() -> None:
    def many() -> FrameType:
        text = (
            "a"  #
            "b"
        )
        for _ in text:
            frame = sys._getframe()

        return frame

    frame = many()
    assert dict(lines(frame.f_code))[frame.f_lasti] == frame.f_lineno
