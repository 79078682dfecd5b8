"""The nearest that Python itself has to an observer of one function: `sys.monitoring`, from 3.12 on."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Any, Iterable, Iterator


@contextmanager
def monitored(functions: Iterable[Any]) -> Iterator[None]:
    """Have a callback that does nothing run whenever one of the functions begins."""
    monitoring: Any = vars(sys)["monitoring"]
    tool, begins = monitoring.OPTIMIZER_ID - 1, monitoring.events.PY_START
    codes = [function.__code__ for function in functions]

    def began(code: Any, offset: int) -> None:
        pass

    monitoring.use_tool_id(tool, "xpc-instrument's benchmarks")
    try:
        monitoring.register_callback(tool, begins, began)
        for code in codes:
            monitoring.set_local_events(tool, code, begins)
        yield
    finally:
        for code in codes:
            monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, begins, None)
        monitoring.free_tool_id(tool)
