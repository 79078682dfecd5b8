"""The command line, as it is typed: real programs, real exit statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import pytest

import xpc_instrument
from tests.integration.app_fixture import as_json, start_app
from tests.programs import Program
from xpc_instrument import discovery

CLI = [sys.executable, "-m", "xpc_instrument.cli"]


def cli(*words: str, cwd: Optional[Path] = None, env: Optional[Dict[str, str]] = None) -> Any:
    return subprocess.run([*CLI, *words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=30)


def write(folder: Path, config: str) -> None:
    (folder / "xpc-instrument.toml").write_text(config)


def test_version_and_help_with_examples_and_exit_codes() -> None:
    assert cli("--version").stdout.strip() == f"xpc-instrument {xpc_instrument.__version__}"
    text = cli("--help").stdout
    assert "examples:" in text
    assert "exit codes:" in text
    assert cli().returncode == 2
    assert cli("nonsense").returncode == 2


def test_run_becomes_the_command_with_its_pid_status_and_signals(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    (tmp_path / "program.py").write_text("import os, sys\nprint(os.getpid(), flush=True)\nsys.stdin.readline()\nsys.exit(7)\n")
    words = [*CLI, "run", "--probe", "json:dumps", "--", sys.executable, "program.py"]
    program = run_program(command=words, cwd=tmp_path)
    assert program.read_line() == str(program.pid)
    program.send_line()
    assert program.wait() == 7
    program = run_program(command=words, cwd=tmp_path)
    program.read_line()
    program.signal(signal.SIGTERM)
    assert program.wait() == -signal.SIGTERM


def test_run_keeps_the_applications_sitecustomize_and_pythonpath(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import builtins\nbuiltins.mine = 'it ran'\n")
    (own / "extra.py").write_text("value = 5\n")
    (tmp_path / "program.py").write_text(
        "import builtins, extra, sitecustomize\nprint(builtins.mine, extra.value, sitecustomize.__file__, flush=True)\n"
    )
    program = run_program(
        command=[*CLI, "run", "--probe", "json:dumps", "--", sys.executable, "program.py"], cwd=tmp_path, env={"PYTHONPATH": str(own)}
    )
    assert program.read_until("it ran") == f"it ran 5 {own / 'sitecustomize.py'}"
    assert program.wait() == 0


@pytest.mark.parametrize("flag", ["-I", "-E", "-S", "-uI"])
def test_run_refuses_an_interpreter_that_the_agent_cannot_get_into(tmp_path: Path, flag: str) -> None:
    done = cli("run", "--probe", "json:dumps", "--", sys.executable, flag, "-c", "print('it ran')", cwd=tmp_path)
    assert done.returncode == 6
    assert "the agent cannot get in" in done.stderr
    assert "it ran" not in done.stdout


def test_run_refuses_an_interpreter_without_the_package(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    done = cli("run", "--probe", "json:dumps", "--", str(bare / "bin/python"), "-c", "print('it ran')", cwd=tmp_path)
    assert done.returncode == 6
    assert "pip install xpc-instrument" in done.stderr
    assert "it ran" not in done.stdout


def test_run_starts_a_console_script(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    script = tmp_path / "tool"
    script.write_text(
        f"#!{sys.executable}\nimport json, sys\nprint('ready', flush=True)\nsys.stdin.readline()\nprint(json.dumps([1]), flush=True)\n"
    )
    script.chmod(0o755)
    program = run_program(command=[*CLI, "run", "--app", "tool", "--probe", "json:dumps", "--", str(script)], cwd=tmp_path)
    program.read_until("ready")
    with xpc_instrument.connect("tool") as session:
        session.instead("json:dumps", lambda value: "hooked")
        program.send_line()
        assert program.read_line() == "hooked"


def test_run_says_what_is_missing(tmp_path: Path) -> None:
    assert cli("run", "--probe", "json:dumps", cwd=tmp_path).returncode == 6
    assert cli("run", "--", "python", cwd=tmp_path).returncode == 3
    done = cli("run", "--probe", "json:dumps", "--", "no-such-command-here", cwd=tmp_path)
    assert done.returncode == 127
    assert "command not found" in done.stderr


def test_ps_and_ls_show_the_application(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    app = start_app(run_program, tmp_path, '[[probe]]\ntarget = "shop:*"\n[[probe]]\ntarget = "later:f"\n[[probe]]\ntarget = "shop:nope"\n')
    (entry,) = as_json(cli("ps", "--json").stdout)
    assert (entry["app"], entry["pid"]) == ("shop", app.program.pid)
    assert str(app.program.pid) in cli("ps").stdout
    with xpc_instrument.connect("shop") as session:
        session.before("shop:charge", lambda call: None)
        (process,) = as_json(cli("ls", "shop", "--json").stdout)
        states = {probe["target"]: probe["state"] for probe in process["probes"]}
        assert states["shop:charge"] == "armed"
        assert states["shop:fail"] == "ready"
        assert states["later:f"] == "pending"
        assert states["shop:nope"] == "missing"
    text = cli("ls", str(app.program.pid)).stdout
    assert "\x1b" not in text
    assert "has no 'nope'" in text


def test_ls_of_an_unknown_application_names_those_that_run(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    start_app(run_program, tmp_path)
    done = cli("ls", "shopp")
    assert done.returncode == 4
    assert "shop" in done.stderr


def test_ps_cleans_up_after_a_killed_application(tmp_path: Path, run_program: Callable[..., Program], runtime_dir: Path) -> None:
    app = start_app(run_program, tmp_path)
    app.program.signal(signal.SIGKILL)
    app.program.wait()
    assert sorted(path.suffix for path in runtime_dir.iterdir()) == [".json", ".sock"]
    assert as_json(cli("ps", "--json").stdout) == []
    assert list(runtime_dir.iterdir()) == []


def test_an_application_that_exits_leaves_nothing(tmp_path: Path, run_program: Callable[..., Program], runtime_dir: Path) -> None:
    app = start_app(run_program, tmp_path)
    assert len(discovery.processes("shop")) == 1
    app.program.send_line("")
    assert app.program.wait() == 0
    assert list(runtime_dir.iterdir()) == []


def test_the_socket_is_private(tmp_path: Path, run_program: Callable[..., Program], runtime_dir: Path) -> None:
    start_app(run_program, tmp_path)
    assert runtime_dir.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in runtime_dir.iterdir()} == {0o600}


def test_check_tells_what_each_target_would_become(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import re\ndef charge(): pass\nclass C:\n    def m(self): pass\npattern = re.compile('x')\n")
    write(tmp_path, 'app = "shop"\n[[probe]]\ntarget = "shop:*"\n')
    done = cli("check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    write(
        tmp_path,
        'app = "shop"\n[[probe]]\ntarget = "shop:chargee"\n[[probe]]\ntarget = "re:Pattern.search"\n[[probe]]\ntarget = "nope:f"\n',
    )
    done = cli("check", "--json", cwd=tmp_path)
    assert done.returncode == 1
    found = {row["target"]: row for row in as_json(done.stdout)}
    assert "shop:charge" in found["shop:chargee"]["reason"]
    assert found["re:Pattern.search"]["state"] == "unpatchable"
    assert "importing nope failed" in found["nope:f"]["reason"]


def test_a_wrong_config_is_answered_by_file_line_and_key(tmp_path: Path) -> None:
    write(tmp_path, 'app = "shop"\n\n[[probe]]\ntarget = "shop:charge"\ntimout = 2\n')
    done = cli("check", cwd=tmp_path)
    assert done.returncode == 3
    assert "xpc-instrument.toml:5" in done.stderr
    assert "timout" in done.stderr
    assert "timeout" in done.stderr


def test_two_lines_of_code_do_the_same_and_stop_undoes_it(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    (tmp_path / "shop.py").write_text("def charge(n):\n    return n\n")
    write(tmp_path, 'app = "shop"\n[[probe]]\ntarget = "shop:charge"\n')
    program = run_program(
        "import sys, shop, xpc_agent\n"
        "before = (dict(vars(shop)), shop.charge.__code__, list(sys.meta_path))\n"
        "xpc_agent.start()\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nprint(shop.charge(1), flush=True)\n"
        "xpc_agent.stop()\n"
        "now = (dict(vars(shop)), shop.charge.__code__, list(sys.meta_path))\n"
        "same = all(now[0][k] is v for k, v in before[0].items()) and now[1] is before[1] and now[2] == before[2]\n"
        "print('same' if same else 'changed', flush=True)\nsys.stdin.readline()\n",
    )
    program.read_until("ready")
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda n: n + 1)
        program.send_line()
        assert program.read_line() == "2"
        assert program.read_line() == "same"
        assert discovery.processes("shop") == []
    program.send_line()
    assert program.wait() == 0
