"""Which code a line is of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

import pytest

from tests.programs import Program
from xpc_agent.targets.lines import ends_with, module_to_come

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


def test_the_module_to_come_is_the_one_whose_file_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("src/later/at.py", "src/later/__init__.py", "src/.hidden/at.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("src")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "src")])
    for path, module in {
        "later/at.py": "later.at",
        "./later/at.py": "later.at",
        "later/../later/at.py": "later.at",
        "later/__init__.py": "later",
        f"{tmp_path}/src/later/at.py": "later.at",
        f"{tmp_path}/link/later/at.py": "later.at",
        "at.py": "",
        "./.hidden/at.py": "",
        f"{tmp_path}/src/.hidden/at.py": "",
        str(Path(sys.executable).parent / "at.py"): "",
    }.items():
        assert module_to_come(f"{path}:3") == module, path


def test_a_file_has_all_ends_of_its_path() -> None:
    assert ends_with("/srv/shop/web.py", "web.py")
    assert ends_with("/srv/shop/web.py", "shop/web.py")
    assert ends_with(str(Path(__file__)), f"{Path(__file__).parent}/../{Path(__file__).parent.name}/{Path(__file__).name}")
    assert not ends_with("/srv/shop/web.py", "op/web.py")
    assert not ends_with("/srv/shop/web.py", "/shop/web.py")
    assert not ends_with("/srv/hidden/web.py", ".hidden/web.py")
