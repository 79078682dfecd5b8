"""`run`: which interpreter is this one, and the environment that it hands over. What it starts: see `tests/integration/cli`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from xpc_instrument.cli.run import is_this_interpreter, make_environment


def environment(folder: Path, name: str) -> str:
    """A virtual environment, with this Python under a name; returns the path of that."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").touch()
    path = folder / "bin" / name
    path.symlink_to(os.path.realpath(sys.executable))
    return str(path)


def test_an_interpreter_is_known_by_its_file_and_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    monkeypatch.setattr(sys, "executable", environment(here, "python3"))
    assert is_this_interpreter(sys.executable)
    assert is_this_interpreter(environment(here, "python"))
    assert is_this_interpreter(f"{here}/bin/../bin/python3")
    (tmp_path / "link").symlink_to(here)
    assert is_this_interpreter(f"{tmp_path}/link/bin/python")
    assert not is_this_interpreter(environment(tmp_path / "other", "python3"))
    assert not is_this_interpreter(os.path.realpath(sys.executable))
    assert not is_this_interpreter(str(tmp_path / "nothing"))
    other = here / "bin" / "python3.99"
    shutil.copy("/bin/true", other)
    assert not is_this_interpreter(str(other))


def test_outside_of_environments_links_to_one_file_are_one_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("python3", "python3.11", "other"):
        (tmp_path / name).symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert is_this_interpreter(str(tmp_path / "python3.11"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "python3").symlink_to(tmp_path / "python3")
    assert is_this_interpreter(str(tmp_path / "folder" / "python3"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "{agent}"),
        ({"PYTHONPATH": ""}, "{agent}"),
        ({"PYTHONPATH": "/a:/b"}, "{agent}:/a:/b"),
        ({"PYTHONPATH": "/a:"}, "{agent}:/a:"),
        ({"PYTHONPATH": "/a:{agent}:/b"}, "{agent}:/a:/b"),
    ],
)
def test_the_agents_folder_is_first_and_once_and_all_others_stay(before: dict[str, str], after: str) -> None:
    agent = str(Path(__file__).resolve().parents[3] / "agent" / "xpc_agent" / "bootstrap")
    given = {name: value.format(agent=agent) for name, value in before.items()}
    made = make_environment({**given, "HOME": "/home"}, "packed", 7)
    assert made.pop("PYTHONPATH") == after.format(agent=agent)
    assert made == {"HOME": "/home", "XPC_INSTRUMENT_CONFIG_PACKED": "packed", "XPC_INSTRUMENT_MAIN_PID": "7"}
