"""Recorded calls that a running application makes again: what stands in, for whom, and what becomes of it when somebody dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, command, start_app
from tests.programs import Program
from xpc_instrument import Recording, Session

MODULE = """
import asyncio, contextvars, random, threading

posted = []
left = []
held = threading.Event()
going = threading.Event()

class Gateway:
    def __init__(self):
        raise RuntimeError("never run")
    def post(self, path, amount=0):
        posted.append((path, amount))
        return {"ok": True}

gateway = object.__new__(Gateway)

async def later(amount):
    posted.append(("later", amount))
    return amount

def charge(amount, rate=None):
    return gateway.post("/charges", amount=amount), random.randint(1, 10**9)

async def charge_later(amount):
    return await asyncio.gather(later(amount), asyncio.to_thread(gateway.post, "/thread", amount))

def leaves(amount):
    context = contextvars.copy_context()
    left.append(lambda: context.run(gateway.post, "/left", amount))
    return gateway.post("/leaves", amount)

class Halt(BaseException):
    pass

def halts(amount):
    if halting:
        raise Halt(amount)

halting = False

def slow(amount):
    going.set()
    held.wait()
    return gateway.post("/slow", amount)

def locked(lock):
    return 1

def refused(amount):
    return amount
"""
CONFIG = """
on-demand = ["again:**", "random:randint"]
[[probe]]
target = "again:refused"
allow = ["before", "after"]
"""
INSIDE = ["again:Gateway.post", "again:later", "random:randint"]


@pytest.fixture
def app(begin_app: Callable[..., App], tmp_path: Path) -> App:
    return with_module(begin_app(CONFIG), tmp_path)


def with_module(begun: App, tmp_path: Path) -> App:
    (tmp_path / "again.py").write_text(MODULE)
    begun.evaluate(f"__import__('sys').path.insert(0, {str(tmp_path)!r})")
    begun.evaluate("__import__('sys').modules.pop('again', None)")
    begun.evaluate("globals().__setitem__('again', __import__('again'))")
    return begun


def recorded(session: Session, app: App, *expressions: str) -> Recording:
    targets = sorted({one.partition("again.")[2].partition("(")[0] for one in expressions})
    recorder = session.record([f"again:{one}" for one in targets], inside=INSIDE)
    with recorder:
        for one in expressions:
            app.evaluate(f"again.asyncio.run({one})" if "later" in one else one)
        assert recorder.wait(len(expressions))
    app.evaluate("again.posted.clear()")
    return recorder


def test_calls_are_made_again_over_there_with_what_was_recorded_in_the_place_of_the_real(
    app: App, session: Session, tmp_path: Path
) -> None:
    made = ("again.charge(5)", "again.charge_later(6)", "again.locked(again.threading.Lock())", "again.refused(7)")
    recording = recorded(session, app, *made, "again.halts(8)")
    app.evaluate("setattr(again, 'halting', True)")
    before = app.evaluate("again.Gateway.post.__code__.co_code")
    done = list(session.replay(recording, times=2))
    assert [(one.call.target, one.skipped, one.differences) for one in done[:2]] == [
        ("again:charge", "", ()),
        ("again:charge_later", "", ()),
    ]
    assert done[2].skipped == "lock: a _thread:lock cannot be made again"
    assert done[3].skipped.startswith(
        "again:refused: calls are made again where the config allows the mode 'instead'; here it allows after, before"
    )
    assert [one.path for one in done[4].differences] == ["outcome"] and "Halt" in str(done[4].differences[0])
    assert app.evaluate("again.posted") == "[]"
    assert app.evaluate("again.Gateway.post.__code__.co_code") == before
    assert not [hook for probe in session.stats() for hook in probe.hooks]
    # What the application does now otherwise is told as elsewhere.
    app.evaluate("exec('def charge(amount, rate=None): return gateway.post(\"/v2\", amount=amount), len(posted)', vars(again))")
    recording.save(tmp_path / "charge.jsonl")
    done = command("replay", str(tmp_path / "charge.jsonl"), "--in", "shop")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("CHANGES BEHAVIOUR: makes 5 calls of shop again in shop, one after the other")
    assert done.stderr.splitlines()[-1] == "1 same, 2 differ, 2 skipped"
    first, second, third = [line.partition("   ")[2] for line in done.stdout.splitlines()[:3]]
    assert first == "inner[0].path: '/charges' is now '/v2'"
    assert second.startswith("inner[1]: randint(*args=(1, 1000000000)) is now nothing")
    assert third.startswith("result[1]: ") and third.endswith(" is now 0")


def test_others_have_the_originals_and_a_script_that_is_killed_leaves_nothing_half_done(app: App, session: Session, tmp_path: Path) -> None:
    app.evaluate("again.held.set()")
    recording = recorded(session, app, "again.leaves(0)", "again.slow(1)", "again.slow(2)")
    app.evaluate("again.held.clear(), again.going.clear()")
    recording.save(tmp_path / "slow.jsonl")
    words = [sys.executable, "-m", "xpc_instrument.cli", "replay", str(tmp_path / "slow.jsonl"), "--in", "shop"]
    for way in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            app.evaluate("again.going.wait(20)")
            # By context: this thread is not the call's.
            assert app.evaluate("again.gateway.post('/own', 3)") == "{'ok': True}"
            # What a call that has ended has left is nobody's of those.
            assert app.evaluate("again.left[-1]()") == "{'ok': True}"
            process.send_signal(way)
            _, said = process.communicate(timeout=20)
        assert way is signal.SIGKILL or "interrupted: the call under way goes on to its end in the application" in said
        ended = "[one for one in again.threading.enumerate() if one.name == 'xpc-instrument replay']"
        app.evaluate(f"again.held.set(), [one.join(20) for one in {ended}]")
        assert app.evaluate("again.posted") == "[('/own', 3), ('/left', 0)]"
        app.evaluate("again.posted.clear(), again.held.clear(), again.going.clear()")
    assert not [hook for probe in session.stats() for hook in probe.hooks]


def test_what_cannot_be_asked_for_is_refused_and_an_application_that_ends_is_told(
    run_program: Callable[..., Program], tmp_path: Path
) -> None:
    app = with_module(start_app(run_program, tmp_path, CONFIG), tmp_path)
    refused = {"replay x": "no call that can be read", "replayed 99": "no call 99 of this session", "replayed x": "no call x"}
    with xpc_instrument.connect("shop") as session:
        recorded(session, app, "again.charge(5)").save(tmp_path / "one.jsonl")
        for text, message in refused.items():
            with pytest.raises(xpc_instrument.TargetError, match=message):
                session._ask(text)
    assert command("replay", str(tmp_path / "one.jsonl"), "--in", "shop", "--pytest", "test_x.py").returncode == 2
    assert command("replay", str(tmp_path / "one.jsonl"), "--in", "nobody").returncode == 4
    app.evaluate("exec('def charge(amount, rate=None): import os; os.kill(os.getpid(), 9)', vars(again))")
    told: Any = command("replay", str(tmp_path / "one.jsonl"), "--in", "shop")
    assert (told.returncode, app.program.wait()) == (1, -signal.SIGKILL)
    assert "0 same, 0 differ; ended: shop: the process has ended in which again:charge was to be made again" in told.stderr
