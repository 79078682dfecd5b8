"""A pytest plugin that makes every function of named packages a probe point and arms each with hooks that only forward.

Loaded into the suite of any other project (`pytest -p forwarding`, with this folder on PYTHONPATH), it shows what an armed probe point
changes for the code that it is on: nothing, if the outcome of each test is that of a plain run. From the environment:

    XPC_EXPLORE_PACKAGES   names, separated by spaces; their submodules are covered too
    XPC_EXPLORE_MODE       "plain" arms nothing, "around" arms one hook that proceeds, "observe" one before and one after hook, "both" all three;
                           "lines" puts a probe on every line of them, which looks at the variables
    XPC_EXPLORE_PATCHER    "code" keeps to trampolines, which anything else does only where a function cannot be gone into
    XPC_EXPLORE_NAMES      "own" arms each function under the first of its names alone
    XPC_EXPLORE_REPORT     the file that gets the JSON: the outcome of each test, and what was armed and called

The hooks live in this process: what is looked at is the patching and the dispatch, not the channel.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import types
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from xpc_agent.hooks.dispatch import Invocation
from xpc_agent.hooks.gate import ALWAYS, Proceeding, Way
from xpc_agent.hooks.line import variables
from xpc_agent.patching.lines.injection import Call
from xpc_agent.patching.lines.starts import Body
from xpc_agent.points.line import BY_EVENTS, injection, line_events, own_code
from xpc_agent.points.point import ProbePoint
from xpc_agent.points.table import ProbeTable
from xpc_agent.targets.imports import ImportWatcher
from xpc_agent.targets.lines import all_functions, nested
from xpc_agent.targets.resolve import Kind
from xpc_instrument.core.calls.outcome import Arguments, Outcome
from xpc_instrument.core.config.file import from_probes
from xpc_instrument.core.model.target import Mode

# The worst of a test's three phases is its outcome.
_ORDER = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")


# Read once: what is armed may be on the way to it.
_INSIDE = os.environ.get("XPC_EXPLORE_PATCHER") != "code"
_OWN_NAMES = os.environ.get("XPC_EXPLORE_NAMES") == "own"


class Waits(Proceeding):
    """Where such a hook stands inside of a function: it makes nothing of the outcome."""

    changed: Optional[Arguments] = None

    def tell(self, outcome: Outcome) -> Outcome:
        return outcome

    def abandon(self) -> None:
        pass


class Forward:
    """A hook that changes nothing, and counts its calls."""

    calls = 0
    alone: Optional[Way] = None
    waits = Waits()

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.way = Way(ALWAYS)

    def goes_inside(self, kind: Kind) -> bool:
        return _INSIDE

    def shown_in(self, form: Any) -> None:
        """It shows nothing."""

    def not_placed(self, why: str) -> None:
        """As `RemoteHook`'s."""

    def placed(self, resolved: Any, code: Any) -> None:
        """It is the same everywhere."""

    def cross(self, args: Any, kwargs: Any, bound: bool, number: int = 0) -> Waits:
        Forward.calls += 1
        return self.waits

    def call_observer(self, invocation: Invocation) -> None:
        Forward.calls += 1

    async def call_observer_async(self, invocation: Invocation) -> None:
        Forward.calls += 1

    def call_replacing(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        Forward.calls += 1
        return proceed(*args, **kwargs)

    async def call_replacing_async(self, proceed: Callable[..., Any], args: Any, kwargs: Any, bound: bool, number: int = 0) -> Any:
        Forward.calls += 1
        return await proceed(*args, **kwargs)


MODES: Dict[str, List[Mode]] = {
    "plain": [],
    "around": [Mode.AROUND],
    "observe": [Mode.BEFORE, Mode.AFTER],
    "both": [Mode.BEFORE, Mode.AROUND, Mode.AFTER],
    "lines": [],
}


class Lines:
    """Probes on every line of all functions that the modules of some packages have."""

    def __init__(self, packages: List[str]) -> None:
        self._packages = packages
        self._seen: Dict[int, types.CodeType] = {}
        self.count = 0

    def covers(self, name: str) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in self._packages)

    def put(self, *modules: Any) -> None:
        functions = [one for module in modules for one in all_functions(vars(module)) if self._is_new(one)]
        roots = [own_code(function) for function in functions]
        changes: List[Any] = []
        for code in (code for root in roots for code in nested(root)):
            self._seen[id(code)] = code
            for line in Body(code).starts:
                changes.append((code, line, [self._hit] if BY_EVENTS else [Call(variables(code), self._call)]))
        self.count += len(changes)
        if BY_EVENTS:
            line_events().put(changes, [])
        else:
            injection.put(changes, roots, functions, lambda old, new: None)

    def _is_new(self, function: types.FunctionType) -> bool:
        code = own_code(function)
        return id(code) not in self._seen and self._seen.setdefault(id(code), code) is code and code.co_filename.endswith(".py")

    @staticmethod
    def _hit(frame: types.FrameType) -> None:
        Forward.calls += 1
        len(frame.f_locals)

    @staticmethod
    def _call(given: Any) -> Callable[..., None]:
        def hit(*values: Any) -> None:
            Forward.calls += 1

        return hit


class Exploration:
    """The probe points of one run, and the outcomes of its tests."""

    def __init__(self, packages: List[str], mode: str) -> None:
        names = ("*", "__*__", "*.__*__")
        patterns = [f"{module}:{one}" for package in packages for module in (package, f"{package}.*") for one in names]
        self.table = ProbeTable(from_probes("exploration", patterns))
        self.watcher = ImportWatcher(self.table.wants_module, self.imported)
        self.hooks: List[Any] = [Forward(one) for one in MODES[mode]]
        self.outcomes: Dict[str, str] = {}
        self.first_names: Dict[int, Tuple[Any, str]] = {}
        self.lines = Lines(packages) if mode == "lines" else None

    def start(self) -> None:
        """Arm what is imported already, and from now on each module when it has run."""
        if self.lines is not None:
            ImportWatcher(self.lines.covers, self.lines.put).install()
            self.lines.put(*[module for name, module in list(sys.modules.items()) if self.lines.covers(name)])
        if self.hooks:
            self.watcher.install()
            self.table.look_at_imported()
            self.arm(self.table.every_point())

    def imported(self, module: Any) -> None:
        self.table.module_imported(module)
        self.arm(self.table.points_in(module.__name__))

    def arm(self, points: List[ProbePoint]) -> None:
        for point in points:
            if point.patch is not None and not point.hooks and not (_OWN_NAMES and self.is_second_name(point)):
                point.hooks = list(self.hooks)
                point.refresh()

    def is_second_name(self, point: ProbePoint) -> bool:
        """Whether the function is armed under another name."""
        assert point.patch is not None
        function = point.patch.resolved.function
        return self.first_names.setdefault(id(function), (function, point.target))[1] != point.target

    def disarm(self) -> None:
        """Have no hook called any more."""
        for point in self.table.points.values():
            point.hooks = []
            point.refresh()

    def report(self) -> Dict[str, Any]:
        """What goes into the file."""
        points = list(self.table.points.values())
        return {
            "outcomes": self.outcomes,
            "armed": self.lines.count if self.lines is not None else sum(point.patch is not None and bool(point.hooks) for point in points),
            "refused": sorted(f"{point.target}: {point.reason}" for point in points if point.patch is None),
            "inside": sum(point.patch is not None and bool(point.hooks) and point.patch.patcher == "inside" for point in points),
            "calls": Forward.calls,
        }


# Who is started in the background by a shell has it ignored, and a suite that interrupts itself then waits for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_exploration = Exploration(os.environ.get("XPC_EXPLORE_PACKAGES", "").split(), os.environ.get("XPC_EXPLORE_MODE", "plain"))
_exploration.start()


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Whether Hypothesis's examples meet their deadline is a matter of what else the machine does, and which they are one of chance.

    After the suite's conftest and before its tests, since a test has the settings of the moment in which it is defined.
    """
    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is not None:
        few = {"max_examples": int(os.environ["XPC_EXPLORE_EXAMPLES"])} if "XPC_EXPLORE_EXAMPLES" in os.environ else {}
        # Of what the suite's conftest has loaded, all but that.
        ours = hypothesis.settings(deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck), **few)
        hypothesis.settings.register_profile("xpc explore", ours)
        hypothesis.settings.load_profile("xpc explore")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    elif report.failed and report.when != "call":
        outcome = "error"
    else:
        outcome = report.outcome
    known = _exploration.outcomes.get(report.nodeid, "passed")
    _exploration.outcomes[report.nodeid] = max(known, outcome, key=_ORDER.index)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _exploration.outcomes[report.nodeid] = "error"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    place = os.environ.get("XPC_EXPLORE_REPORT")
    if place:
        with open(place, "w", encoding="utf-8") as file:
            json.dump(_exploration.report(), file)
