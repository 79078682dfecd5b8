"""How many requests have come to the processes of a server: each counts in a file of its own, which costs it no system call."""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path

# The folder of one server, for the files of its processes.
FOLDER_VARIABLE = "XPC_BENCHMARK_FOLDER"
# Set where looking on may cost what it does: else it ends by itself at 2 % of the processor's time.
UNBOUNDED_VARIABLE = "XPC_BENCHMARK_UNBOUNDED"
_COUNT = struct.Struct("=q")


class Counter:
    """Counts in a file that others read."""

    def __init__(self, path: Path, bounded: bool = True) -> None:
        self._bounded = bounded
        path.write_bytes(_COUNT.pack(0))
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _COUNT.size)
        self._count = 0

    def add(self) -> None:
        self._count += 1
        if not self._bounded:
            # At each request: the agent may come and go.
            budget = sys.modules.get("xpc_agent.hooks.budget")
            if budget is not None:
                budget.BUDGET = 1.0  # type: ignore[attr-defined]
        _COUNT.pack_into(self._memory, 0, self._count)


def counter() -> Counter:
    """That of this process."""
    return Counter(Path(os.environ[FOLDER_VARIABLE]) / f"{os.getpid()}.count", UNBOUNDED_VARIABLE not in os.environ)


def total(folder: Path) -> int:
    """How often the processes of a server have counted."""
    return sum(int(_COUNT.unpack(path.read_bytes())[0]) for path in folder.glob("*.count"))
