"""What the agent loads late: no import while a lock of ours is held, and one copy of each module whatever becomes of `sys.modules`.

Both harm the application: a thread that imports waits for the table with the lock of its import, which is as good as any lock that a
replaced `__import__` takes; and a second copy of `Mode` made `before` hooks stand in for what they were to look at.
"""

from __future__ import annotations

import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable, Iterator, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.programs import Program
from xpc_instrument import TargetError

# Run before the agent is loaded. Locks that are used by `with` are known while they are held; no other lock of ours is held for longer than
# it takes to read or write.
LOOKING_ON = """
import builtins, gc, sys, threading
import xpc_instrument.core.unpatched as unpatched
assert "xpc_agent" not in sys.modules
here = threading.local()
imported = {}

class Known:
    def __init__(self, lock):
        self.lock = lock
    def __enter__(self):
        self.lock.__enter__()
        here.__dict__.setdefault("held", []).append(sys._getframe(1).f_code.co_name)
        if here.held[-1] == "change" and shop.when_changed is not None:
            shop.when_changed()
    def __exit__(self, *error):
        here.held.pop()
        self.lock.__exit__(*error)
    def __getattr__(self, name):
        return getattr(self.lock, name)

def known(make):
    return lambda: Known(make())

unpatched._rlock, unpatched.allocate_lock = known(unpatched._rlock), known(unpatched.allocate_lock)
real = builtins.__import__

def importing(name, *rest):
    if here.__dict__.get("held"):
        frame = sys._getframe(1)
        imported[name] = f"{frame.f_code.co_filename}:{frame.f_lineno} in {here.held}"
    return real(name, *rest)

builtins.__import__ = importing
shop.imported = imported
shop.when_changed = None
shop.collected = []

def collecting(phase, _, main=threading.get_ident()):
    # What is collected may wait for a lock, and whoever has that for an import.
    if phase == "start" and threading.get_ident() != main:
        frame = sys._getframe()
        while frame is not None and "importlib" not in frame.f_code.co_filename:
            frame = frame.f_back
        if frame is not None:
            shop.collected.append(str(frame))

gc.callbacks.append(collecting)
gc.set_threshold(30)
"""

# As an audit hook does that takes a lock.
WAITING = """
import threading
import xpc_agent.points.changing
shop.lock, shop.waits, main = threading.RLock(), threading.Event(), threading.get_ident()

def wait():
    if threading.get_ident() != main:
        shop.when_changed = None
        shop.waits.set()
        with shop.lock:
            pass

shop.wait = wait
xpc_agent.points.changing._PATIENCE = 0.05
"""
# As `mock.patch.dict(sys.modules)` does it: what is imported while it is in force is out of `sys.modules` afterwards.
PATCHED = "setattr(shop, 'modules', dict(sys.modules))"
RESTORED = "(sys.modules.clear(), sys.modules.update(shop.modules))"
EMPTIED = "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('xpc_')] and None"
# The copies of modules of ours that there are beside the first ones.
COPIES = """
import gc, types
ours = [one.__name__ for one in gc.get_objects() if type(one) is types.ModuleType and one.__name__.startswith("xpc_")]
shop.copies = sorted(name for name in set(ours) if ours.count(name) > 1)
"""
CALLS = (
    "[shop.charge(1), shop.Order(2).total(3), shop.Special(2).label, shop.root(4), list(shop.count(2)), asyncio.run(shop.wait_a_little(1))]"
)
RESULTS = "['1 EUR', 6, 'order 2', 2.0, [0, 1], 2]"
ALL = ["shop:charge", "shop:Order.total", "shop:Special.label", "shop:root", "shop:count", "shop:wait_a_little"]


def run(app: App, text: str) -> None:
    assert app.evaluate(f"exec({text!r}, {{'shop': shop, 'sys': sys}})") == "None"


def hooks(session: Any, calls: List[str]) -> Iterator[Tuple[str, Callable[[], Any]]]:
    """A hook of each kind, on a single target, on several, and on those of modules that are still to come."""

    def look(call: Any) -> None:
        calls.append(call.target)

    def go_on(call: Any) -> Any:
        calls.append(call.target)
        return call.proceed()

    late = "late*:charge"
    yield "before", lambda: session.before("shop:charge", look)
    yield "before all", lambda: session.before([*ALL, late], look)
    yield "around all", lambda: session.around(["shop:**", late], go_on)
    yield "after, on terms", lambda: session.after([*ALL[:2], late], look, limit=1000, rate=1000, sample=1.0, expires=60)
    yield "as passed", lambda: session.before(ALL[0], look, form="as passed")
    yield "a condition", lambda: session.before([ALL[0], late], look, when="amount >= 0 and matches('a', '[a-z]')")
    yield "unwaited", lambda: session.after([ALL[0], late], look, wait=False)
    yield "instead", lambda: session.instead([late], lambda amount: f"{amount} EUR")
    yield "watch", lambda: session.watch([ALL[0], late], show=["amount"], when="amount > 0", stack=2)
    yield "stat", lambda: session.stat(["shop:**", late], by=["thread"])
    yield "inject", lambda: session.inject([ALL[0], late], "return('1 EUR')")
    yield "record", lambda: session.record(ALL[0], inside=late)
    yield "trace", lambda: session.trace(ALL[1])
    yield "line", lambda: session.log("shop.py:39", "{amount}")
    yield "a line to come", lambda: session.log("late14.py:2", "{amount}")


@pytest.mark.version
def test_nothing_is_imported_with_a_lock_held_and_nothing_twice(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_app(run_program, tmp_path, 'on-demand = ["**"]\n')
    run(app, LOOKING_ON)
    app.evaluate(PATCHED)
    with xpc_instrument.connect("shop") as session:
        app.evaluate(RESTORED)
        assert app.evaluate("'xpc_agent' in sys.modules") == "False"
        # Nothing can be loaded: the script is told, and nothing else comes of it.
        app.evaluate("setattr(shop, 'finders', list(sys.meta_path)) or sys.meta_path.clear()")
        for ask in (lambda: session.before(ALL, print), lambda: session.stat("shop:charge"), session.stacks, session.targets):
            with pytest.raises(TargetError, match=f"cannot be loaded in pid {app.program.pid} any more .*start the application again"):
                ask()
        app.evaluate("sys.meta_path.extend(shop.finders)")
        calls: List[str] = []
        for number, (what, make) in enumerate(hooks(session, calls)):
            calls.clear()
            more = "".join(f", more{place}=0" for place in range(number))
            (tmp_path / f"late{number}.py").write_text(f"def charge(amount{more}):\n    return f'{{amount}} EUR'\n")
            hook = make()
            app.evaluate(EMPTIED)
            assert app.evaluate(CALLS) == RESULTS, what
            assert app.evaluate(f"__import__('late{number}').charge(1)") == "'1 EUR'", what
            getattr(hook, "remove", getattr(hook, "close", None))()
            if what in ("before", "as passed"):
                assert calls == ["shop:charge"], what
            if what in ("before all", "around all", "after, on terms", "a condition"):
                assert calls[0] == "shop:charge" and calls[-1] == f"late{number}:charge", what
        for name, message in (
            ("shop:chrage", "nearest"),
            ("shop:**.chrage", "no function of shop matches"),
            ("jsno:dumps", "nearest"),
            ("shop:Order.totl", "nearest"),
        ):
            with pytest.raises(TargetError, match=message):
                session.before(name, print)
        with pytest.raises(xpc_instrument.ExpressionError, match="amount"):
            session.before("shop:charge", print, when="amuont > 1")
        session.targets("shop:*"), session.stacks(), session.stats()
        run(app, WAITING)
        for name in ("at_once", "late_one"):
            (tmp_path / f"{name}.py").write_text("def charge(amount):\n    return f'{amount} EUR'\n")
        seen: SimpleQueue[str] = SimpleQueue()
        session.before(["at_once:charge", "late*:charge"], lambda call: seen.put(call.target))
        # While the table's lock is held by a thread that waits for the application's, which the main thread has.
        adding = threading.Thread(target=lambda: session.before("shop:charge", print, wait=False))
        app.evaluate("(shop.lock.acquire(), setattr(shop, 'when_changed', shop.wait))")
        adding.start()
        assert app.evaluate("shop.waits.wait(30)") == "True"
        run(app, "import at_once, late_one")
        app.evaluate("shop.lock.release()")
        adding.join(30)
        for name in ("at_once", "late_one"):
            while seen.empty():
                assert app.evaluate(f"__import__({name!r}).charge(1)") == "'1 EUR'"
            while not seen.empty():
                assert seen.get() == f"{name}:charge"
    assert app.evaluate("shop.imported") == "{}"
    assert app.evaluate("shop.collected") == "[]"
    assert app.evaluate("(__import__('gc').get_threshold()[0], __import__('gc').isenabled())") == "(30, True)"
    assert "failed" not in app.log()
    run(app, COPIES)
    assert app.evaluate("shop.copies") == "[]"
