"""Faults that live in the application: each action on each kind of function, what is counted, how they end, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.integration.hooks.test_unwaited import EIGHT_THREADS
from tests.programs import Program
from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.fault import FaultError


@pytest.fixture
def app(begin_app: Callable[..., App]) -> App:
    return begin_app('on-demand = ["shop.**", "time:sleep"]\n[[probe]]\ntarget = "shop:root"\nallow = ["before", "after"]\n')


ASYNC = "__import__('asyncio').run({})"


@pytest.mark.version
def test_a_value_and_an_exception_come_in_the_place_of_every_kind_of_function(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.inject("shop:charge", "return({'ok': [1, {2}]})"):
            assert app.evaluate("shop.charge(1)") == "{'ok': [1, {2}]}"
            # Each call gets one of its own.
            assert app.evaluate("[shop.charge(1)['ok'].append(3) for _ in range(2)] and shop.charge(1)") == "{'ok': [1, {2}]}"
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        with session.inject(["shop:Order.total", "shop:Order.twice", "shop:Order.made"], "raise(TimeoutError, 'slow')"):
            for call in ("shop.Order(1).total()", "shop.Order.twice(1)", "shop.Order.made(1)"):
                assert app.evaluate(call) == "raised TimeoutError: slow"
        with session.inject("shop:wait_a_little", "2*return(7) -> raise(KeyError, 'x')"):
            assert [app.evaluate(ASYNC.format("shop.wait_a_little(1)")) for _ in range(3)] == ["7", "7", "raised KeyError: 'x'"]
        with session.inject("shop:count", "1*return([5, 6]) -> raise(OSError, 2, 'gone')"):
            assert app.evaluate("list(shop.count(3))") == "[5, 6]"
            assert app.evaluate("list(shop.count(3))") == "raised FileNotFoundError: [Errno 2] gone"
        assert app.evaluate("list(shop.count(2))") == "[0, 1]"


@pytest.mark.version
def test_a_sleep_goes_on_to_the_original_and_blocks_no_loop(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        with session.inject("shop:charge", "sleep(30ms..40ms)") as faults:
            assert app.evaluate("shop.charge(1)") == "'1 EUR'"
            assert app.evaluate("shop.charge(2)") == "'2 EUR'"
            (row,) = faults.rows()
            assert (row.term, row.count) == ("sleep(30ms..40ms)", 2)
            assert row.mean >= 0.03
        with session.inject("shop:wait_a_little", "sleep(normal, 300ms, 1ms)") as faults:
            began = time.monotonic()
            text = "async def many():\n    return await asyncio.gather(*[shop.wait_a_little(n) for n in range(20)])"
            app.evaluate(f"exec({text!r}, dict(asyncio=__import__('asyncio'), shop=shop), shop.__dict__)")
            assert app.evaluate("len(__import__('asyncio').run(shop.many()))") == "20"
            # One after the other they would take six seconds.
            assert time.monotonic() - began < 5
            assert faults.applied == 20


HANGS = """
import threading
outcomes = []
def call():
    outcomes.append(charge(1))
def wait():
    async def many():
        import asyncio
        outcomes.extend(await asyncio.gather(wait_a_little(1), wait_a_little(2)))
    import asyncio
    asyncio.run(many())
threads = [threading.Thread(target=one) for one in (call, call, wait)]
for one in threads:
    one.start()
"""


def test_what_hangs_goes_on_when_it_is_removed(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        faults = session.inject(["shop:charge", "shop:wait_a_little"], "hang")
        app.evaluate(f"exec({HANGS!r}, shop.__dict__)")
        assert app.evaluate("[one.is_alive() for one in shop.threads]") == "[True, True, True]"
        faults.remove()
        assert app.evaluate("[one.join() for one in shop.threads] and sorted(map(str, shop.outcomes))") == "['1 EUR', '1 EUR', '2', '3']"
        assert app.evaluate("shop.charge(2)") == "'2 EUR'"


def test_what_hangs_goes_on_when_its_time_is_over(app: App) -> None:
    with xpc_instrument.connect("shop") as session, session.inject("shop:charge", "hang", expires=0.2):
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"


def test_a_value_that_is_always_returned_is_counted_exactly_and_ends_with_its_time(app: App) -> None:
    returned = "next(n for n in __import__('itertools').count() if shop.charge(1) != 7)"
    with xpc_instrument.connect("shop") as session:
        with session.inject("shop:charge", "return(7)", expires=None) as faults:
            app.evaluate(EIGHT_THREADS.format(500))
        assert faults.applied == faults.calls == 4000
        # Nothing is told of each call, and so it is a timer that ends it.
        for target in ("shop:charge", "shop:charg*"):
            with session.inject(target, "return(7)", expires=0.3) as faults:
                assert int(app.evaluate(returned)) == faults.applied > 0
                assert app.evaluate("shop.charge(1)") == "'1 EUR'"


def test_terms_are_done_with_their_probability_and_counted_exactly(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        faults = session.inject("shop:charge", "25%return(None) -> 100*off -> 50*return(0)")
        app.evaluate(EIGHT_THREADS.format(500))
        faults.remove()
        first, off, last = faults.rows()
        assert 800 < first.count < 1200
        assert off.count == 100
        assert last.count == 50
        assert faults.calls == 4000
        assert faults.applied == first.count + 50


def test_the_options_of_a_registration_hold(app: App) -> None:
    with xpc_instrument.connect("shop") as session:
        faults = session.inject("shop:charge", "return(0)", limit=2)
        assert [app.evaluate("shop.charge(1)") for _ in range(3)] == ["0", "0", "'1 EUR'"]
        faults.remove()
        with session.inject(["shop:charge", "shop:wait_a_little"], "return(0)", when="args[0] > 1") as faults:
            assert [app.evaluate(f"shop.charge({n})") for n in (1, 2)] == ["'1 EUR'", "0"]
            assert [app.evaluate(ASYNC.format(f"shop.wait_a_little({n})")) for n in (1, 2)] == ["2", "0"]
            assert (faults.applied, faults.seen) == (2, 4)
        # Beside hooks of other kinds, in the order of registration.
        seen = []
        session.before("shop:charge", lambda call: seen.append(call.args))
        session.inject("shop:charge", "return(0)")
        session.after("shop:charge", lambda call: seen.append(call.result))
        assert app.evaluate("shop.charge(5)") == "0"
        assert seen == [(5, "EUR"), 0]
        session.around("shop:charge", lambda call: call.proceed() + 1)
        assert app.evaluate("shop.charge(5)") == "1"
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


@pytest.mark.parametrize(
    ("target", "terms", "error", "message"),
    [
        ("shop:charge", "raise(Timeout)", TargetError, r"raise\(Timeout\): expected a built-in exception.*there is none"),
        ("shop:charge", "raise(int)", TargetError, "it is no class derived from Exception"),
        ("shop:charge", "raise(SystemExit)", TargetError, "it is no class derived from Exception"),
        ("shop:charge", "raise(nowhere.at.all:Error)", TargetError, "the module nowhere.at.all is not imported in this process"),
        ("shop:charge", "raise(shop:Order)", TargetError, "it is no class derived from Exception"),
        ("shop:charge", "raise(shop:Nope)", TargetError, "expected in the module shop.*there is none of that name"),
        ("shop:root", "return(1)", TargetError, "instead"),
        ("time:sleep", "sleep(1s)", TargetError, "time.sleep is what it would sleep by"),
        ("shop:nothing", "return(1)", TargetError, "the module shop has no 'nothing'"),
        ("shop:charge", "return(1", FaultError, "expected"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(app: App, target: str, terms: str, error: Any, message: str) -> None:
    with xpc_instrument.connect("shop") as session:
        with pytest.raises(error, match=message):
            session.inject(target, terms)
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        assert session.handles == []


def test_no_mode_but_its_own_lets_it_in(app: App) -> None:
    from xpc_instrument.core.model.target import Mode
    from xpc_instrument.core.model.terms import Terms

    with xpc_instrument.connect("shop") as session:
        with pytest.raises(TargetError, match="'inject' in the mode 'after'"):
            session._add(Mode.AFTER, "shop:root", print, Terms(local={"kind": "inject", "terms": "return(1)"}), ())
        with pytest.raises(TargetError, match="'stack' in the mode 'instead'"):
            session._add(Mode.INSTEAD, "shop:charge", print, Terms(local={"kind": "stack", "depth": 1, "when": ""}), ())


@pytest.mark.version
def test_forked_children_have_the_fault_and_count_it(run_program: Callable[..., Program], tmp_path: Any) -> None:
    app = start_app(run_program, tmp_path, 'on-demand = ["shop:*"]\n')
    with xpc_instrument.connect("shop", all=True) as session:
        faults = session.inject("shop:charge", "return('faulty')")
        text = "import os\npid = os.fork()\nif not pid:\n    os._exit(shop.charge(1) != 'faulty')\nfound = os.waitpid(pid, 0)[1]"
        assert app.evaluate(f"exec({text!r}, shop.__dict__.setdefault('space', {{'shop': shop}})) or shop.space['found']") == "0"
        assert app.evaluate("shop.charge(1)") == "'faulty'"
        faults.remove()
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


# Children that call all the time, and write a byte for each fault that has happened to them.
CROWD = """
import os, time
book = os.open("book", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
crowd = []
for _ in range(3):
    pid = os.fork()
    while not pid:
        if shop.charge(1) == "faulty":
            os.write(book, b"x")
        time.sleep(0.0002)
    crowd.append(pid)
"""


def test_a_limit_is_of_all_processes_together_also_of_those_that_are_killed(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_app(run_program, tmp_path, 'on-demand = ["shop:*"]\n')

    with xpc_instrument.connect("shop", all=True) as session:
        assert app.evaluate(f"exec({CROWD!r}, globals())") == "None"
        while len(session.pids) < 4:
            pass
        for target in ("shop:charge", ["shop:charge", "shop:fail"]):
            with session.stat(target, limit=50) as table:
                while table.over != "limit":
                    table.pull()
            assert (table.calls, table.handle._apart) == (50, set())
        with session.inject("shop:charge", "50%return('faulty')", limit=50) as faults:
            while faults.over != "limit":
                faults.pull()
        assert (faults.applied, (tmp_path / "book").stat().st_size) == (50, 50)
        assert faults.seen > 50
        with session.inject("shop:charge", "return('faulty')", limit=50, rate=100) as faults:
            while faults.applied < 10:
                pass
            app.evaluate("os.kill(crowd[0], 9)")
            while faults.over != "limit":
                faults.pull()
        # One that is killed takes no more with it than what it was about to have.
        assert 49 <= (tmp_path / "book").stat().st_size - 50 <= 50
        app.evaluate("[os.kill(pid, 9) for pid in crowd[1:]] and [os.waitpid(pid, 0) for pid in crowd]")


@pytest.mark.parametrize("terms", ["raise(UnicodeDecodeError)", "10%raise(shop:Strict, 1)"])
def test_a_class_that_cannot_be_made_of_its_values_is_refused_when_it_is_certain_and_counted_else(app: App, terms: str) -> None:
    app.evaluate("exec('class Strict(Exception):\\n  def __init__(self): pass', shop.__dict__)")
    with xpc_instrument.connect("shop") as session:
        if "shop:" not in terms:
            with pytest.raises(TargetError, match="UnicodeDecodeError cannot be made of 0 values"):
                session.inject("shop:charge", terms)
            return
        # Its making is code of the application.
        with session.inject("shop:charge", terms.replace("10%", "")) as faults:
            assert app.evaluate("shop.charge(1)") == "'1 EUR'"
            assert (faults.applied, faults.seen, faults.unusable) == (0, 1, 1)
    app.program.find_line("cannot be raised: TypeError; the original runs")


@pytest.mark.parametrize("terms", ["hang", "sleep(1h)"])
def test_what_hangs_goes_on_when_the_script_is_killed(app: App, run_program: Callable[..., Program], terms: str) -> None:
    script = run_program(
        "import xpc_instrument\n"
        "session = xpc_instrument.connect('shop')\n"
        f"faults = session.inject(['shop:charge', 'shop:wait_a_little'], {terms!r}, expires=None)\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    script.read_until("ready")
    app.evaluate(f"exec({HANGS!r}, shop.__dict__)")
    assert app.evaluate("[one.is_alive() for one in shop.threads]") == "[True, True, True]"
    script.kill()
    assert app.evaluate("[one.join(30) for one in shop.threads] and sorted(map(str, shop.outcomes))") == "['1 EUR', '1 EUR', '2', '3']"
