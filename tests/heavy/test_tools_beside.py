"""What tracers, profilers, debuggers and coverage see of armed functions, which are armed and disarmed while the tool is on.

With hooks inside: what they see without hooks. With trampolines: the lines and values of the bodies, and each function's first line more.
docs/transparency.md names what differs. coverage, VizTracer and debugpy are tried where they are installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from tests.programs import Program

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="hooks go inside from Python 3.11 on")

EXPLORATION = Path(__file__).resolve().parents[1] / "exploration"

TILL = """\
import asyncio


def total(numbers):
    result = 0
    for number in numbers:
        try:
            result += half(number)
        except ValueError as error:
            result += len(error.args)
    return result


def half(number):
    if number % 2:
        raise ValueError(number)
    return number // 2


def depth(number):
    return number and 1 + depth(number - 1)


def each(numbers, scale=1):
    for number in numbers:
        yield number * scale
    return "done"


async def later(number):
    await asyncio.sleep(0)
    return half(number)


class Till:
    def __init__(self, rate):
        self.rate = rate

    def __repr__(self):
        return "Till"

    @property
    def label(self):
        return f"till at {self.rate}"

    @classmethod
    def made(cls, rate):
        return cls(rate)

    @staticmethod
    def twice(number):
        return number * 2


def work():
    till = Till.made(3)
    return (
        total([1, 2, 3]),
        depth(3),
        list(each("ab", scale=2)),
        asyncio.run(later(8)),
        till.label,
        till.twice(5),
    )
"""

ARMING = """\
import os
import sys

sys.path.insert(0, os.environ["EXPLORATION"])
import forwarding
import till
from xpc_agent.points.table import ProbeTable
from xpc_instrument.core.config.file import from_probes

how = os.environ["XPC_EXPLORE_PATCHER"]
table = ProbeTable(from_probes("tools", ["till:*", "till:*.__*__"]))
table.look_at_imported()
points = [] if how == "plain" else [one for one in table.every_point() if one.patch is not None and one.target != "till:work"]
assert how == "plain" or len(points) >= 9, points


def hook(modes):
    for point in points:
        point.hooks = [forwarding.Forward(mode) for mode in modes]
        point.refresh()
        assert not modes or point.patch.patcher == how, (point.target, point.patch.patcher)


def arm():
    hook(forwarding.MODES["both"])


def work():
    before = till.work()
    arm()
    while_armed = till.work()
    hook([])
    assert before == while_armed == till.work()
"""

# Each function of it is a tool, and gives what that sees of `till`.
TOOLS = """\
import json
import tempfile

from armed import *

MINE = till.__file__


def traced():
    seen = []

    def trace(frame, event, arg):
        if frame.f_code.co_filename == MINE:
            seen.append([frame.f_code.co_name, event, frame.f_lineno, repr(arg) if event == "return" else None])
            return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return seen


def profiled():
    seen = []

    def profile(frame, event, arg):
        if frame.f_code.co_filename == MINE and not event.startswith("c_"):
            seen.append([frame.f_code.co_name, event, frame.f_lineno])

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


def cprofiled():
    import cProfile
    import pstats

    # It keeps one row of several code objects with the same name and line, not their sum, so all calls are of one.
    arm()
    profile = cProfile.Profile()
    profile.runcall(till.work)
    hook([])
    rows = pstats.Stats(profile).stats.items()
    return sorted([line, name, row[0], row[1]] for (file, line, name), row in rows if file == MINE)


def monitored():
    names = "PY_START PY_RETURN PY_YIELD PY_RESUME PY_UNWIND PY_THROW LINE RAISE JUMP STOP_ITERATION CALL BRANCH RERAISE".split()
    monitoring, seen, asked = sys.monitoring, [], 0

    def callback(name):
        def note(code, *values):
            if code.co_filename == MINE:
                value = values[0] if name == "LINE" else values[1].__qualname__ if name == "CALL" else None
                seen.append([name, code.co_name, repr(values[1]) if name in ("PY_RETURN", "PY_YIELD", "RAISE") else value])

        return note

    monitoring.use_tool_id(3, "the test")
    for name in names:
        monitoring.register_callback(3, getattr(monitoring.events, name), callback(name))
        asked |= getattr(monitoring.events, name)
    monitoring.set_events(3, asked)
    try:
        work()
    finally:
        monitoring.set_events(3, 0)
        monitoring.free_tool_id(3)
    return seen


def covered():
    import coverage

    found = {}
    for branch in (False, True):
        for core in ["ctrace", "pytrace", "sysmon"]:
            if core == "sysmon" and sys.version_info < ((3, 14) if branch else (3, 12)):
                continue
            os.environ["COVERAGE_CORE"] = core
            measured = coverage.Coverage(data_file=None, branch=branch, include=[MINE])
            measured.start()
            try:
                work()
            finally:
                measured.stop()
            data = measured.get_data()
            found[f"{core}, {branch}"] = [sorted(data.lines(MINE)), sorted(data.arcs(MINE) or [])]
    return found


def viztraced():
    import viztracer

    tracer = viztracer.VizTracer(log_func_args=True, log_func_retval=True, verbose=0)
    tracer.start()
    try:
        work()
    finally:
        tracer.stop()
    with tempfile.TemporaryDirectory() as folder:
        tracer.save(os.path.join(folder, "trace.json"))
        with open(os.path.join(folder, "trace.json")) as file:
            events = json.load(file)["traceEvents"]
    mine = sorted((event for event in events if MINE in event["name"]), key=lambda event: (event["ts"], -event["dur"]))
    return [[event["name"].replace(MINE, ""), event["args"]] for event in mine]


def debugged():
    import io
    import pdb

    found = {}
    arm()
    for what, skip, commands in (
        ("where it stops", None, ["b till:15", "b till:26, number == 'b'", "c", "args", "c", "args", "c", "c", "c"]),
        ("next", None, ["b till.half", "c", "where", "args", "n", "n", "up", "p result", "c", "n", "n", "n", "n", "c", "r", "c"]),
        ("step", ["xpc_agent*", "xpc_instrument*", "forwarding"], ["b till.total", "c", *["s"] * 40, "cl 1", "c"]),
    ):
        said = io.StringIO()
        commands = "".join(f"{one}\\n" for one in [*commands, "cl", "y", "c"])
        debugger = pdb.Pdb(stdin=io.StringIO(commands), stdout=said, skip=skip, nosigint=True, readrc=False)
        debugger.use_rawinput = False
        debugger.prompt = ""
        debugger.runcall(till.work)
        debugger.clear_all_breaks()
        sys.settrace(None)
        # From below `work` on.
        found[what] = [line for line in said.getvalue().splitlines() if "tools.py" not in line and "bdb.py" not in line]
    hook([])
    return found


print("seen", json.dumps({name: globals()[name]() for name in sys.argv[1:]}))
"""

DEBUGGED = """\
import debugpy

_, port = debugpy.listen(("127.0.0.1", 0), in_process_debug_adapter=True)
from armed import *

arm()
print("listening", port, flush=True)
sys.stdin.readline()
debugpy.wait_for_client()
print("result", till.work())
"""

OPTIONAL = {"covered": "coverage", "viztraced": "viztracer"}


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def environment(how: str) -> Dict[str, str]:
    return {"EXPLORATION": str(EXPLORATION), "XPC_EXPLORE_PATCHER": how, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def written(folder: Path) -> Path:
    (folder / "till.py").write_text(TILL)
    (folder / "armed.py").write_text(ARMING)
    (folder / "tools.py").write_text(TOOLS)
    return folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """What each tool sees without hooks ("plain"), with hooks inside, and with trampolines ("code")."""
    folder = written(tmp_path_factory.mktemp("tools"))
    tools = ["traced", "profiled", "cprofiled", "debugged", *(["monitored"] if sys.version_info >= (3, 12) else [])]
    tools += [tool for tool, module in OPTIONAL.items() if has(module)]
    found = {}
    for how in ("plain", "inside", "code"):
        command = [sys.executable, str(folder / "tools.py"), *tools]
        done = subprocess.run(command, env={**os.environ, **environment(how)}, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found[how] = json.loads(done.stdout.partition("seen ")[2])
    return found


FIRST_LINES = {number for number, line in enumerate(TILL.splitlines(), 1) if "def " in line or line.strip().startswith("@")}


@pytest.mark.parametrize("tool", ["traced", "profiled", "cprofiled", "monitored", "covered", "viztraced", "debugged"])
def test_a_tool_sees_of_functions_with_hooks_inside_what_it_sees_without(seen: Dict[str, Any], tool: str) -> None:
    plain, armed = of_tool(seen, "plain", tool), of_tool(seen, "inside", tool)
    if tool == "monitored":
        # Those are told of single instructions, and there are more.
        plain, armed = ([one for one in run if one[0] not in ("CALL", "BRANCH", "RERAISE")] for run in (plain, armed))
    assert plain
    assert armed == plain


def of_tool(seen: Dict[str, Any], how: str, tool: str) -> Any:
    if tool not in seen[how]:
        pytest.skip(f"{OPTIONAL[tool]} is not installed" if tool in OPTIONAL else "sys.monitoring came with Python 3.12")
    return seen[how][tool]


def test_a_tracer_sees_of_a_trampoline_the_first_line_more(seen: Dict[str, Any]) -> None:
    for tool in ("traced", "profiled"):
        plain, armed = ([one for one in seen[how][tool] if one[2] not in FIRST_LINES] for how in ("plain", "code"))
        assert armed == plain
        assert len(seen["code"][tool]) > len(seen["plain"][tool])


def test_a_profile_has_the_functions_that_have_a_trampoline_under_their_names(seen: Dict[str, Any]) -> None:
    assert [row[:2] for row in seen["code"]["cprofiled"]] == [row[:2] for row in seen["plain"]["cprofiled"]]


def test_viztracer_sees_of_a_trampoline_a_call_of_the_same_name_around_the_original(seen: Dict[str, Any]) -> None:
    runs = [[name for name, _ in groupby(one[0] for one in of_tool(seen, how, "viztraced"))] for how in ("plain", "code")]
    assert runs[0] == runs[1]


def test_coverage_has_of_a_trampoline_the_first_line_more(seen: Dict[str, Any]) -> None:
    plain, armed = of_tool(seen, "plain", "covered"), of_tool(seen, "code", "covered")
    assert armed.keys() == plain.keys()
    for core in plain:
        for had, has_now in zip(plain[core], armed[core]):
            assert [one for one in had if one not in has_now] == []
            more = [one for one in has_now if one not in had]
            assert all(any(abs(line) in FIRST_LINES for line in ([one] if isinstance(one, int) else one)) for one in more)


def test_pdb_stops_in_the_body_of_a_function_with_a_trampoline_where_it_did(seen: Dict[str, Any]) -> None:
    assert seen["code"]["debugged"]["where it stops"] == seen["plain"]["debugged"]["where it stops"]


class Debugger:
    """A client of debugpy's adapter, as an editor is one."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._stream = self._socket.makefile("rwb")
        self._number = 0
        self._unread: List[Any] = []

    def send(self, command: str, **arguments: Any) -> int:
        self._number += 1
        content = json.dumps({"seq": self._number, "type": "request", "command": command, "arguments": arguments}).encode()
        self._stream.write(b"Content-Length: %d\r\n\r\n" % len(content) + content)
        self._stream.flush()
        return self._number

    def _read(self) -> Any:
        length = 0
        for line in iter(self._stream.readline, b"\r\n"):
            assert line, "the adapter has gone"
            length = int(line.split(b":")[1])
        return json.loads(self._stream.read(length))

    def wait(self, wanted: Callable[[Any], bool]) -> Any:
        for message in self._unread:
            if wanted(message):
                self._unread.remove(message)
                return message
        while True:
            message = self._read()
            if wanted(message):
                return message
            self._unread.append(message)

    def answer(self, number: int) -> Any:
        found = self.wait(lambda message: message["type"] == "response" and message["request_seq"] == number)
        assert found["success"], found
        return found.get("body")

    def ask(self, command: str, **arguments: Any) -> Any:
        return self.answer(self.send(command, **arguments))

    def event(self, *names: str) -> Any:
        return self.wait(lambda message: message["type"] == "event" and message["event"] in names)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


def stops(program: Program, till: Path, commands: List[str]) -> List[Any]:
    """Where the program stops, with the stack and the variables of its top, with breakpoints in three functions."""
    debugger = Debugger(int(program.read_until("listening").split()[-1]))
    try:
        debugger.ask("initialize", adapterID="test", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)
        # As it is for what is installed; in a working copy the agent would be one's own code.
        ours = [{"path": f"**/{name}/**", "include": False} for name in ("xpc_agent", "xpc_instrument", "exploration")]
        attached = debugger.send("attach", justMyCode=True, rules=ours)
        debugger.event("initialized")
        places = [{"line": 15}, {"line": 31, "condition": "number == 8"}, {"line": 26, "hitCondition": "2"}]
        debugger.ask("setBreakpoints", source={"path": str(till)}, breakpoints=places)
        debugger.ask("configurationDone")
        debugger.answer(attached)
        program.send_line()
        found = []
        remaining = iter(commands)
        while True:
            event = debugger.event("stopped", "terminated")
            if event["event"] == "terminated":
                return found
            thread = event["body"]["threadId"]
            stack = debugger.ask("stackTrace", threadId=thread)["stackFrames"]
            if stack[0]["line"] is None:
                # From Python 3.12 on it stops where it comes back into the function from what that calls at its beginning and end.
                assert event["body"]["reason"] == "step"
                debugger.ask("stepIn", threadId=thread)
                continue
            scope = debugger.ask("scopes", frameId=stack[0]["id"])["scopes"][0]["variablesReference"]
            variables = debugger.ask("variables", variablesReference=scope)["variables"]
            mine = [(one["name"], one["line"]) for one in stack if one["source"].get("path") == str(till)]
            found.append((event["body"]["reason"], mine, [(one["name"], one["value"]) for one in variables]))
            debugger.ask(next(remaining, "continue"), threadId=thread)
    finally:
        debugger.close()


@pytest.mark.skipif(not has("debugpy"), reason="debugpy is not installed")
def test_debugpy_attached_stops_and_steps_as_without_hooks(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    written(tmp_path)
    steps = ["next", "next", "next", "stepOut", "stepIn", "stepIn", "stepIn", "stepIn", "stepIn", "continue", "continue", "next", "stepOut"]

    def run(how: str, commands: List[str]) -> List[Any]:
        program = run_program(DEBUGGED, name=f"debugged_{how}.py", env=environment(how))
        found = stops(program, tmp_path / "till.py", commands)
        program.read_until("result")
        assert program.wait() == 0
        return found

    plain = run("plain", steps)
    assert [line for _, stack, _ in plain for line in stack[:1]][:2] == [("half", 15), ("half", 16)]
    assert len(plain) > 8
    assert run("inside", steps) == plain
    # A trampoline is one frame more, at the function's first line: those are left out.
    bodies = [
        [(reason, [one for one in stack if one[1] not in FIRST_LINES], top) for reason, stack, top in run(how, [])]
        for how in ("plain", "code")
    ]
    assert bodies[0] == bodies[1]
    assert len(bodies[0]) == 6
