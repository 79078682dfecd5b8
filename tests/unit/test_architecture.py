"""The import graph goes one way, has no circles, and importing the agent stays cheap.

The graph is read from the sources: late imports inside functions count, and imports for type checkers only do as well.

1. The agent imports `xpc_instrument.core` and nothing else of the library.
2. `core` imports neither side.
3. The faces (`cli`, `pytest_plugin`) use `verbs` and `script`, `verbs` use `script`; nothing imports upwards, and there are no circles.

A new folder has to be given its level here; a new module in a folder that has one needs nothing.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Collection, Dict, List, Sequence, Set

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "xpc_instrument"
AGENT = "xpc_agent"

Graph = Dict[str, Set[str]]
Levels = Sequence[Collection[str]]

# From low to high: a part may import from parts of lower levels and from itself, and none from one beside it. A module belongs to the
# part with the longest name that it is or lies below.
LEVELS: Levels = (
    {"xpc_instrument.core", "xpc_instrument.core.version", "xpc_instrument.core.unpatched"},
    {"xpc_instrument.core.model"},
    {"xpc_instrument.core.protocol", "xpc_instrument.core.discovery"},
    {"xpc_instrument.core.values", "xpc_instrument.core.wire", "xpc_instrument.core.config"},
    {"xpc_instrument.core.node"},
    {"xpc_instrument.core.calls", "xpc_instrument.core.replay"},
    {
        "xpc_agent.bootstrap.needed",
        "xpc_agent.collecting",
        "xpc_agent.generated",
        "xpc_agent.guard",
        "xpc_agent.late",
        "xpc_agent.monitoring",
        "xpc_agent.relay",
    },
    {"xpc_agent.events", "xpc_agent.targets"},
    {"xpc_agent.trees"},
    {"xpc_agent.hooks"},
    {"xpc_agent.patching"},
    {"xpc_agent.points"},
    {"xpc_agent.service"},
    {"xpc_agent.life"},
    {"xpc_agent", "xpc_instrument.script"},
    {"xpc_instrument.attaching"},
    {"xpc_instrument.verbs"},
    {"xpc_instrument.pytest_plugin"},
    {"xpc_instrument.cli"},
    # Its names are loaded on first use, so it may name those of any part.
    {"xpc_instrument"},
)

# Where the order alone would allow too much: what the command line may know of the agent. `check` resolves targets as the agent does, and
# says which patcher they would get.
FACES = "xpc_instrument.cli"
KNOWN_TO_FACES = ("xpc_agent.targets", "xpc_agent.patching.choice", "xpc_agent.bootstrap.needed")

# Above this a module says in its head why it is one.
LONGEST = 500
REASON = "Over 500 lines:"

# What is not in the standard library, and who alone may import it.
THIRD_PARTY = {
    "wrapt": {"xpc_agent.patching.wrapper"},
    # Of the application's own, where it has loaded them.
    "gevent": {"xpc_instrument.core.wire.hubs"},
    "gevent.hub": {"xpc_instrument.core.wire.hubs"},
    "eventlet": {"xpc_instrument.core.wire.hubs"},
    "cloudpickle": {"xpc_instrument.core.values.by_value"},
    # For type checkers only.
    "typing_extensions": {"xpc_instrument.core.model.record"},
    "tomli": {"xpc_instrument.core.config.lines"},
    "rich": {"xpc_instrument.cli.output"},
    "cryptography": {"xpc_instrument.cli.certificates"},
    "pytest": {
        "xpc_instrument.pytest_plugin",
        "xpc_instrument.pytest_plugin.service",
        "xpc_instrument.pytest_plugin.mocker",
        "xpc_instrument.pytest_plugin.recordings",
        "xpc_instrument.pytest_plugin.stand_ins",
    },
}

# In the standard library of a Python later than the oldest supported one.
NEWER = {"annotationlib", "tomllib"}
# In that of the oldest, and not in later ones.
OLDER = {"sre_parse"}


# reading the graph -------------------------------------------------------------------------------------------------------


def sources(root: Path) -> Dict[str, Path]:
    """The modules of both packages: their names and files."""
    found = {}
    for folder in (root / LIBRARY, root / "agent" / AGENT):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, module: str, is_package: bool, modules: Collection[str]) -> Set[str]:
    """What a module imports, at run time or for type checkers: full names, of modules where `modules` has them."""
    found = set()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in modules else base)
    return found - {"__future__"}


def graph_of(modules: Dict[str, Path]) -> Graph:
    return {name: imports(path.read_text(encoding="utf-8"), name, path.stem == "__init__", modules) for name, path in modules.items()}


# judging it --------------------------------------------------------------------------------------------------------------


def part_of(module: str, levels: Levels) -> str:
    """The part that a module belongs to, or "" if it has none."""
    parts = [part for parts in levels for part in parts if _within(module, part)]
    return max(parts, key=len, default="")


def steps_up(graph: Graph, levels: Levels) -> List[str]:
    """Every import that goes up or aside."""
    level = {part: number for number, parts in enumerate(levels) for part in parts}
    wrong = []
    for name in sorted(graph):
        own = part_of(name, levels)
        for imported in sorted(graph[name]):
            other = part_of(imported, levels)
            if other and other != own and level[other] >= level[own]:
                wrong.append(f"{name} imports {imported}: {other} is {'beside' if level[other] == level[own] else 'above'} {own}")
    return wrong


def circles(graph: Graph) -> List[List[str]]:
    """The groups of modules that lead back to themselves."""
    reached = {name: _below(graph, name) for name in graph}
    found = {tuple(sorted(other for other in reached[name] if name in reached.get(other, ()))) for name in graph if name in reached[name]}
    return [list(group) for group in sorted(found)]


def _below(graph: Graph, name: str) -> Set[str]:
    """All that a module imports, and what that imports in turn."""
    found: Set[str] = set()
    waiting = [name]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def strangers(graph: Graph, third_party: Dict[str, Set[str]], standard: Collection[str]) -> List[str]:
    """Every import from outside of both packages and the standard library, but those that are listed."""
    return [
        f"{name} imports {imported}"
        for name in sorted(graph)
        for imported in sorted(graph[name])
        if imported.split(".")[0] not in {LIBRARY, AGENT, *standard} and name not in third_party.get(imported.split(".")[0], set())
    ]


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


MODULES = sources(ROOT)
GRAPH = graph_of(MODULES)


def test_the_graph_is_there() -> None:
    assert {"xpc_instrument.core.protocol.codec", "xpc_agent.patching.wrapper"} <= set(GRAPH)
    assert "xpc_instrument.core.protocol.messages" in GRAPH["xpc_instrument.core.protocol.codec"]
    assert "wrapt" in GRAPH["xpc_agent.patching.wrapper"]


def test_imports_go_one_way() -> None:
    assert steps_up(GRAPH, LEVELS) == []


def test_there_are_no_circles() -> None:
    assert circles(GRAPH) == []


def test_the_agent_knows_the_core_and_nothing_else_of_the_library() -> None:
    known = {imported for name in GRAPH if _within(name, AGENT) for imported in GRAPH[name] if _within(imported, LIBRARY)}
    assert {name for name in known if not _within(name, "xpc_instrument.core")} == set()


def test_the_command_line_knows_of_the_agent_only_how_targets_are_resolved_and_patched() -> None:
    known = {imported for name in GRAPH if _within(name, FACES) for imported in GRAPH[name] if _within(imported, AGENT)}
    assert {name for name in known if not any(_within(name, part) for part in KNOWN_TO_FACES)} == set()


def test_a_long_module_says_why_it_is_one() -> None:
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    silent = {
        name for name, text in texts.items() if text.count("\n") > LONGEST and REASON not in (ast.get_docstring(ast.parse(text)) or "")
    }
    assert silent == set()


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names came with 3.10")
def test_each_dependency_has_one_importer_and_all_else_is_the_standard_library() -> None:
    assert strangers(GRAPH, THIRD_PARTY, {*sys.stdlib_module_names, *NEWER, *OLDER}) == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"low.a": {"high.a"}}, ["low.a imports high.a: high is above low"]),
        ({"low.a": {"beside"}}, ["low.a imports beside: beside is beside low"]),
        ({"low.inner.a": {"low.b"}}, ["low.inner.a imports low.b: low is beside low.inner"]),
        ({"low.a": {"low.b"}, "high.b": {"low.a", "json"}}, []),
        ({"lowest": {"json"}}, []),
        ({}, []),
    ],
)
def test_a_step_up_is_seen(graph: Graph, expected: List[str]) -> None:
    assert steps_up(graph, [{"low", "beside", "low.inner"}, {"high"}]) == expected


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": {"b", "json"}}, [["b", "c"]]),
        ({"a": {"a"}}, [["a"]]),
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
    ],
)
def test_a_circle_is_seen(graph: Graph, expected: List[List[str]]) -> None:
    assert circles(graph) == expected


def test_a_stranger_is_seen() -> None:
    graph = {"xpc_agent.a": {"wrapt", "json", "xpc_agent.b"}, "xpc_agent.b": {"wrapt.importer", "numpy"}}
    assert strangers(graph, {"wrapt": {"xpc_agent.a"}}, {"json"}) == ["xpc_agent.b imports numpy", "xpc_agent.b imports wrapt.importer"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import json, os.path", {"json", "os.path"}),
        ("from . import beside", {"top.package.beside"}),
        ("from .beside import name", {"top.package.beside"}),
        ("from .. import __version__", {"top"}),
        ("from ..other import thing as alias", {"top.other"}),
        ("from top.package import beside, name", {"top.package.beside", "top.package"}),
        ("def late():\n    import wrapt", {"wrapt"}),
        ("try:\n    import tomllib\nexcept ImportError:\n    import tomli", {"tomllib", "tomli"}),
        ("if TYPE_CHECKING:\n    import session\nelse:\n    import json", {"session", "json"}),
        ("from __future__ import annotations", set()),
    ],
)
def test_imports_are_read_from_the_source(source: str, expected: Set[str]) -> None:
    assert imports(source, "top.package.module", False, {"top.package", "top.package.beside", "top.other"}) == expected


def test_a_package_counts_its_dots_from_itself() -> None:
    assert imports("from .inner import x\nfrom .. import y", "top.package", True, ()) == {"top.package.inner", "top"}


# the cost of importing ---------------------------------------------------------------------------------------------------

# Each costs an application's start-up milliseconds, or drags in what it did not ask for. `typing` is not here: the agent needs it, and
# most applications have loaded it anyway.
TOO_DEAR = (
    "argparse",
    "asyncio",
    "cloudpickle",
    "concurrent.futures",
    "ctypes",
    "dataclasses",
    "email",
    "http",
    "importlib.metadata",
    "inspect",
    "multiprocessing",
    "pickle",
    "rich",
    "shutil",
    "ssl",
    "subprocess",
    "tempfile",
    "tomli",
    "tomllib",
    "unittest",
    "wrapt",
    # What is there for hooks comes with the first of them.
    "xpc_agent.hooks.remote",
    "xpc_agent.patching",
    "xpc_instrument.cli",
    "xpc_instrument.core.calls.caller",
    "xpc_instrument.core.values.pickling",
    "xpc_instrument.script.call",
    "xpc_instrument.script.session",
)

WAYS = {
    "import xpc_instrument": "import xpc_instrument",
    "import xpc_agent": "import xpc_agent",
    "an agent with a Python function hookable": """
import colorsys  # a module with Python functions that the agent does not need
from xpc_agent.life.control import start, stop
from xpc_instrument.core.config.file import from_probes
start(from_probes("cost", ["colorsys:hls_to_rgb"]))
""",
}

REPORT = """
import sys as _sys
_before = set(_sys.modules)
{source}
print("loaded:" + __import__("json").dumps(sorted(set(_sys.modules) - _before)))
{end}
"""


def loaded_by(source: str, end: str = "") -> Set[str]:
    """The modules that a fresh interpreter loads for some source."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(source=source, end=end)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("loaded:"))
    return set(json.loads(line[len("loaded:") :]))


def test_an_agent_that_the_environment_has_started_does_without_pathlib_and_what_that_takes() -> None:
    dear = {"ipaddress", "urllib", "urllib.parse"}
    # The `traceback` of 3.14 imports `inspect`, that of 3.15 `pathlib`; and `logging` imports it.
    if sys.version_info[:2] != (3, 14):
        dear |= {"annotationlib", "ast"}
    if sys.version_info < (3, 15):
        dear.add("pathlib")
    assert loaded_by("import xpc_agent.life.autostart, xpc_agent.life.attached, xpc_agent.service.on_use") & dear == set()


@pytest.fixture(scope="module")
def loaded() -> Dict[str, Set[str]]:
    """What each way loads; asked once for all tests."""
    return {}


@pytest.mark.parametrize("module", TOO_DEAR)
@pytest.mark.parametrize("way", WAYS)
def test_what_costs_an_application_dearly_is_not_loaded(way: str, module: str, loaded: Dict[str, Set[str]]) -> None:
    if way not in loaded:
        # What `logging` takes with it is no choice of ours: of Python 3.14, `dataclasses` and `inspect`.
        loaded[way] = loaded_by(WAYS[way], "stop()" if "stop" in WAYS[way] else "") - loaded_by("import logging")
    assert module not in loaded[way]


def test_the_library_itself_loads_nothing_of_ours() -> None:
    assert {name for name in loaded_by("import xpc_instrument") if name.startswith("xpc_")} == {
        LIBRARY,
        f"{LIBRARY}.core",
        f"{LIBRARY}.core.version",
    }


def test_what_is_loaded_is_seen() -> None:
    assert {"argparse", "xpc_instrument.core.model.errors"} <= loaded_by("import argparse, xpc_instrument.core.model.errors")
