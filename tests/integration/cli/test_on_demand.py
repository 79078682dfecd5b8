"""Functions that no config lists, hooked and searched for as they are typed."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, Callable

import pytest

import xpc_instrument
from tests.integration.app_fixture import command
from tests.integration.cli.test_cli import cli
from tests.programs import Program
from xpc_instrument import TargetError

ROOT = Path(__file__).resolve().parents[3]
RUN = [sys.executable, "-m", "xpc_instrument.cli", "run"]
PROGRAM = """
import sys

class Bank:
    def pay(self, amount, *, currency="EUR"):
        return amount

def charge(amount):
    return amount + 1

async def wait():
    pass

print("ready", flush=True)
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except SyntaxError:
        exec(line)
        print("done", flush=True)
"""


@pytest.fixture
def shop(tmp_path: Path, run_program: Callable[..., Program]) -> Any:
    """A program in a folder without a config, started by `run` with these words."""
    (tmp_path / "later.py").write_text("def refund(n):\n    return -n\n")
    (tmp_path / "shop.py").write_text(PROGRAM)

    def start(*words: str) -> Program:
        program = run_program(command=[*RUN, "--app", "shop", *words, "--", sys.executable, "shop.py"], cwd=tmp_path)
        program.read_until("ready")
        return program

    return start


def ask(program: Program, line: str) -> str:
    program.send_line(line)
    return str(program.read_line())


def test_run_without_a_config_lets_a_script_hook_any_function_now_and_later(shop: Any) -> None:
    program = shop()
    with xpc_instrument.connect("shop", all=True) as session:
        session.instead("shop:charge", lambda amount: "hooked")
        session.around("shop:Bank.pay", lambda call: call.proceed() * 2)
        session.instead("later:refund", lambda n: "refunded")
        # One that starts now is told before Python looks in the program's folder.
        assert ask(shop(), "__import__('later').refund(3)") == "'refunded'"
        assert ask(program, "charge(1), Bank().pay(4)") == "('hooked', 8)"
        assert ask(program, "import later") == "done"
        assert ask(program, "later.refund(3)") == "'refunded'"
        with pytest.raises(TargetError, match="the nearest names are shop:charge"):
            session.before("shop:chrge", print)
        with pytest.raises(TargetError, match=r"there is no module latter.*the nearest modules are later"):
            session.before("latter:refund", print)
        rows = next(one["probes"] for one in json.loads(command("ls", "shop", "--json").stdout) if one["pid"] == program.pid)
        states = {row["target"]: row["state"] for row in rows}
        assert states == {"shop:charge": "armed", "shop:Bank.pay": "armed", "later:refund": "armed"}
    assert ask(program, "charge(1), Bank().pay(4), later.refund(3)") == "(2, 4, -3)"
    assert json.loads(command("ls", "shop", "--json").stdout)[0]["probes"] == []


def test_a_pattern_limits_what_may_be_asked_for_and_max_targets_how_much(shop: Any, tmp_path: Path) -> None:
    probes = "[[probe]]\ntarget = 'sohp.gateway:Gateway.*'\n[[probe]]\ntarget = 'shop_of_nobody:*'\n"
    (tmp_path / "xpc-instrument.toml").write_text(f"{probes}[limits]\nmax-targets = 1\n[defaults]\nallow = ['before']\n")
    shop("--on-demand", "shop:**")
    with xpc_instrument.connect("shop") as session:
        with pytest.raises(TargetError, match="json:dumps is no probe point of shop"):
            session.before("json:dumps", print)
        with pytest.raises(TargetError, match="does not allow the mode 'instead'"):
            session.instead("shop:charge", print)
        handle = session.before("shop:charge", print)
        with pytest.raises(TargetError, match=r"hooks on 1 targets on demand, the limit \(max-targets\)"):
            session.before("shop:Bank.pay", print)
        handle.remove()
        session.before("shop:Bank.pay", print)
        with pytest.raises(TargetError, match="there is no module shop_of_nobody"):
            session.before("shop_of_nobody:charge", print)
        reasons = {row["target"]: row["reason"] for row in json.loads(command("ls", "shop", "--json").stdout)[0]["probes"]}
        assert reasons["sohp.gateway:Gateway.*"].startswith("there is no module sohp:")
        assert {"sohp.gateway:Gateway.*", "shop_of_nobody:*", "shop:Bank.pay"} <= set(reasons)


def test_ls_with_a_pattern_searches_the_imported_modules(shop: Any, tmp_path: Path) -> None:
    shop("--on-demand", "shop.**")
    done = command("ls", "shop", "shop.**:**", "json:dump*", cwd=tmp_path)
    assert done.returncode == 0
    rows = [line.split()[:3] for line in done.stdout.splitlines()[1:]]
    assert rows[-3:] == [[f"shop:{name}", "on", "demand"] for name in ("Bank.pay", "charge", "wait")]
    source = command("ls", "shop", "shop:Ba**", "--source", cwd=tmp_path).stdout
    assert source.startswith("shop:Bank.pay(amount, *, currency=...)  [on demand]  shop.py:5\n")
    assert "5      def pay(self" in source
    told = json.loads(command("ls", "shop", "json:dumps", "--json").stdout)["targets"]
    assert [(one["target"], one["state"]) for one in told] == [("json:dumps", "not allowed")]
    nothing = command("ls", "shop", "shop:nothing*")
    assert nothing.returncode == 1
    assert nothing.stdout == "no function of the modules that are imported matches shop:nothing*: no function of shop matches\n"
    assert command("ls", "shop", "shop:chagre").stdout.endswith(": no function of shop matches; the nearest are charge\n")
    assert command("ls", "shop", "jsno:dumps").stdout.endswith("; the nearest modules are json\n")
    # The program by the name by which others could import it, and by its own.
    for pattern, found in (("__main__:*", ["__main__:charge", "__main__:wait"]), ("__main__:charge", ["__main__:charge"])):
        told = json.loads(command("ls", "shop", pattern, "--json").stdout)["targets"]
        assert [one["target"] for one in told] == found
    with xpc_instrument.connect("shop") as session:
        session.before("shop:wait", print)
        told = json.loads(command("ls", "shop", "--json").stdout)[0]["probes"]
        reasons = {one["target"]: (one["patcher"], one["why-not-inside"]) for one in told}
        # Before Python 3.11 nothing goes inside.
        assert reasons["shop:wait"][0] == "code" and (sys.version_info < (3, 11) or reasons["shop:wait"][1] == "its before hook is awaited")
    assert command("ls", "shop", "shop..x").returncode == 1
    assert command("ls", "shop", "--source").returncode == 2


def test_children_of_an_application_on_demand_are_found_and_hooked(shop: Any) -> None:
    program = shop()
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda amount: "hooked")
        program.send_line("import os; os.waitpid(os.fork() or (print(charge(1), flush=True), sys.exit()), 0)")
        assert [program.read_line(), program.read_line()] == ["hooked", "done"]


def test_a_misspelt_module_of_the_config_is_named_as_such_and_not_waited_for(shop: Any) -> None:
    shop("--probe", "laterr:refund", "--probe", "later:refund")
    rows = {row["target"]: row for row in json.loads(command("ls", "shop", "--json").stdout)[0]["probes"]}
    assert rows["laterr:refund"]["reason"].endswith("the nearest modules are later")
    assert rows["later:refund"]["reason"] == "its module is not imported yet"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_is_said_to_be_that() -> None:
    nobody = pwd.getpwnam("nobody")
    with subprocess.Popen(["sleep", "60"], user=nobody.pw_uid, group=nobody.pw_gid) as other:
        try:
            done = command("ls", str(other.pid))
            assert done.returncode == 4
            assert f"process {other.pid} is that of another user, nobody" in done.stderr
        finally:
            other.kill()


def test_check_uses_the_python_of_the_applications_command(tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, symlinks=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "ours.pth").write_text(
        "\n".join([str(ROOT), str(ROOT / "agent"), *(path for path in sys.path if path.endswith("site-packages"))])
    )
    (packages / "only_there.py").write_text("def f(): pass\n")
    (tmp_path / "needs.py").write_text("import only_there\nraise RuntimeError('no settings')\n")
    probes = ["--probe", "only_there:f", "--probe", "needs:g"]
    assert cli("check", *probes, cwd=tmp_path).returncode == 1
    for how in (["--python", str(environment / "bin/python")], ["--", str(environment / "bin/python"), "-m", "only_there"]):
        done = cli("check", *probes, "--json", *how, cwd=tmp_path)
        rows = {row["target"]: row for row in json.loads(done.stdout)}
        assert (done.returncode, rows["only_there:f"]["state"], rows["needs:g"]["state"]) == (0, "ready", "unknown"), done.stdout
        assert "RuntimeError: no settings; the application may prepare what that needs" in rows["needs:g"]["reason"]
    assert command("check", *probes, "python", cwd=tmp_path).returncode == 2
