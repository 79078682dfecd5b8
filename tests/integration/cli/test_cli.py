"""The command line, as it is typed: real programs, real exit statuses."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

import xpc_instrument
from tests.integration.app_fixture import as_json, command, start_app
from tests.programs import Program
from xpc_instrument.core.discovery import entry as discovery

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
    done = command("run", "--probe", "json:dumps", "--", sys.executable, flag, "-c", "raise SystemExit(1)", cwd=tmp_path)
    assert done.returncode == 6
    assert "the agent cannot get in" in done.stderr


def test_run_refuses_an_interpreter_without_the_package(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    done = cli("run", "--probe", "json:dumps", "--", str(bare / "bin/python"), "-c", "print('it ran')", cwd=tmp_path)
    assert done.returncode == 6
    assert "-m pip install, and the folder or URL of xpc-instrument" in done.stderr
    assert "it ran" not in done.stdout


def environment(folder: Path) -> Path:
    """A virtual environment with what this one has, in which `python` and `python3` are links to one file; returns its bin."""
    (folder / "bin").mkdir(parents=True)
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(os.path.realpath(sys.executable))
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    (folder / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    return folder / "bin"


@pytest.mark.parametrize(("own", "name", "starts"), [(True, "python3", 2), (True, "python", 2), (False, "python3", 3)])
def test_run_asks_only_the_interpreter_of_another_environment_for_the_package(tmp_path: Path, own: bool, name: str, starts: int) -> None:
    here, other = environment(tmp_path / "here"), environment(tmp_path / "other")
    (tmp_path / "sitecustomize.py").write_text("import sys\nwith open('started', 'a') as file:\n    print(sys.prefix, file=file)\n")
    command = (here if own else other) / name
    words = [here / "python3", "-m", "xpc_instrument.cli", "run", "--probe", "json:dumps", "--", command, "-c", "print('it ran')"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=variables, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "it ran\n", "")
    prefixes = (tmp_path / "started").read_text().split()
    assert prefixes == [str(here.parent), *[str(command.parent.parent)] * (starts - 1)]


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
    assert command("run", "--probe", "json:dumps", cwd=tmp_path).returncode == 6
    assert command("check", cwd=tmp_path).returncode == 3
    done = command("run", "--probe", "json:dumps", "--", "no-such-command-here", cwd=tmp_path)
    assert done.returncode == 127
    assert "command not found" in done.stderr


def test_run_hands_over_thousands_of_probes_and_says_when_there_are_too_many(tmp_path: Path) -> None:
    write(tmp_path, 'app = "shop"\n' + "".join(f'[[probe]]\ntarget = "shop:f{number}"\n' for number in range(3000)))
    code = "import xpc_agent; print(len(xpc_agent.stats()))"
    done = cli("run", "--", sys.executable, "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3000", "")
    odd = "".join(f'[[probe]]\ntarget = "m{number}:f{hashlib.sha256(str(number).encode()).hexdigest()}"\n' for number in range(6000))
    write(tmp_path, f'app = "shop"\n{odd}')
    done = command("run", "--", sys.executable, "-c", "raise SystemExit(1)", cwd=tmp_path)
    assert done.returncode == 6
    assert "the config has 6000 probes" in done.stderr
    assert "globs" in done.stderr


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
    done = command("ls", "shopp")
    assert done.returncode == 4
    assert "shop" in done.stderr
    done = command("ls", "nope")
    assert "look again with `xpc-instrument ps`" in done.stderr
    assert "connect(" not in done.stderr


def test_ps_cleans_up_after_a_killed_application(tmp_path: Path, run_program: Callable[..., Program], runtime_dir: Path) -> None:
    app = start_app(run_program, tmp_path)
    app.program.signal(signal.SIGKILL)
    app.program.wait()
    assert sorted(path.suffix for path in runtime_dir.iterdir()) == [".json", ".sock"]
    assert as_json(command("ps", "--json").stdout) == []
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
        'app = "shop"\n[[probe]]\ntarget = "shop:chargee"\n[[probe]]\ntarget = "re:Pattern.search"\n[[probe]]\ntarget = "nope:f"\n'
        + "".join(f'[[probe]]\ntarget = "{target}"\n' for target in ("jsno:dumps", "shop:chagre*", "leaves:f", "dies:f", "dies.*:f")),
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "dies.py").write_text("import os\nos._exit(0)\n")
    done = cli("check", "--json", cwd=tmp_path)
    assert done.returncode == 1
    found = {row["target"]: row for row in as_json(done.stdout)}
    assert "shop:charge" in found["shop:chargee"]["reason"]
    assert found["re:Pattern.search"]["state"] == "unpatchable"
    assert "importing nope failed" in found["nope:f"]["reason"]
    assert found["jsno:dumps"]["reason"].endswith("; the nearest modules are json")
    assert found["shop:chagre*"]["reason"] == "nothing matches; the nearest are shop:charge"
    # Nothing was looked at where a module ends the process, whatever it says.
    assert (found["leaves:f"]["state"], found["dies:f"]["state"]) == ("missing", "missing")
    assert found["leaves:f"]["reason"] == "importing leaves ended the process: SystemExit: 3"
    assert found["dies:f"]["reason"] == "importing dies ended the process: it exited with 0"


def test_check_by_what_is_no_python_or_not_there_is_no_success(tmp_path: Path) -> None:
    done = command("check", "--probe", "json:dumps", "--", "gunicornn", "app:app", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (127, "", "xpc-instrument: gunicornn: command not found\n")
    done = command("check", "--probe", "json:dumps", "--python", shutil.which("true") or "", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (6, "") and "is no Python: asked for its version" in done.stderr


def test_a_wrong_config_is_answered_by_file_line_and_key(tmp_path: Path) -> None:
    write(tmp_path, 'app = "shop"\n\n[[probe]]\ntarget = "shop:charge"\ntimout = 2\n')
    done = command("check", cwd=tmp_path)
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


# odd commands ------------------------------------------------------------------------------------------------------------

SAYS = "import sys\nprint(*sys.argv[1:], 'agent' if 'xpc_agent' in sys.modules else 'no agent')\n"


def run_of(*words: str, cwd: Path, env: Optional[Dict[str, str]] = None) -> Any:
    return cli("run", "--app", "odd", "--probe", "json:dumps", "--", *words, cwd=cwd, env=env)


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("name", "mode"), [("tool.py", 0o644), ("tool.py", 0o755), ("./tool.py", 0o755), ("a folder/my tool.py", 0o644)])
def test_run_takes_a_script_by_its_path_executable_or_not(tmp_path: Path, name: str, mode: int) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(SAYS)
    path.chmod(mode)
    done = run_of(name, "one", "two words", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one two words agent\n", "")


@pytest.mark.parametrize("words", [["-c", SAYS, "one"], ["-W", "ignore", "-X", "utf8", "-m", "tool", "one"], ["-um", "tool", "one"]])
def test_run_takes_what_python_takes(tmp_path: Path, words: List[str]) -> None:
    (tmp_path / "tool.py").write_text(SAYS)
    done = run_of(sys.executable, *words, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one agent\n", "")


def test_run_starts_python_through_env_and_shell_scripts(tmp_path: Path) -> None:
    executable(tmp_path / "env-s", f"#!/usr/bin/env -S {sys.executable} -u\n{SAYS}")
    assert run_of("./env-s", cwd=tmp_path).stdout == "agent\n"
    (tmp_path / "tool.py").write_text(SAYS)
    executable(
        tmp_path / "start",
        f"#!/bin/sh\n# it's a script that starts another\n'{sys.executable}' tool.py one\ngrep SigIgn /proc/self/status\nexit 5\n",
    )
    done = run_of("./start", cwd=tmp_path)
    bare = subprocess.run(["./start"], capture_output=True, text=True, cwd=tmp_path, timeout=30)
    # Python ignores SIGPIPE and SIGXFSZ from its start, a shell and what it starts do not.
    assert (done.returncode, done.stdout) == (5, "one agent\n" + bare.stdout.splitlines()[-1] + "\n")
    assert "not recognised as a Python program" in done.stderr


def test_run_refuses_options_that_keep_the_agent_out_wherever_they_stand(tmp_path: Path) -> None:
    executable(tmp_path / "isolated", f"#!/usr/bin/env -S {sys.executable} -I\n{SAYS}")
    for words in (
        ["./isolated"],
        [sys.executable, "--check-hash-based-pycs", "never", "-I", "-c", SAYS],
        [sys.executable, "-bWignore", "-E"],
    ):
        done = command("run", "--app", "odd", "--probe", "json:dumps", "--", *words, cwd=tmp_path)
        assert done.returncode == 6, words
        assert "the agent cannot get in" in done.stderr


def test_run_survives_a_first_line_that_no_shell_could_read(tmp_path: Path) -> None:
    executable(tmp_path / "odd", "#!/bin/echo it's\n")
    done = run_of("./odd", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "it's ./odd\n")


def test_run_tells_a_missing_command_from_a_missing_interpreter(tmp_path: Path) -> None:
    executable(tmp_path / "tool", "#!/no/such/python3\n")
    for words, reason in (
        (["./tool"], "its first line names an interpreter that does not exist"),
        (["/no/such/python3", "x.py"], "command not found"),
        (["python3.99"], "command not found"),
    ):
        done = run_of(*words, cwd=tmp_path)
        assert done.returncode == 127
        assert done.stderr.splitlines()[-1] == f"xpc-instrument: {words[0]}: {reason}"
    assert run_of(str(tmp_path), cwd=tmp_path).returncode == 126
    assert run_of("", cwd=tmp_path).returncode == 6


def test_an_empty_entry_of_pythonpath_still_means_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("value = 'found here'\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "tool.py").write_text("import here\nprint(here.value)\n")
    for path in (f"/nowhere{os.pathsep}", f"{os.pathsep}/nowhere"):
        assert run_of("scripts/tool.py", cwd=tmp_path, env={"PYTHONPATH": path}).stdout == "found here\n"
    assert "No module named 'here'" in run_of("scripts/tool.py", cwd=tmp_path, env={"PYTHONPATH": ""}).stderr


@pytest.mark.parametrize("variable", ["PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONSTARTUP", "PYTHONOPTIMIZE", "PYTHONDEVMODE"])
def test_variables_of_python_keep_their_meaning(tmp_path: Path, variable: str) -> None:
    (tmp_path / "tool.py").write_text("import sys\n" + SAYS)
    done = run_of(sys.executable, "tool.py", "one", cwd=tmp_path, env={variable: "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "one agent\n", "")


@pytest.mark.parametrize("line", ["raise ValueError('mine')", "import sys; sys.exit(3)", "raise ImportError('mine')", "import target"])
def test_a_sitecustomize_of_the_application_does_what_it_did(tmp_path: Path, line: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text(f"import os\nif 'GO' in os.environ:\n    {line}\n")
    (own / "target.py").write_text("def f(): pass\n")
    executable(tmp_path / "start", f"#!/bin/sh\nGO=1 exec '{sys.executable}' -c 'print(\"went on\")'\n")
    outcomes = []
    for started in (["./start"], [*CLI, "run", "--probe", "target:f", "--", "./start"]):
        done = subprocess.run(started, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(own)}, timeout=30)
        mine = [text for text in done.stderr.splitlines() if "mine" in text or text.startswith("SystemExit")]
        outcomes.append((done.returncode, done.stdout, mine))
    assert outcomes[0] == outcomes[1]
    # An interpreter that does not get through its start calls nobody at its end; whoever looks next tidies up.
    discovery.processes()


# wrong options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["run", "--probe"], 2, "expected one argument"),
        (["run", "--probe", "", "--", "false"], 3, '--probe "": there is no'),
        (["run", "--probe", "json", "--", "false"], 3, "package.module:Qualified.name"),
        (["run", "--probe", "*:*", "--", "false"], 3, "too wide"),
        (["run", "--app", "", "--probe", "json:dumps", "--", "false"], 3, '--app "": is no app name'),
        (["run", "--app", "../x", "--probe", "json:dumps", "--", "false"], 3, "is no app name"),
        (["run", "--config", "", "--", "false"], 3, '--config "": expected the path'),
        (["run", "--config", "nothing.toml", "--", "false"], 3, "no such file"),
        (["run", "--config", ".", "--", "false"], 3, "is a directory"),
        (["run", "--nonsense", "--", "false"], 2, "--nonsense"),
        (["ls"], 2, "APP"),
        (["ls", ""], 4, "no instrumented application is called ''"),
        (["ls", "a/b"], 4, "no instrumented application is called 'a/b'"),
        (["ls", "99999999999999999999"], 4, "no instrumented application"),
        (["ls", "1"], 4, "not with the agent in it"),
        (["ls", "x", "--authkey-file", "nothing"], 3, "no such file"),
        (["ps", "more"], 2, "more"),
        (["check", "--probe", "json"], 3, "package.module:Qualified.name"),
    ],
)
def test_a_wrong_option_is_answered_by_what_was_seen_and_what_was_expected(
    tmp_path: Path, words: List[str], status: int, said: str
) -> None:
    done = command(*words, cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_in_a_folder_that_has_been_removed_say_so(tmp_path: Path) -> None:
    for words in (["run", "--probe", "json:dumps", "--", "true"], ["check", "--probe", "json:dumps"]):
        gone = tmp_path / "gone"
        gone.mkdir()
        done = subprocess.run(
            ["sh", "-c", 'rmdir ../gone && exec "$@"', "sh", *CLI, *words], capture_output=True, text=True, cwd=gone, timeout=30
        )
        assert done.returncode == 3
        assert done.stderr.startswith("xpc-instrument: the current folder does not exist any more")


# terminals ---------------------------------------------------------------------------------------------------------------


def on_a_terminal(*words: str, cwd: Path, columns: int = 200) -> str:
    """What a command prints when its standard output is a terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([*CLI, *words], stdout=follower, stderr=follower, stdin=follower, cwd=cwd, env=environment)
    os.close(follower)
    text = b""
    try:
        while True:
            text += os.read(leader, 65536)
    except OSError:
        pass  # EIO: the last writer has gone
    finally:
        os.close(leader)
        process.wait(30)
    return text.decode()


def test_a_terminal_gets_colours_a_pipe_gets_columns_and_json_is_json_in_both(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    start_app(run_program, tmp_path)
    for words in (["ps"], ["ls", "shop"], ["ls", "shop", "--stats"], ["check"]):
        terminal = on_a_terminal(*words, cwd=tmp_path)
        # To check is to import the targets, here too.
        without = cli if words == ["check"] else command
        pipe = without(*words, cwd=tmp_path).stdout
        assert "\x1b[" in terminal
        assert "\x1b" not in pipe
        assert pipe.splitlines()[0].split()[-1] in terminal
        values = [as_json(on_a_terminal(*words, "--json", cwd=tmp_path)), as_json(without(*words, "--json", cwd=tmp_path).stdout)]
        for value in values:
            for one in value if words[0] == "ls" else ():
                # Each run of the command is a session of its own.
                one["process"].pop("by-session")
        assert values[0] == values[1]


def test_ps_shows_an_odd_command_in_one_line_of_plain_text(tmp_path: Path, run_program: Callable[..., Program]) -> None:
    code = "import json\n# \x1b[31m \u00e9\nprint('ready', flush=True)\ninput()"
    program = run_program(command=[*CLI, "run", "--app", "odd", "--probe", "json:dumps", "--", sys.executable, "-c", code], cwd=tmp_path)
    program.read_until("ready")
    for env in ({}, {"PYTHONIOENCODING": "ascii"}):
        done = cli("ps", env=env)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 2
        assert "\x1b" not in done.stdout
    assert "\x1b[31m" not in on_a_terminal("ps", cwd=tmp_path)
    program.send_line()
    assert program.wait() == 0
