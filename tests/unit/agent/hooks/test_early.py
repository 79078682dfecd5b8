"""The condition of a hook that observes, asked when an invocation begins: the same is rejected, counted and shown wherever the hook is."""

from __future__ import annotations

import builtins
import itertools
import sys
import threading
from types import SimpleNamespace
from typing import Any, Iterator, List

import pytest

from tests.unit.agent.hooks.made import unplaced
from xpc_agent.events.queue import EventQueue
from xpc_agent.guard import guard
from xpc_agent.hooks.dispatch import Dispatcher, HookChain
from xpc_agent.hooks.local import LocalHook
from xpc_agent.hooks.watch import WatchHook
from xpc_agent.patching import make_patch
from xpc_agent.targets.resolve import resolve
from xpc_instrument.core.model.aggregate import COUNT
from xpc_instrument.core.model.expression import OBSERVE, TRUSTED
from xpc_instrument.core.model.local import STAT, WATCH
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.redaction import Redaction

_WATCH = {"kind": WATCH, "show": [], "depth": 2, "stack": 0, "errors": False, "rejected": False, "locals": False}
_STAT = {"kind": STAT, "by": [], "of": "duration"}
_WAYS = ("inside", "wrapper")


class Items(list):  # type: ignore[type-arg]
    """Code of the application where its length is asked."""

    def __len__(self) -> int:
        raise SystemExit("code of the application")


def charge(amount: Any, items: Any = (), *more: Any, **rest: Any) -> Any:
    if type(items) is list:
        items.append(amount)
    amount, items = 0, None
    return rest.pop("more", None)


def fact(n: int) -> int:
    return n * fact(n - 1) if n else 1


def count(n: int) -> Iterator[int]:
    yield from range(n)


async def wait(n: int) -> int:
    return n


class Armed:
    """A function of this module with hooks that are there."""

    def __init__(self, name: str, patcher: str) -> None:
        self.target = name if ":" in name else f"{__name__}:{name}"
        self.dispatcher = Dispatcher()
        self.resolved = resolve(self.target)
        self.code = getattr(self.resolved.function, "__code__", None)
        self.patch = make_patch(self.resolved, self.dispatcher, patcher)
        self.patch.install()
        self.hooks: List[Any] = []
        self.keys = itertools.count(1)

    def put(self, *hooks: Any) -> None:
        self.hooks = list(hooks)
        for hook in hooks:
            hook.placed(self.resolved, self.code)
        self.dispatcher.chain = HookChain(hooks) if hooks else None
        (self.patch.arm if hooks else self.patch.disarm)()

    def stat(self, when: str, level: str = OBSERVE, **terms: Any) -> Any:
        local = {**_STAT, "when": when}
        return unplaced(LocalHook, Mode.AFTER, self.target, Terms(local=local, **terms), level=level, key=next(self.keys))

    def watch(self, when: str, mode: Mode = Mode.AFTER, rate: Any = None, **local: Any) -> Any:
        sender: Any = SimpleNamespace(max_queue=100, max_bytes=1 << 20, source="here", wake=lambda: None)
        sender.next_batch = itertools.count(1).__next__
        queue = EventQueue("session", sender)
        sender.add = lambda hook, queue_of: queue
        terms = Terms(wait=False, rate=rate, local={**_WATCH, "when": when, **local})
        return unplaced(WatchHook, mode, self.target, terms, sender=sender, redaction=Redaction(), key=next(self.keys))


@pytest.fixture
def armed() -> Iterator[Any]:
    made: List[Armed] = []

    def arm(name: str = "charge", patcher: str = "auto") -> Armed:
        made.append(Armed(name, patcher))
        return made[-1]

    yield arm
    for one in made:
        one.put()
        one.patch.uninstall()


def calls(hook: Any) -> Any:
    """How many it has counted or queued, and how many were rejected."""
    if isinstance(hook, LocalHook):
        return sum(cell[COUNT] for cell in hook.aggregate.total().values()), hook.aggregate.rejected.value
    return sum(event is not None for event in hook.queue.items), hook.counters.skipped["when"].value


@pytest.mark.version
@pytest.mark.parametrize("way", _WAYS)
def test_what_is_rejected_is_counted_and_the_rest_is_recorded_on_every_way(armed: Any, way: str) -> None:
    shop = armed("charge", "auto" if way == "inside" else "wrapper")
    when = "amount > 2 and kwargs['more'] and not args[2] and len(args[1]) < 5 and pid and thread"

    for chain in (
        lambda: [shop.stat(when)],
        lambda: [shop.watch(when)],
        lambda: [shop.watch(when, Mode.BEFORE)],
        lambda: [shop.stat(when), shop.stat("")],
        lambda: [shop.stat(when), shop.watch(when)],
        lambda: [shop.watch(when), shop.watch("", Mode.BEFORE)],
        lambda: [shop.watch(when), shop.watch(when, Mode.BEFORE)],
    ):
        hooks = chain()
        shop.put(*hooks)
        for number in range(5):
            assert charge(number, [], 0, more="x") == "x"
        asked = [hook for hook in hooks if hook.early is not None]
        assert [calls(hook) for hook in asked] == [(2, 3)] * len(asked)
        assert all(hook.early.late is None for hook in asked)


def test_a_call_that_the_function_does_not_take_is_not_recorded(armed: Any) -> None:
    shop = armed("charge", "wrapper")
    for hook, counted in ((shop.stat("amount > 2"), (0, 0)), (shop.watch("amount > 2"), (0, 1))):
        for chain in ([hook], [hook, shop.watch("", Mode.BEFORE)]):
            shop.put(*chain)
            with pytest.raises(TypeError):
                charge()  # type: ignore[call-arg]
        assert calls(hook) == (counted[0], 2 * counted[1])
        assert not isinstance(hook, LocalHook) or hook.totals()["unusable"] == 2


@pytest.mark.parametrize("way", _WAYS)
def test_it_is_asked_of_the_arguments_as_they_came(armed: Any, way: str) -> None:
    shop = armed("charge", "auto" if way == "inside" else "wrapper")
    # The body rebinds the first two, makes the list longer, and empties the dict.
    when = "amount == 3 and 'more' in rest and len(items) == 1"
    for hooks in (
        [shop.stat(when)],
        [shop.watch(when)],
        [shop.stat(when), shop.watch("", Mode.BEFORE)],
        [shop.stat(when), shop.watch(when)],
    ):
        shop.put(*hooks)
        assert (charge(3, [0], more=1), charge(3, [], more=1)) == (1, 1)
        assert {calls(hook) for hook in hooks if hook.early is not None} == {(1, 1)}


@pytest.mark.version
def test_generators_coroutines_and_recursion(armed: Any) -> None:
    runs = {
        "count": (lambda n: list(count(n)), [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], (2, 3)),
        "wait": (lambda n: _run(wait(n)), [0, 1, 2, 3, 4], (2, 3)),
        "fact": (lambda n: fact(n), [1, 1, 2, 6, 24], (3, 12)),
    }
    for name, (run, results, counts) in runs.items():
        for patcher in ("auto", "wrapper"):
            shop = armed(name, patcher)
            hook = shop.stat("n > 2")
            shop.put(hook)
            assert [run(n) for n in range(5)] == results
            assert calls(hook) == counts, (name, patcher)
            shop.put()
            shop.patch.uninstall()


def _run(coroutine: Any) -> Any:
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def test_operands_of_and_up_to_the_first_that_needs_the_end_are_asked_at_the_beginning(armed: Any) -> None:
    shop = armed()
    for when, early, expected in (
        ("amount > 2 and result == 'x' and len(items) == 0", True, (1, 3)),
        ("result == 'x' and amount > 2", False, (1, 3)),
        ("amount > 2 or result == 'x'", False, (4, 0)),
        ("duration >= 0 and amount.missing", False, (0, 4)),
        ("not items and (amount > 2 and result == 'x')", True, (1, 3)),
    ):
        for hook in (shop.stat(when), shop.watch(when)):
            shop.put(hook)
            assert bool(hook.early.asking) == early
            for amount in range(4):
                charge(amount, (), more="x")
            assert calls(hook) == expected, when


def test_what_fails_counts_as_rejected_and_is_counted_with_its_reason(armed: Any) -> None:
    shop = armed()
    for when in ("amount.missing", "len(items) == 0", "items"):
        for chain in ((shop.stat(when),), (shop.watch(when),), (shop.stat(when), shop.stat(""))):
            shop.put(*chain)
            for _ in range(3):
                charge(1, Items(), more="x")
            failures = chain[0].counters.failures
            assert (calls(chain[0]), sum(failures.values())) == ((0, 3), 3), when
            assert not guard.on


def test_rate_and_limit_are_of_what_meets_it(armed: Any) -> None:
    shop = armed()
    for hook in (shop.stat("amount > 2", rate=1.0), shop.watch("amount > 2", rate=1.0)):
        shop.put(hook)
        for amount in (0, 1, 3, 3, 0):
            charge(amount, [])
        assert (calls(hook), hook.counters.skipped["rate"].value) == ((1, 3), 1)
    hook = shop.stat("amount > 2", limit=2)
    shop.put(hook)
    for amount in (0, 1, 3, 3, 3):
        charge(amount, [])
    assert calls(hook)[0] == 2


def test_at_rest_it_is_not_asked_and_a_forked_child_begins_anew(armed: Any) -> None:
    shop = armed()
    for hooks in ([shop.stat("amount > 2")], [shop.watch("amount > 2")], [shop.stat("amount > 2"), shop.watch("amount > 2")]):
        shop.put(*hooks)
        for _ in range(600):
            charge(1)
        assert [calls(hook) for hook in hooks] == [(0, 600)] * len(hooks)
        for hook in hooks:
            hook.rest()
        charge(1)
        charge(3)
        assert [calls(hook) for hook in hooks] == [(0, 600)] * len(hooks)
        for hook in hooks:
            hook.reset_after_fork(1)
        charge(1)
        charge(3)
        assert [calls(hook)[1] for hook in hooks] == [1] * len(hooks)
        assert [hook.early.asks((3, (), (), {})) for hook in hooks] == [True] * len(hooks)


def test_a_trusted_condition_is_asked_as_early_and_once(armed: Any) -> None:
    asked: List[int] = []

    class Amount(int):
        def __gt__(self, other: Any) -> bool:
            asked.append(int(self))
            assert guard.on
            return int(self) > int(other)

    shop = armed()
    hook = shop.stat("amount > 2", TRUSTED)
    shop.put(hook)
    for amount in range(600):
        charge(Amount(amount % 3))
    charge(Amount(5))
    assert (calls(hook), len(asked)) == ((1, 600), 601)


@pytest.mark.parametrize("name", ["len", "hasattr"])
def test_it_may_be_on_what_asks_and_counts_itself(armed: Any, name: str) -> None:
    shop = armed(f"builtins:{name}")
    shop.put(shop.stat(""))
    # What is made now finds the builtin armed.
    hooks = [shop.stat(""), shop.stat("thread"), shop.watch("thread"), shop.stat("pid < 0")]
    for chain in (hooks[:1], hooks[1:2], hooks):
        shop.put(*chain)
        for _ in range(300):
            getattr(builtins, name)("a", *(["b"] if name == "hasattr" else []))
    # Others call it too.
    assert all(600 <= calls(hook)[0] < 2000 for hook in hooks[:2])
    assert calls(hooks[3])[0] == 0
    assert 300 <= calls(hooks[3])[1] < 2000


def test_none_is_lost_in_threads(armed: Any) -> None:
    shop = armed()
    hook = shop.stat("amount > 2")
    shop.put(hook)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=lambda: [charge(number % 4) for number in range(4000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert calls(hook) == (4000, 12000)


def test_rejected_calls_are_bounded_by_the_budget_too(armed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = armed()
    hook = shop.stat("amount > 2")
    shop.put(hook)
    spent: List[Any] = []
    monkeypatch.setattr(hook, "_budget", SimpleNamespace(spent=lambda *what: spent.append(what)))
    for _ in range(5000):
        charge(1)
    assert len(spent) == 2
    assert all(0 < seconds < 1e-3 and number == 2048 for seconds, number, _ in spent)
