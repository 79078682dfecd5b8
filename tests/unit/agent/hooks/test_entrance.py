"""A condition that is asked where the armed code enters: what it lets through, what is counted, and what is left of it elsewhere."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from typing import Any, Iterator, List, Optional

import cloudpickle
import pytest

from tests.unit.agent.hooks.made import unplaced
from xpc_agent.guard import guard
from xpc_agent.hooks import conditional
from xpc_agent.hooks.admission import SuspensionPolicy
from xpc_agent.hooks.conditional import MOST_ERRORS, Conditional
from xpc_agent.hooks.dispatch import Dispatcher, HookChain
from xpc_agent.hooks.entrance import Entrance
from xpc_agent.hooks.local import LocalHook
from xpc_agent.hooks.remote import RemoteHook
from xpc_agent.patching import make_patch
from xpc_agent.targets.resolve import resolve
from xpc_instrument.core.model.aggregate import COUNT
from xpc_instrument.core.model.expression import OBSERVE
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms

inside = pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.11 is the oldest whose code is gone into")

SOURCE = """
def charge(amount, customer=None, *more, note=None, **rest):
    return amount, customer, more, note, rest

def pay(amount):
    return amount or None

def refuse(amount):
    raise ValueError(amount)

def leave(amount):
    raise SystemExit(amount)

def count(n):
    for i in range(n):
        yield i

def take(amount, **rest):
    return amount + rest.pop("more", 0)
"""


class Customer:
    def __init__(self, vip: bool) -> None:
        self.vip = vip

    def __gt__(self, other: object) -> bool:
        raise AssertionError("code of the application")


class Shop:
    """A function with one hook that has a condition; there is nobody whom the hook could be told to, so what it lets through fails."""

    def __init__(self, when: str, mode: Mode = Mode.BEFORE, name: str = "charge", after: int = 0) -> None:
        self.module = types.ModuleType("entered_shop")
        exec(SOURCE, self.module.__dict__)
        sys.modules[self.module.__name__] = self.module
        self.function: Any = getattr(self.module, name)
        self.code = self.function.__code__
        self.target = f"{self.module.__name__}:{name}"
        self.suspension = SuspensionPolicy(after=after, first=1e9, most=1e9)
        self.hook = self.made(RemoteHook, mode, Terms(when=when))
        self.condition = Conditional(self.hook, when, OBSERVE)
        self.dispatcher = Dispatcher()
        resolved = resolve(self.target)
        self.patch = make_patch(resolved, self.dispatcher, "auto")
        self.condition.placed(resolved, self.code)
        self.set([self.condition])

    def made(self, kind: Any, mode: Mode, terms: Terms) -> Any:
        return unplaced(kind, mode, self.target, terms, suspension=self.suspension)

    def set(self, hooks: List[Any]) -> None:
        self.dispatcher.chain = HookChain(hooks) if hooks else None
        (self.patch.arm if hooks else self.patch.disarm)()

    @property
    def entrance(self) -> Optional[Entrance]:
        """Where the condition is asked now, if that is where the code enters."""
        entrance: Optional[Entrance] = self.condition.alone.entrance
        return entrance if entrance is not None and entrance.is_open else None

    @property
    def rejected(self) -> int:
        return self.hook.counters.skipped["when"].value

    @property
    def told(self) -> int:
        return self.hook.counters.calls.value


@pytest.fixture
def shops() -> Iterator[Any]:
    made: List[Shop] = []

    def make(*args: Any, **kwargs: Any) -> Shop:
        made.append(Shop(*args, **kwargs))
        return made[-1]

    yield make
    for shop in made:
        shop.set([])
        assert shop.function.__code__ is shop.code
        sys.modules.pop(shop.module.__name__, None)


@pytest.mark.version
@inside
def test_what_does_not_meet_the_condition_is_counted_and_passed_over(shops: Any) -> None:
    for mode in (Mode.BEFORE, Mode.AROUND):
        shop = shops("amount > 100 and customer.vip", mode)
        assert shop.entrance is not None
        for amount, customer in ((1, None), (200, Customer(False)), (5, Customer(True))):
            assert shop.function(amount, customer, 3, note=4, x=5) == (amount, customer, (3,), 4, {"x": 5})
        assert (shop.rejected, shop.told) == (3, 0)
        assert shop.function(200, Customer(True))[0] == 200
        assert (shop.rejected, shop.told, shop.hook.counters.failures) == (3, 1, {"internal": 1})
        guard.on = True
        try:
            shop.function(200, Customer(True))
        finally:
            guard.on = False
        assert shop.told == 1
    generator = shops("n > 3", Mode.BEFORE, "count")
    assert list(generator.function(2)) == [0, 1]
    assert (generator.rejected, generator.told) == (1, 0)
    assert list(generator.function(4)) == [0, 1, 2, 3]
    assert (generator.rejected, generator.told) == (1, 1)


@pytest.mark.version
@inside
def test_an_after_hook_is_asked_when_the_call_has_ended(shops: Any) -> None:
    shop = shops("amount > 100 or result is None", Mode.AFTER, "pay")
    assert shop.entrance is not None
    assert (shop.function(5), shop.rejected, shop.told) == (5, 1, 0)
    assert (shop.function(0), shop.rejected, shop.told) == (None, 1, 1)
    assert (shop.function(101), shop.rejected, shop.told) == (101, 1, 2)
    refuse = shops("exception is not None and duration >= 0 and amount > 1", Mode.AFTER, "refuse")
    for amount in (1, 2):
        with pytest.raises(ValueError, match=str(amount)) as caught:
            refuse.function(amount)
        assert caught.value.__context__ is None
        assert [entry.name for entry in caught.traceback[1:]] == ["refuse"]
    assert (refuse.rejected, refuse.told) == (1, 1)
    guard.on = True
    try:
        shop.function(101)
    finally:
        guard.on = False
    assert shop.told == 2
    # What interrupts is no outcome.
    exit = shops("amount", Mode.AFTER, "leave")
    with pytest.raises(SystemExit):
        exit.function(1)
    assert (exit.rejected, exit.told) == (0, 0)
    count = shops("n > 1", Mode.AFTER, "count")
    assert (list(count.function(1)), count.rejected, count.told) == ([0], 1, 0)
    iterator = count.function(2)
    next(iterator)
    assert (count.rejected, count.told) == (1, 0)
    iterator.close()
    assert (count.rejected, count.told) == (1, 1)
    # The `**` dict may be another one when the body has ended.
    assert shops("amount > 100", Mode.AFTER).entrance is None


@pytest.mark.version
def test_what_stands_around_the_original_asks_in_the_same_way(shops: Any) -> None:
    for mode, name in ((Mode.INSTEAD, "pay"), (Mode.INSTEAD, "charge"), (Mode.BEFORE, "pay"), (Mode.AROUND, "charge")):
        shop = shops("amount > 100", mode, name)
        for call, rejected, told in (
            (lambda f: f(1), 1, 0),
            (lambda f: f(amount=2), 2, 0),
            (lambda f: f(101), 2, 1),
            (lambda f: f(amount=101), 2, 2),
        ):
            result = call(shop.function)
            assert (result if name == "pay" else result[0]) in (1, 2, 101)
            assert (shop.rejected, shop.told) == (rejected, told)
    shop = shops("amount > 100", Mode.INSTEAD, "pay")
    with pytest.raises(TypeError, match="pay") as caught:
        shop.function(1, 2)
    assert (caught.value.__context__, shop.rejected, shop.told) == (None, 1, 0)
    shop.function(Customer(True))
    assert (shop.hook.counters.failures, shop.rejected) == ({"would-run-code": 1}, 2)
    shop.function(1)
    shop.function(1)
    assert (shop.rejected, shop.told) == (4, 0)
    refuse = shops("amount > 100", Mode.INSTEAD, "refuse")
    for amount in (1, Customer(True)):
        with pytest.raises(ValueError) as refused:
            refuse.function(amount)
        assert refused.value.__context__ is None
    assert (refuse.rejected, refuse.told) == (2, 0)


@inside
def test_no_rejection_is_lost_where_threads_use_up_a_row_together(shops: Any) -> None:
    shop = shops("amount > 100")

    def call() -> None:
        for _ in range(10_000):
            shop.function(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert (shop.rejected, shop.told) == (40_000, 0)


@inside
def test_the_clock_is_read_several_times_a_second_however_often_it_is_asked(shops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = 0.0, []

    def clock() -> float:
        reads.append(now)
        return now

    monkeypatch.setattr(conditional, "monotonic", clock)
    for mode in (Mode.BEFORE, Mode.INSTEAD):
        for each, most in ((1e-4, 60), (1e-2, 30)):
            shop = shops("amount > 100", mode)
            for _ in range(int(3 / each)):
                now += each
                shop.function(1)
            # Of the third second, when it has found how many calls that takes.
            assert 2 <= sum(now - 1 < read for read in reads) <= most, (mode, each)


def test_a_condition_that_fails_is_asked_elsewhere_until_it_can_be_evaluated(shops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(conditional, "monotonic", lambda: now)
    shop = shops("amount > 100")
    # As many as to find that they come fast.
    for _ in range(10_000):
        shop.function(1)
    assert shop.function(Customer(True))[1] is None
    assert shop.hook.counters.failures == {"would-run-code": 1}
    assert (shop.rejected, shop.entrance) == (10_001, None)
    shop.function(1)
    assert (shop.rejected, shop.entrance is None) == (10_002, False)
    for _ in range(MOST_ERRORS):
        shop.function(Customer(True))
    # It rests.
    shop.function(200)
    assert (shop.entrance, shop.told) == (None, 0)
    now += conditional.REST + 1
    shop.function(200)
    assert shop.told == 1


@inside
def test_a_hook_that_is_suspended_skips_before_its_condition_is_asked(shops: Any) -> None:
    shop = shops("amount > 100", after=1)
    shop.function(200)
    assert (shop.told, shop.entrance) == (1, None)
    shop.function(1)
    assert (shop.rejected, shop.hook.counters.skipped["suspended"].value) == (0, 1)
    shop.hook.admission.succeeded()
    shop.function(1)
    assert (shop.rejected, shop.entrance is None) == (1, False)


@inside
def test_counters_that_begin_anew_count_from_nothing(shops: Any) -> None:
    shop = shops("amount > 100")
    for _ in range(5):
        shop.function(1)
    shop.hook.reset_after_fork(1)
    shop.function(1)
    assert shop.rejected == 1


@inside
def test_several_that_record_are_told_one_by_one(shops: Any) -> None:
    shop = shops("amount > 100", Mode.AFTER, "pay")
    plain = {"kind": "stat", "by": [], "of": "duration", "when": ""}

    def counting(**local: Any) -> LocalHook:
        hook = shop.made(LocalHook, Mode.AFTER, Terms(local={**plain, **local}))
        hook.placed(shop.patch.resolved, shop.code)
        return hook

    def counted() -> List[Any]:
        return [{key: cell[COUNT] for key, cell in hook.aggregate.total().items()} for hook in hooks]

    hooks = [counting(), counting(by=["amount"]), counting(when="amount > 1")]
    shop.set(hooks)
    assert [shop.function(1), shop.function(2), shop.function(0)] == [1, 2, None]
    assert counted() == [{(): 3}, {(0,): 1, (1,): 1, (2,): 1}, {(): 1}]
    hooks[1].rest()
    shop.function(3)
    assert counted() == [{(): 4}, {(0,): 1, (1,): 1, (2,): 1}, {(): 2}]
    guard.on = True
    try:
        shop.function(3)
    finally:
        guard.on = False
    for hook in hooks:
        hook.reset_after_fork(1)
    shop.function(5)
    assert counted() == [{(): 1}, {(5,): 1}, {(): 1}]
    shop.set(hooks[:1])
    shop.function(6)
    assert counted()[0] == {(): 2}
    assert counted()[2] == {(): 1}
    # The same hook on another function, as where a module is loaded anew.
    shop.set([])
    other = shops("amount", name="charge")
    hooks[0].placed(other.patch.resolved, other.code)
    other.set(hooks[:1])
    assert other.function(1)[0] == 1
    assert list(counted()[0].values()) == [3]


def test_the_truth_of_a_value_is_asked_without_its_code(shops: Any) -> None:
    class Lazy:
        def __len__(self) -> int:
            raise SystemExit("code of the application")

    shop = shops("amount > 100", Mode.AFTER, "charge")
    for when in ("amount", "customer.vip", "result", "1 == 1 and amount"):
        hook = shop.made(LocalHook, Mode.AFTER, Terms(local={"kind": "stat", "by": [], "of": "duration", "when": when}))
        hook.placed(shop.patch.resolved, shop.code)
        shop.set([hook])
        customer = Customer(True)
        customer.vip = Lazy()  # type: ignore[assignment]
        shop.function(Lazy(), customer)
        assert hook.totals()["failed"] == hook.aggregate.rejected.value == (when != "result"), when
        shop.function(1, Customer(True))
        assert sum(cell[COUNT] for cell in hook.aggregate.total().values()) == 1 + (when == "result")


def test_what_is_counted_by_is_what_the_call_was_given(shops: Any) -> None:
    shop = shops("amount > 100", Mode.AFTER, "take")
    hooks = []
    for key in ("rest['more']", "amount"):
        hooks.append(shop.made(LocalHook, Mode.AFTER, Terms(local={"kind": "stat", "by": [key], "of": "duration", "when": ""})))
        hooks[-1].placed(shop.patch.resolved, shop.code)
    # At an entrance of its own, at that of several, and beside a condition, by a token.
    for chain in (hooks[:1], hooks, [shop.condition, hooks[0]]):
        shop.set(chain)
        assert shop.function(1, more=5) == 6
    assert [list(hook.aggregate.total()) for hook in hooks] == [[(5,)], [(1,)]]
    assert hooks[0].aggregate.total()[5,][COUNT] == 3


@pytest.mark.version
@inside
def test_a_hook_that_stays_is_told_of_each_call_while_others_come_and_go(shops: Any) -> None:
    shop = shops("amount > 100", Mode.BEFORE, "pay")
    local = Terms(local={"kind": "stat", "by": [], "of": "duration", "when": ""})
    stays, other = (shop.made(LocalHook, Mode.AFTER, local) for _ in range(2))
    for hook in (stays, other):
        hook.placed(shop.patch.resolved, shop.code)
        # Whatever it costs.
        hook.rest = lambda: None
    shop.set([stays])
    called = [0] * 3
    is_over = threading.Event()

    def call(number: int) -> None:
        while not is_over.is_set():
            assert shop.function(7) == 7
            called[number] += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(called))]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(8):
            for hooks in ([stays, other], [shop.condition, stays], [stays], [other, stays]):
                shop.set(hooks)
                enough = sum(called) + 8
                while sum(called) < enough:
                    pass
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert stays.aggregate.total()[()][COUNT] == sum(called)
    assert 0 < other.aggregate.total()[()][COUNT] < sum(called)
    assert (shop.rejected > 0, shop.told) == (True, 0)


@inside
def test_from_one_condition_to_another_and_to_none(shops: Any) -> None:
    shop = shops("amount > 100")
    armed = shop.function.__code__
    other = Conditional(shop.hook, "amount > 1000", OBSERVE)
    other.placed(shop.patch.resolved, shop.code)
    shop.set([other])
    assert shop.function.__code__ is not armed
    # What runs the code that was there has the hooks that are there now.
    copy: Any = types.FunctionType(armed, {}, "copy", (None,))
    copy.__kwdefaults__ = {"note": None}
    assert copy(500)[0] == 500
    assert (shop.rejected, shop.told) == (1, 0)
    shop.set([shop.hook])
    copy(1)
    shop.function(1)
    assert (shop.rejected, shop.told) == (1, 2)
    shop.set([])
    copy(5000)
    assert (shop.rejected, shop.told) == (1, 2)


@inside
def test_pickled_by_value_it_is_the_original(shops: Any) -> None:
    shop = shops("amount > 100")
    pickled = cloudpickle.dumps(types.FunctionType(shop.function.__code__, {}, "charge", (None,)))
    again = cloudpickle.loads(pickled)
    again.__kwdefaults__ = {"note": None}
    assert again(500)[0] == 500
    assert again(1)[0] == 1
    assert (shop.rejected, shop.told) == (0, 0)
    elsewhere = "import cloudpickle, sys; f = cloudpickle.loads(sys.stdin.buffer.read()); f.__kwdefaults__ = {'note': 0}; print(f(500)[0])"
    ran = subprocess.run([sys.executable, "-c", elsewhere], input=pickled, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, b"500\n"), ran.stderr
