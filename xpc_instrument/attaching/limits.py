"""What a process may still use of what the agent needs: its own limits, and those of its container.

Rules:
- Only files of the kernel are read. What cannot be read, as it is hidden or lies elsewhere, is taken to be enough.
- A process at the limit of its container's memory is ended by the kernel for the next page of anybody in it: so there the agent stays out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional

# The agent opens seven while it starts, and five for each session.
_DESCRIPTORS = 12
# Its threads' stacks and its modules, in bytes of address space.
_SPACE = 64 << 20
# What tells of the process in its runtime dir, in bytes at most.
_FILE = 16 << 10
# What the agent takes of memory where nothing of the standard library is loaded, is 15 MB; hooks and their values take more.
_MEMORY = 24 << 20
# Threads: the one that attaches, and three of the agent's.
_THREADS = 4
_CGROUPS = Path("/sys/fs/cgroup")


class Shortage(NamedTuple):
    """What there is too little of, and how there can be more."""

    text: str
    remedy: str


def shortages(pid: int, cgroups: Path = _CGROUPS) -> List[Shortage]:
    """What there is too little of for the agent in a process."""
    return [*_of_process(pid), *_of_container(pid, cgroups)]


def _of_process(pid: int) -> Iterator[Shortage]:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        used = len(os.listdir(f"/proc/{pid}/fd"))
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return  # hidden
    files, space, longest = (_limit(lines, name) for name in ("Max open files", "Max address space", "Max file size"))
    if files - used < _DESCRIPTORS:
        raised = f"prlimit --pid {pid} --nofile={files + 100}:"
        yield Shortage(f"it has {used} descriptors open, and may have {files}", f"let it have more: {raised}")
    if space - size < _SPACE:
        text = f"it has {size >> 20} MiB of address space, and may have {space >> 20}; the agent takes {_SPACE >> 20}"
        yield Shortage(text, f"let it have more: prlimit --pid {pid} --as={size + 2 * _SPACE}:")
    if longest < _FILE:
        text = f"it may write files of {longest} bytes at most (RLIMIT_FSIZE), and the agent writes one that tells of it"
        yield Shortage(text, f"let it write larger ones: prlimit --pid {pid} --fsize={_FILE}:")


def _limit(lines: List[str], name: str) -> int:
    words = next((line[len(name) :].split() for line in lines if line.startswith(name)), ["unlimited"])
    return int(words[0]) if words[0].isdigit() else sys.maxsize


# containers --------------------------------------------------------------------------------------------------------------


def _of_container(pid: int, cgroups: Path) -> Iterator[Shortage]:
    for folder in _groups(pid, cgroups, "memory"):
        most = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if most is None or used is None:
            continue
        # What is kept of files is given up before anything else.
        stat = _fields(folder / "memory.stat")
        used -= sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))
        if most - used < _MEMORY:
            text = f"its container ({folder}) uses {used >> 20} MiB of memory, and may use {most >> 20}; the agent takes {_MEMORY >> 20}"
            yield Shortage(text, "let it use more, or what it does may be ended by the kernel")
            break
    for folder in _groups(pid, cgroups, "pids"):
        most, used = _number(folder / "pids.max"), _number(folder / "pids.current")
        if most is not None and used is not None and most - used < _THREADS:
            text = f"its container ({folder}) has {used} threads and processes, and may have {most}; the agent starts up to {_THREADS}"
            yield Shortage(text, "let it have more (pids.max; docker run --pids-limit)")
            break


def _groups(pid: int, cgroups: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that a process is in, from its own upwards: each may have a limit."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = cgroups / controller if names else cgroups
        folder = root / path.lstrip("/")
        # Seen from inside of a container, what is above is not there.
        while folder != root.parent and ".." not in folder.parts:
            if folder.is_dir():
                yield folder
            folder = folder.parent


def _number(*paths: Path) -> Optional[int]:
    for path in paths:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def _fields(path: Path) -> Dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in (line.split() for line in lines) if len(words) == 2 and words[1].isdigit()}
