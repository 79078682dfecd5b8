"""Where there can be no memory that two processes share, or none that frames would be safe in, the reason is said."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from xpc_instrument.core.wire.memory import why_plain

pytestmark = pytest.mark.skipif(bool(why_plain()), reason=f"no hot lanes here: {why_plain()}")


def test_where_there_can_be_no_hot_lanes_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(name: str, value: Any, on: Any = os) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(on, name, value, raising=False)
            return why_plain()

    assert seen("uname", lambda: SimpleNamespace(machine="aarch64")) == "the order of stores on aarch64 is not what hot lanes rely on"
    assert seen("sched_getaffinity", lambda _: {3}) == "this process may run on one processor only"
    assert seen("_is_gil_enabled", lambda: False, sys) == "this Python runs without the GIL of CPython"
    assert seen("platform", "darwin", sys) == "this system has no sealed memory (memfd)"
    assert why_plain() == ""
