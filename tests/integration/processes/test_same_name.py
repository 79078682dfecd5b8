"""Two applications of one name: a session joins what one `xpc-instrument run` started, and never lands in another by accident."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

import pytest

import xpc_instrument
from tests.integration.app_fixture import instrumented
from tests.programs import Program
from xpc_instrument import AmbiguousApplicationError

# Evaluates what it is told; `charge` in a child of its own.
SOURCE = """
import os, sys
import shop

def in_child():
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, repr(shop.charge(1)).encode())
        sys.exit()
    os.waitpid(pid, 0)
    return os.read(read, 100).decode()

print("ready", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


@pytest.fixture
def start(run_program: Callable[..., Program], tmp_path: Path) -> Callable[[], Program]:
    settings = tmp_path / "xpc-instrument.toml"
    settings.write_text('app = "shop"\n[[probe]]\ntarget = "shop:charge"\n')
    (tmp_path / "shop.py").write_text("def charge(n):\n    return n\n")
    (tmp_path / "main.py").write_text(SOURCE)

    def begin() -> Program:
        program = run_program(command=instrumented(settings, sys.executable, "main.py"), cwd=tmp_path)
        program.read_until("ready")
        return program

    return begin


def ask(program: Program, line: str) -> str:
    program.send_line(line)
    return program.read_line()


def test_two_that_were_started_apart_are_refused_with_their_pids_unless_all_are_meant(start: Callable[[], Program]) -> None:
    one, other = start(), start()
    with pytest.raises(AmbiguousApplicationError, match=rf"pid {one.pid} \(`.*main.py`\), and pid {other.pid} .* all=True"):
        xpc_instrument.connect("shop")
    with xpc_instrument.connect("shop", all=True) as session:
        assert session.pids == sorted([one.pid, other.pid])
    with xpc_instrument.connect(other.pid) as session:
        assert session.pids == [other.pid]


def test_one_that_comes_later_is_not_joined_and_children_are(start: Callable[[], Program]) -> None:
    one = start()
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda n: "hooked")
        other = start()
        assert ask(other, "shop.charge(1)") == "1"
        assert ask(one, "shop.charge(1), in_child()") == "('hooked', \"'hooked'\")"
        assert session.pids == [one.pid]


def test_the_next_application_of_the_name_is_followed_when_the_first_has_ended(start: Callable[[], Program]) -> None:
    one = start()
    with xpc_instrument.connect("shop") as session:
        session.instead("shop:charge", lambda n: "hooked")
        one.send_line("sys.exit()")
        assert one.wait() == 0
        assert ask(start(), "shop.charge(1)") == "hooked"
