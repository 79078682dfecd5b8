"""The deadline of a hook: who sets it, and what the script says when it is missed, or when a hook ends at an odd moment."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.integration.fault_fixture import begin_faulty, start_faulty, stop
from tests.programs import Program, wait_for
from xpc_instrument import CallEvent, TargetError

CONFIG = '[defaults]\ntimeout = 20\nsuspend-after = 0\n[[probe]]\ntarget = "shop:*"\n'
KEY = "0123456789abcdef"
# A script of its own, whose log goes to where its test reads it; BODY registers what is to be looked at.
SCRIPT = """
import asyncio, logging, sys, threading, time
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
import xpc_instrument
app = xpc_instrument.connect("shop")

{body}

print("hooked", flush=True)
app.run()
print("left", flush=True)
"""


class Told:
    """What the script has been told of the failures of a hook, and what it has logged."""

    def __init__(self) -> None:
        self.errors: List[BaseException] = []
        self.records: List[logging.LogRecord] = []
        self.failed = threading.Event()
        self.on_record: Callable[[logging.LogRecord], object] = lambda record: None

    def __call__(self, error: BaseException) -> None:
        self.errors.append(error)
        self.failed.set()


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.records.append(record)
            told.on_record(record)

    keeper = Keeper(logging.WARNING)
    logging.getLogger("xpc_instrument").addHandler(keeper)
    yield told
    logging.getLogger("xpc_instrument").removeHandler(keeper)


WORDS = "its deadline is 0.2 s: pass timeout=, or raise it in the config"


def seconds_in(error: BaseException) -> float:
    """How long the hook took, by what is said of a missed deadline."""
    said = re.fullmatch(rf"the hook took ([0-9.]+) s; {re.escape(WORDS)}", str(error))
    assert said is not None, error
    return float(said[1])


# timeout= and max-timeout -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["before", "after", "around", "instead"])
def test_a_registration_may_have_a_deadline_of_its_own_in_each_mode(begin_app: Callable[..., App], mode: str) -> None:
    app = begin_app(CONFIG)
    free = threading.Event()
    with xpc_instrument.connect("shop") as session:
        getattr(session, mode)("shop:charge", lambda *args: free.wait(60), timeout=0.1)
        started = time.monotonic()
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        assert 0.1 <= time.monotonic() - started < 10
        (stats,) = (one for one in session.stats() if one.target == "shop:charge")
        assert stats.failures == {"timeout": 1}
        free.set()


# As tests set the clocks, also where a module of ours has the functions themselves.
CLOCKS = """
import sys, time
real = {name: getattr(time, name) for name in ("monotonic", "perf_counter", "time")}
now = dict(real)
def set_clocks(shift):
    for clock, function in real.items():
        new = function if shift is None else (lambda: 5.0) if shift == "still" else lambda function=function: function() + shift
        for module in [time, *(module for name, module in sys.modules.items() if name.startswith("xpc_"))]:
            for name in [name for name, value in vars(module).items() if value is now[clock]]:
                setattr(module, name, new)
        now[clock] = new
"""


def test_clocks_that_are_set_change_nothing(begin_app: Callable[..., App]) -> None:
    app = begin_app(CONFIG)
    clocks: Dict[str, Any] = {}
    exec(CLOCKS, clocks)
    app.evaluate(f"exec({CLOCKS!r}, globals())")
    free = threading.Event()
    with xpc_instrument.connect("shop") as session:
        try:
            clocks["set_clocks"](86400)
            session.before("shop:charge", print).remove()
            clocks["set_clocks"]("still")
            with session.before("shop:charge", lambda *args: free.wait(60), timeout=0.1):
                app.evaluate("set_clocks('still')")
                assert app.evaluate("shop.charge(1), time.monotonic()") == "('1 EUR', 5.0)"
            with session.watch("shop:charge") as events, session.stat("shop:charge") as table:
                app.evaluate("shop.charge(1)")
                event = next(iter(events))
                assert isinstance(event, CallEvent)
                assert event.duration is not None
                assert event.duration > 0
                assert event.time > 1e9
                table.pull()
                assert table.rows()[0].sum > 0
            session.instead("shop:charge", lambda number: f"{number} and {time.monotonic()}")
            free.set()
            assert app.evaluate("shop.charge(1)") == "'1 and 5.0'"
        finally:
            clocks["set_clocks"](None)
            app.evaluate("set_clocks(None)")


def test_it_may_be_longer_than_the_configs(begin_app: Callable[..., App]) -> None:
    app = begin_app('[defaults]\ntimeout = 0.05\n[[probe]]\ntarget = "shop:*"\n')
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda number: (time.sleep(0.2), "slow")[1], timeout=20)
        assert app.evaluate("shop.charge(1)") == "'slow'"


@pytest.mark.parametrize(
    ("settings", "more", "longest"),
    [("", "", 30), ("max-timeout = 5\n", "", 5), ("max-timeout = 5\n", "max-timeout = 7\n", 7), ("timeout = 40\n", "", 40)],
)
def test_one_that_is_longer_than_max_timeout_is_refused_with_both_named(
    begin_app: Callable[..., App], settings: str, more: str, longest: float
) -> None:
    begin_app(f'[defaults]\n{settings}[[probe]]\ntarget = "shop:charge"\n{more}')
    with xpc_instrument.connect("shop") as session:
        session.around("shop:charge", print, timeout=longest).remove()
        with pytest.raises(TargetError, match=rf"shop:charge: timeout={longest + 1} .*{longest} s \(max-timeout\)"):
            session.around("shop:charge", print, timeout=longest + 1)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", True])
def test_what_is_no_time_is_refused(begin_app: Callable[..., App], timeout: Any) -> None:
    begin_app(CONFIG)
    with xpc_instrument.connect("shop") as session, pytest.raises(ValueError, match=r"shop:charge: timeout=.*expected seconds"):
        session.before("shop:charge", print, timeout=timeout)


def test_a_hook_that_nobody_waits_for_has_no_deadline(begin_app: Callable[..., App]) -> None:
    begin_app(CONFIG)
    with xpc_instrument.connect("shop") as session, pytest.raises(ValueError, match="nobody waits for the hook"):
        session.before("shop:charge", print, timeout=1.0, wait=False)


def test_it_holds_in_a_process_behind_a_fixed_address_too(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path, told: Told
) -> None:
    config = f'[manager]\naddress = "unix:{runtime_dir}/fixed.sock"\n{CONFIG}'
    start_app(run_program, tmp_path, config)
    member = start_app(run_program, tmp_path, config)
    with xpc_instrument.connect(f"unix:{runtime_dir}/fixed.sock") as session:
        with pytest.raises(TargetError, match="max-timeout"):
            session.around("shop:charge", print, timeout=31)
        answered = threading.Event()
        handle = session.around("shop:charge", lambda call: answered.wait(30), timeout=0.2)
        handle.on_failure(told)
        assert member.evaluate("shop.charge(1)") == "'1 EUR'"
        answered.set()
        wait_for(told.failed)
    assert isinstance(told.errors[0], TimeoutError)
    assert 0 < seconds_in(told.errors[0]) < 10


# a deadline that is missed ----------------------------------------------------------------------------------------------------


def late(*args: Any) -> str:
    time.sleep(0.5)
    return "late"


def raises_late(*args: Any) -> None:
    time.sleep(0.5)
    raise TimeoutError("an answer, but late")


def proceeds_late(call: Any) -> Any:
    time.sleep(0.5)
    return call.proceed()


def is_late_after_it_proceeded(call: Any) -> Any:
    value = call.proceed()
    time.sleep(0.5)
    return value


async def late_async(*args: Any) -> str:
    await asyncio.sleep(0.5)
    return "late"


async def proceeds_late_async(call: Any) -> Any:
    await asyncio.sleep(0.5)
    return await call.proceed_async()


WAYS: List[Tuple[str, Callable[..., Any]]] = [
    *((mode, hook) for mode in ("before", "after", "around", "instead") for hook in (late, late_async)),
    ("instead", raises_late),
    *(("around", hook) for hook in (proceeds_late, proceeds_late_async, is_late_after_it_proceeded)),
]


@pytest.mark.parametrize("address", ["unix", "tcp"])
def test_a_missed_deadline_is_one_line_that_says_how_long_the_hook_took(
    run_program: Callable[..., Program], tmp_path: Path, told: Told, address: str
) -> None:
    manager = ""
    where: Any = "shop"
    if address == "tcp":
        port = xpc_instrument.find_free_port("127.0.0.1")
        (tmp_path / "shop.key").write_text(KEY)
        (tmp_path / "shop.key").chmod(0o600)
        manager = f'[manager]\naddress = "tcp:127.0.0.1:{port}"\nauthkey-file = "shop.key"\n'
        where = ("127.0.0.1", port)
    app = start_app(run_program, tmp_path, manager + CONFIG)
    with xpc_instrument.connect(where, authkey=KEY if address == "tcp" else None) as session:
        for mode, hook in WAYS:
            told.failed.clear()
            told.errors.clear()
            told.records.clear()
            with getattr(session, mode)("shop:charge", hook, timeout=0.2) as handle:
                handle.on_failure(told)
                assert app.evaluate("shop.charge(1)") == "'1 EUR'"
                wait_for(told.failed)
            assert [type(error).__name__ for error in told.errors] == ["DeadlineError"], (mode, hook)
            # Over TCP it is not known at once that an answer comes too late.
            (record,) = [one for one in told.records if hook is not raises_late or one.exc_info is None]
            assert record.exc_info is None, (mode, hook)
            assert record.getMessage() == f"the {mode} hook on shop:charge: {told.errors[0]}", (mode, hook)
            # What it sleeps, and by how much more a busy machine wakes it late.
            assert 0.5 <= seconds_in(told.errors[0]) < 10, (mode, hook)
            assert handle.last_failure is told.errors[0]


def test_a_missed_deadline_is_known_on_a_hot_lane_too(begin_app: Callable[..., App], tmp_path: Path, told: Told) -> None:
    app = begin_faulty(begin_app, tmp_path)
    with xpc_instrument.connect("shop") as session:
        session.around("till:pay", lambda call: late() if call.args == ("late",) else "hooked", timeout=0.2).on_failure(told)
        app.heat("till.pay(1)")
        assert app.value("till.pay('late')") == "paid"
        wait_for(told.failed)
    assert str(told.errors[0]).endswith(WORDS)


def test_the_configs_deadline_is_known_too(begin_app: Callable[..., App], told: Told) -> None:
    app = begin_app('[defaults]\ntimeout = 0.2\n[[probe]]\ntarget = "shop:*"\n')
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", late).on_failure(told)
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        wait_for(told.failed)
    assert str(told.errors[0]).endswith(WORDS)


def test_what_the_original_takes_counts_for_nobody(begin_app: Callable[..., App], tmp_path: Path, told: Told) -> None:
    app = begin_faulty(begin_app, tmp_path)
    with xpc_instrument.connect("shop") as session:
        handle = session.around("till:hold", lambda call: call.proceed(), timeout=0.2)
        app.begin("call", "till.hold(1)")
        app.program.find_line("original 1")
        assert not threading.Event().wait(0.4)
        app.value("till.let_go()")
        assert app.end("call")["outcome"] == "held"
    assert handle.failures == 0
    assert told.records == []


def test_a_hook_that_asks_when_nobody_waits_any_more_is_told_so_and_its_own_error_is_logged_beside(
    begin_app: Callable[..., App], told: Told
) -> None:
    app = begin_app(CONFIG)
    seen: List[str] = []
    answered = threading.Event()

    def hook(call: Any) -> Any:
        assert answered.wait(30)
        try:
            return call.proceed()
        except ConnectionError as error:
            seen.append(str(error))
            raise KeyError("bug") from None

    with xpc_instrument.connect("shop") as session:
        handle = session.around("shop:charge", hook, timeout=0.2)
        handle.on_failure(lambda error: handle.failures == 2 and told(error))
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        answered.set()
        wait_for(told.failed)
    assert "waits for this call no longer" in seen[0]
    assert [one.getMessage()[:34] for one in told.records] == ["the around hook on shop:charge fai", "the around hook on shop:charge: th"]


# a hook that ends while a thread of it is in proceed() --------------------------------------------------------------------------


def raise_bug() -> None:
    raise KeyError("bug")


@pytest.mark.parametrize(("ends", "outcome"), [(lambda: "early", "early"), (raise_bug, "held")])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_hook_that_ends_while_it_still_proceeds_is_answered_after_that_and_says_so_in_one_line(
    begin_app: Callable[..., App], tmp_path: Path, told: Told, ends: Callable[[], Any], outcome: str, is_async: bool
) -> None:
    app = begin_faulty(begin_app, tmp_path)
    original = threading.Event()

    def hands_over(call: Any) -> Any:
        threading.Thread(target=call.proceed).start()
        wait_for(original)
        return ends()

    async def gives_up(call: Any) -> Any:
        proceeding = asyncio.ensure_future(call.proceed_async())
        await asyncio.get_running_loop().run_in_executor(None, original.wait, 20)
        proceeding.cancel()
        return ends()

    overtaken = threading.Event()
    with xpc_instrument.connect("shop") as session:
        handle = session.around("till:hold", gives_up if is_async else hands_over, timeout=15)
        handle.on_failure(lambda error: handle.failures == 2 and told(error))
        told.on_record = lambda record: "still uses its call" in record.getMessage() and overtaken.set()
        for number in range(2):
            original.clear()
            app.value("till.release.clear()")
            app.begin("call", f"till.hold({number})")
            app.program.find_line(f"original {number}")
            original.set()
            if not number:
                wait_for(overtaken)
            app.value("till.let_go()")
            assert app.end("call")["outcome"] == outcome
        if outcome == "held":
            # The application is answered first; a session that has left reports no more.
            wait_for(told.failed)
    assert app.ran == [0, 1]
    lines = [one.getMessage() for one in told.records if one.exc_info is None]
    assert lines == [
        "the around hook on till:hold has ended while a thread of it still uses its call (proceed(), a reference): its answer waits"
    ]
    assert len(told.records) - len(lines) == handle.failures == (2 if outcome == "held" else 0)


def test_a_hook_that_ended_and_whose_process_is_gone_before_it_has_proceeded_leaves_no_traceback(
    run_program: Callable[..., Program], tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start_faulty(run_program, tmp_path)
    crashed: List[Any] = []
    monkeypatch.setattr(threading, "excepthook", crashed.append)
    ended = threading.Event()
    asked: List[str] = []

    def proceed(call: Any) -> None:
        try:
            call.proceed()
        except ConnectionError as error:
            asked.append(str(error))
        ended.set()

    def hands_over(call: Any) -> Any:
        threading.Thread(target=proceed, args=(call,)).start()
        return "early"

    with xpc_instrument.connect("shop") as session:
        session.around("till:hold", hands_over, timeout=15)
        app.begin("call", "till.hold(1)")
        app.program.find_line("original 1")
        app.program.kill()
        wait_for(ended)
    assert "waits for this call no longer" in asked[0]
    assert crashed == []
    assert [one for one in told.records if one.exc_info is not None] == []


# Ctrl-C -----------------------------------------------------------------------------------------------------------------------

RUNNING = {
    "sleeps": """
def hook(call):
    print("=inside", flush=True)
    time.sleep(60)
""",
    "proceeds": """
def hook(call):
    print("=inside", flush=True)
    return call.proceed()
""",
    "awaits": """
async def hook(call):
    print("=inside", flush=True)
    await asyncio.sleep(60)
""",
    "awaits what proceeds": """
async def hook(call):
    print("=inside", flush=True)
    return await call.proceed_async()
""",
}


@pytest.mark.parametrize("does", RUNNING)
def test_ctrl_c_while_a_hook_runs_is_one_line(
    begin_app: Callable[..., App], run_program: Callable[..., Program], tmp_path: Path, does: str
) -> None:
    app = begin_faulty(begin_app, tmp_path)
    script = run_program(SCRIPT.format(body=RUNNING[does] + 'app.around("till:hold", hook, timeout=15)'), name="script.py")
    script.read_until("INFO serving")  # else that may come in the middle of what the hook prints
    app.begin("call", "till.hold(1)")
    script.read_until("=inside")
    script.signal(signal.SIGINT)
    began = time.monotonic()
    assert script.wait() == 0
    assert time.monotonic() - began < 10
    app.value("till.let_go()")
    assert app.end("call")["outcome"] == "held"
    assert app.ran == [1]
    said = script.output[script.output.index("=inside") + 1 :]
    assert said == ["WARNING Ctrl-C while 1 of the hooks run: the application goes on without their answers", "left"]
    assert app.program.text.count("xpc_agent") == 0


def test_a_second_ctrl_c_while_the_session_closes_is_one_line_and_the_application_goes_on(
    begin_app: Callable[..., App], run_program: Callable[..., Program], tmp_path: Path
) -> None:
    app = begin_faulty(begin_app, tmp_path)
    script = run_program(SCRIPT.format(body=RUNNING["sleeps"] + 'app.around("till:hold", hook, timeout=15)'), name="script.py")
    script.read_until("INFO serving")  # else that may come in the middle of what the hook prints
    app.begin("call", "till.hold(1)")
    script.read_until("=inside")
    # It does not answer, so that the script waits for it as it closes.
    stop(app.program)
    try:
        script.signal(signal.SIGINT)
        script.read_until("WARNING Ctrl-C while 1 of the hooks run")
        script.signal(signal.SIGINT)
        assert script.wait() == 0
    finally:
        app.program.signal(signal.SIGCONT)
    said = script.output[script.output.index("=inside") + 1 :]
    assert said[1:] == ["WARNING Ctrl-C again while the session was closing: the application sees its connections end", "left"]
    app.value("till.let_go()")
    assert app.end("call")["outcome"] == "held"
    assert app.ran == [1]


def test_an_async_hook_that_awaits_what_proceed_gave_is_told_what_to_await(
    begin_app: Callable[..., App], tmp_path: Path, told: Told
) -> None:
    app = begin_faulty(begin_app, tmp_path)

    async def hook(call: Any) -> Any:
        return await call.proceed()

    with xpc_instrument.connect("shop") as session, session.around("till:pay", hook) as handle:
        handle.on_failure(told)
        assert app.value("till.pay(1)") == "paid"
        assert told.failed.wait(10)
    (text,) = [record.getMessage() for record in told.records if "failed" in record.getMessage()]
    assert text.endswith("failed: an async hook awaits call.proceed_async(), not call.proceed()")
    assert app.ran == [1]
