"""What one invocation calls, as a tree: complete, of that invocation alone, and gone with it, on every version of Python."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App
from xpc_instrument import Session, TargetError, Tree, TreeNode

GROVE = '''
import asyncio, contextlib, json, os, sys, threading

class Gateway:
    def post(self, n):
        return n

    @property
    def label(self):
        return "gateway"

    def __add__(self, other):
        return leaf(other)

def leaf(x):
    return x

def numbers(n):
    for i in range(n):
        leaf(i)
        yield i

def bad():
    raise ValueError("x")

@contextlib.contextmanager
def around():
    leaf(1)
    yield

def charge(gateway):
    for n in (1, 2):
        gateway.post(n)
    gateway.label
    gateway + 1
    sorted([3, 1], key=leaf)
    sum(numbers(3))
    try:
        bad()
    except ValueError:
        leaf(0)
    with around():
        leaf(2); leaf(3)
    json.loads("[1]", object_hook=leaf)

def pay(amount=1):
    charge(Gateway())

async def step(event):
    await asyncio.sleep(0)
    leaf(1)
    event.set()

async def wait(event):
    await event.wait()
    leaf(2)

async def other(event):
    # Another task of the same thread, which calls what the traced one calls, while that one waits.
    for i in range(5):
        leaf(i)
        await asyncio.sleep(0)
    await step(event)

async def handle(event):
    await wait(event)
    await step(event)
    return "done"

async def serve():
    event = asyncio.Event()
    task = asyncio.get_running_loop().create_task(other(event))
    answer = await handle(event)
    await task
    return answer

async def cancelled():
    event = asyncio.Event()
    task = asyncio.get_running_loop().create_task(handle(event))
    while not event._waiters:
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "late"

async def rows(n):
    for i in range(n):
        leaf(i)
        await asyncio.sleep(0)
        yield i

async def collect(n):
    return [one async for one in rows(n)]

async def nap():
    await asyncio.sleep(0.01)

async def stream(n):
    for i in range(n):
        await nap()
        yield i

async def consume():
    async for _ in stream(2):
        await nap()

async def consume_one():
    async for _ in stream(2):
        break
    await nap()

def deep(n):
    return n and deep(n - 1)

def many(n):
    for i in range(n):
        leaf(i)

def meet():
    """Another thread runs the same code in the middle."""
    thread = threading.Thread(target=many, args=(50,))
    thread.start()
    thread.join()
    leaf(0)

def forked():
    child = os.fork()
    if not child:
        os._exit(0 if state() is None and pay() is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def left():
    gone = numbers(3)
    next(gone)
    del gone
    leaf(1)

def inner():
    leaf(1)

def outer():
    inner()
    leaf(2)

def state():
    """What is left in the interpreter of our tracing; None if nothing is."""
    if sys.getprofile() is not None or sys.gettrace() is not None:
        return "a profiler"
    monitoring = getattr(sys, "monitoring", None)
    tools = [] if monitoring is None else [one for one in range(6) if monitoring.get_tool(one) == "xpc-instrument"]
    return f"the tool {tools}" if tools else None
'''


@pytest.fixture
def app(begin_app: Callable[..., App], tmp_path: Path) -> App:
    (tmp_path / "grove.py").write_text(GROVE)
    app = begin_app('on-demand = ["grove:**"]\n[[probe]]\ntarget = "shop:*"\n')
    assert app.evaluate("__import__('grove').state()") == "None"
    return app


@pytest.fixture
def session(app: App) -> Iterator[Session]:
    with xpc_instrument.connect("shop") as session:
        yield session
    assert app.evaluate("__import__('grove').state()") == "None"


def grove(app: App, call: str) -> str:
    return app.evaluate(f"__import__('grove').{call}")


def traced(app: App, session: Session, target: str, call: str, **options: Any) -> Tree:
    """The tree of one call."""
    with session.trace(f"grove:{target}", limit=1, **options) as trace:
        grove(app, call)
        tree = trace.take(20)
        assert tree is not None
        assert grove(app, "state()") == "None"
    return tree


Shape = Dict[str, Any]


def shape(node: TreeNode) -> List[Tuple[str, int, Any]]:
    """What is below a node: name, count and what is below that."""
    return [(child.target.rpartition(":")[2], child.count, shape(child)) for child in node.children if "comp>" not in child.target]


def walk(node: TreeNode) -> Iterator[TreeNode]:
    yield node
    for child in node.children:
        yield from walk(child)


def find(tree: TreeNode, name: str) -> TreeNode:
    return next(one for one in walk(tree) if one.target == f"grove:{name}")


CHARGE = [
    ("Gateway.post", 2, []),
    ("Gateway.label", 1, []),
    ("Gateway.__add__", 1, [("leaf", 1, [])]),
    ("leaf", 2, []),
    ("numbers", 1, [("leaf", 3, [])]),
    ("bad", 1, []),
    ("leaf", 1, []),
    ("around", 1, [("leaf", 1, [])]),
    ("leaf", 2, []),
]


@pytest.mark.version
def test_all_that_is_called_is_in_the_tree_whoever_calls_it(app: App, session: Session) -> None:
    tree = traced(app, session, "pay", "pay()")
    assert tree.target == "grove:pay"
    assert shape(tree) == [("charge", 1, CHARGE)]
    bad = find(tree, "bad")
    assert (bad.errors, bad.error in ("ValueError", "exception")) == (1, True)
    assert sum(node.errors for node in walk(tree)) == 1
    post = find(tree, "Gateway.post")
    assert GROVE.splitlines()[post.line - 1].strip() == "gateway.post(n)"
    assert post.file.endswith("grove.py")
    assert (tree.calls, tree.cut, tree.thread_name) == (18, "", "MainThread")
    for node in walk(tree):
        assert 0 <= node.min <= node.max <= node.duration
        assert node.own + sum(child.duration for child in node.children) == pytest.approx(node.duration, abs=2e-6)


@pytest.mark.version
def test_it_is_the_same_among_hooks_that_are_waited_for(app: App, session: Session) -> None:
    called = []
    session.around("grove:pay", lambda call: called.append(call.proceed()))
    session.before("grove:charge", lambda call: None)
    assert shape(traced(app, session, "pay", "pay()")) == [("charge", 1, CHARGE)]
    assert called == [None]


@pytest.mark.version
def test_a_coroutine_has_the_tree_of_its_task(app: App, session: Session) -> None:
    expected = [("wait", 1, [("leaf", 1, [])]), ("step", 1, [("leaf", 1, [])])]
    assert shape(traced(app, session, "handle", "asyncio.run(__import__('grove').serve())")) == expected
    session.around("grove:handle", lambda call: call.proceed())
    assert shape(traced(app, session, "handle", "asyncio.run(__import__('grove').serve())")) == expected
    late = traced(app, session, "handle", "asyncio.run(__import__('grove').cancelled())")
    assert (late.errors, late.error) == (1, "asyncio.exceptions.CancelledError")
    assert (find(late, "wait").count, find(late, "wait").errors) == (1, 1)


@pytest.mark.version
def test_generators_have_what_they_did(app: App, session: Session) -> None:
    assert shape(traced(app, session, "numbers", "Gateway and list(__import__('grove').numbers(3))")) == [("leaf", 3, [])]
    tree = traced(app, session, "collect", "asyncio.run(__import__('grove').collect(3))")
    assert ("leaf", 3, []) in [(node.target[6:], node.count, shape(node)) for node in walk(tree)]
    assert shape(traced(app, session, "left", "left()"))[0] == ("numbers", 1, [("leaf", 1, [])])
    # One that is left in the middle has ended there.
    tree = traced(app, session, "numbers", "Gateway and next(__import__('grove').numbers(3))")
    assert (shape(tree), tree.errors) == ([("leaf", 1, [])], 0)


@pytest.mark.version
def test_an_asynchronous_generator_takes_what_it_waits(app: App, session: Session) -> None:
    for name, naps in (("consume", 2), ("consume_one", 1)):
        tree = traced(app, session, name, f"asyncio.run(__import__('grove').{name}())", min=0.001)
        assert shape(tree) == [("stream", 1, [("nap", naps, [])]), ("nap", naps, [])]
        stream, nap = tree.children
        assert naps * 0.009 < stream.children[0].duration <= stream.duration
        assert stream.own < nap.duration
        for node in walk(tree):
            assert node.own + sum(child.duration for child in node.children) == pytest.approx(node.duration, abs=2e-6)
    if sys.version_info >= (3, 11):
        # The target itself.
        tree = traced(app, session, "stream", "asyncio.run(__import__('grove').consume())")
        assert shape(tree) == [("nap", 2, [])]
        assert tree.children[0].duration <= tree.duration < 2 * tree.children[0].duration


@pytest.mark.version
def test_other_threads_are_not_in_it(app: App, session: Session) -> None:
    assert shape(traced(app, session, "meet", "meet()")) == [("leaf", 1, [])]


def test_depth_min_and_include_say_what_is_shown(app: App, session: Session) -> None:
    assert [name for name, _, below in shape(traced(app, session, "pay", "pay()", depth=2))[0][2] if below] == []
    assert shape(traced(app, session, "pay", "pay()", min=10)) == []
    everything = traced(app, session, "pay", "pay()", include="**")
    assert {"json:loads", "grove:Gateway.post"} <= {node.target for node in walk(everything)}
    only = traced(app, session, "pay", "pay()", include=["grove:Gateway.*", "grove:leaf"])
    assert shape(only)[:2] == [("Gateway.post", 2, []), ("Gateway.label", 1, [])]


def test_a_tree_is_cut_where_it_is_too_large(app: App, session: Session) -> None:
    deep = traced(app, session, "deep", "deep(400)")
    assert (deep.cut, len(list(walk(deep)))) == ("depth", 201)
    many = traced(app, session, "many", "many(20_000)")
    assert (many.cut, shape(many)) == ("", [("leaf", 20_000, [])])


def test_a_condition_is_asked_before_or_after(app: App, session: Session) -> None:
    with session.trace("grove:pay", when="amount > 5", rate=None) as trace:
        grove(app, "pay(1)")
        grove(app, "pay(9)")
        assert trace.take(20) is not None
    (probe,) = [one for one in session.stats() if one.target == "grove:pay"] or [None]
    assert probe is None or probe.skipped["when"] == 1
    with session.trace("grove:pay", when="duration > 100", rate=None) as trace:
        grove(app, "pay(9)")
    assert trace.take(0) is None


@pytest.mark.version
def test_a_tree_ends_with_its_hook(app: App, session: Session) -> None:
    states = []
    with session.trace("grove:outer") as trace:

        def remove(call: Any) -> None:
            trace.remove()
            states.append(call.proceed())

        session.around("grove:inner", remove)
        grove(app, "outer()")
    assert states == [None]
    assert grove(app, "state()") == "None"
    assert trace.take(0) is None


@pytest.mark.version
def test_a_tree_ends_in_a_child_that_is_forked_within(app: App, session: Session) -> None:
    tree = traced(app, session, "forked", "forked()")
    assert tree.errors == 0
    assert app.evaluate("__import__('grove').forked()") == "0"


@pytest.mark.version
def test_somebody_elses_profiler_stays(app: App, session: Session) -> None:
    keep = "(lambda sys, mine: (sys.setprofile(mine), __import__('grove').pay(), sys.getprofile() is mine, sys.setprofile(None))[2])"
    with session.trace("grove:pay") as trace:
        assert app.evaluate(f"{keep}(__import__('sys'), lambda *_: None)") == "True"
        told = trace.take(0.2)
        skipped = next(hook.skipped for probe in session.stats() for hook in probe.hooks)
        # Where trees grow by other means, they go on beside it.
        assert (told is None) == (skipped.get("profiler", 0) == 1)


def test_trees_are_iterated_also_asynchronously(app: App, session: Session) -> None:
    async def first() -> Optional[Tree]:
        async for tree in session.trace("grove:pay", limit=1):
            return tree
        return None

    async def main() -> Optional[Tree]:
        waiting = asyncio.ensure_future(first())
        while not session.handles:
            await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, grove, app, "pay()")
        return await waiting

    tree = asyncio.run(main())
    assert tree is not None
    assert tree.target == "grove:pay"


def test_what_cannot_be_is_refused(session: Session) -> None:
    with pytest.raises(ValueError, match="depth="):
        session.trace("grove:pay", depth=-1)
    with pytest.raises(ValueError, match="include="):
        session.trace("grove:pay", include="a b")
    with pytest.raises(TargetError):
        session.trace("grove:nothing")
