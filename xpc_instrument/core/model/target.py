"""The syntax of targets, `package.module:Qualified.name` or `path/file.py:24`: what is wrong with one, globs, and a mode in front of one.

Rules:
- In a config, `*` stands anywhere but in the first part of the module, and matches dots too. An `exclude` may have `?` and `[...]` as well.
- What ends in a number is a line, `shop/checkout.py:24`: the file by any end of its path that no other file has.
- A glob leaves out special methods, `__init__` and its like, unless its own last part begins with `__`.
"""

from __future__ import annotations

import enum
import fnmatch
import posixpath
import re
from typing import Iterable, Optional, Sequence, Tuple

from .errors import TargetError
from .words import did_you_mean, quoted


class Mode(str, enum.Enum):
    """When a hook is called, relative to the original."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"
    INSTEAD = "instead"

    def __str__(self) -> str:
        return self.value


MODES = {mode.value: mode for mode in Mode}


def is_target(name: str) -> bool:
    """Whether a registry name means a probe point: `module:Qualified.name`, with or without a mode in front."""
    return ":" in name


def is_line(target: str) -> bool:
    """Whether a target is a line of a file and no function."""
    file, colon, line = target.rpartition(":")
    return bool(colon and file) and line.isascii() and line.isdigit()


def line_mistake(targets: Sequence[str]) -> str:
    """What is wrong with targets of which one is meant to be a line, in words; "" if nothing is, or none is meant so."""
    for target in targets:
        file, _, line = target.rpartition(":")
        if is_line(target):
            if len(targets) > 1:
                return f"{target}: a line is named alone, without other targets"
        elif file.endswith(".py"):
            return f"{target!r:.200}: expected a line behind the file, such as {file[-100:]}:24, and {quoted(line)} is no number of one"
        elif target.endswith(".py"):
            return f"{target!r:.200}: expected a line behind the file, such as {target[-100:]}:24"
    return ""


def split_line(target: str) -> Tuple[str, int]:
    """(the end of the path of a file without `.` and `..`, line) of a target that is a line. Raises `TargetError`."""
    file, _, line = target.rpartition(":")
    path = posixpath.normpath(file.replace("\\", "/"))
    if path.startswith("../"):
        raise TargetError(f"{target!r:.200}: the application has another working directory; expected an absolute path, or any end of it")
    if not path.isprintable() or file.endswith("/") or not path.endswith(".py"):
        raise TargetError(f"{target!r:.200}: expected a file and a line as tracebacks have them, such as shop/checkout.py:24")
    if not 0 < int(line[:9]) < 10**8:
        raise TargetError(f"{target!r:.200}: lines count from 1")
    return path, int(line[:9])


def split_name(name: str) -> Tuple[Mode, str]:
    """The (mode, target) that a registry name means; a bare target means `instead`."""
    prefix, colon, rest = name.partition(":")
    if colon and ":" in rest and prefix in MODES:
        return MODES[prefix], rest
    return Mode.INSTEAD, name


def join_name(mode: Mode, target: str) -> str:
    """The registry name of a hook in `mode` on `target`; the inverse of `split_name`."""
    return f"{mode.value}:{target}"


def is_selection(target: str) -> bool:
    """Whether the target of a registration stands for several: it is a pattern, or several with commas between."""
    return "*" in target or "," in target


def parts_of(target: str) -> Sequence[str]:
    """The targets and patterns of a registration."""
    return target.split(",")


TARGET_FORM = '"package.module:Qualified.name"'


def target_mistake(target: str) -> Optional[str]:
    """What is wrong with a target, in words, with the nearest valid one; None if nothing is."""
    problem = _target_problem(target)
    if problem is None:
        return None
    candidates = ["".join(target.split())]
    mode, _, rest = target.partition(":")
    if mode in MODES:
        candidates.append(rest)
    path = re.sub(r"\.py(?=:|$)", "", candidates[0]).replace("/", ".").strip(".")
    candidates.append(path)
    if ":" not in path:
        parts = path.split(".")
        # A class, by the usual spelling, is where the module ends; without one only the last part is the name.
        cut = next((n for n, part in enumerate(parts) if n and part[:1].isupper()), len(parts) - 1)
        candidates.append(f"{'.'.join(parts[:cut])}:{'.'.join(parts[cut:])}")
    hint = next((c for c in candidates if c != target and _target_problem(c) is None), None)
    return f"{problem}; expected {TARGET_FORM}{did_you_mean(hint and quoted(hint))}"


def _target_problem(target: str) -> Optional[str]:
    if not target.isprintable() or " " in target:
        return "there is white space or a control character in it"
    if ":" not in target:
        return "there is no ':' between the module and the name in it"
    module, _, name = target.partition(":")
    if ":" in name and module in MODES:
        return "a mode stands in front, for which there is the key allow"
    if ":" in name:
        return "there are several ':' in it"
    if not module or not name:
        return f"the {'name' if module else 'module'} is missing"
    if "<" in name:
        return "functions inside of functions and lambdas have no name by which they can be reached"
    if "*" in module.split(".")[0]:
        return "a glob in the first part of the module is too wide, it matches everything that Python imports"
    for part in (*module.split("."), *name.split(".")):
        if not part.replace("*", "_").isidentifier():
            return f"{quoted(part)} is no identifier" if part else "there is an empty part next to a '.'"
    return None


def is_glob(target: str) -> bool:
    """Whether a target of the config stands for several."""
    return any(sign in target for sign in "*?[")


def split_target(target: str) -> Tuple[str, str]:
    """(module, qualified name). Raises `TargetError`."""
    module, colon, name = target.partition(":")
    if not colon or not module or not name or ":" in name:
        raise TargetError(f"target {target!r}: expected package.module:Qualified.name")
    return module, name


def module_matches(pattern: str, module: str) -> bool:
    """Whether the module part of a target, maybe a glob, stands for that module."""
    return fnmatch.fnmatchcase(module, split_target(pattern)[0])


def matches(pattern: str, exclude: Iterable[str], target: str) -> bool:
    """Whether a target of the config, maybe a glob, stands for this one."""
    if not fnmatch.fnmatchcase(target, pattern):
        return False
    name = split_target(target)[1]
    last = name.rpartition(".")[2]
    if is_glob(pattern) and last.startswith("__") and last.endswith("__"):
        wanted = split_target(pattern)[1].rpartition(".")[2]
        if not wanted.startswith("__"):
            return False
    return not is_excluded(target, exclude)


def is_excluded(target: str, exclude: Iterable[str]) -> bool:
    """Whether one of these globs takes a target out: by its whole text, or by its qualified name."""
    name = split_target(target)[1]
    return any(fnmatch.fnmatchcase(target, one) or fnmatch.fnmatchcase(name, one) for one in exclude)
