"""What the agent does in a thread of the application is no call of the application's, wherever it leads, and needs nothing of its namespaces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, instrumented, listing, start_app, write_app
from tests.programs import Program
from xpc_instrument import TargetError

CONFIG = '[defaults]\ntimeout = 20\n[[probe]]\ntarget = "shop:*"\n[[probe]]\ntarget = "shop:Point.__new__"\n'
MODES = ["before", "after", "around", "instead"]


def hook_of(mode: str, seen: List[str]) -> Callable[..., Any]:
    """A hook that notes its calls."""

    def look(call: Any) -> Any:
        seen.append(call.target.partition(":")[2])
        return call.proceed() if mode == "around" else None

    return look


# without builtins -----------------------------------------------------------------------------------------------------------

BARE = """
from collections import namedtuple
shop.Point = namedtuple("Point", "x y")
space = {"__builtins__": {}, "__name__": "shop"}
exec('''
def rule(row): return row.price
async def wait(row): return row.price
def rules(row): yield row.price
async def waits(row): yield row.price
''', space)
for name in ("rule", "wait", "rules", "waits"):
    setattr(shop, name, space[name])
async def all_of(iterator): return [one async for one in iterator]
shop.all_of = all_of
class Row: price = 5
shop.Row = Row
"""


@pytest.mark.version
@pytest.mark.parametrize("mode", ["before", "after", "around"])
def test_a_function_without_builtins_works_as_ever(begin_app: Callable[..., App], mode: str) -> None:
    app = begin_app(CONFIG)
    app.evaluate(f"exec({BARE!r}, dict(shop=shop))")
    seen: List[str] = []
    with xpc_instrument.connect("shop") as session:
        for name in ("rule", "wait", "rules", "waits", "Point.__new__"):
            getattr(session, mode)(f"shop:{name}", hook_of(mode, seen))
        for row, result in (("shop.Row", "5"), ("3", "raised AttributeError: 'int' object has no attribute 'price'")):
            values = result if result.startswith("raised") else f"[{result}]"
            assert app.evaluate(f"shop.rule({row})") == result
            assert app.evaluate(f"asyncio.run(shop.wait({row}))") == result
            assert app.evaluate(f"list(shop.rules({row}))") == values
            assert app.evaluate(f"asyncio.run(shop.all_of(shop.waits({row})))") == values
        assert app.evaluate("shop.Point(1)").startswith("raised TypeError: ")
        assert app.evaluate("shop.Point(1, 2)") == "Point(x=1, y=2)"
        # A call that the function does not take does not come to its body, where the hooks are from Python 3.11 on.
    made = 1 if sys.version_info >= (3, 11) else 2
    assert seen == ["rule", "wait", "rules", "waits"] * 2 + ["Point.__new__"] * made


# an audit hook --------------------------------------------------------------------------------------------------------------

AUDIT = """
seen = []
def audit(event, args=()):
    seen.append(event)
    if event == "shop.refused":
        raise PermissionError("refused")
shop.audit, shop.seen = audit, seen
"""


@pytest.mark.version
def test_an_audit_hook_of_the_application_can_be_hooked(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_app(run_program, tmp_path, CONFIG)
    app.evaluate(f"exec({AUDIT!r}, dict(shop=shop, __name__='shop'))")
    app.evaluate("sys.addaudithook(shop.audit)")
    for mode in MODES:
        seen: List[str] = []

        def hook(*args: Any, mode: str = mode, seen: List[str] = seen) -> Any:
            event = args[0] if mode == "instead" else args[0].args[0]
            if event.startswith("shop."):
                seen.append(event)
            return args[0].proceed() if mode == "around" else None

        with xpc_instrument.connect("shop") as session:
            getattr(session, mode)("shop:audit", hook)
            assert app.evaluate("sys.audit('shop.asked', 1)") == "None"
            refused = "None" if mode == "instead" else "raised PermissionError: refused"
            assert app.evaluate("sys.audit('shop.refused', 1)") == refused
            assert app.evaluate("shop.audit('shop.direct')") == "None"
            assert app.evaluate("setattr(shop.audit, '__defaults__', ('new',)) or shop.audit('shop.default')") == "None"
        assert seen == ["shop.asked", "shop.refused", "shop.direct", "shop.default"], mode


@pytest.mark.version
def test_an_audit_hook_is_not_hooked_where_the_agent_reads_a_traceback(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_app(run_program, tmp_path, CONFIG)
    app.evaluate(f"exec({AUDIT!r}, dict(shop=shop, __name__='shop'))")
    app.evaluate("sys.addaudithook(shop.audit)")
    seen: List[str] = []

    def hook(call: Any) -> Any:
        event = call.arguments["event"]
        seen.append(event)
        if event == "shop.refused":
            raise KeyError("by decision")
        return call.proceed()

    with xpc_instrument.connect("shop") as session:
        session.around("shop:audit", hook, raises=KeyError)
        seen.clear()
        assert app.evaluate("[sys.audit('shop.asked'), shop.audit('shop.refused')]") == "raised KeyError: 'by decision'"
        upto = seen.index("shop.refused") + 1
    assert "object.__getattr__" not in seen[upto:]


# in the middle of our work --------------------------------------------------------------------------------------------------

CLOSING = """
import gc
def gen():
    try:
        yield 1
        yield 2
    finally:
        shop.helper()
def helper(): return 5
class Finalized:
    def __del__(self): shop.helper()
class Closing:
    def __init__(self, how):
        self.how, self.gen = how, shop.gen()
        next(self.gen)
    def __getstate__(self):
        if self.how == "close":
            self.gen.close()
        elif self.how == "collect":
            cycle = [shop.Finalized(), self.gen]
            cycle.append(cycle)
            del self.gen, cycle
            gc.collect()
        elif self.how == "exhaust":
            list(self.gen)
        else:
            try:
                self.gen.throw(ValueError)
            except ValueError:
                pass
        return {"n": shop.helper()}
def work(value): return 1
for one in (gen, helper, Finalized, Closing, work):
    setattr(shop, one.__name__, one)
"""


@pytest.mark.version
@pytest.mark.parametrize(("how", "wait"), [("close", True), ("collect", False), ("exhaust", True), ("throw", True), ("throw", False)])
def test_nothing_that_the_agents_own_work_leads_to_calls_a_hook(begin_app: Callable[..., App], how: str, wait: bool) -> None:
    app = begin_app(CONFIG)
    app.evaluate(f"exec({CLOSING!r}, dict(shop=shop, __name__='shop'))")
    seen: List[str] = []
    with xpc_instrument.connect("shop") as session:
        # A stand-in's arguments are pickled.
        session.instead("shop:work", lambda value: seen.append("work"))
        handles = [
            session.after("shop:gen", hook_of("after", seen), wait=wait),
            session.before("shop:helper", hook_of("before", seen), wait=wait),
        ]
        assert app.evaluate(f"shop.work(shop.Closing({how!r}))") == "None"
        assert app.evaluate(f"shop.work(shop.Closing({how!r}))") == "None"
        # The guard is off again.
        assert app.evaluate("shop.helper()") == "5"
        for handle in handles:
            handle.remove()
    assert seen == ["work", "work", "helper"]


# in a main program that runs ------------------------------------------------------------------------------------------------

RUNNING = """
import sys
import shop
print("running", flush=True)
sys.stdin.readline()
def handle(number): return number
class Order:
    def total(self): return 5
print("defined", flush=True)
sys.stdin.readline()
import colorsys
print(handle(1), Order().total(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(
    "config",
    ['[[probe]]\ntarget = "main:handle"\n', '[[probe]]\ntarget = "main:*"\n', 'on-demand = ["main.**"]\n'],
    ids=["named", "glob", "on demand"],
)
def test_what_a_running_main_program_has_not_defined_yet_is_pending(
    run_program: Callable[..., Program], tmp_path: Path, config: str
) -> None:
    path = write_app(tmp_path, config + '[[probe]]\ntarget = "main:Order.*"\n[[probe]]\ntarget = "shop:*"\n')
    (tmp_path / "main.py").write_text(RUNNING)
    program = run_program(command=instrumented(path, sys.executable, "main.py"), cwd=tmp_path)
    program.read_until("running")
    seen: List[str] = []
    with xpc_instrument.connect("shop", timeout=30) as session:
        for target in ("main:handle", "main:Order.total"):
            session.before(target, hook_of("before", seen))
        with pytest.raises(TargetError, match=r"has no 'hindle'|no probe point"):
            session.before("main:hindle", print)
        points = {one["target"]: one["state"] for one in as_json(listing("--json"))[0]["probes"]}
        assert points["main:handle"] == points["main:Order.total"] == "pending"
        program.send_line("go on")
        program.read_until("defined")
        # Who imports has the hooks armed before it goes on.
        program.send_line("go on")
        program.read_until("1 5")
        assert seen == ["handle", "Order.total"]
    program.send_line("go on")
    assert program.wait() == 0


# what a hook itself uses ------------------------------------------------------------------------------------------------------


@pytest.mark.version
def test_a_hook_may_be_on_what_looking_on_uses_itself(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_app(run_program, tmp_path, 'on-demand = ["builtins:*"]')
    targets = [f"builtins:{name}" for name in ("len", "min", "max", "isinstance", "id", "all", "sum", "repr")]
    with xpc_instrument.connect("shop") as session:
        for begin in (
            lambda: session.watch(targets, rate=None, stack=8),
            lambda: session.stat(targets, by="target"),
            lambda: session.callers(targets),
            lambda: session.after(targets, lambda call: None, wait=False),
            lambda: session.before(targets, lambda call: None, when="len(args) > 5"),
        ):
            with begin():
                assert app.evaluate("[len([1]), min(2, 1), max([3]), isinstance(1, int), all([]), sum([1])]") == "[1, 1, 3, True, True, 1]"
    assert "RecursionError" not in app.log()
