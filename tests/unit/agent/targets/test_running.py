"""The main program before it begins, while nobody knows what it will define."""

from __future__ import annotations

import os
import site
import sys
from types import SimpleNamespace

import pytest

from xpc_agent.targets import running


def test_what_the_main_program_defines_is_to_come_until_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    main = SimpleNamespace(__name__="__main__", __file__="/nowhere/job.py", __spec__=None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(running, "_is_to_begin", False)
    assert not running.is_to_come("__main__", "work")
    assert (running.names_to_come("__main__"), running.own_folders()) == (set(), [])
    assert site.__spec__ is not None
    with monkeypatch.context() as during:
        during.setattr(site.__spec__, "_initializing", True, raising=False)
        during.setattr(sys, "argv", ["folder/job.py"])
        assert running.is_to_come("__main__", "work")
        assert not running.is_to_come("elsewhere", "work")
        assert running.own_folders() == [os.path.abspath("folder"), os.getcwd()]
    # It has been imported, and no code of the program runs yet: it is being compiled.
    assert running.is_to_come("job", "work")
    assert running.names_to_come("__main__") == {"*"}
    seen = []
    code = "other = len(seen)\nseen += [come('__main__', 'work'), come('__main__', 'wrk'), names('__main__')]\ndef work(): pass\n"
    main.__dict__.update(seen=seen, come=running.is_to_come, names=running.names_to_come)
    exec(code, main.__dict__)
    assert seen == [True, False, {"seen", "work"}]
    assert not running.is_to_begin()
    assert not running.is_to_come("__main__", "work")
