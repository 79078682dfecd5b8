"""The main program, followed by its definitions: an exec of its code stands for its run."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Dict, Set

import pytest

from xpc_agent.monitoring import monitoring
from xpc_agent.targets.definitions import ANY, follow

# Each function that is called must have been looked at before.
PROGRAM = """
def first():
    called("first")
first()
class Kind:
    first()
    def method(self):
        called("Kind")
Kind().method()
called("nothing else") if False else None
try:
    import there_is_no_such_module
except ImportError:
    def other(): called("other")
other()
for _ in range(2):
    def again(): called("again")
    again()
def last(): pass
called("last")
"""


class Program:
    """Runs `PROGRAM` as the main one, followed for what is `wanted` and not `known` by then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: Set[str]) -> None:
        self.module = ModuleType("__main__")
        self.namespace: Dict[str, Any] = self.module.__dict__
        self.namespace["called"] = self.called
        self.known: Set[str] = set()
        self.calls: Dict[str, bool] = {}
        self.traced: Set[Any] = set()
        self.looks = 0
        self._wanted = wanted
        monkeypatch.setitem(sys.modules, "__main__", self.module)

    def wanted(self) -> Set[str]:
        return self._wanted - self.known

    def look(self) -> bool:
        self.looks += 1
        self.known |= self.namespace.keys()
        return True

    def called(self, name: str) -> None:
        self.calls[name] = name in self.known
        self.traced.add(sys.gettrace())

    def run(self, source: str) -> None:
        code = compile(source, "program.py", "exec")
        before = sys.gettrace()
        try:
            follow(self.wanted, self.look)
            exec(code, self.namespace)
        finally:
            left = SimpleNamespace(trace=sys.gettrace(), tool=monitoring.id)
            sys.settrace(before)
        assert (left.trace, left.tool) == (before, None)


def test_what_the_program_defines_is_looked_at_before_it_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(monkeypatch, {ANY})
    program.run(PROGRAM)
    assert program.calls == dict.fromkeys(("first", "Kind", "other", "again", "last"), True)
    # What the program calls runs untraced.
    assert program.traced == {None}


def test_it_is_followed_until_all_that_is_wanted_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(monkeypatch, {"other"})
    program.run(PROGRAM)
    assert (program.calls["other"], program.calls["again"], program.looks) == (True, False, 1)
    program = Program(monkeypatch, {"nothing_of_it"})
    program.run(PROGRAM)
    assert program.looks == 0


def test_definitions_in_a_row_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(monkeypatch, {ANY})
    program.run("".join(f"def f{number}(one, two={number}, *, three: int = 3): pass\n" for number in range(300)) + "called('f299')\n")
    assert (program.calls, program.looks) == ({"f299": True}, 1)


def test_a_failure_of_looking_is_not_the_programs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    program = Program(monkeypatch, {ANY})

    def fail() -> bool:
        raise OSError("no")

    monkeypatch.setattr(program, "look", fail)
    program.run(PROGRAM)
    assert program.calls["last"] is False
    assert "looked for again and again instead" in caplog.text


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there it is no trace function that tells")
def test_a_trace_function_of_the_programs_own_takes_the_place_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(monkeypatch, {ANY})
    program.namespace.update(sys=sys, mine=lambda *_told: None)
    before = sys.gettrace()
    try:
        with pytest.raises(AssertionError):
            program.run("def first(): pass\ncalled('first')\nsys.settrace(mine)\ndef later(): pass\ncalled('later')\n")
    finally:
        sys.settrace(before)
    assert program.calls == {"first": True, "later": False}
    assert program.traced == {None, program.namespace["mine"]}
