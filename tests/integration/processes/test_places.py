"""Where else a process may be than where it began: in a subinterpreter, another pid namespace, another program, in the middle of an import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import MAIN, App, command, instrumented, start_app, write_app
from tests.programs import Program
from xpc_instrument import find_free_port
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.errors import ApplicationNotFoundError

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


# What starts a command in a pid namespace of its own, as a container does; by a user with a namespace of users for it.
CONTAINED = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_contain() -> bool:
    """Whether this machine lets a user do that."""
    return bool(shutil.which("unshare")) and not subprocess.run([*CONTAINED, "true"], capture_output=True, check=False).returncode


@pytest.mark.skipif(not can_contain(), reason="pid namespaces take util-linux and a kernel that lets a user make one")
def test_an_application_in_a_pid_namespace_of_its_own_is_listed_hooked_and_kept(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path
) -> None:
    program = run_program(command=[*CONTAINED, *instrumented(write_app(tmp_path), sys.executable, "main.py")], cwd=tmp_path)
    program.read_until("ready")
    app = App(program)
    pid = app.evaluate("__import__('os').getpid()")
    files = sorted(os.listdir(runtime_dir))
    assert files == [f"shop.{pid}.json", f"shop.{pid}.sock"]
    for _ in range(3):
        assert "shop" in command("ps").stdout
        assert sorted(os.listdir(runtime_dir)) == files
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda *args: "hooked")
        assert app.evaluate("shop.charge(1)") == "'hooked'"
    assert app.evaluate("shop.charge(1)") == "'1 EUR'"
    program.send_line()
    assert program.wait() == 0
    assert "xpc_agent" not in program.text
    assert os.listdir(runtime_dir) == []


def test_an_application_that_has_become_another_program_is_gone(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path
) -> None:
    app = start_app(run_program, tmp_path)
    session = xpc_instrument.connect("shop")
    session.instead("shop:charge", lambda *args: "hooked")
    app.start("print('=leaving', flush=True) or __import__('os').execv('/bin/cat', ['cat'])")
    app.program.read_until("=leaving")
    app.program.send_line("=cat")
    app.program.read_until("=cat")
    assert discovery.processes() == []
    with pytest.raises(ApplicationNotFoundError, match="has become another program"):
        discovery.find(app.program.pid)
    session.close()
    assert app.program.text.splitlines() == ["ready", "=leaving", "=cat"]
    app.program.end()
    assert discovery.processes() == []
    assert os.listdir(runtime_dir) == []


def test_an_application_that_has_become_a_python_again_is_hooked_again(run_program: Callable[..., Program], tmp_path: Path) -> None:
    app = start_app(run_program, tmp_path)
    app.start("__import__('os').execv(sys.executable, [sys.executable, 'main.py'])")
    app.program.read_until("ready")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda *args: "hooked")
        assert app.evaluate("shop.charge(1)") == "'hooked'"
    assert "xpc_agent" not in app.program.text


@pytest.mark.skipif(not can_contain(), reason="namespaces of users take util-linux and a kernel that lets a user make one")
def test_an_application_enters_a_namespace_of_users_between_stop_and_start(run_program: Callable[..., Program], tmp_path: Path) -> None:
    config = write_app(tmp_path)
    (tmp_path / "main.py").write_text("import ctypes, os, xpc_agent\n" + MAIN)
    app = App(run_program(command=instrumented(config, sys.executable, "main.py"), cwd=tmp_path))
    app.program.read_until("ready")
    unshare = "ctypes.CDLL(None, use_errno=True).unshare(0x10000000) and os.strerror(ctypes.get_errno())"
    assert app.evaluate(unshare) == "'Invalid argument'"
    assert app.evaluate("xpc_agent.stop()") == "None"
    assert app.evaluate(unshare) == "0"
    assert app.evaluate("xpc_agent.start('xpc-instrument.toml')") == "None"
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda *args: "hooked")
        assert app.evaluate("shop.charge(1)") == "'hooked'"
    assert "xpc_agent" not in app.program.text
