"""What stands in for the agent until there is something to do: a process pays for the agent when it is used, and behaves as with it."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest

import xpc_instrument
from tests import starts
from tests.integration.app_fixture import command, instrumented
from tests.programs import PATIENCE, Program
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.discovery.doorbell import Doorbell

HAS_AGENT = "'xpc_agent.life.agent' in sys.modules"
# Evaluates what it is told.
ASKED = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except SyntaxError:
        exec(line)
        print("done", flush=True)
"""


def ask(program: Program, line: str) -> str:
    program.send_line(line)
    return program.read_line()


@pytest.fixture
def start(run_program: Callable[..., Program], tmp_path: Path) -> Callable[..., Program]:
    """Start a program as `xpc-instrument run` would, with the module `shop` beside it."""
    (tmp_path / "shop.py").write_text(starts.SHOP)

    def begin(config: str = starts.LISTED, source: str = ASKED, *options: str) -> Program:
        settings = tmp_path / "xpc-instrument.toml"
        settings.write_text(f'app = "shop"\n{config}')
        (tmp_path / "asked.py").write_text(source)
        return run_program(command=instrumented(settings, sys.executable, *options, "asked.py"), cwd=tmp_path)

    return begin


@pytest.mark.parametrize(
    "config",
    [
        "",
        pytest.param(starts.LISTED, marks=pytest.mark.version),
        '[[probe]]\ntarget = "shop.*:charge"\n',
        starts.ON_DEMAND,
    ],
)
def test_the_agent_is_loaded_when_somebody_connects_and_not_before(start: Callable[..., Program], config: str) -> None:
    program = start(config)
    program.read_until("ready")
    assert [(entry.pid, entry.argv[-1]) for entry in discovery.processes("shop")] == [(program.pid, "asked.py")]
    assert ask(program, HAS_AGENT) == "False"
    assert json.loads(command("ls", "shop", "--json").stdout)[0]["pid"] == program.pid
    assert ask(program, HAS_AGENT) == "True"
    assert ask(program, "(__import__('threading').main_thread() is __import__('threading').current_thread())") == "True"
    program.send_line("sys.exit(7)")
    assert program.wait() == 7
    # Nothing was said, such as by `threading` at the end of a process whose main thread it does not know.
    assert program.output[0] == "ready"
    assert not any("rror" in line for line in program.output)


@pytest.mark.parametrize("target", ["sh*.x:f", "xml.dom.minidom:parseString", pytest.param("calendar:isleap", marks=pytest.mark.version)])
def test_the_agent_is_loaded_before_a_module_with_a_target_is_imported(start: Callable[..., Program], target: str) -> None:
    target = target.replace("sh*.x:f", "shop:*")
    program = start(f'[[probe]]\ntarget = "{target}"\n')
    program.read_until("ready")
    module, _, name = target.replace("*", "charge").partition(":")
    assert ask(program, f"import importlib; module = importlib.import_module({module!r})") == "done"
    assert ask(program, HAS_AGENT) == "True"
    assert ask(program, "sys.getswitchinterval()") == "0.005"
    # One module, however often it is asked for, and the one that the agent knows.
    assert ask(program, f"module is sys.modules[{module!r}] is importlib.import_module({module!r})") == "True"
    with xpc_instrument.connect("shop") as session:
        session.instead(f"{module}:{name}", lambda *args: "hooked")
        assert ask(program, f"module.{name}(2000)") == "'hooked'"


@pytest.mark.version
def test_the_agent_is_loaded_at_the_start_where_a_script_waits(start: Callable[..., Program]) -> None:
    bell = Doorbell("shop", "0" * 32)
    try:
        program = start(starts.ON_DEMAND, f"import sys\nprint({HAS_AGENT}, flush=True)\n")
        program.find_line("True")
        program.find_line("were told of this process, but not all joined")
        assert program.pid in bell.drain()
    finally:
        bell.close()
    assert program.wait() == 0


@pytest.mark.version
def test_a_fork_before_the_agent_is_there_is_a_fork_of_one_thread(start: Callable[..., Program]) -> None:
    program = start(starts.ON_DEMAND, ASKED, "-W", "error")
    program.read_until("ready")
    for _ in range(3):
        assert ask(program, "os.waitpid(os.fork() or sys.exit(3), 0)[1]") == str(3 << 8)
    assert ask(program, HAS_AGENT) == "False"
    with xpc_instrument.connect("shop") as session:
        assert session.pids == [program.pid]


@pytest.mark.version
def test_children_that_are_started_have_a_stand_in_of_their_own(start: Callable[..., Program]) -> None:
    program = start()
    program.read_until("ready")
    child = f"import sys; print({HAS_AGENT}, '_xpc_instrument_stub' in sys.modules)"
    assert (
        ask(program, f"__import__('subprocess').run([sys.executable, '-c', {child!r}], capture_output=True).stdout") == r"b'False True\n'"
    )
    child = f"import sys, shop; print({HAS_AGENT})"
    assert ask(program, f"__import__('subprocess').run([sys.executable, '-c', {child!r}], capture_output=True).stdout") == r"b'True\n'"


@pytest.mark.parametrize("place", [0, -1])
def test_a_finder_that_the_application_has_for_one_import_is_the_one_that_it_takes_out_again(
    start: Callable[..., Program], place: int
) -> None:
    program = start()
    program.read_until("ready")
    own = "type('Own', (), {'find_spec': lambda self, *rest: None})()"
    put = f"sys.meta_path.insert({place}, own)" if place == 0 else "sys.meta_path.append(own)"
    text = f"own = {own}; before = list(sys.meta_path); {put}; import shop; popped = sys.meta_path.pop({place}) is own"
    assert ask(program, text) == "done"
    assert ask(program, f"popped, type(sys.meta_path[0]).__name__, len(before) - len(sys.meta_path), {HAS_AGENT}") == (
        "(True, 'ImportWatcher', 0, True)"
    )


@pytest.mark.version
def test_start_stop_and_stats_in_code_find_the_stand_in(start: Callable[..., Program]) -> None:
    program = start()
    program.read_until("ready")
    assert ask(program, "import xpc_agent; xpc_agent.stop()") == "done"
    assert discovery.processes("shop") == []
    assert ask(program, "any(type(finder).__name__ == 'Stub' for finder in sys.meta_path)") == "False"
    assert ask(program, "xpc_agent.start(on_demand=['**'], app='other'); import shop") == "done"
    with xpc_instrument.connect("other") as session:
        session.instead("shop:charge", lambda n: "hooked")
        assert ask(program, "shop.charge(1)") == "'hooked'"
    program.send_line("sys.exit()")
    assert program.wait() == 0
    program = start()
    program.read_until("ready")
    assert ask(program, "import xpc_agent; xpc_agent.start(app='other')") == "done"
    assert [entry.app for entry in discovery.processes()] == ["shop"]
    assert ask(program, "[point.target for point in xpc_agent.stats()]") == "['shop:charge']"


def test_an_application_without_descriptors_is_hooked_when_it_has_some_again(start: Callable[..., Program]) -> None:
    program = start()
    program.read_until("ready")
    assert ask(program, "from resource import RLIMIT_NOFILE, setrlimit") == "done"
    assert ask(program, "setrlimit(RLIMIT_NOFILE, (5, 512))") == "None"
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(xpc_instrument.connect, "shop", timeout=PATIENCE)
        program.read_until("Too many open files); it is tried again")
        assert ask(program, HAS_AGENT) == "False"
        # Nothing is said of the thread that cannot go on after a fork.
        assert ask(program, "os.waitpid(os.fork() or os._exit(3), 0)[1]") == str(3 << 8)
        assert ask(program, "setrlimit(RLIMIT_NOFILE, (512, 512))") == "None"
        assert ask(program, "os.waitpid(os.fork() or os._exit(3), 0)[1]") == str(3 << 8)
        with connecting.result() as session:
            session.instead("shop:charge", lambda n: "hooked")
            assert ask(program, "__import__('shop').charge(1)") == "'hooked'"
    assert sum("it is tried again" in line for line in program.output) == 1


# At random moments, a thousand times: `python -m tests.starts`.
@pytest.mark.parametrize("config", [pytest.param(starts.LISTED, marks=pytest.mark.version), starts.ON_DEMAND])
def test_a_script_that_connects_at_any_moment_of_the_start_harms_nothing(start: Callable[..., Program], config: str) -> None:
    for moment in ("", "began", "imported", "forked"):
        program = start(config, starts.SOURCE, "-W", "error")
        if moment:
            program.read_until(moment)
        starts.go_through(program, PATIENCE)
