"""What the agent imports of the standard library, and which files of an application stand in the way of it.

Rules:
- An import of the agent's must not run a file of the application that it has not imported itself, such as its own `selectors.py`; nor may
  the standard library's module take its place for the application. So there the agent stays out.
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
