"""The import graph has one direction, and importing the agent stays cheap.

The graph is read from the sources, late imports inside functions included; imports for type checkers only do not count. A module may import
modules of earlier levels, none of its own level and none of a later one. A new module has to be given its level here.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Collection, Dict, Iterator, List, Sequence, Set, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "xpc_instrument"
AGENT = "xpc_agent"

Graph = Dict[str, Set[str]]
Levels = Sequence[Collection[str]]

LEVELS: Levels = (
    {"xpc_instrument"},  # its names are loaded on first use
    {"xpc_instrument.errors"},
    {"xpc_instrument.modes", "xpc_instrument.terms", "xpc_instrument.stats"},
    # the channel
    {"xpc_instrument.channel"},
    {"xpc_instrument.channel.limits", "xpc_instrument.channel.messages", "xpc_instrument.channel.primitives"},
    {"xpc_instrument.channel.hubs"},  # where gevent, eventlet and trio switch tasks
    {"xpc_instrument.channel.codec"},
    {"xpc_instrument.channel.connection"},
    {"xpc_instrument.channel.turns"},
    {"xpc_instrument.channel.arrivals"},
    {"xpc_instrument.channel.wire"},
    {"xpc_instrument.channel.tls", "xpc_instrument.channel.hot", "xpc_instrument.channel.strangers"},
    {"xpc_instrument.channel.transport"},
    {"xpc_instrument.channel.lanes"},
    {"xpc_instrument.channel.peer", "xpc_instrument.channel.door"},
    {"xpc_instrument.channel.host", "xpc_instrument.channel.joiner"},
    # values, the config file, the runtime dir
    {"xpc_instrument.pickling", "xpc_instrument.toml"},
    {"xpc_instrument.config_rules"},
    {"xpc_instrument.config"},
    {"xpc_instrument.references", "xpc_instrument.discovery"},
    {"xpc_instrument.exceptions"},
    {"xpc_instrument.conversation", "xpc_instrument.batches"},
    {"xpc_instrument.registry"},
    {"xpc_instrument.manager"},
    # the agent
    {"xpc_agent.targets", "xpc_agent.dispatch", "xpc_agent.member", "xpc_agent.counters", "xpc_agent.interrupts", "xpc_agent.logs"},
    {"xpc_agent.gate", "xpc_agent.reports"},
    {"xpc_agent.imports"},
    {"xpc_agent.patching.interface"},
    {"xpc_agent.patching.code_swap", "xpc_agent.patching.wrapper"},
    {"xpc_agent.patching.choice"},
    {"xpc_agent.patching"},
    {"xpc_agent.remote", "xpc_agent.events"},
    {"xpc_agent.sender", "xpc_agent.points"},
    {"xpc_agent.unwaited"},
    {"xpc_agent.probes"},
    {"xpc_agent.lifecycle"},
    {"xpc_agent"},
    {"xpc_agent.autostart"},
    {"xpc_agent.bootstrap.sitecustomize"},
    # the probe script
    {"xpc_instrument.hooks", "xpc_instrument.async_hooks", "xpc_instrument.reporting"},
    {"xpc_instrument.members", "xpc_instrument.events", "xpc_instrument.following"},
    {"xpc_instrument.session"},
    # the command line
    {"xpc_instrument.cli.output", "xpc_instrument.cli.options"},
    {
        "xpc_instrument.cli.certificates",
        "xpc_instrument.cli.check",
        "xpc_instrument.cli.ls",
        "xpc_instrument.cli.ps",
        "xpc_instrument.cli.run",
    },
    {"xpc_instrument.cli"},
    {"xpc_instrument.cli.__main__"},
)

# Where the order alone would allow too much: (importer and all below it, imported and all below it).
APART = (
    ("xpc_instrument.channel", "xpc_instrument.modes"),
    ("xpc_instrument.config", "xpc_instrument.channel"),
    ("xpc_instrument.config_rules", "xpc_instrument.channel"),
    ("xpc_instrument.pickling", "xpc_instrument.channel.wire"),
    ("xpc_instrument.references", "xpc_instrument.channel.wire"),
    ("xpc_instrument.exceptions", "xpc_instrument.channel.wire"),
    ("xpc_instrument.hooks", "xpc_agent"),
    ("xpc_instrument.session", "xpc_agent"),
)

# What is not in the standard library, and who alone may import it.
THIRD_PARTY = {
    "wrapt": {"xpc_agent.patching.wrapper"},
    # Of the application's own, where it has loaded them.
    "gevent": {"xpc_instrument.channel.hubs"},
    "gevent.hub": {"xpc_instrument.channel.hubs"},
    "eventlet": {"xpc_instrument.channel.hubs"},
    "cloudpickle": {"xpc_instrument.pickling"},
    "tomli": {"xpc_instrument.toml"},
    "rich": {"xpc_instrument.cli.output"},
    "cryptography": {"xpc_instrument.cli.certificates"},
}

# In the standard library of a Python later than the oldest supported one.
NEWER = {"annotationlib", "tomllib"}


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
    """What a module imports at run time: full names, of modules where `modules` has them."""
    found = set()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in modules else base)
    return found - {"__future__"}


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        children: List[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _running(child)


def graph_of(modules: Dict[str, Path]) -> Graph:
    return {name: imports(path.read_text(encoding="utf-8"), name, path.stem == "__init__", modules) for name, path in modules.items()}


# judging it --------------------------------------------------------------------------------------------------------------


def steps_up(graph: Graph, levels: Levels) -> List[str]:
    """Every import that does not go down, and every module without a level."""
    level = {name: number for number, names in enumerate(levels) for name in names}
    wrong = [f"{name} has no level: add it to LEVELS" for name in sorted(graph) if name not in level]
    for name in sorted(set(graph) & set(level)):
        for imported in sorted(graph[name] & set(level)):
            if level[imported] >= level[name]:
                wrong.append(f"{name} imports {imported}, which is {'beside' if level[imported] == level[name] else 'above'} it")
    return wrong


def not_apart(graph: Graph, apart: Sequence[Tuple[str, str]]) -> List[str]:
    """Every import from one part of the project into another that it must not know."""
    return [
        f"{name} imports {imported}: {importer} must not know {other}"
        for importer, other in apart
        for name in sorted(graph)
        for imported in sorted(graph[name])
        if _within(name, importer) and _within(imported, other)
    ]


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


@pytest.mark.no_process
def test_the_graph_is_there() -> None:
    assert {"xpc_instrument.channel.codec", "xpc_agent.patching.wrapper"} <= set(GRAPH)
    assert "xpc_instrument.channel.messages" in GRAPH["xpc_instrument.channel.codec"]
    assert "wrapt" in GRAPH["xpc_agent.patching.wrapper"]


@pytest.mark.no_process
def test_imports_go_one_way() -> None:
    assert steps_up(GRAPH, LEVELS) == []


@pytest.mark.no_process
def test_parts_that_must_not_know_each_other_do_not() -> None:
    assert not_apart(GRAPH, APART) == []


@pytest.mark.no_process
@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names came with 3.10")
def test_each_dependency_has_one_importer_and_all_else_is_the_standard_library() -> None:
    assert strangers(GRAPH, THIRD_PARTY, {*sys.stdlib_module_names, *NEWER}) == []


@pytest.mark.no_process
@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"low": {"high"}}, ["low imports high, which is above it"]),
        ({"low": {"beside"}}, ["low imports beside, which is beside it"]),
        ({"low": {"low"}}, ["low imports low, which is beside it"]),
        ({"new": set()}, ["new has no level: add it to LEVELS"]),
        ({"high": {"low", "json"}, "low": {"json"}}, []),
        ({}, []),
    ],
)
def test_a_step_up_is_seen(graph: Graph, expected: List[str]) -> None:
    assert steps_up(graph, [{"low", "beside"}, {"high"}]) == expected


@pytest.mark.no_process
def test_a_forbidden_acquaintance_is_seen() -> None:
    graph = {"a.x": {"b.y"}, "ab": {"b.y"}, "b.y": {"a"}}
    assert not_apart(graph, [("a", "b")]) == ["a.x imports b.y: a must not know b"]


@pytest.mark.no_process
def test_a_stranger_is_seen() -> None:
    graph = {"xpc_agent.a": {"wrapt", "json", "xpc_agent.b"}, "xpc_agent.b": {"wrapt.importer", "numpy"}}
    assert strangers(graph, {"wrapt": {"xpc_agent.a"}}, {"json"}) == ["xpc_agent.b imports numpy", "xpc_agent.b imports wrapt.importer"]


@pytest.mark.no_process
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
        ("if TYPE_CHECKING:\n    import session\nelse:\n    import json", {"json"}),
        ("if typing.TYPE_CHECKING:\n    import session", set()),
        ("from __future__ import annotations", set()),
    ],
)
def test_imports_are_read_from_the_source(source: str, expected: Set[str]) -> None:
    assert imports(source, "top.package.module", False, {"top.package", "top.package.beside", "top.other"}) == expected


@pytest.mark.no_process
def test_a_package_counts_its_dots_from_itself() -> None:
    assert imports("from .inner import x\nfrom .. import y", "top.package", True, ()) == {"top.package.inner", "top"}


# the cost of importing ---------------------------------------------------------------------------------------------------

# Each costs an application's start-up milliseconds, or drags in what it did not ask for. `inspect`, `dataclasses` and `typing` are
# not here: the agent needs them, and most applications have loaded them anyway.
TOO_DEAR = (
    "argparse",
    "asyncio",
    "cloudpickle",
    "concurrent.futures",
    "ctypes",
    "email",
    "http",
    "importlib.metadata",
    "multiprocessing",
    "rich",
    "shutil",
    "ssl",
    "subprocess",
    "tempfile",
    "tomli",
    "tomllib",
    "unittest",
    "wrapt",
    "xpc_instrument.cli",
    "xpc_instrument.hooks",
    "xpc_instrument.session",
)

WAYS = {
    "import xpc_instrument": "import xpc_instrument",
    "import xpc_agent": "import xpc_agent",
    "an agent with a Python function hookable": """
import json  # a module with Python functions
from xpc_agent.lifecycle import start, stop
from xpc_instrument.config import from_probes
start(from_probes("cost", ["json:dumps"]))
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


@pytest.fixture(scope="module")
def loaded() -> Dict[str, Set[str]]:
    """What each way loads; asked once for all tests."""
    return {}


@pytest.mark.parametrize("module", TOO_DEAR)
@pytest.mark.parametrize("way", WAYS)
def test_what_costs_an_application_dearly_is_not_loaded(way: str, module: str, loaded: Dict[str, Set[str]]) -> None:
    if way not in loaded:
        loaded[way] = loaded_by(WAYS[way], "stop()" if "stop" in WAYS[way] else "")
    assert module not in loaded[way]


def test_the_library_itself_loads_nothing_of_ours() -> None:
    assert {name for name in loaded_by("import xpc_instrument") if name.startswith("xpc_")} == {"xpc_instrument"}


def test_what_is_loaded_is_seen() -> None:
    assert {"argparse", "xpc_instrument.errors"} <= loaded_by("import argparse, xpc_instrument.errors")
