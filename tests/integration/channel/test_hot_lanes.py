"""Hot lanes in a real application: in all modes, with all values, through faults, and only where they are wanted."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, listing
from tests.integration.fault_fixture import LATE, SCRIPT, TURNS, Faulty, Sleeper, holds_once, is_busy, stop
from tests.programs import PATIENCE, Program, wait_for_exit
from xpc_instrument import Session
from xpc_instrument.core.wire.memory import why_plain

pytestmark = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")

# A machine that does other work too runs the script a bit later: the application is to look for as long as that takes.
SPIN = "[limits]\nhot-spin = 0.001\n"
PROBES = '[[probe]]\ntarget = "shop:*"\n[[probe]]\ntarget = "busy:*"\n'
BUSY = """
import os, threading, time

def pay(n):
    paid.append(n)
    return "paid"

paid = []
going = True
seen = {}
longest = 0.0

def call(name):
    # Back to back until told to end: what came back, in order, each as often as it came in a row.
    global longest
    counts = seen[name] = []
    number = 0
    while going:
        started = time.monotonic()
        try:
            answer = pay(number)
        except Exception as error:
            answer = repr(error)
        longest = max(longest, time.monotonic() - started)
        if not counts or counts[-1][0] != answer:
            counts.append([answer, 0])
        counts[-1][1] += 1
        number += 1

def begin(*names):
    for name in names:
        threads[name] = threading.Thread(target=call, args=(name,))
        threads[name].start()

threads = {}

def end():
    global going
    going = False
    for thread in threads.values():
        thread.join(30)
    return seen

def fork(count):
    child = os.fork()
    if not child:
        answers = {pay(n) for n in range(count)}
        os._exit(answers != {"hooked"})
    answers = {pay(n) for n in range(count)}
    return answers, os.waitpid(child, 0)[1]

def mapped():
    with open("/proc/self/maps") as file:
        return file.read().count("memfd:xpc-instrument")
"""


# Never set; what waits for it gives way to others between two looks.
PAUSE = threading.Event()


class Busy(Faulty):
    """The application with a module `busy`."""

    def heats(self, expression: str, wanted: int = 200) -> None:
        """Evaluate it until so many frames have gone through memory."""
        started = time.monotonic()
        before = self.frames()
        while self.frames() - before < wanted:
            _check_time(started, self.frames() - before)
            self.value(f"[{expression} for n in range(200)][:0]")

    def runs_hot(self, since: int = 0, wanted: int = 50) -> None:
        """Wait until threads that have begun have put so many more frames into memory."""
        started = time.monotonic()
        while self.frames() < since + wanted:
            # Not asked without pause: that would keep busy the very threads that are to be quick.
            PAUSE.wait(0.05)
            _check_time(started, self.frames() - since)

    def all_get(self, answer: str) -> None:
        """Wait until each thread that has begun gets this: one of them may wait for the interpreter while the others go on."""
        deadline = time.monotonic() + PATIENCE
        while self.value("{counts[-1][0] if counts else None for counts in busy.seen.values()}") != {answer}:
            assert time.monotonic() < deadline, f"not all threads get {answer}"
            PAUSE.wait(0.02)


def _check_time(started: float, frames: int) -> None:
    elapsed = time.monotonic() - started
    if elapsed > PATIENCE / 6 and is_busy():
        pytest.skip("the processors are busy with other programs, and a lane does not get hot then")
    assert elapsed < PATIENCE, f"{frames} frames went through memory"


def start_busy(begin_app: Callable[..., App], folder: Path, more: str = SPIN, timeout: float = 20.0) -> Busy:
    (folder / "busy.py").write_text(BUSY)
    app = Busy(begin_app(f"{more}[defaults]\ntimeout = {timeout}\nsuspend-after = 0\n{PROBES}").program)
    app.value("globals().update(busy=__import__('busy'))")
    return app


@pytest.fixture
def app(begin_app: Callable[..., App], tmp_path: Path) -> Busy:
    return start_busy(begin_app, tmp_path)


@pytest.fixture
def session(app: Busy) -> Iterator[Session]:
    with xpc_instrument.connect("shop") as session:
        yield session


def script(run_program: Callable[..., Program], mode: str, step: str = "answers", warm: int = 0) -> Program:
    program = run_program(SCRIPT, "busy:pay", mode, step, str(warm), name="script.py")
    program.read_until("hooked")
    return program


# in use -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["before", "after", "around", "instead"])
def test_a_lane_gets_hot_when_calls_follow_each_other(app: Busy, session: Session, mode: str) -> None:
    seen: List[Any] = []

    def hook(first: Any) -> Any:
        seen.append(first)
        return first * 2 if mode == "instead" else first.proceed() + "!" if mode == "around" else None

    getattr(session, mode)("busy:pay", hook)
    app.heats("busy.pay(n)")
    (ours,) = session.lanes()
    assert (ours.pid, ours.script, ours.hot, ours.plain) == (app.program.pid, os.getpid(), ours.lanes, {})
    assert ours.frames >= 200
    expected = {"before": "paid", "after": "paid", "around": "paid!", "instead": 14}[mode]
    before = len(seen)
    assert app.value("[busy.pay(7) for _ in range(300)]") == [expected] * 300
    assert len(seen) - before == 300


def test_values_of_all_kinds_cross_a_hot_lane(app: Busy, session: Session) -> None:
    session.around("shop:Order.total", lambda call: (call.instance.number, call.instance.label, call.proceed()))
    session.around("shop:nested", lambda call: call.proceed())
    session.instead("shop:fail", lambda text: 1 / 0)
    session.around("shop:give_lock", lambda call: call.proceed())
    session.around("shop:unique", lambda call: call.proceed())
    session.instead("shop:charge", lambda amount, currency="EUR": amount)
    app.heats("shop.charge(n)")
    for size in (0, 1, 1000, 65_000, 65_536, 66_000, 1_000_000, 1):
        app.heats("shop.charge(n)", 20)
        assert app.value(f"[shop.charge(b'x' * {size}) == b'x' * {size} for _ in range(5)]") == [True] * 5
        assert app.value("[shop.Order(3).total(n) for n in range(20)]") == [(3, "order 3", 3 * n) for n in range(20)]
        assert app.value("shop.nested(5)") == 5
        assert app.evaluate("[shop.fail('x') for _ in range(5)]").startswith("raised ZeroDivisionError")
        assert app.value("[type(shop.give_lock()).__name__ for _ in range(5)]") == ["lock"] * 5
        assert app.value("shop.unique() is shop.calls") is True
        assert app.value("[shop.charge(object()).__class__.__name__ for _ in range(5)]") == ["object"] * 5


def test_several_threads_have_hot_lanes_and_none_gets_anothers_answer(app: Busy, session: Session) -> None:
    session.instead("shop:charge", lambda n, currency: (n, currency))
    expression = (
        "list(__import__('concurrent.futures').futures.ThreadPoolExecutor(8).map("
        "lambda k: all(shop.charge(k, n) == (k, n) for n in range(300)), range(8)))"
    )
    app.heats("shop.charge(n, n)")
    # Where many compete for few processors they may well sleep: what counts is that the answers are right either way.
    assert app.value(expression) == [True] * 8
    app.heats("shop.charge(n, n)", 20)


def test_tasks_and_hooks_that_nobody_waits_for_use_lanes_that_were_hot(app: Busy, session: Session) -> None:
    delivered: List[Any] = []
    session.instead("shop:charge", lambda n: n)
    session.instead("shop:wait_a_little", lambda n: -n)
    session.before("busy:pay", lambda call: delivered.append(call.args[0]), wait=False)
    for number in range(5):
        app.heats("shop.charge(n)", 50)
        assert app.value("asyncio.run(shop.wait_a_little(3))") == -3
        assert app.value(f"[busy.pay({number}) for _ in range(50)]") == ["paid"] * 50
        assert app.value("[shop.charge(n) for n in range(50)]") == list(range(50))
    deadline = time.monotonic() + PATIENCE
    while len(delivered) < 250 and time.monotonic() < deadline:
        PAUSE.wait(0.02)
    assert delivered == [number for number in range(5) for _ in range(50)]


def test_an_armed_hook_that_is_not_called_costs_no_processor_time(app: Busy, run_program: Callable[..., Program]) -> None:
    program = script(run_program, "instead")
    app.heats("busy.pay(n)")
    before = [busy_seconds(pid) for pid in (app.program.pid, program.pid)]
    # Half a second, in which both have nothing to do.
    assert not wait_for_exit(program.pid, 0.5)
    used = [busy_seconds(pid) - start for pid, start in zip((app.program.pid, program.pid), before)]
    assert max(used) < 0.01, used


def busy_seconds(pid: int) -> float:
    """Processor time of all threads of a process."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def test_hot_lanes_can_be_turned_off_and_ls_says_so(begin_app: Callable[..., App], tmp_path: Path) -> None:
    app = start_busy(begin_app, tmp_path, "[limits]\nhot-lanes = false\n")
    with xpc_instrument.connect("shop") as session:
        session.instead("busy:pay", lambda n: n)
        assert app.value("[busy.pay(n) for n in range(300)]") == list(range(300))
        (process,) = as_json(listing("--stats", "--json"))
        ours = next(one for one in process["process"]["by-session"] if one["lanes"])
        lanes = ours["lanes"]
        plain = {"hot-lanes = false": lanes}
        assert ours == {"script": os.getpid(), "claimed": False, "lanes": lanes, "hot": 0, "frames": 0, "plain": plain}
        assert app.value("busy.mapped()") == 0
        # Only those with lanes: the session of `ls` may still be leaving.
        inside = app.value("[(one.script, one.hot, one.plain) for one in __import__('xpc_agent').lanes() if one.lanes]")
        assert inside == [(os.getpid(), 0, {"hot-lanes = false": lanes})]
        assert [(one.script, one.hot, one.plain) for one in session.lanes() if one.lanes] == inside
        assert f"{lanes} plain: hot-lanes = false" in listing("--stats")


# taken away --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["remove", "close", "stop"])
def test_what_ends_while_lanes_are_hot_leaves_the_original_and_no_memory(app: Busy, way: str) -> None:
    with xpc_instrument.connect("shop") as session:
        handle = session.instead("busy:pay", lambda n: "hooked")
        app.heats("busy.pay(n)", 50)
        app.value("busy.paid.clear() or busy.begin('a', 'b')")
        app.runs_hot(app.frames(), 10)
        app.all_get("hooked")
        if way == "remove":
            handle.remove()
        elif way == "close":
            session.close()
        else:
            app.value("__import__('xpc_agent').stop()")
        app.all_get("paid")
        for counts in app.value("busy.end()").values():
            assert [answer for answer, _ in counts] == ["hooked", "paid"]
        if way == "remove":
            assert app.value("busy.pay(1)") == "paid"
    deadline = time.monotonic() + PATIENCE
    while app.value("__import__('gc').collect() and 0 or busy.mapped()") and time.monotonic() < deadline:
        PAUSE.wait(0.02)
    assert app.value("busy.mapped()") == 0


def test_a_fork_while_lanes_are_hot_leaves_parent_and_child_hooked(app: Busy, session: Session) -> None:
    session.instead("busy:pay", lambda n: "hooked")
    app.value("busy.begin('a')")
    app.runs_hot()
    for _ in range(5):
        assert app.value("busy.fork(100)") == ({"hooked"}, 0)
    seen = app.value("busy.end()")["a"]
    assert [answer for answer, _ in seen] == ["hooked"]


# faults ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "calls"), [("before", 151), ("after", 151), ("around", 151), ("instead", 150), ("instead", 233)])
def test_a_script_that_dies_in_its_hook_on_a_hot_lane_costs_nothing_more(
    app: Busy, run_program: Callable[..., Program], mode: str, calls: int
) -> None:
    program = script(run_program, mode, "dies", calls)
    app.value("busy.begin('a')")
    program.wait()
    app.disarmed()
    seen = app.value("busy.end()")["a"]
    total = sum(count for _, count in seen)
    originals = app.value("busy.paid")
    assert len(originals) == len(set(originals))
    if mode in ("before", "after"):
        assert originals == list(range(total))
    else:
        assert seen[0] == ["hooked", calls] and originals == list(range(calls, total))


@pytest.mark.parametrize("mode", ["before", "instead"])
def test_a_script_that_is_killed_anywhere_while_its_lane_is_hot_is_not_waited_for(
    app: Busy, run_program: Callable[..., Program], mode: str
) -> None:
    def attempt(number: int) -> float:
        program = script(run_program, mode)
        app.value("busy.__dict__.update(going=True, longest=0.0) or busy.paid.clear() or busy.begin('a')")
        app.runs_hot()
        program.kill()
        app.disarmed()
        app.all_get("paid")
        seen = app.value("busy.end()")["a"]
        hooked = seen[0][1] if mode == "instead" else 0
        # Compared there: some ten thousand numbers take several writes, and the agent's log would come between them.
        assert app.value(f"busy.paid == list(range({hooked}, {sum(count for _, count in seen)}))") is True
        assert [answer for answer, _ in seen] == (["hooked", "paid"] if mode == "instead" else ["paid"])
        return float(app.value("busy.longest"))

    holds_once(attempt)


@pytest.mark.parametrize("who", ["script", "application"])
def test_a_side_that_is_stopped_while_its_lane_is_hot_costs_a_deadline_at_most(
    begin_app: Callable[..., App], run_program: Callable[..., Program], tmp_path: Path, who: str
) -> None:
    timeout = 0.3
    app = start_busy(begin_app, tmp_path, timeout=timeout)
    program = script(run_program, "instead")

    def attempt(number: int) -> float:
        app.value("busy.__dict__.update(going=True, longest=0.0) or busy.paid.clear() or busy.begin('a')")
        app.runs_hot(app.frames())
        stopped = program if who == "script" else app.program
        stop(stopped)
        if who == "script":
            deadline = time.monotonic() + PATIENCE
            while not app.value("busy.paid") and time.monotonic() < deadline:
                PAUSE.wait(0.02)
        stopped.signal(signal.SIGCONT)
        seen = app.value("busy.end()")["a"]
        answers = {answer for answer, _ in seen}
        assert answers <= {"hooked", "paid"}
        originals = app.value("busy.paid")
        assert len(originals) == sum(count for answer, count in seen if answer == "paid")
        assert len(originals) == len(set(originals))
        if who == "application":
            return 0.0  # no clock of its own told it that it stood still
        longest = float(app.value("busy.longest"))
        assert longest >= timeout
        # It hooks again, on a new lane.
        app.heats("busy.pay(n)", 50)
        return longest - timeout

    holds_once(attempt)


def test_a_deadline_that_is_missed_on_a_hot_lane_runs_the_original_once(begin_app: Callable[..., App], tmp_path: Path) -> None:
    app = start_busy(begin_app, tmp_path, timeout=0.3)
    free = threading.Event()
    late = threading.Event()

    def hook(n: int) -> str:
        if late.is_set():
            late.clear()
            free.wait(20)
        return "hooked"

    with xpc_instrument.connect("shop") as session:
        session.instead("busy:pay", hook)
        try:
            app.heats("busy.pay(n)")
            app.value("busy.paid.clear()")
            late.set()
            answers = app.value("[busy.pay(n) for n in range(100)]")
            # The script dials a lane in place of the one that was dropped: that may take longer than a call may wait.
            assert answers[0] == "paid" and answers[-1] == "hooked"
            assert app.value("busy.paid") == [number for number, answer in enumerate(answers) if answer == "paid"]
        finally:
            free.set()


# Writes over the memories of all its lanes, again and again, while its hook answers.
SCRIBBLER = """
import gc, os, random, sys, threading
import xpc_instrument
from xpc_instrument.core.wire.hot import HotWire
from xpc_instrument.core.wire.memory import SIZE

app = xpc_instrument.connect("shop")
app.instead("busy:pay", lambda n: "hooked")
choose = random.Random(1)
going = True

def scribble():
    count = 0
    while going:
        memories = [one._memory for one in gc.get_objects() if type(one) is HotWire and hasattr(one, "_memory")]
        for _ in range(50):
            for memory in memories:
                try:
                    # Single bytes where both sides look, pieces of frames, and all of it at once.
                    memory[choose.randrange(512)] = choose.choice([0, 1, choose.randrange(256)])
                    at = choose.randrange(SIZE - 64)
                    memory[at : at + 64] = os.urandom(64)
                    if choose.random() < 0.2:
                        memory[:] = bytes([choose.randrange(256)]) * SIZE
                except ValueError:
                    continue  # it has been closed meanwhile
                count += 1
    print("scribbled", count, flush=True)

print("hooked", flush=True)
sys.stdin.readline()
thread = threading.Thread(target=scribble)
thread.start()
print("begun", flush=True)
sys.stdin.readline()
going = False
thread.join()
app.close()
"""


def test_a_script_that_scribbles_over_the_memory_spoils_its_own_calls_and_nothing_else(
    begin_app: Callable[..., App], run_program: Callable[..., Program], tmp_path: Path
) -> None:
    timeout = 0.4
    app = start_busy(begin_app, tmp_path, timeout=timeout)
    program = run_program(SCRIBBLER, name="scribbler.py")
    program.read_until("hooked")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda n: -n)
        app.heats("busy.pay(n)")
        app.heats("shop.charge(n)")
        app.value("busy.paid.clear()")
        program.send_line()
        program.read_until("begun")
        with Sleeper() as sleeper:
            app.value("busy.begin('a', 'b')")
            until = time.monotonic() + 2
            while time.monotonic() < until:
                assert app.value("[shop.charge(n) for n in range(50)]") == [-n for n in range(50)]
            seen = app.value("busy.end()")
        program.send_line()
        assert int(program.read_until("scribbled").split()[1]) > 100
        # What is loaded out of such a memory may be a pickle that takes its time, as any that the script could have sent.
        assert app.value("busy.longest") <= timeout + LATE + TURNS * sleeper.late + 5
        outcomes = [one for counts in seen.values() for one in counts]
        # What the memory says as an answer is one; nothing of ours gets through, and no original runs twice.
        assert not [answer for answer, _ in outcomes if "xpc_" in str(answer) or "ProtocolError" in str(answer)]
        originals = app.value("busy.paid")
        assert len(originals) == sum(count for answer, count in outcomes if answer == "paid") > 0
        assert max(originals.count(n) for n in set(originals)) <= len(seen)
        assert program.wait() == 0
        assert app.value("[shop.charge(n) for n in range(50)]") == [-n for n in range(50)]
        assert app.value("busy.pay(1)") == "paid"
