"""Modules that have as many functions as one asks for, as the files that an application would import."""

from __future__ import annotations

import py_compile
from pathlib import Path

NAME = "catalogue"


def write(folder: Path, count: int) -> None:
    """Write the module `catalogue` with `count` functions into a folder, compiled as at any start but the first."""
    lines = ["from __future__ import annotations"]
    for number in range(count):
        lines += ["", "", f'def {function(number)}(amount: int, currency: str = "EUR") -> int:', f"    return amount + {number}"]
    path = folder / f"{NAME}.py"
    path.write_text("\n".join(lines) + "\n")
    py_compile.compile(str(path), doraise=True)


def function(number: int) -> str:
    """The name of the function with that number."""
    return f"price_{number}"


def probes(first: int, last: int) -> str:
    """Sections of a config file that name these functions one by one."""
    return "".join(f'[[probe]]\ntarget = "{NAME}:{function(number)}"\n' for number in range(first, last))


def all_probes() -> str:
    """A section of a config file that names all functions of the module at once."""
    return f'[[probe]]\ntarget = "{NAME}:*"\n'
