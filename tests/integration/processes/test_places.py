"""Where else a process may be than where it began: in a subinterpreter, another pid namespace, another program, in the middle of an import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import start_app
from tests.programs import Program
from xpc_instrument import find_free_port
from xpc_instrument.core.discovery import entry as discovery

pytestmark = pytest.mark.version

# Subinterpreters as an application makes them, of the kind of Python 3.12 and of the newest.
INTERPRETERS = """
import os, sys
try:
    import _interpreters as module
except ImportError:
    import _xxsubinterpreters as module

made = []

def run(source, kind):
    if not made:
        made.append(module.create(kind) if hasattr(module, "new_config") else module.create())
    return module.run_string(made[0], f"import sys; sys.path[:0] = {sys.path!r}\\n" + source)

def end():
    module.destroy(made.pop())
"""

START = """
import xpc_agent
try:
    xpc_agent.start(probes=["shop:*"], app="other")
except Exception as error:
    print("=start", type(error).__name__, error, flush=True)
"""


@pytest.fixture(params=["unix", "unix:PATH", "tcp"])
def address(request: pytest.FixtureRequest, runtime_dir: Path) -> str:
    """Where an application listens, in the words of a config."""
    fixed = {"unix:PATH": f"unix:{runtime_dir}/fixed.sock", "tcp": f"tcp:127.0.0.1:{find_free_port('127.0.0.1')}"}
    return fixed.get(request.param, request.param)


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_a_subinterpreter_takes_nothing_from_the_main_one_and_says_nothing(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path, address: str, kind: str
) -> None:
    (tmp_path / "interpreters.py").write_text(INTERPRETERS)
    key = tmp_path / "shop.key"
    key.touch(0o600)
    key.write_text("a long enough key\n")
    config = f'[manager]\naddress = "{address}"\nauthkey-file = "shop.key"\n[[probe]]\ntarget = "shop:*"\n'
    app = start_app(run_program, tmp_path, config)
    app.evaluate("globals().update(interpreters=__import__('interpreters'))")
    entry = runtime_dir / f"shop.{app.program.pid}.json"

    def files() -> Tuple[bytes, List[str]]:
        return entry.read_bytes(), sorted(name for name in os.listdir(runtime_dir) if not name.endswith(".bell"))

    before = files()
    session = (
        xpc_instrument.connect("shop", "a long enough key") if address == "unix" else xpc_instrument.connect(address, "a long enough key")
    )
    with session:
        session.instead("shop:charge", lambda *args: "hooked")
        assert app.evaluate(f"interpreters.run('import shop; assert shop.charge(1) == \"1 EUR\"', {kind!r})") == "None"
        assert app.evaluate("shop.charge(1)") == "'hooked'"
        assert files() == before
        assert "instrumented" not in app.program.text
        # One that asks for it is told.
        app.evaluate(f"interpreters.run({START!r}, {kind!r})")
        assert app.program.find_line("=start").startswith("=start XpcError this is a subinterpreter")
        assert app.evaluate("interpreters.end()") == "None"
        assert files() == before
        assert app.evaluate("shop.charge(1)") == "'hooked'"
    assert [one.pid for one in discovery.find("shop")] == [app.program.pid]


def test_a_child_that_is_forked_in_the_middle_of_an_import_of_multiprocessing_is_hooked(
    run_program: Callable[..., Program], tmp_path: Path
) -> None:
    app = start_app(run_program, tmp_path)
    (tmp_path / "halves.py").write_text("""
import os, sys, types
import shop

def fork():
    sys.modules["multiprocessing.util"] = types.ModuleType("multiprocessing.util")  # as it is at the first line of its import
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, shop.charge(1).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    del sys.modules["multiprocessing.util"]
    return os.read(read, 100)
""")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda *args: "hooked")
        assert app.evaluate("__import__('halves').fork()") == "b'hooked'"
    assert "cannot be hooked" not in app.program.text
    discovery.processes()  # it left by os._exit, and whoever looks next cleans up
