"""Probes on lines: where they fire, what they show, what is refused, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.programs import PATIENCE, Program
from xpc_instrument import LineEvent, Session, TargetError

pytestmark = pytest.mark.version

LINED = Path(__file__).with_name("lined.py")
SOURCE = LINED.read_text().splitlines()
RUNNING_FRAMES = sys.version_info >= (3, 12)

CONFIG = 'on-demand = ["lined"]\n[[probe]]\ntarget = "shop:*"\nallow = ["instead"]\n'


def line(comment: str) -> int:
    return next(number for number, text in enumerate(SOURCE, 1) if text.endswith(f"# {comment}"))


def at(comment: str) -> str:
    return f"lined.py:{line(comment)}"


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    app = begin_app(CONFIG)
    folder = Path(app.evaluate("__import__('os').getcwd()").strip().strip("'"))
    (folder / "lined.py").write_text(LINED.read_text())
    app.evaluate("globals().update(lined=__import__('lined'))")
    return app


def told(session: Session, app: App, comment: str, expression: str, template: str = "", **options: Any) -> List[LineEvent]:
    """The events of one line while an expression is evaluated."""
    with session.log(at(comment), template, rate=None, **options) as log:
        app.evaluate(expression)
    found = []
    event = log.take(0.0)
    while event is not None:
        found.append(event)
        event = log.take(0.0)
    assert log.dropped == 0
    return found


CALLS: Dict[str, Dict[str, int]] = {
    "lined.releases([5])": {"returns": 1, "release": 1, "asks": 1, "nested": 1, "returns instead": 1, "releases again": 1},
    "lined.total([60, 20, 30])": {
        "begin": 1,
        "for": 1,
        "if": 3,
        "raise": 0,
        "add": 3,
        "while": 3,
        "less": 2,
        "with": 1,
        "in with": 1,
        "try": 1,
        "except": 0,
        "finally": 1,
        "comprehension": 1,
        "return": 1,
    },
    "lined.total([1], 0)": {"except": 1, "handler": 1, "finally": 1, "with": 1},
    "lined.total([-1])": {"raise": 1, "with": 0},
    "[lined.make(2)[0](3), lined.ready(1)]": {"inner": 2},
    "[lined.make(2)[1](3), lined.plus(1)]": {"lambda": 1},
    "lined.body('ab')": {"class": 1, "class again": 1},
    "list(lined.count(3))": {"yield": 3, "resumed": 3},
    "__import__('asyncio').run(lined.acount(3))": {"async for": 1, "async add": 3, "async return": 1},
    "lined.decorated(1)": {"wrapper": 1, "decorated": 1},
    "lined.Till('card').take(3)": {"take": 1},
    "lined.Till('card').label": {"one line": 1},
    "lined.registry['handler']('a')": {"only in a dict": 0},
}


def test_a_probe_fires_each_time_that_a_statement_of_the_line_begins(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        plain = {expression: app.evaluate(expression) for expression in CALLS}
        for expression, lines in CALLS.items():
            for comment, times in lines.items():
                if comment == "only in a dict":
                    continue
                with session.log(at(comment), rate=None) as log:
                    again = app.evaluate(expression)
                events = list(iter(lambda log=log: log.take(0.0), None))
                assert len(events) == times, (comment, expression)
                if "0x" not in again and "class" not in again:
                    assert again == plain[expression]


def test_every_code_object_is_the_same_afterwards(app: App) -> None:
    app.evaluate("globals().update(codes=lambda: {n: f.__code__ for n, f in vars(lined).items() if hasattr(f, '__code__')})")
    app.evaluate("globals().update(before=codes())")
    with xpc_instrument.connect("shop") as session:
        for comment in ("begin", "add", "inner", "wrapper", "class"):
            told(session, app, comment, "[lined.total([1]), lined.make(1)[0](1), lined.decorated(1), lined.body('a')]")
        assert app.evaluate("all(code is before[name] for name, code in codes().items())") == "True"
        assert app.evaluate("lined.make(1)[0].__code__ is lined.ready.__code__") == "True"


def test_what_is_shown_is_what_the_variables_are_then(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        add = told(
            session,
            app,
            "add",
            "lined.total([60, 20])",
            "{item:>4} of {len(items)}: {result!r} {target}",
        )
        assert [one.text for one in add] == [f"  60 of 2: 0 {at('add')}", f"  20 of 2: 120 {at('add')}"]
        assert add[0].line == line("add")
        assert add[0].file.endswith("lined.py")
        (one,) = told(session, app, "add", "lined.total([60, 20])", "{item}", when="item < 50")
        assert one.text == "20"
        (one,) = told(session, app, "inner", "lined.ready(3)", "{number} {factor}")
        assert one.text == "3 10"
        (one,) = told(session, app, "class again", "lined.body('abc')", "{size}")
        assert one.text == "3"
        (one,) = told(session, app, "take", "lined.Till('card').take(3)", locals=True, stack=2)
        assert set(one.locals) == {"self", "amount", "password"}
        assert one.locals["amount"] == 3
        assert "secret" not in repr(one.locals["password"])
        assert one.stack
        assert not told(session, app, "maybe", "lined.maybe(False)", when="value > 0")
        (one,) = told(session, app, "maybe", "lined.maybe(False)", "{flag} {value}")
        assert one.text.startswith("False <NameError: value has no value here")
        (one,) = told(session, app, "maybe", "lined.maybe(True)", "{value}", when="value == 1")
        assert one.text == "1"


def test_lines_that_cannot_be_are_refused_with_what_there_is(app: App, tmp_path: Path) -> None:
    other = tmp_path / "no-package" / "lined.py"
    other.parent.mkdir()
    other.touch()
    second = line("comprehension") + 1
    refusals = {
        f"lined.py:{second}": f"no statement begins on line {second} of lined.py; the nearest with one: {second - 1} and",
        "lined.py:1": "the nearest with one:",
        "lined.py:9999": "no statement begins on line 9999",
        "line.py:3": "no module that is imported is of a file whose path ends so; the nearest are lined.py",
        "shop.py:10": "where the config does not allow to look, only instead",
        "lined.py:0": "lines count from 1",
        "lined.txt:5": "expected a file and a line",
        "../lined.py:3": "the application has another working directory",
        f"{other}:3": "no module that is imported is of a file whose path ends so",
    }
    with xpc_instrument.connect("shop") as session:
        for target, words in refusals.items():
            with pytest.raises(TargetError) as caught:
                session.log(target, "{1}")
            assert words in str(caught.value)
        with pytest.raises(TargetError, match="that is code of the module itself or of a class"):
            session.log(f"lined.py:{next(n for n, text in enumerate(SOURCE, 1) if text.startswith('class Till'))}")
        with pytest.raises(TargetError, match="'itme' is not known here"):
            session.log(at("add"), "{itme}")
        with pytest.raises(TargetError, match="is a line, which only `log` and `watch` look at"):
            session.before(at("add"), print)
        assert not [probe for probe in session.stats() if ".py:" in probe.target]


def test_hooks_and_lines_are_on_one_function_in_either_order(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        for order in (0, 1):
            seen: List[Any] = []
            register = [
                lambda: session.log(at("decorated"), "{number}", rate=None),
                lambda seen=seen: session.after("lined:decorated", lambda call: seen.append(call.result)),
                lambda: session.log(at("wrapper"), "{args[0]}", rate=None),
                lambda: session.around("lined:Till.take", lambda call: call.proceed() * 2),
                lambda: session.log(at("take"), "{amount}", rate=None),
            ]
            made = [one() for one in (reversed(register) if order else register)]
            assert app.evaluate("(lined.decorated(4), lined.Till(1).take(5))") == "(5, 8)"
            for one in made:
                one.remove()
            logs = [one for one in made if isinstance(one, xpc_instrument.Log)]
            texts = sorted(event.text for log in logs for event in iter(lambda log=log: log.take(0.0), None))
            assert (texts, seen) == (["4", "4", "5"], [5])
            assert app.evaluate("(lined.decorated(4), lined.Till(1).take(5))") == "(5, 4)"


def test_what_runs_already_is_seen_where_python_can_tell(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        app.evaluate("globals().update(running=lined.count(2))")
        app.evaluate("next(running)")
        events = told(session, app, "resumed", "list(running)")
        assert len(events) == (2 if RUNNING_FRAMES else 0)


def test_lines_of_one_function_come_and_go_by_themselves(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        first = session.log(at("begin"), rate=None)
        app.evaluate("lined.total([1])")
        second = session.log(at("add"), "{item}", rate=None, limit=2)
        third = session.log(at("add"), "{rate}", rate=None)
        app.evaluate("lined.total([1, 2, 3])")
        first.remove()
        app.evaluate("lined.total([7])")
        third.remove()
        second.remove()
        counts = [len(list(iter(lambda log=log: log.take(0.0), None))) for log in (first, second, third)]
        assert counts == [2, 2, 4]


def test_a_log_is_iterated_as_a_watch_is(app: App) -> None:
    async def several() -> List[str]:
        with session.log(at("add"), "{item}", limit=2) as log:
            app.start("lined.total([1, 2])")
            return [event.text async for event in log]

    with xpc_instrument.connect("shop") as session:
        assert asyncio.run(several()) == ["1", "2"]
        app.result()
        with session.log("lined:decorated", "{args[0]} -> {result}") as log:
            app.evaluate("lined.decorated(2)")
            event = next(log)
        assert (event.text, event.file.endswith("lined.py"), event.target) == ("2 -> 3", True, "lined:decorated")


def test_all_ends_with_the_session_and_with_the_agent(app: App) -> None:
    app.evaluate("globals().update(before=lined.total.__code__)")
    session = xpc_instrument.connect("shop")
    log = session.log(at("add"), "{item}", rate=None)
    app.evaluate("lined.total([1])")
    session.close()
    assert [event.text for event in iter(lambda: log.take(0.0), None)] == ["1"]
    assert app.evaluate("(lined.total.__code__ is before, lined.total([1])[0])") == "(True, 2)"
    with xpc_instrument.connect("shop") as session:
        session.log(at("add"), "{item}")
        session.log(at("inner"), "{number}")
        app.evaluate("__import__('xpc_agent').stop()")
        assert app.evaluate("(lined.total.__code__ is before, lined.total([1])[0])") == "(True, 2)"
        assert app.evaluate(
            "getattr(__import__('sys'), 'monitoring', None) and [__import__('sys').monitoring.get_tool(n) for n in (3, 4, 5)]"
        ) in (
            "None",
            "[None, None, None]",
        )


@pytest.mark.parametrize(
    "options",
    [
        {"locals": True},
        {"when": "flag and late == 1"},
        {"when": "not flag and late == 1"},
        {"when": "late == 2"},
        {"template": "{late}"},
        {"when": "mine == 3", "template": "{flag}"},
    ],
)
def test_an_object_that_the_function_deletes_is_gone(app: App, options: Dict[str, Any]) -> None:
    made = "[type('Big', (), {})()]"
    with xpc_instrument.connect("shop") as session, session.log(at("holds"), rate=None, **options):
        for flag in (True, False):
            assert app.evaluate(f"lined.forgets({flag}, {made})") == "True"


def test_a_line_that_is_too_hot_is_looked_at_no_more_also_where_nothing_of_it_is_told(app: App) -> None:
    with xpc_instrument.connect("shop") as session, session.log(at("inner"), "{number}", rate=1) as log:
        deadline = time.monotonic() + PATIENCE
        while not log.handle.over_budget and time.monotonic() < deadline:
            app.evaluate("[lined.ready(n) for n in range(100000)] and None")
        assert list(log.handle.over_budget) == [app.program.pid]


def test_a_forked_child_tells_of_its_lines_and_is_left_as_it_was(run_program: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "lined.py").write_text(LINED.read_text())
    app = start_app(run_program, tmp_path, CONFIG)
    app.evaluate("globals().update(lined=__import__('lined'))")
    with xpc_instrument.connect("shop") as session, session.log(at("take"), "{amount} {pid}", rate=None) as log:
        fork = (
            "[os.waitpid(pid, 0) if pid else (lined.Till('c').take(7), __import__('xpc_agent').stop(), os._exit(0)) for pid in [os.fork()]]"
        )
        app.evaluate(f"({fork}, lined.Till('c').take(8)) and None".replace("os.", "__import__('os')."))
        events = sorted((event.text, event.pid) for event in (next(log), next(log)))
        # In the child it is the child's.
        assert events == [(f"{amount} {pid}", pid) for amount, (_, pid) in zip((7, 8), events)]
        assert events[1][1] == app.program.pid != events[0][1]


@pytest.mark.parametrize("path", ["lined.py", "{folder}/../{name}/lined.py"])
def test_a_line_of_a_module_that_comes_later_is_waited_for(app: App, path: str) -> None:
    folder = Path(app.evaluate("__import__('os').getcwd()").strip().strip("'"))
    target = f"{path.format(folder=folder, name=folder.name)}:{line('take')}"
    app.evaluate("(__import__('sys').modules.pop('lined'), globals().pop('lined')) and None")
    with xpc_instrument.connect("shop") as session, session.log(target, "{amount}") as log:
        app.evaluate("globals().update(lined=__import__('lined'))")
        app.evaluate("lined.Till('c').take(4)")
        event = log.take(20)
        assert event is not None
        assert event.text == "4"
        (probe,) = [probe for probe in session.stats() if probe.target == target]
        assert probe.state == "armed"
        # It is found by that name when it is there, too.
        with session.log(target, "{amount}") as again:
            app.evaluate("lined.Till('c').take(5)")
            assert next(again).text == "5"
