"""Both patchers, on every kind of callable: what hooks see, what stays true while armed, and exact undo."""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
import threading
import time
import types
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from xpc_agent.hooks.dispatch import Dispatcher, HookChain, Invocation
from xpc_agent.patching import Patch, PatchError, make_patch
from xpc_agent.targets.resolve import UnpatchableError, resolve
from xpc_instrument.core.model.target import Mode

SOURCE = """
import functools, time

def function(a, b=2, *args, c: int = 3, **more):
    "Doc."
    return (a, b, args, c, more)

async def coroutine(x):
    return x + 1

def generator(n):
    got = []
    for i in range(n):
        got.append((yield i))
    return got

async def async_generator(n):
    for i in range(n):
        yield i

def decorate(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)
    return wrapper

@decorate
def decorated(x):
    return x

anonymous = lambda x: x * 2

def make(z):
    def inner(x):
        return (x, z)
    return inner

closure = make(1)
sibling = make(2)

@functools.lru_cache(maxsize=None)
def cached(x):
    return x * 2

partial = functools.partial(function, 1)

class Callable:
    def __call__(self, x):
        return x

instance = Callable()
c_function = time.monotonic

class Base:
    def __new__(cls, *args):
        return super().__new__(cls)

    def __init__(self, number=7):
        self.number = number

    def method(self, x):
        return (self.number, x)

    @classmethod
    def class_method(cls, x):
        return (cls.__name__, x)

    @staticmethod
    def static_method(x):
        return x

    @property
    def value(self):
        return self.number

    @value.setter
    def value(self, new):
        self.number = new

    @value.deleter
    def value(self):
        del self.number

    def __private(self):
        return "private"

    def open(self):
        return self.__private()

class Derived(Base):
    def method(self, x):
        return ("derived", super().method(x))
"""


class Recorder:
    """A hook that forwards, and keeps what it saw."""

    mode = Mode.AROUND

    def __init__(self) -> None:
        self.seen: List[Tuple[Any, Tuple[Any, ...], Dict[str, Any]]] = []

    def call_observer(self, invocation: Invocation) -> None:
        raise AssertionError("not an observer")

    async def call_observer_async(self, invocation: Invocation) -> None:
        raise AssertionError("not an observer")

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        invocation = Invocation(args, kwargs, bound)
        self.seen.append((invocation.instance, invocation.args, invocation.kwargs))
        return proceed(*args, **kwargs)

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        invocation = Invocation(args, kwargs, bound)
        self.seen.append((invocation.instance, invocation.args, invocation.kwargs))
        return await proceed(*args, **kwargs)


@pytest.fixture
def shop() -> Iterator[Any]:
    module = types.ModuleType("shop_under_test")
    sys.modules[module.__name__] = module
    exec(SOURCE, module.__dict__)
    yield module
    del sys.modules[module.__name__]


class Armed:
    """One target, patched."""

    def __init__(self, name: str, patcher: str) -> None:
        self.dispatcher = Dispatcher()
        self.hook = Recorder()
        self.resolved = resolve(f"shop_under_test:{name}")
        self.patch: Patch = make_patch(self.resolved, self.dispatcher, patcher)
        self.patch.install()

    def arm(self) -> None:
        self.dispatcher.chain = HookChain([self.hook])
        self.patch.arm()

    def disarm(self) -> None:
        self.patch.disarm()
        self.dispatcher.chain = None


def run(awaitable: Any) -> Any:
    """Drive a coroutine that waits for nothing."""
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


async def collect(iterator: Any) -> List[Any]:
    return [item async for item in iterator]


def set_value(m: Any) -> Any:
    base = m.Base()
    base.value = 5
    return base.number


def del_value(m: Any) -> Any:
    base = m.Base()
    del base.value
    return hasattr(base, "number")


# name, how to call it, what comes of it, what the hook sees (arguments without the instance)
KINDS: List[Tuple[str, Callable[[Any], Any], Any, Any]] = [
    ("function", lambda m: m.function(1, c=5), (1, 2, (), 5, {}), ((1,), {"c": 5})),
    ("coroutine", lambda m: run(m.coroutine(x=1)), 2, ((), {"x": 1})),
    ("generator", lambda m: list(m.generator(3)), [0, 1, 2], ((3,), {})),
    ("async_generator", lambda m: run(collect(m.async_generator(3))), [0, 1, 2], ((3,), {})),
    ("decorated", lambda m: m.decorated(x=1), 1, ((), {"x": 1})),
    ("anonymous", lambda m: m.anonymous(2), 4, ((2,), {})),
    ("closure", lambda m: (m.closure(5), m.sibling(5)), ((5, 1), (5, 2)), ((5,), {})),
    ("Base.__init__", lambda m: m.Base(3).number, 3, ((3,), {})),
    ("Base.__new__", lambda m: m.Base(3).number, 3, ((3,), {})),
    ("Base.method", lambda m: m.Base().method(x=1), (7, 1), ((), {"x": 1})),
    ("Base.class_method", lambda m: m.Base.class_method(1), ("Base", 1), ((1,), {})),
    ("Base.static_method", lambda m: m.Base.static_method(1), 1, ((1,), {})),
    ("Base.value", lambda m: m.Base().value, 7, ((), {})),
    ("Base.value.fset", set_value, 5, ((5,), {})),
    ("Base.value.fdel", del_value, False, ((), {})),
    ("Base.__private", lambda m: m.Base().open(), "private", ((), {})),
    ("Derived.method", lambda m: m.Derived().method(1), ("derived", (7, 1)), ((1,), {})),
    ("Derived.class_method", lambda m: (m.Derived.class_method(1), m.Base.class_method(1)), (("Derived", 1), ("Base", 1)), ((1,), {})),
    ("Derived.open", lambda m: (m.Derived().open(), m.Base().open()), ("private", "private"), ((), {})),
    ("Derived.value", lambda m: (m.Derived().value, m.Base().value), (7, 7), ((), {})),
]
C_KINDS: List[Tuple[str, Callable[[Any], Any], Any, Any]] = [
    ("cached", lambda m: m.cached(2), 4, ((2,), {})),
    ("partial", lambda m: m.partial(4), (1, 4, (), 3, {}), ((4,), {})),
    ("instance", lambda m: m.instance(4), 4, ((4,), {})),
    ("c_function", lambda m: m.c_function() > 0, True, ((), {})),
]


def namespace(owner: Any) -> Dict[str, int]:
    return {name: id(value) for name, value in vars(owner).items() if name != "__annotations__"}


@pytest.mark.parametrize("patcher", ["code", "wrapt"])
@pytest.mark.parametrize(("name", "call", "result", "seen"), KINDS, ids=[row[0] for row in KINDS])
def test_python_callables_are_hooked_and_put_back(shop: Any, patcher: str, name: str, call: Any, result: Any, seen: Any) -> None:
    check(shop, Armed, patcher, name, call, result, seen)


@pytest.mark.parametrize(("name", "call", "result", "seen"), C_KINDS, ids=[row[0] for row in C_KINDS])
def test_other_callables_are_hooked_and_put_back(shop: Any, name: str, call: Any, result: Any, seen: Any) -> None:
    check(shop, Armed, "auto", name, call, result, seen)


def check(shop: Any, armed_type: Any, patcher: str, name: str, call: Any, result: Any, seen: Any) -> None:
    owner = resolve(f"shop_under_test:{name}").owner
    function = resolve(f"shop_under_test:{name}").function
    code = getattr(function, "__code__", None)
    state = dict(getattr(function, "__dict__", {}))
    before = namespace(owner)
    armed = armed_type(name, patcher)
    assert call(shop) == result
    assert armed.hook.seen == []
    if armed.patch.patcher == "code":
        assert namespace(owner) == before
        assert function.__code__ is code
    for _ in range(2):
        armed.arm()
        armed.hook.seen.clear()
        assert call(shop) == result
        assert [one[1:] for one in armed.hook.seen] == [seen]
        armed.disarm()
    armed.hook.seen.clear()
    assert call(shop) == result
    assert armed.hook.seen == []
    armed.patch.uninstall()
    assert namespace(owner) == before
    assert getattr(function, "__code__", None) is code
    assert dict(getattr(function, "__dict__", {})) == state


def test_an_alias_from_before_the_patch_is_hooked_by_code_swap(shop: Any) -> None:
    alias = shop.function
    armed = Armed("function", "code")
    armed.arm()
    alias(1)
    assert len(armed.hook.seen) == 1


def test_free_variables_of_any_name_are_kept(shop: Any) -> None:
    names = ["args", "_args", "kwargs", "replace", "error", "inner", "value", "sent"]
    body = "".join(f"    {name} = {number}\n" for number, name in enumerate(names))
    for prefix, kind in (("", "return"), ("async ", "return"), ("", "yield"), ("async ", "yield")):
        exec(f"def make():\n{body}    {prefix}def f(x): {kind} (x, {', '.join(names)})\n    return f\nclosed = make()\n", shop.__dict__)
        armed = Armed("closed", "code")
        armed.arm()
        result: Any = shop.closed(9)
        if prefix:
            result = run(result if kind == "return" else result.__anext__())
        elif kind == "yield":
            result = next(result)
        assert result == (9, *range(len(names)))
        assert len(armed.hook.seen) == 1


def test_of_two_functions_that_share_a_code_object_only_one_is_hooked(shop: Any) -> None:
    armed = Armed("closure", "code")
    armed.arm()
    shop.sibling(1)
    assert armed.hook.seen == []


@pytest.mark.parametrize("name", ["function", "coroutine", "generator", "async_generator", "decorated"])
def test_inspect_keeps_its_answers_while_armed(shop: Any, name: str) -> None:
    function = getattr(shop, name)

    def answers() -> Any:
        return (
            str(inspect.signature(function)),
            inspect.iscoroutinefunction(function),
            inspect.isgeneratorfunction(function),
            inspect.isasyncgenfunction(function),
            type(function),
            function.__name__,
            function.__qualname__,
            function.__doc__,
            function.__defaults__,
            function.__kwdefaults__,
            function.__code__.co_name,
            function.__code__.co_filename,
            function.__code__.co_firstlineno,
            function.__code__.co_freevars,
            pickle.loads(pickle.dumps(function)) is function,
        )

    before = answers()
    armed = Armed(name, "code")
    armed.arm()
    assert answers() == before


def test_defaults_that_change_while_armed_count(shop: Any) -> None:
    armed = Armed("function", "code")
    armed.arm()
    shop.function.__defaults__ = (99,)
    shop.function.__kwdefaults__ = {"c": 98}
    assert shop.function(1) == (1, 99, (), 98, {})


@pytest.mark.parametrize("patcher", ["code", "wrapt"])
def test_a_generator_keeps_send_throw_close_and_its_return_value(shop: Any, patcher: str) -> None:
    armed = Armed("generator", patcher)
    armed.arm()
    iterator = shop.generator(2)
    assert next(iterator) == 0
    assert iterator.send("a") == 1
    with pytest.raises(StopIteration) as stop:
        iterator.send("b")
    assert stop.value.value == ["a", "b"]
    iterator = shop.generator(2)
    next(iterator)
    with pytest.raises(KeyError):
        iterator.throw(KeyError("thrown"))
    iterator = shop.generator(2)
    next(iterator)
    iterator.close()
    assert list(iterator) == []


@pytest.mark.parametrize("patcher", ["code", "wrapt"])
def test_an_async_generator_keeps_asend_athrow_and_aclose(shop: Any, patcher: str) -> None:
    log: List[Any] = []
    shop.log = log
    exec(
        "async def talk():\n"
        "    try:\n        log.append((yield 1))\n        log.append((yield 2))\n"
        "    except KeyError:\n        yield 'caught'\n    finally:\n        log.append('cleaned up')\n",
        shop.__dict__,
    )
    armed = Armed("talk", patcher)
    armed.arm()

    async def converse() -> None:
        iterator = shop.talk()
        assert await iterator.__anext__() == 1
        assert await iterator.asend("sent") == 2
        assert await iterator.athrow(KeyError("thrown")) == "caught"
        await iterator.aclose()
        iterator = shop.talk()
        assert await iterator.__anext__() == 1
        await iterator.aclose()

    run(converse())
    assert log == ["sent", "cleaned up", "cleaned up"]


def test_a_traceback_ends_in_the_users_line(shop: Any) -> None:
    armed = Armed("function", "code")
    armed.arm()
    with pytest.raises(TypeError, match=r"function\(\) missing 1 required positional argument: 'a'"):
        shop.function()


def test_somebody_elses_patch_on_top_stays(shop: Any) -> None:
    armed = Armed("function", "code")
    armed.arm()

    def theirs(*args: Any, **kwargs: Any) -> str:
        return "theirs"

    shop.function.__code__ = theirs.__code__
    with pytest.raises(PatchError, match="somebody else"):
        armed.patch.uninstall()
    assert shop.function(1) == "theirs"
    wrapped = Armed("cached", "wrapt")
    shop.cached = other = functools.lru_cache(maxsize=None)(len)
    with pytest.raises(PatchError, match="somebody else"):
        wrapped.patch.uninstall()
    assert shop.cached is other


@pytest.mark.parametrize(
    ("name", "reason"),
    [("Base", r"is a class: name its constructor"), ("__doc__", "cannot be called"), ("Callable.__init__", "has no __init__ of its own")],
)
def test_what_cannot_be_hooked_says_why(shop: Any, name: str, reason: str) -> None:
    shop.__doc__ = "text"
    with pytest.raises(UnpatchableError, match=reason):
        resolve(f"shop_under_test:{name}")


def test_a_wrapt_patch_pickles_by_name_and_runs_no_frame_of_ours_while_disarmed(shop: Any) -> None:
    armed = Armed("cached", "wrapt")
    assert pickle.loads(pickle.dumps(shop.cached)) is shop.cached
    frames: List[str] = []
    sys.setprofile(lambda frame, event, arg: frames.append(frame.f_code.co_filename) if event == "call" else None)
    try:
        shop.cached(1)
    finally:
        sys.setprofile(None)
    assert not [name for name in frames if "xpc_agent" in name]
    assert armed.hook.seen == []


def test_arming_and_disarming_while_eight_threads_call_loses_nothing(shop: Any) -> None:
    armed = Armed("function", "code")
    stop = threading.Event()
    wrong: List[Any] = []
    counts = [0] * 8

    def call(index: int) -> None:
        while not stop.is_set():
            result = shop.function(index, c=index)
            counts[index] += 1
            if result != (index, 2, (), index, {}):
                wrong.append(result)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 1.0
    rounds = 0
    while time.monotonic() < deadline:
        armed.arm()
        armed.disarm()
        rounds += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(counts) > 0
    assert rounds > 100


@pytest.mark.parametrize("first", ["function", "alias"])
def test_a_function_armed_under_two_names_is_untouched_whichever_is_disarmed_first(shop: Any, first: str) -> None:
    shop.alias = shop.function
    code = shop.function.__code__
    signature = str(inspect.signature(shop.function))
    armed = {name: Armed(name, "code") for name in ("function", "alias")}
    for _ in range(3):
        for one in armed.values():
            one.arm()
        shop.function.__defaults__ = (8,)
        assert shop.function(1)[1] == 8
        armed[first].disarm()
        shop.function.__defaults__ = (2,)
        assert str(inspect.signature(shop.function)) == signature
        assert shop.function(1)[1] == 2
        for one in armed.values():
            one.disarm()
        assert shop.function.__code__ is code
        assert "__signature__" not in vars(shop.function)
    assert sorted(len(one.hook.seen) for one in armed.values()) == [3, 6]
    for one in armed.values():
        one.patch.uninstall()


FAMILY = """
class Parent:
    def say(self, more="!"): return "parent" + more
    @classmethod
    def name(cls): return "parent"
    @property
    def size(self): return 1
class Plain(Parent): pass
class Other(Parent):
    def say(self, more="!"): return "other" + more
    @classmethod
    def name(cls): return "other"
    @property
    def size(self): return 2
class Both(Plain, Other): pass
"""


@pytest.mark.parametrize(
    ("name", "call"), [("say", lambda m: m.Both().say()), ("name", lambda m: m.Both.name()), ("size", lambda m: m.Both().size)]
)
def test_an_inherited_target_gives_a_class_of_two_bases_what_it_found_before(shop: Any, name: str, call: Callable[[Any], Any]) -> None:
    exec(FAMILY, shop.__dict__)
    plain = call(shop)
    armed = Armed(f"Plain.{name}", "code")
    armed.arm()
    assert call(shop) == plain
    assert len(armed.hook.seen) == 1


@pytest.mark.parametrize("names", [("Plain.say", "Parent.say"), ("Parent.say", "Plain.say")])
def test_an_inherited_target_and_its_own_are_both_hooked_whichever_came_first(shop: Any, names: Tuple[str, str]) -> None:
    exec(FAMILY, shop.__dict__)
    code = shop.Parent.say.__code__
    armed = [Armed(name, "code") for name in names]
    for one in armed:
        one.arm()
    shop.Parent.say.__defaults__ = ("?",)
    assert shop.Plain().say() == "parent?"
    assert [len(one.hook.seen) for one in armed] == [1, 1]
    for one in armed:
        one.disarm()
    assert shop.Parent.say.__code__ is code
    assert "say" not in vars(shop.Plain)


def test_an_inherited_target_can_be_armed_whose_annotations_name_what_is_not_there_yet(shop: Any) -> None:
    later = "'Later'" if sys.version_info < (3, 14) else "Later"
    exec(f"class Parent:\n    def say(self, x: {later} = 1): return x\nclass Child(Parent): pass\n", shop.__dict__)
    armed = Armed("Child.say", "code")
    armed.arm()
    assert shop.Child().say() == 1
    shop.Later = int
    assert list(shop.Child.say.__annotations__) == ["x"]
    armed.disarm()


@pytest.mark.parametrize("patcher", ["code", "wrapt"])
def test_an_inherited_target_asks_no_metaclass_and_leaves_nothing(shop: Any, patcher: str) -> None:
    exec(
        "class Meta(type):\n    def __setattr__(cls, name, value): raise SystemError('closed')\n    __delattr__ = __setattr__\n"
        "class Parent(metaclass=Meta):\n    def say(self): return 1\nclass Child(Parent): pass\n",
        shop.__dict__,
    )
    armed = Armed("Child.say", patcher)
    armed.arm()
    assert (shop.Child().say(), len(armed.hook.seen), "say" in vars(shop.Child)) == (1, 1, True)
    armed.disarm()
    armed.patch.uninstall()
    assert (shop.Child().say(), len(armed.hook.seen), "say" in vars(shop.Child)) == (1, 1, False)


def test_an_inherited_target_that_cannot_be_made_anew_says_so(shop: Any) -> None:
    exec(
        "class Own(property):\n    def __init__(self, get): super().__init__(get)\n"
        "class Has:\n    @Own\n    def size(self): return 1\nclass Inherits(Has): pass\n",
        shop.__dict__,
    )
    with pytest.raises(PatchError, match="a Own of its own cannot be made"):
        Armed("Inherits.size", "code")


@pytest.mark.parametrize("patcher", ["code", "wrapt"])
def test_an_async_generator_that_goes_on_after_an_exception_is_out_of_its_handler(shop: Any, patcher: str) -> None:
    exec(
        "import sys\nasync def talk():\n    try:\n        yield 1\n    except (KeyError, GeneratorExit):\n        pass\n"
        "    yield sys.exc_info()[1]\n",
        shop.__dict__,
    )
    armed = Armed("talk", patcher)
    armed.arm()

    async def converse(error: BaseException) -> Any:
        iterator = shop.talk()
        await iterator.__anext__()
        return await iterator.athrow(error)

    assert run(converse(KeyError())) is None
    assert run(converse(GeneratorExit())) is None


def test_the_hooks_for_async_generators_are_told_of_the_applications_own_only(shop: Any) -> None:
    armed = Armed("async_generator", "code")
    armed.arm()
    told: List[Any] = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=told.append, finalizer=told.append)
    try:
        iterator = shop.async_generator(2)
        assert run(collect(iterator)) == [0, 1]
    finally:
        sys.set_asyncgen_hooks(*before)
    assert told == [iterator]


def test_a_trampoline_keeps_the_flags_of_the_code(shop: Any) -> None:
    exec(compile("from __future__ import annotations\ndef later(*args, **kwargs): pass\n", "later", "exec"), shop.__dict__)
    flags = shop.later.__code__.co_flags
    Armed("later", "code").arm()
    assert shop.later.__code__.co_flags == flags


@pytest.mark.parametrize("armed_too", [False, True], ids=["disarmed", "armed"])
@pytest.mark.parametrize(
    "name", ["partial", "c_function", "instance", "cached", "Holder.cached", "Holder.static", "Holder.of_class", "Holder.plain"]
)
def test_what_wrapt_patches_pickles_as_before(shop: Any, name: str, armed_too: bool) -> None:
    exec(
        "class Holder:\n    @functools.lru_cache(None)\n    def cached(self): return 1\n"
        "    @staticmethod\n    @functools.lru_cache(None)\n    def static(): return 2\n"
        "    @classmethod\n    def of_class(cls): return cls.__name__\n    def plain(self): return 4\n"
        "class Heir(Holder): pass\n",
        shop.__dict__,
    )
    armed = Armed(name, "wrapt")
    if armed_too:
        armed.arm()
    for path in {name, name.replace("Holder", "Heir")}:
        target: Any = functools.reduce(getattr, path.split("."), shop)
        again = pickle.loads(pickle.dumps(target))
        assert type(again) in (type(target), type(target.__wrapped__))
        if name == "Holder.of_class":
            assert again() == path.partition(".")[0]


def test_a_method_that_wrapt_patched_may_have_a_keyword_with_any_name(shop: Any) -> None:
    exec("class Marked:\n    @functools.lru_cache(None)\n    def method(self, _=1, *, instance=0): return _, instance\n", shop.__dict__)
    armed = Armed("Marked.method", "wrapt")
    armed.arm()
    assert shop.Marked().method(_=2, instance=3) == (2, 3)
    armed.disarm()
    armed.patch.uninstall()
