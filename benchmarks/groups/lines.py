"""In one process: what a probe on a line costs that shows nothing, because its condition is not met, and what it costs elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, Mapping, Tuple

from xpc_agent.events.sender import Sender
from xpc_agent.hooks.line import LineHook
from xpc_agent.points.line import BY_EVENTS, line_point
from xpc_instrument.core.config.schema import Config
from xpc_instrument.core.model.local import LINE
from xpc_instrument.core.model.target import Mode
from xpc_instrument.core.model.terms import Terms
from xpc_instrument.core.values.redaction import Redaction

from ..measure.timing import Comparison, Group, TimeFunction, timer
from ..processes.peers import ROOT
from .nobody import AT_ONCE, hook_of_nobody

_FILE = ROOT / "benchmarks/processes/lined.py"
_NEVER, _LOOKED_AT = 8, 9
# In seconds, more than the call without a probe.
_MOST = 1e-6 if BY_EVENTS else 0.2e-6


class ProbeError(Exception):
    """A probe was not where it should be."""


def _function(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _probed(stack: ExitStack, module: Any, line: int) -> Tuple[Any, LineHook]:
    target, local = f"processes/lined.py:{line}", {"kind": LINE, "when": "amount < 0", "show": [], "depth": 2, "stack": 0, "locals": True}
    config = Config(app="benchmarks", on_demand=("**",))
    # Only it has the file, for as long as it is looked for.
    sys.modules[module.__name__] = module
    try:
        point = line_point(target, lambda module, name: config.defaults.probe(target), tuple, config)
    finally:
        del sys.modules[module.__name__]
    terms = Terms(wait=False, local=local)
    sending: Dict[str, Any] = {"sender": Sender(1000, 1 << 20), "redaction": Redaction((), ())}
    hook: LineHook = hook_of_nobody(LineHook, Mode.BEFORE, target, terms, suspension=AT_ONCE, **sending)
    # What it costs is what is measured here, all the time.
    hook.rest = lambda: None  # type: ignore[method-assign]
    point.hooks = [hook]
    point.refresh()
    stack.callback(point.restore)
    return module.function, hook


@contextmanager
def _lines() -> Iterator[Mapping[str, TimeFunction]]:
    with ExitStack() as stack:
        bare, again = _function("lined_bare").function, _function("lined_again").function
        probed, hook = _probed(stack, _function("lined_probed"), _LOOKED_AT)
        beside, never = _probed(stack, _function("lined_beside"), _NEVER)
        ways: Dict[str, Any] = {"bare": bare, "bare again": again, "probed": probed, "beside": beside}
        yield {way: timer("function(12, 'EUR')", function=function) for way, function in ways.items()}
        if not hook.counters.skipped["when"].value or never.counters.skipped["when"].value:
            raise ProbeError("a probe was come to that should not be, or not come to")


LINES = Group(
    "lines",
    _lines,
    (
        Comparison("a line with a condition that is not met", "probed", "bare", more=_MOST),
        Comparison("the other lines of the function", "beside", "bare", below=1.1),
    ),
    share=0.3,
    title="A probe on a line",
    about="""\
A function of three lines with a probe on one of them. Where the condition is not met, the call pays for asking it; a call that does not
come to the line pays nothing.""",
    why="""\
Up to Python 3.11 a call of the condition stands where the statement begins. From 3.12 on Python calls back, which alone takes 50 ns; the
variables are read from the frame, which takes 0.1 to 0.9 µs more, the most on 3.12, where they are all copied.""",
)
