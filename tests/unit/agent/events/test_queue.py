"""The queue of events: over real sockets, with the script's end beside it, each step and each mishap when the test says so."""

from __future__ import annotations

import itertools
import socket
import time
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Type
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.core.protocol.test_connection import pair
from xpc_agent.events.queue import BATCH_EVENTS, EventQueue
from xpc_agent.hooks.admission import SuspensionPolicy
from xpc_agent.hooks.unwaited import UnwaitedHook
from xpc_instrument.core.calls.batch import Batch, unpack
from xpc_instrument.core.model.errors import ChannelError, ReferenceExpiredError
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.values.captures import Capturer
from xpc_instrument.core.values.plain import is_atom
from xpc_instrument.core.values.snapshots import AS_IS, PICKLED, TOLD, pack, pack_all
from xpc_instrument.core.values.traits import PeerProfile
from xpc_instrument.core.wire.wire import Wire
from xpc_instrument.script.events import EventReader
from xpc_instrument.script.handle import Handle

TRAITS = PeerProfile("3.11", "3.11", 100_000)


class Waker:
    """In the place of the sender's thread: the test steps itself."""

    def __init__(self, max_queue: int, max_bytes: int) -> None:
        self.max_queue = max_queue
        self.max_bytes = max_bytes
        self.source = "here"
        self.next_batch = itertools.count(1).__next__
        self.woken = 0
        self.queues: List[EventQueue] = []

    def wake(self) -> None:
        self.woken += 1

    def add(self, hook: UnwaitedHook, queue_of: Type[EventQueue]) -> EventQueue:
        if not self.queues:
            self.queues.append(queue_of(hook.session, self))
        self.queues[0].hooks[hook.number] = hook
        return self.queues[0]


def handle_of(number: int, mode: Mode) -> Handle:
    return Handle(number, mode, "m:f", remove=lambda handle: None, terms_over=str)


class Net:
    """One session: the application's queue and lanes, and the script's reader at their other ends."""

    def __init__(self, max_queue: int = 20, max_bytes: int = 20_000) -> None:
        self.waker = Waker(max_queue, max_bytes)
        self.pool = LanePool(lambda count: None, 8)
        self.far: List[Wire] = []
        self.hooks: Dict[int, Any] = {}
        self.reader = EventReader(self.hooks, lambda value: value, self._report)
        self.failures: List[BaseException] = []
        self.seen: List[Any] = []

    def _report(self, hook: Any, error: BaseException) -> None:
        self.failures.append(error)

    def open_lane(self) -> None:
        near, far = socket.socketpair()
        dialler, listener = pair("serve")
        if self.pool.add(Wire(near, listener)):
            self.far.append(Wire(far, dialler))
        else:
            near.close()
            far.close()

    def register(self, number: int = 1, mode: Mode = Mode.BEFORE, terms: Terms = Terms(wait=False)) -> UnwaitedHook:  # noqa: B008
        peer: Any = SimpleNamespace(session="s", pid=1, lanes=self.pool)
        hook = UnwaitedHook(
            mode,
            "m:f",
            peer,
            number,
            "call",
            TRAITS,
            timeout=1.0,
            on_failure="original",
            terms=terms,
            suspension=SuspensionPolicy(3, 1.0, 60.0, 61.0),
            pid=1,
            may_refer=True,
            signature=lambda: [("value", 1, False)],
            ended=lambda hook: None,
            sender=self.waker,
            capturer=Capturer(),
        )
        handle = handle_of(number, mode)
        self.hooks[number] = SimpleNamespace(
            handle=handle, callback=lambda call: self.seen.append(call.args[0]), take_event=lambda event: True
        )
        return hook

    @property
    def queue(self) -> EventQueue:
        return self.waker.queues[0]

    def serve(self, *, run: bool = True, answer: bool = True) -> None:
        """The script's end takes what has come; without `run` or `answer` its lane breaks before or after it has run the batch."""
        for wire in list(self.far):
            try:
                frames = wire.recv_frames()
            except ChannelError:
                wire.close()
                self.far.remove(wire)
                continue
            for frame in frames:
                wire.connection.accept(frame)
                if not answer:
                    wire.close()
                    self.far.remove(wire)
                if run:
                    try:
                        self.reader.serve({}, wire, frame)
                    except ChannelError:
                        assert not answer

    def settle(self, now: float) -> None:
        """Let all arrive."""
        for _ in range(200):
            self.open_lane()
            self.queue.step(now, True)
            self.serve()
            if self.queue.idle:
                self.queue.step(now, True)
                return
        raise AssertionError("it does not come to an end")

    def close(self) -> None:
        self.pool.close()
        for wire in self.far:
            wire.close()


def value_of(value: Any) -> Any:
    return value


class Queue(RuleBasedStateMachine):
    """Whatever happens to lanes and batches: each call is delivered once, in order, or dropped and counted once."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        self.net = Net()
        self.hook = self.net.register()
        self.calls = 0
        self.later = 0.0

    def now(self) -> float:
        return time.monotonic() + self.later

    @rule(count=st.integers(1, 30))
    def call(self, count: int) -> None:
        for _ in range(count):
            assert self.hook.sole(value_of, (self.calls,), {}, False) == self.calls
            self.calls += 1

    @rule(size=st.integers(0, 30_000))
    def call_with_much(self, size: int) -> None:
        self.hook.sole(value_of, ([self.calls, "x" * size],), {}, False)
        self.calls += 1

    @rule()
    def open_lane(self) -> None:
        self.net.open_lane()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3]))
    def step(self, seconds: float) -> None:
        self.later += seconds
        self.net.queue.step(self.now(), False)

    @rule()
    def serve(self) -> None:
        self.net.serve()

    @rule(run=st.booleans())
    def break_lane(self, run: bool) -> None:
        self.net.serve(run=run, answer=False)

    @rule()
    def fork(self) -> None:
        """In the child nothing is queued, and the counts begin at zero; the lanes were the parent's."""
        self.net.queue.reset_after_fork()
        self.net.close()
        self.net.far = []
        self.net.pool.closed = False
        self.net.waker.source += "+"
        self.net.hooks[1].handle = handle_of(1, Mode.BEFORE)
        self.calls = 0
        self.net.seen = []

    @rule(within=st.sampled_from([0.0, 5.0]))
    def remove(self, within: float) -> None:
        """And begin with another hook."""
        dropped: List[int] = []
        self.net.queue.retire(self.hook, within, lambda: dropped.append(self.hook.dropped))
        for _ in range(100):
            self.net.open_lane()
            self.net.queue.step(self.now(), False)
            self.net.serve()
            if dropped:
                break
        handle = self.net.hooks[1].handle
        handle._note_dropped(self.net.waker.source, dropped[0], handle.number)
        self.net.serve()
        handle._end()
        assert handle.delivered + handle.dropped == self.calls
        self.check_order()
        self.net.close()
        self.begin()

    def check_order(self) -> None:
        numbers = [one[0] if isinstance(one, list) else one for one in self.net.seen]
        assert numbers == sorted(set(numbers))

    @invariant()
    def it_is_bounded(self) -> None:
        queue = self.net.queue
        assert len(queue.items) <= queue.limit + 1  # a barrier
        assert not self.net.failures

    def teardown(self) -> None:
        self.net.settle(self.now())
        handle = self.net.hooks[1].handle
        assert handle.delivered + handle.dropped == self.calls
        self.check_order()
        self.net.close()


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_forked_child_counts_nothing_of_what_its_parent_has_dropped() -> None:
    net = Net(max_queue=1)
    hook = net.register()
    for number in range(5):
        hook.sole(value_of, (number,), {}, False)
    hook.settle()
    assert hook.counters.figures().dropped == 4
    net.queue.reset_after_fork()
    hook.reset_after_fork(2)
    hook.settle()
    assert (hook.dropped, hook.counters.figures().dropped, hook.counters.figures().calls) == (0, 0, 0)
    net.close()


class Name(str):
    """The name of an argument, of a class of the application's."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("pickled")

    def __str__(self) -> str:
        raise AssertionError("told")


@pytest.mark.parametrize("mode", [Mode.BEFORE, Mode.AFTER])
def test_names_of_arguments_are_plain_whatever_the_caller_used(mode: Mode) -> None:
    net = Net()
    hook = net.register(mode=mode)
    net.hooks[1].callback = lambda call: net.seen.append([(type(name), name, value) for name, value in call.kwargs.items()])
    for value in (5, [5], object()):
        hook.sole(lambda *args, **kwargs: None, (1,), {Name("amount"): value, "rest": 1}, False)
    net.settle(time.monotonic())
    assert [[pair[:2] for pair in one] for one in net.seen] == 3 * [[(str, "amount"), (str, "rest")]]
    assert net.failures == []
    net.close()


def test_the_sender_is_woken_only_if_it_sleeps() -> None:
    net = Net()
    hook = net.register()
    for number in range(5):
        hook.sole(value_of, (number,), {}, False)
    assert net.waker.woken == 1
    net.open_lane()
    now = time.monotonic()
    assert 0 < (net.queue.step(now, False) or 0) < 0.1
    assert net.queue.step(now + 0.01, False) is None
    net.serve()
    assert net.seen == [0, 1, 2, 3, 4]
    # Just after an event it looks by itself for a while; then it has to be woken again.
    assert 0 < (net.queue.step(now + 0.01, False) or 0) < 0.1
    assert not net.queue.sleeping
    assert net.queue.step(now + 1, False) is None
    assert net.queue.sleeping
    net.close()


def test_events_that_come_steadily_are_sent_in_fewer_batches() -> None:
    net = Net(max_queue=10_000)
    hook = net.register()
    net.open_lane()
    now = time.monotonic()

    def span(events: int) -> float:
        """How long an event may wait behind so many that came together."""
        nonlocal now
        for number in range(events):
            hook.sole(value_of, (number,), {}, False)
        wait = net.queue.step(now, False)
        assert wait is not None
        now += wait
        net.queue.step(now, False)
        net.serve()
        net.queue.step(now, False)
        return wait

    first = span(2)
    # Long enough for many, and no longer than a person takes for at once.
    spans = [span(2) for _ in range(3)]
    assert spans == sorted(spans)
    assert first == pytest.approx(0.005)
    assert spans[-1] == pytest.approx(0.08)
    span(200)
    assert 0.01 < span(200) < 0.06
    # A flood does not fill the queue meanwhile.
    assert min(span(500) for _ in range(6)) == pytest.approx(first)
    # What comes alone, again and again, waits a quarter of that at most.
    assert max(span(1) for _ in range(4)) == pytest.approx(0.02)
    # What comes after a pause does not wait for others.
    now += 1
    assert net.queue.step(now, False) is None
    assert span(1) == pytest.approx(first)
    assert len(net.seen) == 2 + 3 * 2 + 2 * 200 + 6 * 500 + 4 + 1
    net.close()


def test_a_batch_is_bounded_and_one_is_under_way_at_a_time() -> None:
    net = Net(max_queue=10_000, max_bytes=1 << 26)
    hook = net.register()
    for number in range(BATCH_EVENTS + 10):
        hook.sole(value_of, (number,), {}, False)
    net.open_lane()
    net.open_lane()
    net.queue.step(time.monotonic(), False)
    assert len(net.queue.items) == 10
    net.queue.step(time.monotonic() + 1, False)
    assert len(net.queue.items) == 10
    net.settle(time.monotonic())
    assert net.seen == list(range(BATCH_EVENTS + 10))
    net.close()


@pytest.mark.parametrize("run", [True, False])
def test_a_batch_whose_lane_breaks_is_sent_again_and_run_once(run: bool) -> None:
    net = Net()
    hook = net.register()
    for number in range(5):
        hook.sole(value_of, (number,), {}, False)
    net.open_lane()
    net.queue.step(time.monotonic(), True)
    net.serve(run=run, answer=False)
    assert len(net.seen) == 5 * run
    net.settle(time.monotonic())
    assert net.seen == [0, 1, 2, 3, 4]
    assert (net.hooks[1].handle.delivered, net.hooks[1].handle.dropped) == (5, 0)
    net.close()


def test_what_has_come_when_the_hook_is_removed_is_dropped_and_counted() -> None:
    net = Net()
    hook = net.register()
    handle = net.hooks[1].handle
    net.hooks[1].callback = lambda call: handle._end() if call.args[0] == 2 else None
    for number in range(7):
        hook.sole(value_of, (number,), {}, False)
    net.settle(time.monotonic())
    assert (handle.delivered, handle.dropped) == (3, 4)
    net.close()


def test_the_end_of_a_session_drops_and_counts_what_is_queued() -> None:
    net = Net()
    hook = net.register()
    for number in range(7):
        hook.sole(value_of, (number,), {}, False)
    net.open_lane()
    net.queue.step(time.monotonic() + 1, True)
    for number in range(30):
        hook.sole(value_of, (number,), {}, False)
    passed: List[int] = []
    net.queue.retire(hook, 5.0, lambda: passed.append(1))
    net.queue.gone = True
    net.queue.step(time.monotonic(), False)
    assert passed == [1]
    figures = hook.counters.figures()
    assert (figures.calls, figures.dropped) == (37, 37)
    assert not net.queue.needed
    net.close()


def test_an_event_of_a_hook_that_is_gone_is_late_and_counts_nowhere() -> None:
    net = Net()
    hook = net.register()
    net.queue.retire(hook, 0.0, lambda: None)
    net.queue.step(time.monotonic() + 1, False)
    hook.sole(value_of, (1,), {}, False)
    net.queue.step(time.monotonic() + 1, True)
    assert hook.counters.figures().calls == 0
    assert not net.queue.items
    net.close()


def test_an_interrupted_snapshot_is_dropped_and_counted() -> None:
    class Interrupting:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    net = Net()
    hook = net.register(terms=Terms(wait=False, values="copy"))
    with pytest.raises(KeyboardInterrupt):
        hook.sole(value_of, (Interrupting(),), {}, False)
    assert (hook.dropped, len(net.queue.items)) == (1, 0)
    net.close()


# values ------------------------------------------------------------------------------------------------------------------


class Loud(type):
    """A metaclass whose classes say so when they are compared or hashed."""

    def __eq__(cls, other: object) -> bool:
        raise AssertionError("compared")

    def __hash__(cls) -> int:
        raise AssertionError("hashed")


class Value(int, metaclass=Loud):
    pass


@pytest.mark.parametrize("value", [0, -(1 << 63), 1.5, True, None, "x" * 512, b"x" * 512, 1j])
def test_small_values_that_cannot_change_are_their_own_snapshot(value: Any) -> None:
    assert is_atom(value)
    assert pack(value, TRAITS)[0] == (AS_IS, value)


@pytest.mark.parametrize("value", [1 << 64, "x" * 513, [], Value(3), (1,), bytearray()])
def test_others_are_not(value: Any) -> None:
    assert not is_atom(value)


@pytest.mark.parametrize("value", [[1, "a"], {"a": 1}, {1, 2}, (1, None)])
def test_a_small_container_of_them_is_copied(value: Any) -> None:
    packed, _ = pack(value, TRAITS)
    assert packed == (AS_IS, value)
    assert packed[1] is not value or isinstance(value, tuple)


@pytest.mark.parametrize("value", [[[1]], {"a": []}, list(range(100)), bytearray(b"x" * 40_000)])
def test_a_plain_value_that_can_be_changed_is_copied_all_the_way_down(value: Any) -> None:
    packed, size = pack(value, TRAITS)
    assert (packed, size > 64) == ((AS_IS, value), True)
    inner = packed[1][0] if isinstance(value, list) else packed[1]
    assert packed[1] is not value
    assert isinstance(inner, int) or inner is not value


@pytest.mark.parametrize("value", [Decimal("1.10"), [datetime(2026, 1, 2, tzinfo=timezone.utc)], UUID(int=5), Path("a/b")])
def test_what_pickles_under_a_name_is_pickled_at_once(value: Any) -> None:
    packed, _ = pack(value, TRAITS)
    assert packed[0] == PICKLED
    assert unpack(packed, 1) == value


class Untouchable:
    """Nothing of it may run."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(name)

    __reduce__ = __reduce_ex__ = __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one], lambda one: {"a": one}, lambda one: (1, [one])])
def test_what_is_not_plain_is_told_and_nothing_of_it_runs(wrap: Any) -> None:
    packed, _ = pack(wrap(Untouchable()), TRAITS)
    assert packed[0] == TOLD
    assert "Untouchable at 0x" in repr(unpack(packed, 1))


def test_what_is_too_large_or_cannot_be_pickled_where_a_copy_is_asked_for_is_told() -> None:
    packed, _ = pack(lambda: (yield), PeerProfile("3.8", "3.11", 1000), copies=True)
    assert packed[0] == TOLD
    args, kwargs, size = pack_all(("x" * 60_000, "y" * 60_000), {"z": [1]}, TRAITS)
    assert [one[0] for one in args] == [AS_IS, TOLD]
    assert kwargs == {"z": (AS_IS, [1])}
    assert size <= TRAITS.limit
    reference = unpack(args[1], 1)
    assert "yyy" in repr(reference)
    with pytest.raises(ReferenceExpiredError, match="wait=False"):
        reference.upper()


def test_a_batch_crosses_whole() -> None:
    batch = Batch("here", 5, 7, {1: 3}, {1: [("a", 1, False)]}, [(1, 2, 3, (4,)), (1, 2, 3, (4,), {"a": "\ud800"})], {2: (1, "m:f")})
    assert Batch.load(memoryview(batch.dump())) == batch
