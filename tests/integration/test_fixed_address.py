"""Several processes of one application behind one fixed address: the first hosts, the others join it, and one takes over."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

import xpc_instrument
from tests.integration.app_fixture import App, start_app
from tests.programs import Program
from xpc_instrument import find_free_port

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
        for _ in range(100):
            if session.pids == [member.program.pid]:
                break
            member.evaluate("__import__('time').sleep(0.05)")
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
    assert "AuthenticationError" in apps[1].program.text
    assert KEY not in apps[1].program.text
