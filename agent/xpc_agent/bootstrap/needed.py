"""What the agent imports of the standard library, which files of an application stand in the way of it, and what comes first of it.

Rules:
- An import of the agent's must not run a file of the application that it has not imported itself, such as its own `selectors.py`; nor may
  the standard library's module take its place for the application. So there the agent stays out.
- What others look up in `sys.modules` without importing it is imported before all else, so that nobody finds the half of it.
- It is run as text before anything is imported, by the stand-in and in a process that is attached to. Builtins only.
"""

import os
import sys

# The packages that the agent imports, now or later, of any version of Python; those that begin with `_` as well.
# fmt: off
NEEDED = frozenset((
    "abc", "annotationlib", "array", "ast", "asyncio", "atexit", "base64", "binascii", "bisect", "builtins", "bz2", "calendar",
    "codecs", "collections", "compression", "concurrent", "configparser", "contextlib", "contextvars", "copy",
    "copyreg", "csv", "dataclasses", "datetime", "difflib", "dis", "email", "encodings", "enum", "errno", "fcntl", "fnmatch", "functools",
    "gc", "genericpath", "glob", "grp", "hashlib", "heapq", "hmac", "importlib", "inspect", "io", "ipaddress", "itertools", "json",
    "keyword", "linecache", "locale", "logging", "lzma", "marshal", "math", "mmap", "ntpath", "opcode", "operator", "os",
    "pathlib", "pickle", "pickletools", "pkgutil", "platform", "posix", "posixpath", "pwd", "quopri", "random", "re", "reprlib", "resource",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "sre_compile", "sre_constants", "sre_parse", "ssl", "stat",
    "string", "struct", "subprocess", "sys", "tempfile", "termios", "textwrap", "threading", "time", "token", "tokenize", "traceback",
    "types", "typing", "urllib", "uu", "uuid", "warnings", "weakref", "zipfile", "zipimport", "zlib",
))
# fmt: on
# What the standard library itself looks up without importing it, as `dataclasses` does with `typing` for each class.
_LOOKED_UP = ("functools", "typing")
# For how many milliseconds at most somebody waits for what he has looked up. Running it takes a few; it may wait for him.
_PATIENCE = 1000
# And of others.
_OF_OTHERS = ("cloudpickle", "wrapt")


def is_needed(module: str) -> bool:
    """Whether the agent imports the module's package, now or later."""
    top = module.partition(".")[0]
    return top in NEEDED or top in _OF_OTHERS or (top.startswith("_") and top != "__main__")


def in_the_way():  # type: ignore[no-untyped-def]
    """The file that Python would import, or has imported, in place of a module that the agent needs; "" if there is none."""
    own = os.path.dirname(os.__file__)
    if own not in sys.path:
        return ""  # frozen or embedded: what comes first is not known
    find = sys.modules["_frozen_importlib_external"].PathFinder.find_spec
    before = sys.path[: sys.path.index(own)]
    for name in NEEDED.difference(sys.builtin_module_names):
        for folder in before:
            spec = find(name, [folder])
            if spec is None or spec.loader is None:
                continue  # a folder without a file is no package yet
            module = sys.modules.get(name)
            if module is None or getattr(module, "__file__", None) == spec.origin:
                return spec.origin
            break
    return ""


def is_pythons_own(finder: object) -> bool:
    """Whether a finder is one of those that Python begins with."""
    return type(finder) is type and finder.__module__ in ("_frozen_importlib", "_frozen_importlib_external")


def take_finder(finder: object) -> None:
    """Take a finder out. Others may equal it, and put theirs in meanwhile: no `remove`, and no list in place of the one that is there."""
    for index, one in enumerate(sys.meta_path):
        if one is finder:
            del sys.meta_path[index]
            return


class _Waited:
    """Loads one module; whoever has looked it up while another thread runs it waits for the names that it does not have yet."""

    def __init__(self, name, get_ident, sleep):  # type: ignore[no-untyped-def]
        self._name = name
        self._get_ident = get_ident
        self._sleep = sleep
        self.spec = sys.modules["_frozen_importlib_external"].PathFinder.find_spec(name)
        if self.spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        self._loader = self.spec.loader
        self.spec.loader = self

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return self._loader.create_module(spec)

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        module.__spec__.loader = module.__loader__ = self._loader
        names, thread = module.__dict__, self._get_ident()
        has_run: "list[bool]" = []

        def wait(name):  # type: ignore[no-untyped-def]
            tries = _PATIENCE if self._get_ident() != thread else 0
            while tries and not has_run:
                self._sleep(0.001)
                tries -= 1
            if name in names:
                return names[name]
            raise AttributeError(f"module {self._name!r} has no attribute {name!r}")

        names["__getattr__"] = wait
        try:
            self._loader.exec_module(module)
        finally:
            has_run.append(True)
            if names.get("__getattr__") is wait:
                del names["__getattr__"]


def import_looked_up(get_ident, sleep):  # type: ignore[no-untyped-def]
    """Import what others look up; the functions are those that gevent and eventlet have not patched.

    No finder is put up for it: where one is taken away while another thread goes through them, that thread misses the next.
    """
    frozen = sys.modules["_frozen_importlib"]
    for name in _LOOKED_UP:
        with frozen._ModuleLockManager(name):
            if name not in sys.modules:
                frozen._load_unlocked(_Waited(name, get_ident, sleep).spec)  # type: ignore[no-untyped-call]
