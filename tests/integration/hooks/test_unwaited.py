"""Hooks that nobody waits for: what the application pays, what arrives, in which order, and that every call is delivered or counted."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.programs import Program, kill
from xpc_instrument import find_free_port
from xpc_instrument.core.model.errors import ReferenceExpiredError
from xpc_instrument.core.values.captured import Captured
from xpc_instrument.core.values.references import Reference

EIGHT_THREADS = (
    "(lambda threads: [[one.start() for one in threads], [one.join() for one in threads]] and None)"
    "([shop.threading.Thread(target=lambda: [shop.charge(i) for i in range({})]) for _ in range(8)])"
)
PATIENCE = 30.0


@pytest.fixture
def start(begin_app: Callable[..., App]) -> Callable[..., App]:
    """Start the application with these limits."""

    def start(limits: str = "") -> App:
        return begin_app(f'[limits]\n{limits}\n[[probe]]\ntarget = "shop:*"\n')

    return start


class Seen:
    """A hook that keeps what it sees, and lets a test wait until it has seen so much."""

    def __init__(self, show: Callable[[Any], Any] = lambda call: call.args[0]) -> None:
        self.values: List[Any] = []
        self._show = show
        self._more = threading.Condition()

    def __call__(self, call: Any) -> None:
        value = self._show(call)
        with self._more:
            self.values.append(value)
            self._more.notify_all()

    def wait_for(self, count: int) -> List[Any]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.values) >= count, PATIENCE), f"{len(self.values)} of {count}"
            return list(self.values)


def test_events_arrive_in_the_order_of_the_calls(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen()
        handle = session.before("shop:charge", seen, wait=False)
        app.evaluate("[shop.charge(i) for i in range(3000)] and None")
        handle.remove()
        assert seen.values == list(range(3000))
        assert (handle.delivered, handle.dropped) == (3000, 0)
        # Disarmed: the next call is none of its own.
        app.evaluate("shop.charge(1)")
        assert handle.delivered == 3000


def test_hooks_may_come_after_the_last_one_is_gone(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        for _ in range(3):
            handle = session.before("shop:charge", Seen(), wait=False)
            app.evaluate("[shop.charge(i) for i in range(1000)] and None")
            handle.remove()
            assert (handle.delivered, handle.dropped) == (1000, 0)


def test_events_of_before_and_after_hooks_of_one_session_are_in_order(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (call.mode.value, call.args[0], call.result))
        session.before("shop:charge", seen, wait=False)
        session.after("shop:charge", seen, wait=False)
        app.evaluate("[shop.charge(i) for i in range(2)] and None")
        assert seen.wait_for(4) == [("before", 0, None), ("after", 0, "0 EUR"), ("before", 1, None), ("after", 1, "1 EUR")]


def test_an_event_shows_the_values_as_they_were_at_the_call(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (call.args, call.kwargs))
        session.before("shop:charge", seen, wait=False)
        app.evaluate("[one := [1], two := {'a': one}, shop.charge(one, currency=two), one.append(2), two.clear()] and None")
        app.evaluate("[big := list(range(100)), shop.charge(big), big.clear()] and None")
        app.evaluate("[array := bytearray(b'x' * 100_000), shop.charge(array), array.clear()] and None")
        values = seen.wait_for(3)
        assert values[0] == (([1], {"a": [1]}), {})
        assert values[1] == ((list(range(100)), "EUR"), {})
        assert values[2] == ((bytearray(b"x" * 100_000), "EUR"), {})


def test_what_cannot_cross_arrives_as_its_text_and_says_why_it_cannot_be_reached(start: Callable[..., App]) -> None:
    app = start('max-payload = "1 MB"')
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (call.instance, *call.args, *call.kwargs.values()))
        session.before("shop:charge", seen, wait=False, values="copy")
        session.before("shop:Order.total", seen, wait=False)
        app.evaluate("shop.charge(shop.threading.Lock(), 5)")
        app.evaluate("shop.charge('x' * 1_100_000, currency='y' * 500_000)")
        app.evaluate("shop.charge('x' * 100_000, 'z')")
        app.evaluate("shop.charge(shop.Plain([1]), 'z')")
        app.evaluate("shop.Order(7).total(3)")
        lock, huge, large, foreign, method = seen.wait_for(5)
        assert isinstance(lock[1], Captured)
        assert "lock" in repr(lock[1])
        assert lock[2] == 5
        with pytest.raises(AttributeError, match="acquire"):
            lock[1].acquire()
        assert isinstance(huge[1], Captured)
        assert (huge[1].cut, len(huge[1])) == ("length", 1_100_000)
        assert large[1:] == ("x" * 100_000, "z")
        # A class that this process cannot import takes nothing else with it.
        assert isinstance(foreign[1], Reference)
        assert "No module named 'shop'" in repr(foreign[1])
        assert foreign[2] == "z"
        assert "shop.Order" in repr(method[0])
        with pytest.raises(ReferenceExpiredError, match="wait=False"):
            method[0].number  # noqa: B018
        assert method[1] == 3


def test_what_is_not_plain_is_captured_with_its_secrets_hidden(start: Callable[..., App]) -> None:
    app = start('[redact]\nnames = ["inner-code"]')
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (*call.args, call.result))
        session.after("shop:charge", seen, wait=False)
        app.evaluate("setattr(shop, 'kept', shop.Order(7)) or vars(shop.kept).update(password='HIDDEN', inner_code='HIDDEN')")
        app.evaluate("shop.charge(shop.kept)")
        ((order, currency, _),) = seen.wait_for(1)
        assert (order.type, order.number, currency) == ("shop:Order", 7, "EUR")
        assert order.password.cut == "redacted"
        assert "HIDDEN" not in repr(order)


def test_a_hook_keeps_no_class_of_what_it_has_captured(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen()
        session.before("shop:charge", seen, wait=False)
        session.watch("shop:charge")
        app.evaluate("setattr(shop, 'kind', type('Passing', (), {})) or shop.charge(shop.kind())")
        app.evaluate("setattr(shop, 'known', __import__('weakref').ref(shop.kind)) or delattr(shop, 'kind') or shop.calls.clear()")
        assert seen.wait_for(1)[0].type.endswith("Passing")
        gone = "__import__('gc').collect() >= 0 and shop.known() is None"
        assert app.evaluate(f"any({gone} or __import__('threading').Event().wait(0.01) for _ in range(500))") == "True"


def test_an_after_hook_gets_the_result_the_exception_and_the_duration(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (call.result, call.exception, call.duration, call.arguments))
        session.after("shop:charge", seen, wait=False)
        session.after("shop:fail", seen, wait=False)
        assert app.evaluate("shop.charge(5)") == "'5 EUR'"
        assert app.evaluate("shop.fail('no')") == "raised ValueError: no"
        (result, no_error, duration, arguments), (nothing, error, _, _) = seen.wait_for(2)
        assert (result, no_error, arguments) == ("5 EUR", None, {"amount": 5, "currency": "EUR"})
        assert 0 < duration < 1
        assert nothing is None
        assert isinstance(error, ValueError)
        assert "in fail" in str(error.__cause__)


def test_every_kind_of_callable_is_seen(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (call.target.partition(":")[2], call.mode.value, call.args, call.result))
        for target in ("wait_a_little", "count", "acount", "Order.made", "Order.twice", "Order.label"):
            session.before(f"shop:{target}", seen, wait=False)
            session.after(f"shop:{target}", seen, wait=False)
        app.evaluate(
            "[asyncio.run(shop.wait_a_little(1)), list(shop.count(2)), shop.Order.made(3), shop.Order.twice(4), shop.Order(5).label]"
        )
        values = seen.wait_for(10)
        results = {(name, mode): (args, result) for name, mode, args, result in values}
        assert results["wait_a_little", "after"] == ((1,), 2)
        assert results["count", "after"] == ((2,), "done")
        assert results["Order.made", "after"] == ((3,), 3)
        assert results["Order.twice", "after"] == ((4,), 8)
        assert results["Order.label", "after"] == ((), "order 5")
        assert [name for name, _, _, _ in values[:2]] == ["wait_a_little"] * 2


def test_a_hook_that_raises_is_reported_and_the_others_go_on(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen()

        def picky(call: Any) -> None:
            if call.args[0] % 2:
                raise SystemExit("odd") if call.args[0] == 3 else ValueError("odd")
            call.proceed()

        handle = session.before("shop:charge", picky, wait=False)
        session.before("shop:charge", seen, wait=False)
        app.evaluate("[shop.charge(i) for i in range(4)] and None")
        assert seen.wait_for(4) == [0, 1, 2, 3]
        handle.remove()
        assert handle.failures == handle.delivered == 4
        assert isinstance(handle.last_failure, SystemExit)


def test_async_hooks_are_awaited_one_after_the_other(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen()
        under_way: List[int] = []

        async def hook(call: Any) -> None:
            assert not under_way
            under_way.append(1)
            await __import__("asyncio").sleep(0)
            under_way.pop()
            seen(call)

        # Removed at once: the loop is started while remove() waits.
        handle = session.before("shop:charge", hook, wait=False)
        app.evaluate("[shop.charge(i) for i in range(100)] and None")
        handle.remove()
        assert seen.values == list(range(100))
        assert handle.failures == 0


def test_delivered_and_dropped_are_all_calls_of_eight_threads_with_a_slow_script_and_a_short_queue(start: Callable[..., App]) -> None:
    app = start("max-queue = 50")
    with xpc_instrument.connect("shop") as session:
        handle = session.before("shop:charge", lambda call: threading.Event().wait(0.0005), wait=False)
        app.evaluate("__import__('sys').setswitchinterval(1e-5)")
        app.evaluate(EIGHT_THREADS.format(4000))
        handle.remove()
        assert handle.dropped > 0
        assert handle.delivered > 0
        assert handle.delivered + handle.dropped == 8 * 4000


def test_each_thread_sees_its_own_order(start: Callable[..., App]) -> None:
    app = start("max-queue = 100000")
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (call.thread, call.args[0]))
        handle = session.before("shop:charge", seen, wait=False)
        app.evaluate(EIGHT_THREADS.format(1000))
        handle.remove()
        assert handle.dropped == 0
        # A thread that has ended may leave its identifier to the next.
        for thread in {thread for thread, _ in seen.values}:
            mine = [number for one, number in seen.values if one == thread]
            assert mine == list(range(1000)) * (len(mine) // 1000)
        assert len(seen.values) == 8000


def test_a_queue_is_bounded_in_bytes_too(start: Callable[..., App]) -> None:
    app = start('max-queue = 100\nmax-queue-bytes = "1 MB"')
    with xpc_instrument.connect("shop") as session:
        go_on = threading.Event()
        seen = Seen(lambda call: len(call.args[0]))

        def hook(call: Any) -> None:
            go_on.wait(PATIENCE)
            seen(call)

        handle = session.before("shop:charge", hook, wait=False)
        app.evaluate("[shop.charge('x' * 300_000) for _ in range(20)] and None")
        go_on.set()
        handle.remove()
        # Three wait, and those that were under way meanwhile.
        assert 3 <= handle.delivered <= 8
        assert handle.delivered + handle.dropped == 20
        assert set(seen.values) == {300_000}


def test_what_is_dropped_is_told_although_nothing_is_queued_any_more(start: Callable[..., App]) -> None:
    app = start('max-queue = 10\nmax-queue-bytes = "10 kB"')
    with xpc_instrument.connect("shop") as session:
        handle = session.before("shop:charge", lambda call: None, wait=False)
        app.evaluate("shop.charge('x' * 20_000)")
        told = threading.Event()
        for _ in range(1000):
            if handle.dropped:
                break
            told.wait(0.01)
        assert (handle.delivered, handle.dropped) == (0, 1)


def test_terms_apply(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        handle = session.before("shop:charge", lambda call: None, wait=False, limit=3)
        app.evaluate("[shop.charge(i) for i in range(10)] and None")
        handle.remove()
        assert (handle.delivered, handle.dropped) == (3, 0)


def test_a_waited_and_an_unwaited_hook_share_a_target(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen()
        session.before("shop:charge", seen, wait=False)
        session.instead("shop:charge", lambda amount: "hooked")
        assert app.evaluate("shop.charge(1)") == "'hooked'"
        assert seen.wait_for(1) == [1]


def test_a_script_that_is_stopped_costs_the_application_nothing_but_the_drops(
    start: Callable[..., App], run_program: Callable[..., Program]
) -> None:
    app = start("max-queue = 100")
    script = run_program(SCRIPT, name="script.py")
    script.read_until("hooked")
    script.signal(signal.SIGSTOP)
    try:
        with xpc_instrument.connect("shop") as session:
            # Another session's events go on meanwhile.
            seen = Seen()
            session.before("shop:charge", seen, wait=False)
            app.evaluate("[shop.charge(i) for i in range(2000)] and None")
            app.evaluate("[shop.charge(i) for i in range(10)] and None")
            assert len(seen.wait_for(1)) >= 1
    finally:
        script.signal(signal.SIGCONT)
    script.send_line("remove")
    delivered, dropped = map(int, script.read_until("counts").split()[1:])
    assert dropped > 0
    assert delivered + dropped == 2010
    script.send_line("")
    script.wait()


def test_a_script_that_is_killed_leaves_its_events_behind_counted(start: Callable[..., App], run_program: Callable[..., Program]) -> None:
    app = start("max-queue = 100")
    script = run_program(SCRIPT, name="script.py")
    script.read_until("hooked")
    script.signal(signal.SIGSTOP)
    os.waitpid(script.pid, os.WUNTRACED)  # all of its threads have stopped
    app.evaluate("[shop.charge(i) for i in range(1000)] and None")
    kill(script.pid)
    script.wait()
    counters = "__import__('xpc_agent.life.control').life.control.current().table.points['shop:charge']"
    figures = "next(one for one in __import__('xpc_agent').stats() if one.target == 'shop:charge')"
    for _ in range(1000):
        if app.evaluate(f"{counters}.hooks") == "[]":
            break
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    for _ in range(1000):
        if app.evaluate(f"{figures}.calls") == "1000":
            break
    # What had been answered before the script stopped was delivered; all else is dropped.
    assert app.evaluate(f"{figures}.dropped") == "1000"
    threads = "len(__import__('xpc_agent.life.control').life.control.current().registrations.sender._queues)"
    for _ in range(1000):
        if app.evaluate(threads) == "0":
            break
    assert app.evaluate(threads) == "0"


SCRIPT = """
import sys, xpc_instrument
app = xpc_instrument.connect("shop")
handle = app.before("shop:charge", lambda call: None, wait=False)
print("hooked", flush=True)
for line in sys.stdin:
    if not line.strip():
        break
    handle.remove()
    print("counts", handle.delivered, handle.dropped, flush=True)
app.close()
"""


# The child leaves when all is sent: the end of a process waits for a fifth of a second, in which a crowded machine may not even begin.
SENT = "all(one.idle for one in __import__('xpc_agent.life.control').life.control.current().registrations.sender._queues)"
FORKING = (
    "[shop.charge(100), [os.waitpid(pid, 0) if pid else ([shop.charge(i) for i in range(5)], "
    f"[os.sched_yield() for _ in iter(lambda: {SENT}, True)], "
    "__import__('xpc_agent').stop(), os._exit(0)) for pid in [os.fork()]], shop.charge(200)] and None"
)


def test_a_forked_child_sends_its_own_events_and_none_of_its_parents(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen(lambda call: (call.pid, call.args[0]))
        handle = session.before("shop:charge", seen, wait=False)
        app.evaluate(FORKING.replace("os.", "__import__('os')."))
        values = seen.wait_for(7)
        parent = app.program.pid
        assert [number for pid, number in values if pid == parent] == [100, 200]
        assert [number for pid, number in values if pid != parent] == [0, 1, 2, 3, 4]
        handle.remove()
        assert (handle.delivered, handle.dropped) == (7, 0)


def test_no_thread_of_ours_is_there_at_a_fork(run_program: Callable[..., Program], tmp_path: Path) -> None:
    # From Python 3.12 on a fork beside a second thread is warned of.
    app = start_app(run_program, tmp_path, python=["-W", "error::DeprecationWarning"])
    with xpc_instrument.connect("shop") as session:
        seen = Seen()
        go_on = threading.Event()
        slow = session.before("shop:fail", lambda call: go_on.wait(PATIENCE), wait=False)
        session.before("shop:charge", seen, wait=False)
        fork = "[os.waitpid(pid, 0) if pid else os._exit(0) for pid in [os.fork()]] and shop.charge({})".replace("os.", "__import__('os').")
        # Asleep, between two looks, and with a batch under way.
        assert app.evaluate(fork.format(1)) == "'1 EUR'"
        assert app.evaluate(fork.format(2)) == "'2 EUR'"
        seen.wait_for(2)
        app.evaluate("shop.fail('x')")
        for number in range(3, 6):
            assert app.evaluate(fork.format(number)) == f"'{number} EUR'"
        go_on.set()
        assert seen.wait_for(5) == [1, 2, 3, 4, 5]
        slow.remove()
        assert (slow.delivered, slow.dropped) == (1, 0)


def test_an_exit_delivers_what_is_queued(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        seen = Seen()
        handle = session.before("shop:charge", seen, wait=False)
        app.start("[shop.charge(i) for i in range(2000)] and __import__('sys').exit()")
        app.program.send_line("")
        app.program.wait()
        assert seen.wait_for(2000) == list(range(2000))
        assert handle.dropped == 0


def test_an_exit_with_a_slow_script_is_prompt_and_counts_what_is_dropped(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        go_on = threading.Event()
        handle = session.before("shop:charge", lambda call: go_on.wait(PATIENCE), wait=False)
        app.evaluate("[shop.charge(i) for i in range(2000)] and None")
        app.program.send_line("")
        app.program.wait()
        assert handle.dropped > 0
        go_on.set()
        for _ in range(1000):
            if handle.delivered + handle.dropped == 2000:
                break
            threading.Event().wait(0.01)
        assert handle.delivered + handle.dropped == 2000


def test_closing_the_session_delivers_or_counts_what_is_queued(start: Callable[..., App]) -> None:
    app = start()
    session = xpc_instrument.connect("shop")
    seen = Seen()
    handle = session.before("shop:charge", seen, wait=False)
    slow = session.before("shop:fail", lambda call: threading.Event().wait(0.01), wait=False)
    app.evaluate("[shop.charge(i) for i in range(1000)] and None")
    session.close()
    assert seen.values == list(range(1000))
    assert (handle.delivered, handle.dropped, slow.delivered) == (1000, 0, 0)


def test_closing_counts_what_is_not_delivered_in_time(start: Callable[..., App]) -> None:
    app = start()
    session = xpc_instrument.connect("shop")
    handle = session.before("shop:charge", lambda call: threading.Event().wait(0.01), wait=False)
    app.evaluate("[shop.charge(i) for i in range(1500)] and None")
    session.close()
    assert handle.dropped > 0
    assert handle.delivered + handle.dropped == 1500


def test_a_hook_that_removes_itself_does_not_wait_for_itself(start: Callable[..., App]) -> None:
    app = start()
    with xpc_instrument.connect("shop") as session:
        removed = threading.Event()
        handles: List[Any] = []

        def once(call: Any) -> None:
            handles[0].remove()
            removed.set()

        handles.append(session.before("shop:charge", once, wait=False))
        app.evaluate("[shop.charge(i) for i in range(1000)] and None")
        assert removed.wait(5)
        assert handles[0].delivered == 1
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_events_of_processes_that_share_an_address_travel_through_its_host(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path, kind: str
) -> None:
    address = f"tcp:127.0.0.1:{find_free_port('127.0.0.1')}" if kind == "tcp" else f"unix:{runtime_dir}/fixed.sock"
    key = tmp_path / "shop.key"
    key.touch(0o600)
    key.write_text("a long enough key\n")
    config = f'[manager]\naddress = "{address}"\nauthkey-file = "shop.key"\n[[probe]]\ntarget = "shop:*"\n'
    host = start_app(run_program, tmp_path, config)
    member = start_app(run_program, tmp_path, config)
    with xpc_instrument.connect(address, "a long enough key") as session:
        seen = Seen(lambda call: (call.pid, call.args[0], call.arguments["amount"]))
        handle = session.before("shop:charge", seen, wait=False)
        host.evaluate("[shop.charge(i) for i in range(1000)] and None")
        member.evaluate("[shop.charge(i) for i in range(1000)] and None")
        handle.remove()
        for app in (host, member):
            assert [number for pid, number, _ in seen.values if pid == app.program.pid] == list(range(1000))
        assert (handle.delivered, handle.dropped) == (2000, 0)
