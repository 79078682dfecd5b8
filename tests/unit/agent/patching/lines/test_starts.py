"""Where statements begin, held against the syntax tree of the standard library."""

from __future__ import annotations

import ast
import importlib
import textwrap
import types
from typing import Any, Dict, Iterator, List, Set, Tuple

import pytest

from xpc_agent.patching.lines.starts import Body

pytestmark = pytest.mark.version

MODULES = (
    "argparse",
    "asyncio.tasks",
    "configparser",
    "contextlib",
    "dataclasses",
    "difflib",
    "json.decoder",
    "tarfile",
    "traceback",
    "zipfile",
)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes(const)


def first_line(node: ast.AST) -> int:
    return min(one.lineno for one in ast.walk(node) if hasattr(one, "lineno"))


def expected(tree: ast.AST) -> Tuple[Set[int], Set[int]]:
    """The lines of functions on which a statement must begin, and those on which a clause may."""
    must: Set[int] = set()
    may: Set[int] = set()
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in (one for statement in function.body for one in ast.walk(statement)):
                may |= clauses(node)
                if isinstance(node, (ast.Assign, ast.AugAssign, ast.Raise, ast.Return, ast.Expr)):
                    value: Any = getattr(node, "value", None) or getattr(node, "exc", None)
                    if value is None or (value.lineno == node.lineno and not isinstance(value, ast.Constant)):
                        must.add(node.lineno)
    return must, may


def clauses(node: Any) -> Set[int]:
    parts: List[ast.AST] = []
    if isinstance(node, ast.BoolOp):
        parts = list(node.values)
    elif isinstance(node, ast.IfExp):
        parts = [node.test, node.body, node.orelse]
    elif isinstance(node, (ast.If, ast.While, ast.Assert)):
        parts = [node.test]
    elif isinstance(node, ast.Return) and node.value:
        parts = [node.value]
    elif isinstance(node, ast.Compare):
        parts = list(node.comparators)
    elif isinstance(node, ast.withitem):
        parts = [node.context_expr]
    elif type(node).__name__ == "match_case":
        parts = [node.pattern]
    own = {node.lineno} if isinstance(node, (ast.stmt, ast.excepthandler)) else set()
    return own | {first_line(part) for part in parts} | {one.lineno for one in getattr(node, "decorator_list", ())}


@pytest.mark.parametrize("module", MODULES)
def test_statements_begin_where_the_syntax_tree_has_them(module: str) -> None:
    path = importlib.import_module(module).__file__
    assert path is not None
    with open(path, encoding="utf-8") as file:
        source = file.read()
    code = compile(source, path, "exec", dont_inherit=True)
    functions = [one for one in codes(code) if one.co_flags & 1 and one.co_name != "<lambda>"]
    found = {line for one in functions for line in Body(one).starts}
    must, may = expected(ast.parse(source))
    # Names in classes inside of functions, what is known when it is compiled, `for` and `with` over several lines.
    assert len(must - found) <= len(must) // 250
    assert len(found - may) <= 2 + len(found) // 200


FUNCTION = """
def function(a, b):
    with a as c, \\
            b as d:             # 3
        d(c)                    # 4
    for one in a:               # 5
        if one and (            # 6
            b
        ):
            continue            # 9
        elif b:                 # 10
            break               # 11
    else:
        a = b                   # 13
    while a:                    # 14
        a = [                   # 15
            one
            for one in b
        ]
    try:
        a()                     # 20
    except ValueError:          # 21
        return b or (           # 22
            a(
                b))
    finally:
        b()                     # 26
    a(lambda:
        b)
    return "%s of %s" % (       # 29
        a,
        b)
"""
AT_WHICH = {3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 10: 1, 13: 1, 14: None, 15: 1, 20: 1, 21: 1, 22: 1, 26: None, 27: 1, 29: 1}


def test_each_statement_and_clause_begins_once() -> None:
    namespace: Dict[str, Any] = {}
    exec(compile(textwrap.dedent(FUNCTION).lstrip(), "<test>", "exec"), namespace)
    starts = {line + 1: len(places) for line, places in Body(namespace["function"].__code__).starts.items()}
    # Copies of a `finally`, and of a test at the end of a loop.
    for line, times in AT_WHICH.items():
        assert starts.get(line + 1) == times or (times is None and starts.get(line + 1, 0) >= 1), (line, starts)
    assert not starts.keys() & {line + 1 for line in (8, 12, 16, 17, 18, 23, 24, 25, 28, 30, 31)}
