"""Which interpreters are gone into, and that the trial finds what does not work."""

from __future__ import annotations

import sys
import types
from typing import Any, Tuple

import pytest

from xpc_agent.patching import inside
from xpc_agent.patching.inside import RefusedError, inserted, refusal, versions

pytestmark = pytest.mark.version

GONE_INTO = sys.version_info >= (3, 11)


def simple(a: Any) -> Any:
    return a


def test_a_version_is_gone_into_or_has_a_reason() -> None:
    assert (refusal(simple.__code__) is None) == GONE_INTO
    if not GONE_INTO:
        with pytest.raises(RefusedError, match="not gone into"):
            inserted(simple.__code__, print)


@pytest.mark.skipif(not GONE_INTO, reason="it is not gone into for its age")
@pytest.mark.parametrize(
    ("where", "name", "value", "reason"),
    [
        (versions, "MAGIC_NUMBER", b"\x01\x02\r\n", "bytecode"),
        (sys, "abiflags", "t", "free-threaded"),
        (sys, "implementation", types.SimpleNamespace(name="pypy"), "pypy"),
    ],
)
def test_an_interpreter_that_is_not_known_is_refused(monkeypatch: Any, where: Any, name: str, value: Any, reason: str) -> None:
    monkeypatch.setattr(where, name, value)
    assert reason in str(refusal(simple.__code__))
    with pytest.raises(RefusedError, match=reason):
        inserted(simple.__code__, print)


if GONE_INTO:
    from xpc_agent.patching.inside import trial
    from xpc_agent.patching.inside.insertion import inserted as really_inserted

    def not_called(code: types.CodeType, *hooks: Any) -> types.CodeType:
        return code

    def swapped(code: types.CodeType, enter: Any, *hooks: Any) -> types.CodeType:
        return really_inserted(code, enter, *hooks[::-1])

    def twice(code: types.CodeType, *hooks: Any) -> types.CodeType:
        return really_inserted(really_inserted(code, *hooks), *hooks)

    def silent(code: types.CodeType, enter: Any, *hooks: Any) -> types.CodeType:
        return really_inserted(code, enter, *hooks, *([lambda token, error: None] if hooks else ()))

    def elsewhere(code: types.CodeType, *hooks: Any) -> types.CodeType:
        return really_inserted(code.replace(co_firstlineno=code.co_firstlineno + 1), *hooks)

    WRONG: Tuple[Any, ...] = (not_called, swapped, twice, silent, elsewhere)

    def test_this_interpreter_stands_the_trial() -> None:
        assert trial.problem() == ""

    @pytest.mark.parametrize("wrong", WRONG)
    def test_the_trial_finds_code_that_is_not_as_it_should_be(monkeypatch: Any, wrong: Any) -> None:
        monkeypatch.setattr(trial, "inserted", wrong)
        assert "the trial of hooks inside a function failed" in trial.problem()

    def test_an_interpreter_that_does_not_stand_it_is_refused_for_good(monkeypatch: Any) -> None:
        monkeypatch.setattr(trial, "inserted", not_called)
        monkeypatch.setattr(inside, "_problem", None)
        for _ in range(2):
            with pytest.raises(RefusedError, match="trial"):
                inserted(simple.__code__, print)
        assert "trial" in str(refusal(simple.__code__))
