"""What a hostile or an unlucky user does: the application goes on, and whoever asked gets a clear answer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json
from tests.programs import PATIENCE, Program, kill, wait_for
from xpc_instrument import ChannelError, Session, TargetError, XpcError
from xpc_instrument.core.discovery import entry as discovery

CLI = [sys.executable, "-m", "xpc_instrument.cli"]

Start = Callable[..., App]


@pytest.fixture
def start(begin_app: Callable[..., App]) -> Start:
    """Start the application with these targets besides its own; a hook has 20 seconds."""

    def start_with(*targets: str, timeout: float = 20.0, more: str = "") -> App:
        probes = "".join(f'[[probe]]\ntarget = "{target}"\n' for target in ("shop:*", *targets))
        return begin_app(f"{more}[defaults]\ntimeout = {timeout}\n{probes}")

    return start_with


@pytest.fixture
def app(start: Start) -> App:
    return start()


# targets that the agent itself uses --------------------------------------------------------------------------------------

USED = {
    "json:dumps": "__import__('json').dumps([1])",
    "json:loads": "__import__('json').loads('[1]')",
    "socket:socket.send": "[s.send(b'x') for s in __import__('socket').socketpair()]",
    "selectors:PollSelector.select": "__import__('selectors').PollSelector().select(0)",
    "logging:Logger.warning": "logging.getLogger('x').warning('hello')",
    "logging:Logger.isEnabledFor": "logging.getLogger('x').isEnabledFor(10)",
    "threading:get_ident": "__import__('threading').get_ident() > 0",
    "threading:Thread.start": "__import__('threading').Thread(target=int).start()",
    "threading:Event.wait": "__import__('threading').Event().wait(0)",
    "threading:RLock": "__import__('threading').RLock().acquire()",
    "_thread:allocate_lock": "__import__('_thread').allocate_lock().acquire()",
    "os:read": "__import__('os').read(__import__('os').open('/dev/null', 0), 1)",
    "os:write": "__import__('os').write(__import__('os').open('/dev/null', 1), b'x')",
    "os:getpid": "__import__('os').getpid() > 0",
    "time:monotonic": "__import__('time').monotonic() > 0",
    "time:perf_counter": "__import__('time').perf_counter() > 0",
    "time:time": "__import__('time').time() > 0",
    "pickle:dumps": "__import__('pickle').dumps(1)",
    "pickle:loads": "__import__('pickle').loads(b'I1\\n.')",
    "re:compile": "__import__('re').compile('x')",
    "inspect:signature": "str(__import__('inspect').signature(lambda x: x))",
    "select:poll": "bool(__import__('select').poll())",
    "asyncio.events:get_running_loop": "asyncio.run(asyncio.sleep(0.001))",
    "asyncio.base_events:BaseEventLoop.call_soon": "asyncio.run(shop.wait_a_little(1))",
    "builtins:open": "open('/dev/null').read()",
    "builtins:print": "print('hello')",
    "builtins:next": "next(iter([1]))",
    "builtins:isinstance": "isinstance(1, int)",
    "builtins:len": "len([1])",
    "builtins:getattr": "getattr(1, 'real')",
    "builtins:__import__": "__import__('colorsys').__name__",
}


def test_targets_that_the_agent_uses_itself_are_hooked_without_recursion_or_deadlock(start: Start) -> None:
    app = start(*USED)
    usual = {target: app.evaluate(expression) for target, expression in USED.items()}
    assert [answer for answer in usual.values() if answer.startswith("raised")] == []
    for target, expression in USED.items():
        seen: List[str] = []
        # All at once, and an `async def` beside them, whose hook crosses on the event loop.
        with xpc_instrument.connect("shop") as session:
            session.before("shop:wait_a_little", lambda call: None)
            session.before(target, lambda call: seen.append("before"))  # noqa: B023
            session.around(target, lambda call: call.proceed(), expires=60.0)
            session.after(target, lambda call: seen.append("after"), limit=1000)  # noqa: B023
            assert (target, app.evaluate(expression)) == (target, usual[target])
        assert seen[:2] == ["before", "after"], target
    assert "failed" not in app.log()


def test_all_of_them_at_once_are_hooked_too(start: Start) -> None:
    app = start(*USED)
    usual = [app.evaluate(expression) for expression in USED.values()]
    with xpc_instrument.connect("shop") as session:
        for target in USED:
            session.around(target, lambda call: call.proceed())
        assert [app.evaluate(expression) for expression in USED.values()] == usual
    assert "failed" not in app.log()


@pytest.mark.parametrize("target", ["builtins:globals", "builtins:locals", "builtins:dir", "builtins:eval", "sys:_getframe"])
def test_what_answers_by_the_frame_of_its_caller_is_refused(start: Start, target: str) -> None:
    app = start(target)
    with xpc_instrument.connect("shop") as session, pytest.raises(TargetError, match="looks at the frame of its caller"):
        session.before(target, print)
    assert app.evaluate("1 + 1") == "2"


def test_forking_itself_can_be_hooked(start: Start) -> None:
    app = start("os:fork")
    fork = "(lambda os: (lambda pid: os.waitpid(pid, 0)[1] if pid else os._exit(len(shop.charge(7))))(os.fork()))(__import__('os'))"
    usual = app.evaluate(fork)
    seen: List[int] = []
    with xpc_instrument.connect("shop") as session:
        session.around("os:fork", lambda call: call.proceed())
        session.before("shop:charge", lambda call: seen.append(call.pid))
        assert app.evaluate(fork) == usual
        assert len(seen) == 1
        assert seen[0] != app.program.pid
    discovery.processes()


LIFE = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")

def work():
    return threading.get_ident() > 0

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 1)
    return os.waitpid(pid, 0)[1]

def fork_in_threads():
    threads = [threading.Thread(target=lambda: [fork() for _ in range(5)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""

LIFE_TARGETS = [
    *("os:pipe", "os:close", "os:unlink", "os:getpid", "os:listdir", "os:open", "os:replace", "os:lstat", "os:stat", "os:link", "os:chmod"),
    *("json:dumps", "json:loads", "socket:socket.bind", "socket:socket.listen", "selectors:PollSelector.register"),
    *("threading:get_ident", "time:monotonic", "time:sleep", "logging:Logger.warning"),
]


def test_what_the_agent_does_at_forks_imports_and_exits_is_not_hooked(start: Start, tmp_path: Path) -> None:
    (tmp_path / "life.py").write_text(LIFE)
    (tmp_path / "late.py").write_text("def f():\n    return 1\n")
    app = start("life:work", "late:f", *LIFE_TARGETS)
    seen: List[str] = []
    with xpc_instrument.connect("shop") as session:
        for target in ("life:work", "late:f", *LIFE_TARGETS):

            def hook(call: Any) -> Any:
                seen.append(call.target)
                return call.proceed()

            session.around(target, hook)
        assert app.evaluate("__import__('life').fork()") == "0"
        assert app.evaluate("__import__('late').f()") == "1"
        assert [target for target in seen if target not in ("threading:get_ident", "time:monotonic")] == ["life:work", "late:f"]
        app.evaluate("__import__('life').fork_in_threads()")
        assert seen.count("life:work") == 16
        app.program.send_line("")
        assert app.program.wait() == 0
    assert "failed" not in app.program.text
    assert set(seen) <= {"life:work", "late:f", "threading:get_ident", "time:monotonic"}
    discovery.processes()


# values ------------------------------------------------------------------------------------------------------------------


def test_huge_arguments_and_results_pass_by_reference_or_not_at_all(start: Start) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        sizes: List[Any] = []
        session.before("shop:charge", lambda call: sizes.append((type(call.args[0]).__name__, len(call.args[0]))))
        session.around("shop:charge", lambda call: call.proceed())
        assert app.evaluate("len(shop.charge(b'x' * 100_000_000))") == "100000007"
        assert sizes == [("Reference", 100_000_000)]
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda amount: b"x" * 100_000_000)
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert "max-payload" in app.log()


HOSTILE = """
import threading

class Refuses:
    def __init__(self, error):
        self.error = error
    def __reduce__(self):
        raise self.error
    __repr__ = __str__ = __reduce__
    def __bool__(self):
        raise self.error
    def __eq__(self, other):
        raise self.error
    __hash__ = None
    def __getattr__(self, name):
        raise AttributeError(name)
    def method(self, value):
        return value
    def itself(self):
        return self

def deep(n):
    value = []
    for _ in range(n):
        value = [value]
    return value

def ring():
    value = [1]
    value.append(value)
    return value

def take(value):
    return type(value).__name__
"""


@pytest.fixture
def hostile(start: Start, tmp_path: Path) -> App:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    return start("hostile:take", "hostile:Refuses.method", "hostile:Refuses.itself")


@pytest.mark.parametrize("mode", ["before", "after", "around", "instead"])
@pytest.mark.parametrize("error", ["ValueError()", "SystemExit(3)", "RecursionError()", "MemoryError()"])
def test_values_that_refuse_to_be_pickled_or_shown_reach_the_hook_as_references(hostile: App, mode: str, error: str) -> None:
    take = f"(lambda h: h.take(h.Refuses({error})))(__import__('hostile'))"
    method = f"__import__('hostile').Refuses({error}).method(5)"
    itself = f"type(__import__('hostile').Refuses({error}).itself()).__name__"
    hostile.evaluate("__import__('hostile')")
    seen: List[str] = []

    def hook(*args: Any) -> Any:
        seen.append("called")
        return args[0].proceed() if mode == "around" else "stand-in"

    with xpc_instrument.connect("shop") as session:
        for target in ("hostile:take", "hostile:Refuses.method", "hostile:Refuses.itself"):
            getattr(session, mode)(target, hook)
        answers = [hostile.evaluate(expression) for expression in (take, method, itself)]
    assert answers == (["'stand-in'", "'stand-in'", "'str'"] if mode == "instead" else ["'Refuses'", "5", "'Refuses'"])
    assert seen == ["called"] * 3


@pytest.mark.parametrize("value", ["ring()", "deep(500)", "deep(100_000)", "threading.Lock()", "(n for n in [1])"])
def test_odd_structures_reach_the_hook(hostile: App, value: str) -> None:
    expression = f"eval('take({value})', vars(__import__('hostile')))"
    usual = hostile.evaluate(expression)
    seen: List[str] = []
    with xpc_instrument.connect("shop") as session:
        session.before("hostile:take", lambda call: seen.append(type(call.args[0]).__name__))
        session.around("hostile:take", lambda call: call.proceed())
        assert hostile.evaluate(expression) == usual
    assert len(seen) == 1
    assert "failed" not in hostile.log()


def test_a_reference_whose_object_exits_ends_neither_application_nor_hook_of_others(hostile: App) -> None:
    hostile.evaluate("__import__('hostile')")
    expression = "__import__('hostile').Refuses(SystemExit(3)).method(5)"
    with xpc_instrument.connect("shop") as session:

        @session.around("hostile:Refuses.method")
        def ask(call: Any) -> Any:
            with pytest.raises(SystemExit):
                bool(call.instance)
            return call.proceed() + 1

        assert hostile.evaluate(expression) == "6"


def test_a_stand_in_that_returns_what_exits_when_it_is_loaded_does_not_end_the_application(app: App, session: Session) -> None:
    class Exits:
        def __reduce__(self) -> Any:
            return sys.exit, (3,)

    session.instead("shop:charge", lambda amount: Exits())
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


# scripts -----------------------------------------------------------------------------------------------------------------


def test_a_session_that_is_opened_a_hundred_times_leaves_nothing(app: App, runtime_dir: Path) -> None:
    descriptors = "len(__import__('os').listdir('/proc/self/fd'))"
    before = app.evaluate(descriptors)
    for number in range(100):
        with xpc_instrument.connect("shop") as session:
            session.instead("shop:charge", lambda amount, number=number: number)
            if number % 10 == 0:
                assert app.evaluate("shop.charge(1)") == str(number)
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.evaluate(descriptors) == before


def test_more_sessions_than_the_limit_are_refused_with_its_name(start: Start) -> None:
    app = start(more="[limits]\nmax-sessions = 3\n")
    sessions = [xpc_instrument.connect("shop") for _ in range(3)]
    try:
        with pytest.raises(XpcError, match="max-sessions"):
            xpc_instrument.connect(app.program.pid)
    finally:
        for session in sessions:
            session.close()
    # The application notices in its own time that they have gone.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            session = xpc_instrument.connect("shop")
            break
        except XpcError as error:
            if "max-sessions" not in str(error) or time.monotonic() > deadline:
                raise
            os.sched_yield()
    with session:
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"


def test_three_sessions_on_one_target_nest_and_leave_one_by_one(app: App) -> None:
    sessions = [xpc_instrument.connect("shop") for _ in range(3)]
    for number, session in enumerate(sessions):
        session.around("shop:charge", lambda call, number=number: f"{number}({call.proceed()})")
    assert app.evaluate("shop.charge(1)") == "'2(1(0(1 EUR)))'"
    sessions[1].close()
    assert app.evaluate("shop.charge(1)") == "'2(0(1 EUR))'"
    sessions[2].close()
    sessions[0].close()
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


def test_threads_that_register_and_remove_at_once_disarm_in_the_end(app: App, session: Session) -> None:
    def register_and_remove(number: int) -> None:
        with session.around("shop:charge", lambda call: call.proceed()):
            session.before("shop:fail", lambda call: None).remove()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(register_and_remove, range(80)))
    (process,) = as_json(subprocess.run([*CLI, "ls", "shop", "--json"], capture_output=True, text=True, timeout=30).stdout)
    assert [probe["hooks"] for probe in process["probes"] if probe["hooks"]] == []
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


def test_a_handle_is_removed_twice_after_its_session_and_after_the_application(app: App) -> None:
    session = xpc_instrument.connect("shop")
    first, second = (session.before("shop:charge", lambda call: None) for _ in range(2))
    first.remove()
    first.remove()
    session.close()
    second.remove()
    session.close()
    with pytest.raises(ChannelError, match="closed"):
        session.before("shop:charge", print)
    session = xpc_instrument.connect("shop")
    third = session.before("shop:charge", lambda call: None)
    app.program.send_line("")
    assert app.program.wait() == 0
    third.remove()
    session.close()


def test_a_hook_may_register_and_remove_hooks_even_itself(app: App, session: Session) -> None:
    seen: List[str] = []

    def once(call: Any) -> Any:
        handles[0].remove()
        session.before("shop:fail", lambda call: seen.append("fail"))
        seen.append("once")
        return call.proceed()

    handles = [session.around("shop:charge", once)]
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.evaluate("shop.fail('x')") == "raised ValueError: x"
    assert seen == ["once", "fail"]


def test_a_hook_may_close_its_own_session(app: App) -> None:
    session = xpc_instrument.connect("shop")
    closed = threading.Event()

    def leave(call: Any) -> None:
        session.close()
        closed.set()

    session.before("shop:charge", leave)
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    wait_for(closed)
    assert app.evaluate("shop.charge(2)") == "'2 EUR'"
    assert app.calls == "[1, 2]"


def test_a_hook_that_ends_its_thread_or_exits_does_not_end_the_application(app: App, session: Session) -> None:
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):

        def leave(*_: Any, error: BaseException = error) -> None:
            raise error

        with session.instead("shop:charge", leave), session.before("shop:charge", leave):
            assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


# ends --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["shop.charge(1)", "asyncio.run(shop.wait_a_little(1))"])
def test_ctrl_c_in_the_application_interrupts_a_thread_that_waits_for_a_hook(app: App, session: Session, expression: str) -> None:
    inside, leave = threading.Event(), threading.Event()

    def slow(*_: Any) -> str:
        inside.set()
        wait_for(leave)
        return "too late"

    target = "shop:" + ("charge" if "charge" in expression else "wait_a_little")
    with session.instead(target, slow):
        app.start(expression)
        wait_for(inside)
        app.program.signal(signal.SIGINT)
        assert app.result().startswith("raised KeyboardInterrupt")
        leave.set()
    session.instead(target, lambda *_: "hooked")
    assert app.evaluate(expression) == "'hooked'"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_application_that_is_ended_in_a_hook_leaves_the_session_whole(app: App, session: Session, number: int) -> None:
    inside, leave = threading.Event(), threading.Event()

    def slow(call: Any) -> None:
        inside.set()
        wait_for(leave)
        call.proceed()

    session.around("shop:charge", slow)
    app.start("shop.charge(1)")
    wait_for(inside)
    app.program.signal(number)
    assert app.program.wait() == -number
    leave.set()
    with pytest.raises(ChannelError, match="no process of shop is left"):
        session.before("shop:fail", print)
    assert discovery.processes("shop") == []


EXITS = """
import sys, threading, shop
print("ready", flush=True)
sys.stdin.readline()
thread = threading.Thread(target=lambda: print("thread got", shop.charge(1), flush=True), daemon={daemon})
thread.start()
sys.stdin.readline()
sys.exit(4)
"""


@pytest.mark.parametrize("daemon", [True, False])
def test_an_application_exits_while_a_thread_is_in_a_hook(
    start: Start, run_program: Callable[..., Program], tmp_path: Path, daemon: bool
) -> None:
    start().program.end()
    (tmp_path / "exits.py").write_text(EXITS.format(daemon=daemon))
    program = run_program(command=[*CLI, "run", "--", sys.executable, "exits.py"], cwd=tmp_path)
    program.read_until("ready")
    inside, leave = threading.Event(), threading.Event()

    def slow(amount: int) -> str:
        inside.set()
        wait_for(leave)
        return "hooked"

    with xpc_instrument.connect(program.pid) as session:
        session.instead("shop:charge", slow)
        program.send_line()
        wait_for(inside)
        program.send_line()
        if daemon:
            assert program.wait() == 4
            leave.set()
        else:
            # The interpreter waits for the thread, and the thread for the hook, as it would for the original.
            leave.set()
            assert program.wait() == 4
            assert "thread got hooked" in program.text
    assert "Traceback" not in program.text


def test_a_script_that_is_killed_again_and_again_in_its_hook_costs_the_application_nothing(
    app: App, run_program: Callable[..., Program]
) -> None:
    source = (
        "import sys, xpc_instrument\napp = xpc_instrument.connect('shop')\n"
        "def hook(call):\n    print('inside', flush=True)\n    sys.stdin.readline()\n"
        "app.around('shop:charge', hook)\nprint('hooked', flush=True)\napp.run()\n"
    )
    for number in range(5):
        script = run_program(source, name=f"script{number}.py")
        script.read_until("hooked")
        app.start(f"shop.charge({number})")
        script.read_until("inside")
        kill(script.pid)
        assert app.result() == f"'{number} EUR'"
    assert app.calls == "[0, 1, 2, 3, 4]"


# the runtime directory ---------------------------------------------------------------------------------------------------


def test_removing_the_runtime_directory_harms_neither_application_nor_session(app: App, session: Session, runtime_dir: Path) -> None:
    session.around("shop:charge", lambda call: f"hooked {call.proceed()}")
    shutil.rmtree(runtime_dir)
    assert app.evaluate("shop.charge(1)") == "'hooked 1 EUR'"
    session.before("shop:fail", lambda call: None)
    with pytest.raises(xpc_instrument.ApplicationNotFoundError):
        xpc_instrument.connect("shop")
    session.close()
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    app.program.send_line("")
    assert app.program.wait() == 0
    assert "Traceback" not in app.program.text
    runtime_dir.mkdir(mode=0o700, exist_ok=True)


@pytest.mark.parametrize("trouble", ["a file", "no room", "no such place"])
def test_an_application_that_cannot_be_announced_runs_uninstrumented_and_says_so(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path, trouble: str
) -> None:
    (tmp_path / "program.py").write_text("import json\nprint(json.dumps([1]))\n")
    env = {}
    prefix: List[str] = []
    if trouble == "a file":
        (runtime_dir / "file").write_text("")
        env = {"XPC_INSTRUMENT_RUNTIME_DIR": str(runtime_dir / "file")}
    elif trouble == "no such place":
        env = {"XPC_INSTRUMENT_RUNTIME_DIR": "/proc/no/such/place"}
    else:
        prefix = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]
    program = run_program(
        command=[*prefix, *CLI, "run", "--probe", "json:dumps", "--", sys.executable, "program.py"], cwd=tmp_path, env=env
    )
    assert program.wait() == 0
    assert program.output[-1] == "[1]"
    assert "this process is not instrumented" in program.text
    assert "Traceback" not in program.text
    if trouble == "a file":
        (runtime_dir / "file").unlink()
    assert os.listdir(runtime_dir) == []
