"""Hooks that cross, over real sockets: what the application gets of every way in which a hook can answer or fail.

One table of outcomes holds for functions and `async def` functions, for values that cross in one piece and for those that are references,
for a hook that is alone and one among others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import socket
import sys
import threading
import types
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Type, Union

import pytest

from tests.unit.core.protocol.test_connection import pair
from xpc_agent.guard import guard
from xpc_agent.hooks.admission import SuspensionPolicy
from xpc_agent.hooks.dispatch import Dispatcher, HookChain, Invocation
from xpc_agent.hooks.remote import RemoteHook
from xpc_agent.patching import make_patch
from xpc_agent.targets.resolve import Binding, Kind, Resolved
from xpc_instrument.core.model.errors import ChannelError, HookFailedError, HookTimeoutError, PayloadError
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.node.lanes import LanePool
from xpc_instrument.core.protocol.codec import HEADER, Frame
from xpc_instrument.core.protocol.messages import Opcode
from xpc_instrument.core.values.exceptions import dump_exception
from xpc_instrument.core.values.traits import PeerProfile
from xpc_instrument.core.wire.wire import Wire

PROFILE = PeerProfile("3.11", "3.11", 100_000)
# What a hook that never answers costs a test, in seconds; what one may take to proceed before it falls silent; and the time of one that
# does answer, on a machine that is busy.
SHORT, MEDIUM, LONG = 0.05, 0.4, 20.0


# what a script does when it is called ----------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What the script sends; None for closing the lane. After PROCEED it waits for the outcome."""

    opcode: Optional[Opcode]
    body: bytes = b""


def failed(cause: str) -> Step:
    return Step(Opcode.FAILED, json.dumps({"cause": cause, "message": "as it was told"}).encode())


PROCEED = Step(Opcode.PROCEED)
BREAK = Step(None)
SCRIPTS: Dict[str, List[Step]] = {
    "returns": [Step(Opcode.RETURN, pickle.dumps("hooked", 5))],
    "raises": [Step(Opcode.RAISE, bytes(dump_exception(LookupError("the hook's"), PROFILE)[0]))],
    "raises ours": [Step(Opcode.RAISE, bytes(dump_exception(PayloadError("the hook's"), PROFILE)[0]))],
    "raises nonsense": [Step(Opcode.RAISE, pickle.dumps(("text", "traceback", None), 5))],
    "proceeds and raises ours": [PROCEED, Step(Opcode.RAISE, bytes(dump_exception(PayloadError("the hook's"), PROFILE)[0]))],
    "proceeds": [PROCEED, Step(Opcode.RETURN_SAME)],
    "proceeds and returns": [PROCEED, Step(Opcode.RETURN, pickle.dumps("hooked", 5))],
    "fails": [failed("unpicklable")],
    "is a bug": [failed("raised")],
    "is gone": [Step(Opcode.NOT_FOUND)],
    "breaks": [BREAK],
    "is silent": [],
    "answers rubbish": [Step(Opcode.RETURN, b"rubbish")],
    "answers what is no answer": [Step(Opcode.RESULT)],
    "proceeds and fails": [PROCEED, failed("unpicklable")],
    "proceeds and breaks": [PROCEED, BREAK],
    "proceeds and is silent": [PROCEED],
    "is removed meanwhile": [BREAK],
}

# what the application gets of it ---------------------------------------------------------------------------------------------

HOOKED, ORIGINAL = "hooked", "original"
Got = Union[str, Type[BaseException]]


class Row(NamedTuple):
    """What the application gets; the same with `on-failure = "raise"`; what is counted as a failure; whether the lane is used again."""

    gets: Got
    strictly: Got
    cause: str = ""
    kept: bool = True


REPLACING: Dict[str, Row] = {
    "returns": Row(HOOKED, HOOKED),
    "raises": Row(LookupError, LookupError),
    "raises ours": Row(ORIGINAL, HookFailedError, "raised"),
    "raises nonsense": Row(ORIGINAL, HookFailedError, "payload", kept=False),
    "proceeds and raises ours": Row(ORIGINAL, ORIGINAL, "raised"),
    "proceeds": Row(ORIGINAL, ORIGINAL),
    "proceeds and returns": Row(HOOKED, HOOKED),
    "fails": Row(ORIGINAL, HookFailedError, "unpicklable"),
    "is a bug": Row(ORIGINAL, HookFailedError, "raised"),
    "is gone": Row(ORIGINAL, ORIGINAL),
    "breaks": Row(ORIGINAL, HookFailedError, "channel", kept=False),
    "is silent": Row(ORIGINAL, HookTimeoutError, "timeout", kept=False),
    "answers rubbish": Row(ORIGINAL, HookFailedError, "payload", kept=False),
    "answers what is no answer": Row(ORIGINAL, HookFailedError, "channel", kept=False),
    "proceeds and fails": Row(ORIGINAL, ORIGINAL, "unpicklable"),
    "proceeds and breaks": Row(ORIGINAL, ORIGINAL, "channel", kept=False),
    "proceeds and is silent": Row(ORIGINAL, ORIGINAL, "timeout", kept=False),
    "is removed meanwhile": Row(ORIGINAL, ORIGINAL, kept=False),
}
# An observer answers by ending, and cannot proceed, raise or replace.
PROTOCOL_BROKEN = Row(ORIGINAL, HookFailedError, "channel", kept=False)
BEFORE: Dict[str, Row] = {
    **{name: PROTOCOL_BROKEN if name.startswith(("raises", "proceeds")) else row for name, row in REPLACING.items()},
    "returns": Row(ORIGINAL, ORIGINAL),
    "answers rubbish": Row(ORIGINAL, ORIGINAL),
    "is a bug": Row(ORIGINAL, ORIGINAL, "raised"),
}
# Nothing that happens after the original has run changes what has come of it.
AFTER: Dict[str, Row] = {name: row._replace(strictly=ORIGINAL) for name, row in BEFORE.items()}
TABLE = {Mode.BEFORE: BEFORE, Mode.AROUND: REPLACING, Mode.INSTEAD: REPLACING, Mode.AFTER: AFTER}


# a session with one lane -----------------------------------------------------------------------------------------------------


class Beside:
    """Another hook, of this process."""

    mode = Mode.AFTER

    def call_observer(self, invocation: Invocation) -> None: ...

    async def call_observer_async(self, invocation: Invocation) -> None: ...

    def goes_inside(self, kind: Kind) -> bool:
        return True


class Scene:
    """A hook of a script that takes these steps."""

    def __init__(
        self,
        mode: Mode,
        steps: List[Step],
        on_failure: str,
        *,
        removed: bool = False,
        alone: bool = True,
        lanes: int = 1,
        terms: Optional[Terms] = None,
        suspension: Optional[SuspensionPolicy] = None,
    ) -> None:
        self.called: List[Frame] = []
        self.told: List[str] = []
        self.ended: List[RemoteHook] = []
        self.pool = LanePool(lambda count: None, 8)
        timeout = SHORT if not steps else MEDIUM if steps == [PROCEED] else LONG
        peer: Any = SimpleNamespace(session="s", who="pid 7", pid=7, lanes=self.pool, notify=lambda kind, **_: self.told.append(kind))
        self.hook = RemoteHook(
            mode,
            "m:f",
            peer,
            1,
            "call",
            PROFILE,
            timeout=timeout if lanes else SHORT,
            on_failure=on_failure,
            terms=terms or Terms(),
            suspension=suspension or SuspensionPolicy(),
            pid=1,
            may_refer=True,
            signature=lambda: None,
            ended=self.ended.append,
        )
        self.dispatcher = Dispatcher()
        self.dispatcher.chain = HookChain([self.hook] if alone else [self.hook, Beside()])  # type: ignore[list-item]
        self.threads: List[threading.Thread] = []
        for _ in range(lanes):
            near, far = socket.socketpair()
            dialler, listener = pair("serve")
            self.pool.add(Wire(near, listener))
            self.threads.append(threading.Thread(target=self._script, args=(Wire(far, dialler), steps, removed)))
            self.threads[-1].start()

    def _script(self, wire: Wire, steps: List[Step], removed: bool) -> None:
        try:
            frame = wire.recv_frame(None)
            self.called.append(frame)
            self.hook.removed = removed
            for opcode, body in steps:
                if opcode is None:
                    return
                # The connection itself refuses to send what is no answer.
                whole = HEADER.pack(opcode, 0, 0, 0, len(body)) + body
                wire.transmit([whole] if opcode is Opcode.RESULT else wire.connection.send(opcode, 0, body), None)
                if opcode is Opcode.PROCEED:
                    wire.recv_frame(None)
            wire.recv_frame(None)
        except ChannelError:
            pass  # the test has ended
        finally:
            wire.close()

    def close(self) -> None:
        self.pool.close()
        for wire in self.pool.wires():
            wire.close()
        for thread in self.threads:
            thread.join()


def end(outcome: Any) -> Any:
    """What every original does."""
    assert not guard.on
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def call(scene: Scene, args: Tuple[Any, ...], outcome: Any) -> Any:
    return scene.dispatcher.call(lambda *_: end(outcome), args, {}, False)


def call_async(scene: Scene, args: Tuple[Any, ...], outcome: Any) -> Any:
    async def original(*_: Any) -> Any:
        await asyncio.sleep(0)
        return end(outcome)

    return asyncio.run(scene.dispatcher.call_async(original, args, {}, False))


def call_inside(scene: Scene, args: Tuple[Any, ...], outcome: Any) -> Any:
    def original(*_: Any) -> Any:
        return end(outcome)

    return run_inside(scene, original, args)


def run_inside(scene: Scene, original: types.FunctionType, args: Tuple[Any, ...]) -> Any:
    resolved = Resolved("m:f", SimpleNamespace(), "f", original, original, Kind.SYNC, Binding.NONE, False)
    patch = make_patch(resolved, scene.dispatcher)
    patch.arm()
    assert patch.patcher == ("inside" if sys.version_info >= (3, 11) and scene.hook.mode is not Mode.INSTEAD else "code")
    try:
        return original(*args)
    finally:
        patch.disarm()


WAYS = {"function": call, "async def": call_async, "inside": call_inside}


def got(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        return error


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("mode", Mode, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_the_application_gets_what_the_table_of_outcomes_says(way: str, mode: Mode, script: str) -> None:
    row = TABLE[mode][script]
    own, error = object(), KeyError("the original's")
    ways: List[Any] = [(True, (1,), own), (True, (own,), error), (False, (1,), error)]
    if script == "proceeds and is silent":
        # Each waits for its whole deadline.
        turns = [("original", ways[0]), ("raise", ways[1])]
    else:
        turns = list(itertools.product(("original", "raise"), ways))
    for on_failure, (alone, args, outcome) in turns:
        scene = Scene(mode, SCRIPTS[script], on_failure, removed="removed" in script, alone=alone)
        try:
            found = got(lambda: WAYS[way](scene, args, outcome))  # noqa: B023 - it is called at once
            expected = row.strictly if on_failure == "raise" else row.gets
            where = (on_failure, alone, args, outcome, found)
            if expected == ORIGINAL:
                assert found is outcome, where
            elif expected == HOOKED:
                assert found == "hooked", where
            else:
                assert type(found) is expected, where
            assert not guard.on, where
            assert len(scene.called) == 1, where
            assert scene.hook.counters.figures().failures == ({row.cause: 1} if row.cause else {}), where
            assert len(scene.pool) == row.kept, where
            assert scene.ended == ([scene.hook] if script == "is gone" else []), where
        finally:
            scene.close()


@pytest.mark.parametrize("mode", Mode, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_has_no_lane_fails_by_its_deadline(way: str, mode: Mode) -> None:
    for on_failure in ("original", "raise"):
        scene = Scene(mode, [], on_failure, lanes=0)
        found = got(lambda: WAYS[way](scene, (1,), "done"))  # noqa: B023 - it is called at once
        strict = on_failure == "raise" and mode is not Mode.AFTER
        assert isinstance(found, HookTimeoutError) if strict else found == "done"
        figures = scene.hook.counters.figures()
        assert figures.failures == {"timeout": 1}
        assert figures.waited_us == SHORT * 1e6


@pytest.mark.parametrize("mode", Mode, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_fails_in_a_row_is_suspended_and_back_when_it_answers(way: str, mode: Mode) -> None:
    scene = Scene(mode, SCRIPTS["fails"], "original")
    try:
        assert WAYS[way](scene, (1,), "done") == "done"
        scene.hook.admission.failed("unpicklable")
        assert scene.hook.admission.failed("unpicklable") == 1.0
        assert scene.told == []
    finally:
        scene.close()
    scene = Scene(mode, SCRIPTS["returns"], "original")
    try:
        scene.hook.admission.failed("unpicklable")
        WAYS[way](scene, (1,), "done")
        assert scene.hook.admission.failures == 0
    finally:
        scene.close()


# In effect each invocation, and asked by chance alone all the same: so the gate asks, when the invocation begins.
BY_CHANCE = Terms(sample=1 - 1e-12)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="hooks go inside from Python 3.11 on")
def test_an_after_hook_that_is_suspended_while_the_original_runs_is_not_called() -> None:
    scene = Scene(Mode.AFTER, SCRIPTS["returns"], "original", terms=BY_CHANCE)

    class Fails:
        def __index__(self) -> int:
            for _ in range(3):
                scene.hook.admission.failed("timeout")
            return 1

    try:
        assert call_inside(scene, (1,), "done") == "done"
        assert scene.hook.counters.figures().calls == 1

        def original(index: Any) -> Any:
            return "abc"[index]

        run_inside(scene, original, (Fails(),))
        figures = scene.hook.counters.figures()
        assert (figures.calls, figures.skipped.get("suspended"), len(scene.called)) == (1, 1, 1)
    finally:
        scene.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="hooks go inside from Python 3.11 on")
def test_an_interrupted_invocation_that_was_to_try_a_suspended_hook_leaves_that_to_another() -> None:
    scene = Scene(Mode.AFTER, SCRIPTS["returns"], "original", terms=BY_CHANCE, suspension=SuspensionPolicy(1, first=0.0))
    scene.hook.admission.failed("timeout")
    assert scene.hook.admission.suspended
    try:
        with pytest.raises(KeyboardInterrupt):
            call_inside(scene, (1,), KeyboardInterrupt())
        assert scene.called == []
        assert call_inside(scene, (1,), "done") == "done"
        assert len(scene.called) == 1
        assert not scene.hook.admission.suspended
    finally:
        scene.close()
