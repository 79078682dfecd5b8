"""Which code a line is of."""

from __future__ import annotations

from typing import Callable

import pytest

from tests.programs import Program

pytestmark = pytest.mark.version

MAIN = """\
HANDLERS = {"a": lambda x: x + 1}
class Shop:
    size = 1
import types
from xpc_agent.patching.lines.starts import Body
from xpc_agent.targets.lines import find_line
from xpc_instrument.core.model.errors import TargetError

for line in (1, 3, 4):
    try:
        found = find_line(f"main.py:{line}", lambda function: function.__code__, lambda code: Body(code).starts)
        print(line, [code.co_name for code in found.codes], found.functions == [HANDLERS["a"]])
    except TargetError as error:
        print(line, error)
print("end")
"""


def test_a_module_that_runs_still_is_no_function(run_program: Callable[..., Program]) -> None:
    program = run_program(MAIN, name="main.py")
    program.read_until("end")
    lines = program.text.splitlines()
    assert lines[0] == "1 ['<lambda>'] True"
    for line, number in zip(lines[1:], (3, 4)):
        assert line.startswith(f"{number} main.py:{number}: that is code of the module itself or of a class"), line
