"""Calls that are recorded in an application and run again: what is recorded, what stands in, and what differs is told."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, command
from xpc_instrument import Recorder, Recording, Session, TargetError

MODULE = """
import asyncio, collections, dataclasses, datetime, decimal, enum, gc, random, threading, uuid

class Currency(enum.Enum):
    EUR = 1

class Declined(Exception):
    def __init__(self, why, code):
        super().__init__(why)
        self.code = code

Point = collections.namedtuple("Point", "x y")

@dataclasses.dataclass
class Order:
    number: int
    items: list
    currency: Currency = Currency.EUR

class Till:
    __slots__ = ("prefix",)
    def __init__(self, prefix):
        raise RuntimeError("never run")
    def receipt(self, order, *more, loud=False, **rest):
        return f"{self.prefix}-{order.number}-{len(more)}{'!' if loud else ''}{sorted(rest)}"
    @classmethod
    def named(cls, name):
        return cls.__name__ + name

till = object.__new__(Till)
till.prefix = "r"

def post(path, amount):
    if amount > 100:
        raise Declined("no money", 402)
    return {"ok": True, "path": path}

async def post_later(path, amount):
    await asyncio.sleep(0)
    return post(path, amount)

def charge(order, amount):
    order.items.append("charged")
    answer = post("/charges", amount)
    return (order.number, answer["ok"], decimal.Decimal(amount) / 3)

async def charge_later(amounts):
    return await asyncio.gather(*[post_later("/later", one) for one in amounts])

async def charge_in_thread(amount):
    return await asyncio.to_thread(post, "/thread", amount)

def everything(value):
    return value

def noted():
    return 5

def notes():
    return noted() + 1

def many(count):
    return sum(noted() for _ in range(count))

def throws():
    return random.randint(1, 6) + random.randint(1, b=6)

def locked(lock, password):
    return password

def twice(amount):
    return outer(amount)

def outer(amount):
    return post("/outer", amount)

def gen():
    yield 1

class Noting:
    def __init__(self):
        self.me = self
    def __del__(self):
        notes()

def collects():
    garbage = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    try:
        return sum((Noting(), notes())[1] for _ in range(3000))
    finally:
        gc.set_threshold(*garbage)

ALL = [1, 2**70, float("inf"), b"x", (1,), {1, 2}, frozenset([3]), {1: "a"}, {"type": "b"}, Currency.EUR, Point(1, 2),
       decimal.Decimal("1.50"), datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc), uuid.UUID(int=5), Order(1, [])]
"""


@pytest.fixture
def app(begin_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    (tmp_path / "rec.py").write_text(MODULE)
    begun = begin_app('on-demand = ["rec:**", "random:randint"]\n')
    begun.evaluate(f"__import__('sys').path.insert(0, {str(tmp_path)!r})")
    begun.evaluate("globals().__setitem__('rec', __import__('rec'))")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield begun
    sys.modules.pop("rec", None)


def recorded(recorder: Recorder, app: App, *expressions: str) -> Recorder:
    for expression in expressions:
        app.evaluate(expression)
    with recorder:
        assert recorder.wait(len(expressions))
    return recorder


def test_a_call_is_recorded_as_it_began_and_is_the_same_when_it_is_run_again(app: App, session: Session, tmp_path: Path) -> None:
    recorder = recorded(session.record("rec:charge", inside="rec:post"), app, "rec.charge(rec.Order(7, []), 10)")
    (call,) = recorder.calls
    assert call.arguments["order"]["fields"] == {"number": 7, "items": [], "currency": {"type": "rec:Currency", "member": "EUR"}}
    (inner,) = call.inner
    assert (inner.target, inner.arguments, inner.outcome) == (
        "rec:post",
        {"path": "/charges", "amount": 10},
        {"ok": True, "path": "/charges"},
    )
    path = tmp_path / "charge.jsonl"
    recorder.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = xpc_instrument.load(path)
    assert read.calls[0].arguments == call.arguments
    assert read.replay() == []


def test_values_of_all_kinds_come_back(app: App, session: Session) -> None:
    recorder = recorded(session.record("rec:everything", rate=None), app, "[rec.everything(one) for one in rec.ALL]")
    import rec

    assert recorder.wait(len(rec.ALL), 0)
    done = list(recorder.replayed())
    assert [one.skipped for one in done] == [""] * len(rec.ALL)
    assert [one for each in done for one in each.differences] == []


def test_methods_are_run_on_an_instance_made_again_without_its_init(app: App, session: Session) -> None:
    calls = (
        "rec.till.receipt(rec.Order(1, []), 2, 3, loud=True, extra=4)",
        "rec.Till.named('x')",
        "rec.till.receipt(order=rec.Order(2, []))",
    )
    recorder = recorded(session.record(["rec:Till.receipt", "rec:Till.named"]), app, *calls)
    assert [call.outcome for call in recorder.calls] == ["r-1-2!['extra']", "Tillx", "r-2-0[]"]
    done = list(recorder.replayed())
    assert [(one.skipped, one.differences) for one in done] == [("", ())] * 3


def test_what_is_called_in_tasks_and_threads_belongs_to_the_invocation(app: App, session: Session) -> None:
    with session.record(["rec:charge_later", "rec:charge_in_thread"], inside=["rec:post", "rec:post_later"]) as recorder:
        app.evaluate("rec.asyncio.run(rec.charge_later([1, 2]))")
        app.evaluate("rec.asyncio.run(rec.charge_in_thread(3))")
        app.evaluate("rec.post('/elsewhere', 9)")
        assert recorder.wait(2)
    later, thread = recorder.calls
    # What an inner call calls does not happen where that is stood in for.
    assert [(one.target, one.arguments["amount"]) for one in later.inner] == [("rec:post_later", 1), ("rec:post_later", 2)]
    assert [(one.target, one.arguments["amount"]) for one in thread.inner] == [("rec:post", 3)]
    assert recorder.replay() == []


def test_an_inner_call_belongs_to_all_that_it_is_inside_of(app: App, session: Session) -> None:
    recorder = session.record(["rec:twice", "rec:outer"], inside="rec:post")
    app.evaluate("rec.twice(4)")
    assert recorder.wait(2)
    recorder.remove()
    assert [[one.target for one in call.inner] for call in recorder.calls] == [["rec:post"], ["rec:post"]]
    assert recorder.replay() == []


def test_an_inner_call_without_parameters_is_as_it_was(app: App, session: Session) -> None:
    recorder = recorded(session.record("rec:notes", inside="rec:noted"), app, "rec.notes()")
    (call,) = recorder.calls
    assert [(one.target, one.arguments) for one in call.inner] == [("rec:noted", {})]
    assert recorder.replay() == []


def test_more_inner_calls_than_are_kept_are_counted_and_the_next_invocation_has_room(app: App, session: Session) -> None:
    recorder = recorded(session.record("rec:many", inside="rec:noted"), app, "rec.many(1005)", "rec.many(3)")
    assert [(len(call.inner), call.left_out) for call in recorder.calls] == [(1000, 5), (3, 0)]
    assert [one.skipped for one in recorder.replayed()] == ["not all that was called inside of it was recorded", ""]


@pytest.mark.version
def test_what_is_called_while_garbage_is_collected_does_no_harm(app: App, session: Session) -> None:
    before = app.evaluate("[id(one) for one in rec.gc.callbacks]")
    with session.record("rec:notes", inside="rec:noted", limit=None) as recorder:
        assert app.evaluate("rec.collects()") == repr(6 * 3000)
    if sys.version_info < (3, 12):
        # There `ContextVar.set` must not be called meanwhile.
        assert recorder.dropped > 0
    assert app.evaluate("[id(one) for one in rec.gc.callbacks]") == before


def test_chance_is_still_where_it_was_recorded(app: App, session: Session) -> None:
    recorder = recorded(session.record("rec:throws", inside="random:randint"), app, "rec.throws()")
    (call,) = recorder.calls
    assert [one.arguments["*args"]["items"] for one in call.inner] == [[1, 6], [1]]
    assert recorder.replay(times=3) == []
    for limit in (0, -1, "3"):
        with pytest.raises(ValueError, match="expected a number of calls from 1 on"):
            session.record("rec:throws", limit=limit)  # type: ignore[arg-type]


def test_what_differs_is_told_value_by_value(app: App, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with session.record("rec:charge", inside="rec:post") as recorder:
        app.evaluate("rec.charge(rec.Order(7, []), 10)")
        app.start("rec.charge(rec.Order(8, []), 1000)")
        assert recorder.wait(2)
    assert "Declined" in app.result()
    import rec

    assert recorder.replay() == []

    def charge(order: Any, amount: Any) -> Any:
        rec.post("/v2", amount)
        return (order.number + 1, True, 0)

    monkeypatch.setattr(rec, "charge", charge)
    first, second = (one.differences for one in recorder.replayed())
    assert [str(one) for one in first] == [
        "inner[0].path: '/charges' is now '/v2'",
        "result[0]: 7 is now 8",
        "result[2]: Decimal('3.333333333333333333333333333') is now 0",
    ]
    assert [str(one) for one in second] == ["inner[0].path: '/charges' is now '/v2'"]
    assert [one.path for one in recorder.replay(ignore=["inner[*].path", "result[2]"])] == ["result[0]"]

    def none(order: Any, amount: Any) -> Any:
        try:
            return rec.post("/charges", amount) and rec.post("/charges", amount)
        except ValueError:
            return None

    monkeypatch.setattr(rec, "charge", none)
    first, second = (one.differences for one in recorder.replayed())
    assert [str(one) for one in first] == ["inner: nothing is now post(path='/charges', amount=10)"]
    assert second == ()
    monkeypatch.setattr(rec, "charge", lambda order, amount: None)
    first, second = (one.differences for one in recorder.replayed())
    assert str(first[0]) == "inner[0]: post(path='/charges', amount=10) is now nothing"
    assert [one.path for one in second] == ["inner[0]", "outcome"]
    monkeypatch.delattr(rec, "post")
    assert [one.path for one in recorder.replay()] == ["inner[0]", "result", "inner[0]", "outcome"]


def test_a_call_that_cannot_be_made_again_is_kept_and_skipped_by_name(app: App, session: Session) -> None:
    recorder = session.record(["rec:locked", "rec:everything"])
    app.evaluate("rec.locked(rec.threading.Lock(), 'hunter2')")
    app.evaluate("rec.everything(rec.collections.Counter('a'))")
    app.evaluate("rec.everything((lambda one: one.append(one) or one)([1]))")
    assert recorder.wait(3)
    recorder.remove()
    assert [one.skipped for one in recorder.replayed()] == [
        "lock: a _thread:lock cannot be made again",
        "value: a collections:Counter cannot be made again",
        "value[1]: a list that contains itself",
    ]
    assert recorder.calls[0].arguments["password"] == {"type": "", "cut": "redacted"}


def test_generators_are_refused(session: Session) -> None:
    with pytest.raises(TargetError, match="rec:gen: it is a generator function: what it yields is not recorded"):
        session.record("rec:gen")


def test_only_the_calls_that_meet_a_condition_are_recorded_up_to_the_limit(app: App, session: Session) -> None:
    recorder = session.record("rec:everything", when="value > 1", limit=2, rate=None)
    late = session.record("rec:everything", when="result > 3", rate=None)
    app.evaluate("[rec.everything(one) for one in (0, 1, 2, 3, 4)]")
    assert recorder.wait(2) and late.wait(1)
    late.remove()
    assert [call.outcome for call in recorder] == [2, 3]
    assert recorder.over == "limit"
    assert [call.outcome for call in late.calls] == [4]
    assert [(one.path, one.now) for one in Recording("", ["rec:everything"], [], late.calls).replay()] == []


def test_the_command_records_replays_and_writes_a_test_that_passes(app: App, tmp_path: Path) -> None:
    path = tmp_path / "charge.jsonl"
    words = [sys.executable, "-m", "xpc_instrument.cli", "record", "shop", "rec:charge", "--with", "rec:post", "-n", "2", "-o", str(path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        first = process.stderr.readline()
        assert first.startswith("armed rec:charge in 1 process of shop in ")
        app.evaluate("rec.charge(rec.Order(7, []), 10)")
        app.evaluate("rec.charge(rec.Order(8, []), 20)")
        printed, _ = process.communicate(timeout=20)
        assert process.returncode == 0
    assert " charge(order=Order(number=7, items=[], currency=Currency.EUR), amount=10) -> (7, True, Decimal('3.33" in printed
    assert "(1 inner call)" in printed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    test = tmp_path / "test_charge_recorded.py"
    done = command("replay", str(path), "--times", "2", "--pytest", str(test), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[:2] == ["replaying 2 calls of shop; imports rec", "2 same, 0 differ"]
    # As the command `pytest` does, without the working directory on the path.
    plain = "import sys, pytest; sys.path[:] = [one for one in sys.path if one]; sys.exit(pytest.main(sys.argv[1:]))"
    tested = [sys.executable, "-c", plain, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(test)]
    ran = subprocess.run(tested, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in ran.stdout, ran.stdout
    source = (tmp_path / "rec.py").read_text()
    (tmp_path / "rec.py").write_text(source.replace("order.number, answer", "order.number * 2, answer"))
    # The command runs in this process here.
    del sys.modules["rec"]
    done = command("replay", str(path), "--json", "--id", json.loads(path.read_text().splitlines()[-2])["id"], cwd=tmp_path)
    assert done.returncode == 1
    told, summary = map(json.loads, done.stdout.splitlines())
    assert told["differences"] == [{"path": "result[0]", "was": 8, "is": 16}]
    assert summary == {"type": "summary", "same": 0, "differ": 1, "skipped": 0}


def test_a_file_chooses_no_function_of_the_standard_library_and_is_refused_by_the_line(tmp_path: Path) -> None:
    path = tmp_path / "evil.jsonl"
    head = {"type": "recording", "format": 1, "app": "a", "targets": [], "inside": []}
    call = {"type": "call", "id": "1-1", "time": "2026-01-01T00:00:00Z", "pid": 1, "thread": 1, "target": "os:mkdir", "positional": 1}
    call.update(arguments={"path": str(tmp_path / "made")}, result=None, duration=0.1)
    path.write_text(f"{json.dumps(head)}\n{json.dumps(call)}\n")
    done = command("replay", str(path), cwd=tmp_path)
    assert done.returncode == 1
    assert "os:mkdir: it is of the standard library, and is not called for a file" in done.stdout
    # What a module of the package has imported is as little its own.
    (tmp_path / "shopx.py").write_text("import os\nfrom os import mkdir\nfrom pathlib import Path\nclass Mine(Path): pass\n")
    for target in ("shopx:os.mkdir", "shopx:mkdir", "shopx:Path.mkdir", "shopx:Mine.mkdir"):
        path.write_text(f"{json.dumps(head)}\n{json.dumps({**call, 'target': target})}\n")
        done = command("replay", str(path), cwd=tmp_path)
        assert done.returncode == 1
        assert f"skipped: {target}: " in done.stdout and ("is a module" in done.stdout or "of the standard library" in done.stdout)
    assert not (tmp_path / "made").exists()
    wrong: List[Any] = [{"type": "tuple", "items": 5}, {"type": "a:A", "fields": []}, {"type": 1, "cut": "x"}, {"type": "x"}]
    wrong.append({"type": "dict", "items": [1]})
    lines = [json.dumps({**call, "arguments": {"path": one}}) for one in wrong] + [json.dumps({**call, "target": 'x"\n:y'})]
    for line in ("[1]", "{}", '{"type": "recording", "format": 2}', json.dumps({**call, "arguments": 3}), "\x80", "[" * 100_000, *lines):
        path.write_text(f"{json.dumps(head)}\n{line}\n")
        with pytest.raises(xpc_instrument.RecordingError, match=r"evil\.jsonl, line 2: "):
            xpc_instrument.load(path)
    path.write_text(json.dumps(call))
    with pytest.raises(xpc_instrument.RecordingError, match="a call in front of the head"):
        xpc_instrument.load(path)


def test_it_is_one_hook_among_others_and_a_glob_leaves_generators_out(app: App, session: Session) -> None:
    seen: List[Any] = []
    with session.record("rec:charge", inside="rec:*") as recorder:
        session.around("rec:charge", lambda call: call.proceed())
        session.after("rec:post", seen.append)
        session.before("rec:charge", seen.append)
        app.evaluate("rec.charge(rec.Order(7, []), 10)")
        assert app.evaluate("list(rec.gen())") == "[1]"
        assert recorder.wait(1)
    assert len(seen) == 2
    (call,) = recorder.calls
    assert call.arguments["order"]["fields"]["items"] == []
    assert [one.target for one in call.inner] == ["rec:post"]
    assert recorder.replay() == []


def written(path: Path, *calls: Dict[str, Any]) -> None:
    """A recording by hand."""
    head = {"type": "recording", "format": 1, "app": "a", "targets": [], "inside": []}
    common = {"type": "call", "time": "2026-01-01T00:00:00Z", "pid": 1, "thread": 1, "positional": 0, "arguments": {}, "duration": 0.1}
    lines = [head, *({**common, "id": f"1-{number}", **call} for number, call in enumerate(calls))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_ends_a_process_or_is_gone_is_a_difference_and_the_rest_runs(tmp_path: Path) -> None:
    (tmp_path / "shopy.py").write_text(
        "import asyncio\n"
        "def leaves(): raise SystemExit(0)\n"
        "async def is_cancelled(): raise asyncio.CancelledError\n"
        "def cut(): return {'cut': 'other'}\n"
        "def same(): return 1\n"
    )
    path = tmp_path / "ends.jsonl"
    names = ("leaves", "is_cancelled", "gone", "cut", "same")
    written(path, *({"target": f"shopy:{name}", "result": {"cut": "princess"} if name == "cut" else 1} for name in names))
    done = command("replay", str(path), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "1 same, 4 differ"
    told = done.stdout.splitlines()
    assert "outcome: 1 is now" in told[0] and "SystemExit" in told[0]
    assert "CancelledError" in told[1] and "there is no such function" in told[2] and "result.cut: 'princess' is now 'other'" in told[3]
    written(path)
    assert command("replay", str(path), cwd=tmp_path).returncode == 1


def test_what_a_file_holds_that_cannot_be_run_is_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "shops.py").write_text("def later(): return 1\ndef same(*values): return 1\n")
    path = tmp_path / "skipped.jsonl"
    huge = {"type": "fractions.Fraction", "text": "1e300000000"}
    written(
        path,
        {"target": "shops:later", "result": {"type": "coroutine", "cut": "type"}},
        {"target": "__main__:later", "result": 1},
        {"target": "shops:same", "arguments": {"*values": 5}, "result": 1},
        {"target": "shops:same", "arguments": {"*values": {"type": "tuple", "items": [huge]}}, "result": 1},
        {"target": "shops:same", "result": 1},
    )
    done = command("replay", str(path), "--ignore", "resul", "--ignore", "result", cwd=tmp_path)
    assert done.stderr.splitlines()[1:] == ["--ignore resul: no value of the recording has that place", "1 same, 0 differ, 4 skipped"]
    assert [line.partition("skipped: ")[2] for line in done.stdout.splitlines()] == [
        "result: a coroutine, whose result was not recorded",
        "__main__:later is of the application's main module, which is another one elsewhere",
        "*values: int is nothing that a call has there",
        "*values[0]: 'fractions.Fraction': ValueError: no fraction of at most 4000 digits",
    ]
    assert command("replay", str(path), "--times", "0", cwd=tmp_path).returncode == 2
    assert command("replay", str(path), "-o", str(path), cwd=tmp_path).returncode == 2
    recording = xpc_instrument.load(path)
    assert len(recording.calls) == 5
    with pytest.raises(ValueError, match="times=0: expected a number from 1 on"):
        recording.replay(times=0)
    with pytest.raises(xpc_instrument.RecordingError, match="no call 7-7 in the recording"):
        recording.replay(ids="7-7")


def test_a_call_that_needs_one_that_is_left_out_is_left_out_of_the_test(tmp_path: Path) -> None:
    (tmp_path / "shopc.py").write_text(
        "kept = {}\ndef cached(key):\n    found = kept.get(key, 'cold')\n    kept[key] = 'warm'\n    return found\n"
    )
    path = tmp_path / "cached.jsonl"
    calls = [(1, "warm"), (1, "warm"), (2, "cold")]
    written(path, *({"target": "shopc:cached", "arguments": {"key": key}, "result": result} for key, result in calls))
    done = command("replay", str(path), "--pytest", str(tmp_path / "test_cached.py"), cwd=tmp_path)
    assert done.stderr.splitlines()[1:3] == ["2 same, 1 differ", "1 call left out, which differ where the others are not run before"]
    assert [call.id for call in xpc_instrument.load(tmp_path / "test_cached.jsonl").calls] == ["1-2"]


async def in_a_loop(recording: Recording) -> List[Any]:
    return recording.replay()


def test_an_async_target_is_run_again_where_a_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shopl.py").write_text("import asyncio\nasync def later(one):\n    await asyncio.sleep(0)\n    return one\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    written(tmp_path / "l.jsonl", {"target": "shopl:later", "arguments": {"one": 1}, "result": 1})
    assert asyncio.run(in_a_loop(xpc_instrument.load(tmp_path / "l.jsonl"))) == []


def test_a_test_replaces_neither_the_recording_nor_what_somebody_has_written(tmp_path: Path) -> None:
    (tmp_path / "shopz.py").write_text("def same(): return 1\n")
    path = tmp_path / "calls.jsonl"
    written(path, {"target": "shopz:same", "result": 1})
    before = path.read_text()
    done = command("replay", str(path), "--pytest", str(tmp_path / "calls.py"), cwd=tmp_path)
    assert done.returncode == 2 and "would replace the recording" in done.stderr
    mine = tmp_path / "test_mine.py"
    mine.write_text("def test_it(): pass\n")
    done = command("replay", str(path), "--pytest", str(mine), cwd=tmp_path)
    assert done.returncode == 2 and "there is a file that xpc has not written" in done.stderr
    assert (path.read_text(), mine.read_text()) == (before, "def test_it(): pass\n")
    # Names are the file's, and no part of the program.
    path.write_text(before.replace('"app": "a"', '"app": ' + json.dumps('x"""\nraise SystemExit("run")\n"""')))
    assert command("replay", str(path), "--pytest", str(tmp_path / "test_calls.py"), cwd=tmp_path).returncode == 0
    text = (tmp_path / "test_calls.py").read_text()
    assert "in x????raise SystemExit??run??????, run again." in text.splitlines()[0]
    compile(text, "test_calls.py", "exec")
    path.write_text(before)
    for _ in range(2):
        # Its own it writes anew.
        assert command("replay", str(path), "--pytest", str(tmp_path / "test_calls.py"), cwd=tmp_path).returncode == 0
