"""From a line of a file to the code objects that have a statement there. Nothing is imported, and no code of the application runs.

Rules:
- The file is one of a module that is imported, named by any end of its path; two files with the same end are refused.
- The code is that of functions that are alive: those that the module and its classes hold, what they wrap, and, where the line is in none
  of them, all others that have the module's globals, which takes one look through all objects (some 10 ms for a million). What lies inside
  of a function is found in the constants of its code, whether it has been made or not.
- A lambda is meant where no statement of what is around it begins on the line.
- The code of a module, and of a class in it, runs once, when it is imported: there is nothing to put a probe on any more.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Set, Tuple

from xpc_instrument.core.model.errors import TargetError
from xpc_instrument.core.model.target import split_line
from xpc_instrument.core.model.words import counted, nearest_few

from .flags import CO_OPTIMIZED
from .module import find_module, is_initializing
from .raw import function_in, is_a, namespace_of
from .running import own_folders

# Places that an error names.
_NAMED = 5
_OWN = ("xpc_agent", "xpc_instrument")


class Root(NamedTuple):
    """A code object that lies in no other one, and the functions that are known to have it."""

    code: CodeType
    functions: List[FunctionType]
    module: str
    name: str
    """The qualified name of the function, or of the one around it."""


class FoundLine(NamedTuple):
    """Where a line is: `codes` lie in `roots`, at any depth; `functions` are known ones that have one of all these codes."""

    file: str
    line: int
    roots: List[Root]
    codes: List[CodeType]
    functions: List[FunctionType]


Starts = Callable[[CodeType], Mapping[int, Any]]


def find_line(target: str, plain: Callable[[FunctionType], CodeType], starts: Starts, has_run: str = "") -> FoundLine:
    """Raises `TargetError` with what there is.

    `plain` gives the code that a function has when it is not armed, `starts` the lines on which statements of a code object begin;
    `has_run` names a module that has, though its import has not returned.
    """
    path, line = split_line(target)
    file, modules = _modules_of(target, path, has_run)
    roots: Dict[int, Root] = {}
    for whole in (False, True):
        for name, namespace in modules:
            for function in all_functions(namespace) if whole else _functions_in(name, namespace):
                _add_root(roots, function, plain(function), name, namespace, file)
        found = _on_line(_outermost(roots), line, starts)
        if found:
            outer = {id(root.code): root for root, _ in found}
            inside = {id(code) for root in outer.values() for code in nested(root.code)}
            functions = [function for key, root in roots.items() if key in inside for function in root.functions]
            return FoundLine(file, line, list(outer.values()), [code for _, code in found], functions)
    raise TargetError(f"{target}: {_why_not(file, line, _outermost(roots), starts)}")


def module_to_come(target: str) -> str:
    """The name of the module that will have the file when it is imported, if there is one on Python's path; "" if none can be known."""
    path, _ = split_line(target)
    if any(ends_with(file, path) for file in _files()):
        return ""
    # The innermost folder is the likeliest, of which the name is the shortest.
    names = [_name_in(entry, path) for entry in [*sys.path, *own_folders()] if type(entry) is str]
    return min(filter(None, names), key=len, default="")


def _name_in(entry: str, path: str) -> str:
    """The name of the module of a file in an entry of Python's path; "" if it has none there."""
    if os.path.isabs(path):
        folder, path = os.path.realpath(entry), os.path.realpath(path)
        if not path.startswith(os.path.join(folder, "")):
            return ""
        path = os.path.relpath(path, folder).replace(os.sep, "/")
    if not os.path.isfile(os.path.join(entry, path)):
        return ""
    parts = path[: -len(".py")].split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) if all(map(str.isidentifier, parts)) else ""


# files -------------------------------------------------------------------------------------------------------------------

Modules = List[Tuple[str, Mapping[Any, Any]]]


def _files() -> Iterator[str]:
    """Those of the modules that are imported."""
    for name in list(sys.modules):
        module = find_module(name)
        file = None if module is None else namespace_of(module).get("__file__")
        if type(file) is str:
            yield file


def _modules_of(target: str, path: str, has_run: str) -> Tuple[str, Modules]:
    files: Dict[str, Modules] = {}
    others: Set[str] = set()
    for name in list(sys.modules):
        if name.partition(".")[0] in _OWN:
            continue
        module = find_module(name)
        namespace = {} if module is None else namespace_of(module)
        file = namespace.get("__file__")
        if type(file) is not str:
            continue
        file = file[:-1] if file.endswith(".pyc") else file
        if ends_with(file, path):
            if is_initializing(module) and name not in ("__main__", has_run):
                continue
            files.setdefault(os.path.realpath(file), []).append((name, namespace))
        else:
            others.add(file)
    if len(files) == 1:
        return next(iter(files.items()))
    if files:
        shown = sorted(files)
        more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
        raise TargetError(f"{target} is in {len(files)} files that are imported: {', '.join(shown[:_NAMED])}{more}; name more of the path")
    raise TargetError(f"{target}: no module that is imported is of a file whose path ends so{_nearest_file(path, others)}")


def ends_with(file: str, path: str) -> bool:
    """Whether a path ends with another, by whole names."""
    whole = file.replace("\\", "/")
    if whole == path or whole.endswith(f"/{path}"):
        return True
    same_name = whole.rpartition("/")[2] == path.rpartition("/")[2]
    return same_name and os.path.isabs(path) and os.path.realpath(file) == os.path.realpath(path)


def _nearest_file(path: str, files: Set[str]) -> str:
    depth = path.count("/") + 1
    ends = sorted({"/".join(file.replace("\\", "/").split("/")[-depth:]) for file in files})
    near = nearest_few(path, ends, cutoff=0.7)
    return f"; the nearest are {', '.join(near)}" if near else ""


# functions ---------------------------------------------------------------------------------------------------------------


def all_functions(namespace: Mapping[Any, Any]) -> Iterator[FunctionType]:
    """All functions that are alive and have these globals."""
    for one in gc.get_referrers(namespace):
        # While the code of a module or of a class runs, there is an object of this type for it too: from Python 3.11 on for modules.
        if type(one) is FunctionType and one.__code__.co_flags & CO_OPTIMIZED:
            yield one


def _functions_in(module: str, namespace: Mapping[Any, Any]) -> Iterator[FunctionType]:
    """Those that a module and its classes hold, and what these wrap."""
    waiting: List[Any] = list(namespace.values())
    seen: Set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) is FunctionType:
            yield value
            waiting += [cell.cell_contents for cell in value.__closure__ or () if _holds_callable(cell)]
            waiting += [wrapped for name, wrapped in list(value.__dict__.items()) if name == "__wrapped__"]
        elif is_a(value, type):
            own = namespace_of(value)
            if own.get("__module__") == module:
                waiting += list(own.values())
        elif is_a(value, staticmethod, classmethod):
            waiting.append(function_in(value))
        elif is_a(value, property):
            waiting += [property.__dict__[part].__get__(value) for part in ("fget", "fset", "fdel")]


def _holds_callable(cell: Any) -> bool:
    try:
        return is_a(cell.cell_contents, FunctionType, staticmethod, classmethod, property, type)
    except ValueError:
        return False  # empty


def _add_root(roots: Dict[int, Root], function: FunctionType, code: CodeType, module: str, namespace: Mapping[Any, Any], file: str) -> None:
    if function.__globals__ is not namespace or os.path.basename(code.co_filename) != os.path.basename(file):
        return
    root = roots.get(id(code))
    if root is None:
        root = roots[id(code)] = Root(code, [], module, _name_of(function, code))
    if not any(one is function for one in root.functions):
        root.functions.append(function)


def _name_of(function: FunctionType, code: CodeType) -> str:
    """The qualified name of the outermost function around a function, as the compiler gave it where that is known."""
    name = str(getattr(code, "co_qualname", None) or function.__qualname__)
    if name.rpartition(".")[2] != code.co_name:
        name = code.co_name  # a wrapper that goes by the name of what it wraps
    return name.partition(".<locals>")[0]


# lines -------------------------------------------------------------------------------------------------------------------


def nested(code: CodeType) -> Iterator[CodeType]:
    """The code objects in a code object, itself first."""
    yield code
    for const in code.co_consts:
        if type(const) is CodeType:
            yield from nested(const)


def _outermost(roots: Dict[int, Root]) -> List[Root]:
    """Those that lie in no other."""
    inner = {id(code) for root in roots.values() for code in list(nested(root.code))[1:]}
    return [root for key, root in roots.items() if key not in inner]


def _lines_of(code: Any) -> Set[int]:
    if sys.version_info >= (3, 10):
        return {line for _, _, line in code.co_lines() if line}
    lines, line = {code.co_firstlineno}, code.co_firstlineno
    for more in code.co_lnotab[1::2]:
        line += more - 256 if more >= 128 else more
        lines.add(line)
    return lines


def _on_line(roots: List[Root], line: int, starts: Starts) -> List[Tuple[Root, CodeType]]:
    found = [(root, code) for root in roots for code in nested(root.code) if line in _lines_of(code) and line in starts(code)]
    named = [one for one in found if one[1].co_name != "<lambda>"]
    return named or found


def _why_not(file: str, line: int, roots: List[Root], starts: Starts) -> str:
    codes = [code for root in roots for code in nested(root.code)]
    lines = sorted({one for code in codes for one in _lines_of(code)})
    near: List[int] = []
    for side in ([one for one in reversed(lines) if one < line], [one for one in lines if one > line]):
        begins = (one for one in side if any(one in _lines_of(code) and one in starts(code) for code in codes))
        near += itertools.islice(begins, 1)
    remedy = f"; the nearest with one: {' and '.join(map(str, near))}" if near else ""
    if not codes:
        remedy = "; no function of it is alive"
    elif not near:
        remedy = f"; none of its {counted(len(roots), 'function')} has a line"
    if _is_in_no_function(file, line):
        return f"that is code of the module itself or of a class, which has run when it was imported: only functions run again{remedy}"
    return f"no statement begins on line {line} of {os.path.basename(file)}{remedy}"


def _is_in_no_function(file: str, line: int) -> bool:
    """Whether the text of the file says that the line has code of the module or of a class; it may have changed, so this explains only."""
    try:
        with open(file, encoding="utf-8", errors="replace") as source:
            lines = list(itertools.islice(source, line))
    except OSError:
        return False
    text = lines[line - 1].strip() if len(lines) == line else ""
    if not text or text.startswith("#"):
        return False
    depth = _indented(lines[-1])
    for before in reversed(lines[:-1]):
        if before.strip() and _indented(before) < depth:
            if before.lstrip().startswith(("def ", "async def ")):
                return False
            depth = _indented(before)
    return True


def _indented(text: str) -> int:
    return len(text) - len(text.lstrip())
