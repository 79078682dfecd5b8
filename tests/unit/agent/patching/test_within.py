"""Hooks inside a function's own code: order, what comes of it, arming and disarming under way, and exact undo."""

from __future__ import annotations

import copy
import sys
import threading
import time
import types
import typing
from typing import Any, Callable, Generator, Iterator, List, Optional, Tuple, Union

import cloudpickle
import pytest

from xpc_agent.guard import guard
from xpc_agent.hooks.alone import after, around
from xpc_agent.hooks.count import Count
from xpc_agent.hooks.dispatch import Dispatcher, HookChain, Invocation
from xpc_agent.hooks.gate import ALWAYS, PASS, Proceeding, Way
from xpc_agent.patching import Patch, PatchError, make_patch
from xpc_agent.targets.resolve import Kind, resolve
from xpc_instrument.core.calls.outcome import Arguments, Outcome
from xpc_instrument.core.model.target import Mode

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.11 is the oldest whose code is gone into")

SOURCE = """
import sys

def charge(amount, currency="EUR", *more, note=None, **rest):
    log.append("original")
    if amount == "no":
        raise ValueError(amount)
    return amount, currency, more, note, rest

def factorial(n):
    return n * factorial(n - 1) if n else 1

def caller():
    return sys._getframe(1).f_code.co_name

def count(n):
    log.append("original")
    for i in range(n):
        try:
            yield i
        except KeyError:
            log.append("thrown")
    return "end"

async def wait(n):
    return n

class Order:
    def method(self, x, y=2):
        return x, y

    @classmethod
    def make(cls, x):
        return cls.__name__, x

    @property
    def value(self):
        return 5
"""

# An `around` hook here: it yields what it proceeds with (None for its own arguments), gets the outcome, and returns its answer.
Around = Generator[Optional[Arguments], Outcome, Any]


class Waits(Proceeding):
    """A hook of this process that has proceeded."""

    def __init__(self, log: List[str], act: Around) -> None:
        self.log = log
        self.act = act

    def begin(self) -> Union[Outcome, Proceeding]:
        return self._step(lambda: next(self.act))

    def tell(self, outcome: Outcome) -> Union[Outcome, Proceeding]:
        return self._step(lambda: self.act.send(outcome))

    def _step(self, step: Callable[[], Optional[Arguments]]) -> Union[Outcome, Proceeding]:
        try:
            self.changed = step()
        except StopIteration as stop:
            return Outcome(stop.value)
        except KeyError as error:
            # As if it came from elsewhere.
            return Outcome(error=KeyError(*error.args))
        return self

    def abandon(self) -> None:
        self.log.append("abandoned")
        self.act.close()


class Hook:
    """A hook that can be called inside of a function; `form` of the rest as `RemoteHook`."""

    alone: Optional[Way] = None
    has_own_way = True

    def __init__(self, mode: Mode, name: str, log: List[Any], act: Optional[Callable[..., Around]] = None, *, take: Any = ALWAYS) -> None:
        self.mode = mode
        self.name = name
        self.log = log
        self.act = act
        self.way = Way(take)
        if self.has_own_way and mode is Mode.AROUND:
            self.way.begin = around(self)
            self.alone = self.way
        elif self.has_own_way and mode is Mode.AFTER:
            self.alone = Way(ALWAYS, after(self))
        self.inside = True
        self.seen: List[Tuple[Any, Any, Any]] = []
        self.outcomes: List[Any] = []

    def goes_inside(self, kind: Kind) -> bool:
        return self.inside

    def call_observer(self, invocation: Invocation) -> None:
        self.log.append(self.name)
        self.seen.append((invocation.instance, invocation.args, invocation.kwargs))
        self.outcomes.append((invocation.result, type(invocation.exception), invocation.number))

    async def call_observer_async(self, invocation: Invocation) -> None:
        self.call_observer(invocation)

    def observe(self, invocation: Invocation) -> None:
        self.call_observer(invocation)

    def goes_without(self) -> bool:
        return False

    def still_takes(self) -> bool:
        return True

    def let_go(self) -> None:
        pass

    def cross(self, args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        self.log.append(f"{self.name} in")
        self.seen.append((bound, args, kwargs))
        return Waits(self.log, self.act(args, kwargs) if self.act else self._forward()).begin()

    def _forward(self) -> Around:
        outcome = yield None
        self.log.append(f"{self.name} out")
        return outcome.get()

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        self.log.append(f"{self.name} around")
        self.seen.append((bound, args, kwargs))
        return proceed(*args, **kwargs)

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        return await proceed(*args, **kwargs)


class Scene:
    """A target and hooks on it."""

    def __init__(self, name: str, log: List[Any]) -> None:
        self.log = log
        self.dispatcher = Dispatcher()
        self.patch: Patch = make_patch(resolve(f"shop_within:{name}"), self.dispatcher)
        self.patch.install()
        self.hooks: List[Hook] = []

    def add(self, mode: Mode, name: str, act: Any = None, **options: Any) -> Hook:
        hook = Hook(mode, name, self.log, act, **options)
        self.set(*self.hooks, hook)
        return hook

    def set(self, *hooks: Hook) -> None:
        self.hooks = list(hooks)
        self.dispatcher.chain = HookChain(self.hooks) if hooks else None
        if hooks:
            self.patch.arm()
        else:
            self.patch.disarm()


@pytest.fixture(autouse=True, params=[True, False], ids=["alone it has a way of its own", "alone as among others"])
def own_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hook, "has_own_way", request.param)


@pytest.fixture
def shop() -> Iterator[Any]:
    module = types.ModuleType("shop_within")
    sys.modules[module.__name__] = module
    exec(SOURCE, module.__dict__)
    module.log = []  # type: ignore[attr-defined]
    yield module
    del sys.modules[module.__name__]


@pytest.fixture
def scene(shop: Any) -> Scene:
    return Scene("charge", shop.log)


ANSWER = (1, "EUR", (), None, {})


def test_hooks_run_in_the_order_that_they_have_around_the_original_too(shop: Any, scene: Scene) -> None:
    for mode, name in [
        (Mode.AFTER, "after 1"),
        (Mode.AROUND, "around 1"),
        (Mode.BEFORE, "before 1"),
        (Mode.AROUND, "around 2"),
        (Mode.AFTER, "after 2"),
        (Mode.BEFORE, "before 2"),
    ]:
        scene.add(mode, name)
    assert shop.charge(1) == ANSWER
    assert shop.log == [
        *("before 1", "before 2", "around 2 in", "around 1 in", "original", "around 1 out", "around 2 out", "after 2", "after 1"),
    ]
    assert scene.patch.patcher == "inside"
    assert len({hook.outcomes[0][2] for hook in scene.hooks if hook.outcomes}) == 1


def test_hooks_see_the_canonical_form_and_the_instance_apart(shop: Any) -> None:
    rows: List[Tuple[str, Callable[[], Any], Any]] = [
        ("charge", lambda: shop.charge(1, "USD", 3, note=4, z=5), (None, (1, "USD", 3), {"note": 4, "z": 5})),
        ("charge", lambda: shop.charge(currency="USD", amount=1), (None, (1, "USD"), {"note": None})),
        ("Order.make", lambda: shop.Order.make(x=1), (shop.Order, (1,), {})),
    ]
    for name, call, seen in rows:
        scene = Scene(name, shop.log)
        before = scene.add(Mode.BEFORE, "before")
        call()
        assert before.seen == [seen]
        scene.set()
    order = shop.Order()
    method, value = Scene("Order.method", shop.log), Scene("Order.value", shop.log)
    after, of_value = method.add(Mode.AFTER, "after"), value.add(Mode.AFTER, "after")
    assert (order.method(y=1, x=0), order.value) == ((0, 1), 5)
    assert (after.seen, of_value.seen) == ([(order, (0, 1), {})], [(order, (), {})])


def test_a_function_may_have_any_number_of_parameters(shop: Any) -> None:
    exec(f"def wide({', '.join(f'p{number}' for number in range(300))}):\n    return p0, p299\n", shop.__dict__)
    scene = Scene("wide", shop.log)
    hooks = [scene.add(mode, "hook") for mode in (Mode.BEFORE, Mode.AROUND)]
    assert shop.wide(*range(300)) == (0, 299)
    assert [hook.seen[0][1] for hook in hooks] == [tuple(range(300))] * 2
    assert scene.patch.patcher == "inside"


def test_what_a_body_does_to_its_keyword_arguments_is_not_seen_by_an_after_hook(shop: Any) -> None:
    exec("def drain(**options):\n    options.clear()\n", shop.__dict__)
    after = Scene("drain", shop.log).add(Mode.AFTER, "after")
    shop.drain(a=1)
    assert after.seen == [(None, (), {"a": 1})]


def test_arguments_that_a_hook_changes_reach_the_inner_hook_and_the_body(shop: Any, scene: Scene) -> None:
    def change(args: Any, kwargs: Any) -> Around:
        return (yield ((7,), {"note": 8, "currency": "USD"})).get()

    inner = scene.add(Mode.AROUND, "inner")
    scene.add(Mode.AROUND, "outer", change)
    assert shop.charge(1) == (7, "USD", (), 8, {})
    assert inner.seen == [(False, (7, "USD"), {"note": 8})]


def test_arguments_that_the_original_does_not_take_are_the_hooks_error(shop: Any, scene: Scene) -> None:
    got: List[Any] = []

    def wrong(args: Any, kwargs: Any) -> Around:
        got.append((yield ((), {})).error)
        return (yield None).get()

    scene.add(Mode.AROUND, "wrong", wrong)
    assert shop.charge(1) == ANSWER
    assert str(got[0]) == "charge() missing 1 required positional argument: 'amount'"


def test_a_hook_may_proceed_several_times_with_the_hooks_inside_of_it(shop: Any, scene: Scene) -> None:
    def twice(args: Any, kwargs: Any) -> Around:
        first = yield None
        second = yield ((2,), {})
        return first.get(), second.get()

    inner = scene.add(Mode.AROUND, "inner")
    scene.add(Mode.AROUND, "twice", twice)
    shop.charge.__defaults__ = ("CHF",)
    assert shop.charge(1) == ((1, "CHF", (), None, {}), (2, "CHF", (), None, {}))
    assert shop.log.count("original") == 2
    assert [args for _, args, _ in inner.seen] == [(1, "CHF"), (2, "CHF")]


def test_a_hook_that_does_not_proceed_keeps_the_body_and_the_hooks_inside_of_it_from_running(shop: Any, scene: Scene) -> None:
    def answer(args: Any, kwargs: Any) -> Any:
        return "other"
        yield

    scene.add(Mode.AROUND, "inner")
    scene.add(Mode.AROUND, "answers", answer)
    scene.add(Mode.AROUND, "outer")
    after = scene.add(Mode.AFTER, "after")
    assert shop.charge(1) == "other"
    assert shop.log == ["outer in", "answers in", "outer out", "after"]
    assert after.outcomes[0][:2] == ("other", type(None))


def test_exceptions_pass_and_turn_into_results_and_back(shop: Any, scene: Scene) -> None:
    def forgive(args: Any, kwargs: Any) -> Around:
        outcome = yield None
        return outcome.value if outcome.error is None else "forgiven"

    def refuse(args: Any, kwargs: Any) -> Around:
        yield None
        raise KeyError("refused")

    passing, forgiving, refusing = Hook(Mode.AROUND, "p", []), Hook(Mode.AROUND, "f", [], forgive), Hook(Mode.AROUND, "r", [], refuse)
    after = Hook(Mode.AFTER, "after", [])
    scene.set(passing, after)
    with pytest.raises(ValueError, match="no") as caught:
        shop.charge("no")
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)
    assert [frame.name for frame in caught.traceback][1:] == ["charge"]
    scene.set(forgiving, after)
    assert shop.charge("no") == "forgiven"
    for amount in (1, "no"):
        scene.set(refusing, passing, after)
        with pytest.raises(KeyError, match="refused") as other:
            shop.charge(amount)
        assert other.value.__context__ is None
        # At the line of its `def`, and with no frame of ours.
        assert (other.traceback[1].name, other.traceback[1].lineno + 1) == ("charge", shop.charge.__code__.co_firstlineno)
        assert "xpc_agent" not in str([entry.path for entry in other.traceback])
    assert [kind for _, kind, _ in after.outcomes] == [ValueError, type(None), KeyError, KeyError]


def test_a_before_hook_that_keeps_the_original_from_running_ends_the_invocation(shop: Any, scene: Scene) -> None:
    class Refusing(Hook):
        def call_observer(self, invocation: Invocation) -> None:
            raise PermissionError("not now")

    after = Hook(Mode.AFTER, "after", shop.log)
    scene.set(Refusing(Mode.BEFORE, "refusing", shop.log), after)
    with pytest.raises(PermissionError, match="not now") as caught:
        shop.charge(1)
    assert shop.log == []
    assert [entry.name for entry in caught.traceback][1:2] == ["charge"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_thread_abandons_the_hooks_that_wait(shop: Any, scene: Scene, error: Any) -> None:
    shop.log = types.SimpleNamespace(append=lambda _: (_ for _ in ()).throw(error))
    for name in ("inner", "outer"):
        scene.add(Mode.AROUND, name)
    after = scene.add(Mode.AFTER, "after")
    with pytest.raises(error):
        shop.charge(1)
    assert scene.log.count("abandoned") == 2
    assert after.seen == []


def test_the_caller_is_the_callers_own_and_the_stack_is_not_deeper(shop: Any) -> None:
    scene = Scene("caller", shop.log)
    for mode in (Mode.BEFORE, Mode.AROUND, Mode.AFTER):
        scene.add(mode, mode.value)

    def here() -> Any:
        return shop.caller()

    assert here() == "here"


def test_a_target_that_calls_itself_has_hooks_at_every_level(shop: Any) -> None:
    scene = Scene("factorial", shop.log)
    scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")
    assert shop.factorial(5) == 120
    assert [outcome[0] for outcome in after.outcomes] == [1, 1, 2, 6, 24, 120]


def test_nothing_is_called_while_the_thread_does_our_work_or_admission_says_no(shop: Any, scene: Scene) -> None:
    scene.add(Mode.AROUND, "around")
    guard.on = True
    try:
        shop.charge(1)
    finally:
        guard.on = False
    scene.set(Hook(Mode.AROUND, "never", shop.log, take=lambda: False))
    assert shop.charge(1) == ANSWER
    assert shop.log == ["original"] * 2


def test_a_call_that_is_work_of_ours_is_counted_back(shop: Any, scene: Scene) -> None:
    calls = Count()
    hook = Hook(Mode.AROUND, "around", shop.log, take=calls.up)
    hook.way.begin = around(hook)
    hook.alone, hook.way.back = hook.way, calls.back
    scene.set(hook)
    guard.on = True
    try:
        shop.charge(1)
    finally:
        guard.on = False
    assert (calls.value, shop.log) == (0, ["original"])
    shop.charge(1)
    assert (calls.value, shop.log[1:]) == (1, ["around in", "original", "around out"])


def test_an_after_hook_alone_says_at_the_beginning_that_it_is_not_to_be_told(shop: Any, scene: Scene) -> None:
    class Suspended(Hook):
        resting = True

        def goes_without(self) -> bool:
            return self.resting

    hook = Suspended(Mode.AFTER, "after", shop.log)
    hook.alone = Way(ALWAYS, after(hook))
    scene.set(hook)
    assert (shop.charge(1), shop.log) == (ANSWER, ["original"])
    hook.resting = False
    assert (shop.charge(1), shop.log[1:]) == (ANSWER, ["original", "after"])


def test_a_hook_that_is_as_if_it_were_not_there_lets_the_rest_run(shop: Any, scene: Scene) -> None:
    class Gone(Hook):
        def cross(self, args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
            return PASS

    scene.set(Hook(Mode.AROUND, "inner", shop.log), Gone(Mode.AROUND, "gone", shop.log))
    assert shop.charge(1) == ANSWER
    assert shop.log == ["inner in", "original", "inner out"]


def test_a_generator_tells_its_observers_when_it_starts_and_when_it_ends(shop: Any) -> None:
    scene = Scene("count", shop.log)
    scene.add(Mode.BEFORE, "before")
    after = scene.add(Mode.AFTER, "after")
    iterator = shop.count(3)
    assert shop.log == []
    assert next(iterator) == 0
    assert iterator.throw(KeyError()) == 1
    scene.set()
    assert list(iterator) == [2]
    scene.set(*[Hook(Mode.BEFORE, "before", shop.log), after])
    closed = shop.count(3)
    next(closed)
    closed.close()
    assert shop.log == ["before", "original", "thrown", "after", "before", "original", "after"]
    assert [outcome[:2] for outcome in after.outcomes] == [("end", type(None)), (None, type(None))]


def test_a_coroutine_function_stays_one(shop: Any) -> None:
    scene = Scene("wait", shop.log)
    after = scene.add(Mode.AFTER, "after")
    coroutine = shop.wait(3)
    assert after.seen == []
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    assert (stop.value.value, after.outcomes[0][0], scene.patch.patcher) == (3, 3, "inside")


# arming and disarming -------------------------------------------------------------------------------------------------------


def test_a_hook_that_cannot_go_inside_takes_all_of_them_around_and_back(shop: Any, scene: Scene) -> None:
    code, state = shop.charge.__code__, dict(vars(shop.charge))
    inside, outside = Hook(Mode.AROUND, "inside", shop.log), Hook(Mode.AROUND, "outside", shop.log)
    outside.inside = False
    for hooks, patcher, told in [
        ([inside], "inside", ["inside in", "original", "inside out"]),
        ([inside, outside], "code", ["outside around", "inside around", "original"]),
        ([outside], "code", ["outside around", "original"]),
        ([inside], "inside", ["inside in", "original", "inside out"]),
    ]:
        shop.log.clear()
        scene.set(*hooks)
        assert (shop.charge(1), shop.log, scene.patch.patcher) == (ANSWER, told, patcher)
    scene.set()
    assert shop.charge.__code__ is code
    assert vars(shop.charge) == state
    scene.patch.uninstall()


def test_each_call_has_the_old_hooks_or_the_new_while_eight_threads_call(shop: Any) -> None:
    shop.log = types.SimpleNamespace(append=lambda _: None)
    scene = Scene("charge", [])
    lock = threading.Lock()
    counted = 0

    class Counting(Hook):
        def count(self) -> None:
            nonlocal counted
            with lock:
                counted += 1

        def cross(self, args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
            self.count()
            return PASS

        def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
            self.count()
            return proceed(*args, **kwargs)

    inside, outside = Counting(Mode.AROUND, "inside", []), Counting(Mode.AROUND, "outside", [])
    outside.inside = False
    stop = threading.Event()
    wrong: List[Any] = []
    calls = [0] * 8

    def call(index: int) -> None:
        while not stop.is_set():
            if shop.charge(index) != (index, "EUR", (), None, {}):
                wrong.append(index)
            calls[index] += 1

    scene.set(inside)
    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 1.0
    rounds = 0
    while time.monotonic() < deadline:
        # There is always exactly one hook.
        scene.set(outside)
        scene.set(inside)
        rounds += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert counted == sum(calls)
    assert rounds > 20


def test_a_function_with_two_names_is_gone_into_once_and_untouched_afterwards(shop: Any) -> None:
    shop.alias = shop.charge
    code = shop.charge.__code__
    for first, second in [("charge", "alias"), ("alias", "charge")]:
        one, other = Scene(first, shop.log), Scene(second, shop.log)
        a, b = one.add(Mode.AROUND, "one"), other.add(Mode.AROUND, "other")
        assert (one.patch.patcher, other.patch.patcher) == ("inside", "code")
        assert shop.charge(1) == ANSWER
        b.inside = False
        one.set()
        assert shop.charge(1) == ANSWER
        one.set(a)
        assert shop.charge(1) == ANSWER
        other.set()
        assert shop.charge(1) == ANSWER
        one.set()
        assert (len(a.seen), len(b.seen)) == (3, 3)
        assert shop.charge.__code__ is code
        assert "__signature__" not in vars(shop.charge)
        for each in (one, other):
            each.patch.uninstall()


def test_what_is_pickled_by_value_for_a_process_without_the_agent_has_a_trampoline(shop: Any, scene: Scene) -> None:
    shop.charge.__module__ = "__main__"
    scene.add(Mode.AFTER, "after")
    assert (scene.patch.patcher, "by value" in scene.patch.why_not_inside) == ("code", True)
    assert b"xpc_" not in cloudpickle.dumps(shop.charge)
    assert shop.charge(1) == ANSWER
    assert shop.log == ["original", "after"]


def test_copies_and_pickles_of_an_armed_function_are_functions(shop: Any, scene: Scene) -> None:
    scene.add(Mode.AFTER, "after")
    shop.charge.__module__ = "__main__"
    again = cloudpickle.loads(cloudpickle.dumps(shop.charge))
    assert again.__code__ is not shop.charge.__code__
    again.__globals__["log"] = []
    assert again(1) == ANSWER
    assert shop.log == []
    assert copy.copy(shop.charge) is shop.charge
    mine: List[Any] = []
    other = types.FunctionType(shop.charge.__code__, {"log": mine}, "other", ("GBP",))
    other.__kwdefaults__ = {"note": 0}
    assert other(1) == (1, "GBP", (), 0, {})
    assert (mine, shop.log) == (["original"], ["after"])
    scene.set()
    assert other(1) == (1, "GBP", (), 0, {})
    assert shop.log == ["after"]


def test_a_body_that_runs_when_its_hooks_are_removed_still_tells_them(shop: Any, scene: Scene) -> None:
    hook = scene.add(Mode.AROUND, "around")
    after = scene.add(Mode.AFTER, "after")
    shop.log = types.SimpleNamespace(append=lambda _: scene.set())
    assert shop.charge(1) == ANSWER
    assert scene.log == ["around in", "around out", "after"]
    assert (len(hook.seen), len(after.seen)) == (1, 1)


def test_somebody_elses_code_stays(shop: Any, scene: Scene) -> None:
    scene.add(Mode.AROUND, "around")

    def theirs(*args: Any, **kwargs: Any) -> str:
        return "theirs"

    shop.charge.__code__ = theirs.__code__
    scene.add(Mode.AROUND, "one more")
    with pytest.raises(PatchError, match="somebody else"):
        scene.patch.uninstall()
    assert shop.charge(1) == "theirs"


def test_defaults_that_change_while_armed_count(shop: Any, scene: Scene) -> None:
    around = scene.add(Mode.AROUND, "around")
    shop.charge.__defaults__ = ("CHF",)
    shop.charge.__kwdefaults__ = {"note": 1}
    assert shop.charge(1) == (1, "CHF", (), 1, {})
    assert around.seen == [(False, (1, "CHF"), {"note": 1})]


def test_code_that_is_not_gone_into_is_armed_around_and_says_why(shop: Any) -> None:
    shop.compress = next(
        one
        for one in (
            types.FunctionType(code, shop.__dict__)
            for code in compile("def f(x):\n    return (i for i in x)\n", "f", "exec").co_consts[0].co_consts  # type: ignore[union-attr]
            if isinstance(code, types.CodeType)
        )
    )
    scene = Scene("compress", shop.log)
    hook = Hook(Mode.BEFORE, "before", shop.log)
    scene.set(hook)
    assert list(shop.compress(iter([1, 2]))) == [1, 2]
    assert shop.log == ["before"]
    assert scene.patch.patcher == "code"
    assert "names" in scene.patch.why_not_inside


def test_what_a_type_checker_is_told_by_is_a_target_as_any_other(shop: Any, scene: Scene) -> None:
    scene.add(Mode.AROUND, "around")
    code = typing.cast.__code__
    dispatcher = Dispatcher()
    patch = make_patch(resolve("typing:cast"), dispatcher)
    hook = Hook(Mode.AROUND, "of cast", shop.log)
    dispatcher.chain = HookChain([hook])
    patch.arm()
    try:
        assert typing.cast("int", 1) == 1
        assert shop.charge(1) == ANSWER
    finally:
        patch.disarm()
    assert typing.cast.__code__ is code
    # Once for the call here, and not for any of ours.
    assert len(hook.seen) == 1
