"""Several processes of one application behind one fixed address: the first hosts, the others join it, and one takes over."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, as_json, command, start_app
from tests.integration.fault_fixture import stop
from tests.programs import PATIENCE, Program, wait_for
from xpc_agent.relay import PREFIX
from xpc_instrument import find_free_port
from xpc_instrument.core.discovery import entry as discovery
from xpc_instrument.core.model.limits import Limits
from xpc_instrument.core.node.address import parse_address
from xpc_instrument.core.node.joiner import Joiner
from xpc_instrument.core.protocol.messages import Notice

KEY = "a long enough key"


@pytest.fixture(params=["tcp", "unix"])
def apps(request: Any, run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path) -> Tuple[str, App, App]:
    """Two processes with the same config: (the address, the host, a member)."""
    address = f"tcp:127.0.0.1:{find_free_port('127.0.0.1')}" if request.param == "tcp" else f"unix:{runtime_dir}/fixed.sock"
    key = tmp_path / "shop.key"
    key.touch(0o600)
    key.write_text(KEY + "\n")
    config = f'[manager]\naddress = "{address}"\nauthkey-file = "shop.key"\n[[probe]]\ntarget = "shop:*"\n'
    first = start_app(run_program, tmp_path, config)
    return address, first, start_app(run_program, tmp_path, config)


def test_a_hook_at_a_fixed_address_is_armed_in_all_processes(apps: Tuple[str, App, App]) -> None:
    address, host, member = apps
    seen: List[int] = []

    def around(call: Any) -> Any:
        seen.append(call.pid)
        return f"hooked {call.instance.number} {call.proceed()}"

    with xpc_instrument.connect(address, KEY) as session:
        handle = session.around("shop:Order.total", around)
        assert host.evaluate("shop.Order(2).total()") == "'hooked 2 2'"
        assert member.evaluate("shop.Order(3).total(2)") == "'hooked 3 6'"
        assert seen == [host.program.pid, member.program.pid]
        handle.remove()
        assert member.evaluate("shop.Order(3).total(2)") == "6"
        session.instead("shop:wait_a_little", lambda number: number * 100)
        assert member.evaluate("asyncio.run(shop.wait_a_little(4))") == "400"
        assert session.pids == sorted([host.program.pid, member.program.pid])
        assert session.detach() == sorted([host.program.pid, member.program.pid])
    assert discovery.processes() == []
    assert host.evaluate("asyncio.run(shop.wait_a_little(4))") == "5"
    assert member.evaluate("asyncio.run(shop.wait_a_little(4))") == "5"


def test_when_the_host_dies_another_takes_over_and_the_hooks_are_armed_again(apps: Tuple[str, App, App]) -> None:
    address, host, member = apps
    with xpc_instrument.connect(address, KEY) as session:
        session.instead("shop:charge", lambda amount: "hooked")
        assert member.evaluate("shop.charge(1)") == "'hooked'"
        os.kill(host.program.pid, signal.SIGKILL)
        host.program.wait()
        # A registration that returns is armed, whoever hosts by now.
        deadline = time.monotonic() + PATIENCE
        while session.pids != [member.program.pid] and time.monotonic() < deadline:
            member.evaluate("None")
        assert session.pids == [member.program.pid]
        session.instead("shop:fail", lambda text: "hooked too")
        assert member.evaluate("shop.fail('x')") == "'hooked too'"
        assert member.evaluate("shop.charge(1)") == "'hooked'"


def test_a_process_that_joins_later_is_armed_at_its_start(
    apps: Tuple[str, App, App], run_program: Callable[..., Program], tmp_path: Path
) -> None:
    with xpc_instrument.connect(apps[0], KEY) as session:
        session.instead("shop:charge", lambda amount: "hooked")
        config = (tmp_path / "xpc-instrument.toml").read_text().partition("\n")[2]
        third = start_app(run_program, tmp_path, config)
        assert third.evaluate("shop.charge(1)") == "'hooked'"


def test_a_wrong_key_is_refused(apps: Tuple[str, App, App]) -> None:
    with pytest.raises(xpc_instrument.AuthenticationError):
        xpc_instrument.connect(apps[0], "another key")
    assert apps[1].evaluate("shop.charge(1)") == "'1 EUR'"
    assert "AuthenticationError" in apps[1].log()
    assert KEY not in apps[1].program.text


# what all processes tell ---------------------------------------------------------------------------------------------------


def test_each_process_tells_of_itself_through_the_one_that_hosts(apps: Tuple[str, App, App], tmp_path: Path) -> None:
    address, host, member = apps
    pids = [host.program.pid, member.program.pid]
    with xpc_instrument.connect(address, KEY) as session:
        session.before("shop:charge", lambda call: None)
        host.evaluate("shop.charge(1)")
        member.evaluate("[shop.charge(1) for _ in range(5)]")
        calls = {one.pid: one.calls for one in session.stats() if one.target == "shop:charge"}
        assert calls == dict(zip(pids, [1, 5]))
        key = str(tmp_path / "shop.key")
        answers = as_json(command("ls", "shop", "--json", "--authkey-file", key).stdout)
        assert {one["pid"]: {probe["target"]: probe["calls"] for probe in one["probes"]}["shop:charge"] for one in answers} == calls
        (alone,) = as_json(command("ls", str(pids[1]), "--json", "--authkey-file", key).stdout)
        assert alone == next(one for one in answers if one["pid"] == pids[1])
        rows = [line.split()[:4] for line in command("ls", "shop", "--stats", "--authkey-file", key).stdout.splitlines()]
        # On TCP a pid is what the script says, and nobody can tell whether it is true.
        mark = "?" if "tcp" in address else ""
        assert [row for row in rows if "shop:charge" in row] == [
            [str(pid), "shop:charge", f"before:{os.getpid()}{mark}", str(calls[pid])] for pid in pids
        ]


MANY = "".join(f"def function_with_a_name_that_is_not_short_{number}():\n    return {number}\n" for number in range(2000))


def test_the_stacks_of_each_process_are_told_through_the_one_that_hosts(apps: Tuple[str, App, App]) -> None:
    address, host, member = apps
    with xpc_instrument.connect(address, KEY) as session:
        main = {stack.pid: stack for stack in session.stacks() if stack.name == "MainThread"}
    assert main.keys() == {host.program.pid, member.program.pid}
    assert all(stack.frames[-1][2] == "<module>" for stack in main.values())


def test_a_process_with_thousands_of_probe_points_tells_of_them_and_keeps_its_hooks(
    run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path
) -> None:
    address = f"unix:{runtime_dir}/fixed.sock"
    (tmp_path / "many.py").write_text(MANY)
    config = f'[manager]\naddress = "{address}"\n[[probe]]\ntarget = "many:*"\n'
    first = start_app(run_program, tmp_path, config)
    second = start_app(run_program, tmp_path, config)
    for app in (first, second):
        assert app.evaluate("__import__('many').function_with_a_name_that_is_not_short_1()") == "1"
    with xpc_instrument.connect(address) as session:
        session.instead("many:function_with_a_name_that_is_not_short_1", lambda: "hooked")
        for _ in range(2):
            found = [one.pid for one in session.stats()]
            assert {pid: found.count(pid) for pid in found} == {first.program.pid: 2000, second.program.pid: 2000}
            for app in (first, second):
                assert app.evaluate("__import__('many').function_with_a_name_that_is_not_short_1()") == "'hooked'"


def test_a_process_that_does_not_tell_is_named_and_one_that_dies_meanwhile_is_left_out(
    apps: Tuple[str, App, App], run_program: Callable[..., Program], tmp_path: Path
) -> None:
    address, _, member = apps
    third = start_app(run_program, tmp_path, (tmp_path / "xpc-instrument.toml").read_text().partition("\n")[2])
    with xpc_instrument.connect(address, KEY) as session:
        session.stats()  # with the first, the process loads what it takes
    stop(member.program)
    late = pytest.raises(TimeoutError, match=f"the processes {member.program.pid}, which share its address, did not answer")
    with xpc_instrument.connect(address, KEY, limits=Limits(connect_timeout=1.0)) as session, late:
        session.stats()
    with xpc_instrument.connect(address, KEY, limits=Limits(connect_timeout=PATIENCE)) as session, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(session.stats)
        member.program.kill()
        assert {one.pid for one in asking.result(PATIENCE)} == {session.pids[0], third.program.pid}


def test_a_process_that_died_suspends_no_hook_any_more(run_program: Callable[..., Program], tmp_path: Path, runtime_dir: Path) -> None:
    config = f'[manager]\naddress = "unix:{runtime_dir}/fixed.sock"\n[defaults]\nsuspend-after = 1\nsuspend-for = 60\n'
    config += '[[probe]]\ntarget = "shop:*"\n'
    start_app(run_program, tmp_path, config)
    member = start_app(run_program, tmp_path, config)
    with xpc_instrument.connect(f"unix:{runtime_dir}/fixed.sock") as session:
        handle = session.instead("shop:charge", lambda amount: threading.Lock())  # no answer that can be used
        member.evaluate("shop.charge(1)")
        session.stats()  # what a process has said before its answer has been heard
        assert handle.suspended == [member.program.pid]
        member.program.kill()
        deadline = time.monotonic() + PATIENCE
        while handle.suspended:
            session.stats()
            assert time.monotonic() < deadline


# who is no process of the application ----------------------------------------------------------------------------------------


def test_a_script_that_calls_itself_a_process_of_the_application_is_told_nothing(apps: Tuple[str, App, App]) -> None:
    address, host, member = apps
    heard: List[Notice] = []
    refused = threading.Event()

    def notice(one: Notice) -> None:
        heard.append(one)
        refused.set()

    limits = Limits()
    impostor = Joiner(parse_address(address), KEY.encode(), limits=limits, on_notice=notice, session=PREFIX + "0" * 32)
    impostor.connect(time.monotonic() + limits.connect_timeout)
    try:
        wait_for(refused)
        with xpc_instrument.connect(address, KEY) as session:
            # It is not waited for either.
            session.instead("shop:charge", lambda amount: "hooked")
            assert [app.evaluate("shop.charge(1)") for app in (host, member)] == ["'hooked'"] * 2
            impostor.notify("to-script", session=session._id, notice="suspended", data={"hook": 1, "pid": 1})
            # The answers come after what was said before them.
            impostor.query("nothing", PATIENCE)
            assert {one.pid for one in session.stats()} == {host.program.pid, member.program.pid}
        impostor.query("nothing", PATIENCE)
        assert [one.kind for one in heard] == ["no-member"]
    finally:
        impostor.close()
    assert "a session that would be a process of shop is refused as one" in host.log()


def test_a_process_with_another_runtime_directory_is_refused_and_says_so(
    apps: Tuple[str, App, App], run_program: Callable[..., Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="xpc", dir="/tmp") as other:
        monkeypatch.setenv("XPC_INSTRUMENT_RUNTIME_DIR", other)
        third = start_app(run_program, tmp_path, (tmp_path / "xpc-instrument.toml").read_text().partition("\n")[2])
        assert "processes that share an address need the same user, XPC_INSTRUMENT_RUNTIME_DIR and pid namespace" in third.log()
        with xpc_instrument.connect(apps[0], KEY) as session:
            session.instead("shop:charge", lambda amount: "hooked")
            assert apps[2].evaluate("shop.charge(1)") == "'hooked'"
            assert third.evaluate("shop.charge(1)") == "'1 EUR'"
        third.program.send_line()
        assert third.program.wait() == 0
        assert os.listdir(other) == []
