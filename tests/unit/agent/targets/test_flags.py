"""The flags of code objects that we name ourselves are those of the interpreter."""

from __future__ import annotations

import inspect

import pytest

from xpc_agent.targets import flags


@pytest.mark.parametrize("name", [name for name in dir(flags) if name.startswith("CO_")])
def test_a_flag_is_that_of_the_interpreter(name: str) -> None:
    assert getattr(flags, name) == getattr(inspect, name)
