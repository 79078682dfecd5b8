"""Every limit is in force: real processes and sockets run into it, and nobody is hurt."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from tests.programs import Program, wait_for
from xpc_instrument import TargetError
from xpc_instrument.core.calls.registry import Registry
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.errors import ChannelError, RemoteProtocolError
from xpc_instrument.core.model.limits import DEFAULT_LIMITS, Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.dial import dial
from xpc_instrument.core.node.host import Host
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.node.peer import Peer
from xpc_instrument.core.protocol.codec import HEADER
from xpc_instrument.core.protocol.connection import new_nonce
from xpc_instrument.core.protocol.messages import PROTOCOL_VERSION, Hello, Opcode, Role
from xpc_instrument.core.values.references import Reference
from xpc_instrument.core.values.traits import python_version

# What a thread may wait beyond its deadline, in seconds: a busy machine, not the code.
MARGIN = 2.0
TIMED = "(lambda now, start: ({0}, now() - start))(__import__('time').monotonic, __import__('time').monotonic())"


@pytest.fixture
def start(begin_app: Callable[..., App]) -> Callable[..., App]:
    """Start the application with these limits, and settings of all probes."""

    def start(limits: str, settings: str = "timeout = 20") -> App:
        return begin_app(f'[limits]\n{limits}\n[defaults]\n{settings}\n[[probe]]\ntarget = "shop:*"\n')

    return start


def address() -> str:
    return discovery.find("shop")[0].address


def in_a_thread(app: App, expression: str) -> None:
    """Have the application evaluate something in a thread of its own."""
    app.evaluate(f"shop.threading.Thread(target=lambda: {expression}).start()")


def timed(app: App, expression: str) -> Any:
    """What an expression gives in the application, and how many seconds it took there."""
    return eval(app.evaluate(TIMED.format(expression)))


# max-payload ------------------------------------------------------------------------------------------------------------------


def test_an_argument_over_max_payload_arrives_as_a_reference(start: Callable[..., App]) -> None:
    app = start('max-payload = "10 kB"')
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda amount, currency="": (type(amount).__name__, type(currency).__name__, len(amount)))
        assert app.evaluate("shop.charge('x' * 9000)") == "('str', 'str', 9000)"
        assert app.evaluate("shop.charge('x' * 11000, '')") == "('Reference', 'str', 11000)"
        assert app.evaluate("shop.charge('x' * 9000, 'x' * 9000)") == "('Reference', 'Reference', 9000)"


def test_a_result_over_max_payload_fails_open(start: Callable[..., App]) -> None:
    app = start('max-payload = "10 kB"')
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda *args: "x" * 11_000)
        assert app.evaluate("shop.charge(1)") == "'1 EUR'"
        assert "is larger than max-payload, 10000 bytes" in app.log()


def test_an_original_result_over_max_payload_is_seen_as_a_reference_and_goes_back_as_itself(start: Callable[..., App]) -> None:
    app = start('max-payload = "10 kB"')
    app.evaluate("shop.calls.append('x' * 20000)")
    seen: List[Any] = []
    with xpc_instrument.connect("shop") as session:
        session.after("shop:unique", lambda call: seen.append((isinstance(call.result, Reference), len(call.result[0]))))
        session.around("shop:unique", lambda call: call.proceed())
        assert app.evaluate("shop.unique() is shop.calls") == "True"
    assert seen == [(True, 20000)]


@pytest.mark.parametrize("limit", [1, 2000])
def test_exceptions_and_references_cross_below_any_limit(start: Callable[..., App], limit: int) -> None:
    app = start(f"max-payload = {limit}")
    seen: List[Any] = []
    with xpc_instrument.connect("shop") as session:
        session.after("shop:fail", lambda call: seen.append((type(call.args[0]), type(call.exception), str(call.exception)[:6])))
        assert app.evaluate("shop.fail('no' * 2000)").startswith("raised ValueError: nono")
    assert seen == [(Reference, ValueError, "nonono")]


# max-lanes --------------------------------------------------------------------------------------------------------------------


def test_more_threads_than_lanes_wait_for_one(start: Callable[..., App]) -> None:
    app = start("max-lanes = 2")
    lock = threading.Lock()
    pair = threading.Barrier(2)
    inside: List[int] = []
    most: List[int] = []
    done = threading.Semaphore(0)

    def hook(amount: int) -> str:
        with lock:
            inside.append(amount)
            most.append(len(inside))
        pair.wait(20)
        with lock:
            inside.remove(amount)
        return "hooked"

    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", hook)
        session.before("shop:Order.twice", lambda call: done.release() if call.args == ("hooked",) else None)
        for number in range(4):
            in_a_thread(app, f"shop.Order.twice(shop.charge({number}))")
        for _ in range(4):
            assert done.acquire(timeout=30)
    assert max(most) == 2
    assert app.calls == "[]"


def test_a_thread_waits_for_a_lane_no_longer_than_its_deadline(begin_app: Callable[..., App]) -> None:
    app = begin_app(
        '[limits]\nmax-lanes = 1\n[[probe]]\ntarget = "shop:charge"\ntimeout = 60\n'
        '[[probe]]\ntarget = "shop:Order.twice"\ntimeout = 0.3\n[[probe]]\ntarget = "shop:wait_a_little"\ntimeout = 0.3\n',
    )
    entered, release = threading.Event(), threading.Event()

    def hook(*args: Any) -> None:
        entered.set()
        release.wait(60)

    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", hook)
        session.instead("shop:Order.twice", lambda number: "hooked")
        session.instead("shop:wait_a_little", lambda number: "hooked")
        in_a_thread(app, "shop.charge(1)")
        wait_for(entered)
        for expression, result in (("shop.Order.twice(4)", 8), ("asyncio.run(shop.wait_a_little(4))", 5)):
            found, seconds = timed(app, expression)
            assert found == result
            assert 0.3 <= seconds < 0.3 + MARGIN
        assert "no lane became free in time" in app.log()
        release.set()
        app.evaluate("[thread.join() for thread in shop.threading.enumerate()[1:]]")
        assert app.evaluate("shop.Order.twice(4)") == "'hooked'"


def test_recursion_deeper_than_the_lanes_fails_open_at_the_deepest_levels(start: Callable[..., App]) -> None:
    app = start("max-lanes = 2", "timeout = 20")
    with xpc_instrument.connect("shop") as session:
        levels: List[int] = []
        session.around("shop:nested", lambda call: (levels.append(call.args[0]), call.proceed())[1])
        found, seconds = timed(app, "shop.nested(4)")
        assert found == 4
        # At once: no other thread could give a lane back.
        assert seconds < 10
        assert "all 2 lanes are those of invocations that this one is inside of (max-lanes)" in app.log()
    assert levels == [4, 3]


def test_a_script_that_offers_fewer_lanes_than_it_is_asked_for_is_asked_again(start: Callable[..., App]) -> None:
    app = start("max-lanes = 32", "timeout = 0.5\nsuspend-after = 0")
    entered, release = threading.Event(), threading.Event()

    def hook(*args: Any) -> str:
        entered.set()
        release.wait(60)
        return "hooked"

    with xpc_instrument.connect("shop", limits=Limits(max_lanes=1)) as session:
        session.instead("shop:charge", hook)
        for number in range(4):
            in_a_thread(app, f"shop.charge({number})")
        wait_for(entered)
        # Past its deadline the only lane is gone, and so are those that waited for another.
        assert app.evaluate("[thread.join() for thread in shop.threading.enumerate()[1:]] and shop.charge(5)") == "'5 EUR'"
        release.set()
        assert "'hooked'" in [app.evaluate("shop.charge(6)") for _ in range(5)]


# hooks, sessions, connections -------------------------------------------------------------------------------------------------


def test_max_hooks_refuses_one_hook_more(start: Callable[..., App]) -> None:
    app = start("max-hooks = 2")
    with xpc_instrument.connect("shop") as one, xpc_instrument.connect("shop") as two:
        handle = one.before("shop:charge", print)
        two.before("shop:charge", print)
        with pytest.raises(TargetError, match=r"shop:charge has 2 hooks, the limit \(max-hooks\)"):
            one.instead("shop:charge", print)
        handle.remove()
        two.instead("shop:charge", lambda amount: "hooked")
        assert app.evaluate("shop.charge(1)") == "'hooked'"


def test_max_sessions_turns_away_one_session_more_and_says_so(start: Callable[..., App]) -> None:
    app = start("max-sessions = 1")
    with xpc_instrument.connect("shop") as session:
        with pytest.raises(RemoteProtocolError, match=r"1 sessions have joined, the limit \(max-sessions\)"):
            xpc_instrument.connect(address())
        session.instead("shop:charge", lambda amount: "hooked")
        assert app.evaluate("shop.charge(1)") == "'hooked'"
    with xpc_instrument.connect("shop", timeout=20):
        pass


def connected() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(address().partition(":")[2])
    return sock


def heard(sock: socket.socket) -> bytes:
    """All that the other side says until it closes the connection."""
    data = b""
    while True:
        piece = sock.recv(4096)
        if not piece:
            return data
        data += piece


def test_of_too_many_unauthenticated_connections_the_oldest_gives_way(start: Callable[..., App]) -> None:
    start("max-unauthenticated = 3\nhandshake-timeout = 600")
    with connected() as one, connected() as two, connected() as three, connected() as four:
        assert b"too many connections wait for their handshake" in heard(one)
        assert select.select([two, three, four], [], [], 0)[0] == []
        with xpc_instrument.connect("shop"):
            assert b"too many connections" in heard(two)
            assert select.select([three, four], [], [], 0)[0] == []


@pytest.mark.parametrize("opening", [b"", HEADER.pack(Opcode.HELLO, 0, 0, 0, 4000)])
def test_a_connection_that_dawdles_over_its_handshake_is_closed(start: Callable[..., App], opening: bytes) -> None:
    app = start("handshake-timeout = 0.4")
    # Before it connects: the application counts from there.
    begun = time.monotonic()
    with connected() as sock:
        sock.sendall(opening)
        # A byte whenever a twentieth of a second has passed: never silent, never done.
        while not select.select([sock], [], [], 0.05)[0]:
            if opening:
                sock.sendall(b" ")
        said = b""
        try:
            said = heard(sock)
        except ConnectionResetError:
            pass  # the last byte came after the end
        assert 0.4 <= time.monotonic() - begun < 0.4 + MARGIN
    assert b"no handshake within 0.4 s" in said
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"


# max-nesting ------------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 0


@pytest.mark.parametrize(("setting", "limit"), [("max-nesting = 5", 5), ("max-nesting = 200", 200), ("", DEFAULT_LIMITS.max_nesting)])
def test_max_nesting_ends_a_session_that_sends_deeper_json(start: Callable[..., App], setting: str, limit: int) -> None:
    app = start(setting)
    lost = threading.Event()
    joiner = Joiner(parse_address(address()), b"", limits=Limits(max_nesting=500), on_lost=lambda reason: lost.set())
    joiner.connect(time.monotonic() + 20)
    # A notice is an object with an object in it.
    joiner.notify("noise", deep=nested(limit - 2))
    assert joiner.query("probes", 20).data["app"] == "shop"
    joiner.notify("noise", deep=nested(limit - 1))
    wait_for(lost)
    joiner.close()
    assert app.program.read_until("nested deeper").endswith(f"nested deeper than {limit} levels (max-nesting)")


def test_a_script_bounds_what_it_reads_as_well(start: Callable[..., App]) -> None:
    start("")
    joiner = Joiner(parse_address(address()), b"", limits=Limits(max_nesting=3))
    joiner.connect(time.monotonic() + 20)
    with pytest.raises(ChannelError, match="nested deeper than 3 levels"):
        joiner.query("probes", 20)
    joiner.close()


# silence and backlog ----------------------------------------------------------------------------------------------------------


class Watched(Registry):
    """Tells when sessions come and go."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.came, self.went = threading.Event(), threading.Event()
        self.peers: Dict[str, Peer] = {}

    def joined(self, peer: Peer) -> None:
        super().joined(peer)
        self.peers[peer.session] = peer
        self.came.set()

    def left(self, peer: Peer) -> None:
        super().left(peer)
        self.went.set()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[Limits], Any]]:
    running: List[Host] = []

    def make(limits: Limits) -> Any:
        watched = Watched(limits)
        where = parse_address(str(tmp_path / "host"))
        found = Host(where, b"", watched, app="", python=python_version(), limits=limits, logger=logging.getLogger("test"))
        found.start()
        running.append(found)
        return found, watched

    yield make
    for one in running:
        one.stop()


def test_a_host_lets_go_of_a_node_that_is_silent_and_keeps_one_that_pings(host: Callable[[Limits], Any]) -> None:
    server, watched = host(Limits(silence=0.4))
    gone = threading.Event()
    pinging = Joiner(server.address, b"", limits=Limits(heartbeat=0.05), on_lost=lambda reason: gone.set())
    pinging.connect(time.monotonic() + 20)
    silent = Joiner(server.address, b"", limits=Limits(heartbeat=600))
    silent.connect(time.monotonic() + 20)
    wait_for(watched.went)
    # It pings also where it is told something all the time.
    for _ in range(30):
        server.peers[pinging.session].notify("something")
        assert not gone.wait(0.02)
    assert list(server.peers) == [pinging.session]
    silent.close()
    pinging.close()


def test_a_node_lets_go_of_a_host_that_is_silent(host: Callable[[Limits], Any]) -> None:
    server, _watched = host(Limits())
    reasons: List[str] = []
    lost = threading.Event()
    joiner = Joiner(
        server.address, b"", limits=Limits(heartbeat=0.05, silence=0.3), on_lost=lambda reason: (reasons.append(reason), lost.set())[1]
    )
    joiner.connect(time.monotonic() + 20)
    assert server.pause(20)
    wait_for(lost)
    assert "nothing was heard of" in reasons[0]
    joiner.close()
    server.resume()


def test_a_node_that_does_not_read_is_let_go_once_its_backlog_is_full(host: Callable[[Limits], Any]) -> None:
    server, watched = host(Limits(max_backlog=100_000))
    hello = Hello(PROTOCOL_VERSION, Role.CONTROL.value, "session", new_nonce(), 1, python_version(), "test")
    wire = dial(server.address, b"", hello, time.monotonic() + 20, Limits())
    wait_for(watched.came)
    peer = watched.peers["session"]
    sent = 0
    while not peer.gone and sent < 100_000_000:
        peer.notify("noise", text="x" * 10_000)
        sent += 10_000
    wait_for(watched.went)
    assert sent > 100_000
    wire.close()


def test_a_name_whose_processes_all_turn_the_session_away_is_told_with_a_reason(start: Callable[..., App]) -> None:
    start("max-sessions = 1")
    problem = r"none of the 1 processes of shop could be joined; the last: .*max-sessions"
    with xpc_instrument.connect("shop"), pytest.raises(ChannelError, match=problem):
        xpc_instrument.connect("shop")


# deadlines --------------------------------------------------------------------------------------------------------------------

SCRIPT = """
import xpc_instrument
app = xpc_instrument.connect("shop")
for target in ("shop:charge", "shop:wait_a_little"):
    for mode in (app.before, app.around, app.after):
        mode(target, lambda call: call.proceed() if call.mode == "around" else None)
print("hooked", flush=True)
app.run()
"""


@pytest.mark.parametrize(
    "call",
    [
        "shop.charge(4)",
        "shop.charge('x' * 5_000_000)",
        "asyncio.run(shop.wait_a_little(4))",
        "asyncio.run(shop.wait_a_little(1 << 40_000_000))",
    ],
)
def test_a_script_that_is_stopped_costs_each_hook_its_timeout_and_no_more(
    start: Callable[..., App], run_program: Callable[..., Program], call: str
) -> None:
    app = start("", "timeout = 0.3")
    script = run_program(SCRIPT, name="script.py")
    script.read_until("hooked")
    script.signal(signal.SIGSTOP)
    os.waitpid(script.pid, os.WUNTRACED)  # all of its threads have stopped
    # Small arguments fit into the socket, and the wait is for the answer; large ones do not, and the wait is for room. After the first
    # deadline the lane is gone, and the wait is for another one.
    found, seconds = timed(app, f"bool({call})")
    assert found is True
    assert 0.9 <= seconds < 0.9 + MARGIN


# what nobody thought of -------------------------------------------------------------------------------------------------------


class Broken(Watched):
    """A policy with mistakes in it."""

    def joined(self, peer: Peer) -> None:
        if peer.pid == 13:
            raise ZeroDivisionError("in joined")
        super().joined(peer)

    def noticed(self, peer: Peer, notice: Any) -> None:
        raise ZeroDivisionError("in noticed")


def test_an_error_that_nobody_thought_of_ends_one_session_and_not_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits()
    watched = Broken(limits)
    where = parse_address(str(tmp_path / "host"))
    server = Host(where, b"", watched, app="", python=python_version(), limits=limits, logger=logging.getLogger("test"))
    server.start()
    lost = threading.Event()
    joiner = Joiner(where, b"", limits=limits, on_lost=lambda reason: lost.set())
    joiner.connect(time.monotonic() + 20)
    joiner.notify("noise")
    wait_for(lost)
    wait_for(watched.went)
    watched.went.clear()
    hello = Hello(PROTOCOL_VERSION, Role.CONTROL.value, "unlucky", new_nonce(), 13, python_version(), "test")
    wire = dial(where, b"", hello, time.monotonic() + 20, limits)
    wait_for(watched.went)
    assert server.peers == {}
    again = Joiner(where, b"", limits=limits)
    again.connect(time.monotonic() + 20)
    assert again.alive
    for one in (again, joiner):
        one.close()
    wire.close()
    server.stop()
    assert caplog.text.count("could not be dealt with; it is gone") == 2


class Forgetful(Watched):
    """Fails where no session can be blamed, the first time."""

    def left(self, peer: Peer) -> None:
        first = not self.went.is_set()
        super().left(peer)
        if first:
            raise ZeroDivisionError("in left")


def test_an_error_that_no_session_is_to_blame_for_costs_one_turn_of_the_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits()
    watched = Forgetful(limits)
    where = parse_address(str(tmp_path / "host"))
    server = Host(where, b"", watched, app="", python=python_version(), limits=limits, logger=logging.getLogger("test"))
    server.start()
    for _ in range(2):
        watched.came.clear()
        joiner = Joiner(where, b"", limits=limits)
        joiner.connect(time.monotonic() + 20)
        wait_for(watched.came)
        joiner.close()
        wait_for(watched.went)
    server.stop()
    assert server.failures == 1
    assert caplog.text.count("failed; it goes on") == 1
    assert "ZeroDivisionError: in left" in caplog.text


def test_an_application_that_closes_all_descriptors_is_left_as_it_was(start: Callable[..., App]) -> None:
    app = start("")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda amount: "hooked")
        assert app.evaluate("shop.charge(1)") == "'hooked'"
        # As a daemon does that knows nothing of us.
        app.evaluate("__import__('os').closerange(3, 256)")
    app.program.find_line("all hooks are disarmed")
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    # And what the service thread has logged leaves no thread of ours among the application's.
    assert app.evaluate("[thread.name for thread in shop.threading.enumerate()]") == "['MainThread']"
