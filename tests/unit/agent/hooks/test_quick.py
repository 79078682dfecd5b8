"""The quick way of a watch: what it queues is what the whole way would have told, and what it cannot queue goes that way."""

from __future__ import annotations

import itertools
import marshal
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, List, Tuple

import pytest

from tests.unit.agent.hooks.made import call, made
from xpc_agent.events.queue import EventQueue
from xpc_agent.guard import guard
from xpc_agent.hooks.watch import WatchHook
from xpc_instrument.core.calls.rows import LAYOUT, Layout, is_row, named, tree_of
from xpc_instrument.core.model.local import WATCH
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.captures import REDACTED
from xpc_instrument.core.values.redaction import Redaction

GATE: Any = SimpleNamespace(ends=(Exception,), has_dict=False)
LOCAL = {"kind": WATCH, "when": "", "show": [], "depth": 2, "stack": 0, "errors": False, "rejected": False, "locals": False}


class Customer:
    def __init__(self, name: Any, tags: Any = ()) -> None:
        self.name = name
        self.tags = tags


class Named(dict):  # type: ignore[type-arg]
    """No dict as it comes."""


def charge(amount: Any, customer: Any = None, password: Any = "hunter2") -> Any:
    return amount


class Watched:
    """A watch of `charge`, whose queue is looked into."""

    def __init__(self, limit: int = 100, mode: Mode = Mode.AFTER, rate: Any = None, limit_of_calls: Any = None, **local: Any) -> None:
        sender: Any = SimpleNamespace(max_queue=limit, max_bytes=limit * 8192, source="here", wake=lambda: None)
        sender.next_batch = itertools.count(1).__next__
        self.queue = EventQueue("session", sender)
        sender.add = lambda hook, queue_of: self.queue
        self.ended = 0
        terms = Terms(wait=False, rate=rate, limit=limit_of_calls, local={**LOCAL, **local})
        self.hook: WatchHook = made(WatchHook, mode, f"{__name__}:charge", terms, sender=sender, redaction=Redaction(), ended=self._end)

    def _end(self, hook: Any) -> None:
        self.ended += 1

    def call(self, *values: Any, result: Any = None, error: Any = None) -> None:
        """An invocation."""
        call(self.hook, *values, result=result, error=error)

    def told(self) -> List[Tuple[Any, ...]]:
        """What crosses of the events, without the time and the duration."""
        return [_told(event) for event in self.queue.items if event is not None]

    def quick(self) -> bool:
        """Whether all events were queued as they were."""
        return all(map(is_row, self.queue.items))


def _told(event: Any) -> Tuple[Any, ...]:
    if not is_row(event):
        return tuple(marshal.loads(event[3][0])[2:])
    layout = Layout(*event[LAYOUT])
    trees = named(layout, event)
    arguments, others = ([], trees) if layout.evaluated else (trees, [])
    return arguments, tree_of(event[-1]) if layout.result else None, None, (), others, (), (layout.file, layout.line)


def whole(watched: Watched, *values: Any, result: Any = None) -> Tuple[Any, ...]:
    """What the whole way tells of the same invocation."""
    watched.queue.items.clear()
    watched.hook.tell(values, result, None, 0.5, 0.0)
    return watched.told()[0]


@pytest.mark.parametrize("show", [[], ["customer.name", "amount"], ["password"], ["amount + 1", "pid"]])
@pytest.mark.parametrize(
    "value", [1, True, None, 1.5, "x" * 255, -(2**62), [], [1, "a"], (2,), {"a": None, "b" * 64: "x" * 255}, {}, ["plain", 1], [1] * 4]
)
def test_a_plain_value_is_queued_and_told_as_by_the_whole_way(show: List[str], value: Any) -> None:
    watched = Watched(show=show)
    # Names that are known to hide nothing.
    whole(watched, value, value, result=value)
    watched.queue.items.clear()
    values = (3, Customer(value) if show else value, "secret")
    watched.call(*values, result=value)
    assert watched.quick()
    told = watched.told()
    assert told == [whole(watched, *values, result=value)]
    assert "secret" not in repr(told)


@pytest.mark.parametrize(
    "value",
    [2**64, "x" * 256, [[]], {"a": {}}, {1: 2}, {"a": "x" * 256}, [1] * 17, Decimal(1), b"raw", Customer(1), 1j, set(), Named(), [2**64]],
)
@pytest.mark.parametrize("show", [[], ["customer.tags"]])
def test_any_other_value_is_captured(show: List[str], value: Any) -> None:
    watched = Watched(show=show)
    values = (3, Customer("Ann", value) if show else value, "secret")
    watched.call(*values)
    told = watched.told()
    assert not watched.quick()
    assert told == [whole(watched, *values)]


def test_what_is_redacted_is_not_read() -> None:
    watched = Watched()
    watched.call(1, 2, object())
    assert watched.quick()
    assert watched.told()[0][0] == [("amount", 1), ("customer", 2), ("password", REDACTED)]


def test_a_before_hook_tells_of_the_arguments() -> None:
    watched = Watched(mode=Mode.BEFORE)
    watched.call(1, 2, 3)
    assert watched.quick()
    assert watched.told() == [
        ([("amount", 1), ("customer", 2), ("password", REDACTED)], None, None, (), [], (), (__file__, charge.__code__.co_firstlineno))
    ]


def test_a_call_that_raises_is_told_with_its_exception() -> None:
    watched = Watched(errors=True)
    watched.call(1, 2, 3)
    watched.call(1, 2, 3, error=ValueError("no"))
    watched.call(1, 2, 3, error=KeyboardInterrupt())
    (only,) = watched.told()
    assert only[2][:3] == ("e", "ValueError", ["no"])


def test_what_does_not_meet_the_condition_is_counted_and_not_queued() -> None:
    watched = Watched(when="amount > 2 and result == 'ok'")
    watched.call(1, None, None, result="ok")
    watched.call(3, None, None, result="no")
    watched.call(3, None, None, result="ok")
    assert (len(watched.told()), watched.quick()) == (1, True)
    assert watched.hook.counters.skipped["when"].value == 2


@pytest.mark.parametrize("rejected", [False, True])
def test_the_truth_of_a_value_is_asked_without_its_code(rejected: bool) -> None:
    class Lazy:
        def __bool__(self) -> bool:
            raise SystemExit("code of the application")

    for when in ("amount", "customer.name", "result", "1 == 1 and amount"):
        watched = Watched(when=when, rejected=rejected)
        watched.call(Lazy(), Customer(Lazy()), None, result=Lazy())
        assert watched.hook.counters.skipped["when"].value == 1
        watched.call(1, Customer("Ann"), None, result="ok")
        assert watched.hook.counters.skipped["when"].value == 1
        assert len(watched.told()) == 1 + rejected


def test_a_condition_that_fails_is_not_met_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(when="customer.name.missing > 2")
    for _ in range(3):
        watched.call(1, Customer("Ann"), None)
    assert watched.told() == []
    assert watched.hook.counters.skipped["when"].value == 3
    assert len(caplog.records) == 1


def test_an_expression_that_fails_is_shown_as_its_error() -> None:
    watched = Watched(show=["amount.missing", "amount"])
    watched.call(1, None, None)
    (told,) = watched.told()
    assert told[4][0][1][:2] == ("t", "error")
    assert told[4][1] == ("amount", 1)


def test_what_does_not_meet_the_condition_is_shown_where_that_is_asked_for() -> None:
    watched = Watched(when="amount > 2", rejected=True)
    watched.call(1, 2, 3)
    assert len(watched.queue.items) == 1
    assert watched.hook.counters.skipped["when"].value == 1


def test_over_its_rate_and_at_rest_nothing_is_queued() -> None:
    watched = Watched(rate=1.0)
    for _ in range(10):
        watched.call(1, 2, 3)
    assert len(watched.queue.items) == 1
    assert watched.hook.counters.skipped["rate"].value == 9
    watched = Watched()
    watched.hook.rest()
    watched.call(1, 2, 3)
    assert (watched.told(), watched.hook.alone.take()) == ([], 0)  # type: ignore[union-attr]


def test_a_limit_counts_what_has_ended_and_a_rate_what_begins() -> None:
    watched = Watched(rate=1.0, limit_of_calls=1)
    way = watched.hook.alone
    assert way is not None
    assert way.begin is not None
    assert way.take()
    token = way.begin(GATE, (1, 2, 3))[1]  # type: ignore[index]
    assert not way.take()
    assert (watched.ended, watched.hook.counters.skipped["rate"].value) == (0, 1)
    token.leave(None)
    assert (watched.ended, len(watched.told())) == (1, 1)


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_what_is_captured_takes_one_token_too(error: Any) -> None:
    watched = Watched(rate=20.0)
    for _ in range(2):
        watched.call(1, [2], 3, error=error)
    assert len(watched.told()) == 2


def test_a_full_queue_drops_and_counts() -> None:
    watched = Watched(limit=2)
    for _ in range(5):
        watched.call(1, 2, 3)
    assert (len(watched.queue.items), watched.hook.dropped) == (2, 3)


@pytest.mark.parametrize("value", [{"name": "Ann", "password": "hunter2"}, ["Authorization", "hunter2"], ("token", "hunter2")])
def test_a_container_with_a_name_that_hides_is_captured(value: Any) -> None:
    watched = Watched()
    for _ in range(2):
        watched.call(1, 2, 3, result=value)
    assert not watched.quick()
    assert watched.told() == [whole(watched, 1, 2, 3, result=value)] * 2
    assert "hunter2" not in repr(watched.told())


def test_what_is_queued_does_not_change_with_the_value() -> None:
    watched = Watched()
    value = {"a": 1}
    watched.hook.capture(value)
    watched.call(1, 2, 3, result=value)
    told = watched.told()
    value["a"] = 2
    assert watched.quick()
    assert watched.told() == told


def test_no_code_of_a_type_is_run_that_is_like_a_container() -> None:
    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            raise SystemExit("code of the application")

        __hash__ = type.__hash__

    class Key(str):
        def __eq__(self, other: object) -> bool:
            raise SystemExit("code of the application")

        __hash__ = str.__hash__

    watched = Watched()
    for value in (Meta("Other", (), {})(), {Key("a"): 1}, [Key("a"), 1]):
        watched.call(1, 2, 3, result=value)
    assert len(watched.told()) == 3


def test_with_no_level_to_show_a_container_is_cut() -> None:
    watched = Watched(depth=0)
    watched.call(1, 2, 3, result=[1])
    assert watched.told()[0][1] == ("!", "depth", "list", 1)


def test_nothing_leaves_the_guard_up() -> None:
    watched = Watched(show=["customer.tags"])
    for value in (1, [1], Customer(2)):
        watched.call(1, Customer("Ann", value), None)
        assert not guard.on
