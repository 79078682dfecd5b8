"""`async def` targets on other loops than asyncio's own: hooks are awaited there, with deadlines and cancellation.

Trio runs alone, through anyio, and as a guest within an asyncio loop; uvloop has its own ways with descriptors, timers and wake-ups.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import instrumented
from tests.integration.fault_fixture import PATIENT, holds_no_memory, is_busy
from tests.integration.faults.test_fail_open import failures
from tests.integration.processes.test_real_applications import RUN
from tests.programs import PATIENCE, Program, wait_for
from xpc_instrument.core.wire.memory import why_plain

SHOP = """
def tax(n):
    return f"tax {n}"

async def price(n):
    return f"price {n}"

async def relay(n):
    return f"relay {await price(n)}"

async def items(n):
    for i in range(n):
        got = yield i
        if got:
            yield got
"""

# Each line of its input is an expression that a task of its own evaluates beside all others; what it gives is printed.
COMMON = """
import sys, shop

def heat():
    # How many frames have gone through memory, by calls that follow each other in this thread.
    import time, xpc_agent
    until = time.monotonic() + 1.5
    before = found = sum(one.frames for one in xpc_agent.lanes())
    while found - before < 100 and time.monotonic() < until:
        assert {shop.tax(n) for n in range(100)} == {f"hooked {n}" for n in range(100)}
        found = sum(one.frames for one in xpc_agent.lanes())
    return found - before

async def listed(n):
    return [i async for i in shop.items(n)]

def job_of(line):
    space = dict(globals())
    exec("async def job():\\n    return " + line, space)
    return space["job"]

async def report(job):
    try:
        result = await job()
    except TooSlow:
        result = "too slow"
    # In one piece: tasks print from one thread, but the line and its end are two writes.
    print(f"=> {result}\\n", end="", flush=True)
"""

TRIO = """
import trio
TooSlow = trio.TooSlowError
in_thread = trio.to_thread.run_sync

async def main():
    async with trio.open_nursery() as nursery:
        print("ready", flush=True)
        while True:
            line = (await in_thread(sys.stdin.readline)).strip()
            if not line:
                nursery.cancel_scope.cancel()
                return
            nursery.start_soon(report, job_of(line))

async def gather(*jobs):
    answers = [None] * len(jobs)
    async def one(i):
        answers[i] = await jobs[i]
    async with trio.open_nursery() as nursery:
        for i in range(len(jobs)):
            nursery.start_soon(one, i)
    return answers

async def at_most(seconds, job):
    with trio.fail_after(seconds):
        return await job

if sys.argv[1] == "anyio":
    import anyio
    anyio.run(main, backend="trio")
elif sys.argv[1] == "guest":
    import asyncio
    async def host():
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(main, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended.set_result)
        (await ended).unwrap()
    asyncio.run(host())
else:
    trio.run(main)
"""

UVLOOP = """
import asyncio, uvloop
TooSlow = asyncio.TimeoutError

async def main():
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    print("ready", flush=True)
    tasks = []
    while True:
        line = (await in_thread(sys.stdin.readline)).strip()
        if not line:
            return
        tasks.append(asyncio.ensure_future(report(job_of(line))))

def in_thread(function):
    return asyncio.get_running_loop().run_in_executor(None, function)

async def gather(*jobs):
    return await asyncio.gather(*jobs)

async def at_most(seconds, job):
    return await asyncio.wait_for(job, seconds)

loop = uvloop.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""


class Application:
    """A program that runs coroutines on a loop, one for each line that it reads."""

    def __init__(self, run_program: Callable[..., Program], folder: Path, way: str, settings: str) -> None:
        (folder / "shop.py").write_text(SHOP)
        (folder / "main.py").write_text(COMMON + (UVLOOP if way == "uvloop" else TRIO))
        config = folder / "xpc-instrument.toml"
        config.write_text(f'app = "shop"\n{settings}\n[[probe]]\ntarget = "shop:*"\n')
        self.program = run_program(command=instrumented(config, sys.executable, "main.py", way), cwd=folder)
        self.program.read_until("ready")

    def start(self, job: str) -> None:
        self.program.send_line(job)

    def result(self) -> str:
        return self.program.read_until("=> ").split("=> ", 1)[1]

    def evaluate(self, job: str) -> str:
        self.start(job)
        return self.result()

    def end(self) -> None:
        self.program.send_line("")
        assert self.program.wait() == 0
        assert "Traceback" not in self.program.text


# Two loops on every version of Python; what is between them and the tasks on the oldest and the newest.
@pytest.fixture(
    params=[pytest.param("trio", marks=pytest.mark.version), "anyio", "guest", pytest.param("uvloop", marks=pytest.mark.version)]
)
def start(request: Any, run_program: Callable[..., Program], tmp_path: Path) -> Callable[..., Application]:
    """Starts the application: `start(settings)`."""
    way = request.param
    for library in {"uvloop": ["uvloop"], "anyio": ["anyio", "trio"]}.get(way, ["trio"]):
        pytest.importorskip(library, reason=f"{library} is not installed")
    return lambda settings="[defaults]\ntimeout = 20.0": Application(run_program, tmp_path, way, settings)


def test_all_modes_on_a_coroutine(start: Callable[..., Application]) -> None:
    app = start()
    seen: List[Any] = []
    with xpc_instrument.connect("shop") as session:
        with (
            session.before("shop:price", lambda call: seen.append(call.args)),
            session.after("shop:price", lambda call: seen.append(call.result)),
        ):
            assert app.evaluate("await shop.price(1)") == "price 1"
        assert seen == [(1,), "price 1"]
        with session.around("shop:price", lambda call: f"around {call.proceed()}"):
            assert app.evaluate("await shop.price(2)") == "around price 2"
            assert app.evaluate("await shop.relay(2)") == "relay around price 2"
        with session.instead("shop:price", lambda n: f"instead {n}"):
            assert app.evaluate("await shop.price(3)") == "instead 3"
        with session.around("shop:items", lambda call: call.proceed()), session.before("shop:items", lambda call: seen.append("items")):
            assert app.evaluate("await listed(3)") == "[0, 1, 2]"
        assert seen[2:] == ["items"]
        assert failures("shop:price") == {}
    assert app.evaluate("await shop.price(4)") == "price 4"
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
        app.start("await gather(*[shop.price(n) for n in range(100)])")
        wait_for(reached)
        assert app.evaluate("'alive'") == "alive"
        go_on.set()
        assert app.result() == str([f"{n}: price {n}" for n in range(100)])
        assert failures("shop:price") == {}
    app.end()


def test_a_hook_that_does_not_answer_fails_open_at_its_deadline(start: Callable[..., Application]) -> None:
    app = start("[defaults]\ntimeout = 0.3\n[limits]\nmax-lanes = 1")
    go_on = threading.Event()
    with xpc_instrument.connect("shop") as session:
        session.before("shop:price", lambda call: go_on.wait(PATIENCE))
        try:
            # One has the lane, the others wait for it.
            assert app.evaluate("await gather(*[shop.price(n) for n in range(3)])") == "['price 0', 'price 1', 'price 2']"
            assert failures("shop:price") == {"timeout": 3}
        finally:
            go_on.set()
    app.end()


def test_a_task_whose_time_is_over_leaves_its_hook_at_once(start: Callable[..., Application]) -> None:
    app = start()
    go_on = threading.Event()
    with xpc_instrument.connect("shop") as session:
        handle = session.before("shop:price", lambda call: go_on.wait(PATIENCE))
        try:
            assert app.evaluate("await at_most(0.2, shop.price(1))") == "too slow"
        finally:
            go_on.set()
        assert failures("shop:price") == {"interrupted": 1}
        handle.remove()
        session.instead("shop:price", lambda n: f"instead {n}")
        assert app.evaluate("await shop.price(2)") == "instead 2"
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
    app.start("await shop.price(1)")
    script.read_until("reached")
    script.kill()
    assert app.result() == "price 1"
    app.end()


def test_a_member_of_a_fixed_address_is_hooked(start: Callable[..., Application], runtime_dir: Path) -> None:
    settings = f'[manager]\naddress = "unix:{runtime_dir}/fixed.sock"\n[defaults]\ntimeout = 20.0'
    host, member = start(settings), start(settings)
    with xpc_instrument.connect(f"unix:{runtime_dir}/fixed.sock") as session:
        session.around("shop:price", lambda call: f"hooked {call.proceed()}")
        assert member.evaluate("await shop.price(1)") == "hooked price 1"
        assert host.evaluate("await shop.price(2)") == "hooked price 2"
    member.end()
    host.end()


@pytest.mark.version
def test_a_coroutine_that_no_known_loop_runs_goes_on_without_its_hook_and_the_log_says_why(
    run_program: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    source = (
        "import os, shop\nprint('ready', flush=True)\ninput()\n"
        # In one write: another thread writes the log meanwhile.
        "try:\n    shop.price(1).send(None)\nexcept StopIteration as end:\n    os.write(1, b'=> %s\\n' % end.value.encode())\n"
    )
    program = run_program(source, command=[*RUN, "--app", "shop", "--probe", "shop:*", "--", sys.executable, str(tmp_path / "program.py")])
    program.read_until("ready")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:price", lambda n: f"instead {n}")
        program.send_line()
        assert program.read_until("=>") == "=> price 1"
    assert program.wait() == 0
    assert "under asyncio (uvloop included) and trio" in program.text


@pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")
def test_tasks_use_lanes_that_a_thread_made_hot_and_never_look_into_memory(start: Callable[..., Application]) -> None:
    app = start(f"[defaults]\ntimeout = 20.0\n[limits]\n{PATIENT}")
    with xpc_instrument.connect("shop") as session:
        session.around("shop:price", lambda call: f"hooked {call.proceed()}")
        session.instead("shop:tax", lambda n: f"hooked {n}")
        for _ in range(2):
            heats(app)
            before = frames(session)
            # Of the lane that is hot, and of others: all that tasks say and hear goes over sockets.
            for _ in range(3):
                assert app.evaluate("await gather(*[shop.price(n) for n in range(8)])") == str([f"hooked price {n}" for n in range(8)])
            assert frames(session) == before
        assert failures("shop:price") == failures("shop:tax") == {}
    holds_no_memory(app.program.pid)
    app.end()


def frames(session: Any) -> int:
    """How many frames have gone through memory on the lanes of a session."""
    return sum(one.frames for one in session.lanes())


def heats(app: Application) -> None:
    """Have a thread beside the loop call until its lane is hot."""
    found = app.evaluate("await in_thread(heat)")
    assert int(found) >= 100 or is_busy()
