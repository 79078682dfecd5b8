"""`async def` targets on uvloop's event loop, which has its own ways with descriptors, timers and wake-ups from other threads."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import instrumented
from tests.integration.fault_fixture import PATIENT, holds_no_memory, is_busy
from tests.integration.faults.test_fail_open import failures
from tests.programs import PATIENCE, Program, wait_for
from xpc_instrument.core.wire.memory import why_plain

pytestmark = pytest.mark.version

pytest.importorskip("uvloop", reason="uvloop is not installed")

SHOP = """
def tax(n):
    return f"tax {n}"

async def price(n):
    return f"price {n}"

async def items(n):
    for i in range(n):
        yield i
"""

# Each line of its input is an awaitable that runs as a task beside all others; what it gives is printed.
MAIN = """
import asyncio, json, sys
import shop, uvloop

async def listed(n):
    return [i async for i in shop.items(n)]

async def at_most(seconds, job):
    try:
        return await asyncio.wait_for(job, seconds)
    except asyncio.TimeoutError:
        return "too slow"

async def gather(n):
    return await asyncio.gather(*map(shop.price, range(n)))

async def report(job):
    print("=> " + json.dumps(await job) + "\\n", end="", flush=True)

def heat():
    # How many frames have gone through memory, by calls that follow each other in this thread.
    import time, xpc_agent
    until = time.monotonic() + 5
    before = found = sum(one.frames for one in xpc_agent.lanes())
    while found - before < 100 and time.monotonic() < until:
        assert {shop.tax(n) for n in range(100)} == {f"hooked {n}" for n in range(100)}
        found = sum(one.frames for one in xpc_agent.lanes())
    return found - before

async def main():
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uvloop.Loop), loop
    print("ready", flush=True)
    tasks = []
    while True:
        line = (await loop.run_in_executor(None, sys.stdin.readline)).strip()
        if not line:
            return
        tasks.append(asyncio.ensure_future(report(eval(line))))

loop = uvloop.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""


class Application:
    """A program whose coroutines uvloop runs, one for each line that it reads."""

    def __init__(self, run_program: Callable[..., Program], folder: Path, settings: str) -> None:
        (folder / "shop.py").write_text(SHOP)
        (folder / "main.py").write_text(MAIN)
        config = folder / "xpc-instrument.toml"
        config.write_text(f'app = "shop"\n{settings}\n[[probe]]\ntarget = "shop:*"\n')
        self.program = run_program(command=instrumented(config, sys.executable, "main.py"), cwd=folder)
        self.program.read_until("ready")

    def start(self, job: str) -> None:
        self.program.send_line(job)

    def result(self) -> Any:
        return json.loads(self.program.read_until("=> ").split("=> ", 1)[1])

    def evaluate(self, job: str) -> Any:
        self.start(job)
        return self.result()

    def end(self) -> None:
        self.program.send_line("")
        assert self.program.wait() == 0
        assert "Traceback" not in self.program.text


@pytest.fixture
def start(run_program: Callable[..., Program], tmp_path: Path) -> Callable[..., Application]:
    """Starts the application: `start(settings)`."""
    return lambda settings="[defaults]\ntimeout = 20.0": Application(run_program, tmp_path, settings)


def test_all_modes_on_a_coroutine(start: Callable[..., Application]) -> None:
    app = start()
    seen: List[Any] = []
    with xpc_instrument.connect("shop") as session:
        with session.before("shop:price", lambda call: seen.append(call.args)):
            assert app.evaluate("shop.price(1)") == "price 1"
        with session.after("shop:price", lambda call: seen.append(call.result)):
            assert app.evaluate("shop.price(1)") == "price 1"
        assert seen == [(1,), "price 1"]
        with session.around("shop:price", lambda call: f"around {call.proceed()}"):
            assert app.evaluate("shop.price(2)") == "around price 2"
        with session.instead("shop:price", lambda n: f"instead {n}"):
            assert app.evaluate("shop.price(3)") == "instead 3"
        with session.around("shop:items", lambda call: call.proceed()):
            assert app.evaluate("listed(3)") == [0, 1, 2]
        assert failures("shop:price") == {}
    assert app.evaluate("shop.price(4)") == "price 4"
    app.end()


def test_a_hundred_tasks_wait_at_once_for_fewer_lanes_and_the_loop_goes_on(start: Callable[..., Application]) -> None:
    app = start()
    reached, go_on = threading.Event(), threading.Event()

    def around(call: Any) -> str:
        reached.set()
        wait_for(go_on)
        return f"{call.args[0]}: {call.proceed()}"

    with xpc_instrument.connect("shop") as session:
        session.around("shop:price", around)
        app.start("gather(100)")
        wait_for(reached)
        assert app.evaluate("listed(1)") == [0]
        go_on.set()
        assert app.result() == [f"{n}: price {n}" for n in range(100)]
        assert failures("shop:price") == {}
    app.end()


def test_a_hook_that_does_not_answer_fails_open_at_its_deadline(start: Callable[..., Application]) -> None:
    app = start("[defaults]\ntimeout = 0.5\n[limits]\nmax-lanes = 1")
    go_on = threading.Event()
    with xpc_instrument.connect("shop") as session:
        session.before("shop:price", lambda call: go_on.wait(PATIENCE))
        try:
            # One has the lane, the others wait for it.
            assert app.evaluate("gather(3)") == ["price 0", "price 1", "price 2"]
            assert failures("shop:price") == {"timeout": 3}
        finally:
            go_on.set()
    app.end()


def test_a_task_that_is_cancelled_while_it_waits_leaves_its_hook_at_once(start: Callable[..., Application]) -> None:
    app = start()
    go_on = threading.Event()
    with xpc_instrument.connect("shop") as session:
        handle = session.before("shop:price", lambda call: go_on.wait(PATIENCE))
        try:
            assert app.evaluate("at_most(0.2, shop.price(1))") == "too slow"
        finally:
            go_on.set()
        assert failures("shop:price") == {"interrupted": 1}
        handle.remove()
        session.instead("shop:price", lambda n: f"instead {n}")
        assert app.evaluate("gather(40)") == [f"instead {n}" for n in range(40)]
    app.end()


def test_a_hook_of_a_script_that_dies_is_gone(start: Callable[..., Application], run_program: Callable[..., Program]) -> None:
    app = start()
    script = run_program(
        "import threading, xpc_instrument\n"
        "app = xpc_instrument.connect('shop')\n"
        "app.before('shop:price', lambda call: print('reached', flush=True) or threading.Event().wait())\n"
        "print('ready', flush=True)\napp.run()\n",
        name="script.py",
    )
    script.read_until("ready")
    app.start("shop.price(1)")
    script.read_until("reached")
    script.kill()
    assert app.result() == "price 1"
    app.end()


@pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")
def test_tasks_use_lanes_that_a_thread_made_hot_and_never_look_into_memory(start: Callable[..., Application]) -> None:
    app = start(f"[defaults]\ntimeout = 20.0\n[limits]\n{PATIENT}")
    with xpc_instrument.connect("shop") as session:
        session.around("shop:price", lambda call: f"hooked {call.proceed()}")
        session.instead("shop:tax", lambda n: f"hooked {n}")
        for _ in range(3):
            heats(app)
            before = frames(session)
            # Of the lane that is hot, and of others: all that tasks say and hear goes over sockets.
            for _ in range(3):
                assert app.evaluate("gather(8)") == [f"hooked price {n}" for n in range(8)]
            assert frames(session) == before
        assert failures("shop:price") == failures("shop:tax") == {}
    holds_no_memory(app.program.pid)
    app.end()


def frames(session: Any) -> int:
    """How many frames have gone through memory on the lanes of a session."""
    return sum(one.frames for one in session.lanes())


def heats(app: Application) -> None:
    """Have a thread beside the loop call until its lane is hot."""
    found = app.evaluate("asyncio.get_running_loop().run_in_executor(None, heat)")
    assert int(found) >= 100 or is_busy()
