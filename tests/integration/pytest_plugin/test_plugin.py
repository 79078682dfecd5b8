"""The pytest plugin: test runs in processes of their own, over a service that really runs. What each says is looked at from outside."""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import Callable, Dict, List, Optional

import pytest

import xpc_instrument
from tests.programs import PATIENCE, Program, kill, wait_for_exit
from xpc_instrument.core.discovery import entry as discovery

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no process groups")

SERVICE = """
import asyncio, http.server, os, sys, traceback, urllib.parse
import checkout, gateway

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = {"checkout": checkout, "gateway": gateway, "asyncio": asyncio}
        try:
            code, body = 200, repr(eval(urllib.parse.unquote(self.path[1:]), names))
        except Exception as error:
            traceback.print_exc()
            code, body = 502, f"{type(error).__name__}: {error}"
        data = body.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    if len(sys.argv) > 2 and os.fork() == 0:
        import signal
        if sys.argv[2] == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("worker", os.getpid(), flush=True)
    server.serve_forever()
"""

GATEWAY = """
class Gateway:
    def __init__(self, bank="real"):
        self.bank = bank

    def post(self, path, body, *, retries=1):
        return {"ok": True, "path": path}

    async def post_async(self, path):
        return path

    @property
    def name(self):
        return "real"

    @staticmethod
    def fee(amount):
        return amount * 2

    @classmethod
    def make(cls):
        return cls()
"""

CHECKOUT = """
from gateway import Gateway

def total(items):
    return sum(items)

def charge(amount):
    return Gateway().post("/charges", {"amount": amount})

def items(count):
    yield from range(count)

async def ticks(count):
    for number in range(count):
        yield number

async def all_ticks(count):
    return [one async for one in ticks(count)]
"""

ASK = """
import urllib.error, urllib.parse, urllib.request
import pytest

@pytest.fixture
def ask(xpc_app):
    def asked(expression):
        try:
            with urllib.request.urlopen(f"{xpc_app.url}/{urllib.parse.quote(expression)}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
    return asked
"""

COMMAND = f"{sys.executable} service.py {{port}}"

# Where the environment was made before the plugin had its entry point.
PLUGIN = (
    [] if any(one.name == "xpc" for one in metadata.distribution("xpc-instrument").entry_points) else ["-p", "xpc_instrument.pytest_plugin"]
)


@pytest.fixture
def run_tests(run_program: Callable[..., Program], tmp_path: Path) -> Callable[..., Program]:
    """Begin a test run with that source over the service; `ini` goes over the settings."""

    def begin(source: str, *arguments: str, ini: Optional[Dict[str, str]] = None, env: Optional[Dict[str, str]] = None) -> Program:
        for name, text in (("service", SERVICE), ("gateway", GATEWAY), ("checkout", CHECKOUT), ("conftest", ASK), ("test_it", source)):
            (tmp_path / f"{name}.py").write_text(text)
        settings = {
            "xpc_command": COMMAND,
            "xpc_ready": "tcp:{port}",
            "xpc_on_demand": "checkout.** gateway.**",
            "filterwarnings": "error",
            **(ini or {}),
        }
        (tmp_path / "pytest.ini").write_text("\n".join(["[pytest]", *(f"{key} = {value}" for key, value in settings.items())]))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--tb=short", *PLUGIN, *arguments]
        return run_program(command=command, cwd=tmp_path, env=env)

    return begin


def outcomes(program: Program) -> Dict[str, str]:
    """What came of each test, once the run has ended."""
    program.wait()
    found = {}
    for line in program.output:
        match = re.match(r"(PASSED|FAILED|ERROR) \S+::(\w+)", line)
        if match:
            found[match[2]] = match[1].lower() if match[2] not in found else f"{found[match[2]]}, {match[1].lower()}"
    return found


def section(program: Program, title: str) -> List[str]:
    """The lines of the first section with that title."""
    lines = program.text.splitlines()
    first = next(number for number, line in enumerate(lines) if re.fullmatch(rf"[-_=]+ {title} [-_=]+", line))
    last = next(number for number, line in enumerate(lines) if number > first and re.match(r"[-_=]{3,}.* [-_=]{3,}$", line))
    return lines[first + 1 : last]


PASSING = """
import threading
import pytest

def test_a_patch_raises_what_it_is_told_and_is_asked_what_it_saw(xpc, xpc_app, ask):
    post = xpc.patch("gateway:Gateway.post", side_effect=TimeoutError("slow bank"))
    assert ask("checkout.charge(5)") == (502, "TimeoutError: slow bank")
    post.assert_called_once_with("/charges", {"amount": 5})
    post.assert_called_once_with(body={"amount": 5}, path="/charges")
    [call] = xpc.calls(post)
    assert (call.pid, call.args, call.kwargs) == (xpc_app.pid, ("/charges", {"amount": 5}), {})
    assert call.outcome == "raised TimeoutError: slow bank"

def test_what_was_patched_before_is_the_original_again(ask):
    assert ask("checkout.charge(5)") == (200, "{'ok': True, 'path': '/charges'}")

def test_a_spy_lets_the_original_run_and_has_what_came_of_it(xpc, ask):
    total = xpc.spy("checkout:total")
    assert ask("checkout.total([1, 2])") == (200, "3")
    assert ask("checkout.total('x')")[0] == 502
    assert [call.args for call in total.call_args_list] == [([1, 2],), ("x",)]
    assert (total.spy_return, total.spy_return_list) == (3, [3])
    assert isinstance(total.spy_exception, TypeError) and total.spy_duration > 0

def test_a_call_that_does_not_fit_the_target_raises_type_error_over_there(xpc, ask):
    post = xpc.patch("gateway:Gateway.post", return_value=1)
    assert ask("gateway.Gateway().post(1)") == (502, "TypeError: post() missing a required argument: 'body'")
    assert ask("gateway.Gateway().post(1, 2, retries=5)") == (200, "1")
    with pytest.raises(AttributeError):
        post.asserted_called_once
    loose = xpc.patch("gateway:Gateway.fee", return_value=1, autospec=False)
    assert ask("gateway.Gateway.fee(1, 2, 3)") == (200, "1")

def test_every_kind_of_callable(xpc, ask):
    awaited = xpc.patch("gateway:Gateway.post_async", return_value="a")
    assert ask("asyncio.run(gateway.Gateway().post_async('p'))") == (200, "'a'")
    awaited.assert_awaited_once_with("p")
    spy = xpc.spy("gateway:Gateway.post_async")
    xpc.stop(awaited)
    assert ask("asyncio.run(gateway.Gateway().post_async('q'))") == (200, "'q'")
    assert spy.spy_return == "q"
    xpc.patch("gateway:Gateway.name", return_value="mocked")
    assert ask("gateway.Gateway().name") == (200, "'mocked'")
    xpc.patch("gateway:Gateway.fee", side_effect=[1, 2])
    assert ask("gateway.Gateway.fee(3), gateway.Gateway().fee(4)") == (200, "(1, 2)")
    xpc.patch("gateway:Gateway.make", return_value=7)
    assert ask("gateway.Gateway.make()") == (200, "7")
    xpc.patch("gateway:Gateway.__init__", return_value=None)
    assert ask("vars(gateway.Gateway('x'))") == (200, "{}")
    xpc.patch("checkout:items", return_value=[5, 6])
    assert ask("list(checkout.items(3))") == (200, "[5, 6]")
    yielded = xpc.spy("checkout:ticks")
    assert ask("asyncio.run(checkout.all_ticks(2))") == (200, "[0, 1]")
    yielded.assert_called_once_with(2)

def test_a_function_of_the_test_stands_in_and_is_bound_to_the_instance(xpc, ask):
    xpc.patch("gateway:Gateway.post", new=lambda self, *args, **kwargs: (self.bank, args, kwargs))
    assert ask("gateway.Gateway('ours').post(1, retries=2)") == (200, "('ours', (1,), {'retries': 2})")
    async def stand_in(self, path):
        return path * 2
    xpc.patch("gateway:Gateway.post_async", new=stand_in)
    assert ask("asyncio.run(gateway.Gateway().post_async('p'))") == (200, "'pp'")
    total = xpc.patch("checkout:total", new=xpc.MagicMock(return_value=3))
    assert ask("checkout.total([1])") == (200, "3")
    total.assert_called_once_with([1])
    # One for several targets: each is undone.
    both = xpc.MagicMock(return_value=4)
    assert xpc.patch("checkout:total", new=both) is xpc.patch("gateway:Gateway.fee", new=both) is both
    assert ask("checkout.total([1]), gateway.Gateway.fee(2)") == (200, "(4, 4)")
    xpc.wait(both, calls=2)
    assert [call.args for call in xpc.calls(both)] == [([1],), (2,)]
    xpc.stop(both)
    assert ask("checkout.total([1]), gateway.Gateway.fee(2)") == (200, "(3, 4)")
    with pytest.raises(TypeError, match="return_value="):
        xpc.patch("checkout:total", new=3)
    with pytest.raises(TypeError, match="expected one target as text"):
        xpc.patch(["checkout:total", "gateway:Gateway.fee"])
    with pytest.raises(TypeError, match="beside it"):
        xpc.patch("checkout:total", new=print, return_value=3)

def test_a_fault_happens_in_the_application(xpc, ask):
    faults = xpc.inject("gateway:Gateway.post", "1*raise(TimeoutError, 'slow bank') -> return({'ok': False})")
    assert ask("checkout.charge(5)") == (502, "TimeoutError: slow bank")
    assert ask("checkout.charge(5)") == (200, "{'ok': False}")
    assert [row.count for row in faults.rows()] == [1, 1]
    with pytest.raises(ValueError, match="expected raise, return"):
        xpc.inject("gateway:Gateway.post", "explode")
    xpc.wait(faults, calls=2)
    with pytest.raises(pytest.fail.Exception, match="expected 3 faults within 0.01 s, there were 2"):
        xpc.wait(faults, calls=3, timeout=0.01)
    xpc.stop(faults)
    assert ask("checkout.charge(5)") == (200, "{'ok': True, 'path': '/charges'}")

def test_the_original_never_runs_where_a_patch_stands(xpc, ask):
    post = xpc.patch("gateway:Gateway.post")
    assert ask("checkout.charge(5)") == (200, "None")
    assert post.mock_calls == [xpc.call("/charges", {"amount": 5})]
    init = xpc.patch("gateway:Gateway.__init__")
    assert ask("vars(gateway.Gateway())") == (200, "{}")
    xpc.patch("gateway:Gateway.post_async")
    assert ask("asyncio.run(gateway.Gateway().post_async('x'))") == (200, "None")
    # Longer than the deadline of other hooks, and that three times in a row.
    late = threading.Event()
    fee = xpc.patch("gateway:Gateway.fee", side_effect=lambda amount: late.wait(0.1) or 5)
    assert ask("[gateway.Gateway.fee(1) for _ in range(5)]") == (200, "[5, 5, 5, 5, 5]")

def test_only_the_calls_that_are_meant(xpc, ask):
    total = xpc.patch("checkout:total", return_value="many", when="len(items) > 2")
    long = xpc.spy("checkout:charge", when="amount >= 10 and result['ok']")
    assert ask("checkout.total([1, 2]), checkout.total([1, 2, 3])") == (200, "(3, 'many')")
    total.assert_called_once_with([1, 2, 3])
    assert ask("checkout.charge(5), checkout.charge(10)")[0] == 200
    long.assert_called_once_with(10)
    with pytest.raises(ValueError, match="itms"):
        xpc.patch("checkout:total", when="itms")

def test_waiting_and_resetting(xpc, ask):
    total = xpc.patch("checkout:total", side_effect=lambda items: items.append(7) or 1)
    charge = xpc.spy("checkout:charge")
    ask("__import__('threading').Timer(0.01, checkout.total, [[1]]).start()")
    xpc.wait(total)
    xpc.resetall()
    assert not xpc.calls(total) and not total.called
    assert ask("checkout.charge(5)['ok'], checkout.total([1])") == (200, "(True, 1)")
    charge.assert_called_once_with(5)
    xpc.stopall()
    assert ask("checkout.total([1])") == (200, "1")
    with pytest.raises(ValueError, match="expected what patch"):
        xpc.wait(object())

def test_watching_and_replaying(xpc, xpc_app, ask, tmp_path):
    events = xpc.watch("checkout:total", when="len(items) > 1")
    with xpc_app.session.record("checkout:charge", inside="gateway:Gateway.post") as recorder:
        ask("checkout.total([1]), checkout.total([1, 2])")
        ask("checkout.charge(5)")
        xpc.wait(events)
        assert recorder.wait(1)
    assert [(event.arguments["items"], event.result) for event in events] == [([1, 2], 3)]
    with pytest.raises(pytest.fail.Exception, match="expected 2 calls within 0.01 s, there were 1"):
        xpc.wait(events, calls=2, timeout=0.01)
    xpc.stop(events)
    recorder.save(tmp_path / "charge.jsonl")
    assert len(xpc.replay(tmp_path / "charge.jsonl")) == 1
    text = (tmp_path / "charge.jsonl").read_text().replace('"ok": true', '"ok": false', 1)
    (tmp_path / "charge.jsonl").write_text(text)
    with pytest.raises(pytest.fail.Exception, match="checkout:charge: result.ok: False is now True"):
        xpc.replay(tmp_path / "charge.jsonl")

class TestScopes:
    def test_one(self, class_xpc, ask):
        type(self).total = class_xpc.patch("checkout:total", return_value="class")
        assert ask("checkout.total([1])") == (200, "'class'")

    def test_two(self, class_xpc, ask):
        assert ask("checkout.total([1])") == (200, "'class'")
        assert self.total.call_count == 2

def test_after_the_class_it_is_the_original(ask):
    assert ask("checkout.total([1])") == (200, "1")

def test_it_has_the_name_of_its_folder_and_of_the_worker(xpc_app, pytestconfig):
    assert xpc_app.session.app == pytestconfig.rootpath.name + "-gw3"
    assert xpc_app.session.pids == [xpc_app.pid] and "GET" in xpc_app.output
"""


CONFIG = """
[redact]
names = ["amount"]
[[probe]]
target = "gateway:Gateway.fee"
timeout = 0.02
suspend-after = 2
"""
SEEN = [
    ("checkout:total", {"items": [1]}),
    ("checkout:charge", {"amount": {"type": "", "cut": "redacted"}}),
    ("checkout:total", {"items": [1]}),
]


@pytest.mark.version
def test_what_tests_type_does_what_it_says(run_tests: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "xpc-instrument.toml").write_text(CONFIG)
    program = run_tests(PASSING, "--xpc-record", str(tmp_path / "seen"), env={"PYTEST_XDIST_WORKER": "gw3"})
    found = outcomes(program)
    assert set(found.values()) == {"passed"}, program.text
    assert len(found) == 15
    spied = xpc_instrument.load(tmp_path / "seen" / "test_it.py_test_a_spy_lets_the_original_run_and_has_what_came_of_it.jsonl")
    assert [call.target for call in spied.calls] == spied.targets * len(spied.calls)
    # As they came, in the order in which they ended, those before a reset as well, and without what the config hides.
    waited = xpc_instrument.load(tmp_path / "seen" / "test_it.py_test_waiting_and_resetting.jsonl")
    assert [(call.target, call.arguments) for call in waited.calls] == SEEN


FAILING = """
import threading
import pytest

def test_an_assert_in_a_hook(xpc, ask):
    def effect(items):
        assert items == [2], "other items"
    xpc.patch("checkout:total", side_effect=effect)
    assert ask("checkout.total([1])")[0] == 502

@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("first", ["yield 1", "return 1"])
def test_an_assert_in_what_runs_later(xpc, ask, kind, first):
    made = {}
    exec(f"{kind} effect(items):\\n  assert items == [2], 'other items'\\n  {first}", made)
    xpc.patch("checkout:total", side_effect=made["effect"])
    assert ask("checkout.total([1])")[0] == 502

def test_a_condition_that_fails(xpc, ask):
    xpc.patch("checkout:total", return_value=1, when="items > 5")
    assert ask("checkout.total([1])")[0] == 200

def test_a_stand_in_that_is_given_up(xpc, ask):
    import threading
    free = threading.Event()
    waits = xpc.patch("checkout:total", side_effect=lambda items: free.wait(60), timeout=0.1)
    assert ask("checkout.total([1])")[0] == 502
    with pytest.raises(pytest.fail.Exception, match="patch checkout:total   1 under way"):
        xpc.wait(waits, timeout=0.1)
    xpc.stop(waits)
    free.set()

def test_an_assert_in_a_hook_of_the_session(xpc_app, ask):
    def looks(call):
        assert call.args == 1
    with xpc_app.session.before("checkout:total", looks):
        ask("checkout.total([1])")
        ask("checkout.total([1])")
        raise_later = xpc_app.session.handles[0].last_failure
    assert raise_later is not None
    xpc_app.session.after("checkout:total", looks)
    ask("checkout.total([1])")

@pytest.mark.xfail(strict=True)
def test_a_mistake_that_is_expected(xpc_app, ask):
    def stands_in(items):
        assert not items
    with xpc_app.session.instead("checkout:total", stands_in):
        ask("checkout.total([1])")

@pytest.fixture
def asks_at_the_end(xpc, ask):
    yield
    ask("checkout.total([3])")

def test_a_mistake_after_the_test(xpc, asks_at_the_end):
    def effect(items):
        assert items == [2]
    xpc.patch("checkout:total", side_effect=effect)

def test_an_answer_that_cannot_cross(xpc, ask):
    post = xpc.patch("gateway:Gateway.post")
    post.return_value.json.return_value = {}
    assert ask("checkout.charge(1)")[0] == 502
    total = xpc.patch("checkout:total", return_value=threading.Lock())
    code, said = ask("checkout.total([1])")
    assert code == 502 and said.startswith("HookFailedError: the stand-in of pid")

def test_outcomes_that_are_used_up(xpc, ask):
    xpc.patch("checkout:total", side_effect=[1])
    ask("checkout.total([1])")
    ask("checkout.total([2])")

def test_other_arguments(xpc, ask):
    total = xpc.patch("checkout:total", return_value=1)
    xpc.spy("gateway:Gateway.post")
    ask("print('said by the service', flush=True)")
    ask("checkout.total([1])")
    total.assert_called_once_with([1, 2])

def test_a_target_that_is_not_there(xpc):
    xpc.patch("checkout:totl")

def test_a_call_that_does_not_come(xpc):
    xpc.wait(xpc.patch("checkout:total"), timeout=0.1)

def test_a_patch_that_is_never_called(xpc):
    xpc.patch("checkout:total")

def test_a_patch_whose_calls_are_forgotten(xpc, ask):
    xpc.patch("checkout:total", return_value=1)
    ask("checkout.total([1])")
    xpc.resetall()

def test_hooks_are_gone(xpc_app):
    assert xpc_app.session.handles == []
"""


def test_each_kind_of_failure_is_told_with_its_target(run_tests: Callable[..., Program]) -> None:
    program = run_tests(FAILING, "--xpc-strict", "--xpc-show")
    found = outcomes(program)
    assert found == {
        "test_an_assert_in_a_hook": "failed",
        "test_an_assert_in_what_runs_later": "failed, failed, failed, failed",
        "test_a_condition_that_fails": "passed, error",
        "test_a_stand_in_that_is_given_up": "passed, error",
        "test_an_assert_in_a_hook_of_the_session": "error, failed",
        "test_a_mistake_after_the_test": "passed, error",
        "test_an_answer_that_cannot_cross": "error, failed",
        "test_outcomes_that_are_used_up": "failed",
        "test_other_arguments": "failed",
        "test_a_target_that_is_not_there": "failed",
        "test_a_call_that_does_not_come": "error, failed",
        "test_a_patch_that_is_never_called": "passed, error",
        "test_a_patch_whose_calls_are_forgotten": "passed",
        "test_hooks_are_gone": "passed",
    }, program.text
    in_hook = section(program, "test_an_assert_in_a_hook")
    assert in_hook[0] == "a hook of this test made a mistake: patch checkout:total"
    # Its traceback begins in the test, not in the mock.
    assert "test_it.py" in in_hook[2] and "AssertionError: other items" in in_hook
    # The one that was removed in the test, too.
    of_session = section(program, "test_an_assert_in_a_hook_of_the_session")
    told = [line for line in of_session if line.startswith("a hook of this test failed: ")]
    assert told == [f"a hook of this test failed: {mode} checkout:total" for mode in ("before", "after")]
    assert "XFAIL test_it.py::test_a_mistake_that_is_expected" in program.text
    left = section(program, "ERROR at teardown of test_an_assert_in_a_hook_of_the_session")
    assert left[0].startswith("the test has left hooks armed, which are removed now: after checkout:total")
    assert "patch checkout:total: its condition failed, and such calls ran the original: TypeError: '>' not supported" in program.text
    gave_up = "patch checkout:total: the application has given up one of its calls, and got HookTimeoutError: "
    assert gave_up in program.text
    cannot = "post: its answer is a mock, which lives here and cannot be had in the application: expected a value (return_value=)"
    assert cannot in program.text and "patch checkout:total: 1 of its calls failed" in program.text
    assert "side_effect are used up: total([2])" in "\n".join(section(program, "test_outcomes_that_are_used_up"))
    other = "\n".join(section(program, "test_other_arguments"))
    assert "E   args:\nE   assert ([1],) == ([1, 2],)" in other
    lines = program.text.splitlines()
    seen = lines[next(number for number, line in enumerate(lines) if line.startswith("spy   gateway:Gateway.post")) - 2 :]
    assert re.fullmatch(r"patch checkout:total         1 call \(process \d+\)", seen[0])
    assert re.fullmatch(r"  \+\d\.\d{3}s total\(\[1\]\)  returned 1", seen[1])
    assert seen[2] == "spy   gateway:Gateway.post   no call has ended; others that were: checkout:total (1)"
    assert "said by the service" in program.text
    assert "the module checkout has no 'totl'; the nearest names are checkout:total" in program.text
    assert "checkout:total: expected 1 call within 0.1 s, there were 0" in program.text
    assert "patch checkout:total: it was never called (--xpc-strict)" in program.text


def test_an_application_that_ends_is_shown_with_what_it_said(run_tests: Callable[..., Program]) -> None:
    source = """
def test_of_something_else():
    pass

def test_it_dies(xpc_app, ask):
    with pytest.raises(OSError):
        ask("print('x' * 100_000 + 'last words', flush=True) or __import__('os')._exit(3)")
    # Its connections end some moments before it does.
    xpc_app._process.wait(20)

def test_next(xpc_app):
    pass

test_of_something_else_again = test_of_something_else
"""
    program = run_tests("import pytest\n" + source)
    assert outcomes(program) == {
        "test_of_something_else": "passed",
        "test_it_dies": "failed",
        "test_next": "error",
        "test_of_something_else_again": "passed",
    }
    assert "the application has ended (exit status 3); what it printed:" in program.text
    # The end of it, and how much more there was.
    assert "last words" in program.text and re.search(r"\.\.\. 92\d\d\d bytes before this \.\.\.", program.text)
    assert len(program.text) < 50_000


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        ({"xpc_command": f"{sys.executable} -c print(1+1)"}, "the application ended before it was ready \\(exit status 0\\).*\n2"),
        ({"xpc_ready": "tcp:1", "xpc_timeout": "0.5"}, "was not ready within 0.5 s \\(xpc_timeout\\): expected that port 1 is open"),
        ({"xpc_on_demand": "shop..*"}, "xpc_on_demand|--on-demand"),
        ({"xpc_command": "python 'service.py"}, "xpc_command = .*: it cannot be read as a shell would: No closing quotation"),
        ({"xpc_command": "NAME=1 python service.py"}, "expected a command first; variables are set with: env NAME=VALUE COMMAND"),
    ],
)
def test_what_keeps_it_from_starting_is_told(run_tests: Callable[..., Program], ini: Dict[str, str], message: str) -> None:
    program = run_tests("def test_it(xpc): pass", ini=ini)
    assert outcomes(program) == {"test_it": "error"}
    assert re.search(message, program.text), program.text


PRINTS = f"""{sys.executable} -c "print('it listens', flush=True); import checkout, time; time.sleep(100)" """


@pytest.mark.parametrize(
    ("ready", "command"),
    [("http://127.0.0.1:{port}/1", COMMAND), ("/listens$/", PRINTS), ("", COMMAND)],
    ids=["by a URL", "by its output", "by being there"],
)
def test_it_is_waited_for_until_it_is_ready(run_tests: Callable[..., Program], ready: str, command: str) -> None:
    source = """
def test_it(xpc, xpc_app):
    assert xpc_app.session.pids == [xpc_app.pid]
    assert xpc_app.url == f"http://127.0.0.1:{xpc_app.port}"
"""
    program = run_tests(source, ini={"xpc_ready": ready, "xpc_command": command})
    assert outcomes(program) == {"test_it": "passed"}, program.text


WITH_WORKER = """
import os, sys
def test_it(xpc, xpc_app):
    xpc.patch("checkout:total", return_value=1)
    while "worker" not in xpc_app.output:
        pass
    os.write(2, (xpc_app.output.strip() + f" of {xpc_app.pid}\\n").encode())
    sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["ends", "is interrupted", "is killed"])
def test_whatever_happens_to_the_test_run_nothing_of_the_application_stays(run_tests: Callable[..., Program], way: str) -> None:
    # A stubborn one takes no notice of being asked to end.
    program = run_tests(
        WITH_WORKER, "-s", "-p", "no:faulthandler", ini={"xpc_command": f"{COMMAND} {'stubborn' if way == 'ends' else 'meek'}"}
    )
    words = program.find_line("worker ").split("worker ")[1].split()
    worker, first = int(words[0]), int(words[2])
    if way == "ends":
        program.send_line()
        assert outcomes(program) == {"test_it": "passed"}
    elif way == "is interrupted":
        os.kill(program.pid, signal.SIGINT)
        assert program.wait() == 2
    else:
        kill(program.pid)
    for pid in (worker, first):
        assert wait_for_exit(pid, PATIENCE)
    # What they left in the runtime directory is removed by whoever looks.
    assert discovery.processes() == []


def test_one_that_runs_already_is_used_and_goes_on(
    run_tests: Callable[..., Program], run_program: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "checkout.py").write_text(CHECKOUT)
    (tmp_path / "gateway.py").write_text(GATEWAY)
    source = "import checkout, sys; print('ready', flush=True); sys.stdin.readline(); print(checkout.total([1])); sys.stdin.readline()"
    words = [sys.executable, "-m", "xpc_instrument.cli", "run", "--app", "till", "--", sys.executable, "-c", source]
    running = run_program(command=words, cwd=tmp_path)
    running.read_until("ready")
    program = run_tests(
        "def test_it(xpc, xpc_app):\n"
        "    total = xpc.patch('checkout:total', return_value='patched')\n"
        "    print('app', xpc_app.pid, flush=True)\n"
        "    xpc.wait(total, timeout=20)\n",
        "-s",
        "--xpc-app",
        "till",
    )
    assert str(running.pid) in program.find_line("app ")
    running.send_line()
    assert running.read_until("patched") == "patched"
    assert outcomes(program) == {"test_it": "passed"}
    running.send_line()
    assert running.wait() == 0
