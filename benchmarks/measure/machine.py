"""What a run was made on: the machine, the interpreter, and the versions of what was measured beside each other."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Dict, Optional

# What stands in the tables, or under what does; each is named only where it is installed.
PACKAGES = (
    "wrapt",
    "cloudpickle",
    "numpy",
    "rpyc",
    "Pyro5",
    "execnet",
    "pyzmq",
    "flask",
    "gunicorn",
    "fastapi",
    "uvicorn",
    "pyperf",
    "matplotlib",
)

# Two runs whose machines differ in one of these are not compared without a word.
DECISIVE = ("processor", "processors", "memory", "python")


def describe() -> Dict[str, str]:
    """The machine, by what a reader would ask for. What cannot be found out is left out."""
    found = {
        "processor": _field("/proc/cpuinfo", r"model name\s*:\s*(.+)") or platform.processor() or platform.machine(),
        "processors": str(_processors()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
    }
    return {name: value for name, value in found.items() if value}


def packages() -> Dict[str, str]:
    """The versions of those of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    kilobytes = _field("/proc/meminfo", r"MemTotal:\s*(\d+) kB")
    if kilobytes is None and sys.platform == "darwin":
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"
    return "" if kilobytes is None else f"{int(kilobytes) * 1024 / 1e9:.1f} GB"


def _field(path: str, pattern: str) -> Optional[str]:
    """The first group of the first line of a file that matches; None if there is no such file or line."""
    try:
        text = Path(path).read_text()
    except OSError:
        return None
    match = re.search("^" + pattern, text, re.MULTILINE)
    return match[1].strip() if match else None
